"""The encoder, and the rule that its result replaces the original only where that is worth it."""

from __future__ import annotations

import dataclasses
import io
from typing import NamedTuple, Optional

from PIL import Image

from beam_adacompress.arguments import check_types
from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import decoded, metadata, source
from beam_adacompress.jpeg.tables import ORIGINAL, Quantisation, quantisation
from beam_adacompress.records import COMPRESSED, KEPT

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
SAVING_BELOW_MINIMUM = "saving-below-minimum"
CHOSEN = "chosen"  # the policy, or what verified it, found nothing that keeps the answer
TOO_LARGE_FOR_JPEG = "too-large-for-jpeg"
LARGEST_SIDE = 65_500  # pixels; the limit of libjpeg
MEDIA_TYPE = "image/jpeg"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to encode, apart from the action that the policy chooses.

    Args:
      subsampling: chroma subsampling, `4:4:4`, `4:2:2` or `4:2:0`.
      optimize: Huffman tables fitted to the image (1.2 times the CPU of decode + encode, 3 to 15 % fewer bytes).
      progressive: progressive scans. With `optimize`: 11 to 14 % fewer bytes at the same pixels.
      keep_metadata: `all`, `icc` or `none`. The EXIF orientation is applied to the pixels in every case.
      min_saving: share of the original's bytes that must be saved, else the original is kept; 0 <= x < 1.
      max_pixels: images of more pixels (width x height) are failures, found before they are decoded.
      flatten: compress alpha (over white), 16-bit, animated (first frame) and multi-picture (first) files as well,
        instead of leaving them alone.

    Raises:
      TypeError, ValueError: an argument is of a wrong type or out of range; the message names it, its value and what is
        allowed.
    """

    subsampling: str = "4:2:0"
    optimize: bool = True
    progressive: bool = True
    keep_metadata: str = "icc"
    min_saving: float = 0.05
    max_pixels: int = 100_000_000
    flatten: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.subsampling not in SUBSAMPLINGS:
            raise ValueError(f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {self.subsampling!r}")
        if self.keep_metadata not in metadata.POLICIES:
            raise ValueError(f"keep_metadata must be one of {', '.join(metadata.POLICIES)}, got {self.keep_metadata!r}")
        if not 0 <= self.min_saving < 1:
            raise ValueError(f"min_saving must be at least 0 and below 1, got {self.min_saving}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")


class Compressed(NamedTuple):
    """What became of one image; fields as in records.CompressedImage."""

    data: bytes
    status: str
    reason: Optional[str]
    media_type: str
    renamed: bool
    width: int
    height: int
    subsampling: Optional[str]


def compress(
    data: bytes, tables: str, quality: int, policy_version: str, settings: Settings, read: Read = read_local
) -> Compressed:
    """Compresses one image file, or keeps it.

    Args:
      data: the file, in any format that Pillow reads.
      tables, quality: the action; with the tables `original` the image is kept.
      policy_version: written into the result as a JPEG comment, so that it is recognised as ours and never
        compressed twice.
      settings: see Settings.
      read: gives the bytes of a file of tables.

    Raises:
      AdaCompressError: the tables cannot be read.
      ImageError: the image cannot be read: `empty`, `not-an-image`, `truncated`, `corrupt`, `too-many-pixels`.
    """
    known = decoded.take(data, settings.max_pixels)
    opened = source.open_image(data, settings.max_pixels) if known is None else known.opened

    def kept(reason: str) -> Compressed:
        return Compressed(data, KEPT, reason, opened.media_type, False, opened.width, opened.height, None)

    obstacle = obstacle_of(opened, settings)
    if tables == ORIGINAL:
        obstacle = obstacle or CHOSEN
    if obstacle:
        if known is None:
            opened.verify()
        return kept(obstacle)
    pixels = opened.pixels() if known is None else known.pixels
    encoded = encode_file(opened, pixels, quantisation(tables, quality, read), policy_version, settings)
    if not is_worth_it(len(encoded), len(data), settings):
        return kept(SAVING_BELOW_MINIMUM)
    return Compressed(
        data=encoded,
        status=COMPRESSED,
        reason=None,
        media_type=MEDIA_TYPE,
        renamed=opened.format != "JPEG",
        width=pixels.width,
        height=pixels.height,
        subsampling=None if pixels.mode == "L" else settings.subsampling,
    )


def obstacle_of(opened: source.Source, settings: Settings) -> Optional[str]:
    """Why an image is kept whatever is chosen for it; None where nothing stands in the way."""
    if max(opened.width, opened.height) > LARGEST_SIDE:
        return TOO_LARGE_FOR_JPEG
    return None if settings.flatten and opened.flattens else opened.obstacle


def is_worth_it(size: int, original: int, settings: Settings) -> bool:
    """Whether a result, in bytes, takes the place of the original."""
    return size <= (1 - settings.min_saving) * original and size < original


def encode_file(
    opened: source.Source, pixels: Image.Image, tables: Quantisation, policy_version: str, settings: Settings
) -> bytes:
    """The file that `compress` makes of an image: with our mark, and the metadata that is kept.

    Raises:
      ImageError: encoding failed.
    """
    return encode(
        pixels,
        tables,
        settings,
        comment=metadata.mark(policy_version),
        segments=opened.segments(pixels.mode, settings.keep_metadata),
        dpi=opened.density(settings.keep_metadata),
    )


def encode(
    pixels: Image.Image,
    tables: Quantisation,
    settings: Settings,
    comment: bytes = b"",
    segments: bytes = b"",
    dpi: tuple[int, int] = (0, 0),
) -> bytes:
    """Encodes 8-bit pixels as JPEG.

    Args:
      pixels: the picture, of mode `L`, `RGB` or `RGBX`.
      tables: used as they are; no quality scaling is applied.
      settings: subsampling, optimize and progressive are read.
      comment: content of the COM segment; none if empty.
      segments: whole marker segments to copy into the header.
      dpi: density for the JFIF header.
    """
    options = {
        "qtables": [list(tables.luma)] if pixels.mode == "L" else [list(tables.luma), list(tables.chroma)],
        "subsampling": -1 if pixels.mode == "L" else settings.subsampling,
        "comment": comment,
        "extra": segments,
        "dpi": dpi,
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


def _save(pixels: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", **options)
    return buffer.getvalue()
