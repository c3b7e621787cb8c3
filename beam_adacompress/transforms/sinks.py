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
from beam_adacompress.formats import Replacement
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import FAILED, KEPT
from beam_adacompress.summary import RunStats
from beam_adacompress.transforms import files, packs
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.runs import RunFolder, read_rows

# A worker holds results back until one of these is reached, then writes their rows and then them.
FLUSH_IMAGES = 64
FLUSH_BYTES = 16 * 1024 * 1024
FLUSH_SECONDS = 1.0

# Why an image is kept whose result would need another extension: that name is too long, or a folder's.
NAME_NOT_FREE = "name-not-free"

Pair = Callable[[ManifestRow], Optional[tuple[bytes, bytes]]]

# Errors that every further image would meet as well.
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Outcome(NamedTuple):
    """What became of one image, with the bytes to write for it."""

    shard: int
    row: ManifestRow
    data: Optional[bytes] = None  # None where there is nothing to write
    media_type: str = ""
    renamed: bool = False  # the format changed


class Fragment(NamedTuple):
    """A file with rows of one part of the manifest."""

    shard: int
    path: str


def compressed_outcome(row: Any) -> Outcome:
    """Of a row with the fields of SourceImage and CompressedImage."""
    unnameable = row.renamed and not row.may_rename
    output = row.within or naming.output_name(row.key, (row.renamed and not unnameable) or row.steps_aside)
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
        engine=None if kept else row.engine,
    )
    media_type = "application/octet-stream" if unnameable else row.media_type
    return Outcome(row.shard, described, data, media_type, renamed=row.renamed and not unnameable)


def failed_outcome(row: Any) -> Outcome:
    """Of a row with the fields of LocatedFailure."""
    described = failed_row(row.key, row.reason, row.error)
    return Outcome(row.shard, described._replace(bytes_in=row.bytes_in, sha256_in=row.sha256_in))


def finished_outcome(row: Any) -> Outcome:
    """Of a FinishedImage."""
    return Outcome(row.shard, ManifestRow(*json.loads(row.row)))


def failed_row(key: str, reason: str, error: str) -> ManifestRow:
    """The row of an input that failed."""
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
      packed: write no images, but packs of them beside their rows, and those first, see `shards`.
    """

    folder: RunFolder
    attempt: str
    outcome: Callable[[Any], Outcome]
    packed: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, results: beam.PCollection[Any]) -> beam.PCollection[Fragment]:
        commit = _Pack if self.packed else _Commit
        return results | "Commit" >> beam.ParDo(commit(self.folder, self.attempt, self.outcome)).with_output_types(
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
                yield from self._write(shard, outcomes)
            except OSError as error:
                raise write_failed(self._folder.output, error) from error

    def _write(self, shard: int, outcomes: list[Outcome]) -> Iterator[Fragment]:
        yield self._write_rows(self._new_file(shard), shard, [outcome.row for outcome in outcomes])
        failed = [row for outcome in outcomes if (row := self._write_image(outcome)) is not None]
        if failed:
            yield self._write_rows(self._new_file(shard), shard, failed)

    def _new_file(self, shard: int) -> str:
        self._written += 1
        return self._folder.row_file(shard, self._attempt, self._written)

    def _write_rows(self, path: str, shard: int, rows: list[ManifestRow]) -> Fragment:
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
        failed = failed_row(row.key, error.reason, error.message)
        return failed._replace(bytes_in=row.bytes_in, sha256_in=row.sha256_in)


class _Pack(_Commit):
    """Results wait in packs for the shard that they belong to."""

    def _write(self, shard: int, outcomes: list[Outcome]) -> Iterator[Fragment]:
        path = self._new_file(shard)
        results = {}
        for outcome in outcomes:
            if outcome.data is not None:
                self._metrics.took(len(outcome.data))
                self._metrics.gave(len(outcome.data))
            if outcome.data is not None and outcome.row.status != KEPT:
                results[outcome.row.key] = Replacement(outcome.data, outcome.renamed)
        if results:
            self._folder.write(packs.beside(path), packs.to_bytes(results))
        yield self._write_rows(path, shard, [outcome.row for outcome in outcomes])


def write_failed(path: str, error: OSError) -> AdaCompressError:
    """What ends the job when the output cannot be written."""
    return AdaCompressError(
        f"writing to {path} failed: {error.strerror or error}; "
        "mend that and run the same command again, it goes on where it stopped"
    )


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
    return summary.collect(manifest.rows_of(table), seed, shard)


@dataclasses.dataclass
class FinishRun(beam.PTransform):
    """Writes report and summary, and deletes what only a run in progress needs.

    Args:
      folder: of the run.
      pair: gives the original and the result of a row, for the report; None where they are gone.
      options, versions: for the summary.
      started: when the job began, in seconds since the epoch.
      also: what else to do at the end; None for nothing.
    """

    folder: RunFolder
    pair: Pair
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    started: float
    also: Optional[Callable[[], None]] = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, stats: beam.PCollection[RunStats]) -> beam.PCollection[str]:
        finish = functools.partial(_finish, *(getattr(self, field.name) for field in dataclasses.fields(self)))
        return stats | "Finish" >> beam.Map(finish).with_output_types(str)


def _finish(
    folder: RunFolder,
    pair: Pair,
    options: Mapping[str, Any],
    versions: Mapping[str, str],
    started: float,
    also: Optional[Callable[[], None]],
    stats: RunStats,
) -> str:
    files.delete(set(folder.parts()) - {folder.part(number) for number in stats.parts})
    if also is not None:
        also()
    content = summary.summarise(stats, options, versions, time.time() - started)
    page = report.render(report.Content([report.CompressRun(folder.output, stats, pair, content)]))
    folder.write(folder.report, page.encode(), "text/html")
    folder.write(folder.summary, json.dumps(content, indent=1).encode(), "application/json")
    files.delete([folder.rows, folder.scratch])
    return folder.summary


def before_and_after(folder: RunFolder, root: str, row: ManifestRow) -> Optional[tuple[bytes, bytes]]:
    """The original and the result of a row; None where one is gone.

    Args:
      folder: of the run.
      root: folder that the keys are relative to.
      row: of a written image.
    """
    try:
        return files.read(files.join(root, row.key)), files.read(folder.image(str(row.output)))
    except OSError:
        return None
