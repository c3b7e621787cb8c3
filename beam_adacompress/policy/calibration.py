"""A promise of agreement from a finite sample: Learn then Test (Angelopoulos et al., arXiv 2110.01052).

A policy has a setting, from cautious to bold. Which settings keep the promised agreement is decided by tests on images
that training never saw, one after the other from the most cautious one, up to the first that cannot be shown to keep
it (fixed-sequence testing). So with the stated confidence, over samples like this one, the setting that is taken keeps
the promise; there is nothing to correct for the number of settings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Optional

CONFIDENCE = 0.95  # of promises, where nothing else is said


def p_value(disagreements: int, images: int, target: float) -> float:
    """How likely so few disagreements are, if true agreement is below a target: the exact binomial tail.

        P(X <= disagreements),  X ~ Binomial(images, 1 - target)

    Args:
      disagreements: that were seen.
      images: of which they were seen.
      target: agreement, 0..1.
    """
    assert 0 <= disagreements <= images, (disagreements, images)
    risk = 1 - target
    if risk >= 1 or not images:
        return 1.0
    if risk <= 0:
        return 1.0  # nothing finite shows that no image ever disagrees
    logs = [
        math.lgamma(images + 1)
        - math.lgamma(count + 1)
        - math.lgamma(images - count + 1)
        + count * math.log(risk)
        + (images - count) * math.log1p(-risk)
        for count in range(disagreements + 1)
    ]
    largest = max(logs)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(each - largest) for each in logs))


@dataclasses.dataclass(frozen=True)
class Promise:
    """What a calibration shows.

    Args:
      target: agreement, 0..1.
      confidence: of the promise, over samples of calibration images, 0..1.
      images: of the sample.
      agreement: that the sample has at the setting that is taken; None where none is.
      setting: index of that setting, from the most cautious one; None where not even that one keeps the promise.
    """

    target: float
    confidence: float
    images: int
    agreement: Optional[float]
    setting: Optional[int]

    @property
    def holds(self) -> bool:
        return self.setting is not None


def calibrate(disagreements: Sequence[int], images: int, target: float, confidence: float = CONFIDENCE) -> Promise:
    """The boldest setting that keeps a promise.

    Args:
      disagreements: on the calibration images, of each setting from the most cautious to the boldest one.
      images: that they are of.
      target: agreement to promise, 0..1.
      confidence: 0..1.

    Raises:
      ValueError: target or confidence is out of range.
    """
    if not 0 < target < 1:
        raise ValueError(f"agreement must be above 0 and below 1, got {target}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence}")
    taken: Optional[int] = None
    for index, count in enumerate(disagreements):
        if p_value(count, images, target) > 1 - confidence:
            break
        taken = index
    agreement = None if taken is None else 1 - disagreements[taken] / images
    return Promise(target, confidence, images, agreement, taken)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was seen on calibration images, from which any promise can be worked out.

    Args:
      images: how many.
      disagreements: of each setting, from the most cautious to the boldest one.
    """

    images: int
    disagreements: tuple[int, ...]

    def promise(self, target: float, confidence: float = CONFIDENCE) -> Promise:
        """The boldest setting that keeps a promise; arguments and errors as for `calibrate`."""
        return calibrate(self.disagreements, self.images, target, confidence)


def images_needed(target: float, confidence: float = CONFIDENCE) -> int:
    """The fewest calibration images with which a promise can be shown: with none of them disagreeing."""
    return math.ceil(math.log(1 - confidence) / math.log(target))
