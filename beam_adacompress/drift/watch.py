"""A detector at work: which scores it is given, and what of it is carried from one window to the next."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from beam_adacompress.drift.contract import Detector, Level, Rates
from beam_adacompress.drift.estimate import DIGEST, Observation, estimate
from beam_adacompress.drift.registry import make
from beam_adacompress.records import DriftEstimate

REMEMBERED = 4096  # observations that are known again if they come a second time
AGAIN = 20  # scores in a row of a former policy that show that it was put back

_FORMER = 64  # policies that are known again

LevelOf = Callable[[str], Optional[Level]]  # by policy version; None where the policy is none to be watched


class Watching(NamedTuple):
    """How to watch."""

    detector: str  # one of registry.DETECTORS
    options: Mapping[str, Any]  # of the detector
    rates: Rates

    def begin(self, level: Level) -> Detector:
        """A new detector."""
        return make(self.detector, level, self.rates, self.options)


class _Watched(NamedTuple):
    """The policy that is watched."""

    version: str
    level: Level
    detector: Detector


class Watch:
    """Watches one policy version after the other.

    A score of a version that was not seen before, and later than all scores of the watched one, means that a new policy
    was published: it gets a new detector. Workers take up a new policy one after the other, so scores of a former one
    may still come; they are not counted. `AGAIN` of them in a row, later than all others, mean that it was put back,
    and it gets a new detector, too. Windows may come late and in any order.

    Args:
      how: to watch.
      level_of: gives the levels.
    """

    def __init__(self, how: Watching, level_of: LevelOf) -> None:
        self._how = how
        self._level_of = level_of
        self._watched: Optional[_Watched] = None
        self._total = 0  # observations that the detector has seen
        self._last = 0.0  # time of the latest of them
        self._former: list[str] = []  # policy versions
        self._returning = ("", 0)  # a former version, and how many of its scores came in a row
        self._known: dict[bytes, None] = {}  # digests, the latest one last

    def take(
        self, key: str, span: Optional[tuple[float, float]], observations: Iterable[Observation]
    ) -> Optional[DriftEstimate]:
        """Takes the observations of a window, in the order of time.

        Args:
          key: what was told apart.
          span: start and end of the window; None for those of its observations.
          observations: those that were taken before are left out.

        Returns:
          What they say of the policy that is watched at last; None where no policy was to be watched yet.
        """
        counted: list[Observation] = []
        for each in observations:
            if self._is_known(each):
                continue
            if self._begins(each):
                counted = []
            if self._watched is None or each.version != self._watched.version:
                continue
            self._watched.detector.update(each.seen)
            self._total += 1
            self._last = max(self._last, each.time)
            self._returning = ("", 0)
            counted.append(each)
        if self._watched is None:
            return None
        if span is None:
            span = (counted[0].time, counted[-1].time) if counted else (self._last, self._last)
        version, level, detector = self._watched
        return estimate(key, span, counted, self._total, version, level, detector)

    def _is_known(self, observation: Observation) -> bool:
        if observation.digest in self._known:
            return True
        self._known[observation.digest] = None
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return False

    def _begins(self, observation: Observation) -> bool:
        """Whether another policy is watched from this observation on."""
        version = observation.version
        if self._watched is not None:
            if version == self._watched.version or observation.time < self._last:
                return False
            if version in self._former:
                self._returning = (version, self._returning[1] + 1 if version == self._returning[0] else 1)
                if self._returning[1] < AGAIN:
                    return False
        level = self._level_of(version)
        if level is None:
            return False
        if self._watched is not None:
            former = [each for each in self._former if each != version]
            self._former = [*former, self._watched.version][-_FORMER:]
        self._watched = _Watched(version, level, self._how.begin(level))
        self._total = 0
        return True

    def state(self) -> str:
        """All of it, as JSON, for `restored`."""
        watched = None
        if self._watched is not None:
            version, level, detector = self._watched
            watched = {"version": version, "level": level, "made": self._made(), "detector": detector.state()}
        content = {
            "watched": watched,
            "total": self._total,
            "last": self._last,
            "former": self._former,
            "returning": self._returning,
            "known": base64.b64encode(b"".join(self._known)).decode(),
        }
        return json.dumps(content)

    @classmethod
    def restored(cls, state: str, how: Watching, level_of: LevelOf) -> Watch:
        """Goes on from what `state` gave; with a new detector where a job was updated to another one, or another level.

        Raises:
          KeyError, TypeError, ValueError: it is no such thing.
        """
        content = json.loads(state)
        watch = cls(how, level_of)
        watch._last = float(content["last"])
        watch._former = list(content["former"])
        watch._returning = (content["returning"][0], content["returning"][1])
        known = base64.b64decode(content["known"])
        watch._known = dict.fromkeys(known[at : at + DIGEST] for at in range(0, len(known), DIGEST))
        if content["watched"] is not None:
            watch._go_on(**content["watched"], total=int(content["total"]))
        return watch

    def _go_on(self, version: str, level: Sequence[float], made: str, detector: Any, total: int) -> None:
        before = Level(*level)
        now = self._level_of(version) or before  # a policy that was deleted since keeps its level
        self._watched = _Watched(version, now, self._how.begin(now))
        if (now, self._made()) != (before, made):
            return
        try:
            self._watched.detector.restore(detector)
            self._total = total
        except (KeyError, TypeError, ValueError):  # of another release
            self._watched = _Watched(version, now, self._how.begin(now))

    def _made(self) -> str:
        """How detectors are made, whose states go with each other."""
        return json.dumps([self._how.detector, dict(self._how.options)], sort_keys=True)
