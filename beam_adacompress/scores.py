"""Scores on disk, and what they come to: a mergeable accumulator, and the summary made of it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Optional

import pyarrow as pa

from beam_adacompress.artefacts import Format
from beam_adacompress.estimates import Interval, WeightedSums
from beam_adacompress.records import SCORED, Choice, Label, Score, Usage
from beam_adacompress.sampling import action_of

SUMMARY_VERSION = 1

_LABELS = pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("score", pa.float64())]))

# The choice's fields stand as columns of their own; the rest is as in records.Score.
FORMAT = Format(
    "scores",
    version=1,
    columns=(
        pa.field("key", pa.string(), nullable=False),
        pa.field("tables", pa.string(), nullable=False),
        pa.field("quality", pa.int32(), nullable=False),
        pa.field("policy_version", pa.string()),
        pa.field("expected_agreement", pa.float64()),
        pa.field("verified_by", pa.string()),
        pa.field("features", pa.list_(pa.float64())),
        pa.field("propensity", pa.float64(), nullable=False),
        pa.field("sampling_probability", pa.float64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reference_labels", _LABELS),
        pa.field("compressed_labels", _LABELS),
        pa.field("agreement", pa.int32()),
        pa.field("strict_agreement", pa.int32()),
        pa.field("size_ratio", pa.float64(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("backend", pa.string(), nullable=False),
        pa.field("backend_version", pa.string(), nullable=False),
        pa.field("latency", pa.float64()),
        pa.field("cost", pa.float64(), nullable=False),
        pa.field("time", pa.float64(), nullable=False),
    ),
)

FAILURES = Format(
    "score-failures",
    version=1,
    columns=tuple(pa.field(name, pa.string(), nullable=False) for name in ("key", "stage", "reason", "error")),
)


def to_parquet(rows: Iterable[Score]) -> bytes:
    """One part, in key order."""
    return FORMAT.to_parquet(FORMAT.table([_columns(row) for row in sorted(rows, key=lambda row: row.key)]))


def from_parquet(data: bytes, path: str) -> list[Score]:
    """Reads one part.

    Raises:
      AdaCompressError: it holds no scores, or scores of an unknown version; `path` is for the message.
    """
    return [_score(row) for row in FORMAT.from_parquet(data, path).to_pylist()]


def read_rows(file: BinaryIO, path: str) -> Iterator[Score]:
    """The scores of one part without their features, a few at a time in memory.

    Args:
      file: open and seekable.
      path: for messages.

    Raises:
      AdaCompressError: as `from_parquet`.
    """
    columns = [column.name for column in FORMAT.columns if column.name != "features"]
    for batch in FORMAT.batches(file, path, columns):
        yield from (_score({**row, "features": ()}) for row in batch.to_pylist())


def _columns(row: Score) -> list[Any]:
    values = {**row._asdict(), **row.choice._asdict(), "propensity": row.propensity}
    for side in ("reference_labels", "compressed_labels"):
        values[side] = [{"name": name, "score": score} for name, score in values[side]]
    return [values[column.name] for column in FORMAT.columns]


def _score(row: dict[str, Any]) -> Score:
    values = {name: row[name] for name in Score._fields if name != "choice"}
    for side in ("reference_labels", "compressed_labels"):
        values[side] = [Label(**label) for label in row[side]]
    choice = Choice(**{name: row[name] for name in Choice._fields if name in row})  # older files lack some
    return Score(choice=choice, **values)


def score_of(row: Any) -> Score:
    """The score in a row that has its fields, and others."""
    return Score(**{name: getattr(row, name) for name in Score._fields})


@dataclasses.dataclass
class Sums:
    """Agreement, strict agreement, reward and size ratio of scored images."""

    agreement: WeightedSums = dataclasses.field(default_factory=WeightedSums)
    strict_agreement: WeightedSums = dataclasses.field(default_factory=WeightedSums)
    reward: WeightedSums = dataclasses.field(default_factory=WeightedSums)
    size_ratio: WeightedSums = dataclasses.field(default_factory=WeightedSums)

    def add(self, row: Score) -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name).add(getattr(row, field.name), 1 / row.sampling_probability)

    def merge(self, other: Sums) -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name).merge(getattr(other, field.name))

    def summarise(self) -> dict[str, Any]:
        return {
            "images": self.agreement.n,
            "agreement": _interval(self.agreement.share_interval()),
            "strict_agreement": _interval(self.strict_agreement.share_interval()),
            "reward": _interval(self.reward.interval()),
            "size_ratio": _interval(self.size_ratio.interval()),
        }


@dataclasses.dataclass
class ScoreStats:
    """Counts over scores, failures and usage. `merge` gives the same whatever the order and the grouping."""

    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by reason
    backends: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    total: Sums = dataclasses.field(default_factory=Sums)
    actions: dict[str, Sums] = dataclasses.field(default_factory=dict)
    parts: set[str] = dataclasses.field(default_factory=set)  # paths of the files that hold them
    images: int = 0  # of which the sample was taken
    calls: int = 0
    retries: int = 0
    cache_hits: int = 0
    throttled: float = 0.0  # seconds
    cost: float = 0.0  # USD

    def add_score(self, row: Score) -> None:
        self.statuses[row.status] += 1
        self.backends[row.backend, row.backend_version] += 1
        if row.status == SCORED:
            self.total.add(row)
            self.actions.setdefault(action_of(row.choice), Sums()).add(row)

    def add_failure(self, reason: str) -> None:
        self.failures[reason] += 1

    def add_usage(self, usage: Usage) -> None:
        self.calls += usage.calls
        self.retries += usage.retries
        self.cache_hits += usage.cache_hits
        self.throttled += usage.throttled
        self.cost += usage.cost

    def merge(self, other: ScoreStats) -> None:
        self.statuses += other.statuses
        self.failures += other.failures
        self.backends += other.backends
        self.parts |= other.parts
        self.total.merge(other.total)
        for action, sums in other.actions.items():
            self.actions.setdefault(action, Sums()).merge(sums)
        for name in ("images", "calls", "retries", "cache_hits", "throttled", "cost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def sampled(self) -> int:
        return self.statuses.total() + self.failures.total()


def summarise(
    stats: ScoreStats, options: Mapping[str, Any], versions: Mapping[str, str], wall_seconds: float
) -> dict[str, Any]:
    """The content of a score run's summary.json; each interval holds mean, low and high at 95 %.

    Means are over the images that the sample was taken of, by weights of 1 / sampling probability.
    """
    return {
        "format": "adacompress.score-summary",
        "format_version": SUMMARY_VERSION,
        "backends": [
            {"name": name, "version": version, "images": count}
            for (name, version), count in sorted(stats.backends.items())
        ],
        "images": {
            "total": stats.images,
            "sampled": stats.sampled,
            **dict(sorted(stats.statuses.items())),
            "failed": stats.failures.total(),
        },
        "failures": dict(sorted(stats.failures.items())),
        "estimates": stats.total.summarise(),
        "actions": {action: stats.actions[action].summarise() for action in sorted(stats.actions)},
        "usage": {
            "calls": stats.calls,
            "retries": stats.retries,
            "cache_hits": stats.cache_hits,
            "throttled_seconds": round(stats.throttled, 3),
            "cost_usd": round(stats.cost, 6),
        },
        "wall_seconds": round(wall_seconds, 3),
        "versions": dict(versions),
        "options": dict(options),
    }


def _interval(interval: Optional[Interval]) -> Optional[dict[str, float]]:
    return None if interval is None else interval._asdict()


class MostRecent:
    """The latest scores, of each image and policy version one; `merge` gives the same whatever the order.

    Of those of the same image the latest one is kept, since the earliest one may have made room for others already.

    Args:
      most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[tuple[str, str], Score] = {}

    def add(self, row: Score) -> None:
        name = row.key, row.choice.policy_version
        if (known := self._rows.get(name)) is None or _order(known) < _order(row):
            self._rows[name] = row
        if len(self._rows) >= 2 * self._most:  # seldom, since it takes long
            self._rows = {(row.key, row.choice.policy_version): row for row in self.ordered()}

    def merge(self, other: MostRecent) -> None:
        for row in other._rows.values():
            self.add(row)

    def ordered(self) -> list[Score]:
        """From the oldest to the newest."""
        return sorted(self._rows.values(), key=_order)[-self._most :]


def _order(row: Score) -> tuple[Any, ...]:
    """By time; the rest tells apart what was scored in one moment."""
    choice = row.choice
    return row.time, row.key, choice.policy_version, choice.tables, choice.quality, row.backend, row.backend_version
