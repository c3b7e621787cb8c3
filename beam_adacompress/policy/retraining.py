"""Training a policy again, from scores of what it chose: a candidate, and whether it should take the incumbent's place.

    recent scores ─┬▶ all but one part of them ─▶ tune ─▶ what each setting comes to on that part ─┐ for each part
      old scores ──┤                                                                               ▼
                   └▶ tune ─▶ the candidate ◀─ its promise: the boldest setting that keeps it ◀─ estimates
                                                       the incumbent, on the same scores ◀──────┘

Every recent score is held out once, for a model that has not seen it (cross-fitting), and estimates are off-policy
(see `offpolicy`): they tell what another policy would have come to on images for which the incumbent chose. Nothing
here reads, writes or publishes anything.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.estimates import Interval
from beam_adacompress.policy import fit_agreement
from beam_adacompress.policy.agent import Agent
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import Baseline, PolicyArtefact
from beam_adacompress.policy.calibration import Calibration, Promise, p_value
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.logged import NOT_SEEN, LoggedScores, logged
from beam_adacompress.policy.offpolicy import Estimate, doubly_robust, self_normalised
from beam_adacompress.policy.outcomes import Logged
from beam_adacompress.records import Score
from beam_adacompress.version import versions

Floats = NDArray[np.float64]

CONFIDENCES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # that a promise is lowered to, or may be asked for later
MOST_SEED = 2**31 - 1
_ASKED = "confidence"  # in what a policy says of its data: what was asked for, of which its promise may fall short


@dataclasses.dataclass(frozen=True)
class Retraining:
    """How to train again.

    Args:
      agreement: to promise, 0..1; None for what the incumbent was to promise.
      confidence: of the promise, 0..1; None for what was asked of the incumbent.
      least_confidence: with which a promise is still given where there are too few scores for `confidence`.
      least: scores of images that were encoded again, below which nothing is tried.
      folds: parts of the recent scores, each of which is held out once.
      old: what all old scores count for together, as a share of the recent ones, if there are as many.
      seed: of the parts, and of all that is random in learning.
      logs: folder for TensorBoard; None for none.

    Raises:
      ValueError: a number is out of range.
    """

    agreement: Optional[float] = None
    confidence: Optional[float] = None
    least_confidence: float = 0.5
    least: int = 100
    folds: int = 3
    old: float = 0.5
    seed: int = 0
    logs: Optional[str] = None

    def __post_init__(self) -> None:
        for name in ("agreement", "confidence", "least_confidence"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, got {value}")
        for name, least in (("least", 1), ("folds", 2), ("old", 0), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.seed > MOST_SEED:
            raise ValueError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")


class Outcome(NamedTuple):
    """What came of training again; the means are off-policy estimates on held-out scores."""

    candidate: Optional[PolicyArtefact]  # None where none could be made
    publish: bool  # whether it should take the incumbent's place
    reason: str  # one sentence, for people
    scores: int  # learned from and judged with
    incumbent_agreement: Optional[float] = None
    candidate_agreement: Optional[float] = None
    incumbent_size_ratio: Optional[float] = None
    candidate_size_ratio: Optional[float] = None


class _Standing(NamedTuple):
    """What a policy comes to."""

    agreement: Estimate
    ratio: Estimate

    @property
    def reward(self) -> Estimate:
        return self.agreement - self.ratio


class _Tried(NamedTuple):
    """What learning came to."""

    agent: Agent  # taught by all scores
    settings: Sequence[_Standing]  # what such agents come to at each setting
    incumbent: _Standing
    observed: Estimate  # agreement of the incumbent, by scores of what it would choose again, and no model


def retrain(
    incumbent: PolicyArtefact,
    version: str,
    recent: Sequence[Score],
    old: Sequence[Score] = (),
    how: Retraining = Retraining(),
) -> Outcome:
    """Trains a policy again.

    The candidate should take the incumbent's place where

      - the incumbent breaks its promise: all of the 95 % interval of its agreement, by the logged scores of what it
        would choose again, lies below what it promised; and the candidate agrees more;
      - or the candidate is not shown to agree less than is to be promised, and its reward, agreement - size ratio, is
        higher on the same scores: all of the 95 % interval of the difference is above 0.

    The same scores, in any order, and the same seed make the same candidate.

    Args:
      incumbent: the policy in service.
      version: that names it.
      recent: scores of what it chose, in the scenery as it is now. They judge both policies.
      old: scores of before, of any version, so that nothing is forgotten; they only teach. (Not AdaCompress's agent,
        which begins with an empty memory, as published.)
      how: parameters.

    Raises:
      AdaCompressError: Keras is not installed.
    """
    served = _served(incumbent, how)
    rows = logged(recent, incumbent)
    if (reason := _obstacle(rows, how)) is not None:
        return Outcome(None, False, reason, len(rows))
    seen = {(score.key, score.choice.policy_version) for score in recent}
    before = logged([score for score in old if (score.key, score.choice.policy_version) not in seen], incumbent)
    tried: Union[_Tried, str]
    if isinstance(incumbent.agent, AgreementAgent):
        tried = _agreement(incumbent, incumbent.agent, served, rows, before, how)
    else:
        assert isinstance(incumbent.agent, DQNAgent), incumbent.agent.kind
        before = before.take(np.zeros(len(before), np.bool_))
        tried = _published(incumbent.agent, rows, how)
    if isinstance(tried, str):
        return Outcome(None, False, tried, len(rows))
    calibration, promise = _promised(tried.settings, served, how)
    standing = _of_promise(tried, promise)
    if isinstance(tried.agent, AgreementAgent) and promise.setting is not None:
        tried.agent.price = incumbent.settings[promise.setting]
    candidate = dataclasses.replace(
        incumbent,
        agent=tried.agent,
        calibration=calibration,
        promise=promise,
        backends=rows.backends,
        baseline=Baseline(len(rows), standing.agreement.share_interval().mean, standing.ratio.mean),
        data={**_fingerprint(version, rows, before, how.seed), _ASKED: served.confidence},
        versions={**versions(), "keras": metadata.version("keras")},
    )
    publish, reason = _judged(tried, standing, served, promise)
    if (rows.propensity == 1).all() and (support := standing.agreement.support) < 1:
        reason += f"; nothing was explored, so of the candidate's decisions {1 - support:.0%} are only predicted"
    return Outcome(
        candidate,
        publish,
        reason,
        len(rows) + len(before),
        tried.incumbent.agreement.share_interval().mean,
        standing.agreement.share_interval().mean,
        tried.incumbent.ratio.mean,
        standing.ratio.mean,
    )


def _served(incumbent: PolicyArtefact, how: Retraining) -> Promise:
    """What the incumbent promises, as it is served where this is asked of it, with the confidence that is asked for.

    That may be more than it has: where there were too few scores for it the last time, there may be enough now.
    """
    served = incumbent.promise
    agreement = served.target if how.agreement is None else how.agreement
    asked = float(incumbent.data.get(_ASKED, served.confidence)) if how.confidence is None else how.confidence
    if how.agreement is not None or how.confidence is not None:
        served = incumbent.calibration.promise(agreement, served.confidence if how.confidence is None else asked)
    return dataclasses.replace(served, confidence=asked)


def _obstacle(rows: LoggedScores, how: Retraining) -> Optional[str]:
    """Why nothing can be learned, if it cannot."""
    if len(names := {name for name, _ in rows.backends}) > 1:
        return f"the scores are of several backends ({', '.join(sorted(names))}): give those of one"
    if (count := len(rows.learnable())) < how.least:
        why = f"; {rows.said()}" if rows.left_out else ""
        unseen = rows.left_out[NOT_SEEN] > len(rows)
        advice = "score with the policy that chose (policy, or --policy)" if unseen else "score more images"
        return (
            f"{count} of the {len(rows)} scores that can be used are of images that were encoded again, and "
            f"{how.least} are needed{why}: {advice}"
        )
    return None


def _agreement(
    incumbent: PolicyArtefact,
    agent: AgreementAgent,
    served: Promise,
    rows: LoggedScores,
    before: LoggedScores,
    how: Retraining,
) -> _Tried:
    """The default agent: tuned, and judged at every setting by models that have not seen what they judge."""
    features, bytes_in = rows.features.astype(np.float32), rows.bytes_in
    agreement, ratio = np.zeros((2, len(rows), rows.actions))
    of_settings = np.zeros((len(incumbent.settings), len(rows), rows.actions + 1), np.float32)

    def acting(model: AgreementModel, price: Optional[float]) -> AgreementAgent:
        return AgreementAgent(agent.families, agent.qualities, model, price, agent.recollection)

    for held, others, older in _parts(rows, before, how):
        model = _tuned(agent.learned, others, older, how, None)
        predicted = model.predict(features[held])
        agreement[held], ratio[held] = predicted.agreement, np.minimum(1, predicted.size / bytes_in[held, None])
        for index, setting in enumerate(incumbent.settings):
            of_settings[index, held] = acting(model, setting).act_on(predicted, bytes_in[held])

    def standing(target: Floats) -> _Standing:
        return _Standing(
            doubly_robust(rows.taken, target, rows.agreement, agreement, 1.0, binary=True),
            doubly_robust(rows.taken, target, rows.ratio, ratio, 1.0),
        )

    price = None if served.setting is None else incumbent.settings[served.setting]
    chosen = acting(agent.learned, price).act(features).astype(np.float64)
    current = standing(chosen)
    return _Tried(
        acting(_tuned(agent.learned, rows, before, how, how.logs), None),
        [standing(target.astype(np.float64)) for target in of_settings],
        current,
        self_normalised(rows.taken, chosen, rows.agreement, 1.0) or current.agreement,
    )


def _parts(
    rows: LoggedScores, before: LoggedScores, how: Retraining
) -> Iterator[tuple[NDArray[np.bool_], LoggedScores, LoggedScores]]:
    """For each part: which rows it holds, and the recent and the old rows of all other images."""
    part, old_part = (each.parts(how.folds, str(how.seed)) for each in (rows, before))
    for index in range(how.folds):
        yield part == index, rows.take(part != index), before.take(old_part != index)


def _tuned(
    start: AgreementModel, rows: LoggedScores, before: LoggedScores, how: Retraining, logs: Optional[str]
) -> AgreementModel:
    """The model that recent and old rows make of one."""
    both = [each.learnable().logged() for each in (rows, before)]
    recent, old = (len(each.action) for each in both)
    importance = np.repeat([1.0, min(1.0, how.old * recent / max(1, old))], [recent, old])
    train = Logged(*(np.concatenate(columns) for columns in zip(*both)))
    return fit_agreement.tune(start, train, fit_agreement.Tuning(logs=logs), importance)


def _published(agent: DQNAgent, rows: LoggedScores, how: Retraining) -> Union[_Tried, str]:
    """AdaCompress's agent: goes on from its weights with an empty memory, over the scores in the order of their time.

    It knows no chances of agreement, so both policies are judged by the logged scores alone.
    """
    schedule = dataclasses.replace(agent.how, seed=how.seed)
    nothing = rows.take(np.zeros(len(rows), np.bool_))

    def taught(scores: LoggedScores, logs: Optional[str] = None) -> DQNAgent:
        learner = DQNAgent(agent.network, agent.actions, how=schedule, logs=logs)
        learnable = scores.learnable()
        in_time = learnable.take(np.argsort(learnable.time, kind="stable")).logged()
        learner.learn(in_time, in_time)
        return learner

    parts = list(_parts(rows, nothing, how))
    fewest = min(len(others.learnable()) for _, others, _ in parts)
    if fewest <= schedule.first:
        return (
            f"with a part held out, {fewest} scores are left to learn from, and AdaCompress's agent learns nothing "
            f"before the {schedule.first}th: score more images"
        )
    features = rows.features.astype(np.float32)
    target = np.zeros((len(rows), agent.actions + 1))
    for held, others, _ in parts:
        target[held] = taught(others).act(features[held])
    candidate = _by_scores_alone(rows, target)
    current = _by_scores_alone(rows, agent.act(features).astype(np.float64))
    if candidate is None or current is None:
        who = "candidate" if candidate is None else "incumbent"
        return f"no score is of an action that the {who} would take, so nothing is known of it: explore more"
    return _Tried(taught(rows, how.logs), [candidate], current, current.agreement)


def _by_scores_alone(rows: LoggedScores, target: Floats) -> Optional[_Standing]:
    agreement, ratio = (self_normalised(rows.taken, target, each, 1.0) for each in (rows.agreement, rows.ratio))
    return None if agreement is None or ratio is None else _Standing(agreement, ratio)


def _promised(settings: Sequence[_Standing], served: Promise, how: Retraining) -> tuple[Calibration, Promise]:
    """The promise of the same agreement with the highest confidence that leaves enough to save.

    With few scores a high confidence can only be had by leaving nearly all images as they are. So it is lowered, step
    by step, as long as it saves less than half of the bytes that could be saved with the least confidence.
    """
    lower = (each for each in CONFIDENCES if how.least_confidence < each < served.confidence)
    confidences = [served.confidence, *lower, min(served.confidence, how.least_confidence)]
    found = []
    for confidence in confidences:
        calibration = _calibration([each.agreement for each in settings], served.target, confidence)
        promise = calibration.promise(served.target, confidence)
        saved = 0.0 if promise.setting is None else 1 - settings[promise.setting].ratio.mean
        found.append((saved, calibration, promise))
    enough = found[-1][0] / 2
    return next((calibration, promise) for saved, calibration, promise in found if saved >= enough)


def _calibration(settings: Sequence[Estimate], target: float, confidence: float) -> Calibration:
    """Counts of disagreements that promise what off-policy estimates do, or less.

    There are as many images as the weakest of the estimates has rows that the promise depends on: those from the most
    cautious setting to the boldest one that keeps it. Of each setting the disagreements are the fewest with which the
    exact binomial bound of so many images is not better than its own, at this confidence or a higher one.
    """
    bounds = [each.share_bound(confidence) for each in settings]
    passed = len(list(itertools.takewhile(lambda bound: bound >= target, bounds)))
    images = math.floor(min(each.effective for each in settings[: max(1, passed)]))
    higher = [confidence, *(each for each in CONFIDENCES if each > confidence)]
    counts = [max(_disagreements(images, each.share_bound(level), level) for level in higher) for each in settings]
    return Calibration(images, tuple(counts))


def _disagreements(images: int, bound: float, confidence: float) -> int:
    """The fewest of so many images with which an agreement above a bound is not shown."""
    if bound <= 0:
        return images
    counts = range(images + 1)
    return bisect.bisect_left(counts, 1 - confidence, hi=images, key=lambda count: p_value(count, images, bound))


def _of_promise(tried: _Tried, promise: Promise) -> _Standing:
    """What the candidate comes to as it would be served."""
    if promise.setting is not None:
        return tried.settings[promise.setting]
    if isinstance(tried.agent, DQNAgent):  # which has no settings, and goes on as it was trained
        return tried.settings[0]
    first = tried.settings[0].agreement
    nothing_changes = Estimate(np.ones(len(first.values)), np.zeros(len(first.values)), first.stands_for, first.rows)
    return _Standing(nothing_changes, nothing_changes)


def _fingerprint(version: str, rows: LoggedScores, before: LoggedScores, seed: int) -> dict[str, Union[int, str]]:
    keys = sorted({*rows.keys, *before.keys})
    digest = hashlib.sha256("\n".join([version, *keys]).encode("utf-8", "surrogateescape")).hexdigest()
    return {"images": len(keys), "seed": seed, "sha256": digest, "parent": version}


def _judged(tried: _Tried, candidate: _Standing, served: Promise, promise: Promise) -> tuple[bool, str]:
    """Whether the candidate should take the incumbent's place, and why."""
    now, then = tried.observed.share_interval(), candidate.agreement.share_interval()
    gain = (candidate.reward - tried.incumbent.reward).interval()
    reserve = "" if promise.holds else ", and can promise nothing"
    if promise.holds and promise.confidence < served.confidence:
        reserve = f", promised with a confidence of {promise.confidence:g}"
    facts = (
        f"the incumbent stands at {_said(now)} with {tried.incumbent.ratio.mean:.3f} of the bytes, the candidate at "
        f"{_said(then)} with {candidate.ratio.mean:.3f}{reserve}"
    )
    reward = f"its reward is higher by {_said(gain)}"
    if now.high < served.target and then.mean > now.mean:
        return True, f"the incumbent breaks its promise of {served.target:g}: {facts}"
    if then.high < served.target:
        return False, f"the candidate does not keep the promise of {served.target:g} either: {facts}"
    if gain.low > 0:
        return True, f"the candidate is better, {reward}: {facts}"
    return False, f"the candidate is not surely better, {reward}: {facts}"


def _said(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
