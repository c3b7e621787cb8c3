"""What the header of a JPEG says about its components: sizes, sampling, quantisation tables, colours.

Stricter than libjpeg, which hides most of it and passes over bytes that do not belong where they are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import ImageError

UNSUPPORTED_JPEG = "unsupported-jpeg"  # a reason: sound, but not of the kinds whose coefficients are read

Table = NDArray[np.uint16]  # 64 steps

# ITU-T T.81, figure A.6: the natural index (8 x vertical + horizontal frequency) of each place of the zig-zag.
# fmt: off
ZIGZAG = np.array((
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
))
# fmt: on

RATIOS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1), "4:1:1": (1, 4)}  # down, across
# EXIF orientation as what makes the picture upright: transposed first, then flipped down, across.
TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
NAMES: dict[tuple[float, float], str] = {ratios: name for name, ratios in RATIOS.items()}


_SOF_HUFFMAN_8 = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential, progressive
_SOF = tuple(marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC))
_SOF_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_APP0, _APP14, _DQT, _SOS, _EOI = 0xE0, 0xEE, 0xDB, 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
_BEHIND_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # stuffed bytes, restarts and fill are scan data


class Layout(NamedTuple):
    """Of a file that can be read: grayscale or YCbCr, 8 bits, Huffman coding."""

    width: int  # pixels, as coded
    height: int
    subsampling: Optional[str]  # `4:2:0`, ...; None for grayscale
    tables: tuple[Table, ...]  # of each component, in natural order

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of each component's plane; what libjpeg calls height_in_blocks and width_in_blocks."""
        ratios = [(1, 1)] if self.subsampling is None else [(1, 1), *[RATIOS[self.subsampling]] * 2]
        return [(-(-self.height // (8 * down)), -(-self.width // (8 * across)), 64) for down, across in ratios]


class _Frame(NamedTuple):
    width: int
    height: int
    idents: tuple[int, ...]  # of the components
    samplings: tuple[int, ...]  # 16 x across + down
    slots: tuple[int, ...]  # of the quantisation tables


def layout_of(data: bytes) -> Layout:
    """Reads the header.

    Raises:
      ImageError: `truncated`, `corrupt` or `unsupported-jpeg`.
    """
    try:
        return _parsed(data)
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise ImageError("corrupt", "the header of the file is damaged") from error


def _parsed(data: bytes) -> Layout:
    frame: Optional[_Frame] = None
    jfif, adobe = False, None
    slots: dict[int, Table] = {}
    tables: dict[int, Table] = {}  # by component
    for marker, content in _segments(data):
        if marker == _DQT:
            slots.update(_tables(content))
        elif marker == _APP0:
            jfif = jfif or (content.startswith(b"JFIF\x00") and len(content) >= 14)
        elif marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
        elif marker in _SOF:
            if frame is not None:
                raise ValueError("two frames")
            frame = _frame(marker, content)
        elif marker == _SOS:
            if frame is None:
                raise ValueError("no frame")
            # A table may be defined anew between the scans: the one of its first scan is a component's.
            for ident in content[1 : 1 + 2 * content[0] : 2]:
                tables.setdefault(ident, slots[frame.slots[frame.idents.index(ident)]])
            if len(tables) == len(frame.idents):
                _require_ycbcr(frame, jfif, adobe)
                own = tuple(tables[ident] for ident in frame.idents)
                return Layout(frame.width, frame.height, _subsampling(frame.samplings), own)
    raise ImageError("truncated", "the file ends before there is a scan of each component")


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers that have content, as (marker, content). Bytes between them are damage, for libjpeg too."""
    position = 2
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill
            position += 1
        if data[position] != 0xFF:
            raise ValueError("no marker")
        marker = data[position + 1]
        if marker == _EOI:
            return
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        end = position + 2 + int(struct.unpack_from(">H", data, position + 2)[0])
        if end > len(data):
            raise ImageError("truncated", "the file ends within its header")
        yield marker, data[position + 4 : end]
        position = end
        if marker == _SOS:
            found = _BEHIND_SCAN.search(data, end)
            if found is None:
                return
            position = found.start()


def _tables(content: bytes) -> Iterator[tuple[int, Table]]:
    """The quantisation tables of a DQT segment: their slot and their 64 steps, from zig-zag to natural order."""
    position = 0
    while position < len(content):
        wide, slot = divmod(content[position], 16)
        steps = np.frombuffer(content, ">u2" if wide else "u1", 64, position + 1)
        table = np.empty(64, np.uint16)
        table[ZIGZAG] = steps
        yield slot, table
        position += 1 + steps.nbytes


def _frame(marker: int, content: bytes) -> _Frame:
    if marker not in _SOF_HUFFMAN_8:
        coding = "arithmetic" if marker in _SOF_ARITHMETIC else "lossless or hierarchical"
        raise ImageError(UNSUPPORTED_JPEG, f"it is coded by {coding} coding, which cannot be read")
    precision, height, width, count = struct.unpack_from(">BHHB", content)
    if precision != 8 or len(content) != 6 + 3 * count or 0 in (width, height):
        raise ValueError("wrong frame")
    return _Frame(width, height, tuple(content[6::3]), tuple(content[7::3]), tuple(content[8::3]))


def _require_ycbcr(frame: _Frame, jfif: bool, adobe: Optional[int]) -> None:
    """By the rules of libjpeg: JFIF is YCbCr, then Adobe's word counts, then the names of the components."""
    if len(frame.idents) == 1:
        return
    if len(frame.idents) != 3:
        raise ImageError(
            UNSUPPORTED_JPEG,
            f"it has {len(frame.idents)} colour components (CMYK or YCCK has 4); only 1 or 3 can be read",
        )
    if not jfif and (adobe == 0 if adobe is not None else bytes(frame.idents) == b"RGB"):
        raise ImageError(UNSUPPORTED_JPEG, "its components are red, green and blue; only Y, Cb and Cr can be read")


def _subsampling(samplings: tuple[int, ...]) -> Optional[str]:
    if len(samplings) == 1:
        return None
    (across, down), *chroma = (divmod(sampling, 16) for sampling in samplings)
    found = {(down / v, across / h) for h, v in chroma if h and v}
    name = NAMES.get(found.pop()) if len(found) == 1 else None
    if name is None:
        factors = ", ".join(f"{sampling >> 4}x{sampling & 15}" for sampling in samplings)
        raise ImageError(UNSUPPORTED_JPEG, f"its sampling factors {factors} are none of {', '.join(RATIOS)}")
    return name
