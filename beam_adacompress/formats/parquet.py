"""Parquet files with a column of images, as bytes or as the `struct<bytes, path>` of Hugging Face datasets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import BinaryIO, ClassVar, Optional

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_adacompress.errors import ImageError
from beam_adacompress.formats.contract import Record, Replace, ShardFormat

_BATCH = 64  # rows read at a time
_BYTES = "bytes"  # the field of a struct
_USUAL = "image"
_DICTIONARY = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}  # the latter in files of version 1
_VERSIONS = ("1.0", "2.4", "2.6")  # of the format, that Arrow writes


@dataclasses.dataclass(frozen=True)
class Parquet(ShardFormat):
    """Parquet shards. Row groups, compression, schema with its metadata, and all other columns stay.

    Args:
      image_field: the column; None for the one struct column with a field `bytes`, else the binary column `image`, else
        the only binary column.
      max_bytes: as for ShardFormat.
    """

    name: ClassVar[str] = "parquet"

    def records(self, source: BinaryIO) -> Iterator[Record]:
        with _damage(), pq.ParquetFile(source) as file:
            column = self._column(file.schema_arrow)
            index = 0
            for group in range(file.num_row_groups):  # Arrow would fetch all of them ahead
                for batch in file.iter_batches(_BATCH, [group], [column]):
                    for data in _images(batch.column(0)):
                        yield self._record(index, column, data)
                        index += 1

    def _record(self, index: int, column: str, data: Optional[bytes]) -> Record:
        problem = f"the column {column} is null in row {index}" if data is None else self.too_large(len(data))
        return Record(_name(index), data if problem is None else None, problem)

    def rewrite(self, source: BinaryIO, target: BinaryIO, replace: Replace) -> None:
        with _damage(), pq.ParquetFile(source) as file:
            schema, start = file.schema_arrow, 0
            place = schema.get_field_index(self._column(schema))
            groups = map(file.read_row_group, range(file.num_row_groups))
            table = next(groups, None)  # first: Arrow ends the process over how an encrypted column was written
            with pq.ParquetWriter(target, schema, **as_written(file)) as writer:
                while table is not None:
                    chunks = []
                    for chunk in table.column(place).chunks:
                        chunks.append(_replaced(chunk, start, replace))
                        start += len(chunk)
                    images = pa.chunked_array(chunks, schema.field(place).type)
                    writer.write_table(table.set_column(place, schema.field(place), images), table.num_rows or None)
                    table = next(groups, None)

    def _column(self, schema: pa.Schema) -> str:
        unique = [field for field in schema if schema.get_field_index(field.name) >= 0]
        names = [field.name for field in unique if _holds_images(field.type)]
        structs = [name for name in names if pa.types.is_struct(schema.field(name).type)]
        listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
        if self.image_field is not None:
            if self.image_field not in names:
                raise ImageError(
                    "no-such-field", f"no column {self.image_field} of images is there, but {listed}: see --image-field"
                )
            return self.image_field
        for candidates in (structs, [name for name in names if name == _USUAL], names):
            if len(candidates) == 1:
                return str(candidates[0])
        raise ImageError(
            "no-such-field",
            f"which column has the images? Name it with --image-field; there are {listed}; "
            "lists of images are not supported",
        )


def _name(index: int) -> str:
    return f"{index:08d}"


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index(_BYTES)
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind)


def _images(column: pa.Array) -> Iterator[Optional[bytes]]:
    """The images of a column; None where it or its struct is null."""
    images = pc.struct_field(column, _BYTES) if pa.types.is_struct(column.type) else column
    return (value.as_py() for value in images)


def _replaced(column: pa.Array, start: int, replace: Replace) -> pa.Array:
    """A column with results in the places of images; `start` is the row of its first one."""
    before = column.field(_BYTES) if pa.types.is_struct(column.type) else column
    results = [replace(_name(start + row)) for row in range(len(column))]
    if not any(results):
        return column
    values = [old.as_py() if result is None else result.data for old, result in zip(before, results)]
    after = pa.array(values, before.type)
    if not pa.types.is_struct(column.type):
        return after
    fields = list(column.type)
    arrays = [after if field.name == _BYTES else column.field(field.name) for field in fields]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=column.is_null())


def as_written(file: pq.ParquetFile) -> dict[str, object]:
    """How a file was written, as far as it says so: for pq.ParquetWriter."""
    found = file.metadata
    if not found.num_row_groups:
        return {}
    group = found.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    compression = {column.path_in_schema: _codec(column.compression) for column in columns}
    dictionary = [column.path_in_schema for column in columns if not _DICTIONARY.isdisjoint(column.encodings)]
    is_known = found.format_version in _VERSIONS and not _has_nanoseconds(file)
    return {
        "compression": compression,
        "use_dictionary": dictionary or False,
        "version": found.format_version if is_known else _VERSIONS[-1],
        "use_deprecated_int96_timestamps": any(column.physical_type == "INT96" for column in columns),
        "write_statistics": [column.path_in_schema for column in columns if column.is_stats_set] or False,
    }


def _has_nanoseconds(file: pq.ParquetFile) -> bool:
    """Whether a column needs them, which other writers than Arrow put into files that call themselves version 1."""
    return any("nanoseconds" in str(file.schema.column(index).logical_type) for index in range(len(file.schema)))


def _codec(name: str) -> str:
    return "NONE" if name == "UNCOMPRESSED" else name


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # what Arrow says of damage is a bare OSError
        if "decrypt" in str(error):
            raise ImageError("unsupported-shard", "it is encrypted, which is not supported; decrypt it") from error
        raise ImageError("corrupt-shard", f"it cannot be read as Parquet: {' '.join(str(error).split())}") from error
