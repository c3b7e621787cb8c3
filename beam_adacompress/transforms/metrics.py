"""One helper that counts what goes in and out of every stage, and the list of all metrics.

Counters and distributions stand in the namespace `adacompress.STAGE`; `METRICS` says what each counts, and the page
docs/reference/metrics.md is made of it. No stage has a metric that is not listed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from apache_beam.io.components.adaptive_throttler import ThrottlingSignaler
from apache_beam.metrics import Metrics

from beam_adacompress.records import Usage

COUNTER, DISTRIBUTION = "counter", "distribution"


class Metric(NamedTuple):
    """One metric, as the documentation lists it."""

    name: str
    kind: str  # `counter` or `distribution`
    unit: str
    meaning: str
    stages: tuple[str, ...]  # that have it


_GIVING = ("ReadImages", "ChooseQuality", "CompressJPEG", "DecodeDCT", "ScoreWithBackend", "WriteImages")
_IMAGES = (*_GIVING, "ReadPairs", "MeasureBands", "TryConfigurations")
_ARRIVALS = ("WatchImages", "LocateImages")
_CALLING = ("ScoreWithBackend", "ChooseQuality")  # ChooseQuality where it verifies
_FOLLOWING = ("ChooseQuality", "ScoreWithBackend")

METRICS = (
    Metric("images_in", COUNTER, "images", "that the stage took", _IMAGES),
    Metric("images_out", COUNTER, "images", "that it gave to the next one", (*_GIVING, *_ARRIVALS)),
    Metric("bytes_in", COUNTER, "bytes", "of the image files that it took", _IMAGES),
    Metric("bytes_out", COUNTER, "bytes", "of the image files that it gave", _GIVING),
    Metric("failed", COUNTER, "images", "that came out as failures, with a reason", (*_IMAGES, *_ARRIVALS)),
    Metric("kept", COUNTER, "images", "that were left as they were", ("CompressJPEG",)),
    Metric("quality", DISTRIBUTION, "1 to 100", "the chosen JPEG quality", ("ChooseQuality",)),
    Metric(
        "milliseconds", DISTRIBUTION, "ms an image", "wall time of decoding and encoding", ("CompressJPEG", "DecodeDCT")
    ),
    Metric("sampled", COUNTER, "images", "about which the backend was asked", ("ScoreWithBackend",)),
    Metric("calls", COUNTER, "calls", "images sent to the backend, repeated ones too", _CALLING),
    Metric("retries", COUNTER, "calls", "of those, the repeated ones", _CALLING),
    Metric("cache_hits", COUNTER, "answers", "that needed no call", _CALLING),
    Metric("cost_microdollars", COUNTER, "0.000001 USD", "of the calls, by the backend's price", _CALLING),
    Metric(
        "cumulativeThrottlingSeconds",
        COUNTER,
        "s",
        "in which calls waited for their turn; Dataflow's autoscaler reads it",
        (*_CALLING, "TryConfigurations"),
    ),
    Metric(
        "policies_loaded", COUNTER, "policies", "versions that went into service, in each worker process", _FOLLOWING
    ),
    Metric("policies_refused", COUNTER, "policies", "newer versions that could not be loaded", _FOLLOWING),
    Metric(
        "looks_failed",
        COUNTER,
        "looks",
        "times that it could not be read which policy is in service, or what the drift stage advises",
        (*_FOLLOWING, "RetrainAgent"),
    ),
    Metric("scores_in", COUNTER, "scores", "that the stage took", ("EstimateDrift",)),
    Metric("not_scored", COUNTER, "scores", "passed over, since their status is not `scored`", ("EstimateDrift",)),
    Metric(
        "explored",
        COUNTER,
        "scores",
        "passed over, since what was explored does not tell of the policy",
        ("EstimateDrift",),
    ),
    Metric("estimates_out", COUNTER, "estimates", "rows of `DriftEstimate`", ("EstimateDrift",)),
    Metric("retrain", COUNTER, "estimates", "of those, the ones whose state is `retrain`", ("EstimateDrift",)),
    Metric("published", COUNTER, "trainings", "after which a new version went into service", ("RetrainAgent",)),
    Metric("kept", COUNTER, "trainings", "after which the incumbent serves on", ("RetrainAgent",)),
    Metric("failed", COUNTER, "trainings", "that failed", ("RetrainAgent",)),
    Metric("advice_failed", COUNTER, "writes", "of the file for the other stages that failed", ("RetrainAgent",)),
    Metric(
        "listings_failed",
        COUNTER,
        "listings",
        "of the watched folder that failed; the next one may not",
        ("WatchImages",),
    ),
    Metric("finished", COUNTER, "images", "found that an earlier job with the same output has done", ("WatchImages",)),
    Metric("ignored", COUNTER, "messages", "that tell of no image that is to be done", ("LocateImages",)),
)

_NAMES = {(metric.name, metric.kind) for metric in METRICS}


def counter(stage: str, name: str) -> Any:
    """A counter of a stage.

    Args:
      stage: the transform's name.
      name: one of those in `METRICS`.
    """
    assert (name, COUNTER) in _NAMES, f"{name} is not in METRICS, so nobody could read what it counts"
    return Metrics.counter(f"adacompress.{stage}", name)


def distribution(stage: str, name: str) -> Any:
    """A distribution of a stage; arguments as for `counter`."""
    assert (name, DISTRIBUTION) in _NAMES, f"{name} is not in METRICS, so nobody could read what it counts"
    return Metrics.distribution(f"adacompress.{stage}", name)


class StageMetrics:
    """The metrics of one stage. Only those that a stage updates are reported."""

    def __init__(self, stage: str) -> None:
        self._images_in = counter(stage, "images_in")
        self._images_out = counter(stage, "images_out")
        self._bytes_in = counter(stage, "bytes_in")
        self._bytes_out = counter(stage, "bytes_out")
        self._kept = counter(stage, "kept")
        self._failed = counter(stage, "failed")
        self._quality = distribution(stage, "quality")
        self._milliseconds = distribution(stage, "milliseconds")

    def took(self, size: int) -> None:
        self._images_in.inc()
        self._bytes_in.inc(size)

    def gave(self, size: int) -> None:
        self._images_out.inc()
        self._bytes_out.inc(size)

    def kept(self) -> None:
        self._kept.inc()

    def failed(self) -> None:
        self._failed.inc()

    def chose(self, quality: int) -> None:
        self._quality.update(quality)

    def lasted(self, seconds: float) -> None:
        self._milliseconds.update(round(seconds * 1000))


class CallMetrics:
    """The metrics of a stage that calls a backend."""

    def __init__(self, stage: str) -> None:
        self._sampled = counter(stage, "sampled")
        self._calls = counter(stage, "calls")
        self._retries = counter(stage, "retries")
        self._cache_hits = counter(stage, "cache_hits")
        self._cost = counter(stage, "cost_microdollars")
        self._throttling = ThrottlingSignaler(f"adacompress.{stage}")
        self._unreported = 0.0  # seconds, below one

    def sampled(self) -> None:
        self._sampled.inc()

    def used(self, usage: Usage) -> None:
        self._calls.inc(usage.calls)
        self._retries.inc(usage.retries)
        self._cache_hits.inc(usage.cache_hits)
        self._cost.inc(round(usage.cost * 1e6))

    def throttled(self, seconds: float) -> None:
        """Counters hold whole numbers: what is below a second is kept for the next time."""
        whole, self._unreported = divmod(self._unreported + seconds, 1)
        if whole:
            self._throttling.signal_throttled(int(whole))
