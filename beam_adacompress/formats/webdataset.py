"""WebDataset: tar files in which the members of one sample share a name, e.g. `000.jpg`, `000.cls`, `000.json`.

The convention: https://github.com/webdataset/webdataset. A member is an image by its extension.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import dataclasses
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, ClassVar, NamedTuple, Optional, cast

from beam_adacompress import naming
from beam_adacompress.errors import ImageError
from beam_adacompress.formats.contract import Record, Replace, Replacement, ShardFormat

_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_PIECE = 1024 * 1024
_MAGIC = ((b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


class _Image(NamedTuple):
    record: str  # name of the Record
    renamed: Optional[str]  # what the member is called where its format changes; None if that is taken


@dataclasses.dataclass(frozen=True)
class WebDataset(ShardFormat):
    """Tar shards, plain or compressed with gzip, bzip2 or xz, which they stay.

    Args:
      image_field: extensions of the members that are images, such as `jpg;png` or `left.jpg;right.jpg`; None for those
        that images have. Case does not matter.
      max_bytes: as for ShardFormat.

    Raises:
      ValueError: image_field holds no extension.
    """

    name: ClassVar[str] = "webdataset"

    def __post_init__(self) -> None:
        if self.image_field is not None and not self._extensions():
            raise ValueError(f"image_field must be extensions such as 'jpg;png', got {self.image_field!r}")

    def _extensions(self) -> tuple[str, ...]:
        if self.image_field is None:
            return naming.EXTENSIONS
        parts = (part.strip().lower().lstrip(".") for part in self.image_field.split(";"))
        return tuple(f".{part}" for part in parts if part)

    def records(self, source: BinaryIO) -> Iterator[Record]:
        with _damage(), _reading(source) as (tar, _):
            images = self._images(tar)
            for member in tar:
                image = images.get(member.offset)
                if image is None:
                    continue
                if (problem := self.too_large(member.size)) is not None:
                    yield Record(image.record, None, problem)
                else:
                    yield Record(image.record, _content(tar, member), may_rename=image.renamed is not None)

    def rewrite(self, source: BinaryIO, target: BinaryIO, replace: Replace) -> None:
        with _damage(), _reading(source) as (tar, compression), _compressed(target, compression) as sink:
            images = self._images(tar)
            headers = dict(tar.pax_headers)
            with tarfile.open(
                fileobj=sink,
                mode="w|",
                format=tarfile.PAX_FORMAT,
                pax_headers=headers,
                encoding="utf-8",
                errors="surrogateescape",
            ) as out:
                for member in tar:
                    image = images.get(member.offset)
                    result = None if image is None or self.too_large(member.size) else replace(image.record)
                    if image is None or result is None:
                        out.addfile(member, tar.extractfile(member) if member.isreg() else None)
                    else:
                        out.addfile(_described(member, image, result), io.BytesIO(result.data))

    def _images(self, tar: tarfile.TarFile) -> dict[int, _Image]:
        """The members that are images, by their places; headers alone are read for it."""
        members = tar.getmembers()
        _check_end(tar, members)
        taken = {_plain(member.name) for member in members}
        linked = {_target(member) for member in members if member.islnk() or member.issym()}
        names: set[str] = set()
        images = {}
        for index, member in enumerate(members):
            if not member.isreg() or not member.name.lower().endswith(self._extensions()):
                continue
            record = _safe(member.name, index)
            while record in names:  # tar has no objection to two members of one name
                record = f"{index:08d}/{record}"
            names.add(record)
            renamed = f"{member.name.rpartition('.')[0]}.jpg"
            is_free = _plain(renamed) not in taken and _plain(member.name) not in linked
            images[member.offset] = _Image(record, renamed if renamed == member.name or is_free else None)
            taken.add(_plain(renamed))
        return images


def _plain(name: str) -> str:
    """A name as it is compared: `./0.jpg` and `0.jpg` are one file."""
    return posixpath.normpath(name)


def _target(link: tarfile.TarInfo) -> str:
    """The member that a link leads to, which must keep its name. Of symbolic ones, seen from their folder."""
    return _plain(posixpath.join(posixpath.dirname(link.name), link.linkname) if link.issym() else link.linkname)


def _safe(name: str, index: int) -> str:
    """A member's name where it is a path that stays where it is put; else its position."""
    name = name.removeprefix("./")
    try:
        return naming.check_key(name)
    except ImageError:
        return f"{index:08d}"


def _described(member: tarfile.TarInfo, image: _Image, result: Replacement) -> tarfile.TarInfo:
    """The header of a result."""
    changed = copy.copy(member)
    changed.pax_headers = {key: value for key, value in member.pax_headers.items() if key not in ("path", "size")}
    changed.size = len(result.data)
    if result.renamed and image.renamed is not None:
        changed.name = image.renamed
    return changed


def _check_end(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    """Reads to the end. tarfile takes a damaged header for it, and what is behind would be lost, as would a tar file
    that was appended to another; and the checksum of a compressed file is its last bytes."""
    last = members[-1] if members else None
    if any(member.issparse() for member in members):
        raise ImageError("unsupported-shard", "it holds sparse files, which are not supported; pack it anew")
    end = 0 if last is None else last.offset_data + (-(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    file = cast(BinaryIO, tar.fileobj)
    file.seek(end)
    where = "at its beginning" if last is None else f"behind the member {last.name}"
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ImageError("corrupt-shard", f"the tar file is damaged {where}")
    while piece := file.read(_PIECE):
        if piece.strip(b"\0"):
            raise ImageError("unsupported-shard", f"it goes on where the tar file ends, {where}; pack it anew")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, member
    data = file.read()
    if len(data) != member.size:
        raise ImageError("corrupt-shard", f"it ends in the member {member.name}: {len(data)} of {member.size} bytes")
    return data


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (*_BROKEN, OSError) as error:
        if not isinstance(error, _BROKEN) and (type(error) is not OSError or error.errno is not None):
            raise  # what bz2 and tarfile say of damage is a bare OSError
        raise ImageError("corrupt-shard", f"it is no whole tar file: {error}") from error


@contextlib.contextmanager
def _reading(source: BinaryIO) -> Iterator[tuple[tarfile.TarFile, Optional[str]]]:
    """The tar file in a shard, and what it is compressed with; members come from its index, their bytes in order."""
    head = source.read(6)
    source.seek(0)
    compression = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if compression == "zstd":
        raise ImageError("unsupported-shard", "it is compressed with zstd, which is not supported; use gzip or none")
    with contextlib.ExitStack() as stack:
        if compression == "gz":
            source = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=source)))
        elif compression == "bz2":
            source = cast(BinaryIO, stack.enter_context(bz2.BZ2File(source)))
        elif compression == "xz":
            source = cast(BinaryIO, stack.enter_context(lzma.LZMAFile(source)))
        tar = tarfile.TarFile(fileobj=source, encoding="utf-8", errors="surrogateescape")
        yield stack.enter_context(tar), compression


@contextlib.contextmanager
def _compressed(target: BinaryIO, compression: Optional[str]) -> Iterator[BinaryIO]:
    """A file whose content arrives in `target` compressed; the same content gives the same bytes."""
    if compression == "gz":
        with gzip.GzipFile("", "wb", fileobj=target, mtime=0) as file:
            yield cast(BinaryIO, file)
    elif compression == "bz2":
        with bz2.BZ2File(target, "wb") as file:
            yield cast(BinaryIO, file)
    elif compression == "xz":
        with lzma.LZMAFile(target, "wb") as file:
            yield cast(BinaryIO, file)
    else:
        yield target
