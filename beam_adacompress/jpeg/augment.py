"""Augmentation: copies of an image as other people might have made them, from other distances and saved again."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

SIDES = (0.55, 0.9)  # share of width and height that a copy shows, at least and at most
QUALITIES = (80, 95)  # at which it is saved, at least and at most


def augmented(pixels: Image.Image, seed: tuple[int, ...]) -> bytes:
    """One copy: a part of the picture, mirrored or not, saved as JPEG with Pillow's defaults at some quality.

    Args:
      pixels: decoded, of mode `L`, `RGB` or `RGBX`.
      seed: the same copy for the same seed and picture.
    """
    random = np.random.default_rng(seed)
    share = random.uniform(*SIDES)
    width, height = (max(1, round(share * side)) for side in pixels.size)
    left, top = random.integers(0, pixels.width - width + 1), random.integers(0, pixels.height - height + 1)
    copy = pixels.crop((int(left), int(top), int(left) + width, int(top) + height))
    if random.random() < 0.5:
        copy = ImageOps.mirror(copy)
    if copy.mode == "RGBX":
        copy = copy.convert("RGB")
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=int(random.integers(QUALITIES[0], QUALITIES[1] + 1)))
    return buffer.getvalue()
