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
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

from beam_adacompress.drift.contract import ESTIMATE, INFERENCE, RETRAIN, Rates
from beam_adacompress.records import SCORED, DriftEstimate, Score

_RATES = Rates()


@dataclasses.dataclass(frozen=True)
class Pace:
    """How much is scored before a policy is trained again.

    Args:
      gather: images that are scored since the alarm.
      explore: probability of exploring while scores are gathered, at least 0 and below 1.
      usual_explore: the same at all other times.
      rates: share of the images that is scored in each state.

    Raises:
      ValueError: a number is out of range.
    """

    gather: int = 300
    explore: float = 0.5
    usual_explore: float = 0.0
    rates: Rates = _RATES

    def __post_init__(self) -> None:
        if self.gather < 1:
            raise ValueError(f"gather must be at least 1 score, got {self.gather}")
        for name in ("explore", "usual_explore"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
        for state, rate in self.rates._asdict().items():
            if not 0 < rate <= 1:
                raise ValueError(f"the rate for {state} must be above 0 and at most 1, got {rate}")


class Advice(NamedTuple):
    """What the stages that serve should do."""

    state: str
    sample_rate: float  # share of the images to score, 0..1
    explore: float  # probability of exploring, at least 0 and below 1
    policy_version: str  # that it is about


class Loop:
    """Follows the policy in service, one version after the other.

    Estimates may be of several keys, and come in any order. An alarm stands until another version is in service, as it
    does in a detector; short of an alarm, the key counts that asks for the most scores.

    Args:
      pace: how much to gather.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._begin(None)

    def _begin(self, version: Optional[str]) -> None:
        self._version = version
        self._asking: dict[str, tuple[str, float]] = {}  # state and rate, by the key of who asks for more than usual
        self._alarm = False
        self._leaves_all = False
        self._tries = 0  # that came to nothing better
        self._gathered: set[str] = set()  # images, since the alarm or the last such try

    @property
    def alarm(self) -> Optional[str]:
        """The version that has to be replaced, if one has to be."""
        return self._version if self._alarm else None

    @property
    def wanted(self) -> int:
        """Scores with which it is time to train."""
        return self._pace.gather << self._tries

    @property
    def due(self) -> bool:
        """Whether it is time to train."""
        return self._alarm and len(self._gathered) >= self.wanted

    @property
    def advice(self) -> Optional[Advice]:
        """What to do from now on; None while nothing is known."""
        if self._version is None:
            return None
        if self._alarm and not self._tries:
            return Advice(RETRAIN, self._pace.rates.retrain, self._pace.explore, self._version)
        if self._alarm:
            # They need not come so fast any more. Images that explore without a score are a loss, but where all others
            # are left as they are, nothing would be learned without.
            explore = self._pace.explore if self._leaves_all else self._pace.usual_explore
            return Advice(ESTIMATE, self._pace.rates.estimate, explore, self._version)
        usual = (INFERENCE, self._pace.rates.inference)
        states, rates = zip(usual, *self._asking.values())
        return Advice(
            ESTIMATE if ESTIMATE in states else INFERENCE, max(rates), self._pace.usual_explore, self._version
        )

    def told(self, estimate: DriftEstimate) -> None:
        """Takes an estimate of the version in service."""
        self.serves(estimate.policy_version)
        if estimate.state == RETRAIN:
            self._alarm = True
        elif estimate.state == INFERENCE and estimate.sample_rate <= self._pace.rates.inference:
            self._asking.pop(estimate.key, None)
        else:
            self._asking[estimate.key] = (estimate.state, estimate.sample_rate)

    def scored(self, scores: Iterable[Score]) -> None:
        """Takes scores; an image counts once, however often it comes."""
        for score in scores:
            if self._alarm and score.status == SCORED and score.choice.policy_version == self._version:
                self._gathered.add(score.key)

    def serves(self, version: str, leaves_all: bool = False) -> None:
        """Takes notice of which version is in service: all begins anew with another one.

        Args:
          version: its name.
          leaves_all: whether it leaves every image as it is, since it can promise nothing. Nobody disagrees with that,
            so no detector would ever give the alarm; such a version has to be replaced, too.
        """
        if version != self._version:
            self._begin(version)
            self._alarm = self._leaves_all = leaves_all

    def kept(self) -> None:
        """Training came to nothing better: it is tried again with twice as many scores."""
        self._gathered, self._tries = set(), self._tries + 1

    def state(self) -> Mapping[str, Any]:
        """All of it, JSON-able, for `restored`."""
        return {
            "version": self._version,
            "asking": {key: list(asked) for key, asked in self._asking.items()},
            "alarm": self._alarm,
            "leaves_all": self._leaves_all,
            "tries": self._tries,
            "gathered": sorted(self._gathered),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], pace: Pace) -> Loop:
        """Goes on from what `state` gave.

        Raises:
          KeyError, TypeError, ValueError: it is no such thing.
        """
        loop = cls(pace)
        loop._version = state["version"]
        loop._asking = {key: (str(asked), float(rate)) for key, (asked, rate) in state["asking"].items()}
        loop._alarm = bool(state["alarm"])
        loop._leaves_all = bool(state["leaves_all"])
        loop._tries = int(state["tries"])
        loop._gathered = set(state["gathered"])
        return loop
