"""From a folder, a bucket or a glob to images: list the files, spread their names, read each where it is used.

    ListImages ─▶ ImageFile (a name, no bytes) ─▶ SpreadImages (shuffle) ─▶ ReadFiles ─▶ SourceImage ─▶ ...

Only names cross a shuffle. `ReadFiles` and everything after it run fused, so an image is in memory
from its reading to its writing, on one worker.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from beam_adacompress import naming
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.transforms import files
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs, in_global_window

SHARD_SIZE = 10_000  # images in one part of the manifest
MAX_BYTES = 512 * 1024 * 1024


class ImageFile(NamedTuple):
    """Where one image of the input is."""

    key: str  # path relative to the input, '/'-separated
    path: str
    bytes_in: int  # as listed
    modified: float  # seconds since the epoch, as listed
    steps_aside: bool  # another input may be renamed to this name, see naming.plan
    may_rename: bool  # `.jpg` may be appended to its name
    shard: int  # part of the manifest; parts are contiguous in key order


class SourceImage(NamedTuple):
    """One image of the input, read."""

    key: str
    data: bytes
    bytes_in: int
    steps_aside: bool
    may_rename: bool
    shard: int
    sha256_in: str  # hex
    within: Optional[str] = None  # the key of the shard that holds it; None for a file of its own


class LocatedFailure(NamedTuple):
    """A file that could not be read: an ImageFailure that still knows its place in the manifest."""

    key: str
    bytes_in: int
    shard: int
    sha256_in: Optional[str]
    stage: str
    reason: str
    error: str


@dataclasses.dataclass
class ListImages(SeveralOutputs):
    """Lists the files of an input as `ImageFile` rows, in the order of their keys.

    Every file is an image until reading it shows otherwise: a file that is none becomes a failure row later, so
    that nothing is left out silently.

    Args:
      pattern: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      exclude: a folder below which nothing is listed: the output, which may lie inside the input.
    """

    pattern: str
    exclude: Optional[str] = None

    def expand(self, pbegin: beam.pvalue.PBegin) -> ImagesAndFailures:
        return ImagesAndFailures(*list_by(_List(), pbegin, (self.pattern, self.exclude), ImageFile))


def list_by(lister: beam.DoFn, pbegin: beam.pvalue.PBegin, given: Any, row: type[Any]) -> tuple[Any, Any]:
    """What a DoFn lists, in one worker, and as `LocatedFailure` rows what it cannot.

    Args:
      lister: takes `given`, and gives rows and, tagged, failures.
      pbegin: of the pipeline.
      given: what to list.
      row: the type of its rows.
    """
    listed = (
        pbegin
        | "Input" >> beam.Create([given])
        | "List"
        >> beam.ParDo(lister).with_output_types(row, **{FAILURES: LocatedFailure}).with_outputs(FAILURES, main="listed")
    )
    return listed.listed, listed.failures


class _List(beam.DoFn):
    def process(self, element: tuple[str, Optional[str]]) -> Iterator[Any]:
        for file in list_images(*element):
            yield beam.pvalue.TaggedOutput(FAILURES, file) if isinstance(file, LocatedFailure) else file


def list_images(pattern: str, exclude: Optional[str] = None) -> Iterator[Union[ImageFile, LocatedFailure]]:
    """The files of an input in the order of their keys; as failures those whose names cannot be keys.

    Args:
      pattern, exclude: as for ListImages.

    Raises:
      AdaCompressError: they cannot be listed.
    """
    root = input_root(pattern)
    found = sorted(find_images(pattern, exclude), key=lambda file: _slashes(file.path))
    names = naming.plan([key_of(file.path, root) for file in found])
    for index, (file, name) in enumerate(zip(found, names)):
        yield image_file(file, name, "ListImages", index // SHARD_SIZE)


def image_file(
    file: files.FoundFile, name: naming.Plan, stage: str, shard: int = 0
) -> Union[ImageFile, LocatedFailure]:
    """The row of a file that was found; a failure where its name cannot be a key.

    Args:
      file: where it is.
      name: its key, and what its result may be called.
      stage: the transform that found it.
      shard: part of the manifest.
    """
    key, steps_aside, may_rename = name
    try:
        naming.check_key(key)
    except ImageError as error:
        readable = key.encode("utf-8", "backslashreplace").decode()
        return LocatedFailure(readable, file.size, shard, None, stage, error.reason, error.message)
    return ImageFile(key, file.path, file.size, file.modified, steps_aside, may_rename, shard)


@dataclasses.dataclass
class SpreadImages(beam.PTransform):
    """Spreads `ImageFile` rows over the workers.

    They cross the shuffle in packets, which spares most of its cost per element. The first packets hold one image
    each, so that a few images use all workers too.
    """

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, images: beam.PCollection[ImageFile]) -> beam.PCollection[ImageFile]:
        return (
            images
            | "Pack" >> beam.ParDo(_Pack()).with_output_types(str)
            | "Shuffle" >> beam.Reshuffle()
            | "Unpack" >> beam.FlatMap(_unpack).with_output_types(ImageFile)
        )


class _Pack(beam.DoFn):
    LARGEST = 32

    def start_bundle(self) -> None:
        self._waiting: list[ImageFile] = []
        self._packed = 0

    def process(self, file: ImageFile) -> Iterator[str]:
        self._waiting.append(file)
        if len(self._waiting) >= min(self.LARGEST, 1 + self._packed // self.LARGEST):
            yield self._pack()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._waiting:
            yield in_global_window(self._pack())

    def _pack(self) -> str:
        packet = json.dumps(self._waiting)
        self._packed += len(self._waiting)
        self._waiting = []
        return packet


def _unpack(packet: str) -> Iterator[ImageFile]:
    return (ImageFile(*fields) for fields in json.loads(packet))


def input_root(pattern: str) -> str:
    """The folder that the keys of an input are relative to.

    For a folder or a prefix itself, for a glob the folder before the first wildcard, for a file its folder.
    """
    local = files.is_local(pattern)
    if local and os.path.isdir(pattern):
        return pattern
    if files.has_wildcard(pattern):
        return pattern[: pattern.rfind("/", 0, files.first_wildcard(pattern)) + 1]
    return os.path.dirname(pattern) if local else pattern


def find_images(pattern: str, exclude: Optional[str] = None) -> Iterator[files.FoundFile]:
    """All files of an input, in no particular order.

    Args:
      pattern, exclude: as for ListImages.

    Raises:
      AdaCompressError: they cannot be listed.
    """
    try:
        yield from files.find(pattern, exclude)
    except OSError as error:
        raise AdaCompressError(f"cannot list the input {pattern}: {error.strerror or error}") from error


def key_of(path: str, root: str) -> str:
    """The key of a file below a folder."""
    return _slashes(path)[len(files.join(root, "")) :]


def _slashes(path: str) -> str:
    return path if os.sep == "/" else path.replace(os.sep, "/")


@dataclasses.dataclass
class ReadFiles(SeveralOutputs):
    """Reads each `ImageFile` into a `SourceImage`.

    The second output holds `LocatedFailure` rows for what cannot be read, and for files of more than `max_bytes`.

    Args:
      max_bytes: the largest file that is read into memory.

    Raises:
      ValueError: max_bytes is below 1.
    """

    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}")

    def expand(self, images: beam.PCollection[ImageFile]) -> ImagesAndFailures:
        outputs = images | "Read" >> (
            beam.ParDo(_Read(self.max_bytes))
            .with_output_types(SourceImage, **{FAILURES: LocatedFailure})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _Read(beam.DoFn):
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._metrics = StageMetrics("ReadImages")

    def process(self, file: ImageFile) -> Iterator[Any]:
        self._metrics.took(file.bytes_in)
        try:
            data = self._read(file)
        except ImageError as error:
            self._metrics.failed()
            yield beam.pvalue.TaggedOutput(
                FAILURES,
                LocatedFailure(
                    file.key,
                    file.bytes_in,
                    file.shard,
                    None,
                    "ReadImages",
                    error.reason,
                    error.message,
                ),
            )
            return
        self._metrics.gave(len(data))
        digest = hashlib.sha256(data).hexdigest()
        yield SourceImage(file.key, data, len(data), file.steps_aside, file.may_rename, file.shard, digest)

    def _read(self, file: ImageFile) -> bytes:
        if file.bytes_in > self._max_bytes:
            raise ImageError(
                "too-many-bytes",
                f"{file.bytes_in} bytes are more than the limit of {self._max_bytes}; raise it with --max-bytes",
            )
        try:
            return files.read(file.path)
        except OSError as error:
            raise ImageError("unreadable", f"reading failed: {error.strerror or error}") from error
