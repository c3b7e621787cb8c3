"""What a file says beside its pixels: which of it is kept, and our own mark."""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from PIL import ImageFile, JpegImagePlugin

from beam_adacompress.jpeg import native

POLICIES = ("all", "icc", "none")

_MARK = b"adacompress "
_LARGEST_SEGMENT = 65533
_ICC_NAME = b"ICC_PROFILE\x00"
_EXIF_NAME = b"Exif\x00\x00"
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\x00"
_PROFILE_SPACE = {"RGB": b"RGB ", "RGBX": b"RGB ", "L": b"GRAY"}


class Frame(NamedTuple):
    """A JPEG's frame header (SOF)."""

    precision: int  # bits a sample
    width: int
    height: int


def frame_header(data: bytes) -> Optional[Frame]:
    """Finds the first frame header of a JPEG without decoding anything; None where there is none."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width = struct.unpack_from(">BHH", data, position + 4)
            return Frame(precision, width, height)
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None


def has_more_behind(data: bytes) -> bool:
    """Whether a second picture or a film follows the picture of a JPEG, with or without an index of them."""
    position = 2
    while position + 4 <= len(data) and data[position + 1] != 0xDA:
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return native.has_more(data, position)


def mark(policy_version: str) -> bytes:
    """The JPEG comment that tells our files from others; short, since it counts in their size."""
    return _MARK + policy_version.encode("utf-8")


def has_mark(image: ImageFile.ImageFile) -> bool:
    """Whether the file is one of ours."""
    if "comment" not in image.info:
        return False
    return any(name == "COM" and content.startswith(_MARK) for name, content in _segments(image))


def kept_segments(image: ImageFile.ImageFile, mode: str, policy: str) -> bytes:
    """The JPEG marker segments to carry over.

    Args:
      image: the opened source file.
      mode: of the picture that will be encoded; a profile of another colour space is dropped,
        because the pixels were converted.
      policy: `all` (EXIF with the orientation reset, XMP, IPTC, comments, ICC), `icc`, or `none`.
    """
    if policy == "none":
        return b""
    icc = _icc_segments(image.info.get("icc_profile"), mode)
    if policy == "icc":
        return icc
    if image.format in ("JPEG", "MPO"):
        return _copied_segments(image) + icc
    exif = image.getexif()
    exif.pop(0x0112, None)
    kept = b""
    if len(exif):
        kept += _segment(0xE1, exif.tobytes())
    if xmp := image.info.get("xmp"):
        kept += _segment(0xE1, _XMP_NAME + (xmp.encode("utf-8") if isinstance(xmp, str) else xmp))
    return kept + icc


def _segments(image: ImageFile.ImageFile) -> list[tuple[str, bytes]]:
    return image.applist if isinstance(image, JpegImagePlugin.JpegImageFile) else []


def _copied_segments(image: ImageFile.ImageFile) -> bytes:
    copied = b""
    for name, content in _segments(image):
        if name == "COM":
            copied += _segment(0xFE, content)
        elif name == "APP1" and content.startswith(_EXIF_NAME):
            copied += _segment(0xE1, _upright(content))
        elif name in ("APP1", "APP13"):
            copied += _segment(0xE0 + int(name[3:]), content)
    return copied


def _segment(marker: int, content: bytes) -> bytes:
    """One marker segment; what does not fit into one is dropped (only EXIF from other formats can be so long)."""
    if len(content) > _LARGEST_SEGMENT:
        return b""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _icc_segments(profile: Optional[bytes], mode: str) -> bytes:
    if not profile or profile[16:20] != _PROFILE_SPACE[mode]:
        return b""
    size = _LARGEST_SEGMENT - len(_ICC_NAME) - 2
    chunks = [profile[start : start + size] for start in range(0, len(profile), size)]
    if len(chunks) > 255:
        return b""
    return b"".join(
        _segment(0xE2, _ICC_NAME + bytes((number, len(chunks))) + chunk) for number, chunk in enumerate(chunks, 1)
    )


def _upright(exif: bytes) -> bytes:
    """The EXIF block with its orientation set to 1, every other byte untouched.

    Writing it anew would break the offsets in makers' notes.
    """
    start = len(_EXIF_NAME)
    order = "<" if exif[start : start + 2] == b"II" else ">"
    try:
        (offset,) = struct.unpack_from(f"{order}L", exif, start + 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start + offset)
        for entry in range(start + offset + 2, start + offset + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}H", exif, entry) == (0x0112,):
                return exif[: entry + 8] + struct.pack(f"{order}H", 1) + exif[entry + 10 :]
    except struct.error:
        return exif  # too short for what it announces: readers will not find an orientation in it either
    return exif


def density(image: ImageFile.ImageFile, policy: str) -> tuple[int, int]:
    """Dots per inch for the JFIF header; (0, 0) leaves it out."""
    horizontal, vertical = image.info.get("dpi", (0, 0)) if policy == "all" else (0, 0)
    return round(horizontal), round(vertical)
