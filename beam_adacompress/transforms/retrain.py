"""RetrainAgent: trains a policy again where it has drifted, and publishes it where that is worth it.

    Score ────────▶ the most recent ones ──┐
    DriftEstimate ─▶ does one say retrain? ┴▶ (one worker) train, judge ─▶ publish ─▶ Retrained
                                               └ not better, or anything fails: the incumbent serves on

In a batch job that is the last stage. In a streaming job scores and estimates come in windows; once an estimate says
retrain, scores are gathered until there are enough, see `drift.loop`. Meanwhile a file beside the published policies
tells the other stages of the job how many images to score, see `transforms.control`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Optional

import apache_beam as beam
from apache_beam.coders import BytesCoder, StrUtf8Coder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec
from apache_beam.transforms.window import GlobalWindows

from beam_adacompress.arguments import check_types
from beam_adacompress.drift.contract import RETRAIN, Rates
from beam_adacompress.drift.loop import Advice, Loop, Pace
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.policies import Policy, Serving
from beam_adacompress.policy.retraining import Retraining
from beam_adacompress.records import Choice, DriftEstimate, Retrained, Score
from beam_adacompress.scores import MostRecent, from_parquet, score_of, to_parquet
from beam_adacompress.transforms import control, metrics, rows
from beam_adacompress.transforms.drift import is_bounded
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.replacing import FAILED, KEPT, Replacing

_STAGE = "RetrainAgent"
_OF_ESTIMATES = {"key": str, "policy_version": str, "state": str, "sample_rate": float}
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass
class RetrainAgent(beam.PTransform):
    """Trains a policy again where an estimate says retrain, and publishes what is better, or keeps the promise again.

    Takes a mapping of two PCollections: `scores` (Score rows, or rows with their fields and others, that hold the
    policy's features) and `estimates` (DriftEstimate rows, of EstimateDrift); gives a `Retrained` row, in the global
    window, for each time that it trained, which says what came of it and why. Training takes one worker, and needs
    Keras (the extra `train`). Whatever fails, the incumbent serves on: a failed training or an outage of the store is a
    row, and in a streaming job it is tried again with the next scores. Of two that publish at once one wins.

    What a version was trained on is kept beside it, without labels (`scores.parquet`, at most 5,000 scores): the old
    scores of the next one.

    A batch job trains once, at its end; its windows do not matter. A streaming job goes by the policy that is the
    latest where it publishes: estimates of any other one, which come late, mean nothing. Whatever the estimates say, a
    policy is trained again that can promise nothing and so leaves every image as it is: nobody disagrees with that.

    Args:
      policy: the incumbent where nothing is published yet: the folder of a policy, or of published ones, or `default`.
      publish: folder of the published policies; None to say what would be published, and publish nothing.
      agreement: to promise, 0..1; None for what the incumbent was to promise.
      confidence: of the promise, 0..1; None for the incumbent's.
      seed: of training.
      recent: of the latest scores of the incumbent, how many tell of the scenery as it is, and judge; those before them
        count as old. In a streaming job it is those that were gathered since the alarm.
      most: of the latest scores, how many are looked at.
      always: train whatever the estimates say; of a batch job.
      gather: images to score since the alarm before a streaming job trains.
      explore: probability of exploring while they are gathered, where ChooseQuality follows.
      usual_explore: the same at other times.
      sample_rate, estimate_rate, retrain_rate: the same as are given to EstimateDrift, where ScoreWithBackend follows.

    Raises:
      TypeError: the input is no such mapping, or rows lack a field.
      ValueError: an argument is out of range, or `always` is asked of a streaming job.
    """

    policy: str
    publish: Optional[str] = None
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    seed: int = 0
    recent: int = 400
    most: int = 20_000
    always: bool = False
    gather: int = Pace.gather
    explore: float = Pace.explore
    usual_explore: float = Pace.usual_explore
    sample_rate: float = Rates().inference
    estimate_rate: float = Rates().estimate
    retrain_rate: float = Rates().retrain

    def __post_init__(self) -> None:
        super().__init__()
        check_types(self)
        Serving(self.policy)
        if self.publish == "":
            raise ValueError("publish must be a folder, and is empty")
        self._replacing()
        self._pace()
        if not 1 <= self.recent <= self.most:
            raise ValueError(f"recent must be from 1 to most ({self.most}), got {self.recent}")

    def _replacing(self) -> Replacing:
        how = Retraining(agreement=self.agreement, confidence=self.confidence, seed=self.seed)
        return Replacing(self.policy, self.publish, self.recent, how)

    def _pace(self) -> Pace:
        rates = Rates(self.sample_rate, self.estimate_rate, self.retrain_rate)
        return Pace(self.gather, self.explore, self.usual_explore, rates)

    def expand(self, results: Mapping[str, beam.PCollection[Any]]) -> beam.PCollection[Retrained]:
        scores, estimates = _inputs(results)
        bounded = is_bounded(scores)
        if self.always and not bounded:
            raise ValueError("always is for jobs that end: a streaming one trains when an estimate says retrain")
        if bounded:
            scores = scores | "OneWindow" >> beam.WindowInto(GlobalWindows())
        merge = Merge(functools.partial(MostRecent, self.most), _add)
        latest = scores | "Latest" >> beam.CombineGlobally(merge).without_defaults()
        return self._once(latest, estimates) if bounded else self._when_due(latest, estimates)

    def _once(self, latest: beam.PCollection[Any], estimates: beam.PCollection[Any]) -> beam.PCollection[Any]:
        drifted = (
            estimates
            | "AllEstimates" >> beam.WindowInto(GlobalWindows())
            | "Drifted" >> beam.FlatMap(_drifted).with_output_types(str)
        )
        train = _Once(self._replacing(), self.always)
        return latest | "Retrain" >> beam.ParDo(train, beam.pvalue.AsList(drifted)).with_output_types(Retrained)

    def _when_due(self, latest: beam.PCollection[Any], estimates: beam.PCollection[Any]) -> beam.PCollection[Any]:
        together = [
            each
            | f"{name}OfAllWindows" >> beam.WindowInto(GlobalWindows())
            | f"{name}WithKey" >> beam.WithKeys(0).with_output_types(tuple[int, Any])
            for name, each in (("Scores", latest), ("Estimates", estimates))
        ]
        train = _WhenDue(self._replacing(), self._pace(), self.most)
        return (
            together
            | "Together" >> beam.Flatten().with_output_types(tuple[int, Any])
            | "Retrain" >> beam.ParDo(train).with_output_types(Retrained)
        )


def _inputs(results: Any) -> tuple[beam.PCollection[Any], beam.PCollection[Any]]:
    """Scores and estimates.

    Raises:
      TypeError: they are not there, or lack a field.
    """
    found = sorted(results) if isinstance(results, Mapping) else type(results).__name__
    if found != ["estimates", "scores"]:
        raise TypeError(f"{_STAGE} takes a mapping of two PCollections, scores and estimates, but got {found}")
    scores, estimates = results["scores"], results["estimates"]
    fields = rows.fields_of(scores, f"{_STAGE} (scores)", {"key": str, "choice": Choice, "time": float})
    if missing := [name for name in Score._fields if name not in fields]:
        raise TypeError(f"{_STAGE} needs the field {missing[0]} of scores, but its input has {', '.join(fields)}")
    rows.fields_of(estimates, f"{_STAGE} (estimates)", _OF_ESTIMATES)
    return scores, estimates


def _add(latest: MostRecent, row: Any) -> None:
    latest.add(score_of(row)._replace(reference_labels=(), compressed_labels=()))  # nobody needs them from here on


def _drifted(estimate: DriftEstimate) -> list[str]:
    return [estimate.policy_version] if estimate.state == RETRAIN else []


class _Retraining(beam.DoFn):
    """Base of those who train."""

    def __init__(self, replace: Replacing) -> None:
        self._replace = replace
        self._serving: Optional[Policy] = None  # that was in service when it was looked at last
        self._folder: Optional[str] = None  # where it is
        self._looked = False

    def start_bundle(self) -> None:
        self._looked = False

    def _in_service(self) -> Optional[Policy]:
        """The policy in service, looked at once in each bundle; None where it cannot be read."""
        if not self._looked:
            try:
                _, folder = self._replace.found()
                if folder != self._folder:
                    self._serving, self._folder = self._replace.load(folder), folder
            except (AdaCompressError, OSError) as error:
                _count("looks_failed")
                _LOGGER.warning("it is not known which policy is in service: %s", error)
                return None
            self._looked = True
        return self._serving

    def _retrained(
        self, scores: Sequence[Score], drifted: Optional[Collection[str]], recent: Optional[int] = None
    ) -> Retrained:
        replace = dataclasses.replace(self._replace, recent=recent or self._replace.recent)
        found = replace(scores, drifted)
        self._looked = False
        _count(found.status)
        log = _LOGGER.warning if found.status == FAILED else _LOGGER.info
        log("the policy %s: %s, %s", found.incumbent, found.status, found.reason)
        return found


def _count(name: str) -> None:
    metrics.counter(_STAGE, name).inc()


class _Once(_Retraining):
    """Has all scores and estimates at once."""

    def __init__(self, replace: Replacing, always: bool) -> None:
        super().__init__(replace)
        self._always = always

    def process(self, latest: MostRecent, drifted: Sequence[str]) -> Iterator[Retrained]:
        if self._always or drifted:
            yield self._retrained(latest.ordered(), None if self._always else set(drifted))
        elif (serving := self._in_service()) is not None and serving.leaves_all:
            yield self._retrained(latest.ordered(), None)


@dataclasses.dataclass
class _Kept:
    """What is carried from one window to the next, beside the scores."""

    loop: Loop
    held: int = 0  # scores in the state
    advised: Optional[Advice] = None  # that the other stages know

    def encoded(self) -> str:
        return json.dumps({"loop": self.loop.state(), "held": self.held, "advised": self.advised})

    @classmethod
    def of(cls, state: Optional[str], pace: Pace) -> _Kept:
        """From what `encoded` gave; all new where that is nothing, or of a release that had it in another form."""
        try:
            content = json.loads(state or "{}")
            advised = content["advised"]
            loop = Loop.restored(content["loop"], pace)
            return cls(loop, int(content["held"]), None if advised is None else Advice(*advised))
        except (KeyError, TypeError, ValueError):
            return cls(Loop(pace))


_SCORES = beam.DoFn.StateParam(BagStateSpec("scores", BytesCoder()))  # a part in Parquet for each pane
_KEPT = beam.DoFn.StateParam(ReadModifyWriteStateSpec("kept", StrUtf8Coder()))


class _WhenDue(_Retraining):
    """Has the scores of one window after the other, and estimates in between; the only one who writes advice."""

    def __init__(self, replace: Replacing, pace: Pace, most: int) -> None:
        super().__init__(replace)
        self._pace = pace
        self._most = most

    def process(self, element: tuple[int, Any], scores: Any = _SCORES, kept: Any = _KEPT) -> Iterator[Retrained]:
        _, item = element
        state = _Kept.of(kept.read(), self._pace)
        if isinstance(item, MostRecent):
            new = item.ordered()
            scores.add(to_parquet(new))
            state.held = self._trimmed(scores, state.held + len(new))
            state.loop.scored(new)
            if state.loop.due:
                yield self._trained(state.loop, scores)
        elif self._serves(state.loop, item.policy_version):
            state.loop.told(item)
        state.advised = self._advised(state.loop.advice, state.advised)
        kept.write(state.encoded())

    def _trained(self, loop: Loop, scores: Any) -> Retrained:
        alarm = loop.alarm
        assert alarm is not None
        found = self._retrained(self._together(scores).ordered(), {alarm}, loop.wanted)
        if found.status == KEPT and found.incumbent == alarm:
            loop.kept()
        elif found.status != FAILED:  # published, or another version has come into service meanwhile
            now = found.candidate or found.incumbent
            if not self._serves(loop, now):
                loop.serves(now)
        return found

    def _serves(self, loop: Loop, version: str) -> bool:
        """Whether a version is in service; the loop takes notice of it then."""
        serving = self._in_service()
        if serving is None or serving.version != version:
            return False
        loop.serves(version, serving.leaves_all)
        return True

    def _together(self, scores: Any) -> MostRecent:
        latest = MostRecent(self._most)
        for part in scores.read():
            try:
                found = from_parquet(part, "the job's state")
            except AdaCompressError as error:  # of another release, before the job was updated
                _LOGGER.warning("scores are lost: %s", error)
                continue
            for row in found:
                latest.add(row)
        return latest

    def _trimmed(self, scores: Any, held: int) -> int:
        """Keeps the state from growing for ever; gives how many scores it holds."""
        if held <= 2 * self._most:
            return held
        latest = self._together(scores).ordered()
        scores.clear()
        scores.add(to_parquet(latest))
        return len(latest)

    def _advised(self, advice: Optional[Advice], before: Optional[Advice]) -> Optional[Advice]:
        """Tells the other stages what is new, as far as the store lets it; gives what they know."""
        if self._replace.root is None or advice is None or advice == before:
            return before
        try:
            control.write_control(self._replace.root, advice)
        except AdaCompressError as error:
            _count("advice_failed")
            _LOGGER.warning("other stages go on as before: %s", error)
            return before
        return advice
