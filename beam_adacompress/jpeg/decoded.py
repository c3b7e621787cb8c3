"""The image that was decoded last in this thread, so that choosing and compressing decode it once.

    ChooseQuality: keep(opened, picture, ...) ─▶ ... the same row and thread ... ─▶ CompressJPEG: take(row.data)

Where the two transforms are fused, which is the rule, the second one is handed the very object that the first one
gave; where they are not, the data are another object and are decoded again. One image is kept, and only until the next
one comes: memory does not grow.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Optional

from beam_adacompress.jpeg.picture import Picture, open_picture
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.source import Source


class Decoded(NamedTuple):
    """An image file and its picture."""

    opened: Source
    picture: Picture
    settings: Settings  # that it was opened for

    def picture_for(self, settings: Settings) -> Picture:
        """The picture as `open_picture` gives it for some settings: decoded again where they ask for another way."""
        if (settings.engine, settings.subsampling) == (self.settings.engine, self.settings.subsampling):
            return self.picture
        return open_picture(self.opened, settings)


class _Last(threading.local):
    def __init__(self) -> None:
        self.image: Optional[Decoded] = None


_last = _Last()


def keep(opened: Source, picture: Picture, settings: Settings) -> None:
    """Keeps a decoded image, and the settings that it was opened for."""
    _last.image = Decoded(opened, picture, settings)


def take(data: bytes, max_pixels: int) -> Optional[Decoded]:
    """The picture of a file, if it is the one that was kept: the same object, not only the same bytes. Forgets them.

    Args:
      data: the file.
      max_pixels: None is given for images of more, so that whoever opens them says what is wrong.
    """
    found, _last.image = _last.image, None
    if found is None or found.opened.data is not data or found.opened.width * found.opened.height > max_pixels:
        return None
    return found
