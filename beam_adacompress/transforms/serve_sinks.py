"""What a job leaves behind that serves for as long as images arrive.

    OUTPUT/images/...                           the results
    OUTPUT/manifest/DATE/TIME-*.jsonl           rows of a few images each, written just before those images
    OUTPUT/scores/DATE/TIME-*.parquet           the scores of a window, see scores.FORMAT
    OUTPUT/failures/DATE/TIME-*.parquet         images of a window that were to be scored, and were not
    OUTPUT/drift/estimates/DATE/TIME-*.jsonl    a DriftEstimate
    OUTPUT/drift/retrained/DATE/TIME-*.jsonl    a Retrained
    OUTPUT/_adacompress/...                     the job's own

Dates and times are UTC: of a window's start, or of writing. Where several rows of the manifest are of one image, the
one in the last file by name stands. Other files are named by their content, so what is done again after a failure, or
by two workers, leaves one file.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
from apache_beam import typehints

from beam_adacompress import scores
from beam_adacompress.drift.log import DriftLog
from beam_adacompress.records import Score
from beam_adacompress.transforms import files
from beam_adacompress.transforms.score_sinks import ScoreFolder


class ServeFolder(ScoreFolder):
    """Paths below the output of a job that serves."""

    FORMAT: ClassVar[str] = "adacompress.serve"

    @property
    def drift(self) -> str:
        return files.join(self.output, "drift")

    def folders(self) -> tuple[str, ...]:
        return self.images, self.manifest, self.scores, self.failures, self.drift

    def row_file(self, shard: int, attempt: str, number: int) -> str:
        """A file for rows of the manifest, for good."""
        now = datetime.datetime.now(datetime.timezone.utc)
        return dated(self.manifest, now, f"{now:%f}-{attempt[:8]}-{number:06d}-{uuid.uuid4().hex[:8]}.jsonl")

    def keep(self, place: str, moment: datetime.datetime, data: bytes, extension: str) -> None:
        """Writes a file that is named by its content."""
        self.write(dated(place, moment, f"{hashlib.sha256(data).hexdigest()[:16]}{extension}"), data)


def dated(place: str, moment: datetime.datetime, rest: str) -> str:
    """The path of a file of a moment."""
    return files.join(place, f"{moment:%Y-%m-%d}", f"{moment:%H-%M-%S}-{rest}")


@dataclasses.dataclass
class WriteWindows(beam.PTransform):
    """Writes a Parquet file of the rows of each window, and one more of those that come late.

    Args:
      folder: of the job.
      place: folder in it for these files alone.
      encoded: makes the file's content; a module-level function.
    """

    folder: ServeFolder
    place: str
    encoded: Callable[[Iterable[Any]], bytes]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, rows: beam.PCollection[Any]) -> beam.PCollection[None]:
        return (
            rows
            | "OneKey" >> beam.WithKeys(0).with_output_types(typehints.Tuple[int, rows.element_type])
            | "Gather" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteWindow(self.folder, self.place, self.encoded)).with_output_types(type(None))
        )


class _WriteWindow(beam.DoFn):
    def __init__(self, folder: ServeFolder, place: str, encoded: Callable[[Iterable[Any]], bytes]) -> None:
        self._folder = folder
        self._place = place
        self._encoded = encoded

    def process(self, gathered: tuple[int, Iterable[Any]], window: Any = beam.DoFn.WindowParam) -> None:
        start = datetime.datetime.fromtimestamp(float(window.start), datetime.timezone.utc)
        self._folder.keep(self._place, start, self._encoded(gathered[1]), ".parquet")


def encoded_scores(rows: Iterable[Score]) -> bytes:
    """The content of a file of scores, whatever their order."""
    return scores.to_parquet(sorted(rows, key=lambda row: (row.key, row.time)))


def encoded_failures(rows: Iterable[Any]) -> bytes:
    """The content of a file of rows with the fields of ImageFailure, whatever their order."""
    table = scores.FAILURES.table(sorted((row.key, row.stage, row.reason, row.error) for row in rows))
    return scores.FAILURES.to_parquet(table)


@dataclasses.dataclass
class WriteEach(beam.PTransform):
    """Writes a file of JSON for each NamedTuple, at the time that its timestamp says; for rows that are few.

    Gives each row when its file is there.

    Args:
      folder: of the job.
      place: folder in it for these files alone.
    """

    folder: ServeFolder
    place: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, rows: beam.PCollection[Any]) -> beam.PCollection[Any]:
        return rows | "Write" >> beam.ParDo(_WriteEach(self.folder, self.place)).with_output_types(rows.element_type)


@dataclasses.dataclass
class LogEach(beam.PTransform):
    """Writes rows into logs for TensorBoard, see `drift.log`; on one machine.

    Args:
      logs: folder on its disk.
      kind: `estimate` or `retrained`.
    """

    logs: str
    kind: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, rows: beam.PCollection[Any]) -> beam.PCollection[None]:
        return rows | "Log" >> beam.ParDo(_LogEach(self.logs, self.kind)).with_output_types(type(None))


class _LogEach(beam.DoFn):
    def __init__(self, logs: str, kind: str) -> None:
        self._folder = logs
        self._kind = kind

    def setup(self) -> None:
        self._log = DriftLog(self._folder)

    def process(self, row: Any) -> None:
        getattr(self._log, self._kind)(row)

    def teardown(self) -> None:
        self._log.close()


class _WriteEach(beam.DoFn):
    def __init__(self, folder: ServeFolder, place: str) -> None:
        self._folder = folder
        self._place = place

    def process(self, row: Any, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        moment = datetime.datetime.fromtimestamp(float(timestamp), datetime.timezone.utc)
        self._folder.keep(self._place, moment, f"{json.dumps(row._asdict())}\n".encode(), ".jsonl")
        yield row
