"""When a policy is trained again, and how many images are scored until then.

    inference ─▶ estimate ─▶ retrain: alarm ─▶ gather scores ─▶ train ─┬▶ published ─▶ inference, of the new version
                                                 ▲ twice as many       ├▶ kept ──────┐
                                                 └─────────────────────┼─────────────┘
                                                 with the next scores ─┴▶ failed: the same once more

What the alarm is about is in the scores that follow it, so the candidate is trained on those above all, and on scores
that explore: while they are gathered, images are scored at the rate for that state, and the policy explores.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Optional

from beam_adacompress.drift.contract import ESTIMATE, INFERENCE, RETRAIN, Rates

_RATES = Rates()


@dataclasses.dataclass(frozen=True)
class Pace:
    """How much is scored before a policy is trained again.

    Args:
      gather: scores since the alarm.
      recent: of the latest scores, how many tell of the scenery as it is; the ones before them count as old.
      explore: probability of exploring while scores are gathered, at least 0 and below 1.
      usual_explore: the same at all other times.
      rates: share of the images that is scored in each state.

    Raises:
      ValueError: a number is out of range.
    """

    gather: int = 300
    recent: int = 400
    explore: float = 0.5
    usual_explore: float = 0.0
    rates: Rates = _RATES

    def __post_init__(self) -> None:
        if not 1 <= self.gather <= self.recent:
            raise ValueError(f"gather must be from 1 to recent ({self.recent}), got {self.gather}")
        for name in ("explore", "usual_explore"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


class Advice(NamedTuple):
    """What the stages that serve should do."""

    state: str
    sample_rate: float  # share of the images to score, 0..1
    explore: float  # probability of exploring, at least 0 and below 1
    policy_version: str  # that it is about


class Loop:
    """Follows one policy version after the other; picklable.

    Args:
      pace: how much to gather.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._alarm: Optional[str] = None  # version that has to be replaced
        self._gathered = 0  # scores of that version since the alarm, or since the last try
        self._wanted = pace.gather
        self._replaced: Optional[str] = None  # version whose late estimates mean nothing any more

    def told(self, version: str, state: str, sample_rate: float) -> Optional[Advice]:
        """Takes a drift estimate.

        Args:
          version: of the policy that it is about.
          state, sample_rate: as it says.

        Returns:
          What to do from now on; None where it says nothing new.
        """
        if version == self._replaced:
            return None
        if state != RETRAIN:
            self._alarm, self._gathered, self._wanted = None, 0, self._pace.gather
            return Advice(state, sample_rate, self._pace.usual_explore, version)
        if self._alarm != version:
            self._alarm, self._gathered, self._wanted = version, 0, self._pace.gather
        return self._gathering()

    def scored(self, version: str, count: int) -> None:
        """Takes as many scores of a version."""
        if version == self._alarm:
            self._gathered += count

    @property
    def due(self) -> bool:
        """Whether it is time to train again."""
        return self._alarm is not None and self._gathered >= self._wanted

    def published(self, version: str) -> Advice:
        """The version of the alarm has been replaced by this one."""
        self._replaced, self._alarm, self._gathered, self._wanted = self._alarm, None, 0, self._pace.gather
        return Advice(INFERENCE, self._pace.rates.inference, self._pace.usual_explore, version)

    def kept(self) -> Advice:
        """Training came to nothing better: it is tried again with twice as many scores, which need not come so fast."""
        self._gathered, self._wanted = 0, 2 * self._wanted
        return self._gathering()

    def _gathering(self) -> Advice:
        assert self._alarm is not None
        first = self._wanted == self._pace.gather
        state, rate = (RETRAIN, self._pace.rates.retrain) if first else (ESTIMATE, self._pace.rates.estimate)
        return Advice(state, rate, self._pace.explore, self._alarm)
