"""What a policy sees of an image: cheap numbers from one decode that the encoder shares.

The picture is sampled by a grid of 8x8 blocks; their DCT coefficients say how rough it is, at which frequencies, how
evenly, and in which colours; the grid of their averages is a thumbnail. The file says how well it was kept before.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg.fitting import ZIGZAG_ORDER
from beam_adacompress.jpeg.picture import Picture
from beam_adacompress.jpeg.source import Source
from beam_adacompress.jpeg.tables import ANNEXK, quantisation

Floats = NDArray[np.float32]

VERSION = 1  # to be raised with every change here that changes a number: policies are told apart by it

GRID = (8, 12)  # blocks, rows x columns
_RINGS = (0.5, 1.2, 2.1, 3.1, 4.2, 5.6, 7.1, 10.0)  # radial frequencies between which coefficients are averaged
_QUANTILES = (0.1, 0.5, 0.9)
_QUALITIES = (10, 20, 40)
_LUMA_CELLS = (4, 6)
_CHROMA_CELLS = (2, 3)
_COMPONENTS = ("y", "cb", "cr")

NAMES: tuple[str, ...] = (
    "log2_pixels",
    "log2_aspect",
    "log2_bits_per_pixel",
    "is_jpeg",
    "log2_source_step",  # mean of the first ten luminance steps of a JPEG; 0 for others
    "is_gray",
    *(f"{component}_ring_{index}" for component in _COMPONENTS for index in range(len(_RINGS) - 1)),
    *(f"roughness_{quantile:g}" for quantile in _QUANTILES),
    "log_across_down",
    *(f"{component}_{what}" for what in ("mean", "deviation") for component in _COMPONENTS),
    *(f"kept_{quality}" for quality in _QUALITIES),
    *(f"y_{row}_{column}" for row in range(_LUMA_CELLS[0]) for column in range(_LUMA_CELLS[1])),
    *(
        f"{component}_{row}_{column}"
        for component in _COMPONENTS[1:]
        for row in range(_CHROMA_CELLS[0])
        for column in range(_CHROMA_CELLS[1])
    ),
)
_LOG_PIXELS, _LOG_DEPTH = NAMES.index("log2_pixels"), NAMES.index("log2_bits_per_pixel")


def features(opened: Source, picture: Picture) -> Floats:
    """The features of an image.

    Args:
      opened: the file.
      picture: of it.

    Returns:
      `(len(NAMES),)`.
    """
    blocks = picture.grid(_starts(picture.height, GRID[0]), _starts(picture.width, GRID[1]))
    averages = _averages()
    count = np.float32(blocks.shape[2])
    sizes = np.abs(blocks)
    luma = sizes[:, 0]
    along = np.log1p(averages.of_luma @ luma)  # of each block: all bands but the first, across, down
    rough = np.sort(along[0])
    means = blocks[0] / 8  # levels of the blocks, components x blocks
    level = means.sum(axis=1, keepdims=True) / count
    spread = np.sqrt(np.square(means - level).sum(axis=1) / count)
    kept = np.array([np.count_nonzero(luma > half) for half in averages.half_steps], np.float32) / luma.size
    across, down = along[1:].sum(axis=1) / count
    found = np.concatenate(
        [
            _of_file(opened, picture),
            np.log1p(averages.rings @ (sizes.sum(axis=2) / count)).T.ravel(),
            rough[[round(quantile * (rough.size - 1)) for quantile in _QUANTILES]],
            [across - down],
            level[:, 0] / 64,
            spread / 64,
            kept,
            averages.luma_cells @ means[0],
            (averages.chroma_cells @ means[1:].T).T.ravel(),
        ],
        dtype=np.float32,
        casting="same_kind",
    )
    assert found.shape == (len(NAMES),), found.shape
    return found


def source_bytes(seen: NDArray[Any]) -> NDArray[np.float64]:
    """The size of files by their features, `(images, features)`: pixels times bits per pixel."""
    bits: NDArray[np.float64] = np.exp2(seen[:, _LOG_PIXELS].astype(np.float64) + seen[:, _LOG_DEPTH])
    return bits / 8


def _of_file(opened: Source, picture: Picture) -> list[float]:
    area = opened.width * opened.height
    step = opened.luma_steps()
    first = 0.0 if step is None else math.log2(max(1.0, float(np.mean([step[band] for band in ZIGZAG_ORDER[:10]]))))
    return [
        math.log2(area),
        math.log2(opened.width / opened.height),
        math.log2(8 * len(opened.data) / area),
        float(opened.format == "JPEG"),
        first,
        float(picture.is_gray),
    ]


@functools.lru_cache(maxsize=256)
def _starts(size: int, count: int) -> NDArray[np.int32]:
    """Where the blocks of the grid begin along one side."""
    return np.linspace(0, max(0, size - 8), count).astype(np.int32)


class _Averages(NamedTuple):
    """Matrices that average coefficients or blocks, made once."""

    rings: Floats  # over rings of radial frequency, `(rings, 64)`
    of_luma: Floats  # over all bands but the first, those more across than down, and the others, `(3, 64)`
    half_steps: Floats  # half the luminance steps of the standard tables, `(qualities, 64, 1)`
    luma_cells: Floats  # over the blocks of each cell of the thumbnail, in units of 64 levels, `(cells, blocks)`
    chroma_cells: Floats


@functools.lru_cache(maxsize=1)
def _averages() -> _Averages:
    down, across = np.divmod(np.arange(64), 8)
    radius = np.hypot(down, across)
    rings = np.stack([(low <= radius) & (radius < high) for low, high in itertools.pairwise(_RINGS)])
    of_luma = np.stack([np.arange(64) > 0, across > down, down > across])
    scaled = [(each / each.sum(axis=1, keepdims=True)).astype(np.float32) for each in (rings, of_luma)]
    steps = np.array([quantisation(ANNEXK, quality).luma for quality in _QUALITIES], np.float32)
    return _Averages(
        scaled[0], scaled[1], steps[:, :, None] / np.float32(2), _cells(_LUMA_CELLS), _cells(_CHROMA_CELLS)
    )


def _cells(cells: tuple[int, int]) -> Floats:
    """Averages over the blocks of a grid of cells, in units of 64 levels, `(cells, blocks)`."""
    row, column = np.divmod(np.arange(GRID[0] * GRID[1]), GRID[1])
    cell = row // (GRID[0] // cells[0]) * cells[1] + column // (GRID[1] // cells[1])
    belongs = cell == np.arange(cells[0] * cells[1])[:, None]
    return np.asarray(belongs / belongs.sum(axis=1, keepdims=True) / 64, np.float32)
