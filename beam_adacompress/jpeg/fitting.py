"""Tables for networks: DeepN-JPEG and Feature Distillation, from the statistics of `bands`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

import numpy as np
from PIL import Image

from beam_adacompress.jpeg.bands import BandStats, Floats, basis, blocks, unblocked
from beam_adacompress.jpeg.tables import Family, Table

RANKING = "ranking"
GROUPS = (6, 22, 36)  # bands of low, middle and high frequency in DeepN-JPEG's sense, by rank of their deviation


@dataclasses.dataclass(frozen=True)
class DeepN:
    """DeepN-JPEG's map from the standard deviation d of a band to its step (arXiv 1803.05788).

        q(d) = a - k1 d   if d <= t1         unimportant bands, large steps
               b - k2 d   if t1 < d <= t2
               c - k3 d   if d > t2          important bands, small steps
        step = max(q(d), smallest), at most 255, rounded

    The constants are the published ones (as two public implementations have them). With them the curve jumps from 20
    up to 60 at d = t2; `monotone` keeps the third piece at or below the end of the second.

    Args:
      a, b, c: steps at d = 0, of the three pieces.
      k1, k2, k3: slopes.
      thresholds: `(t1, t2)`; None takes them from the ranking: the 6 bands of largest deviation get the third piece,
        the next 22 the second, the other 36 the first.
      smallest: step.
      monotone: whether a larger deviation never gets a larger step.

    Raises:
      ValueError: the thresholds are not in order.
    """

    a: float = 255.0
    b: float = 80.0
    c: float = 240.0
    k1: float = 9.75
    k2: float = 1.0
    k3: float = 3.0
    thresholds: Optional[tuple[float, float]] = (20.0, 60.0)
    smallest: float = 5.0
    monotone: bool = False

    def __post_init__(self) -> None:
        if self.thresholds is not None and not 0 <= self.thresholds[0] <= self.thresholds[1]:
            raise ValueError(f"thresholds must be two numbers in ascending order, got {self.thresholds}")

    def steps(self, deviations: Floats) -> Table:
        """The table of one component.

        Args:
          deviations: of the 64 bands, in natural order.
        """
        assert deviations.shape == (64,), deviations.shape
        low, high = self.thresholds or _by_rank(deviations)
        pieces = [self.a - self.k1 * deviations, self.b - self.k2 * deviations, self.c - self.k3 * deviations]
        if self.monotone:
            pieces[1] = np.minimum(pieces[1], self.a - self.k1 * low)
            pieces[2] = np.minimum(pieces[2], min(self.b - self.k2 * high, self.a - self.k1 * low))
        found = np.where(deviations <= low, pieces[0], np.where(deviations <= high, pieces[1], pieces[2]))
        return tuple(int(step) for step in np.clip(np.rint(np.maximum(found, self.smallest)), 1, 255))


def _by_rank(deviations: Floats) -> tuple[float, float]:
    """Thresholds between the groups of GROUPS: half-way between the bands on both sides."""
    ranked = np.sort(deviations)[::-1]
    important, middle = GROUPS[0], GROUPS[0] + GROUPS[1]
    return float(ranked[middle - 1 : middle + 1].mean()), float(ranked[important - 1 : important + 1].mean())


def fit_deepn(stats: BandStats, name: str, method: DeepN = DeepN()) -> Family:
    """DeepN-JPEG's tables for the images of a statistic, as a family's quality 50.

    The paper does not say what becomes of chrominance. Here Cb and Cr, which share a table, get that of their pooled
    deviations; images without colour leave the luminance table for both.
    """
    deviations = stats.deviations()
    luma = method.steps(deviations[0])
    colour = stats.count[1:].sum()
    pooled = np.sqrt((np.square(deviations[1:]) * stats.count[1:, None]).sum(axis=0) / colour) if colour else None
    chroma = luma if pooled is None else method.steps(pooled)
    origin = {
        "method": "DeepN-JPEG, arXiv 1803.05788",
        "images": stats.images,
        "parameters": dataclasses.asdict(method),
        "deviations": [[round(float(d), 3) for d in row] for row in deviations],
    }
    return Family(name, luma, chroma, origin)


SQUARE = "square"
ZIGZAG = "zigzag"
DEVIATION = "deviation"
SPARED = (SQUARE, ZIGZAG, DEVIATION)

ZIGZAG_ORDER = tuple(
    sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
)  # natural index of each band in the order of a JPEG file


@dataclasses.dataclass(frozen=True)
class FeatureDistillation:
    """Feature Distillation's defensive quantisation (arXiv 1803.05787).

    One large step for all bands takes small perturbations away: certainly where a coefficient stands at the middle of
    its bin and the perturbation is below half the step. Bands on which accuracy depends are spared with a smaller one.

    Args:
      step: of the other bands; the authors' code has 30.
      spared_step: of the spared bands; the authors' code has 25.
      spared: which: `square`, the top-left corner (the authors' code, 4 x 4 = 16 bands); `zigzag`, the first ones in
        zig-zag order; `deviation`, those of largest standard deviation (as the paper describes it).
      bands: how many are spared; for `square` a square number.

    Raises:
      ValueError: an argument is out of range.
    """

    step: int = 30
    spared_step: int = 25
    spared: str = SQUARE
    bands: int = 16

    def __post_init__(self) -> None:
        for name in ("step", "spared_step"):
            if not 1 <= getattr(self, name) <= 255:
                raise ValueError(f"{name} must be from 1 to 255, got {getattr(self, name)}")
        if self.spared not in SPARED:
            raise ValueError(f"spared must be one of {', '.join(SPARED)}, got {self.spared!r}")
        side = round(self.bands**0.5)
        if not 0 <= self.bands <= 64 or (self.spared == SQUARE and side * side != self.bands):
            raise ValueError(f"bands must be from 0 to 64, and a square number for a square, got {self.bands}")

    def steps(self, deviations: Optional[Floats] = None) -> Table:
        """The table; `deviations` of the 64 bands are needed where they decide."""
        if self.spared == SQUARE:
            side = round(self.bands**0.5)
            spared: Sequence[int] = [8 * v + u for v in range(side) for u in range(side)]
        elif self.spared == ZIGZAG:
            spared = ZIGZAG_ORDER[: self.bands]
        else:
            assert deviations is not None, "the deviations decide which bands are spared"
            spared = np.argsort(-deviations, kind="stable")[: self.bands].tolist()
        chosen = set(spared)
        return tuple(self.spared_step if band in chosen else self.step for band in range(64))


def fit_feature_distillation(
    stats: BandStats,
    name: str,
    method: FeatureDistillation = FeatureDistillation(),
) -> Family:
    """Feature Distillation's tables as a family's quality 50; the same for all components, as in the authors' code."""
    steps = method.steps(stats.deviations()[0])
    origin = {
        "method": "Feature Distillation, arXiv 1803.05787",
        "images": stats.images,
        "parameters": dataclasses.asdict(method),
    }
    return Family(name, steps, steps, origin)


def distil(pixels: Image.Image, table: Table) -> Image.Image:
    """The defence at the decoder: quantises and de-quantises the DCT of each colour plane; no file is made.

    As the authors' code does it, on R, G and B; but levels are shifted by 128 first, as in JPEG, sizes need not be
    multiples of 8, and pixels are rounded at the end. The two-pass defence is `encode` with tables made for networks
    first, and this before the network; the two do not share their bins, since `encode` quantises Y, Cb and Cr. It is a
    defence against attackers that do not know of it, and on the network of `benchmarks/feature_distillation.py` no
    better one than plain JPEG.

    Args:
      pixels: of mode `L`, `RGB` or `RGBX`.
      table: 64 steps in natural order.

    Returns:
      An image of mode `L` or `RGB`.
    """
    picture = pixels if pixels.mode == "L" else pixels.convert("RGB")
    values = np.asarray(picture)
    planes = values[:, :, None] if picture.mode == "L" else values
    steps = np.array(table, np.float64)
    done = []
    for index in range(planes.shape[2]):
        quantised = np.rint((blocks(planes[:, :, index]) - 128) @ basis().T / steps)
        done.append(unblocked(quantised * steps @ basis() + 128, *planes.shape[:2]))
    result = np.clip(np.rint(np.stack(done, axis=-1)), 0, 255).astype(np.uint8)
    return Image.fromarray(result[:, :, 0] if picture.mode == "L" else result)
