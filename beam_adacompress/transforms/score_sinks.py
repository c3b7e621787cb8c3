"""From scores to the folder of a score run.

    OUTPUT/scores/part-*.parquet    one row per scored image, see scores.FORMAT
    OUTPUT/failures/part-*.parquet  sampled images without a score
    OUTPUT/summary.json             written last

Parts hold the images of one part of the manifest, in key order, so they do not depend on how the work was spread.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import apache_beam as beam

from beam_adacompress import scores
from beam_adacompress.records import Score, Usage
from beam_adacompress.scores import ScoreStats
from beam_adacompress.transforms import files
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.runs import RunFolder


class ScoreFolder(RunFolder):
    """Paths below the output of a score run."""

    FORMAT: ClassVar[str] = "adacompress.score-run"

    @property
    def scores(self) -> str:
        return files.join(self.output, "scores")

    @property
    def failures(self) -> str:
        return files.join(self.output, "failures")

    def folders(self) -> tuple[str, ...]:
        return self.scores, self.failures


@dataclasses.dataclass
class Tick(beam.PTransform):
    """Lets a command on this machine show how far it is: appends a line for each Usage to a file of the worker's own.

    Gives nothing. The folder is on a disk of this machine.
    """

    folder: RunFolder

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, usage: beam.PCollection[Usage]) -> beam.PCollection[None]:
        return usage | "Tick" >> beam.ParDo(_Tick(self.folder.rows)).with_output_types(type(None))


class _Tick(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def setup(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        self._file = open(os.path.join(self._folder, uuid.uuid4().hex), "ab", buffering=0)  # noqa: SIM115 (see teardown)

    def process(self, usage: Usage) -> None:
        self._file.write(f"{usage.calls} {usage.cost:g}\n".encode())

    def teardown(self) -> None:
        self._file.close()


@dataclasses.dataclass
class WriteScores(beam.PTransform):
    """Writes scores, failures and the summary of a score run.

    Takes a mapping of PCollections: `scores` (rows with the fields of Score, and `shard`), `failures` (rows with
    those of PairFailure), `usage` (Usage) and `counts` (images of the run by action). Gives the path of the summary.

    Args:
      folder: of the score run.
      options, versions: for the summary.
      started: when the job began, in seconds since the epoch.
    """

    folder: ScoreFolder
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    started: float

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, results: Any) -> beam.PCollection[str]:
        scored = (
            results["scores"]
            | "ScoreByShard" >> beam.Map(_score_by_shard).with_output_types(tuple[int, Score])
            | "GatherScores" >> beam.GroupByKey()
            | "WriteScores" >> beam.MapTuple(functools.partial(_write_scores, self.folder))
        )
        failed = (
            results["failures"]
            | "FailureByShard" >> beam.Map(_failure_by_shard).with_output_types(tuple[int, tuple[str, str, str, str]])
            | "GatherFailures" >> beam.GroupByKey()
            | "WriteFailures" >> beam.MapTuple(functools.partial(_write_failures, self.folder))
        )
        used = results["usage"] | "Usage" >> beam.CombineGlobally(Merge(ScoreStats, ScoreStats.add_usage))
        counted = results["counts"] | "Images" >> beam.CombineGlobally(Merge(ScoreStats, _add_count))
        return (
            [scored, failed, used, counted]
            | "Flatten" >> beam.Flatten()
            | "Merge" >> beam.CombineGlobally(Merge(ScoreStats))
            | "Finish"
            >> beam.Map(
                functools.partial(_finish, self.folder, self.options, self.versions, self.started)
            ).with_output_types(str)
        )


def _score_by_shard(row: Any) -> tuple[int, Score]:
    return row.shard, scores.score_of(row)


def _failure_by_shard(row: Any) -> tuple[int, tuple[str, str, str, str]]:
    return row.shard, (row.key, row.stage, row.reason, row.error)


def _part(folder: str, shard: int) -> str:
    return files.join(folder, f"part-{shard:05d}.parquet")


def _write_scores(folder: ScoreFolder, shard: int, rows: Iterable[Score]) -> ScoreStats:
    rows = list(rows)
    path = _part(folder.scores, shard)
    folder.write(path, scores.to_parquet(rows))
    stats = ScoreStats(parts={path})
    for row in rows:
        stats.add_score(row)
    return stats


def _write_failures(folder: ScoreFolder, shard: int, rows: Iterable[tuple[str, str, str, str]]) -> ScoreStats:
    table = scores.FAILURES.table(sorted(rows))
    path = _part(folder.failures, shard)
    folder.write(path, scores.FAILURES.to_parquet(table))
    stats = ScoreStats(parts={path})
    for reason in table["reason"].to_pylist():
        stats.add_failure(reason)
    return stats


def _add_count(stats: ScoreStats, counted: tuple[str, int]) -> None:
    stats.images += counted[1]


def _finish(
    folder: ScoreFolder, options: Mapping[str, Any], versions: Mapping[str, str], started: float, stats: ScoreStats
) -> str:
    for parts in folder.folders():
        found = {file.path for file in files.listing(parts) if re.search(r"[/\\]part-\d{5,}\.parquet$", file.path)}
        files.delete(found - stats.parts)  # of an earlier run of the same job
    content = scores.summarise(stats, options, versions, time.time() - started)
    folder.write(folder.summary, json.dumps(content, indent=1).encode(), "application/json")
    files.delete([folder.rows, folder.scratch])
    return folder.summary
