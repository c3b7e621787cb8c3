"""Writing to disks of this machine: a file is whole under its name or absent, and several writers take turns."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator


def write(path: str, data: bytes, scratch: str) -> None:
    """Writes a file, see `files.write`."""
    with _aside(data, scratch) as aside:
        _with_folder(path, lambda: os.replace(aside, path))


def create(path: str, data: bytes, scratch: str) -> bool:
    """Writes a file if there is none yet, see `files.create`."""
    with _aside(data, scratch) as aside:
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
def _aside(data: bytes, scratch: str) -> Iterator[str]:
    """A whole file under a name of its own, which is gone afterwards."""
    aside = os.path.join(scratch, uuid.uuid4().hex)
    try:
        _write_with_folder(aside, data)
        yield aside
    finally:
        with contextlib.suppress(OSError):
            os.remove(aside)


def _with_folder(path: str, put: Callable[[], None]) -> None:
    try:
        put()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        put()


def _write_with_folder(path: str, data: bytes) -> None:
    try:
        file = open(path, "wb")  # noqa: SIM115 (entered below; only opening may meet the missing folder)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "wb")  # noqa: SIM115
    with file:
        file.write(data)
