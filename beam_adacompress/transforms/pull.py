"""Messages of Pub/Sub for runners that have no reader of their own, taken off the subscription when they are done.

    pull ─▶ message ─▶ ... ─▶ image written ─▶ end of the bundle ─▶ acknowledge

A bundle is what a runner does or repeats as a whole. Messages are acknowledged in its finalisation, which follows when
everything in it has been done: what stands behind the reader in one fused stage, so up to the first shuffle. If a
worker dies or writing raises, nothing is acknowledged, and Pub/Sub delivers the messages again.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Iterator
from typing import Any, Optional

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import WalltimeWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

_LOGGER = logging.getLogger(__name__)

MESSAGES = 32  # in a bundle at most
PULL_SECONDS = 2.0  # that a bundle waits for messages
LEASE = 600  # seconds, the most that Pub/Sub grants

_ENDLESS = OffsetRange(0, 2**62)  # pulls


@dataclasses.dataclass
class PullMessages(beam.PTransform):
    """Gives the messages of a subscription, and acknowledges them when their bundle is done.

    One reader pulls at a time. Rows have the time of publishing, and the watermark is the time of day.

    Args:
      subscription: `projects/PROJECT/subscriptions/NAME`.
      stop_after: seconds after which there is no further pull; None for never.
      lease: seconds for which Pub/Sub waits for a bundle, before it delivers its messages again; 10..600.

    Raises:
      ValueError: an argument is out of range.
    """

    subscription: str
    stop_after: Optional[float] = None
    lease: int = LEASE

    def __post_init__(self) -> None:
        super().__init__()
        if self.stop_after is not None and not self.stop_after > 0:
            raise ValueError(f"stop_after must be above 0 seconds, got {self.stop_after}")
        if not 10 <= self.lease <= LEASE:
            raise ValueError(f"lease must be from 10 to {LEASE} seconds, got {self.lease}")

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[PubsubMessage]:
        return (
            pbegin
            | "Subscription" >> beam.Create([self.subscription])
            | "Start" >> beam.Map(_with_time).with_output_types(tuple[str, float])
            | "Pull" >> beam.ParDo(_Pull(self.stop_after, self.lease)).with_output_types(PubsubMessage)
        )


def _with_time(subscription: str) -> tuple[str, float]:
    return subscription, time.time()


class _Pulls(RestrictionProvider):
    """The pulls that are still to come."""

    def initial_restriction(self, element: Any) -> OffsetRange:
        return _ENDLESS

    def create_tracker(self, restriction: OffsetRange) -> _Endless:
        return _Endless(restriction)

    def restriction_size(self, element: Any, restriction: OffsetRange) -> int:
        return 1


class _Endless(OffsetRestrictionTracker):
    """Is only split where a pull ends: the rest is what follows."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        return super().try_split(fraction_of_remainder) if fraction_of_remainder == 0 else None

    def is_bounded(self) -> bool:
        return False


_TRACKER = beam.DoFn.RestrictionParam(_Pulls())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam(WalltimeWatermarkEstimator.default_provider())


class _Pull(beam.DoFn):
    def __init__(self, stop_after: Optional[float], lease: int) -> None:
        self._stop_after = stop_after
        self._lease = lease

    def setup(self) -> None:
        from google.cloud import pubsub

        self._client = pubsub.SubscriberClient()

    def teardown(self) -> None:
        self._client.close()

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: tuple[str, float],
        finalizer: Any = beam.DoFn.BundleFinalizerParam,  # Beam passes the others by name, and so wants it first
        tracker: Any = _TRACKER,
        watermark: Any = _WATERMARK,
    ) -> Iterator[TimestampedValue]:
        subscription, started = element
        pull = tracker.current_restriction().start
        if self._stop_after is not None and time.time() - started >= self._stop_after:
            tracker.try_claim(_ENDLESS.stop)
            return
        if not tracker.try_claim(pull):
            return
        received = self._received(subscription)
        if received:
            names = [each.ack_id for each in received]
            self._client.modify_ack_deadline(subscription=subscription, ack_ids=names, ack_deadline_seconds=self._lease)
            finalizer.register(functools.partial(self._acknowledge, subscription, names))
        for each in received:
            published = Timestamp.from_utc_datetime(each.message.publish_time)
            yield TimestampedValue(PubsubMessage._from_message(each.message), published)
        tracker.defer_remainder(Duration(0))

    def _received(self, subscription: str) -> list[Any]:
        from google.api_core import exceptions

        try:
            pulled = self._client.pull(
                subscription=subscription, max_messages=MESSAGES, timeout=PULL_SECONDS, retry=None
            )
        except exceptions.DeadlineExceeded:  # there are none
            return []
        except exceptions.ServerError as error:
            _LOGGER.warning("the next pull may find messages: %s", error)
            time.sleep(PULL_SECONDS)
            return []
        return list(pulled.received_messages)

    def _acknowledge(self, subscription: str, names: list[str]) -> None:
        try:
            self._client.acknowledge(subscription=subscription, ack_ids=names)
        except Exception as error:  # the images are done, and are done again
            _LOGGER.warning("%d messages will come again: %s", len(names), error)
