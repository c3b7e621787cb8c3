"""The folder of a run: where its parts are, and how a run that was stopped goes on.

    OUTPUT/images/...               the results
    OUTPUT/manifest/part-*.parquet  one row per input
    OUTPUT/summary.json             written last: a run is complete when it is there
    OUTPUT/report.html
    OUTPUT/_adacompress/run.json    the options that the bytes depend on
    OUTPUT/_adacompress/rows/       rows of a run in progress, deleted at its end
    OUTPUT/_adacompress/scratch/    files that are not whole yet

Rows are written before the images that they tell of. So an image under its final name always has a row, and
after a kill that row, if the image is there in full, is all that is needed to skip it.
"""

import dataclasses
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, ClassVar, NamedTuple, Optional

import apache_beam as beam

from beam_adacompress import manifest
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import FAILED
from beam_adacompress.transforms import files
from beam_adacompress.transforms.outputs import SeveralOutputs
from beam_adacompress.transforms.sources import ImageFile

VERSION = 1


class FinishedImage(NamedTuple):
    """An image that an earlier attempt wrote in full."""

    shard: int
    row: str  # the ManifestRow, as JSON


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths below the output of a run."""

    output: str

    FORMAT: ClassVar[str] = "adacompress.run"

    @property
    def images(self) -> str:
        return files.join(self.output, "images")

    @property
    def manifest(self) -> str:
        return files.join(self.output, "manifest")

    @property
    def summary(self) -> str:
        return files.join(self.output, "summary.json")

    @property
    def report(self) -> str:
        return files.join(self.output, "report.html")

    @property
    def work(self) -> str:
        return files.join(self.output, "_adacompress")

    @property
    def rows(self) -> str:
        return files.join(self.work, "rows")

    @property
    def scratch(self) -> str:
        return files.join(self.work, "scratch")

    @property
    def run(self) -> str:
        return files.join(self.work, "run.json")

    def folders(self) -> tuple[str, ...]:
        """What a run writes its results into, and overwriting it deletes."""
        return self.images, self.manifest

    def image(self, name: str) -> str:
        return files.join(self.images, name)

    def part(self, shard: int) -> str:
        return files.join(self.manifest, f"part-{shard:05d}.parquet")

    def row_file(self, shard: int, attempt: str, number: int) -> str:
        """A file for rows of a part of the manifest; later ones of a part supersede earlier ones, in order of names.

        Args:
          shard: the part.
          attempt: an identifier of this execution.
          number: how many files this worker has written.
        """
        moment = f"{time.time_ns():020d}-{number:06d}"  # the number tells those of one moment apart
        return files.join(self.rows, f"{shard:05d}-{attempt}-{moment}-{uuid.uuid4().hex[:8]}.jsonl")

    def write(self, path: str, data: bytes, media_type: str = "application/octet-stream") -> None:
        files.write(path, data, self.scratch, media_type)

    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file to write to that is there when it is whole, see `files.writing`."""
        return files.writing(path, self.scratch)

    def prepare(self, options: Mapping[str, Any], versions: Mapping[str, str], overwrite: bool) -> bool:
        """Claims the folder for a run, fresh or continued.

        Args:
          options: everything that the results depend on; a run is only continued with the same.
          versions: of the software, for the record.
          overwrite: discard what an earlier run left here.

        Returns:
          Whether there are rows of an earlier attempt to go on from.

        Raises:
          AdaCompressError: another run is here, or files of unknown origin; or nothing can be written here.
        """
        try:
            earlier = self.earlier_options()
            if overwrite and earlier is not None:
                files.delete([*self.folders(), self.summary, self.report, self.work])
                earlier = None
            elif earlier is None and not overwrite and (stranger := self._stranger()):
                raise AdaCompressError(
                    f"{stranger} is there already, and no run of adacompress is known to have written it: "
                    "choose another --output, or --overwrite it"
                )
            elif earlier is not None and (differences := _differences(earlier, options)):
                raise AdaCompressError(
                    f"{self.output} holds a run with other options ({differences}): "
                    "choose another --output, or discard that run with --overwrite"
                )
            files.delete([self.summary, self.report, self.scratch])
            self.record(options, versions)
            return earlier is not None
        except OSError as error:
            raise AdaCompressError(
                f"cannot write to the output {self.output}: {error.strerror or error}; "
                "check that it exists, that you may write there, and that it is not full"
            ) from error

    def record(self, options: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Writes down what a run was asked for; arguments as for `prepare`."""
        content = {
            "format": self.FORMAT,
            "format_version": VERSION,
            "options": dict(options),
            "versions": dict(versions),
        }
        self.write(self.run, json.dumps(content, indent=1).encode(), "application/json")

    def _stranger(self) -> Optional[str]:
        """What a run would write over."""
        for path in (self.summary, self.report):
            if files.status(path) is not None:
                return path
        for folder in self.folders():
            if (found := next(files.listing(folder), None)) is not None:
                return found.path
        return None

    def parts(self) -> list[str]:
        """The parts of the manifest that are there, in order."""
        return sorted(found.path for found in files.listing(self.manifest) if self._is_part(found.path))

    def _is_part(self, path: str) -> bool:
        return re.fullmatch(r"part-\d{5,}\.parquet", path[len(files.join(self.manifest, "")) :]) is not None

    def earlier_options(self) -> Any:
        """The options of the run in this folder, a mapping; None where there is no run.

        Raises:
          AdaCompressError: its record is damaged or of an unknown version.
        """
        if files.status(self.run) is None:
            return None
        try:
            record = json.loads(files.read(self.run))
            version, kind = record["format_version"], record["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise AdaCompressError(f"{self.run} is damaged ({error}): discard the run with --overwrite") from error
        if version != VERSION:
            raise AdaCompressError(
                f"{self.run} has version {version}, and this is adacompress for version {VERSION}: "
                "use the release that wrote it, or discard the run with --overwrite"
            )
        if kind != self.FORMAT:
            raise AdaCompressError(f"{self.output} holds a run of another kind ({kind}): choose another --output")
        return record["options"]


def _differences(earlier: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*earlier, *options} if earlier.get(name) != options.get(name))
    return ", ".join(f"{name} was {earlier.get(name)!r}, now {options.get(name)!r}" for name in names)


class TodoAndFinished(NamedTuple):
    """What SkipFinished returns."""

    todo: beam.PCollection[ImageFile]
    finished: beam.PCollection[FinishedImage]


@dataclasses.dataclass
class SkipFinished(SeveralOutputs):
    """Parts the input into what is left to do and what an earlier attempt did.

    An image is finished if a row of it is there, the input has still the size in that row and is not newer than
    the result, and the result is there in the size in that row. Failures are tried again.
    """

    folder: RunFolder

    def expand(self, images: beam.PCollection[ImageFile]) -> TodoAndFinished:
        earlier = (
            images.pipeline
            | "Earlier" >> beam.Create([self.folder])
            | "ListRows" >> beam.FlatMap(_row_files).with_output_types(str)
            | "SpreadRows" >> beam.Reshuffle()
            | "ReadRows" >> beam.FlatMap(_read_rows).with_output_types(tuple[str, str])
        )
        parted = (
            {
                "images": images | "ByKey" >> beam.WithKeys(_key_of).with_output_types(tuple[str, ImageFile]),
                "rows": earlier,
            }
            | "Join" >> beam.CoGroupByKey()
            | "Part"
            >> beam.ParDo(_Part(self.folder))
            .with_output_types(ImageFile, finished=FinishedImage)
            .with_outputs("finished", main="todo")
        )
        return TodoAndFinished(parted.todo, parted.finished)


def _key_of(file: ImageFile) -> str:
    return file.key


def _row_files(folder: RunFolder) -> Iterator[str]:
    yield from (found.path for found in files.listing(folder.rows))
    yield from folder.parts()


def read_rows(path: str) -> list[ManifestRow]:
    """The rows of a part of a manifest, or of a run in progress."""
    read = manifest.from_parquet if path.endswith(".parquet") else manifest.from_lines
    return read(files.read(path), path)


def _read_rows(path: str) -> Iterator[tuple[str, str]]:
    for row in read_rows(path):
        if row.status != FAILED:
            yield row.key, json.dumps(row)


class _Part(beam.DoFn):
    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def process(self, element: tuple[str, Mapping[str, Iterable[Any]]]) -> Iterator[Any]:
        _, group = element
        for file in group["images"]:  # one, or none where an input has gone since
            for encoded in sorted(group["rows"]):
                if self._is_finished(file, ManifestRow(*json.loads(encoded))):
                    yield beam.pvalue.TaggedOutput("finished", FinishedImage(file.shard, encoded))
                    break
            else:
                yield file

    def _is_finished(self, file: ImageFile, row: ManifestRow) -> bool:
        if row.output is None or row.bytes_in != file.bytes_in or (file.steps_aside and row.output == file.key):
            return False
        result = files.status(self._folder.image(row.output))
        return result is not None and result.size == row.bytes_out and result.modified >= file.modified
