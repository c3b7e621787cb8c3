"""Lists of URIs: CSV or Parquet files that name images in one column, and tell more of them in others."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import gzip
import io
import zlib
from collections.abc import Sequence
from typing import Any, Optional

import pyarrow as pa
import pyarrow.parquet as pq

from beam_adacompress.errors import ImageError
from beam_adacompress.formats.parquet import as_written

USUAL = ("uri", "url", "gcs_uri", "path", "image_path", "file", "filename", "file_name", "image")


@dataclasses.dataclass(frozen=True)
class UriList:
    """A list that has been read.

    Args:
      uris: in order.
    """

    uris: Sequence[str]
    _table: Any  # pa.Table, or the rows of a CSV file with the header
    _column: int
    _dialect: Any  # of the CSV file; None for Parquet
    _is_gzip: bool = False
    _encoding: str = "utf-8"
    _written: Any = None  # how the Parquet file was, see parquet.as_written

    def replaced(self, uris: Sequence[str]) -> bytes:
        """The content of the same list with other URIs, all else as it was.

        Args:
          uris: as many as there are.
        """
        assert len(uris) == len(self.uris), (len(uris), len(self.uris))
        if self._dialect is None:
            return _parquet(self._table, self._column, uris, self._written)
        text = io.StringIO(newline="")
        writer = csv.writer(text, self._dialect)
        header, *rows = self._table
        writer.writerow(header)
        for row, uri in zip(rows, uris):
            writer.writerow([*row[: self._column], uri, *row[self._column + 1 :]])
        content = text.getvalue().encode(self._encoding)
        return gzip.compress(content, mtime=0) if self._is_gzip else content


def read_list(data: bytes, path: str, image_field: Optional[str] = None) -> UriList:
    """Reads a list.

    Args:
      data: the file. CSV has a header line; it may be compressed with gzip.
      path: for its name: what ends in `.parquet` is Parquet.
      image_field: the column with the URIs; None for the first of `uri`, `url`, `path`, ... that is there.

    Raises:
      ImageError: `corrupt-shard`: it cannot be read; `no-such-field`: it has no such column; `no-image`: a URI is
        missing.
    """
    if path.lower().endswith(".parquet"):
        return _from_parquet(data, image_field)
    return _from_csv(data, image_field)


def _from_parquet(data: bytes, image_field: Optional[str]) -> UriList:
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table, written = file.read(), as_written(file)
    except (pa.ArrowException, OSError) as error:
        raise ImageError("corrupt-shard", f"it is no whole Parquet file: {' '.join(str(error).split())}") from error
    column = _column_of(table.schema.names, image_field)
    uris = table.column(column).to_pylist()
    return UriList(_checked(uris), table, column, None, _written=written)


def _parquet(table: pa.Table, column: int, uris: Sequence[str], written: dict[str, Any]) -> bytes:
    field = table.schema.field(column)
    buffer = io.BytesIO()
    pq.write_table(table.set_column(column, field, pa.array(uris, field.type)), buffer, **written)
    return buffer.getvalue()


def _from_csv(data: bytes, image_field: Optional[str]) -> UriList:
    is_gzip = data.startswith(b"\x1f\x8b")
    try:
        content = gzip.decompress(data) if is_gzip else data
        encoding = "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8"
        text = content.decode(encoding)
        dialect = _dialect(text)
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect, strict=True) if row]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ImageError("corrupt-shard", f"it is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise ImageError("corrupt-shard", "it is empty; its first line has to name the columns")
    column = _column_of(rows[0], image_field)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise ImageError("corrupt-shard", f"row {number} has {len(row)} columns, and the header {len(rows[0])}")
    return UriList(_checked([row[column] for row in rows[1:]]), rows, column, dialect, is_gzip, encoding)


def _dialect(text: str) -> type[csv.Dialect]:
    """Comma, semicolon or tab, by the header; line ends as they are."""
    header = text.partition("\n")[0]

    class Found(csv.excel):
        delimiter = max(",;\t", key=header.count)
        lineterminator = "\r\n" if header.endswith("\r") else "\n"

    return Found


def _column_of(names: Sequence[str], image_field: Optional[str]) -> int:
    if image_field is not None and image_field not in names:
        raise ImageError("no-such-field", f"it has no column {image_field}, but {', '.join(names)}: see --image-field")
    found = [image_field] if image_field is not None else [name for name in USUAL if name in names]
    if not found:
        raise ImageError(
            "no-such-field", f"which column has the URIs? Name it with --image-field; there are {', '.join(names)}"
        )
    return list(names).index(found[0])


def _checked(uris: Sequence[Any]) -> list[str]:
    for row, uri in enumerate(uris):
        if not isinstance(uri, str) or not uri.strip():
            raise ImageError("no-image", f"image {row + 1} of it has no URI, but {uri!r}")
    return [uri.strip() for uri in uris]
