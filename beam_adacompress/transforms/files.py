"""Files on any filesystem that Beam knows, and faster and more plainly on the local one.

Beam's FileSystems picks compression by file extension, does not write atomically on a disk, and hides the
operating system's errors; here bytes are bytes, a file is whole under its name or absent, and errors are OSErrors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, Optional

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.transforms import buckets, disks

# Object stores show an object only when its upload has ended; everywhere else a file is written aside and renamed.
_ATOMIC_SCHEMES = {buckets.SCHEME, "s3", "azfs"}
_WILDCARDS = "*?["
_BYTES = "application/octet-stream"


class FoundFile(NamedTuple):
    """A file, as its filesystem lists it."""

    path: str
    size: int  # bytes
    modified: float  # seconds since the epoch


def is_local(path: str) -> bool:
    """Whether a path is on a disk of this machine, as opposed to `gs://...`."""
    return FileSystems.get_scheme(path) is None


def join(root: str, *parts: str) -> str:
    """A path below a folder; with an empty part, the folder with its separator."""
    if is_local(root):
        return os.path.join(root, *parts)
    if root.endswith("://"):  # of all buckets
        return root + posixpath.join(*parts)
    return posixpath.join(root.rstrip("/"), *parts)


def has_wildcard(path: str) -> bool:
    """Whether a path is a glob."""
    return any(character in path for character in _WILDCARDS)


def first_wildcard(pattern: str) -> int:
    """Where the first wildcard of a glob stands."""
    return min(pattern.index(character) for character in _WILDCARDS if character in pattern)


def read(path: str) -> bytes:
    """The bytes of a file, never decompressed.

    Raises:
      OSError: it is missing or cannot be read.
    """
    with opened(path) as file:
        return bytes(file.read())


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file to read from, never decompressed.

    Raises:
      OSError: it is missing or cannot be read.
    """
    if is_local(path):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise PermissionError("the folder cannot be listed")
        if not stat.S_ISREG(mode):
            raise OSError("it is no regular file")  # a pipe would block for ever
        with open(path, "rb") as file:
            yield file
    else:
        with _oserrors(), FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            yield file


def read_with_token(path: str) -> Optional[tuple[bytes, str]]:
    """The bytes of a file, and what tells them from those that `replace` would find there later.

    Returns:
      The content, and the object's generation on gs:// or a digest of the content elsewhere; None where there is none.

    Raises:
      OSError: it cannot be read.
    """
    if _in_bucket(path):
        with _oserrors():
            found = buckets.download(path)
        return None if found is None else (found[0], str(found[1]))
    if not exists(path):
        return None
    data = read(path)
    return data, hashlib.sha256(data).hexdigest()


def write(path: str, data: bytes, scratch: str, media_type: str = _BYTES) -> None:
    """Writes a whole file, or none.

    Args:
      path: where; folders above it are made.
      data: the content.
      scratch: a folder on the same filesystem for the file while it is not whole.
      media_type: the content type, where the filesystem keeps one.

    Raises:
      OSError: the disk is full, the place is read-only, the name is too long, ...
    """
    if is_local(path):
        disks.write(path, data, scratch)
        return
    if _in_bucket(path):
        with _oserrors():
            buckets.upload(path, data, media_type)
        return
    with _created(path, scratch, media_type) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str, scratch: str, media_type: str = _BYTES) -> Iterator[BinaryIO]:
    """A file to write to that is there, whole, when the `with` block has ended without an error, and else is not.

    Meanwhile it is on a disk of this machine, so it may be larger than memory.

    Args:
      path, scratch, media_type: as for `write`.

    Raises:
      OSError: as `write`.
    """
    if is_local(path):
        with disks.writing(path, scratch) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        if _in_bucket(path):
            with _oserrors():
                buckets.upload_file(path, file, media_type)
            return
        with _created(path, scratch, media_type) as target:
            shutil.copyfileobj(file, target)


def can_create(path: str) -> bool:
    """Whether `create` works for a path."""
    return is_local(path) or _in_bucket(path)


def create(path: str, data: bytes, scratch: str) -> bool:
    """Writes a whole file if there is none yet; of several writers at once one succeeds.

    Args:
      path, data, scratch: as for `write`.

    Returns:
      Whether this writer succeeded; if not, another's file is there.

    Raises:
      OSError: as `write`, or this filesystem cannot (see `can_create`).
    """
    if is_local(path):
        return disks.create(path, data, scratch)
    if not can_create(path):
        raise OSError(f"{path}: only local disks and gs:// can create a file for one of several writers")
    with _oserrors():
        return buckets.upload(path, data, _BYTES, generation=0)


def replace(path: str, data: bytes, token: Optional[str], scratch: str, media_type: str = _BYTES) -> bool:
    """Writes a whole file in the place of the one that was read; of several writers at once one succeeds.

    On gs:// the write is conditional on the object's generation. On local disks writers of all processes take turns;
    one that is killed sets the next one free. Other filesystems know no conditions: what another writer puts there in
    the moment between comparing and writing is written over.

    Args:
      path, data, scratch, media_type: as for `write`; in scratch there is also a file that is locked, on local disks.
      token: of the file that is to be replaced, see `read_with_token`; None: there must be none yet.

    Returns:
      Whether this writer succeeded; if not, another file is there, or none.

    Raises:
      OSError: as `write`, or it is on a local disk of a system without flock, Windows.
    """
    if _in_bucket(path):
        with _oserrors():
            return buckets.upload(path, data, media_type, generation=0 if token is None else int(token))
    with disks.turn(path, scratch) if is_local(path) else contextlib.nullcontext():
        found = read_with_token(path)
        if (None if found is None else found[1]) != token:
            return False
        write(path, data, scratch, media_type)
    return True


def exists(path: str) -> bool:
    """Whether there is a file."""
    if is_local(path):
        return status(path) is not None
    with _oserrors():
        return bool(FileSystems.exists(path))


def status(path: str) -> Optional[FoundFile]:
    """Size and time of a file; None where there is none."""
    if is_local(path):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FoundFile(path, found.st_size, found.st_mtime)
    with _oserrors():
        if not FileSystems.exists(path):
            return None
        return _found(FileSystems.match([path])[0].metadata_list[0])


def find(pattern: str, exclude: Optional[str] = None) -> Iterator[FoundFile]:
    """The files of a folder or prefix (everything below it), of a glob, or one file, in no particular order.

    Args:
      pattern: what to find.
      exclude: a folder below which nothing is found, whatever links lead there.

    Raises:
      OSError: they cannot be listed.
    """
    if is_local(pattern) and os.path.isdir(pattern):
        return listing(pattern, exclude)
    if is_local(pattern) and os.path.lexists(pattern):
        return iter([status(pattern) or FoundFile(pattern, 0, 0.0)])
    found = matching(pattern) if has_wildcard(pattern) else listing(pattern)
    inside = None if exclude is None else join(exclude, "")
    return (file for file in found if inside is None or not file.path.startswith(inside))


def listing(root: str, exclude: Optional[str] = None) -> Iterator[FoundFile]:
    """Every file below a folder, in no particular order; none if there is no such folder.

    Links to folders are followed, except into a folder that is being walked already, and into `exclude`.

    Raises:
      OSError: the folder cannot be listed. One further down that cannot is given out as if it were a file, and
        reading that says so.
    """
    if is_local(root):
        if os.path.isdir(root):
            os.scandir(root).close()  # raises where listing is not permitted
            yield from _walk(root, () if exclude is None else _identity(exclude))
    else:
        yield from matching(join(root, "**"))


def matching(pattern: str) -> Iterator[FoundFile]:
    """The files that a glob matches. `*` stops at `/`, `**` does not."""
    with _oserrors():
        for result in FileSystems.match([pattern]):
            for found in result.metadata_list:
                if not found.path.endswith("/"):  # the placeholder that consoles make for a folder
                    yield _found(found)


def delete(paths: Iterable[str]) -> None:
    """Deletes files and, on a disk, whole folders; what is not there is no error."""
    for path in paths:
        if is_local(path):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
        else:
            with contextlib.suppress(BeamIOError, FileNotFoundError):
                FileSystems.delete([found.path for found in listing(path)] or [path])


def _in_bucket(path: str) -> bool:
    return bool(FileSystems.get_scheme(path) == buckets.SCHEME)


@contextlib.contextmanager
def _created(path: str, scratch: str, media_type: str) -> Iterator[BinaryIO]:
    """A file on a filesystem that only Beam knows."""
    direct = FileSystems.get_scheme(path) in _ATOMIC_SCHEMES
    target = path if direct else join(scratch, uuid.uuid4().hex)
    with _oserrors():
        with FileSystems.create(target, media_type, CompressionTypes.UNCOMPRESSED) as file:
            yield file
        if not direct:
            _rename(target, path)


def _rename(source: str, target: str) -> None:
    try:
        FileSystems.rename([source], [target])
    except OSError:
        if not FileSystems.exists(target):
            raise
        FileSystems.delete([target])  # HDFS does not rename over a file: for a moment there is none
        FileSystems.rename([source], [target])


@contextlib.contextmanager
def _oserrors() -> Iterator[None]:
    """Every store's client has errors of its own."""
    try:
        yield
    except (AdaCompressError, ImageError):  # of those who read or write
        raise
    except Exception as error:
        cause: object = error
        while details := getattr(cause, "exception_details", None):  # of a BeamIOError, by path
            cause = next(iter(details.values()))
        if isinstance(error, OSError) and cause is error:
            raise
        raise OSError(_said(cause)) from error


def _said(error: object) -> str:
    """What a store's client reports, in one line."""
    text = " ".join(str(error).split())
    return f"404, no such file or bucket ({text})" if getattr(error, "code", None) == 404 else text


def _found(metadata: FileMetadata) -> FoundFile:
    return FoundFile(metadata.path, int(metadata.size_in_bytes), float(metadata.last_updated_in_seconds))


_Identity = tuple[tuple[int, int], ...]  # device and inode, of folders


def _identity(folder: str) -> _Identity:
    try:
        found = os.stat(folder)
    except OSError:
        return ()
    return ((found.st_dev, found.st_ino),)


def _walk(folder: str, avoid: _Identity) -> Iterator[FoundFile]:
    here = _identity(folder)
    if here and here[0] in avoid:
        return
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except PermissionError:
        yield FoundFile(folder, 0, 0.0)  # nobody knows what is in there
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(entry.path, avoid + here)
        else:
            yield _status_of(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _status_of(entry: os.DirEntry[str]) -> FoundFile:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing or to itself: reading it will say so
        return FoundFile(entry.path, 0, 0.0)
    return FoundFile(entry.path, found.st_size, found.st_mtime)
