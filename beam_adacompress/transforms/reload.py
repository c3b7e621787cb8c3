"""Policies in service, which follow what is published while a job runs.

    ROOT/LATEST ─▶ another version? ─▶ load it beside the one in service ─▶ take its place, or be refused
    ROOT/STATE ──▶ how many images to explore with, and to score

In a batch job LATEST is read once, when the job starts, so that all workers go by one version. In a streaming job each
worker process looks by itself, every so many seconds, between two rows. Whatever goes wrong then, what is in service
stays there.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Optional, TypeVar

import apache_beam as beam
from apache_beam.utils.shared import Shared

from beam_adacompress.drift.loop import Advice
from beam_adacompress.policy.policies import DEFAULT
from beam_adacompress.transforms import control, metrics, publishing

REFRESH = 60.0  # seconds between looks, in streaming jobs that do not say otherwise

LOADED, REFUSED, FAILED = "policies_loaded", "policies_refused", "looks_failed"

_LOGGER = logging.getLogger(__name__)

Made = TypeVar("Made")


def check(policy: Optional[str], refresh: Optional[float]) -> None:
    """Refuses what cannot be followed.

    Args:
      policy: None for none.
      refresh: seconds between looks; None for what suits the job.

    Raises:
      ValueError: it is no such number, or there is nothing to look at.
    """
    if refresh is None:
        return
    if not 0 < refresh < math.inf:
        raise ValueError(f"refresh must be a number of seconds above 0, got {refresh}")
    if policy in (None, DEFAULT):
        raise ValueError("refresh is about policies that are published: give policy=FOLDER, where they are, too")


class Following(Generic[Made]):
    """What is made from the newest version of a policy, in one process; for all its threads.

    Args:
      newest: folder of the newest version.
      make: makes it from a folder.
      advice: what the drift stage advises; None for nothing.
      every: seconds between looks; None never to look again.
      count: counts by the name of a metric.
      clock: seconds.

    Attributes:
      current: what is in service.

    Raises:
      Exception: whatever `newest` or `make` raises for the first version; later it is only logged.
    """

    def __init__(
        self,
        newest: Callable[[], str],
        make: Callable[[str], Made],
        advice: Callable[[], Optional[Advice]],
        every: Optional[float],
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest = newest
        self._make = make
        self._advice = advice
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self._complaints: set[str] = set()
        self._folder = newest()
        self.current = make(self._folder)
        count(LOADED)
        self._advised = None if every is None else self._read("STATE", advice, None, count)
        self._looked = clock()

    def look(self, count: Callable[[str], None]) -> None:
        """Looks for something newer, if it is time to; where a thread does already, the others go on without it."""
        if not self._is_time() or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._is_time():  # any more
                return
            self._advised = self._read("STATE", self._advice, self._advised, count)
            folder = self._read("LATEST", self._newest, self._folder, count)
            if folder != self._folder:
                self._replace(folder, count)
            self._looked = self._clock()
        finally:
            self._lock.release()

    def advice_for(self, version: str) -> Optional[Advice]:
        """What is advised for images that a version of the policy chose for; None for nothing."""
        advised = self._advised
        return advised if advised is not None and advised.policy_version == version else None

    def _is_time(self) -> bool:
        return self._every is not None and self._clock() - self._looked >= self._every

    def _read(self, name: str, read: Callable[[], Any], known: Any, count: Callable[[str], None]) -> Any:
        """What is written there now, or, where it cannot be read, what is known of it."""
        try:
            found = read()
        except Exception as error:  # every store has errors of its own
            count(FAILED)
            self._complain(name, f"{name} of the published policies cannot be read, what is known of it stays: {error}")
            return known
        self._complaints.discard(name)
        return found

    def _replace(self, folder: str, count: Callable[[str], None]) -> None:
        """A version that is refused is tried again at the next look: its files may not all have been readable yet."""
        try:
            self.current = self._make(folder)
        except Exception as error:  # whatever is wrong with it: a job that runs for months must not end by it
            if folder not in self._complaints:
                count(REFUSED)
            self._complain(folder, f"the policy {folder} is refused, {self._folder} stays in service: {error}")
            return
        count(LOADED)
        _LOGGER.info("the policy %s takes the place of %s", folder, self._folder)
        self._folder = folder

    def _complain(self, about: str, message: str) -> None:
        """Says once what is wrong, until it is not."""
        if about not in self._complaints:
            self._complaints.add(about)
            _LOGGER.warning(message)


class Service(Generic[Made]):
    """A policy in service in a DoFn, one in each worker process.

    Args:
      policy: its folder, or a folder of published ones, or `default`.
      make: makes what is needed of it, from the folder of the policy itself.
      refresh: seconds between looks for a newer version; None for the version that the job started with.
      stage: for metrics.
    """

    def __init__(self, policy: str, make: Callable[[str], Made], refresh: Optional[float], stage: str) -> None:
        self._policy = policy
        self._make = make
        self._refresh = refresh
        self._stage = stage
        self._shared = Shared()
        self._following: Optional[Following[Made]] = None

    def now(self, pinned: Optional[str]) -> Following[Made]:
        """What is in service now, to be asked for with each row.

        Args:
          pinned: what the side input says, see `side_input`.

        Raises:
          AdaCompressError: the first version cannot be loaded.
        """
        if self._following is None:
            self._following = self._shared.acquire(lambda: self._begin(pinned))
        self._following.look(self._count)
        return self._following

    def _begin(self, pinned: Optional[str]) -> Following[Made]:
        def newest() -> str:
            return pinned or (self._policy if self._refresh is None else publishing.resolve(self._policy))

        def advice() -> Optional[Advice]:
            return control.read_control(self._policy)

        return Following(newest, self._make, advice, self._refresh, self._count)

    def _count(self, name: str) -> None:
        metrics.counter(self._stage, name).inc()


def refresh_for(images: beam.PCollection[Any], policy: str, refresh: Optional[float]) -> Optional[float]:
    """Seconds between looks of the workers; None where the version with which the job starts stays."""
    if refresh is None and policy != DEFAULT and not images.is_bounded:
        return REFRESH
    return refresh


def side_input(images: beam.PCollection[Any], policy: str, refresh: Optional[float]) -> dict[str, Any]:
    """The argument `pinned` of `process`: the folder of the version with which the job starts.

    There is none where workers look by themselves, nor for the policy that comes with the package.
    """
    if policy == DEFAULT or refresh is not None:
        return {}
    folder = (
        images.pipeline
        | "Policy" >> beam.Create([policy])
        | "Latest" >> beam.Map(publishing.resolve).with_output_types(str)
    )
    return {"pinned": beam.pvalue.AsSingleton(folder)}
