"""The default detector: a sequential test whose false alarms are counted, whatever the scores are like."""

from __future__ import annotations

import collections
import math
from typing import Any, ClassVar, Optional

from beam_adacompress.drift.contract import ESTIMATE, INFERENCE, RETRAIN, Detector, Level, Rates, Seen, Verdict

BETS = tuple(0.5**k for k in range(1, 7))
_RECENT = 32  # scores whose weights a score's is compared with


class EDetector(Detector):
    """An e-detector of Shiryaev-Roberts' kind (Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532).

    Several gamblers bet a share b_k = 1/2, 1/4, ..., 1/64 of what they have on each score's disagreeing, at odds that
    are fair if agreement is at the level, and each gets 1 more before each bet:

        M_t^k = (M_{t-1}^k + 1) (1 + b_k w_t (level - x_t) / (1 - level)),    M_0^k = 0,    M_t = mean_k M_t^k

    with the agreement x_t of score t. As long as the agreement to be expected of a score, given all scores before it
    and its own weight, is at least the level, a bet does not pay, and M_t grows by at most 1 a score on average. So the
    first time T at which M_T >= N, which says RETRAIN, has E[T] >= E[M_T] >= N: **at most one false alarm in N scores**
    on average, however the scores depend on each other. Below the level some gambler gets rich exponentially.

    w_t, at most 1, is the score's weight relative to the largest one of the 32 scores before it: images of actions
    that are scored more often count less, while a sample that is drawn twice as often altogether counts in full. It
    does not depend on x_t, so it does no harm to the guarantee.

    A bet b is the likelihood ratio of agreement at level (1 - b) to agreement at the level, so there is a best bet for
    each drop. Bets of 1/2, 1/4, ... lie so close that their mean takes 0 to 20 % longer than the best one for the true
    drop, which nothing beats (simulated for levels from 0.8 to 0.99; a third longer from 0.99 to 0.98). Neither denser
    grids, nor others, nor a bet that follows an estimate of the drop gained anything. A drop takes about
    log(N) / KL(dropped, level) scores; simulated, for the level 0.97 after 400 scores at it:

        | N      | to 0.93 | to 0.90 | to 0.85 | scores per false alarm at the level |
        |--------|---------|---------|---------|-------------------------------------|
        | 10,000 | 226     | 104     | 50      | 17,000                              |
        | 1,000  | 107     | 58      | 30      | 1,600                               |

    Args:
      level: of the policy; its agreement is above 0 and below 1.
      rates: to recommend.
      false_alarms: N above, at least 100: scores for each false alarm, at the least.
      suspicion: with M_t >= N ** suspicion it says ESTIMATE, above 0 and below 1. That costs no more than some calls,
        and saves images before an alarm. Simulated with N = 10,000 and the level 0.97, it is so for 2.5 % of the scores
        while agreement is 0.975, and for 9 % at the level itself; with a suspicion of 0.5 for 25 % and 47 %. (M_t does
        not go below 20 for long: where all agree, it stays there.)

    Raises:
      ValueError: a number is out of range.
    """

    name: ClassVar[str] = "e-detector"

    def __init__(self, level: Level, rates: Rates, false_alarms: int = 10_000, suspicion: float = 2 / 3) -> None:
        if not 0 < level.agreement < 1:
            raise ValueError(f"level must be above 0 and below 1, got {level.agreement}")
        if false_alarms < 100:
            raise ValueError(f"false_alarms must be at least 100 scores, got {false_alarms}")
        if not 0 < suspicion < 1:
            raise ValueError(f"suspicion must be above 0 and below 1, got {suspicion}")
        self._level = level.agreement
        self._rates = rates
        self._alarm = float(false_alarms)
        self._suspicion = self._alarm**suspicion
        self._wealth = [0.0] * len(BETS)
        self._weights: collections.deque[float] = collections.deque(maxlen=_RECENT)

    @property
    def _evidence(self) -> float:
        return sum(self._wealth) / len(BETS)

    def update(self, seen: Seen) -> None:
        if self._evidence >= self._alarm:
            return
        weight = min(1.0, seen.weight / max(self._weights, default=seen.weight))
        gain = weight * (self._level - seen.agreement) / (1 - self._level)
        self._wealth = [(wealth + 1) * (1 + bet * gain) for bet, wealth in zip(BETS, self._wealth)]
        self._weights.append(seen.weight)

    def verdict(self) -> Verdict:
        against = f"the evidence against an agreement of {self._level:g} is {self._evidence:.4g}"
        if self._evidence >= self._alarm:
            return Verdict(RETRAIN, f"{against}, and {self._alarm:.10g} is enough", self._rates.retrain)
        if self._evidence >= self._suspicion:
            return Verdict(ESTIMATE, f"{against}, above {self._suspicion:.4g}: look closer", self._rates.estimate)
        return Verdict(INFERENCE, f"{against}, below {self._suspicion:.4g}", self._rates.inference)

    @property
    def evidence(self) -> Optional[float]:
        """log M / log N."""
        return min(1.0, math.log(max(1.0, self._evidence)) / math.log(self._alarm))

    def state(self) -> Any:
        return {"wealth": list(self._wealth), "weights": list(self._weights)}

    def restore(self, state: Any) -> None:
        wealth = [float(each) for each in state["wealth"]]
        if len(wealth) != len(BETS):
            raise ValueError(f"there are {len(BETS)} bets, and the state is of {len(wealth)}")
        self._wealth = wealth
        self._weights = collections.deque(map(float, state["weights"]), _RECENT)
