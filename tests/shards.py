"""Shards of every format for tests: made, and read again, by other hands than ours."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from beam_adacompress.formats import Record, Replacement, ShardFormat


class Kind(NamedTuple):
    """A format, by the name of a shard, and what one record is called."""

    format: str
    suffix: str

    def key(self, shard: str, index: int, name: str) -> str:
        return f"{shard}/{name}" if self.format == "webdataset" else f"{shard}/{index:08d}"


KINDS = (Kind("tfrecord", ".tfrecord"), Kind("parquet", ".parquet"), Kind("webdataset", ".tar"))


def make(kind: Kind, path: Path, images: Mapping[str, bytes]) -> Path:
    """A shard with images by name, and a label beside each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.format == "tfrecord":
        path.write_bytes(b"".join(framed(example(name, data)) for name, data in images.items()))
    elif kind.format == "parquet":
        table = pa.table({"image": list(images.values()), "label": list(images)}, metadata={"mine": "kept"})
        pq.write_table(table, path, row_group_size=3, compression="zstd")
    else:
        with tarfile.open(path, "w") as tar:
            for name, data in images.items():
                add(tar, name, data)
                add(tar, f"{Path(name).stem}.cls", name.encode())
    return path


def read(kind: Kind, path: Path) -> list[tuple[str, bytes]]:
    """The label and the image of each record, in order."""
    if kind.format == "tfrecord":
        return [(name, data) for name, data in examples(path.read_bytes())]
    if kind.format == "parquet":
        table = pq.read_table(path)
        assert table.schema.metadata[b"mine"] == b"kept"
        return list(zip(table["label"].to_pylist(), table["image"].to_pylist()))
    with tarfile.open(path) as tar:
        contents = [tar.extractfile(member).read() for member in tar.getmembers()]
    return [(label.decode(), image) for image, label in zip(contents[::2], contents[1::2])]


def records(data: bytes, form: ShardFormat) -> list[Record]:
    """What a format finds in a shard."""
    return list(form.records(io.BytesIO(data)))


def rewritten(data: bytes, results: Mapping[str, Replacement], form: ShardFormat) -> bytes:
    """What a format makes of a shard, with results by the names of records."""
    target = io.BytesIO()
    form.rewrite(io.BytesIO(data), target, results.get)
    return target.getvalue()


class Counting(io.BytesIO):
    """A file that counts what is taken from it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        got = super().read(size)
        self.taken += len(got)
        return got


class Lost(io.BytesIO):
    """A file of which the beginning can be read and no more."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 512:
            raise ConnectionError("connection lost")
        return super().read(size)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def framed(record: bytes) -> bytes:
    """A record as TFRecord files have it: length, masked CRC, bytes, masked CRC."""
    length = struct.pack("<Q", len(record))
    return length + masked_crc(length) + record + masked_crc(record)


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def example(label: str, image: bytes) -> bytes:
    """A tf.train.Example with the features `image/encoded` and `label`, byte by byte."""
    features = {"image/encoded": image, "label": label.encode()}
    entries = [field(1, name.encode()) + field(2, field(1, field(1, value))) for name, value in features.items()]
    return field(1, b"".join(field(1, entry) for entry in entries))


def examples(data: bytes) -> list[tuple[str, bytes]]:
    """Label and image of each record of a TFRecord file, by TensorFlow's own schema."""
    from tensorflow.core.example import example_pb2

    found = []
    while data:
        size = struct.unpack("<Q", data[:8])[0]
        record, data = data[12 : 12 + size], data[16 + size :]
        features = example_pb2.Example.FromString(record).features.feature
        found.append((features["label"].bytes_list.value[0].decode(), features["image/encoded"].bytes_list.value[0]))
    return found


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
