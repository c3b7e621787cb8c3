"""The native core: JPEGs by their DCT coefficients, without pixels. An extension in C over libjpeg-turbo, see csrc/.

It is optional: where it was not built, `open_coded` gives None, and everything goes the way over Pillow.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from typing import Any, Final, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError, ImageError

_native: Any = None
with contextlib.suppress(ImportError):  # it was not built, or its libjpeg is not there
    _native = importlib.import_module("beam_adacompress.jpeg._native")

AUTO: Final = "auto"
NATIVE: Final = "native"
PILLOW: Final = "pillow"
ENGINES = (AUTO, NATIVE, PILLOW)

CODER: Final = 3  # of files: to be raised with every change that makes others of the same coefficients

MAX_SCANS = 256  # of a progressive file; encoders make about ten, and each costs as much as the image is large

# The complaints of libjpeg that mean damaged picture data; whatever else it says, Pillow has the last word.
DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression", "Invalid SOS", "Application transferred")

_MORE = re.compile(rb"\xff\xd8\xff|\xff\xd9....ftyp", re.DOTALL)

_MISSING = (
    "the native core is not installed: install a C compiler and libjpeg-turbo's headers (Debian: gcc "
    "libjpeg62-turbo-dev, macOS: brew install jpeg-turbo) and then beam-adacompress again, "
    "with ADACOMPRESS_NATIVE=require to see what is wrong"
)


def is_installed() -> bool:
    """Whether the native core was built."""
    return _native is not None


def require(what: str) -> None:
    """Checks that the native core is there.

    Args:
      what: needs it, for the message.

    Raises:
      AdaCompressError: it was not built.
    """
    if _native is None:
        raise AdaCompressError(f"{what} needs the native core, and {_MISSING}")


def engine() -> str:
    """The engine that `auto` stands for, with the version of its library, for a run's record."""
    return PILLOW if _native is None else f"{NATIVE} (libjpeg-turbo {_native.LIBJPEG_TURBO})"


def resolved(chosen: str) -> str:
    """What one of ENGINES comes to here, with the version of its library."""
    return PILLOW if chosen == PILLOW else engine()


class Writing(NamedTuple):
    """How a file is made of coefficients."""

    luma: tuple[int, ...]  # 64 steps, 1..255, natural order
    chroma: tuple[int, ...]
    rounding: float  # 0.5: to the nearest; less: AC coefficients towards zero
    ratios: tuple[int, int]  # of the chrominance: pixels to a sample, down and across
    optimize: bool
    progressive: bool
    segments: bytes = b""  # whole marker segments to copy into the header
    comment: bytes = b""
    dpi: tuple[int, int] = (0, 0)  # across, down


class Coded:
    """The quantised coefficients of one JPEG, grayscale or YCbCr.

    Attributes:
      width, height: pixels, as coded.
      components: 1 or 3.
      ratios: of the chrominance: pixels of the image to a sample, down and across; (1, 1) for grayscale.
    """

    def __init__(self, image: Any) -> None:
        self._image = image
        self.width: int = image.width
        self.height: int = image.height
        self.components: int = image.components
        self.ratios: tuple[int, int] = image.sampling

    def plane(self, component: int) -> NDArray[np.int16]:
        """The coefficients as they are in the file: rows x columns x 64, natural order; read-only, and not copied."""
        return np.asarray(_Plane(self._image, component))

    def table(self, component: int) -> NDArray[np.uint16]:
        """The steps of a component, 64 in natural order."""
        return np.frombuffer(self.steps(component), np.uint16)

    def steps(self, component: int) -> bytes:
        """The same as native 16-bit integers."""
        found: bytes = self._image.table(component)
        return found

    def thumbnail(self) -> NDArray[np.float32]:
        """The mean level of each block of 8 x 8 pixels of Y, 0..255 (and a little beyond): its DC coefficient."""
        step = np.float32(self.table(0)[0])
        levels: NDArray[np.float32] = self.plane(0)[:, :, 0] * (step / 8) + np.float32(128)
        return levels

    def dequantised(self, component: int, ratios: Optional[tuple[int, int]] = None) -> NDArray[np.float32]:
        """The coefficients times their steps, rows x columns x 64, natural order.

        Args:
          component: 0, 1 or 2.
          ratios: to bring the chrominance to: halved, kept, or from a quarter to half; None leaves it as it is.

        Raises:
          ValueError: it would have to be interpolated.
        """
        down, across = ratios or self.ratios
        try:
            values, rows, columns = self._image.dequantised(component, across, down)
        except _native.Unsupported as error:
            raise ValueError(str(error)) from error
        return np.frombuffer(values, np.float32).reshape(rows, columns, 64)

    def bands(self, ratios: tuple[int, int]) -> NDArray[np.float64]:
        """Sums and sums of squares of each band's dequantised coefficients, components x 2 x 64.

        Raises:
          ValueError: the chrominance would have to be interpolated.
        """
        down, across = ratios
        try:
            return np.frombuffer(self._image.bands(across, down), np.float64).reshape(-1, 2, 64)
        except _native.Unsupported as error:
            raise ValueError(str(error)) from error

    def grid(self, tops: NDArray[np.int32], lefts: NDArray[np.int32]) -> NDArray[np.float32]:
        """The DCT of 8 x 8 pixels at each of some places, as `grid.of_samples` gives it."""
        return np.frombuffer(self._image.grid(tops, lefts), np.float32).reshape(64, 3, -1)

    def summary(
        self, tops: NDArray[np.int32], lefts: NDArray[np.int32], averages: tuple[bytes, ...]
    ) -> NDArray[np.float32]:
        """What `summary.of_blocks` makes of the grid of these places, by `Averages.packed`."""
        return np.frombuffer(self._image.summary(tops, lefts, averages), np.float32)

    def turned(self, transpose: bool = False, down: bool = False, across: bool = False) -> Optional[Coded]:
        """The picture transposed, then flipped downwards, across, or both; without loss.

        Returns:
          None where incomplete blocks of its edge would come to lie within it.
        """
        try:
            return Coded(self._image.turned(transpose, down, across))
        except _native.Unsupported:
            return None

    def write(self, how: Writing) -> Optional[bytes]:
        """A JPEG of these coefficients; None where the chrominance would have to be interpolated.

        Raises:
          ImageError: encoding failed.
        """
        down, across = how.ratios
        try:
            written: bytes = self._image.write(
                bytes(how.luma),
                bytes(how.chroma),
                how.rounding,
                across,
                down,
                how.optimize,
                how.progressive,
                how.segments,
                how.comment,
                *how.dpi,
            )
            return written
        except _native.Unsupported:
            return None
        except MemoryError as error:
            raise ImageError("encode-failed", "encoding failed: not enough memory") from error

    def shape(self, component: int, ratios: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of blocks of a component, the chrominance at some ratios."""
        down, across = (1, 1) if component == 0 else ratios
        return -(-self.height // (8 * down)), -(-self.width // (8 * across))

    def writes(self, ratios: tuple[int, int]) -> bool:
        """Whether the chrominance can be brought to these ratios without interpolation: halved, kept, or 4 to 2."""
        down, across = ratios
        return bool(self._image.resamples(across, down))


class _Plane:
    """What numpy makes an array of: memory of the image, which it keeps alive."""

    def __init__(self, image: Any, component: int) -> None:
        address, rows, columns, step = image.plane(component)
        self._image = image
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "typestr": np.dtype(np.int16).str,
            "shape": (rows, columns, 64),
            "strides": (step, 128, 2),
        }


class PlainHeader(NamedTuple):
    """Of a JPEG that says nothing beside its picture; most are such."""

    width: int  # pixels
    height: int
    luma_steps: tuple[int, ...]  # 64, natural order
    has_more: bool  # whether another picture or a film follows


def plain_header(data: bytes) -> Optional[PlainHeader]:
    """Reads the header of a JPEG that has nothing in it but JFIF's marker and what its picture needs, well-formed.

    Pillow takes five to ten times as long, which is 0.06 of decoding and encoding a small picture with it.

    Returns:
      None for any other file, and where the core is not installed.
    """
    found = None if _native is None else _native.header(data)
    return None if found is None else PlainHeader(*found)


def has_more(data: bytes, start: int) -> bool:
    """Whether a JPEG's data hold another picture or a film, from the first scan at `start` on.

    Picture data never hold 0xFFD8FF, and only behind an end marker (0xFFD9) can a film's `ftyp` box stand.
    """
    if _native is not None:  # ten times as fast, and this is done for each file
        return bool(_native.has_more(data, start))
    return _MORE.search(data, start) is not None


def summary(blocks: NDArray[np.float32], averages: tuple[bytes, ...]) -> NDArray[np.float32]:
    """What `summary.of_blocks` gives, by the core, which has to be there, and by `Averages.packed`.

    Raises:
      ValueError: an array is not as large as the others ask for.
    """
    return np.frombuffer(_native.summary(blocks, averages), np.float32)


def best(
    features: NDArray[np.float32], price: float, shape: tuple[int, int, int], *arrays: bytes
) -> tuple[int, float, float]:
    """What `AgreementModel.best` gives, by the core, which has to be there.

    It is no codec's business, but done for each image between reading it and writing it, and thirty small operations
    of numpy, whose code the image has driven out of the caches, take longer than choosing does.

    Args:
      features: `(features,)`, contiguous.
      price: of a byte.
      shape: members, families and qualities.
      arrays: mean, scale, w1, b1, w_ease, rising, w_size and b_size, in float32.

    Raises:
      ValueError: an array is not as large as the others ask for.
    """
    found: tuple[int, float, float] = _native.best(features, price, *shape, *arrays)
    return found


def open_coded(data: bytes, max_pixels: Optional[int] = None) -> Optional[Coded]:
    """Reads the coefficients of a JPEG: one pass of Huffman decoding.

    Limits are checked before anything of the picture's size is allocated: pixels, scans, and that the file has a bit
    for each block.

    Args:
      data: the file.
      max_pixels: width x height above which nothing is decoded; None for no limit.

    Returns:
      None for what has to go the way over Pillow: the core is not installed, or the file is no grayscale or YCbCr JPEG
      of 8 bits in Huffman coding, with Cb and Cr sampled by 1, 2 or 4.

    Raises:
      ImageError: `truncated`, `corrupt` or `too-many-pixels`.
    """
    if _native is None:
        return None
    try:
        return Coded(_native.open(data, 1 << 62 if max_pixels is None else max_pixels, MAX_SCANS))
    except _native.Unsupported:
        return None
    except _native.TooLarge as error:
        raise ImageError("too-many-pixels", f"{error}; raise it with --max-pixels") from error
    except MemoryError as error:
        raise ImageError("too-many-pixels", "not enough memory to decode it; lower --max-pixels") from error
    except _native.Damaged as error:
        text = str(error)
        if not text.startswith(DAMAGE):
            return None
        reason = "truncated" if text.startswith("Premature end") else "corrupt"
        raise ImageError(reason, f"decoding failed: {text}") from error
