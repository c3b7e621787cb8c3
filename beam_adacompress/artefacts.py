"""Files of ours: how they are read, and tables as Parquet with a format version, refused where it is another."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Optional

import pyarrow as pa
import pyarrow.parquet as pq

from beam_adacompress.errors import AdaCompressError

Read = Callable[[str], bytes]  # gives the bytes of a file at any path that the job understands, e.g. `gs://...`


def read_local(path: str) -> bytes:
    """Reads a file of this machine."""
    with open(path, "rb") as file:
        return file.read()


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of table.

    Args:
      name: what its rows are, for messages and for the key of the version, `adacompress.NAME`.
      version: of the columns and what they mean.
      columns: with their types.
    """

    name: str
    version: int
    columns: tuple[pa.Field, ...]

    @property
    def key(self) -> str:
        return f"adacompress.{self.name}"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(self.columns, metadata={self.key.encode(): str(self.version).encode()})

    def table(self, rows: Iterable[Sequence[Any]]) -> pa.Table:
        """Rows, with their values in the order of the columns, as columns, which take a tenth of the memory."""
        values = list(zip(*rows)) or [() for _ in self.columns]
        arrays = [pa.array(column, field.type) for column, field in zip(values, self.columns)]
        return pa.table(arrays, schema=self.schema)

    def to_parquet(self, table: pa.Table) -> bytes:
        """The content of a file."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    def from_parquet(self, data: bytes, path: str) -> pa.Table:
        """Reads a file.

        Args:
          data: its content.
          path: for messages.

        Raises:
          AdaCompressError: it is no such table, or one of an unknown version.
        """
        try:
            table = pq.read_table(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:
            raise AdaCompressError(f"{path} is no readable Parquet file: {error}") from error
        self.check_version((table.schema.metadata or {}).get(self.key.encode(), b"none").decode(), path)
        return table

    def batches(
        self, file: BinaryIO, path: str, columns: Optional[Sequence[str]] = None, rows: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """Reads a file a few rows at a time.

        Args:
          file: it, open and seekable.
          path: for messages.
          columns: to read; None for all. Those that an older file lacks are left out.
          rows: in memory at a time.

        Raises:
          AdaCompressError: as `from_parquet`.
        """
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            self.check_version((schema.metadata or {}).get(self.key.encode(), b"none").decode(), path)
            there = None if columns is None else [name for name in columns if name in schema.names]
            yield from parquet.iter_batches(rows, columns=there)
        except (pa.ArrowException, OSError) as error:
            raise AdaCompressError(f"{path} is no readable Parquet file: {error}") from error

    def check_version(self, version: str, path: str) -> None:
        """Raises AdaCompressError where the version is not this one."""
        if version != str(self.version):
            raise AdaCompressError(
                f"{path} has {self.name} version {version}, and this is adacompress for version {self.version}: "
                "use the release that wrote it, or run again with --overwrite"
            )
