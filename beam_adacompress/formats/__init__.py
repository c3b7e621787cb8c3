"""Formats of corpora: shards that hold many images, and lists of URIs. Bytes in, bytes out."""

from beam_adacompress.formats.contract import Record, Replace, Replacement, ShardFormat
from beam_adacompress.formats.lists import UriList, read_list
from beam_adacompress.formats.registry import FORMATS, format_of, shard_format

__all__ = [
    "FORMATS",
    "Record",
    "Replace",
    "Replacement",
    "ShardFormat",
    "UriList",
    "format_of",
    "read_list",
    "shard_format",
]
