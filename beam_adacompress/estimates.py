"""Means over a sample, with intervals, from sums that can be merged."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, Optional

Z95 = 1.959963984540054  # of the normal distribution, two-sided 95 %


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass
class WeightedSums:
    """Sums over sampled values x with weights w = 1 / (probability of being sampled); `merge` adds them up.

    The mean is Hajek's, sum(w x) / sum(w): right for samples that are not uniform, where the plain mean is not.
    """

    n: int = 0
    w: float = 0.0
    ww: float = 0.0
    wx: float = 0.0
    wwx: float = 0.0
    wwxx: float = 0.0

    def add(self, value: float, weight: float) -> None:
        self.n += 1
        self.w += weight
        self.ww += weight * weight
        self.wx += weight * value
        self.wwx += weight * weight * value
        self.wwxx += weight * weight * value * value

    def merge(self, other: WeightedSums) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def mean(self) -> Optional[float]:
        return self.wx / self.w if self.n else None

    def interval(self) -> Optional[Interval]:
        """For values of any kind: the mean plus and minus 1.96 standard errors, linearised for the ratio of sums.

        None for fewer than two values, which say nothing about their spread.
        """
        if self.n < 2:
            return None
        mean = self.wx / self.w
        squares = max(0.0, self.wwxx - 2 * mean * self.wwx + mean * mean * self.ww)
        half = Z95 * math.sqrt(squares * self.n / (self.n - 1)) / self.w
        return Interval(mean, mean - half, mean + half)

    def share_interval(self) -> Optional[Interval]:
        """For values of 0 and 1: Wilson's score interval (1927) at Kish's effective sample size, (sum w)^2 / sum w^2.

        Unlike the normal interval it stays within 0..1 and keeps its level near the ends.
        """
        if not self.n:
            return None
        mean = self.wx / self.w
        return Interval(mean, *wilson(mean, self.w * self.w / self.ww, Z95))


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of n values, at z standard errors; 0..1 for none."""
    if n <= 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
