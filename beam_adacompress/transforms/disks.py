"""Writing to disks of this machine: a file is whole under its name or absent, and several writers take turns."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

_Put = TypeVar("_Put")


def write(path: str, data: bytes, scratch: str) -> None:
    """Writes a file, see `files.write`."""
    with writing(path, scratch) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str, scratch: str) -> Iterator[BinaryIO]:
    """A file to write to, see `files.writing`."""
    with _aside(scratch) as aside:
        with _with_folder(aside, lambda: open(aside, "wb")) as file:
            yield file
        _with_folder(path, lambda: os.replace(aside, path))


def create(path: str, data: bytes, scratch: str) -> bool:
    """Writes a file if there is none yet, see `files.create`."""
    with _aside(scratch) as aside:
        with _with_folder(aside, lambda: open(aside, "wb")) as file:
            file.write(data)
        try:
            _with_folder(path, lambda: os.link(aside, path))
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def turn(path: str, scratch: str) -> Iterator[None]:
    """Waits until nobody else replaces a file, in this process or in another one.

    Args:
      path: of the file.
      scratch: a folder for another file, which is locked meanwhile.

    Raises:
      OSError: the other file cannot be made or locked, or this system has no flock.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no flock, by which writers to a local disk take turns") from error
    os.makedirs(scratch, exist_ok=True)
    # That file stays: were it deleted, one who waits for it and one who comes later would lock two different ones.
    with open(os.path.join(scratch, f"{os.path.basename(path)}.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, which the system does for a process that is killed
        yield


@contextlib.contextmanager
def _aside(scratch: str) -> Iterator[str]:
    """A name for a file that is not whole yet, and is gone afterwards."""
    aside = os.path.join(scratch, uuid.uuid4().hex)
    try:
        yield aside
    finally:
        with contextlib.suppress(OSError):
            os.remove(aside)


def _with_folder(path: str, put: Callable[[], _Put]) -> _Put:
    """What `put` gives; the folder is made where it is missing."""
    try:
        return put()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return put()
