"""AdaCompress's inference-estimate-retrain rule, as published (Li et al., arXiv 1909.08148, and its code)."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, ClassVar, Optional, Union

from beam_adacompress.drift.contract import INFERENCE, RETRAIN, Detector, Level, Rates, Seen, Verdict

MEMORY = "memory"  # the threshold is what the earliest scores came to

_START = 0.2  # probability of estimating
_LOWEST, _HIGHEST = 0.2, 0.95
_OMEGA = -3.0


class AdaCompress(Detector):
    """Compares the mean of a few scores with a threshold.

        A_t = mean of the last n agreements before score t         (of all, while there are fewer than n)
        p_t = clip(p_{t-1} - 3 (A_t - A_{t-1}), 0.2, 0.95)         from score n + 1 on, p = 0.2 before
        RETRAIN when A_t < A_0                                     from score n + 1 on

    The published system draws for each image, with probability p, whether it is in its state `estimate`, in which it
    is scored; so what the system does as a whole is here the state `inference` with p as the sample rate to recommend,
    and `estimate` is never said. It knows nothing of the policy's level, nor of weights.

    It is here to be compared with. With a true agreement of 0.9, 7 % of the windows of 10 fall below 0.8.

    Args:
      level: not looked at: A_0 is a constant in the published code.
      rates: of which only that for `retrain` counts.
      window: n, scores.
      threshold: A_0, 0..1; or `memory` for the mean of the first n scores, as the paper's abstract has it.
      reward: mean reward above which a retraining has done enough, see `recovered`.

    Raises:
      ValueError: a number is out of range.
    """

    name: ClassVar[str] = "adacompress"

    def __init__(
        self, level: Level, rates: Rates, window: int = 10, threshold: Union[float, str] = 0.8, reward: float = 0.45
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1 score, got {window}")
        if threshold != MEMORY and not (isinstance(threshold, (int, float)) and 0 <= threshold <= 1):
            raise ValueError(f"threshold must be from 0 to 1, or {MEMORY!r}, got {threshold!r}")
        self._rates = rates
        self._window = window
        self._threshold = threshold
        self._reward = reward
        self._first: list[int] = []  # agreements of the first n scores
        self._agreements: collections.deque[int] = collections.deque(maxlen=window)
        self._rewards: collections.deque[float] = collections.deque(maxlen=window)
        self._scores = 0
        self._recent: Optional[float] = None  # A_t
        self._rate = _START
        self._retrain = False

    @property
    def threshold(self) -> float:
        """A_0; 0 for `memory` that is still empty."""
        if isinstance(self._threshold, str):
            return _mean(self._first) or 0.0
        return self._threshold

    @property
    def recovered(self) -> bool:
        """The published rule for ending a retraining: the last n scores are above both thresholds on average.

        (The third condition, that the learner explores no more than one image in five, is the learner's.)
        """
        agreement, reward = _mean(self._agreements), _mean(self._rewards)
        return agreement is not None and reward is not None and agreement > self.threshold and reward > self._reward

    def update(self, seen: Seen) -> None:
        before, self._recent = self._recent, _mean(self._agreements)
        self._agreements.append(seen.agreement)
        self._rewards.append(seen.reward)
        self._scores += 1
        if len(self._first) < self._window:
            self._first.append(seen.agreement)
        if self._scores <= self._window or self._recent is None:
            return
        if before is not None:
            self._rate = min(_HIGHEST, max(_LOWEST, self._rate + _OMEGA * (self._recent - before)))
        self._retrain |= self._recent < self.threshold

    def verdict(self) -> Verdict:
        if self._recent is None:
            return Verdict(INFERENCE, "there are not enough scores to say anything", self._rate)
        recent = f"the mean agreement of the scores before the last one is {self._recent:.3g}"
        if self._retrain:
            reason = f"it fell below the threshold, which is {self.threshold:.3g}; {recent}"
            return Verdict(RETRAIN, f"a mean of {self._window} scores: {reason}", self._rates.retrain)
        return Verdict(INFERENCE, f"{recent}, and the threshold is {self.threshold:.3g}", self._rate)

    def state(self) -> Any:
        return {
            "first": list(self._first),
            "agreements": list(self._agreements),
            "rewards": list(self._rewards),
            "scores": self._scores,
            "recent": self._recent,
            "rate": self._rate,
            "retrain": self._retrain,
        }

    def restore(self, state: Any) -> None:
        self._first = [int(each) for each in state["first"]]
        self._agreements = collections.deque(map(int, state["agreements"]), self._window)
        self._rewards = collections.deque(map(float, state["rewards"]), self._window)
        self._scores = int(state["scores"])
        self._recent = None if state["recent"] is None else float(state["recent"])
        self._rate = float(state["rate"])
        self._retrain = bool(state["retrain"])


def _mean(values: Sequence[float]) -> Optional[float]:
    return sum(values) / len(values) if values else None
