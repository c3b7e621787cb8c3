"""What a policy sees of an image: cheap numbers from one decode that the encoder shares.

The picture is sampled by a grid of 8x8 blocks; their DCT coefficients say how rough it is, at which frequencies, how
evenly, and in which colours; the grid of their averages is a thumbnail. The file says how well it was kept before.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg.fitting import ZIGZAG_ORDER
from beam_adacompress.jpeg.picture import Picture
from beam_adacompress.jpeg.source import Source
from beam_adacompress.jpeg.summary import Averages
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
_PACK = struct.Struct("6f").pack
_first_ten = operator.itemgetter(*ZIGZAG_ORDER[:10])
_LOG_PIXELS, _LOG_DEPTH = NAMES.index("log2_pixels"), NAMES.index("log2_bits_per_pixel")


def features(opened: Source, picture: Picture) -> Floats:
    """The features of an image.

    Args:
      opened: the file.
      picture: of it.

    Returns:
      `(len(NAMES),)`.
    """
    starts = _starts(picture.height, GRID[0]), _starts(picture.width, GRID[1])
    of_blocks = picture.summary(*starts, _averages())
    # By bytes, since this is done for each image: numpy takes four times as long to make an array of six floats.
    found = np.frombuffer(_PACK(*_of_file(opened, picture)) + of_blocks.tobytes(), np.float32)
    assert found.shape == (len(NAMES),), found.shape
    return found


def source_bytes(seen: NDArray[Any]) -> NDArray[np.float64]:
    """The size of files by their features, `(images, features)`: pixels times bits per pixel."""
    bits: NDArray[np.float64] = np.exp2(seen[:, _LOG_PIXELS].astype(np.float64) + seen[:, _LOG_DEPTH])
    return bits / 8


def source_bytes_of(seen: NDArray[Any]) -> float:
    """The same of one file, `(features,)`."""
    bits: float = 2.0 ** (seen.item(_LOG_PIXELS) + seen.item(_LOG_DEPTH))
    return bits / 8


def _of_file(opened: Source, picture: Picture) -> list[float]:
    area = opened.width * opened.height
    step = opened.luma_steps()
    first = 0.0 if step is None else math.log2(max(1.0, sum(_first_ten(step)) / 10))
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
    """Where the blocks of the grid begin along one side: evenly, from the first pixel to the last eight."""
    last = max(0, size - 8)
    step = last / (count - 1)
    return np.array([*(int(index * step) for index in range(count - 1)), last], np.int32)


@functools.lru_cache(maxsize=1)
def _averages() -> Averages:
    """Rings of radial frequency; what is more across than down, and the other way round; half the luminance steps of
    the standard tables at some qualities; the cells of thumbnails."""
    down, across = np.divmod(np.arange(64), 8)
    radius = np.hypot(down, across)
    rings = np.stack([(low <= radius) & (radius < high) for low, high in itertools.pairwise(_RINGS)])
    of_luma = np.stack([np.arange(64) > 0, across > down, down > across])
    rings, of_luma = ((each / each.sum(axis=1, keepdims=True)).astype(np.float32) for each in (rings, of_luma))
    steps = np.array([quantisation(ANNEXK, quality).luma for quality in _QUALITIES], np.float32)
    last = GRID[0] * GRID[1] - 1
    ranks = np.array([round(quantile * last) for quantile in _QUANTILES], np.int32)
    return Averages(rings, of_luma, steps / np.float32(2), _cells(_LUMA_CELLS), _cells(_CHROMA_CELLS), ranks)


def _cells(cells: tuple[int, int]) -> Floats:
    """Averages over the blocks of a grid of cells, in units of 64 levels, `(cells, blocks)`."""
    row, column = np.divmod(np.arange(GRID[0] * GRID[1]), GRID[1])
    cell = row // (GRID[0] // cells[0]) * cells[1] + column // (GRID[1] // cells[1])
    belongs = cell == np.arange(cells[0] * cells[1])[:, None]
    return np.asarray(belongs / belongs.sum(axis=1, keepdims=True) / 64, np.float32)
