"""Opening an image file: what it is, why it may have to be left alone, and its pixels, decoded strictly."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Optional

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin, UnidentifiedImageError

from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import metadata, native

# Reasons for leaving an image as it is. They are words of the manifest's `reason` column.
ALPHA = "alpha"
HIGH_BIT_DEPTH = "high-bit-depth"
ANIMATED = "animated"
MULTI_PICTURE = "multi-picture"
ALREADY_COMPRESSED = "already-compressed"

JPEG_MAGIC = b"\xff\xd8\xff"
_EOI = b"\xff\xd9"
_MAGIC = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"BM")

# Formats that Pillow lists but that run other programs, only draw a placeholder, or are not pictures.
_REFUSED_FORMATS = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FPX", "MIC", "FITS"}

_SEVERAL_FRAMES_MOVE = {"GIF", "WEBP", "PNG", "AVIF", "FLI"}

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_pillow_limit = threading.Lock()


class Source:
    """An image file whose header has been read.

    Attributes:
      data: the file.
      format: Pillow's name of the file format, `JPEG`, `PNG`, ...
      media_type: e.g. `image/png`.
      orientation: EXIF's, 1..8; 1 where the pixels are upright.
      width, height: in pixels as displayed, that is, after the EXIF orientation.
      obstacle: why it cannot become a JPEG without losing more than detail (`alpha`, `high-bit-depth`, `animated`,
        `multi-picture`), or why it should not (`already-compressed`); None where nothing stands in the way.
      flattens: whether `pixels` can make an 8-bit picture of it in spite of the obstacle.
    """

    _decoded: Optional[_Decoded] = None

    def __init__(self, data: bytes, image: ImageFile.ImageFile) -> None:
        self.data = data
        self._image = image
        self.format = "JPEG" if image.format == "MPO" else str(image.format)
        self.media_type = Image.MIME.get(self.format, "application/octet-stream")
        self.obstacle = _obstacle(image, data)  # first of all: looking for EXIF can make Pillow load the pixels
        self.orientation = image.getexif().get(_ORIENTATION, 1) if _may_be_turned(image) else 1
        turned = self.orientation in (5, 6, 7, 8)
        self.width, self.height = image.size[::-1] if turned else image.size
        self.flattens = self.obstacle != ALREADY_COMPRESSED and image.mode not in ("I", "F")

    @functools.cached_property
    def _image(self) -> ImageFile.ImageFile:
        """Pillow's, which `__init__` is given where Pillow has read the header."""
        return _open(self.data)

    @property
    def is_coded(self) -> bool:
        """Whether it is a JPEG whose coefficients may be read."""
        return self.format == "JPEG"

    @property
    def unit(self) -> tuple[int, int]:
        """Pixels of a JPEG, as coded, that its blocks come in together: down and across."""
        layers = getattr(self._image, "layer", [])  # of each component: its name, its sampling across and down, ...
        if len(layers) < 2:
            return 8, 8
        return 8 * max(layer[2] for layer in layers), 8 * max(layer[1] for layer in layers)

    def segments(self, mode: str, policy: str) -> bytes:
        """The metadata to carry over, see metadata.kept_segments."""
        return metadata.kept_segments(self._image, mode, policy)

    def density(self, policy: str) -> tuple[int, int]:
        return metadata.density(self._image, policy)

    def luma_steps(self) -> Optional[tuple[int, ...]]:
        """The luminance quantisation table of a JPEG, 64 steps in natural order; None for other formats."""
        tables = getattr(self._image, "quantization", None)
        return tuple(tables[min(tables)]) if self.format == "JPEG" and tables else None

    def verify(self) -> None:
        """Decodes and throws the pixels away.

        Raises:
          ImageError: the file is truncated or corrupt.
        """
        if self.obstacle == ALREADY_COMPRESSED and self.data.endswith(_EOI):
            return  # our own files end so; anything shorter is decoded, which tells how it is broken
        if self.is_coded and native.open_coded(self.data) is not None:
            return
        with _DECODING:
            self._decode()

    def pixels(self) -> Image.Image:
        """The picture, oriented, without alpha (over white), the first frame of several.

        Returns:
          An image of mode `L`, `RGB`, or `RGBX`, which is RGB with an unused fourth byte: what the JPEG decoder
          gives, handed to the encoder without a copy.

        Raises:
          ImageError: the file is truncated or corrupt.
        """
        with _DECODING:
            image = self._decode()
            if self.orientation in _TRANSPOSE:
                image = image.transpose(_TRANSPOSE[self.orientation])
            return _to_8bit(image, self._image.info.get("icc_profile"))

    def samples(self, pixels: Image.Image) -> NDArray[np.uint8]:
        """The samples of `pixels()`, `(rows, columns)` or `(rows, columns, 3 or 4)`, not copied where it can be helped.

        Pillow copies an image, twice, to make an array of it; the decoder had one.
        """
        if self._decoded is not None and self._decoded.image is pixels:
            return self._decoded.samples
        return np.asarray(pixels)

    def _decode(self) -> Image.Image:
        if self.format == "JPEG" and (decoded := _decode_strictly(self.data, self._image)) is not None:
            self._decoded = decoded
            return decoded.image
        self._image.load()
        return self._image


class _PlainJPEG(Source):
    """A JPEG that says nothing beside its picture; Pillow opens it only where it is asked something else."""

    format = "JPEG"
    media_type = "image/jpeg"
    orientation = 1
    flattens = True

    def __init__(self, data: bytes, header: native.PlainHeader) -> None:
        self.data = data
        self.width, self.height, self._luma_steps, has_more = header
        self.obstacle = MULTI_PICTURE if has_more else None

    def segments(self, mode: str, policy: str) -> bytes:
        """There are none."""
        return b""

    def density(self, policy: str) -> tuple[int, int]:
        return super().density(policy) if policy == "all" else (0, 0)

    def luma_steps(self) -> tuple[int, ...]:
        """The luminance quantisation table, 64 steps in natural order."""
        return self._luma_steps


class _TwelveBitJPEG(Source):
    """A JPEG of more than 8 bits a sample, of which only the frame header can be read here."""

    def __init__(self, data: bytes, width: int, height: int) -> None:
        self.data = data
        self.format = "JPEG"
        self.media_type = Image.MIME["JPEG"]
        self.width, self.height = width, height
        self.orientation = 1
        self.obstacle = HIGH_BIT_DEPTH
        self.flattens = False

    @property
    def is_coded(self) -> bool:
        return False

    def luma_steps(self) -> None:
        """Nothing is read behind the frame header."""

    def verify(self) -> None:
        """Nothing here decodes it; it is passed on as it is."""


def open_image(data: bytes, max_pixels: Optional[int] = None) -> Source:
    """Reads the header of an image file.

    Args:
      data: the file.
      max_pixels: width x height above which nothing is decoded; None for no limit.

    Raises:
      ImageError: `empty`, `not-an-image`, `corrupt`, or `too-many-pixels`.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    if data.startswith(JPEG_MAGIC) and (header := native.plain_header(data)) is not None:
        _check_size(header.width, header.height, max_pixels)
        return _PlainJPEG(data, header)
    with _DECODING:
        try:
            image = _open(data)
        except UnidentifiedImageError:
            frame = metadata.frame_header(data) if data.startswith(JPEG_MAGIC) else None
            if frame is not None and frame.precision != 8:
                return _TwelveBitJPEG(data, frame.width, frame.height)
            if data.startswith(_MAGIC) or data[4:8] in (b"ftyp", b"jP  "):
                raise ImageError("corrupt", "the header of the file is damaged") from None
            raise ImageError("not-an-image", "the content is no image format that can be read") from None
        _check_size(*image.size, max_pixels)
        return Source(data, image)


def _check_size(width: int, height: int, max_pixels: Optional[int]) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            "too-many-pixels",
            f"{width} x {height} is more than the limit of {max_pixels} pixels; raise it with --max-pixels",
        )


def _open(data: bytes) -> ImageFile.ImageFile:
    if data.startswith(JPEG_MAGIC):
        try:
            return JpegImagePlugin.jpeg_factory(io.BytesIO(data))
        except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as Image.open, which is slower
            raise UnidentifiedImageError(str(error)) from error
    with _without_pillows_pixel_limit():
        return Image.open(io.BytesIO(data), formats=_readable_formats())


class _Decoding:
    """Turns whatever a decoder raises over a strange file into an ImageError."""

    def __enter__(self) -> None:
        """Nothing is kept: one object serves all threads."""

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if isinstance(error, ImageError) or not isinstance(error, Exception):
            return
        if isinstance(error, MemoryError):
            raise ImageError("too-many-pixels", "not enough memory to decode it; lower --max-pixels") from error
        text = str(error) or type(error).__name__  # decoders of foreign bytes raise nearly everything
        truncated = "truncated" in text.lower() or "premature end of jpeg file" in text.lower()
        raise ImageError("truncated" if truncated else "corrupt", f"decoding failed: {text}") from error


_DECODING = _Decoding()


@contextlib.contextmanager
def _without_pillows_pixel_limit() -> Iterator[None]:
    """Pillow's limit is one for the whole process; ours is an option of the job, checked right after."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@functools.lru_cache(maxsize=1)
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _REFUSED_FORMATS)


def _may_be_turned(image: ImageFile.ImageFile) -> bool:
    """Whether it is worth while to ask Pillow for the EXIF orientation, which takes as long as reading a header.

    A TIFF's is applied by Pillow when it loads; getexif() no longer has it then.
    """
    return "exif" in image.info or "xmp" in image.info if image.format == "JPEG" else image.format != "TIFF"


def _obstacle(image: ImageFile.ImageFile, data: bytes) -> Optional[str]:
    if metadata.has_mark(image):
        return ALREADY_COMPRESSED
    if image.format == "MPO" or "mp" in image.info or len(image.info.get("sizes", ())) > 1:  # sizes: of an icon
        return MULTI_PICTURE
    if image.format == "JPEG":  # of 8 bits, or Pillow does not open it
        return MULTI_PICTURE if metadata.has_more_behind(data) else None
    if getattr(image, "is_animated", False):
        return ANIMATED if image.format in _SEVERAL_FRAMES_MOVE else MULTI_PICTURE
    if _has_high_bit_depth(image):
        return HIGH_BIT_DEPTH
    if image.has_transparency_data:
        return ALPHA
    return None


def _has_high_bit_depth(image: ImageFile.ImageFile) -> bool:
    if image.mode[0] in "IF":
        return True
    # 16-bit colour is delivered as 8-bit RGB; only the raw mode, e.g. `RGB;16B`, or PPM's largest value tells.
    for tile in image.tile:
        for argument in tile.args if isinstance(tile.args, tuple) else (tile.args,):
            if isinstance(argument, str) and re.search(r";(12|16|32)", argument):
                return True
        if image.format == "PPM" and isinstance(tile.args, tuple) and isinstance(tile.args[-1], int):
            return tile.args[-1] > 255
    return False


class _Decoded(NamedTuple):
    """A picture, and the same memory as an array."""

    image: Image.Image
    samples: NDArray[np.uint8]


def _decode_strictly(data: bytes, image: ImageFile.ImageFile) -> Optional[_Decoded]:
    """Decodes a JPEG so that libjpeg's warnings are errors.

    Pillow ignores them and returns a picture that is grey from the damage on. The pixels are the same as Pillow's.

    Returns:
      None where Pillow has to decode: CMYK, which is only checked here, and layouts that TurboJPEG does not know.
    """
    layout = {"RGB": "RGBX", "L": "GRAY", "CMYK": "CMYK"}[image.mode]
    try:
        pixels: Any = simplejpeg.decode_jpeg(data, colorspace=layout)
    except ValueError as error:
        if str(error).startswith(native.DAMAGE):
            raise
        return None
    if image.mode == "CMYK":
        return None
    mode = "L" if image.mode == "L" else "RGBX"
    picture = Image.frombuffer(mode, image.size, pixels, "raw", mode, 0, 1)
    return _Decoded(picture, pixels[:, :, 0] if mode == "L" else pixels)


def _to_8bit(image: Image.Image, profile: Optional[bytes]) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image, profile)
    if image.mode == "LAB":
        return _through_profiles(image, ImageCms.createProfile("LAB"))
    if image.mode == "P" and _palette_is_gray(image):
        return image.convert("L")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "RGBX") else image.convert("RGB")


def _palette_is_gray(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") or []
    return all(palette[i] == palette[i + 1] == palette[i + 2] for i in range(0, len(palette), 3))


def _cmyk_to_rgb(image: Image.Image, profile: Optional[bytes]) -> Image.Image:
    """Through the embedded profile where there is one, else by 255 - min(255, ink + black) as every viewer does."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            return _through_profiles(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return image.convert("RGB")


def _through_profiles(image: Image.Image, profile: Any) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # only None when converting in place
    return converted
