"""JPEG's DCT coefficients in the geometry of a network's input: upright, halved, cut. No pixels are made.

    read_dct, 4:2:0 ─▶ upright ─▶ halved as often as the input fits in twice ─▶ the centre, grey around it ─▶ y, cbcr

All of that is exact in terms of the samples that the coefficients stand for, and falls on whole blocks:

- upright: as the EXIF orientation says. A flip reverses the blocks and negates the odd frequencies of its axis, a
  transposition swaps the axes of blocks and frequencies. Compression turns pixels, so a compressed image is upright.
- halved: each 2 x 2 samples become their mean, `read_dct` tells how. Images below twice the input stay as they are.
- the centre, in whole 16 x 16 pixels, so that Y and chroma cover the same. Where an image is smaller, blocks of
  zeros, which are grey, go around it.

Of two files of the same picture, one turned and one marked to be turned, the blocks are the same where the sides are
multiples of 16; elsewhere the incomplete blocks lie on opposite sides, and the two are up to 15 pixels apart.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg import dct
from beam_adacompress.jpeg.dct import Plane
from beam_adacompress.jpeg.layout import TURNS, ZIGZAG
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.source import open_image

RULES = 1  # to be raised with every change here that changes a view: answers to it are cached

RESIZES = ("halve", "crop")

_ODD = np.array([1, -1] * 4, np.float32)  # the sign of each frequency in the mirror


class View(NamedTuple):
    """What a network sees of an image; its two inputs, without the batch axis."""

    y: NDArray[np.float32]  # rows x columns x 64, dequantised
    cbcr: NDArray[np.float32]  # rows / 2 x columns / 2 x 128: Cb's coefficients first


def view(
    data: bytes,
    rows: int,
    columns: int,
    resize: str = "halve",
    order: str = "natural",
    max_pixels: Optional[int] = Settings.max_pixels,
) -> View:
    """A JPEG as a network on DCT input takes it.

    Args:
      data: the file.
      rows, columns: of blocks of Y, even: 28 x 28 for 224 x 224 pixels.
      resize: `halve`, as often as the network's input fits in twice; or `crop`: the centre at the size that it has.
      order: of the 64 coefficients: `natural` or `zigzag`.
      max_pixels: width x height above which nothing is decoded; None for no limit.

    Raises:
      ImageError: as `read_dct`.
      ValueError: an argument is none of the allowed ones.
    """
    if min(rows, columns) < 2 or rows % 2 or columns % 2:
        raise ValueError(f"rows={rows} columns={columns}: both must be even, since a block of chroma covers two of Y")
    if resize not in RESIZES:
        raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {resize!r}")
    dct.check_arguments(True, "4:2:0", order)
    found = dct.read_dct(data, subsampling="4:2:0", max_pixels=max_pixels)
    assert found.cb is not None  # 4:2:0 has them for grayscale too
    assert found.cr is not None
    planes = [_whole(found.y, found.cb), found.cb, found.cr]
    if (turn := TURNS.get(open_image(data).orientation)) is not None:
        planes = [turned(plane, *turn) for plane in planes]
    while resize == "halve" and planes[1].shape[0] >= rows and planes[1].shape[1] >= columns:
        planes = [dct.halved(dct.halved(plane, 0), 1) for plane in planes]
    bands = ZIGZAG if order == "zigzag" else slice(None)
    y, cb, cr = (plane[..., bands] for plane in _centre(planes, rows // 2, columns // 2))
    return View(y, np.concatenate([cb, cr], axis=-1))


def turned(plane: Plane, transpose: bool = False, down: bool = False, across: bool = False) -> Plane:
    """The coefficients of the picture transposed, then flipped downwards, across, or both.

    Args:
      plane: ... x rows x columns x 64, in natural order; int16 or floating-point.
      transpose: swap rows and columns.
      down: upside down.
      across: left becomes right.
    """
    blocks = plane.reshape(*plane.shape[:-1], 8, 8)
    if transpose:
        blocks = blocks.swapaxes(-4, -3).swapaxes(-2, -1)
    signs = _ODD.astype(plane.dtype)
    if down:
        blocks = blocks[..., ::-1, :, :, :] * signs[:, np.newaxis]
    if across:
        blocks = blocks[..., ::-1, :, :] * signs
    same: Plane = blocks.reshape(*blocks.shape[:-2], 64)
    return same


def _whole(y: Plane, chroma: Plane) -> Plane:
    """Y with two blocks for each of chroma: the last row and column repeated where they are odd.

    Those blocks lie outside the image. Without them, a flip would shift Y against chroma.
    """
    missing = [2 * chroma.shape[axis] - y.shape[axis] for axis in (0, 1)]
    return np.pad(y, [*((0, count) for count in missing), (0, 0)], mode="edge") if any(missing) else y


def _centre(planes: list[Plane], rows: int, columns: int) -> list[Plane]:
    """Of Y, Cb and Cr; rows and columns of chroma."""
    top, left = (planes[1].shape[0] - rows) // 2, (planes[1].shape[1] - columns) // 2
    return [_cut(plane, unit * top, unit * left, unit * rows, unit * columns) for plane, unit in zip(planes, (2, 1, 1))]


def _cut(plane: Plane, top: int, left: int, rows: int, columns: int) -> Plane:
    inner = plane[max(0, top) : top + rows, max(0, left) : left + columns]
    cut = np.zeros((rows, columns, 64), np.float32)
    cut[max(0, -top) :, max(0, -left) :][: inner.shape[0], : inner.shape[1]] = inner
    return cut
