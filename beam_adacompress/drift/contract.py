"""What every drift detector can do: take one score after the other, and say what state the loop is in.

scores, in the order in which they were made ─▶ Detector.update ─▶ Detector.verdict ─▶ inference | estimate | retrain
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple, Optional

INFERENCE = "inference"  # all is well: a small share of the images is scored
ESTIMATE = "estimate"  # it may not be: more are scored
RETRAIN = "retrain"  # it is not: the policy has to be trained again


class Level(NamedTuple):
    """What a policy was published with, and drift is measured against."""

    agreement: float  # that has to be kept, 0..1
    reward: float  # agreement - size ratio that it came to; see policy.artefact.Baseline


class Seen(NamedTuple):
    """What a detector needs of one score."""

    agreement: int  # 0 or 1
    reward: float  # agreement - size ratio
    weight: float  # 1 / probability of being scored, at least 1: images that were scored more often count less


class Rates(NamedTuple):
    """Share of the images that is scored in each state, 0..1."""

    inference: float = 0.05
    estimate: float = 0.2
    retrain: float = 1.0


class Verdict(NamedTuple):
    """What a detector makes of what it has seen."""

    state: str  # INFERENCE, ESTIMATE or RETRAIN
    reason: str  # one sentence, for people
    sample_rate: float  # that it recommends, 0..1


class Detector(abc.ABC):
    """Looks at one score after the other.

    After it has said RETRAIN it goes on saying so until it is made anew: the one who publishes a new policy starts a
    new detector.

    Attributes:
      name: what options call it.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def update(self, seen: Seen) -> None:
        """Takes the next score."""

    @abc.abstractmethod
    def verdict(self) -> Verdict:
        """What it makes of all scores so far; the same until the next one."""

    @abc.abstractmethod
    def state(self) -> Any:
        """All that it knows of the scores, JSON-able, for `restore`."""

    @abc.abstractmethod
    def restore(self, state: Any) -> None:
        """Goes on from what `state` gave, in a detector that was made with the same arguments.

        Raises:
          KeyError, TypeError, ValueError: it is no such thing.
        """

    @property
    def evidence(self) -> Optional[float]:
        """How strongly it believes in drift, 0..1 of what makes it say RETRAIN; None where it has no such scale."""
        return None
