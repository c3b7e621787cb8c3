"""A grid of blocks in a few numbers: how rough they are, at which frequencies, and what they look like from afar.

What is weighed and counted is up to the caller, see `Averages`. The native core does the arithmetic where it is there,
numpy where not; they differ by rounding.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg import native

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Averages:
    """What blocks are summed up by."""

    rings: Floats  # weights of coefficients, `(rings, 64)`
    luma: Floats  # of those of Y: all, those across, those down, `(3, 64)`
    thresholds: Floats  # of the sizes of coefficients of Y, `(thresholds, 64)`
    luma_cells: Floats  # weights of blocks, `(cells, blocks)`
    chroma_cells: Floats
    ranks: NDArray[np.int32]  # places in the ascending order of blocks by their roughness

    @functools.cached_property
    def packed(self) -> tuple[bytes, ...]:
        """What the native core takes: bytes, since numpy takes as long to show an array's as the core to read them."""
        return tuple(getattr(self, field.name).tobytes() for field in dataclasses.fields(self))


def of_blocks(blocks: Floats, averages: Averages) -> Floats:
    """Sums up the DCT coefficients of blocks.

    Args:
      blocks: as `grid.of_samples` gives them, `(64, 3, blocks)`.
      averages: made for so many blocks.

    Returns:
      Of Y, Cb and Cr each ring of the mean sizes over blocks, as log(1 + size); the roughness (the first row of `luma`,
      log(1 + size)) at each rank; by how much more is across than down; the mean level of Y, Cb and Cr, then their
      deviation between blocks, in units of 64 levels; the share of Y's sizes above each threshold; and the levels of
      the cells of Y, Cb and Cr.
    """
    if native.is_installed():
        return native.summary(np.ascontiguousarray(blocks), averages.packed)
    return by_numpy(blocks, averages)


def by_numpy(blocks: Floats, averages: Averages) -> Floats:
    """The same without the native core."""
    count = np.float32(blocks.shape[2])
    sizes = np.abs(blocks)
    luma = sizes[:, 0]
    along = np.log1p(averages.luma @ luma)  # of each block: all bands but the first, across, down
    rough = np.sort(along[0])
    means = blocks[0] / 8  # levels of the blocks, components x blocks
    level = means.sum(axis=1, keepdims=True) / count
    spread = np.sqrt(np.square(means - level).sum(axis=1) / count)
    above = np.array([np.count_nonzero(luma > each[:, None]) for each in averages.thresholds], np.float32)
    across, down = along[1:].sum(axis=1) / count
    return np.concatenate(
        [
            np.log1p(averages.rings @ (sizes.sum(axis=2) / count)).T.ravel(),
            rough[averages.ranks],
            [across - down],
            level[:, 0] / 64,
            spread / 64,
            above / luma.size,
            averages.luma_cells @ means[0],
            (averages.chroma_cells @ means[1:].T).T.ravel(),
        ],
        dtype=np.float32,
        casting="same_kind",
    )
