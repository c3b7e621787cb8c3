"""What a sample of a corpus says of all of it: totals, ratios and shares, each with a 95 % interval.

The corpus consists of units: files of one image each, or shards of many. Units are drawn at random, each alike and none
twice; of the images of a drawn unit some are drawn in the same way:

    corpus ─▶ M units, with sizes x that are known ─▶ m of them drawn ─▶ of the N_i images of each, n_i drawn

With a value y for each drawn image, Y_i = N_i * (mean of the unit's y) and R = sum(Y_i) / sum(x_i), the total is the
ratio estimator X * R, where X is the size of all units, and its variance that of two-stage sampling with finite
population corrections (Cochran, Sampling Techniques, 3rd ed. 1977, 6.4, 11.7 and 11.8),

    (X / (M mean(x)))^2 * ( M^2 / m (1 - m / M) s^2(Y_i - R x_i) + M / m sum(N_i^2 / n_i (1 - n_i / N_i) s_i^2(y)) )

Intervals take Student's t with m - 1 degrees of freedom. What was looked at as a whole has an interval without width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, variance
from typing import Any, NamedTuple, Optional

from beam_adacompress.estimates import Z95, Interval, wilson

Value = Callable[[Any], Optional[float]]  # of a drawn image; None where it has none, and stands for nothing


class Unit(NamedTuple):
    """A file, or a shard."""

    size: float  # bytes as listed, or 1 where they are not known
    images: int  # that it holds
    drawn: Sequence[Any]  # of these, those that were looked at


class _Estimate(NamedTuple):
    mean: float
    deviation: Optional[float]  # standard; None where it is not known
    freedom: int  # degrees of it


@dataclasses.dataclass(frozen=True)
class Survey:
    """A sample, and what it was drawn from.

    Args:
      units: how many the corpus has.
      size: of all of them together.
      drawn: those that were drawn.
    """

    units: int
    size: float
    drawn: Sequence[Unit]

    def __post_init__(self) -> None:
        assert len(self.drawn) <= self.units, (len(self.drawn), self.units)

    @property
    def is_whole(self) -> bool:
        """Whether every image was looked at."""
        return len(self.drawn) == self.units and all(len(unit.drawn) == unit.images for unit in self.drawn)

    @property
    def looked_at(self) -> int:
        """Images that were."""
        return sum(len(unit.drawn) for unit in self.drawn)

    @property
    def images(self) -> Interval:
        """Images of the corpus; known where each unit is one."""
        if all(unit.images == 1 for unit in self.drawn):
            return Interval(self.units, self.units, self.units)
        counted = [unit._replace(drawn=[None] * unit.images) for unit in self.drawn]
        return dataclasses.replace(self, drawn=counted).total(lambda _: 1.0) or Interval(0, 0, 0)

    def total(self, value: Value, finite: bool = True) -> Optional[Interval]:
        """The sum of a value over all images of the corpus, not below what was seen of it; None where nothing was.

        Args:
          value: of an image, at least 0; images without one are as if they had not been drawn.
          finite: whether a value is what it is; False where it was measured, and another time is another one.
        """
        units = [unit._replace(drawn=[each for each in unit.drawn if value(each) is not None]) for unit in self.drawn]
        known = dataclasses.replace(self, drawn=[unit for unit in units if unit.drawn or not unit.images])
        seen = math.fsum(value(each) or 0.0 for unit in known.drawn for each in unit.drawn)
        if finite and known.is_whole:
            return Interval(seen, seen, seen)
        if not any(unit.drawn for unit in known.drawn):
            return None
        found = known._by_size(value, finite)
        return _interval(found, lowest=seen if finite else 0.0)

    def ratio(self, upper: Value, lower: Value) -> Optional[Interval]:
        """A total over another one; None where the other one is 0. (Cochran 2.11, 6.3: residuals e = y - R x.)"""
        above, below = (self._plain(value) for value in (upper, lower))
        if not below:
            return None
        mean = above / below
        if self.is_whole:
            return Interval(mean, mean, mean)
        deviation = self._deviation(lambda each: (upper(each) or 0.0) - mean * (lower(each) or 0.0))
        return _interval(_Estimate(mean, None if deviation is None else deviation / below, self._freedom()))

    def by_count(self, value: Value) -> Interval:
        """The sum of a value over all images, by their number and not by their size; the ends are those of both."""
        mean, images = self.ratio(value, lambda _: 1.0), self.images
        if mean is None:
            return Interval(0.0, 0.0, 0.0)
        return Interval(mean.mean * images.mean, max(0.0, mean.low) * images.low, mean.high * images.high)

    def share(self, value: Value) -> Optional[Interval]:
        """The share of images with a value of 1, of those that have one, 0 or 1; None where none has.

        Wilson's score interval at the effective sample size p (1 - p) / variance, as Korn and Graubard (1998) take it;
        where all are alike, at the images that were drawn, with the finite population correction.
        """
        having = self._plain(lambda each: None if value(each) is None else 1.0)
        if not having:
            return None
        mean = min(1.0, self._plain(value) / having)
        drawn = sum(value(each) is not None for unit in self.drawn for each in unit.drawn)
        if self.is_whole:
            return Interval(mean, mean, mean)
        deviation = self._deviation(lambda each: 0.0 if (known := value(each)) is None else known - mean)
        if deviation:
            effective = mean * (1 - mean) * (having / deviation) ** 2
        else:
            effective = drawn / max(1e-12, 1 - self.looked_at / max(self._plain(lambda _: 1.0), self.looked_at))
        return Interval(mean, *wilson(mean, effective, Z95))

    def count(self, value: Value) -> Interval:
        """How many images have a value of 1; the ends are those of the share times those of the number of images.

        Not below what was seen, and not so many that what was seen otherwise has no place.
        """
        share, images = self.share(value), self.images
        if share is None:
            return Interval(0, 0, images.high)
        seen = sum(bool(value(each)) for unit in self.drawn for each in unit.drawn)
        if self.is_whole:
            return Interval(seen, seen, seen)
        low, high = share.low * images.low, min(share.high * images.high, images.high - (self.looked_at - seen))
        high = math.ceil(high) if math.isfinite(high) else high
        return Interval(share.mean * images.mean, max(math.floor(low), seen), max(high, seen))

    def _plain(self, value: Value) -> float:
        """The total by the drawn units' share of all units, whatever their sizes."""
        return self.units / max(1, len(self.drawn)) * math.fsum(_estimated(unit, value) for unit in self.drawn)

    def _by_size(self, value: Value, finite: bool) -> _Estimate:
        size = math.fsum(unit.size for unit in self.drawn)
        if not size:  # of empty files: nothing to go by
            even = [unit._replace(size=1.0) for unit in self.drawn]
            return dataclasses.replace(self, size=float(self.units), drawn=even)._by_size(value, finite)
        scale = self.size * len(self.drawn) / (self.units * size)
        mean = scale * self._plain(value)
        deviation = self._deviation(value, mean / self.size, finite)
        return _Estimate(mean, None if deviation is None else scale * deviation, self._freedom(finite))

    def _deviation(self, value: Value, rate: float = 0.0, finite: bool = True) -> Optional[float]:
        """The standard deviation of `_plain`, of values less a rate times the size; None for one unit of several."""
        count, of = len(self.drawn), self.units
        rest = 1 - count / of if finite else 1.0
        if rest and count < 2:
            return None
        totals = [_estimated(unit, value) - rate * unit.size for unit in self.drawn]
        between = rest * variance(totals) if rest else 0.0
        within = math.fsum(_spread(unit, value, finite) for unit in self.drawn)
        return math.sqrt(of * of / count * between + of / count * within)

    def _freedom(self, finite: bool = True) -> int:
        if len(self.drawn) < self.units or not finite:
            return len(self.drawn) - 1
        return sum(max(0, len(unit.drawn) - 1) for unit in self.drawn)


def _estimated(unit: Unit, value: Value) -> float:
    """The total of a unit, by the images that were drawn of it."""
    return unit.images * math.fsum(value(each) or 0.0 for each in unit.drawn) / max(1, len(unit.drawn))


def _spread(unit: Unit, value: Value, finite: bool) -> float:
    """The variance of that."""
    drawn = len(unit.drawn)
    if drawn < 2:
        return 0.0
    rest = 1 - drawn / unit.images if finite else 1.0
    return unit.images**2 / drawn * rest * variance([value(each) or 0.0 for each in unit.drawn])


def _interval(found: _Estimate, lowest: float = 0.0) -> Interval:
    if found.deviation is None or found.freedom < 1:
        return Interval(found.mean, lowest, math.inf)
    half = students_t(0.975, found.freedom) * found.deviation
    return Interval(found.mean, max(lowest, found.mean - half), max(lowest, found.mean + half))


def students_t(probability: float, freedom: int) -> float:
    """A quantile of Student's t.

    Exact for one and two degrees of freedom; else by the expansion of Abramowitz and Stegun, 26.7.5, which is right to
    0.2 % for 0.975.

    Args:
      probability: above 0 and below 1.
      freedom: degrees of it, at least 1.
    """
    assert 0 < probability < 1, probability
    assert freedom >= 1, freedom
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
