"""Image file -> pixels as a network takes them; a network's scores -> ranked labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg import source
from beam_adacompress.records import Label

Pixels = NDArray[np.uint8]  # height x width x channels (RGB, or one of grey)
Scores = NDArray[np.float32]  # of one picture: classes; of several: pictures x classes

RULES = 1  # to be raised with every change here that changes answers: cached ones are told apart by it
_ROUNDING = 1e-3  # by which a probability may leave 0..1


class Layout(NamedTuple):
    """Of a network's input."""

    height: int
    width: int
    channels: int  # 3, or 1 for grey
    channels_first: bool


def pixels(data: bytes, layout: Layout, crop: float = 1.0, resize: str = "crop") -> Pixels:
    """An image file's pixels at the size of a network's input, upright, bilinear with antialiasing.

    Raises:
      ImageError: it cannot be decoded.
    """
    opened = source.open_image(data)
    if opened.obstacle == source.HIGH_BIT_DEPTH and not opened.flattens:
        raise ImageError("corrupt", "networks take 8 bits a sample, and this image cannot be reduced to them")
    image = opened.pixels()
    box = None if resize == "squash" else _centre(image.size, layout, crop)
    size = (layout.width, layout.height)
    image = image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=3.0)  # crops and resizes in one pass
    array: Pixels = np.asarray(image.convert("RGB" if layout.channels == 3 else "L"))
    return array.reshape(layout.height, layout.width, layout.channels)


def _centre(size: tuple[int, int], layout: Layout, crop: float) -> tuple[float, float, float, float]:
    """The box of the input's aspect ratio in the centre that spans `crop` of the side that binds."""
    width, height = size
    scale = min(width / layout.width, height / layout.height) * crop
    left = max(0.0, (width - layout.width * scale) / 2)  # Pillow takes no -1e-14
    top = max(0.0, (height - layout.height * scale) / 2)
    return left, top, width - left, height - top


def ranked(scores: Scores, names: Sequence[str], top: int, logits: bool) -> tuple[Label, ...]:
    """The best classes, of equal ones the one with the smaller number first.

    Args:
      scores: of one picture, finite.
      names: of the classes.
      top: how many labels to return.
      logits: whether the scores still have to go through softmax.
    """
    if logits:
        powers = np.exp(scores - scores.max())
        scores = powers / powers.sum()
    best = np.argsort(-scores, kind="stable")[:top]
    # A quantised network scores most classes 0: those are not seen at all, rather than the next best.
    return tuple(Label(names[index], min(1.0, float(scores[index]))) for index in best if scores[index] > 0)


def are_probabilities(scores: Scores) -> bool:
    """Whether all are within 0..1. They need not add up to 1: rounded ones of many classes do not, nor do sigmoids."""
    return bool(scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING)


def layout(shape: tuple[Optional[int], ...], path: str) -> Layout:
    """What an input of this shape takes; None or -1 where a dimension is open.

    Raises:
      AdaCompressError: no image of a fixed size.
    """
    for channels_at, rows_at in (3, 1), (1, 2):
        if len(shape) == 4 and (channels := shape[channels_at]) in (1, 3):
            height, width = shape[rows_at], shape[rows_at + 1]
            if height and width and min(height, width) > 0:
                return Layout(height, width, channels, channels_at == 1)
    raise AdaCompressError(f"{path} takes no image of a fixed size and one or three channels, but {_written(shape)}")


def classes(shape: tuple[Optional[int], ...], path: str) -> int:
    """How many classes an output of this shape scores.

    Raises:
      AdaCompressError: it is no vector of at least two scores.
    """
    sizes = [size for size in (shape[1:] if shape[:1] in ((None,), (-1,)) else shape) if size != 1]
    if len(sizes) != 1 or sizes[0] is None or sizes[0] < 2:
        raise AdaCompressError(f"{path} does not answer one score for each class, but {_written(shape)}")
    return sizes[0]


def _written(shape: tuple[Optional[int], ...]) -> str:
    return " x ".join("?" if size in (None, -1) else str(size) for size in shape) or "a single number"


def read_names(data: bytes) -> list[str]:
    """The lines of a label file."""
    return [line.strip() for line in data.decode("utf-8-sig").rstrip("\r\n").split("\n")]
