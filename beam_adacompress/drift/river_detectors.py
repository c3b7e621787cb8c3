"""Detectors of the library river: they compare agreement with what it was before, not with the policy's level."""

from __future__ import annotations

import abc
import base64
import pickle
from typing import Any, ClassVar

from beam_adacompress.drift.contract import INFERENCE, RETRAIN, Detector, Level, Rates, Seen, Verdict
from beam_adacompress.errors import AdaCompressError


class RiverDetector(Detector):
    """Base of detectors that hand each agreement to one of river's, with no weights, and look for drops alone.

    `state` holds a pickle of river's object. It is for Beam's state, which nobody but the job itself writes: never
    restore one of another origin.

    Raises:
      AdaCompressError: river is not installed.
    """

    def __init__(self, rates: Rates, **options: Any) -> None:
        try:
            import river.drift
        except ImportError as error:
            raise AdaCompressError(
                f"the detector {self.name} needs river: pip install 'beam-adacompress[drift]'"
            ) from error
        self._rates = rates
        self._detector: Any = self._make(river.drift, options)
        self._retrain = False

    @abc.abstractmethod
    def _make(self, drift: Any, options: dict[str, Any]) -> Any:
        """Makes river's object, of the module `river.drift`."""

    def update(self, seen: Seen) -> None:
        if not self._retrain:
            self._retrain = self._dropped(seen.agreement)

    @abc.abstractmethod
    def _dropped(self, agreement: int) -> bool:
        """Whether river finds a drop, this agreement included."""

    def verdict(self) -> Verdict:
        if self._retrain:
            return Verdict(RETRAIN, f"{self.name} found that agreement fell", self._rates.retrain)
        return Verdict(INFERENCE, f"{self.name} found no drop of agreement", self._rates.inference)

    def state(self) -> Any:
        return {"retrain": self._retrain, "river": base64.b64encode(pickle.dumps(self._detector)).decode()}

    def restore(self, state: Any) -> None:
        try:
            detector = pickle.loads(base64.b64decode(state["river"]))  # noqa: S301 (of the job's own state, see the class)
        except (pickle.UnpicklingError, AttributeError, ImportError, EOFError) as error:
            raise ValueError(f"the state of {self.name} is of another release of river: {error}") from error
        if type(detector) is not type(self._detector):
            raise ValueError(f"the state is of {type(detector).__name__}, and not of {self.name}")
        self._retrain, self._detector = bool(state["retrain"]), detector


class PageHinkley(RiverDetector):
    """Page-Hinkley's test (Page, Biometrika 41, 1954), one-sided: the sum of what agreement lacks to its mean so far.

    Args:
      level: not looked at.
      rates: to recommend.
      min_instances, delta, alpha: as river has them.
      threshold: likewise. River's default is 50, which is for values of any size; for agreement, 0 or 1, it is so much
        that a drop from 0.97 to 0.9 is not noticed within 2,000 scores.
    """

    name: ClassVar[str] = "page-hinkley"

    def __init__(
        self,
        level: Level,
        rates: Rates,
        min_instances: int = 30,
        delta: float = 0.005,
        threshold: float = 10.0,
        alpha: float = 0.9999,
    ) -> None:
        super().__init__(rates, min_instances=min_instances, delta=delta, threshold=threshold, alpha=alpha)

    def _make(self, drift: Any, options: dict[str, Any]) -> Any:
        return drift.PageHinkley(mode="down", **options)

    def _dropped(self, agreement: int) -> bool:
        self._detector.update(agreement)
        return bool(self._detector.drift_detected)


class ADWIN(RiverDetector):
    """Adaptive windowing (Bifet and Gavaldà, SDM 2007): two parts of a window of scores that differ too much.

    Args:
      level: not looked at.
      rates: to recommend.
      delta, clock, max_buckets, min_window_length, grace_period: as river has them, with its defaults.
    """

    name: ClassVar[str] = "adwin"

    def __init__(
        self,
        level: Level,
        rates: Rates,
        delta: float = 0.002,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        super().__init__(
            rates,
            delta=delta,
            clock=clock,
            max_buckets=max_buckets,
            min_window_length=min_window_length,
            grace_period=grace_period,
        )

    def _make(self, drift: Any, options: dict[str, Any]) -> Any:
        return drift.ADWIN(**options)

    def _dropped(self, agreement: int) -> bool:
        before = self._detector.estimation
        self._detector.update(agreement)
        # It forgets the older part of the window then, so its mean moves towards the newer one: up or down.
        return bool(self._detector.drift_detected) and self._detector.estimation < before
