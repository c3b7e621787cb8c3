"""The DCT of blocks of 8 x 8 pixels anywhere in a picture."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg.bands import dct_line, from_rgb

Floats = NDArray[np.float32]
Places = NDArray[np.int32]


def of_samples(values: NDArray[np.uint8], tops: Places, lefts: Places) -> Floats:
    """DCT coefficients of blocks: `(64, components, blocks)`, in natural order, of levels less 128; colours are zero
    where there are none.

    Args:
      values: samples, `(rows, columns)` or `(rows, columns, 3 or 4)`.
      tops, lefts: where blocks begin, in pixels; each with each. Beyond the edge it is repeated.
    """
    cut = _cut(values, tops, lefts)  # samples x blocks x channels
    if cut.shape[2] == 1:
        levels = np.pad(cut.astype(np.float32) - 128, ((0, 0), (0, 0), (0, 2)))
    else:
        colours, offset = _from_rgb()
        samples = cut.reshape(-1, cut.shape[2]).astype(np.float32)
        levels = (colours[:, : cut.shape[2]] @ samples.T - offset).reshape(3, 64, -1).transpose(1, 2, 0)
    # Along columns, then along rows: small enough for BLAS to leave the other cores to other workers.
    down = _line() @ np.ascontiguousarray(levels.swapaxes(1, 2)).reshape(8, -1)
    across = _line() @ down.reshape(8, 8, -1).swapaxes(0, 1).reshape(8, -1)
    found: Floats = across.reshape(8, 8, -1).swapaxes(0, 1).reshape(64, 3, -1)
    return found


def _cut(values: NDArray[np.uint8], tops: Places, lefts: Places) -> NDArray[np.uint8]:
    """The samples of the blocks of the grid, `(64, blocks, channels)`."""
    height, width = values.shape[:2]
    places = _places(height, width, tops.tobytes(), lefts.tobytes())
    if values.ndim == 3 and values.shape[2] == 4 and values.flags.c_contiguous:  # a pixel is one word
        words: NDArray[np.uint8] = values.reshape(-1, 4).view(np.uint32)[:, 0].take(places).view(np.uint8)
        return words.reshape(64, -1, 4)
    found: NDArray[np.uint8] = values.reshape(height * width, -1)[places]
    return found.reshape(64, -1, found.shape[-1])


@functools.lru_cache(maxsize=64)
def _places(height: int, width: int, tops: bytes, lefts: bytes) -> NDArray[np.intp]:
    """Where the samples of the blocks are in an image, row by row, `(64 * blocks,)`."""
    rows = _positions(np.frombuffer(tops, np.int32), height).T[:, None, :, None]
    columns = _positions(np.frombuffer(lefts, np.int32), width).T[None, :, None, :]
    found: NDArray[np.intp] = (rows * width + columns).reshape(-1)
    return found


def _positions(starts: Places, size: int) -> NDArray[np.intp]:
    """Where the samples of the blocks along one side are, `(count, 8)`; narrow images repeat their edge."""
    found: NDArray[np.intp] = np.minimum(starts.astype(np.intp)[:, None] + np.arange(8), size - 1)
    return found


@functools.lru_cache(maxsize=1)
def _line() -> Floats:
    return dct_line().astype(np.float32)


@functools.lru_cache(maxsize=1)
def _from_rgb() -> tuple[Floats, Floats]:
    """What makes of R, G, B and an unused byte the levels Y, Cb and Cr less 128: `(3, 4)`, and less `(3, 1)`."""
    zero = from_rgb(np.zeros((1, 3)))
    colours = np.pad((from_rgb(np.eye(3)) - zero).T, ((0, 0), (0, 1)))
    return colours.astype(np.float32), (128 - zero).T.astype(np.float32)
