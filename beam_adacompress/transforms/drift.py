"""EstimateDrift: what the scores say of the policy, and whether it has to be trained again.

    scores ─▶ Observe ─▶ AddUp, for each key and window ─▶ Watch, from window to window ─▶ DriftEstimate

Only a few numbers of each score cross a shuffle, and they are merged before they do. A detector looks at one score
after the other, so the windows of a key come together at one worker: of a bounded input at the end, in the order of
time; of an unbounded one as they come, with Beam's state in between.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Optional, Union

import apache_beam as beam
from apache_beam import coders
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms.trigger import DefaultTrigger
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import (
    BoundedWindow,
    FixedWindows,
    GlobalWindow,
    GlobalWindows,
    TimestampedValue,
)

from beam_adacompress.arguments import check_types
from beam_adacompress.drift import Level, Rates
from beam_adacompress.drift.contract import RETRAIN
from beam_adacompress.drift.estimate import Observation, Window, is_explored, level_of, observe
from beam_adacompress.drift.watch import Watch, Watching
from beam_adacompress.policy import artefact
from beam_adacompress.policy.policies import Serving
from beam_adacompress.records import SCORED, Choice, DriftEstimate
from beam_adacompress.transforms import files, metrics, publishing, rows
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.runners import check_runner

_LOGGER = logging.getLogger(__name__)
_STAGE = "EstimateDrift"
_NEEDED = {"key": str, "choice": Choice, "sampling_probability": float, "status": str, "time": float}
_ALSO_NEEDED = ("agreement", "reward")  # which may be None


@dataclasses.dataclass
class EstimateDrift(beam.PTransform):
    """Estimates agreement and reward from scores, and says whether the policy has drifted.

    Takes `Score` rows, or rows with their fields and others; gives a `DriftEstimate` for each window (and each key in
    it), in that window; where all is one global window, at the end. Without a score of the policy there is none, be it
    of a key or of the whole input; once there was one, a window whose scores do not count gives a row with `n=0`.

    Counted are answered scores of actions that the policy served: with a propensity of at least a half, so at least
    half of the images have to be served without exploring. Each image counts once under the same policy version,
    however often it was scored (the latest 4,096 scores of a key are known again in later windows, and a window holds
    the latest 100,000). When scores of a new version come, a new detector begins, with that policy's level; scores of
    former ones are not counted. See `drift.watch.Watch`.

    A bounded input is looked at in the order of the scores' own `time`, and so is the order of its windows; the rows
    of an unbounded one take their windows from their timestamps, and late ones are taken as they come.

    Args:
      policy: folder of the policy that made the choices, or of its published versions, or `default`; its promise is the
        level to keep, or, where it makes none, the lower end of its baseline's 95 % interval.
      level: agreement to keep, above 0 and below 1, in the place of a policy's: for a fixed quality, say.
      baseline_reward: to be told beside that level; 0, that of leaving all images as they are, where it is not known.
      detector: one of `drift.DETECTORS`.
      options: of the detector, e.g. `{"false_alarms": 1000}`.
      by: field of the rows, such as a camera's name, whose values are watched each for itself; or a function of a row.
        None for all together.
      sample_rate, estimate_rate, retrain_rate: share of the images to be scored, which the rows recommend where all is
        well, where it may not be, and where the policy has to be trained again; above 0, at most 1.
      window: seconds: the scores are put into windows of this length; None to leave them in those that they are in.

    Raises:
      TypeError, ValueError: an argument is out of range, or excludes another; the input lacks a field, or is in windows
        that overlap or differ in length, or is unbounded and in one window that never ends.
      AdaCompressError: the detector needs an extra that is not installed; in the workers, the policy cannot be read.
    """

    policy: Optional[str] = None
    level: Optional[float] = None
    baseline_reward: Optional[float] = None
    detector: str = "e-detector"
    options: Optional[Mapping[str, Any]] = None
    by: Optional[Union[str, Callable[[Any], Any]]] = None
    sample_rate: float = Rates().inference
    estimate_rate: float = Rates().estimate
    retrain_rate: float = Rates().retrain
    window: Optional[float] = None

    def __post_init__(self) -> None:
        super().__init__()
        check_types(self)
        if (self.policy is None) == (self.level is None):
            given = "neither is" if self.policy is None else "both are"
            raise ValueError(f"give either policy or level, which say what has to be kept; {given} given")
        if self.policy == "":
            raise ValueError("policy must be a folder, or default, and is empty")
        if self.baseline_reward is not None and self.level is None:
            raise ValueError("baseline_reward goes with level: a policy has its own")
        if self.level is not None and not 0 < self.level < 1:
            raise ValueError(f"level must be above 0 and below 1, got {self.level}")
        for name in ("sample_rate", "estimate_rate", "retrain_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if self.window is not None and not self.window > 0:
            raise ValueError(f"window must be above 0 seconds, got {self.window}")
        self._watching().begin(Level(0.5, 0.0))

    def _watching(self) -> Watching:
        rates = Rates(self.sample_rate, self.estimate_rate, self.retrain_rate)
        return Watching(self.detector, dict(self.options or {}), rates)

    def _levels(self) -> _Levels:
        if self.level is None:
            return _Levels(self.policy, None)
        return _Levels(None, Level(self.level, self.baseline_reward or 0.0))

    def expand(self, scores: beam.PCollection[Any]) -> beam.PCollection[DriftEstimate]:
        check_runner(scores.pipeline)
        self._check_fields(scores)
        bounded = is_bounded(scores)
        if self.window is not None:
            scores = self._in_windows(scores, self.window, bounded)
        windowing = scores.windowing
        _check_windows(windowing, bounded)
        by_key = (
            scores
            | "Observe" >> beam.ParDo(_Observe(self.by)).with_output_types(tuple[str, Observation])
            | "AddUp" >> beam.CombinePerKey(Merge(Window, Window.add)).with_output_types(tuple[str, Window])
            | "AddWindow" >> beam.ParDo(_AddWindow()).with_output_types(tuple[str, tuple[BoundedWindow, Window]])
            | "AllWindows" >> beam.WindowInto(GlobalWindows())
        )
        if bounded:
            by_key = by_key | "Gather" >> beam.GroupByKey()
            watch: beam.DoFn = _WatchAll(self._watching(), self._levels())
        else:
            watch = _WatchOn(self._watching(), self._levels())
        return (
            by_key
            | "Watch" >> beam.ParDo(watch).with_output_types(DriftEstimate)
            | "Windows"
            >> beam.WindowInto(
                windowing.windowfn,
                trigger=windowing.triggerfn,
                accumulation_mode=windowing.accumulation_mode,
                timestamp_combiner=windowing.timestamp_combiner,
                allowed_lateness=windowing.allowed_lateness,
            )
        )

    def _check_fields(self, scores: beam.PCollection[Any]) -> None:
        fields = rows.fields_of(scores, _STAGE, _NEEDED)
        by = [self.by] if isinstance(self.by, str) else []
        if missing := [name for name in (*_ALSO_NEEDED, *by) if name not in fields]:
            raise TypeError(f"{_STAGE} needs the field {missing[0]}, but its input has {', '.join(fields)}")

    def _in_windows(self, scores: beam.PCollection[Any], seconds: float, bounded: bool) -> beam.PCollection[Any]:
        if bounded:
            scores = scores | "ByTime" >> beam.Map(lambda row: TimestampedValue(row, row.time))
        return scores | "IntoWindows" >> beam.WindowInto(FixedWindows(seconds))


def is_bounded(pcoll: beam.PCollection[Any]) -> bool:
    """Whether all of it will be there at some time."""
    return bool(pcoll.is_bounded) and not pcoll.pipeline.options.view_as(StandardOptions).streaming


def _check_windows(windowing: Any, bounded: bool) -> None:
    kind = windowing.windowfn
    if not isinstance(kind, (GlobalWindows, FixedWindows)):
        raise ValueError(
            f"{_STAGE} takes scores in fixed windows or the global one, and these are in {type(kind).__name__}: put "
            "WindowInto(FixedWindows(...)) before it, or give window=SECONDS"
        )
    if not bounded and isinstance(kind, GlobalWindows) and isinstance(windowing.triggerfn, DefaultTrigger):
        raise ValueError(
            f"{_STAGE} would wait for the end of an input that has none: put WindowInto(FixedWindows(...)) before it, "
            "or give window=SECONDS"
        )


class _Observe(beam.DoFn):
    def __init__(self, by: Optional[Union[str, Callable[[Any], Any]]]) -> None:
        self._by = by
        self._in = metrics.counter(_STAGE, "scores_in")
        self._not_scored = metrics.counter(_STAGE, "not_scored")
        self._explored = metrics.counter(_STAGE, "explored")

    def process(self, row: Any) -> Iterator[tuple[str, Observation]]:
        self._in.inc()
        if row.status != SCORED:
            self._not_scored.inc()
        elif is_explored(row):
            self._explored.inc()
        else:
            yield self._key(row), observe(row)

    def _key(self, row: Any) -> str:
        if self._by is None:
            return ""
        return str(getattr(row, self._by) if isinstance(self._by, str) else self._by(row))


class _AddWindow(beam.DoFn):
    def process(
        self, by_key: tuple[str, Window], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[tuple[str, tuple[BoundedWindow, Window]]]:
        key, observations = by_key
        yield key, (window, observations)


class _Levels:
    """The level of each policy version.

    Args:
      policy: folder of a policy, or of published ones.
      given: of all versions, in its place.
    """

    def __init__(self, policy: Optional[str], given: Optional[Level]) -> None:
        self._policy = policy
        self._given = given

    def open(self) -> None:
        """Loads the policy.

        Raises:
          AdaCompressError: it cannot be read, or says nothing of what has to be kept.
        """
        self._known: dict[str, Optional[Level]] = {}
        if self._policy is not None:
            folder = publishing.resolve(self._policy)
            self._published = folder != self._policy
            loaded, version = artefact.load(Serving(folder).path, files.read)
            self._known[version] = level_of(loaded)

    def __call__(self, version: str) -> Optional[Level]:
        """The level of a version; None where it is none of the policy's.

        Raises:
          AdaCompressError: it was published, and cannot be read.
        """
        if self._policy is None:
            return self._given
        if version not in self._known:
            self._known[version] = self._load(self._policy, version) if self._published else None
            if self._known[version] is None:
                _LOGGER.warning("scores of the policy %s are not counted: %s has none to watch", version, self._policy)
        return self._known[version]

    def _load(self, root: str, version: str) -> Optional[Level]:
        folder = publishing.folder_of(root, version)
        if not files.exists(files.join(folder, artefact.DESCRIPTION)):
            return None
        loaded, found = artefact.load(folder, files.read)
        return level_of(loaded) if found == version else None


class _Watcher(beam.DoFn):
    """Base of those who watch."""

    def __init__(self, how: Watching, levels: _Levels) -> None:
        self._how = how
        self._levels = levels
        self._out = metrics.counter(_STAGE, "estimates_out")
        self._retrain = metrics.counter(_STAGE, "retrain")

    def setup(self) -> None:
        self._levels.open()

    def _take(self, watch: Watch, key: str, window: BoundedWindow, observations: Window) -> Iterator[TimestampedValue]:
        span = None if isinstance(window, GlobalWindow) else (float(window.start), float(window.end))
        estimate = watch.take(key, span, observations.ordered())
        if estimate is not None:
            self._out.inc()
            self._retrain.inc(estimate.state == RETRAIN)
            yield TimestampedValue(estimate, window.max_timestamp())


class _WatchAll(_Watcher):
    """Has all windows of a key at once."""

    def process(self, by_key: tuple[str, Iterable[tuple[BoundedWindow, Window]]]) -> Iterator[TimestampedValue]:
        key, windows = by_key
        watch = Watch(self._how, self._levels)
        for window, observations in sorted(windows, key=lambda each: each[0].max_timestamp()):
            yield from self._take(watch, key, window, observations)


_KEPT = beam.DoFn.StateParam(ReadModifyWriteStateSpec("watch", coders.StrUtf8Coder()))


class _WatchOn(_Watcher):
    """Has one window of a key after the other."""

    def process(
        self, by_key: tuple[str, tuple[BoundedWindow, Window]], kept: Any = _KEPT
    ) -> Iterator[TimestampedValue]:
        key, (window, observations) = by_key
        state = kept.read()
        watch = Watch(self._how, self._levels) if state is None else Watch.restored(state, self._how, self._levels)
        yield from self._take(watch, key, window, observations)
        kept.write(watch.state())
