"""Quantisation-table families: each maps a quality to a luminance and a chrominance table.

Tables are 64 steps in natural (row-major) order: index 8 * v + u for vertical frequency v and horizontal
frequency u. Steps are 1..255, so that every baseline decoder reads the files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

ANNEXK = "annexk"

Table = tuple[int, ...]  # 64 steps, 1..255


class Quantisation(NamedTuple):
    """The tables of one JPEG; both chrominance components share one."""

    luma: Table
    chroma: Table


# ITU-T T.81, Annex K, tables K.1 and K.2.
# fmt: off
_K1 = (
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
)
_K2 = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on


def scale(table: Table, quality: int) -> Table:
    """Scales a quality-50 table as the Independent JPEG Group's libjpeg does.

    With s = 5000 / q below 50 and 200 - 2 q from there on (integer division), each step becomes
    clip((step * s + 50) / 100, 1, 255).
    """
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(255, max(1, (step * factor + 50) // 100)) for step in table)


def _annexk(quality: int) -> Quantisation:
    return Quantisation(scale(_K1, quality), scale(_K2, quality))


FAMILIES: Mapping[str, Callable[[int], Quantisation]] = {ANNEXK: _annexk}


def quantisation(family: str, quality: int) -> Quantisation:
    """The tables of a family at a quality.

    Raises:
      TypeError: quality is not an integer.
      ValueError: quality is not in 1..100, or the family is unknown.
    """
    if not isinstance(quality, int) or isinstance(quality, bool):
        raise TypeError(f"quality must be an integer from 1 to 100, got {quality!r}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}")
    if family not in FAMILIES:
        raise ValueError(f"unknown quantisation tables {family!r}; known: {', '.join(sorted(FAMILIES))}")
    return _computed(family, quality)


@functools.lru_cache(maxsize=1024)
def _computed(family: str, quality: int) -> Quantisation:
    return FAMILIES[family](quality)
