"""What a TFLite file says about itself, by TensorFlow's metadata schema: normalisation and class names.

The package that reads it (tflite-support) is no longer kept up, so the few fields needed are read here. Their numbers
are those of schema.fbs (the model) and metadata_schema.fbs (the buffer `TFLITE_METADATA` in it). The files that the
metadata names are in a ZIP archive appended to the model.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Optional, TypeVar

from beam_adacompress.errors import AdaCompressError

_MODEL_BUFFERS, _MODEL_METADATA = 4, 6  # Model
_ENTRY_NAME, _ENTRY_BUFFER = 0, 1  # Metadata: an index of Model.buffers
_BUFFER_DATA = 0  # Buffer
_SUBGRAPHS = 3  # ModelMetadata
_INPUTS, _OUTPUTS = 2, 3  # SubGraphMetadata
_PROCESS_UNITS, _FILES = 4, 6  # TensorMetadata
_OPTIONS_TYPE, _OPTIONS, _NORMALIZATION = 0, 1, 1  # ProcessUnit: a union and the type that stands for normalisation
_MEAN, _STD = 0, 1  # NormalizationOptions
_FILE_NAME, _FILE_TYPE, _AXIS_LABELS = 0, 2, 2  # AssociatedFile and the type of a label file

_Found = TypeVar("_Found")
# RuntimeError: an archive that is encrypted, or packed in a way that Python does not know.
_DAMAGE = (struct.error, IndexError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def normalisation(model: bytes, channels: int) -> Optional[tuple[list[float], list[float]]]:
    """Mean and standard deviation of the input, each one value or one for each channel, for bytes 0..255.

    Returns:
      None where the model does not say.

    Raises:
      AdaCompressError: the metadata is damaged.
    """
    return _reading(lambda: _normalisation(model, channels), "give mean and std")


def label_file(model: bytes) -> Optional[bytes]:
    """The file that names the classes, one a line; None where there is none.

    Raises:
      AdaCompressError: the metadata or the archive is damaged.
    """
    return _reading(lambda: _label_file(model), "give labels=FILE")


def _reading(read: Callable[[], _Found], advice: str) -> _Found:
    try:
        return read()
    except _DAMAGE as error:
        raise AdaCompressError(f"the metadata of the model cannot be read ({error}): {advice}") from error


def _normalisation(model: bytes, channels: int) -> Optional[tuple[list[float], list[float]]]:
    for tensor in _tensors(model, _INPUTS):
        for unit in tensor.tables(_PROCESS_UNITS):
            if unit.number(_OPTIONS_TYPE, "B") == _NORMALIZATION:
                options = unit.table(_OPTIONS)
                mean, std = options.floats(_MEAN), options.floats(_STD)
                if not {len(mean), len(std)} <= {1, channels} or 0 in std:
                    raise ValueError(f"mean {mean} and std {std} for {channels} channels")
                return mean, std
    return None


def _label_file(model: bytes) -> Optional[bytes]:
    for tensor in _tensors(model, _OUTPUTS):
        for file in tensor.tables(_FILES):
            if file.number(_FILE_TYPE, "b") == _AXIS_LABELS:
                return zipfile.ZipFile(io.BytesIO(model)).read(file.content(_FILE_NAME).decode())
    return None


def _tensors(model: bytes, kind: int) -> list[_Table]:
    """The metadata of the inputs or the outputs."""
    root = _Table.root(model)
    for entry in root.tables(_MODEL_METADATA):
        if entry.content(_ENTRY_NAME) == b"TFLITE_METADATA":
            buffer = root.tables(_MODEL_BUFFERS)[entry.number(_ENTRY_BUFFER)]
            subgraphs = _Table.root(buffer.content(_BUFFER_DATA)).tables(_SUBGRAPHS)
            return [tensor for subgraph in subgraphs for tensor in subgraph.tables(kind)]
    return []


class _Table:
    """A flatbuffer table whose fields are asked for by number; an absent one is 0, "" or empty."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, 0)._follow(0)

    def number(self, field: int, kind: str = "<I") -> int:
        return self._read(kind, at) if (at := self._at(field)) else 0

    def table(self, field: int) -> _Table:
        return self._follow(self._at(field))

    def tables(self, field: int) -> list[_Table]:
        start, count = self._vector(field, 4)
        return [self._follow(start + 4 * index) for index in range(count)]

    def content(self, field: int, item: int = 1) -> bytes:
        """A string, or a vector of numbers of `item` bytes each."""
        start, count = self._vector(field, item)
        return self._data[start : start + item * count]

    def floats(self, field: int) -> list[float]:
        return [value for (value,) in struct.iter_unpack("<f", self.content(field, 4))]

    def _at(self, field: int) -> int:
        """Where the field is; 0 where it is absent. The vtable holds its own size, the table's and the offsets."""
        vtable = self._position - self._read("<i", self._position)
        slot = 4 + 2 * field
        offset = self._read("<H", vtable + slot) if slot < self._read("<H", vtable) else 0
        return offset and self._position + offset

    def _vector(self, field: int, item: int) -> tuple[int, int]:
        """Where the first element is, and how many there are."""
        if not (at := self._at(field)):
            return 0, 0
        start = at + self._read("<I", at)
        count = self._read("<I", start)
        if start + 4 + item * count > len(self._data):
            raise ValueError("a vector leads out of the file")
        return start + 4, count

    def _follow(self, at: int) -> _Table:
        return _Table(self._data, at + self._read("<I", at))

    def _read(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, self._data, at)[0])
