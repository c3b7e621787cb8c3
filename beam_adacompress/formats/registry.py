"""The formats by name."""

from __future__ import annotations

import re
from typing import Optional

from beam_adacompress.formats.contract import MAX_BYTES, ShardFormat
from beam_adacompress.formats.parquet import Parquet
from beam_adacompress.formats.tfrecord import TFRecord
from beam_adacompress.formats.webdataset import WebDataset

_SHARDS: dict[str, type[ShardFormat]] = {kind.name: kind for kind in (TFRecord, Parquet, WebDataset)}

FORMATS = ("files", *_SHARDS, "list")

# By the end of a name; `train.tfrecord-00003-of-00100` is how TensorFlow's own tools call shards.
_ENDINGS = (
    ("tfrecord", re.compile(r"\.tfrecords?(-[\d?*]+(-of-[\d?*]+)?|\*)?(\.gz|\.zlib)?$")),
    ("parquet", re.compile(r"\.parquet$")),
    ("webdataset", re.compile(r"\.(tar(\.gz|\.bz2|\.xz)?|tgz)$")),
    ("list", re.compile(r"\.csv(\.gz)?$")),
)


def shard_format(name: str, image_field: Optional[str] = None, max_bytes: int = MAX_BYTES) -> ShardFormat:
    """A format of shards.

    Args:
      name: one of FORMATS, but `files` and `list`.
      image_field, max_bytes: as for ShardFormat.

    Raises:
      ValueError: there is no such format of shards, or it has no such field.
    """
    if name not in _SHARDS:
        raise ValueError(f"format must be one of {', '.join(_SHARDS)}, got {name!r}")
    return _SHARDS[name](image_field, max_bytes)


def format_of(pattern: str) -> str:
    """The format that a path or glob is of by the end of its name: one of FORMATS, `files` where that tells nothing.

    `.parquet` is taken for shards of images, never for a list.
    """
    return next((name for name, ending in _ENDINGS if ending.search(pattern.lower())), "files")
