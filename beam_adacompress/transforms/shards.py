"""Shards: input files that hold many images each, as TFRecord, Parquet or tar.

    ListShards ─▶ Shard (a name) ─▶ shuffle ─▶ ReadShards ─▶ SourceImage ─▶ choose, compress ─▶ CommitRows(packed) ─┐
                    │                              └ rows of an earlier attempt ──▶ Fragment (a name) ◀─────────────┘
                    └──────────────────────────────────────────▶ by shard ◀─────────────┘
                                                                    └▶ RewriteShards ─▶ RunStats

Results wait in packs until all of a shard are there. Then the shard is read a second time and written again, with
the results in the places of their originals and everything else as it was. So the order of the images, what stands
beside them, and images that failed come out as they went in, and no image crosses a shuffle.

    OUTPUT/images/...                          the shards, under their own names
    OUTPUT/manifest/part-00012.parquet         one for each shard
    OUTPUT/_adacompress/shards.json            the shards of the run and their numbers
    OUTPUT/_adacompress/rows/00012/*.jsonl     rows of a shard in progress
    OUTPUT/_adacompress/rows/00012/*.arrow     the pack of the row file of that name
"""

import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam

from beam_adacompress import naming
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.formats import ShardFormat
from beam_adacompress.formats.contract import Record
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import FAILED
from beam_adacompress.transforms import files, packs
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, SeveralOutputs
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.sinks import Fragment
from beam_adacompress.transforms.sources import (
    LocatedFailure,
    SourceImage,
    find_images,
    input_root,
    key_of,
    list_by,
)

_STAGE = "ReadImages"
_FRAGMENTS = "fragments"
_VERSION = 1


class Shard(NamedTuple):
    """An input file with many images."""

    number: int  # part of the manifest
    key: str  # path relative to the input, '/'-separated
    path: str
    size: int  # bytes, as listed
    modified: float  # seconds since the epoch, as listed


@dataclasses.dataclass(frozen=True)
class ShardedFolder(RunFolder):
    """Paths below the output of a run over shards."""

    @property
    def shards(self) -> str:
        return files.join(self.work, "shards.json")

    def rows_of(self, shard: int) -> str:
        """The folder with the rows of one shard."""
        return files.join(self.rows, f"{shard:05d}")

    def row_file(self, shard: int, attempt: str, number: int) -> str:
        moment = f"{time.time_ns():020d}"  # later ones supersede earlier ones, of earlier attempts too
        return files.join(self.rows_of(shard), f"{moment}-{attempt}-{number:06d}-{uuid.uuid4().hex[:8]}.jsonl")


def list_shards(pattern: str, exclude: Optional[str], known: list[Shard]) -> Iterator[Union[Shard, LocatedFailure]]:
    """The shards of an input, in the order of their keys; as failures those whose names cannot be keys.

    Args:
      pattern, exclude: as for ListImages.
      known: the shards of an earlier attempt; one that has not changed since keeps its number.

    Raises:
      AdaCompressError: they cannot be listed.
    """
    root = input_root(pattern)
    numbers = {shard._replace(number=0): shard.number for shard in known}
    fresh = max(numbers.values(), default=-1) + 1
    for file in sorted(find_images(pattern, exclude), key=lambda file: key_of(file.path, root)):
        shard = Shard(0, key_of(file.path, root), file.path, file.size, file.modified)
        try:
            naming.check_key(shard.key)
        except ImageError as error:
            readable = shard.key.encode("utf-8", "backslashreplace").decode()
            yield LocatedFailure(readable, file.size, fresh, None, "ListShards", error.reason, error.message)
            fresh += 1
            continue
        if shard in numbers:
            yield shard._replace(number=numbers[shard])
        else:
            yield shard._replace(number=fresh)
            fresh += 1


class ShardsAndFailures(NamedTuple):
    """What ListShards returns."""

    shards: beam.PCollection[Shard]
    failures: beam.PCollection[LocatedFailure]


@dataclasses.dataclass
class ListShards(SeveralOutputs):
    """Lists the files of an input as `Shard` rows.

    Args:
      pattern, exclude: as for ListImages.
      folder: of the run, where the shards and their numbers are recorded; None: nothing is.
    """

    pattern: str
    exclude: Optional[str] = None
    folder: Optional[ShardedFolder] = None

    def expand(self, pbegin: beam.pvalue.PBegin) -> ShardsAndFailures:
        return ShardsAndFailures(*list_by(_List(), pbegin, (self.pattern, self.exclude, self.folder), Shard))


class _List(beam.DoFn):
    def process(self, element: tuple[str, Optional[str], Optional[ShardedFolder]]) -> Iterator[Any]:
        pattern, exclude, folder = element
        known = [] if folder is None else _recorded(folder)
        listed = list(list_shards(pattern, exclude, known))
        if folder is not None:
            content = {
                "format": "adacompress.shards",
                "format_version": _VERSION,
                "shards": [shard for shard in listed if isinstance(shard, Shard)],
            }
            folder.write(folder.shards, json.dumps(content).encode(), "application/json")
        for each in listed:
            yield beam.pvalue.TaggedOutput(FAILURES, each) if isinstance(each, LocatedFailure) else each


def _recorded(folder: ShardedFolder) -> list[Shard]:
    """The shards of an earlier attempt; none if there was none."""
    if not files.exists(folder.shards):
        return []
    try:
        content = json.loads(files.read(folder.shards))
        version, shards = content["format_version"], [Shard(*fields) for fields in content["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise AdaCompressError(f"{folder.shards} is damaged ({error}): discard the run with --overwrite") from error
    if version != _VERSION:
        raise AdaCompressError(
            f"{folder.shards} has version {version}, and this is adacompress for version {_VERSION}: "
            "use the release that wrote it, or discard the run with --overwrite"
        )
    return shards


class ImagesOfShards(NamedTuple):
    """What ReadShards returns."""

    images: beam.PCollection[SourceImage]
    failures: beam.PCollection[LocatedFailure]
    fragments: beam.PCollection[Fragment]  # of an earlier attempt


@dataclasses.dataclass
class ReadShards(SeveralOutputs):
    """Reads the images of each `Shard` as `SourceImage` rows.

    Failures are records without an image, and shards that cannot be read to their end.

    Args:
      format: of the shards.
      folder: of a run that is continued: what is done there is left out; None for none.
    """

    format: ShardFormat
    folder: Optional[ShardedFolder] = None

    def expand(self, shards: beam.PCollection[Shard]) -> ImagesOfShards:
        outputs = shards | "Read" >> (
            beam.ParDo(_Read(self.format, self.folder))
            .with_output_types(SourceImage, **{FAILURES: LocatedFailure, _FRAGMENTS: Fragment})
            .with_outputs(FAILURES, _FRAGMENTS, main="images")
        )
        return ImagesOfShards(outputs.images, outputs.failures, outputs[_FRAGMENTS])


class _Read(beam.DoFn):
    def __init__(self, form: ShardFormat, folder: Optional[ShardedFolder]) -> None:
        self._format = form
        self._folder = folder
        self._metrics = StageMetrics(_STAGE)

    def process(self, shard: Shard) -> Iterator[Any]:
        done: set[str] = set()
        if self._folder is not None:
            earlier, is_whole = _earlier(self._folder, shard)
            for path in earlier:
                yield beam.pvalue.TaggedOutput(_FRAGMENTS, Fragment(shard.number, path))
            if is_whole:
                return
            done = {row.key for rows in earlier.values() for row in rows if row.status != FAILED}
        try:
            with files.opened(shard.path) as source:
                for record in self._format.records(source):
                    key = f"{shard.key}/{record.name}"
                    if key in done:
                        continue
                    self._metrics.took(len(record.data or b""))
                    image = image_of(shard, record)
                    if isinstance(image, LocatedFailure):
                        self._metrics.failed()
                        yield beam.pvalue.TaggedOutput(FAILURES, image)
                        continue
                    self._metrics.gave(len(image.data))
                    yield image
        except ImageError as error:
            yield self._failure(shard, error)
        except OSError as error:
            unreadable = ImageError("unreadable", f"reading failed: {error.strerror or error}")
            yield self._failure(shard, unreadable)

    def _failure(self, shard: Shard, error: ImageError) -> Any:
        self._metrics.failed()
        return beam.pvalue.TaggedOutput(FAILURES, _failure(shard, shard.key, shard.size, error))


def image_of(shard: Shard, record: Record) -> Union[SourceImage, LocatedFailure]:
    """The image of a record of a shard; a failure where it holds none."""
    key = f"{shard.key}/{record.name}"
    if record.data is None:
        return _failure(shard, key, 0, ImageError("no-image", str(record.problem)))
    return SourceImage(
        key=key,
        data=record.data,
        bytes_in=len(record.data),
        steps_aside=False,
        may_rename=record.may_rename,
        shard=shard.number,
        sha256_in=hashlib.sha256(record.data).hexdigest(),
        within=shard.key,
    )


def _failure(shard: Shard, key: str, size: int, error: ImageError) -> LocatedFailure:
    return LocatedFailure(key, size, shard.number, None, _STAGE, error.reason, error.message)


def _earlier(folder: ShardedFolder, shard: Shard) -> tuple[dict[str, list[ManifestRow]], bool]:
    """The files with rows of a shard that earlier attempts left, and whether nothing of it is left to do.

    Those that say that the shard could not be read are left out: it is tried again.
    """
    part = folder.part(shard.number)
    if files.exists(part) and files.exists(folder.image(shard.key)):
        rows = read_rows(part)
        if not _could_not_be_read(shard, rows):
            return {part: rows}, True
    paths = sorted(file.path for file in files.listing(folder.rows_of(shard.number)))
    found = {path: read_rows(path) for path in paths if packs.is_row_file(path)}
    return {path: rows for path, rows in found.items() if not _could_not_be_read(shard, rows)}, False


def _could_not_be_read(shard: Shard, rows: Sequence[ManifestRow]) -> bool:
    return any(row.key == shard.key for row in rows)
