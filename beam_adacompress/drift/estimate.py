"""From scores to what they say of the policy: what is kept of each score, and the level that a policy has to keep.

scores ─▶ observe ─▶ Window (merged in any order) ─▶ Watch.take (in the order of time) ─▶ DriftEstimate
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from beam_adacompress.drift.contract import Detector, Level, Seen
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.estimates import WeightedSums
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.records import SCORED, DriftEstimate

MOST = 100_000  # scores that a window holds
SERVED = 0.5  # propensity that what the policy chose has at least, and all else less, with as little exploring
DIGEST = 8  # bytes


class Observation(NamedTuple):
    """What is kept of a score. Sorted, observations are in the order of time."""

    time: float  # of scoring, seconds since the epoch
    digest: bytes  # of the key and the policy version
    version: str  # of the policy
    agreement: int  # 0 or 1
    reward: float
    weight: float  # images that it stands for, at least 1

    @property
    def seen(self) -> Seen:
        return Seen(self.agreement, self.reward, self.weight)


def is_explored(score: Any) -> bool:
    """Whether an action was taken to learn something, and not because the policy holds it to be the best.

    What the policy promises is about the latter. Where its propensity is what tells them apart, at least half of the
    images have to be served without exploring.
    """
    return bool(score.choice.propensity < SERVED)


def observe(score: Any) -> Observation:
    """What is kept of a row with the fields of Score, scored and not explored.

    It stands for 1 / (probability of being scored * propensity) images: exploring takes the policy's own action, too,
    of some images more often than of others (inverse propensity weighting).
    """
    assert score.status == SCORED, score.status
    version = score.choice.policy_version
    name = f"{version}\0{score.key}".encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(name, digest_size=DIGEST).digest()
    weight = 1 / (score.sampling_probability * score.choice.propensity)
    return Observation(float(score.time), digest, version, int(score.agreement), float(score.reward), weight)


@dataclasses.dataclass
class Window:
    """Observations, each image under a policy version once, the most recent ones alone.

    `add` and `merge` give the same whatever the order and the grouping: of the same image the latest observation is
    kept. (The earliest one would not do: it may have made room for others already, or not yet.)

    Args:
      most: observations to keep.
    """

    most: int = MOST
    latest: dict[bytes, Observation] = dataclasses.field(default_factory=dict)  # by digest

    def add(self, observation: Observation) -> None:
        known = self.latest.get(observation.digest)
        if known is None or known < observation:
            self.latest[observation.digest] = observation
            if len(self.latest) >= 2 * self.most:  # now and then, since it takes long
                self.latest = {each.digest: each for each in self.ordered()}

    def merge(self, other: Window) -> None:
        assert self.most == other.most, (self.most, other.most)
        for observation in other.latest.values():
            self.add(observation)

    def ordered(self) -> list[Observation]:
        """The observations, oldest first."""
        return sorted(self.latest.values())[-self.most :]


def level_of(artefact: PolicyArtefact) -> Level:
    """What a policy has to keep: the agreement that it promises, where it promises one.

    Where it does not, it is what its baseline shows: the lower end of the 95 % interval. A policy without a baseline
    has no known reward; 0 stands for it, which is that of leaving all images as they are.

    Raises:
      AdaCompressError: it has neither.
    """
    baseline = artefact.baseline
    reward = 0.0 if baseline is None else baseline.reward
    if artefact.promise.holds:
        return Level(artefact.promise.target, reward)
    images = 0 if baseline is None else baseline.images
    if baseline is None or not images * baseline.agreement:
        raise AdaCompressError(
            "the policy neither promises an agreement nor has a baseline to fall below: give the level that it has to "
            "keep"
        )
    agreeing = images * baseline.agreement
    interval = WeightedSums(n=images, w=images, ww=images, wx=agreeing).share_interval()
    assert interval is not None, images
    return Level(interval.low, reward)


def estimate(
    key: str,
    span: tuple[float, float],
    counted: Sequence[Observation],
    total: int,
    version: str,
    level: Level,
    detector: Detector,
) -> DriftEstimate:
    """What the observations of a window come to.

    Args:
      key: what was told apart.
      span: start and end of the window, seconds since the epoch.
      counted: its observations.
      total: observations since the detector began.
      version: of the policy.
      level: that it has to keep.
      detector: that has seen them all.
    """
    agreement, reward = WeightedSums(), WeightedSums()
    for each in counted:
        agreement.add(each.agreement, each.weight)
        reward.add(each.reward, each.weight)
    shares, means, verdict = agreement.share_interval(), reward.interval(), detector.verdict()
    return DriftEstimate(
        key=key,
        start=span[0],
        end=span[1],
        n=len(counted),
        total=total,
        agreement=agreement.mean,
        agreement_low=None if shares is None else shares.low,
        agreement_high=None if shares is None else shares.high,
        reward=reward.mean,
        reward_low=None if means is None else means.low,
        reward_high=None if means is None else means.high,
        level=level.agreement,
        baseline_reward=level.reward,
        policy_version=version,
        detector=detector.name,
        state=verdict.state,
        reason=verdict.reason,
        sample_rate=verdict.sample_rate,
        evidence=detector.evidence,
    )
