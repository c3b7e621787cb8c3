"""Rate against agreement: what a set of configurations costs for an agreement, and how sure that is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.estimates import Interval

Floats = NDArray[np.float64]


def bytes_needed(sizes: Floats, agreement: Floats, target: float) -> float:
    """Bytes at which a curve reaches an agreement: between two of its points by linear interpolation.

    Agreement is not quite monotone in bytes; the curve is what is reached with at most so many bytes.

    Args:
      sizes: mean bytes of each configuration, `(configurations,)`.
      agreement: mean agreement of each, 0..1, `(configurations,)`.
      target: 0..1.

    Returns:
      Bytes; not a number where the curve does not reach the target.
    """
    assert sizes.shape == agreement.shape, (sizes.shape, agreement.shape)
    order = np.argsort(sizes)
    sizes, reached = sizes[order], np.maximum.accumulate(agreement[order])
    above = np.flatnonzero(reached >= target)
    if not len(above):
        return float("nan")
    index = above[0]
    if index == 0 or reached[index] == reached[index - 1]:
        return float(sizes[index])
    share = (target - reached[index - 1]) / (reached[index] - reached[index - 1])
    return float(sizes[index - 1] + share * (sizes[index] - sizes[index - 1]))


def ratio_of_bytes(
    sizes: tuple[Floats, Floats], agreement: tuple[Floats, Floats], target: float, samples: int = 500, seed: int = 0
) -> Interval:
    """Bytes that one set of configurations needs for an agreement, relative to another set's on the same images.

    The interval is the 95 % percentile bootstrap over images, both sets drawn together. Infinite where the first set
    does not reach the agreement, 0 where the other one does not, and not a number where neither does.

    Args:
      sizes: bytes by image and configuration, `(images, configurations)`, of both sets.
      agreement: 0 or 1 likewise.
      target: 0..1.
      samples: of the bootstrap.
      seed: of the bootstrap.
    """
    images = len(sizes[0])
    assert {len(each) for each in (*sizes, *agreement)} == {images}, "both sets are of the same images"
    random = np.random.default_rng(seed)

    def ratio(drawn: NDArray[np.int64]) -> float:
        own, other = (bytes_needed(s[drawn].mean(0), a[drawn].mean(0), target) for s, a in zip(sizes, agreement))
        if np.isnan(own) != np.isnan(other):
            return float("inf") if np.isnan(own) else 0.0
        return own / other

    drawn = [ratio(random.integers(0, images, images)) for _ in range(samples)]
    known = np.sort([each for each in drawn if not np.isnan(each)])
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = (known[round(share * (len(known) - 1))] for share in (0.025, 0.975))
    return Interval(ratio(np.arange(images)), float(low), float(high))
