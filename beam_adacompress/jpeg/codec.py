"""What becomes of an image file, and the rule that its result replaces the original only where that is worth it."""

from __future__ import annotations

from typing import NamedTuple, Optional

from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.jpeg import decoded, metadata, source
from beam_adacompress.jpeg.picture import Header, Picture, open_picture
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.tables import ORIGINAL, Quantisation, quantisation
from beam_adacompress.records import COMPRESSED, KEPT

SAVING_BELOW_MINIMUM = "saving-below-minimum"
CHOSEN = "chosen"  # the policy, or what verified it, found nothing that keeps the answer
TOO_LARGE_FOR_JPEG = "too-large-for-jpeg"
LARGEST_SIDE = 65_500  # pixels; the limit of libjpeg
MEDIA_TYPE = "image/jpeg"


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
    engine: Optional[str]


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
      AdaCompressError: the tables cannot be read, or what they or the settings need is not installed.
      ImageError: the image cannot be read: `empty`, `not-an-image`, `truncated`, `corrupt`, `too-many-pixels`.
    """
    known = decoded.take(data, settings.max_pixels)
    opened = source.open_image(data, settings.max_pixels) if known is None else known.opened

    def kept(reason: str) -> Compressed:
        return Compressed(data, KEPT, reason, opened.media_type, False, opened.width, opened.height, None, None)

    obstacle = obstacle_of(opened, settings)
    if tables == ORIGINAL:
        obstacle = obstacle or CHOSEN
    if obstacle:
        if known is None:
            opened.verify()
        return kept(obstacle)
    picture = open_picture(opened, settings) if known is None else known.picture_for(settings)
    encoded = encode_file(opened, picture, quantisation(tables, quality, read), policy_version, settings)
    if not is_worth_it(len(encoded), len(data), settings):
        return kept(SAVING_BELOW_MINIMUM)
    return Compressed(
        data=encoded,
        status=COMPRESSED,
        reason=None,
        media_type=MEDIA_TYPE,
        renamed=opened.format != "JPEG",
        width=picture.width,
        height=picture.height,
        subsampling=None if picture.is_gray else settings.subsampling,
        engine=picture.engine,
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
    opened: source.Source, picture: Picture, tables: Quantisation, policy_version: str, settings: Settings
) -> bytes:
    """The file that `compress` makes of an image: with our mark, and the metadata that is kept.

    Raises:
      ImageError: encoding failed.
    """
    header = Header(
        opened.segments("L" if picture.is_gray else "RGB", settings.keep_metadata),
        metadata.mark(policy_version),
        opened.density(settings.keep_metadata),
    )
    return picture.encode(tables, settings, header)
