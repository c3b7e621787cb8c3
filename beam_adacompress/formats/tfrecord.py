"""TFRecord files of tf.train.Example, without TensorFlow.

The framing: https://www.tensorflow.org/tutorials/load_data/tfrecord. An Example is a map of features; here it is read
as the list of entries that a map is in a protocol buffer, whose values stay bytes. So order, fields that nobody knows,
and every feature but the image come out bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar, Optional, cast

from beam_adacompress.errors import ImageError
from beam_adacompress.formats.contract import Record, Replace, ShardFormat

IMAGE_FIELD = "image/encoded"

_GZIP, _ZLIB = b"\x1f\x8b", b"\x78"
_PIECE = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class TFRecord(ShardFormat):
    """TFRecord shards, plain or compressed as TensorFlow does it (GZIP, ZLIB), which they stay.

    Args:
      image_field: the feature with the image's bytes; None for `image/encoded`.
      max_bytes: as for ShardFormat.
    """

    name: ClassVar[str] = "tfrecord"

    def records(self, source: BinaryIO) -> Iterator[Record]:
        with _plain(source) as (plain, _):
            for index, serialised in enumerate(_framed(plain)):
                data, problem = self._image(_example(serialised))
                yield Record(_name(index), data, problem)

    def rewrite(self, source: BinaryIO, target: BinaryIO, replace: Replace) -> None:
        with _plain(source) as (plain, compression), _packed(target, compression) as sink:
            for index, serialised in enumerate(_framed(plain)):
                result = replace(_name(index))
                sink.write(_frame(serialised if result is None else self._replaced(serialised, result.data)))

    def _image(self, example: Any) -> tuple[Optional[bytes], Optional[str]]:
        """The image of an Example, or why it has none."""
        if example is None:
            return None, "the record is no tf.train.Example"
        wanted = self.image_field or IMAGE_FIELD
        found = [entry.value for entry in example.features.entry if entry.key == wanted]
        if not found:
            names = ", ".join(sorted({entry.key for entry in example.features.entry})) or "none"
            return None, f"the Example has no feature {wanted}, but {names}: name the right one with --image-field"
        values = _feature(found[-1])  # of several entries the last one counts
        if values is None or len(values) != 1:
            count = "other values" if values is None else f"{len(values)} values"
            return None, f"the feature {wanted} holds {count} and not the bytes of one image"
        problem = self.too_large(len(values[0]))
        return (values[0], None) if problem is None else (None, problem)

    def _replaced(self, serialised: bytes, image: bytes) -> bytes:
        example = _example(serialised)
        wanted = self.image_field or IMAGE_FIELD
        entry = [entry for entry in example.features.entry if entry.key == wanted][-1]
        feature = _messages()["Feature"].FromString(entry.value)
        feature.bytes_list.value[0] = image
        entry.value = feature.SerializeToString()
        return bytes(example.SerializeToString())


def _name(index: int) -> str:
    return f"{index:08d}"


def _example(serialised: bytes) -> Any:
    """An Example as a list of entries; None where it is none."""
    from google.protobuf.message import DecodeError

    try:
        return _messages()["Example"].FromString(serialised)
    except DecodeError:
        return None


def _feature(value: bytes) -> Optional[list[bytes]]:
    """The values of a feature of bytes; None where it is of another kind."""
    from google.protobuf.message import DecodeError

    try:
        feature = _messages()["Feature"].FromString(value)
    except DecodeError:
        return None
    return list(feature.bytes_list.value) if feature.HasField("bytes_list") else None


@functools.lru_cache(maxsize=1)
def _messages() -> dict[str, Any]:
    """The messages of tensorflow/core/example/example.proto, as far as an image is concerned."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="adacompress_example.proto", package="adacompress", syntax="proto2")

    def message(name: str, field: str, kind: int, of: str = "", repeated: bool = False, second: bool = False) -> None:
        made = file.message_type.add(name=name)
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        added = made.field.add(name=field, number=1, type=kind, label=label)
        if of:
            added.type_name = f".adacompress.{of}"
        if second:
            made.field.add(name="value", number=2, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)

    message("Example", "features", kinds.TYPE_MESSAGE, "Features")
    message("Features", "entry", kinds.TYPE_MESSAGE, "Entry", repeated=True)
    message("Entry", "key", kinds.TYPE_STRING, second=True)
    message("Feature", "bytes_list", kinds.TYPE_MESSAGE, "BytesList")
    message("BytesList", "value", kinds.TYPE_BYTES, repeated=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [made.name for made in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"adacompress.{name}")) for name in names}


def _framed(file: BinaryIO) -> Iterator[bytes]:
    """The records of a file: length (8 bytes, little-endian), its checksum, content, its checksum."""
    index = 0
    while head := _read(file, 12, index, may_end=True):
        _check(head[:8], head[8:], index, "length")
        (size,) = struct.unpack("<Q", head[:8])
        content = _read(file, size, index)
        _check(content, _read(file, 4, index), index, "content")
        yield content
        index += 1


def _frame(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return b"".join((length, _checksum(length), record, _checksum(record)))


def _read(file: BinaryIO, size: int, index: int, may_end: bool = False) -> bytes:
    pieces = []
    left = size
    try:
        while left and (piece := file.read(min(left, _PIECE))):  # a size that is a lie must not take memory
            pieces.append(piece)
            left -= len(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError("corrupt-shard", f"its compression is damaged in record {index}: {error}") from error
    if left and not (may_end and left == size):
        raise ImageError("corrupt-shard", f"it ends in the middle of record {index}")
    return b"".join(pieces)


def _check(content: bytes, checksum: bytes, index: int, what: str) -> None:
    if _checksum(content) != checksum:
        hint = "; is it a TFRecord file?" if index == 0 and what == "length" else ""
        raise ImageError("corrupt-shard", f"the checksum of the {what} of record {index} is wrong{hint}")


def _checksum(data: bytes) -> bytes:
    """A masked CRC-32C."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@contextlib.contextmanager
def _plain(source: BinaryIO) -> Iterator[tuple[BinaryIO, Optional[bytes]]]:
    """A shard without its compression, and which one that is."""
    head = source.read(12)
    source.seek(0)
    if len(head) == 12 and _checksum(head[:8]) == head[8:]:  # a length may begin like either
        yield source, None
    elif head.startswith(_GZIP):
        with gzip.GzipFile(fileobj=source) as file:
            yield cast(BinaryIO, file), _GZIP
    elif head.startswith(_ZLIB):
        yield cast(BinaryIO, _Inflated(source)), _ZLIB
    else:
        yield source, None


@contextlib.contextmanager
def _packed(target: BinaryIO, compression: Optional[bytes]) -> Iterator[BinaryIO]:
    """A file whose content arrives in `target` compressed; the same content gives the same bytes."""
    if compression == _GZIP:
        with gzip.GzipFile("", "wb", fileobj=target, mtime=0) as file:
            yield cast(BinaryIO, file)
    elif compression == _ZLIB:
        deflated = _Deflated(target)
        yield cast(BinaryIO, deflated)
        deflated.close()
    else:
        yield target


class _Inflated:
    """Reads a zlib stream, for which the standard library has no file."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._inflate = zlib.decompressobj()
        self._rest = b""

    def read(self, size: int) -> bytes:
        while True:
            if piece := self._inflate.decompress(self._rest, size):
                self._rest = self._inflate.unconsumed_tail
                return piece
            if self._inflate.eof:
                return b""
            self._rest = self._inflate.unconsumed_tail or self._source.read(_PIECE)
            if not self._rest:
                raise EOFError("it ends too early")


class _Deflated:
    """Writes one."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._deflate = zlib.compressobj()

    def write(self, data: bytes) -> None:
        self._target.write(self._deflate.compress(data))

    def close(self) -> None:
        self._target.write(self._deflate.flush())
