"""Packs: results that wait for their shard, as Arrow files beside the rows that tell of them.

One pack holds a few images of one shard, so it fits into memory; `Packs` reads the many of a shard one after another.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Optional

import pyarrow as pa

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.formats import Replacement
from beam_adacompress.transforms import files

_ROWS = ".jsonl"
_PACK = ".arrow"
_VERSION = "1"
_KEY = b"adacompress.pack"
_SCHEMA = pa.schema(
    [pa.field("key", pa.string()), pa.field("data", pa.binary()), pa.field("renamed", pa.bool_())],
    metadata={_KEY: _VERSION.encode()},
)
_KEPT_OPEN = 4  # packs in memory; a shard is read in the order in which they were written, or nearly


def is_row_file(path: str) -> bool:
    """Whether a file holds rows, and no pack."""
    return path.endswith(_ROWS)


def beside(row_file: str) -> str:
    """The path of the pack of a file with rows."""
    return row_file[: -len(_ROWS)] + _PACK


def to_bytes(results: Mapping[str, Replacement]) -> bytes:
    """The content of a pack.

    Args:
      results: by key.
    """
    columns = [list(results), *zip(*results.values())]
    table = pa.table([pa.array(values, field.type) for values, field in zip(columns, _SCHEMA)], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


class Packs:
    """The results of a shard.

    Args:
      places: the pack of each key.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places
        self._pack = functools.lru_cache(maxsize=_KEPT_OPEN)(_read)

    def get(self, key: str) -> Optional[Replacement]:
        """The result for a key; None where there is none.

        Raises:
          AdaCompressError: its pack is gone, or of another version.
        """
        return self._pack(self._places[key])[key] if key in self._places else None


def _read(path: str) -> dict[str, Replacement]:
    try:
        table = pa.ipc.open_file(pa.BufferReader(files.read(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise AdaCompressError(f"{path} cannot be read ({error}): run again with --overwrite") from error
    if (found := (table.schema.metadata or {}).get(_KEY, b"none").decode()) != _VERSION:
        raise AdaCompressError(
            f"{path} has pack version {found}, and this is adacompress for version {_VERSION}: "
            "use the release that wrote it, or run again with --overwrite"
        )
    keys, *fields = (table[name].to_pylist() for name in _SCHEMA.names)
    return {key: Replacement(*values) for key, *values in zip(keys, *fields)}
