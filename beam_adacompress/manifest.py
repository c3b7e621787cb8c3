"""The manifest: one row per input image, as Parquet, and as the JSON lines of a run in progress.

Both carry a format version and are refused with one sentence where it is another. Sizes are bytes, times seconds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import BinaryIO, NamedTuple, Optional

import pyarrow as pa
import pyarrow.compute as pc

from beam_adacompress.artefacts import Format
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import COMPRESSED


class ManifestRow(NamedTuple):
    """What became of one input image."""

    key: str  # path relative to the input
    status: str  # `compressed`, `kept` or `failed`
    reason: Optional[str]  # why it was kept or failed
    output: Optional[str]  # path of the result relative to images/; None where it failed
    quality: Optional[int]  # chosen, 1 to 100; the file has it only where status is `compressed`
    tables: Optional[str]  # chosen quantisation-table family
    subsampling: Optional[str]  # of the result; None for grayscale, kept and failed ones
    width: Optional[int]  # pixels, as displayed
    height: Optional[int]  # pixels, as displayed
    bytes_in: Optional[int]  # bytes of the input
    bytes_out: Optional[int]  # bytes of the result
    sha256_in: Optional[str]  # of the input, hex
    sha256_out: Optional[str]  # of the result, hex
    policy_version: Optional[str]  # who chose, e.g. `fixed-35` where no policy did
    propensity: Optional[float]  # probability of the chosen action, (0, 1]
    expected_agreement: Optional[float]  # 0 to 1; None where the policy makes no promise
    error: Optional[str]  # one sentence, where it failed
    seconds: Optional[float]  # s, of decoding and encoding; the only column that differs between equal runs
    # backends, with versions, that were asked before the choice; where reason is `chosen`, they agreed with no quality
    verified_by: Optional[str] = None
    engine: Optional[str] = None  # how: `native` by coefficients, `pillow` by pixels; None for kept and failed images

    @property
    def is_written(self) -> bool:
        """Whether there is a result in images/."""
        return self.output is not None

    @property
    def size_ratio(self) -> float:
        """Bytes of the result / bytes of the input, for a row that is written."""
        assert self.bytes_in, self
        assert self.bytes_out is not None, self
        return self.bytes_out / self.bytes_in

    @property
    def saved(self) -> int:
        """Bytes saved; 0 where nothing was compressed."""
        if self.status != COMPRESSED:
            return 0
        assert self.bytes_in is not None, self
        assert self.bytes_out is not None, self
        return self.bytes_in - self.bytes_out


FORMAT = Format(
    "manifest",
    version=1,
    columns=(
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("output", pa.string()),
        pa.field("quality", pa.int32()),
        pa.field("tables", pa.string()),
        pa.field("subsampling", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("bytes_in", pa.int64()),
        pa.field("bytes_out", pa.int64()),
        pa.field("sha256_in", pa.string()),
        pa.field("sha256_out", pa.string()),
        pa.field("policy_version", pa.string()),
        pa.field("propensity", pa.float64()),
        pa.field("expected_agreement", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("seconds", pa.float64()),
        pa.field("verified_by", pa.string()),
        pa.field("engine", pa.string()),
    ),
)


def to_table(rows: Iterable[ManifestRow]) -> pa.Table:
    """The rows as columns, which take a tenth of the memory."""
    return FORMAT.table(rows)


def merge(tables: Iterable[pa.Table]) -> pa.Table:
    """One table in key order; of several rows for one key the last one stands."""
    table = pa.concat_tables([FORMAT.schema.empty_table(), *tables])
    latest = {key: index for index, key in enumerate(table["key"].to_pylist())}
    return table.take(pa.array([latest[key] for key in sorted(latest)], pa.int64()))


def rows_of(table: pa.Table) -> Iterator[ManifestRow]:
    """The rows, a few at a time in memory."""
    for batch in table.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            yield ManifestRow(**row)


def to_parquet(table: pa.Table) -> bytes:
    """One part of a manifest."""
    return FORMAT.to_parquet(table)


def from_parquet(data: bytes, name: str) -> list[ManifestRow]:
    """Reads one part.

    Args:
      data: the file.
      name: of the file, for messages.

    Raises:
      AdaCompressError: it is no manifest, or one of an unknown version.
    """
    return list(rows_of(FORMAT.from_parquet(data, name)))


def read_rows(file: BinaryIO, name: str) -> Iterator[ManifestRow]:
    """The rows of one part, a few at a time in memory.

    Args:
      file: open and seekable.
      name: for messages.

    Raises:
      AdaCompressError: as `from_parquet`.
    """
    for batch in FORMAT.batches(file, name):
        yield from (ManifestRow(**row) for row in batch.to_pylist())


def find_rows(file: BinaryIO, name: str, keys: Collection[str]) -> Iterator[ManifestRow]:
    """The rows of some keys in one part; arguments as for `read_rows`."""
    wanted = pa.array(sorted(keys), pa.string())
    for batch in FORMAT.batches(file, name, rows=8192):
        found = batch.filter(pc.is_in(batch.column("key"), wanted))
        yield from (ManifestRow(**row) for row in found.to_pylist())


def to_lines(rows: Iterable[ManifestRow]) -> bytes:
    """The rows as JSON lines below a line with the version."""
    lines = [json.dumps({FORMAT.key: FORMAT.version})]
    lines += [json.dumps(row, ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def from_lines(data: bytes, name: str) -> list[ManifestRow]:
    """Reads what `to_lines` wrote.

    Raises:
      AdaCompressError: as `from_parquet`.
    """
    try:
        head, *rows = [json.loads(line) for line in data.decode().split("\n") if line]
        version = head[FORMAT.key]
    except (ValueError, KeyError, TypeError) as error:
        raise AdaCompressError(f"{name} holds no rows of a manifest: {error}") from error
    FORMAT.check_version(str(version), name)
    return [ManifestRow(*row) for row in rows]
