"""The pictures of a report: original and result in one place, as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Optional

from PIL import features

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import KEPT
from beam_adacompress.report.scored import Seen

BUDGET = 2_200_000  # bytes of data URIs in one page

# An image is embedded as it is up to these; else both sides are made again, and small, so that the page stays small.
_LARGEST_BYTES = 64_000
_LARGEST_SIDE = 512  # pixels
_QUALITY = 85
_FORM = "WEBP" if features.check("webp") else "JPEG"
_SHOWN_BY_BROWSERS = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"}

GONE = "Its original or its result is not where it was, so there is nothing to show."

Pair = Callable[[ManifestRow], Optional[tuple[bytes, bytes]]]  # the original's and the result's bytes


class Picture(NamedTuple):
    """One image of the gallery."""

    row: ManifestRow
    seen: Optional[Seen]  # what a backend said; None where it was not asked
    before: Optional[str] = None  # data URI; None where there is nothing to show
    after: Optional[str] = None  # None for a kept image, which is one picture
    width: int = 0  # of the pictures, pixels
    height: int = 0
    scaled: bool = False
    why: str = ""  # there is nothing to show


class Gallery:
    """Makes pictures until the budget is spent; an image that was asked for before is not shown again.

    Args:
      budget: bytes of data URIs.

    Attributes:
      left_out: pictures for which there was no room.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.left_out = 0
        self._left = budget
        self._shown: set[tuple[str, str]] = set()  # run and key

    def pictures(
        self, run: str, rows: Iterable[ManifestRow], pair: Pair, seen: Mapping[str, Seen], most: int
    ) -> Iterator[Picture]:
        """Pictures of rows of written images.

        Args:
          run: that they are of.
          rows: the most interesting one first.
          pair: gives the bytes of an original and its result; None where one of them is gone.
          seen: what a backend said of them, by key.
          most: pictures.
        """
        for row in rows:
            name = (run, row.key)
            if most <= 0:
                return
            if name in self._shown:
                continue
            self._shown.add(name)
            most -= 1
            picture = self._picture(row, pair, seen.get(row.key))
            size = len(picture.before or "") + len(picture.after or "")
            if size > self._left:
                self.left_out += 1
                continue
            self._left -= size
            yield picture

    def _picture(self, row: ManifestRow, pair: Pair, seen: Optional[Seen]) -> Picture:
        loaded = pair(row)
        if loaded is None:
            return Picture(row, seen, why=GONE)
        try:
            return _shown(row, seen, loaded[:1] if row.status == KEPT else loaded)
        except ImageError as error:  # e.g. a kept 12-bit JPEG
            return Picture(row, seen, why=f"It cannot be shown: {error.message}.")


def _shown(row: ManifestRow, seen: Optional[Seen], sides: tuple[bytes, ...]) -> Picture:
    sources = [jpeg.open_image(data) for data in sides]
    too_wide = any(max(source.width, source.height) > _LARGEST_SIDE for source in sources)
    uris, size = [], (0, 0)
    for data, source in zip(sides, sources):
        if not too_wide and len(data) <= _LARGEST_BYTES and source.media_type in _SHOWN_BY_BROWSERS:
            uris.append(_uri(source.media_type, data))
            size = source.width, source.height
            continue
        pixels = source.pixels()
        pixels.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        buffer = io.BytesIO()
        pixels.save(buffer, _FORM, quality=_QUALITY)
        uris.append(_uri(f"image/{_FORM.lower()}", buffer.getvalue()))
        size = pixels.size
    return Picture(row, seen, uris[0], uris[1] if len(uris) > 1 else None, *size, scaled=too_wide)


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
