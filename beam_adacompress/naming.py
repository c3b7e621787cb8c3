"""File names: which keys are safe, and what the result of each is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from beam_adacompress.errors import ImageError

SUFFIX = ".jpg"


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


def taken_names(keys: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Tells for each key whether another key may be renamed to it.

    With `a.png` and `a.png.jpg` both in the input, the first becomes `a.png.jpg`; the second then has to step
    aside, to `a.png.jpg.jpg`. An input steps aside whenever its name without the `.jpg` is an input as well,
    whatever becomes of that one: so all names differ, and each depends on the names of the input alone.

    Args:
      keys: in ascending order of code points, as sorted() gives them.

    Yields:
      (key, steps aside), in the same order. Memory is bounded by the longest chain of keys that begin with one
      another: between `a` and `a.jpg` only keys that begin with `a` can come.
    """
    prefixes: list[str] = []
    for key in keys:
        while prefixes and not key.startswith(prefixes[-1]):
            prefixes.pop()
        yield key, key.endswith(SUFFIX) and key[: -len(SUFFIX)] in prefixes
        prefixes.append(key)
