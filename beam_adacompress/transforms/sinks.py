"""From results to a run folder: images with their rows, the manifest, the summary and the report.

    images, failures ─▶ CommitRows ─▶ Fragment (a name) ─▶ shuffle by shard ─▶ MergeManifest ─▶ RunStats ─▶ FinishRun

Rows never cross a shuffle either: they are written to small files beside their images, and the names of those
files are gathered per part of the manifest. Each image is written under its final name in one step.
"""

import dataclasses
import errno
import functools
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from beam_adacompress import manifest, naming, report, summary
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import FAILED, KEPT
from beam_adacompress.summary import RunStats
from beam_adacompress.transforms import files
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.sources import SHARD_SIZE

# A worker holds results back until one of these is reached, then writes their rows and then them.
FLUSH_IMAGES = 64
FLUSH_BYTES = 16 * 1024 * 1024
FLUSH_SECONDS = 1.0

# Why an image is kept whose result would need another extension: that name is too long, or a folder's.
NAME_NOT_FREE = "name-not-free"

# Errors that every further image would meet as well.
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Outcome(NamedTuple):
    """What became of one image, with the bytes to write for it."""

    shard: int
    row: ManifestRow
    data: Optional[bytes] = None  # None where there is nothing to write
    media_type: str = ""


class Fragment(NamedTuple):
    """A file with rows of one part of the manifest."""

    shard: int
    path: str


def compressed_outcome(row: Any) -> Outcome:
    """Of a row with the fields of SourceImage and CompressedImage."""
    unnameable = row.renamed and not row.may_rename
    output = naming.output_name(row.key, (row.renamed and not unnameable) or row.steps_aside)
    kept = unnameable or row.status == KEPT
    data = row.data if kept else row.compressed
    described = ManifestRow(
        key=row.key,
        status=KEPT if kept else row.status,
        reason=NAME_NOT_FREE if unnameable else row.reason,
        output=output,
        quality=row.choice.quality,
        tables=row.choice.tables,
        subsampling=None if kept else row.subsampling,
        width=row.width,
        height=row.height,
        bytes_in=row.bytes_in,
        bytes_out=len(data),
        sha256_in=row.sha256_in,
        sha256_out=row.sha256_in if kept else hashlib.sha256(row.compressed).hexdigest(),
        policy_version=row.choice.policy_version,
        propensity=row.choice.propensity,
        expected_agreement=row.choice.expected_agreement,
        error=None,
        seconds=round(row.seconds, 6),
        verified_by=row.choice.verified_by,
    )
    media_type = "application/octet-stream" if unnameable else row.media_type
    return Outcome(row.shard, described, data, media_type)


def failed_outcome(row: Any) -> Outcome:
    """Of a row with the fields of LocatedFailure."""
    described = _failed_row(row.key, row.reason, row.error)
    return Outcome(row.shard, described._replace(bytes_in=row.bytes_in, sha256_in=row.sha256_in))


def finished_outcome(row: Any) -> Outcome:
    """Of a FinishedImage."""
    return Outcome(row.shard, ManifestRow(*json.loads(row.row)))


def _failed_row(key: str, reason: str, error: str) -> ManifestRow:
    nothing = ManifestRow(*[None] * len(ManifestRow._fields))  # type: ignore[arg-type]
    return nothing._replace(key=key, status=FAILED, reason=reason, error=error)


@dataclasses.dataclass
class CommitRows(beam.PTransform):
    """Writes outcomes into the run folder: the rows first, then the images.

    An image that cannot be written under its name becomes a failure row; a full or read-only disk ends the job.

    Args:
      folder: of the run.
      attempt: an identifier of this execution, part of the names of the row files.
      outcome: makes an Outcome of an input row; a module-level function.
    """

    folder: RunFolder
    attempt: str
    outcome: Callable[[Any], Outcome]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, results: beam.PCollection[Any]) -> beam.PCollection[Fragment]:
        return results | "Commit" >> beam.ParDo(_Commit(self.folder, self.attempt, self.outcome)).with_output_types(
            Fragment
        )


class _Commit(beam.DoFn):
    def __init__(self, folder: RunFolder, attempt: str, outcome: Callable[[Any], Outcome]) -> None:
        self._folder = folder
        self._attempt = attempt
        self._outcome = outcome
        self._metrics = StageMetrics("WriteImages")
        self._written = 0  # fragments

    def start_bundle(self) -> None:
        self._waiting: list[Outcome] = []
        self._bytes = 0
        self._flushed = time.monotonic()

    def process(self, row: Any, window: Any = beam.DoFn.WindowParam) -> Iterator[Fragment]:
        self._window = window
        outcome = self._outcome(row)
        self._waiting.append(outcome)
        self._bytes += len(outcome.data or b"")
        if (
            len(self._waiting) >= FLUSH_IMAGES
            or self._bytes >= FLUSH_BYTES
            or time.monotonic() - self._flushed >= FLUSH_SECONDS
        ):
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for fragment in self._flush():  # none where there was no row, and so no window
            yield WindowedValue(fragment, self._window.max_timestamp(), (self._window,))

    def _flush(self) -> Iterator[Fragment]:
        shards: defaultdict[int, list[Outcome]] = defaultdict(list)
        for outcome in self._waiting:
            shards[outcome.shard].append(outcome)
        self.start_bundle()
        for shard, outcomes in shards.items():
            try:
                yield self._write_rows(shard, [outcome.row for outcome in outcomes])
                failed = [row for outcome in outcomes if (row := self._write_image(outcome)) is not None]
                if failed:
                    yield self._write_rows(shard, failed)
            except OSError as error:
                raise AdaCompressError(
                    f"writing to {self._folder.output} failed: {error.strerror or error}; "
                    "mend that and run the same command again, it goes on where it stopped"
                ) from error

    def _write_rows(self, shard: int, rows: list[ManifestRow]) -> Fragment:
        self._written += 1
        path = self._folder.row_file(shard, self._attempt, self._written)
        self._folder.write(path, manifest.to_lines(rows))
        return Fragment(shard, path)

    def _write_image(self, outcome: Outcome) -> Optional[ManifestRow]:
        """Returns the failure row where the image cannot be written under its name."""
        row = outcome.row
        if outcome.data is None or row.output is None:
            return None
        self._metrics.took(len(outcome.data))
        try:
            naming.check_key(row.output)
            self._folder.write(self._folder.image(row.output), outcome.data, outcome.media_type)
        except ImageError as error:
            return self._failure(row, error)
        except OSError as error:
            if error.errno in _HOPELESS:
                raise
            return self._failure(row, ImageError("write-failed", f"writing failed: {error.strerror or error}"))
        self._metrics.gave(len(outcome.data))
        return None

    def _failure(self, row: ManifestRow, error: ImageError) -> ManifestRow:
        self._metrics.failed()
        failed = _failed_row(row.key, error.reason, error.message)
        return failed._replace(bytes_in=row.bytes_in, sha256_in=row.sha256_in)


@dataclasses.dataclass
class MergeManifest(beam.PTransform):
    """Gathers the rows of each part of the manifest, writes it in key order, and counts.

    The parts depend on the names in the input alone, not on how the work was spread.
    """

    folder: RunFolder
    seed: int

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, fragments: beam.PCollection[Fragment]) -> beam.PCollection[RunStats]:
        return (
            fragments
            | "ByShard" >> beam.Map(tuple).with_output_types(tuple[int, str])
            | "Gather" >> beam.GroupByKey()
            | "WritePart"
            >> beam.MapTuple(functools.partial(_write_part, self.folder, self.seed)).with_output_types(RunStats)
            | "Count" >> beam.CombineGlobally(Merge(functools.partial(RunStats, self.seed))).without_defaults()
        )


def _write_part(folder: RunFolder, seed: int, shard: int, paths: Iterable[str]) -> RunStats:
    table = manifest.merge(manifest.to_table(read_rows(path)) for path in sorted(paths))
    folder.write(folder.part(shard), manifest.to_parquet(table))
    return summary.collect(manifest.rows_of(table), seed)


@dataclasses.dataclass
class FinishRun(beam.PTransform):
    """Writes report and summary, and deletes what only a run in progress needs.

    Args:
      folder: of the run.
      root: folder that the keys are relative to, where the report finds the originals.
      options, versions: for the summary.
      started: when the job began, in seconds since the epoch.
    """

    folder: RunFolder
    root: str
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    started: float

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, stats: beam.PCollection[RunStats]) -> beam.PCollection[str]:
        finish = functools.partial(_finish, self.folder, self.root, self.options, self.versions, self.started)
        return stats | "Finish" >> beam.Map(finish).with_output_types(str)


def _finish(
    folder: RunFolder,
    root: str,
    options: Mapping[str, Any],
    versions: Mapping[str, str],
    started: float,
    stats: RunStats,
) -> str:
    parts = {folder.part(shard) for shard in range(-(-stats.images // SHARD_SIZE))}
    found = [file.path for file in files.listing(folder.manifest) if folder.is_part(file.path)]
    files.delete(set(found) - parts)
    content = summary.summarise(stats, options, versions, time.time() - started)
    page = report.render(content, stats, functools.partial(_before_and_after, folder, root))
    folder.write(folder.report, page.encode(), "text/html")
    folder.write(folder.summary, json.dumps(content, indent=1).encode(), "application/json")
    files.delete([folder.rows, folder.scratch])
    return folder.summary


def _before_and_after(folder: RunFolder, root: str, row: ManifestRow) -> Optional[tuple[bytes, bytes]]:
    try:
        return files.read(files.join(root, row.key)), files.read(folder.image(str(row.output)))
    except OSError:
        return None  # gone since: the report does without
