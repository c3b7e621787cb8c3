"""Scores over time, in bounded memory: sums in bins of equal width, which doubles when there are too many of them.

scores ─▶ bins of 1 s, 2 s, 4 s, ... ─▶ windows of enough scores each, from one policy version to the next
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from beam_adacompress.drift.contract import ESTIMATE, INFERENCE, RETRAIN
from beam_adacompress.estimates import Interval, WeightedSums

MOST_BINS = 512
MOST_WINDOWS = 48  # that are drawn
LEAST = 20  # scores in a window, where its neighbours can give some

_SEVERITY = {INFERENCE: 0, ESTIMATE: 1, RETRAIN: 2}
_WIDEST = 2.0**40  # seconds; by then all that is left to tell apart is versions


class Window(NamedTuple):
    """What the scores of a while came to."""

    start: float  # of the first score, seconds since the epoch
    end: float
    version: str  # of the policy
    scores: int
    agreement: Interval
    reward: Interval


class Span(NamedTuple):
    """A while in which the loop was in one state."""

    start: float
    end: float
    state: str


@dataclasses.dataclass
class Bin:
    """Sums over the scores of a bin."""

    start: float = math.inf
    end: float = -math.inf
    agreement: WeightedSums = dataclasses.field(default_factory=WeightedSums)
    reward: WeightedSums = dataclasses.field(default_factory=WeightedSums)

    def merge(self, other: Bin) -> None:
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.agreement.merge(other.agreement)
        self.reward.merge(other.reward)


@dataclasses.dataclass
class Timeline:
    """Agreement and reward by time and policy version, and the states of the loop; the same in any order.

    Args:
      width: of the bins, seconds; a power of two, which grows.
      bins: by policy version and number of the bin.
      states: by number of the bin, the worst one.
    """

    width: float = 1.0
    bins: dict[tuple[str, int], Bin] = dataclasses.field(default_factory=dict)
    states: dict[int, Span] = dataclasses.field(default_factory=dict)

    def add(self, time: float, version: str, agreement: float, reward: float, weight: float) -> None:
        """Takes a score."""
        found = self.bins.setdefault((version, int(time // self.width)), Bin())
        found.start, found.end = min(found.start, time), max(found.end, time)
        found.agreement.add(agreement, weight)
        found.reward.add(reward, weight)
        self._widen()

    def add_state(self, start: float, end: float, state: str) -> None:
        """Takes what an estimate says of a while."""
        self._put(Span(start, max(start, end), state))
        self._widen()

    def merge(self, other: Timeline) -> None:
        other = copy.deepcopy(other)
        while self.width < other.width:
            self._double()
        while other.width < self.width:
            other._double()
        for key, sums in other.bins.items():
            self.bins.setdefault(key, Bin()).merge(sums)
        for span in other.states.values():
            self._put(span)
        self._widen()

    def windows(self) -> list[Window]:
        """Windows with enough scores each, in the order of time."""
        found: list[Window] = []
        by_version = itertools.groupby(sorted(self.bins), key=lambda key: key[0])
        least = max(LEAST, sum(each.agreement.n for each in self.bins.values()) // MOST_WINDOWS)
        for version, keys in by_version:
            for sums in _grouped([self.bins[key] for key in keys], least):
                agreement, reward = sums.agreement.share_interval(), sums.reward.interval()
                assert agreement is not None, version
                mean = sums.reward.wx / sums.reward.w
                found.append(
                    Window(
                        sums.start,
                        sums.end,
                        version,
                        sums.agreement.n,
                        agreement,
                        reward or Interval(mean, mean, mean),
                    )
                )
        return sorted(found)

    def spans(self) -> list[Span]:
        """Whiles in one state each, in the order of time; what is between two of the same state is in that state."""
        found: list[Span] = []
        for span in sorted(self.states.values()):
            if found and found[-1].state == span.state:
                found[-1] = found[-1]._replace(end=max(found[-1].end, span.end))
            else:
                found.append(span)
        return found

    def first_seen(self) -> Mapping[str, float]:
        """When each policy version was first scored, seconds since the epoch, in that order."""
        times: dict[str, float] = {}
        for (version, _), sums in self.bins.items():
            times[version] = min(sums.start, times.get(version, math.inf))
        return dict(sorted(times.items(), key=lambda item: (item[1], item[0])))

    def _put(self, span: Span) -> None:
        number = int(span.start // self.width)
        known = self.states.get(number)
        if known is not None:
            worse = max(known.state, span.state, key=lambda state: _SEVERITY.get(state, 0))
            span = Span(min(known.start, span.start), max(known.end, span.end), worse)
        self.states[number] = span

    def _widen(self) -> None:
        while max(len(self.bins), len(self.states)) > MOST_BINS and self.width < _WIDEST:
            self._double()

    def _double(self) -> None:
        self.width *= 2
        bins, self.bins = self.bins, {}
        for (version, number), sums in bins.items():
            self.bins.setdefault((version, number // 2), Bin()).merge(sums)
        states, self.states = self.states, {}
        for span in states.values():
            self._put(span)


def _grouped(bins: list[Bin], least: int) -> Iterator[Bin]:
    """Neighbours together until they have enough scores; what is left at the end goes to the last ones."""
    groups: list[Bin] = []
    for each in bins:
        if not groups or groups[-1].agreement.n >= least:
            groups.append(Bin())
        groups[-1].merge(each)
    if len(groups) > 1 and groups[-1].agreement.n < min(least, LEAST):
        last = groups.pop()
        groups[-1].merge(last)
    yield from groups
