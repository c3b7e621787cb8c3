"""What a run came to: a mergeable accumulator over manifest rows, and the summary made of it.

Its size does not grow with the images, but for one number for each part of the manifest: counts, a histogram of the
size ratio in steps of a thousandth, sizes by folder, and a few examples of each kind.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beam_adacompress.folders import Folders, Sizes
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import COMPRESSED, FAILED, KEPT
from beam_adacompress.sampling import draw

VERSION = 1

# Kinds of examples, with how many of each are shown.
SAMPLE = "sample"
SAVINGS = "savings"
EXAMPLES: Mapping[str, int] = {SAMPLE: 12, SAVINGS: 6, KEPT: 6, FAILED: 100}

_RATIO_STEPS = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Example = tuple[float, str, ManifestRow]  # rank (the smallest are shown), key, row


@dataclasses.dataclass
class RunStats:
    """Counts over manifest rows. `add` and `merge` give the same whatever the order and the grouping.

    Args:
      seed: of the sample of images that the report shows; the same seed shows the same images.
    """

    seed: int = 0
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reasons: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    qualities: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    tables: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # of compressed images
    policies: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # their versions
    folders: Folders = dataclasses.field(default_factory=Folders)
    ratios: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)  # of written images
    bytes_in: int = 0  # of written images: what the results stand for
    bytes_out: int = 0
    bytes_failed: int = 0  # input bytes of failed images, where known
    seconds: float = 0.0  # decoding and encoding, summed over images
    parts: set[int] = dataclasses.field(default_factory=set)  # of the manifest, those that hold the rows
    examples: dict[str, list[Example]] = dataclasses.field(default_factory=lambda: {kind: [] for kind in EXAMPLES})

    def add(self, row: ManifestRow) -> None:
        self.statuses[row.status] += 1
        self.seconds += row.seconds or 0.0
        if row.reason is not None:
            self.reasons[row.status, row.reason] += 1
        if row.is_written:
            self.bytes_in += row.bytes_in or 0
            self.bytes_out += row.bytes_out or 0
            self.ratios[round(row.size_ratio * _RATIO_STEPS)] += 1
        else:
            self.bytes_failed += row.bytes_in or 0
        written = row.is_written
        self.folders.add(
            row.key,
            Sizes(1, not written, (row.bytes_in or 0) if written else 0, (row.bytes_out or 0) if written else 0),
        )
        if row.policy_version is not None:
            self.policies[row.policy_version] += 1
        at_random = draw(row.key, f"examples {self.seed}")
        if row.status == COMPRESSED:
            assert row.quality is not None, row
            self.qualities[row.quality] += 1
            self.tables[str(row.tables)] += 1
            self._offer(SAMPLE, at_random, row)
            self._offer(SAVINGS, -row.saved, row)
        else:
            self._offer(row.status, at_random, row)

    def merge(self, other: RunStats) -> None:
        assert self.seed == other.seed, (self.seed, other.seed)
        self.statuses += other.statuses
        self.reasons += other.reasons
        self.qualities += other.qualities
        self.tables += other.tables
        self.policies += other.policies
        self.folders.merge(other.folders)
        self.ratios += other.ratios
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.bytes_failed += other.bytes_failed
        self.seconds += other.seconds
        self.parts |= other.parts
        for kind, examples in other.examples.items():
            self.examples[kind] = heapq.nsmallest(EXAMPLES[kind], self.examples[kind] + examples)

    @property
    def images(self) -> int:
        return self.statuses.total()

    @property
    def failed(self) -> int:
        return self.statuses[FAILED]

    def shown(self, kind: str) -> list[ManifestRow]:
        """The examples of a kind, best first."""
        return [row for _, _, row in self.examples[kind]]

    def _offer(self, kind: str, rank: float, row: ManifestRow) -> None:
        examples = self.examples[kind]
        if len(examples) < EXAMPLES[kind] or (rank, row.key) < examples[-1][:2]:
            self.examples[kind] = heapq.nsmallest(EXAMPLES[kind], [*examples, (rank, row.key, row)])


def collect(rows: Iterable[ManifestRow], seed: int = 0, part: int = 0) -> RunStats:
    """Counts the rows of one part of a manifest."""
    stats = RunStats(seed, parts={part})
    for row in rows:
        stats.add(row)
    return stats


def quantile(histogram: Mapping[int, int], share: float) -> float:
    """The smallest size ratio, to a thousandth, that at least `share` of the images do not exceed.

    Args:
      histogram: images by size ratio in thousandths; not empty.
      share: 0 < share <= 1.
    """
    wanted = share * sum(histogram.values())
    seen = 0
    for ratio in sorted(histogram):
        seen += histogram[ratio]
        if seen >= wanted:
            return ratio / _RATIO_STEPS
    raise ValueError("no images to take a quantile of")


def summarise(
    stats: RunStats, options: Mapping[str, Any], versions: Mapping[str, str], wall_seconds: float
) -> dict[str, Any]:
    """The content of summary.json. Sizes are bytes, times seconds, ratios result / original."""
    written = stats.statuses[COMPRESSED] + stats.statuses[KEPT]
    return {
        "format": "adacompress.summary",
        "format_version": VERSION,
        "images": {
            "total": stats.images,
            COMPRESSED: stats.statuses[COMPRESSED],
            KEPT: stats.statuses[KEPT],
            FAILED: stats.failed,
        },
        "bytes": {
            "in": stats.bytes_in,
            "out": stats.bytes_out,
            "saved": stats.bytes_in - stats.bytes_out,
            "failed": stats.bytes_failed,
        },
        "size_ratio": {
            "total": stats.bytes_out / stats.bytes_in if stats.bytes_in else None,
            "mean": sum(k * n for k, n in stats.ratios.items()) / _RATIO_STEPS / written if written else None,
            "quantiles": {f"{q:g}": quantile(stats.ratios, q) for q in QUANTILES} if written else {},
        },
        "qualities": _sorted(stats.qualities),
        "reasons": {
            status: _sorted({reason: n for (s, reason), n in stats.reasons.items() if s == status})
            for status in (KEPT, FAILED)
        },
        "wall_seconds": round(wall_seconds, 3),
        "codec_seconds": round(stats.seconds, 3),
        "versions": dict(versions),
        "options": dict(options),
    }


def ratio_bars(histogram: Mapping[int, int], bars: int = 20) -> Sequence[int]:
    """Images by size ratio in equal bars from 0 to 1; the last holds 1 (kept ones) too."""
    counts = [0] * bars
    for ratio, images in histogram.items():
        counts[min(bars - 1, ratio * bars // _RATIO_STEPS)] += images
    return counts


def _sorted(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): counts[name] for name in sorted(counts)}
