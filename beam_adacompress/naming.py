"""File names: which keys are safe, and what the result of each is called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from beam_adacompress.errors import ImageError

SUFFIX = ".jpg"

_LONGEST_NAME = 255  # bytes, on nearly every filesystem

# Of images.
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ppm")


def check_key(key: str) -> str:
    """Returns the key if it is a relative path that stays where it is put.

    Raises:
      ImageError: `bad-key`: it is empty, absolute, has an empty, `.` or `..` component, a NUL, or cannot be
        written as UTF-8.
    """
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise ImageError("bad-key", "the file name is not valid UTF-8; rename the file") from None
    separators = key.replace("\\", "/") if os.name == "nt" else key
    drive = os.name == "nt" and ":" in key
    if drive or "\x00" in key or any(part in ("", ".", "..") for part in separators.split("/")):
        raise ImageError("bad-key", f"the key {key!r} is not a path inside the output")
    return key


def output_name(key: str, renamed: bool) -> str:
    """What the result for a key is called: the key, with `.jpg` appended where the format changed."""
    return key + SUFFIX if renamed else key


class Plan(NamedTuple):
    """What a key's result may be called."""

    key: str
    steps_aside: bool  # it has to be renamed, since another result may take its name
    may_rename: bool  # `.jpg` may be appended


def plan(keys: Sequence[str]) -> Iterator[Plan]:
    """Plans names so that no two results meet, from the names of the input alone.

    With `a.png` and `a.png.jpg` both in the input, the first becomes `a.png.jpg`; the second then has to step
    aside, to `a.png.jpg.jpg`. An input steps aside whenever its name without the `.jpg` is an input as well,
    whatever becomes of that one. Where the longer name is a folder's, or too long for a file, nothing may be renamed
    to it, and the original is kept.

    Args:
      keys: in ascending order of code points, as sorted() gives them.

    Yields:
      A plan for each, in the same order.
    """
    folders = {folder for key in keys for folder in _folders(key) if folder.endswith(SUFFIX)}
    prefixes: list[str] = []  # between `a` and `a.jpg` only keys that begin with `a` can come
    for key in keys:
        while prefixes and not key.startswith(prefixes[-1]):
            prefixes.pop()
        steps_aside = key.endswith(SUFFIX) and key[: -len(SUFFIX)] in prefixes
        yield Plan(key, steps_aside, may_rename=key + SUFFIX not in folders and _has_room(key))
        prefixes.append(key)


def alone(key: str) -> Plan:
    """Plans the name of a key whose neighbours are not known, so that no two results meet whatever the others are.

    Only the name of an image, such as `a.png`, may have `.jpg` appended; a name that such a result could have, such as
    `a.png.jpg`, steps aside. Where there is no such extension, an image whose format would change is kept.
    """
    steps_aside = key.endswith(SUFFIX) and _is_image(key[: -len(SUFFIX)])
    return Plan(key, steps_aside, may_rename=_is_image(key) and _has_room(key))


def _is_image(key: str) -> bool:
    return key.lower().endswith(EXTENSIONS)


def _has_room(key: str) -> bool:
    """Whether the suffix can be appended to the name."""
    return len(key.rpartition("/")[2].encode("utf-8", "surrogateescape")) + len(SUFFIX) <= _LONGEST_NAME


def _folders(key: str) -> Iterator[str]:
    end = key.find("/")
    while end >= 0:
        yield key[:end]
        end = key.find("/", end + 1)
