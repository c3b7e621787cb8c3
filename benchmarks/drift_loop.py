"""The whole loop of `drift.py`: serve, score, notice, train again, publish; on tables of real answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from drift_worlds import NIGHTS, Scene, World, interval, outcome
from numpy.typing import NDArray

from beam_adacompress.drift import make
from beam_adacompress.drift.contract import INFERENCE, RETRAIN
from beam_adacompress.drift.estimate import SERVED, estimate, level_of, observe
from beam_adacompress.drift.loop import Advice, Loop, Pace
from beam_adacompress.jpeg.tables import ORIGINAL
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.learned import ORIGINAL_ACTION, AgreementAgent, decide
from beam_adacompress.policy.outcomes import Outcomes
from beam_adacompress.policy.retraining import Retraining, retrain
from beam_adacompress.records import SCORED, Choice, Score


class Server:
    """A version of the policy in service: what each of its settings does with every image of every scene.

    Args:
      artefact, version: the policy.
      scenes: name to images.
    """

    def __init__(self, artefact: PolicyArtefact, version: str, scenes: Mapping[str, Scene]) -> None:
        self.artefact, self.version = artefact, version
        self.level = level_of(artefact)
        self._actions: dict[str, NDArray[np.intp]] = {}
        self._served: dict[str, NDArray[np.intp]] = {}
        agent = artefact.agent
        assert isinstance(agent, AgreementAgent)
        for name, scene in scenes.items():
            images = scene.stream
            predicted = agent.learned.predict(images.features.astype(np.float32))
            tried = [decide(predicted, images.bytes_in, price).action for price in artefact.settings]
            self._actions[name] = np.stack(tried)
            self._served[name] = decide(predicted, images.bytes_in, agent.price).action

    def act(self, scene: str, image: int, explore: float, random: np.random.Generator) -> tuple[int, float]:
        """An action for an image, and its propensity, as policy.policies has it."""
        tried, served = self._actions[scene][:, image], self._served[scene][image]
        action = random.choice(tried) if random.random() < explore else served
        return int(action), float((1 - explore) * (action == served) + explore * np.mean(tried == action))


def scenery(change: str, phase: int) -> list[str]:
    """The scenes of a change, image by image."""
    if change == "dusk":
        quarter = phase // 4
        return [str(level) for level in NIGHTS[:-1] for _ in range(quarter)] + [str(NIGHTS[-1])] * (phase - 2 * quarter)
    return [str(NIGHTS[-1]) if change == "night" else change] * phase


def shuffled(count: int, random: np.random.Generator) -> Iterator[int]:
    """Images in any order, again and again, so that they come twice as late as they can."""
    while True:
        yield from map(int, random.permutation(count))


def scored(
    server: Server, images: Outcomes, image: int, action: int, propensity: float, rate: float, time: int
) -> Score:
    """The score of what was done with an image."""
    kept = action == ORIGINAL_ACTION
    taken = None if kept else server.artefact.space[action]
    choice = Choice(
        ORIGINAL if taken is None else taken.tables,
        100 if taken is None else taken.quality,
        server.version,
        propensity,
        None,
    )
    agreement = 1 if kept else int(images.agreement[image, action])
    ratio = 1.0 if kept else float(images.sizes[image, action] / images.bytes_in[image])
    features = images.features[image].tolist()
    key = images.keys[image]
    return Score(
        key, choice, features, propensity, rate, SCORED, [], [], agreement, agreement, ratio, agreement - ratio,
        "network", "1", None, 0.0, float(time),
    )  # fmt: skip


def aside_agreement(server: Server, scene: Scene) -> float:
    """The agreement of a version with images that no stream shows."""
    return float(outcome(server.artefact, scene.aside).agreement.mean())


class Played(NamedTuple):
    """What came of a run of the loop; scores are counted from the change on."""

    delay: float  # scores to the alarm; not a number where there was none
    false: int  # alarms before the change
    recovered: float  # scores until the policy in service agrees often enough with the images aside
    before: float  # agreement with the images aside before the change,
    dip: float  # right after it,
    after: float  # and at the end
    bill: float  # bytes uploaded, references among them, relative to quality 75
    calls: float  # for references, per image
    published: int  # versions


def play(found: World, change: str, detector: str, seed: int, phase: int) -> Played:
    """Plays the whole loop: so many images of `imagenet`, as many of the change, as many of `imagenet` again."""
    random = np.random.default_rng((seed, 3))
    order = ["imagenet"] * phase + scenery(change, phase) + ["imagenet"] * phase
    turns = {name: shuffled(len(scene.stream.keys), random) for name, scene in found.scenes.items()}
    pace = Pace()
    last = order[2 * phase - 1]
    server = Server(found.policy, "v0", found.scenes)
    watch, alarmed = make(detector, server.level, pace.rates, {}), False
    loop, advice = Loop(pace), Advice(INFERENCE, watch.verdict().sample_rate, 0.0, "v0")
    kept: list[Score] = []
    counted = uploaded = reference = 0.0
    alarm, false, recovered, published, since = float("nan"), 0, float("nan"), 0, 0
    dip = aside_agreement(server, found.scenes[last])
    if dip >= found.policy.promise.target:
        recovered = 0.0
    after = dip
    for step, scene in enumerate(order):
        changed = phase <= step < 2 * phase
        images = found.scenes[scene].stream
        image = next(turns[scene])
        action, propensity = server.act(scene, image, advice.explore, random)
        size = images.bytes_in[image] if action == ORIGINAL_ACTION else images.sizes[image, action]
        uploaded += size
        reference += images.bytes_75[image]
        if step == 2 * phase - 1:
            after = aside_agreement(server, found.scenes[last])
        if random.random() >= advice.sample_rate:
            continue
        counted += 1
        uploaded += images.bytes_in[image]
        since += changed
        score = scored(server, images, image, action, propensity, advice.sample_rate, step)
        kept.append(score)
        loop.scored([score])
        if propensity >= SERVED:
            watch.update((seen := observe(score)).seen)
            told = estimate("", (step, step), [seen], 0, server.version, server.level, watch)
            loop.told(told)
            if told.state == RETRAIN and not alarmed:
                alarmed = True
                false += step < phase
                if changed and np.isnan(alarm):
                    alarm = since
        if loop.due:
            mine = [row for row in kept if row.choice.policy_version == server.version]
            count = loop.wanted
            old = [row for row in kept if row.choice.policy_version != server.version] + mine[:-count]
            came = retrain(server.artefact, server.version, mine[-count:], old, Retraining(seed=seed))
            if came.publish:
                assert came.candidate is not None
                published += 1
                server = Server(came.candidate, f"v{published}", found.scenes)
                watch, alarmed = make(detector, server.level, pace.rates, {}), False
                loop.serves(server.version, leaves_all=not came.candidate.promise.holds)
                good = aside_agreement(server, found.scenes[scene]) >= found.policy.promise.target
                if changed and np.isnan(recovered) and good:
                    recovered = since
            else:
                loop.kept()
        advice = loop.advice or advice
    before = aside_agreement(Server(found.policy, "v0", found.scenes), found.scenes["imagenet"])
    return Played(alarm, false, recovered, before, dip, after, uploaded / reference, counted / len(order), published)


def whole_loop(worlds: Sequence[World], seeds: int, phase: int, detectors: Sequence[str]) -> None:
    print(
        f"\n== the whole loop: {phase} images of imagenet, {phase} of the change, {phase} of imagenet; {seeds} seeds. "
        "Calls are for references"
    )
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for found in worlds:
            print(f"\n{found.network}")
            for change in ("clothing", "night", "dusk"):
                print(f"  {change}")
                for name in detectors:
                    runs = list(
                        processes.map(play, *zip(*[(found, change, name, seed, phase) for seed in range(seeds)]))
                    )
                    print(f"    {name:<12} " + said_of_runs(runs), flush=True)


def said_of_runs(runs: Sequence[Played]) -> str:
    """What came of runs, in words."""
    column = {name: np.array([getattr(run, name) for run in runs], np.float64) for name in Played._fields}
    alarms, recovered = (each[~np.isnan(each)] for each in (column["delay"], column["recovered"]))
    parts = [
        f"alarm after {interval(alarms)} scores in {len(alarms)} of {len(runs)}",
        f"false ones before: {column['false'].sum():.0f}",
        f"agreement aside {column['before'].mean():.3f}, then {column['dip'].mean():.3f}, at the end "
        f"{interval(column['after'])}",
        f"at the target after {interval(recovered)} scores in {len(recovered)}",
        f"bytes {interval(column['bill'])} of always quality 75",
        f"calls {interval(100 * column['calls'])} %",
        f"versions {column['published'].mean():.1f}",
    ]
    return "; ".join(parts)
