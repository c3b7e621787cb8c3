"""What the scores of a run come to in a report: sums by time, class and action, and the worst disagreements.

Its size does not grow with the scores. It takes rows one by one, each with its labels, and keeps a few of them.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
from collections.abc import Collection
from typing import NamedTuple, Optional

from beam_adacompress.estimates import Interval, WeightedSums
from beam_adacompress.records import SCORED, Choice, Label, Score
from beam_adacompress.report.timeline import Timeline
from beam_adacompress.sampling import draw
from beam_adacompress.scores import ScoreStats

WORST = 12  # disagreements that are kept
MOST_CLASSES = 20_000
KEYS = 20  # of failed images, for each reason


class Seen(NamedTuple):
    """What a backend said of an image and of its result."""

    key: str
    reference: Optional[Label]  # the best label
    compressed: Optional[Label]
    agreement: Optional[int]
    choice: Choice
    size_ratio: float
    lost: float  # how much of the reference label's score is gone, 0..1

    @property
    def disagrees(self) -> bool:
        return self.agreement == 0


class ClassLoss(NamedTuple):
    """What images of one reference label came to."""

    name: str
    images: int
    disagreements: float  # images of the run that they stand for
    agreement: Interval


@dataclasses.dataclass
class ScoreTally:
    """Sums over scores.

    Args:
      wanted: keys of images whose labels are kept, besides those of the worst disagreements.
    """

    wanted: Collection[str] = ()
    stats: ScoreStats = dataclasses.field(default_factory=ScoreStats)
    timeline: Timeline = dataclasses.field(default_factory=Timeline)
    classes: dict[str, WeightedSums] = dataclasses.field(default_factory=dict)
    beyond: int = 0  # scores of classes that there was no room for
    seen: dict[str, Seen] = dataclasses.field(default_factory=dict)  # of what is wanted
    failures: dict[str, list[tuple[str, str]]] = dataclasses.field(default_factory=dict)  # key and error, by reason
    _worst: list[tuple[float, float, str, Seen]] = dataclasses.field(default_factory=list)
    _in_worst: set[str] = dataclasses.field(default_factory=set)

    def add(self, row: Score) -> None:
        self.stats.add_score(row)
        self.stats.cost += row.cost
        said = seen_of(row)
        if row.key in self.wanted:
            self.seen[row.key] = said
        if row.status != SCORED:
            return
        assert row.agreement is not None, row
        assert row.reward is not None, row
        assert said.reference is not None, row
        weight = 1 / row.sampling_probability
        self.timeline.add(row.time, row.choice.policy_version, row.agreement, row.reward, weight)
        name = said.reference.name
        if name in self.classes or len(self.classes) < MOST_CLASSES:
            self.classes.setdefault(name, WeightedSums()).add(row.agreement, weight)
        else:
            self.beyond += 1
        if said.disagrees and row.key not in self._in_worst:
            heapq.heappush(self._worst, (said.lost, draw(row.key, "worst"), row.key, said))
            self._in_worst.add(row.key)
            if len(self._worst) > WORST:
                self._in_worst.discard(heapq.heappop(self._worst)[2])

    def add_failure(self, key: str, reason: str, error: str) -> None:
        self.stats.add_failure(reason)
        kept = self.failures.setdefault(reason, [])
        if len(kept) < KEYS:
            kept.append((key, error))

    def worst(self) -> list[Seen]:
        """Disagreements, those first in which the most of the reference label's score is gone."""
        return [said for _, _, _, said in sorted(self._worst, reverse=True)]

    def losses(self, most: int) -> list[ClassLoss]:
        """Classes by how many images they lost, the most first; those that lost none are left out."""
        found = []
        for name, sums in self.classes.items():
            interval = sums.share_interval()
            assert interval is not None, name
            if interval.mean < 1 - 1e-12:
                found.append(ClassLoss(name, sums.n, sums.w - sums.wx, interval))
        return sorted(found, key=lambda each: (-each.disagreements, each.agreement.mean, each.name))[:most]

    def unscored(self) -> list[tuple[str, int, list[tuple[str, str]]]]:
        """Failures: reason, number, and some of the keys with their errors, the most frequent reason first."""
        counts: collections.Counter[str] = self.stats.failures
        return [(reason, n, self.failures.get(reason, [])) for reason, n in counts.most_common()]


def seen_of(row: Score) -> Seen:
    """The best labels of a score, and how much of the reference's is gone."""
    reference = next(iter(row.reference_labels), None)
    lost = 0.0
    if reference is not None:
        kept = next((label.score for label in row.compressed_labels if label.name == reference.name), 0.0)
        lost = min(1.0, max(0.0, reference.score - kept))
    compressed = next(iter(row.compressed_labels), None)
    return Seen(row.key, reference, compressed, row.agreement, row.choice, row.size_ratio, lost)
