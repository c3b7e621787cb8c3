"""A picture as the encoder takes it: by its pixels, or, if it is a JPEG, by the coefficients that it has already.

    Source ─▶ open_picture ─┬▶ CodedPicture   JPEG, native core: no inverse transform, no colour conversion, no rounding
                            └▶ PixelPicture   everything else, over Pillow

Both are upright, and both can be looked at, encoded at any number of actions, and turned into pixels.
"""

from __future__ import annotations

import abc
import functools
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import grid, native, summary
from beam_adacompress.jpeg.grid import Places
from beam_adacompress.jpeg.layout import RATIOS, TURNS
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.source import Source
from beam_adacompress.jpeg.summary import Averages
from beam_adacompress.jpeg.tables import NEAREST, Quantisation, aligned

_DEFAULT = Settings()
_FINEST = Quantisation((1,) * 64, (1,) * 64)


class Header(NamedTuple):
    """What a JPEG says beside its picture."""

    segments: bytes = b""  # whole marker segments
    comment: bytes = b""  # content of the COM segment; none if empty
    dpi: tuple[int, int] = (0, 0)  # across, down, for the JFIF header; (0, 0): not said


BARE = Header()


class Picture(abc.ABC):
    """A decoded picture, upright.

    Attributes:
      engine: `native` or `pillow`: what encodes it.
      is_gray: whether it has no colours.
      width, height: pixels.
    """

    engine: str
    is_gray: bool
    width: int
    height: int

    @property
    @abc.abstractmethod
    def pixels(self) -> Image.Image:
        """Of mode `L`, `RGB` or `RGBX`."""

    @abc.abstractmethod
    def grid(self, tops: Places, lefts: Places) -> NDArray[np.float32]:
        """The DCT of 8 x 8 pixels at some places, as `grid.of_samples`."""

    def summary(self, tops: Places, lefts: Places, averages: Averages) -> NDArray[np.float32]:
        """The grid in a few numbers, as `summary.of_blocks`."""
        return summary.of_blocks(self.grid(tops, lefts), averages)

    def aligned(self, tables: Quantisation, settings: Settings) -> Quantisation:
        """The tables that `encode` makes of others: these, but for a JPEG by its coefficients, see `Settings.align`."""
        return tables

    @abc.abstractmethod
    def encode(self, tables: Quantisation, settings: Settings, header: Header = BARE) -> bytes:
        """A JPEG of it.

        Args:
          tables: used as `aligned` gives them; no quality scaling is applied.
          settings: subsampling, optimize, progressive and align are read.
          header: what is said beside the picture.

        Raises:
          ImageError: `encode-failed`.
        """


class PixelPicture(Picture):
    """A picture by its pixels."""

    engine = native.PILLOW

    def __init__(self, pixels: Image.Image, samples: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._samples = samples
        self.is_gray = pixels.mode == "L"
        self.width, self.height = pixels.size

    @property
    def pixels(self) -> Image.Image:
        return self._pixels

    def grid(self, tops: Places, lefts: Places) -> NDArray[np.float32]:
        return grid.of_samples(self._samples, tops, lefts)

    def encode(self, tables: Quantisation, settings: Settings, header: Header = BARE) -> bytes:
        return encode(self._pixels, tables, settings, header)


class CodedPicture(Picture):
    """A JPEG by its coefficients."""

    engine = native.NATIVE

    def __init__(self, opened: Source, coded: native.Coded) -> None:
        self._opened = opened
        self._coded = coded
        self.is_gray = coded.components == 1
        self.width, self.height = coded.width, coded.height

    @functools.cached_property
    def pixels(self) -> Image.Image:
        return self._opened.pixels()

    def grid(self, tops: Places, lefts: Places) -> NDArray[np.float32]:
        return self._coded.grid(tops, lefts)

    def summary(self, tops: Places, lefts: Places, averages: Averages) -> NDArray[np.float32]:
        return self._coded.summary(tops, lefts, averages.packed)

    def aligned(self, tables: Quantisation, settings: Settings) -> Quantisation:
        if not settings.align:
            return tables
        coded = self._coded
        made = tables._replace(luma=aligned(tables.luma, coded.steps(0)))
        # Chrominance that is resampled is no multiple of its steps any more.
        if self.is_gray or coded.ratios != RATIOS[settings.subsampling]:
            return made
        blue, red = coded.steps(1), coded.steps(2)
        return made._replace(chroma=aligned(tables.chroma, blue)) if blue == red else made

    def encode(self, tables: Quantisation, settings: Settings, header: Header = BARE) -> bytes:
        written = self._coded.write(_writing(self.aligned(tables, settings), settings, header))
        return encode(self.pixels, tables, settings, header) if written is None else written


def open_picture(opened: Source, settings: Settings = _DEFAULT) -> Picture:
    """Decodes a picture, as far as its engine needs.

    Raises:
      AdaCompressError: the native engine is asked for, and not installed.
      ImageError: the file is truncated or corrupt.
    """
    if settings.engine == native.NATIVE:
        native.require("engine='native'")
    if settings.engine != native.PILLOW and (coded := _coded(opened, settings)) is not None:
        return CodedPicture(opened, coded)
    return of_pixels(opened)


def of_pixels(opened: Source) -> PixelPicture:
    """A picture by its pixels, whatever it is.

    Raises:
      ImageError: the file is truncated or corrupt.
    """
    pixels = opened.pixels()
    return PixelPicture(pixels, opened.samples(pixels))


def _coded(opened: Source, settings: Settings) -> native.Coded | None:
    """The upright coefficients; None for what goes the way over pixels."""
    turn = TURNS.get(opened.orientation)
    if not opened.is_coded or (turn is not None and _splits_blocks(opened, *turn)):
        return None
    coded = native.open_coded(opened.data, settings.max_pixels)
    if coded is not None and turn is not None:
        coded = coded.turned(*turn)
    if coded is None or (coded.width, coded.height) != (opened.width, opened.height):
        return None
    return coded if coded.writes(RATIOS[settings.subsampling]) else None


def _splits_blocks(opened: Source, transpose: bool, down: bool, across: bool) -> bool:
    """Whether a flip moves incomplete blocks to the other side, which shows before anything is decoded."""
    high, wide = opened.unit[::-1] if transpose else opened.unit
    return bool((down and opened.height % high) or (across and opened.width % wide))


def encode(pixels: Image.Image, tables: Quantisation, settings: Settings, header: Header = BARE) -> bytes:
    """Encodes 8-bit pixels as JPEG; arguments and errors as for `Picture.encode`.

    Progressive files of Pillow's are written anew by the native core, if it is there, whose scans are smaller and whose
    coefficients are the same. Pillow rounds to the nearest. For tables that do not, the core quantises what Pillow
    transforms: steps of 1 in between add a thousandth to the error of steps that are worth it.

    Args:
      pixels: the picture, of mode `L`, `RGB` or `RGBX`.

    Raises:
      AdaCompressError: tables with a dead zone, and no native core.
    """
    plain = Settings(subsampling=settings.subsampling, optimize=False, progressive=False)
    if tables.rounding != NEAREST:
        native.require(f"rounding at {tables.rounding}")
        return _rewritten(encode(pixels, _FINEST, plain), tables, settings, header)
    if settings.progressive and settings.engine != native.PILLOW and native.is_installed():
        return _rewritten(encode(pixels, tables, plain), tables, settings, header)
    options = {
        "qtables": [list(tables.luma)] if pixels.mode == "L" else [list(tables.luma), list(tables.chroma)],
        "subsampling": -1 if pixels.mode == "L" else settings.subsampling,
        "comment": header.comment,
        "extra": header.segments,
        "dpi": header.dpi,
    }
    try:
        return _save(pixels, optimize=settings.optimize, progressive=settings.progressive, **options)
    except OSError:
        # libjpeg optimises only what fits into Pillow's buffer of 2 bytes per pixel. Noise at the finest steps
        # does not; such a file is no use to anyone who wants it small, but it has to be right.
        try:
            return _save(pixels, **options)
        except OSError as error:
            raise ImageError("encode-failed", f"encoding failed: {error}") from error


def _rewritten(data: bytes, tables: Quantisation, settings: Settings, header: Header) -> bytes:
    coded = native.open_coded(data)
    assert coded is not None  # Pillow writes what the core reads
    written = coded.write(_writing(tables, settings, header))
    assert written is not None
    return written


def _writing(tables: Quantisation, settings: Settings, header: Header) -> native.Writing:
    return native.Writing(*tables, RATIOS[settings.subsampling], settings.optimize, settings.progressive, *header)


def _save(pixels: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", **options)
    return buffer.getvalue()
