"""From trials to a policy: images kept apart by their content, an agent taught, its promise calibrated, its worth seen.

trials ─▶ one for each content ─▶ train, validate ─▶ the agent learns
                                ├ calibrate ───────▶ what it may promise, and at which setting
                                └ test ────────────▶ what it comes to, beside the best fixed quality
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple, Optional

import numpy as np

from beam_adacompress import jpeg, reward
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.evaluation import Row, evaluate
from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.policy import judging, learned, outcomes
from beam_adacompress.policy.actions import Action, ActionSpace
from beam_adacompress.policy.agent import Agent
from beam_adacompress.policy.artefact import AGENTS, Baseline, PolicyArtefact
from beam_adacompress.policy.calibration import CONFIDENCE, Calibration
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.fit_agreement import Training
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.learned import MOST_CAUTIOUS, AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import CALIBRATE, TEST, TRAIN, VALIDATE, Outcomes, part_of
from beam_adacompress.policy.watching import Watching
from beam_adacompress.trials import Trial
from beam_adacompress.version import versions

AGREEMENT = 0.97  # of promises, where nothing else is said
PUBLISHED_STEPS = 1600  # after which AdaCompress's agent has learned all that it does
MOST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Learning:
    """How to make a policy.

    Args:
      agent: `agreement` or `dqn`.
      agreement: to promise, 0..1.
      confidence: of the promise, 0..1.
      top: labels of the compressed image among which the reference's best one has to be.
      seed: of the parts of the data, and of all that is random in learning.
      steps: of `dqn`; None for the published number, or twice the images that train, whichever is more.
      logs: folder for TensorBoard; None for none.

    Raises:
      ValueError: an argument is out of range.
    """

    agent: str = AgreementAgent.kind
    agreement: float = AGREEMENT
    confidence: float = CONFIDENCE
    top: int = reward.TOP
    seed: int = 0
    steps: Optional[int] = None
    logs: Optional[str] = None

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise ValueError(f"agent must be one of {', '.join(AGENTS)}, got {self.agent!r}")
        Calibration(0, ()).promise(self.agreement, self.confidence)
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if not 0 <= self.seed <= MOST_SEED:
            raise ValueError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")
        if self.steps is not None and self.agent != DQNAgent.kind:
            raise ValueError(f"steps is of the agent {DQNAgent.kind}, and the agent is {self.agent}")
        if self.steps is not None and (least := DQN().first) > self.steps:
            raise ValueError(f"steps must be at least {least}, before which nothing is learned, got {self.steps}")


class Parts(NamedTuple):
    """The images by what they are for; no content is in two of them. The last two hold what would be written."""

    train: Outcomes
    validate: Outcomes
    calibrate: Outcomes
    test: Outcomes

    @property
    def images(self) -> int:
        return sum(len(part.keys) for part in self)

    def said(self) -> str:
        """How many there are of each, for people."""
        names = (TRAIN, VALIDATE, CALIBRATE, TEST)
        return ", ".join(f"{len(part.keys)} to {name}" for part, name in zip(self, names))


class Trained(NamedTuple):
    """What came of training."""

    artefact: PolicyArtefact
    parts: Parts


class _Taught(NamedTuple):
    agent: Agent
    settings: tuple[float, ...]
    calibration: Calibration


def require_keras() -> None:
    """Raises AdaCompressError where Keras is not installed, without importing it, which takes seconds."""
    if importlib.util.find_spec("keras") is None:
        raise AdaCompressError("training needs keras: pip install 'beam-adacompress[train]'")


def by_content(trials: Sequence[Trial]) -> list[Trial]:
    """One trial for each content and backend, the first one, with the sha256 in the place of the key."""
    found: dict[tuple[str, str], Trial] = {}
    for trial in sorted(trials, key=lambda each: each.key):
        found.setdefault((trial.sha256, trial.backend), trial._replace(key=trial.sha256))
    return list(found.values())


def parts_of(trials: Sequence[Trial], columns: Sequence[int], top: int, seed: int) -> Parts:
    """Tells images apart by content and deals them out.

    Args:
      trials: of one or several backends, which all have to agree; images that not all have answered are left out, and
        so are copies.
      columns: for each action, which configuration of the trials it is.
      top: labels of the compressed image among which the reference's best one has to be.
      seed: of dealing.
    """
    table = outcomes.outcomes(by_content([trial for trial in trials if trial.parent is None]), columns, top)
    train, validate = (table.of([part], str(seed)) for part in (TRAIN, VALIDATE))
    real = judging.written(table, jpeg.Settings.min_saving)
    return Parts(train, validate, *(real.of([part], str(seed)) for part in (CALIBRATE, TEST)))


def copies_of(trials: Sequence[Trial], columns: Sequence[int], top: int, seed: int) -> Optional[Outcomes]:
    """The copies of images that train, and of no others; None where there are none.

    Args:
      trials, columns, top, seed: as for `parts_of`.
    """
    mine = [trial for trial in trials if trial.parent is not None and part_of(trial.parent, str(seed)) == TRAIN]
    found = outcomes.outcomes(by_content(mine), columns, top) if mine else None
    return found if found is not None and found.keys else None


def train(
    trials: Sequence[Trial],
    space: ActionSpace,
    columns: Sequence[int],
    sight: Sight,
    encoder: Mapping[str, Any],
    how: Learning = Learning(),
) -> Trained:
    """Makes a policy.

    Args:
      trials: of one or several backends, which all have to agree.
      space: what the policy may choose from.
      columns: for each action, which configuration of the trials it is.
      sight: what the trials' features are of, with the versions of its networks.
      encoder: the arguments of `jpeg.Settings` with which the trials were made.
      how: parameters.

    Raises:
      AdaCompressError: Keras is not installed, or there are too few images to learn from.
    """
    assert len(columns) == len(space), (len(columns), len(space))
    parts = parts_of(trials, columns, how.top, how.seed)
    copies = copies_of(trials, columns, how.top, how.seed)
    backends = {(trial.backend, trial.backend_version) for trial in trials}
    return Trained(policy_of(parts, space, sight, backends, encoder, how, copies), parts)


def policy_of(
    parts: Parts,
    space: ActionSpace,
    sight: Sight,
    backends: Collection[tuple[str, str]],
    encoder: Mapping[str, Any],
    how: Learning = Learning(),
    copies: Optional[Outcomes] = None,
) -> PolicyArtefact:
    """Makes a policy of images that have been dealt out.

    Args:
      parts: the images.
      space, sight, encoder, how: as for `train`.
      copies: of images that train, which train, too; None for none.
      backends: that answered, as URI and version.

    Raises:
      AdaCompressError: as for `train`.
    """
    assert len(sight.versions) == len(sight.networks), "the networks that are looked through have versions"
    require_keras()
    if not parts.train.keys or not parts.validate.keys:
        raise AdaCompressError(
            f"{parts.images} different images with an answer to everything are too few to learn from ({parts.said()}): "
            "give more images"
        )
    learned_from = parts.train if copies is None else together(parts.train, copies)
    if how.agent == DQNAgent.kind:
        taught = _dqn(learned_from, parts, space, how)
    else:
        taught = _agreement(learned_from, parts, space, how)
    promise = taught.calibration.promise(how.agreement, how.confidence)
    contents = sorted(key for part in parts for key in part.keys)
    fingerprint = hashlib.sha256("\n".join(contents).encode()).hexdigest()
    return PolicyArtefact(
        space=space,
        agent=taught.agent,
        sight=sight,
        settings=taught.settings,
        calibration=taught.calibration,
        promise=promise,
        backends=tuple(sorted((_short(uri), version) for uri, version in backends)),
        encoder=encoder,
        top=how.top,
        baseline=_baseline(taught.agent, parts.test),
        data={
            "images": len(contents),
            "copies": 0 if copies is None else len(copies.keys),
            "seed": how.seed,
            "sha256": fingerprint,
        },
        versions={**versions(), "keras": metadata.version("keras")},
    )


def _short(uri: str) -> str:
    """A backend's URI without the folders of its file and without parameters: `litert:model.tflite`."""
    name, _, path = uri.partition("?")[0].partition(":")
    return f"{name}:{path.rpartition('/')[2]}" if path else name


def _agreement(learned_from: Outcomes, parts: Parts, space: ActionSpace, how: Learning) -> _Taught:
    settings = learned.prices(parts.train)
    with contextlib.closing(Watching(how.logs, parts.validate, space, settings)) as watching:
        agent = AgreementAgent(
            len(space.families), len(space.qualities), how=Training(seed=how.seed), report=watching.of_epoch
        )
        agent.learn(learned_from.logged(), parts.validate.logged())
        agent.remember(together(parts.train, parts.validate))
        calibration = learned.calibration(agent.learned, parts.calibrate, settings)
        setting = calibration.promise(how.agreement, how.confidence).setting
        agent.price = None if setting is None else settings[setting]
        watching.of_policy(agent, agent.learned)
    return _Taught(agent, settings, calibration)


def _dqn(learned_from: Outcomes, parts: Parts, space: ActionSpace, how: Learning) -> _Taught:
    calibrate = parts.calibrate
    steps = max(PUBLISHED_STEPS, 2 * len(learned_from.keys)) if how.steps is None else how.steps
    with contextlib.closing(Watching(how.logs, parts.validate, space, ())) as watching:
        actions = learned_from.sizes.shape[1]
        agent = DQNAgent(actions=actions, how=DQN(seed=how.seed), logs=how.logs, report=watching.of_progress)
        agent.learn_online(learned_from, steps)
        watching.of_policy(agent, None)
    came = judging.judged(calibrate, judging.acted(agent, calibrate))
    disagreements = len(calibrate.keys) - came.agreement.sum()
    return _Taught(agent, (MOST_CAUTIOUS,), Calibration(len(calibrate.keys), (int(disagreements),)))


def together(*several: Outcomes) -> Outcomes:
    """The images of several tables of the same actions."""
    names = [field.name for field in dataclasses.fields(Outcomes) if field.name != "keys"]
    arrays = {name: np.concatenate([getattr(each, name) for each in several]) for name in names}
    return Outcomes(keys=tuple(key for each in several for key in each.keys), **arrays)


def _baseline(agent: Agent, test: Outcomes) -> Optional[Baseline]:
    if not test.keys:
        return None
    came = judging.judged(test, judging.acted(agent, test))
    ratio = came.sizes / test.bytes_in
    return Baseline(len(test.keys), float(came.agreement.mean()), float(ratio.mean()))


def beside_fixed(artefact: PolicyArtefact, test: Outcomes) -> Optional[Row]:
    """The policy on test images, against the curve of the standard tables' fixed qualities on the same images.

    Of both, an original is kept where a result would not be worth it, as `adacompress compress` does.

    Returns:
      None where there are no test images, or the standard tables are not among the actions.
    """
    space = artefact.space
    if not test.keys or ANNEXK not in [family.name for family in space.families]:
        return None

    columns = [space.index(Action(ANNEXK, quality)) for quality in space.qualities]
    curve = judging.curve(ANNEXK, space.qualities, test, columns)
    policy = judging.by_policy(artefact.agent.kind, artefact.agent, test)
    return evaluate([policy], [curve], test.bytes_in, test.bytes_75).strategies[0]
