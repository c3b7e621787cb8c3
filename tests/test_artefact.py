from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import Family, family
from beam_adacompress.policy import artefact, features
from beam_adacompress.policy.actions import ActionSpace, action_space
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import Baseline, PolicyArtefact, load, save
from beam_adacompress.policy.calibration import Calibration, Promise
from beam_adacompress.policy.dqn import DQNAgent, QNetwork
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.search import Recollection

SPACE = action_space(["annexk", "robidoux"], [10, 50, 90])


def model(seed=0):
    random = np.random.default_rng(seed)
    count = len(features.NAMES)
    shapes = {"mean": (count,), "scale": (count,), "w1": (2, count, 5), "b1": (2, 5), "w_ease": (2, 5, 2)}
    shapes |= {"base": (2, 2), "steps": (2, 2, 3), "w_size": (count, 6), "b_size": (6,)}
    return AgreementModel(**{name: random.normal(1, 0.1, shape).astype(np.float32) for name, shape in shapes.items()})


def agent(seed=0):
    answers = np.random.default_rng(seed).uniform(0, 1, (9, 6)) < 0.5
    return AgreementAgent(2, 3, model(seed), 1e-5, Recollection(answers))


def published():
    random = np.random.default_rng(0)
    count = len(features.NAMES)
    shapes = {"mean": (count,), "scale": (count,), "w1": (count, 4), "b1": (4,), "w2": (4, 3), "b2": (3,)}
    shapes |= {"w3": (3, 2), "b3": (2,), "w4": (2, 6), "b4": (6,)}
    arrays = {name: random.normal(1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return DQNAgent(QNetwork(**arrays), 6, 0.25, DQN(hidden=(4, 3, 2), discount=0.5, seed=7))


def policy(**changes):
    made = PolicyArtefact(
        space=SPACE,
        agent=agent(),
        sight=Sight(),
        settings=(0.0, 1e-5),
        calibration=Calibration(400, (0, 6)),
        promise=Promise(0.97, 0.9, 400, 0.985, 1),
        backends=(("litert", "abc"), ("baidu", "1")),
        encoder={"subsampling": "4:2:0"},
        top=5,
        baseline=Baseline(300, 0.98, 0.2),
        data={"images": 1000, "sha256": "ff"},
        versions={"numpy": "2"},
    )
    return dataclasses.replace(made, **changes)


def written(folder, made):
    order = []

    def write(name, data):
        order.append(name)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return save(made, write), order


def test_what_is_saved_is_loaded(tmp_path):
    version, order = written(tmp_path, policy())
    assert order == ["weights.npz", "policy.json"], "a policy is there when its description is"
    found, same = load(str(tmp_path))
    assert version == same
    assert version.startswith("agreement-")
    for field in dataclasses.fields(PolicyArtefact):
        if field.name != "agent":
            assert getattr(found, field.name) == getattr(policy(), field.name), field.name
    x = np.random.default_rng(1).normal(1, 0.1, (3, len(features.NAMES))).astype(np.float32)
    assert np.array_equal(found.agent.model.predict(x).agreement, model().predict(x).agreement)
    assert np.array_equal(found.agent.model.predict(x).size, model().predict(x).size)
    assert found.agent.settings() == {"families": 2, "qualities": 3, "price": 1e-5}
    assert np.array_equal(found.agent.recollection.answers, agent().recollection.answers)
    assert found.baseline.reward == pytest.approx(0.78)
    assert found.calibration.promise(0.97, 0.9) == found.promise


def test_the_published_agent_is_kept_as_well(tmp_path):
    made = policy(agent=published(), settings=(0.0,), calibration=Calibration(400, (9,)))
    version, _ = written(tmp_path, made)
    found, same = load(str(tmp_path))
    assert version == same
    assert version.startswith("dqn-")
    x = np.random.default_rng(1).normal(1, 1, (5, len(features.NAMES))).astype(np.float32)
    assert np.array_equal(found.agent.act(x), published().act(x))
    assert (found.agent.actions, found.agent.epsilon, found.agent.how) == (6, 0.25, published().how)


def test_what_a_policy_looks_at_is_kept(tmp_path):
    candidates = (SPACE.quantisation(0), SPACE.quantisation(5))
    sight = Sight("litert:small.tflite", candidates, "keras:top.keras", ("abc", "def"))
    written(tmp_path, policy(sight=sight, agent=wide(len(features.NAMES) + 4 + 2 * 4 + 7)))
    assert load(str(tmp_path))[0].sight == sight


def wide(count):
    """An agent that looks at so many numbers."""
    zeros = {"mean": (count,), "w1": (1, count, 1), "b1": (1, 1), "w_ease": (1, 1, 2), "base": (1, 2)}
    zeros |= {"scale": (count,), "steps": (1, 2, 3), "w_size": (count, 6), "b_size": (6,)}
    return AgreementAgent(2, 3, AgreementModel(**{name: np.zeros(shape, np.float32) for name, shape in zeros.items()}))


RAMP = tuple(float(step) for step in range(1, 65))


def test_families_that_do_not_come_along_are_files_of_the_policy(tmp_path):
    mine = Family("mine / ours", RAMP, RAMP, {"images": 9})
    space = ActionSpace((family("annexk"), mine), (10, 50, 90))
    _, order = written(tmp_path, policy(space=space))
    assert order[1:] == ["weights.npz", "policy.json"]
    assert re.fullmatch(r"tables/mine___ours-[0-9a-f]{8}\.json", order[0])
    found, _ = load(str(tmp_path))
    assert found.references(str(tmp_path)) == ["annexk", f"{tmp_path}/{order[0]}"]
    assert found.references("gs://bucket/policy/") == ["annexk", f"gs://bucket/policy/{order[0]}"]
    assert family(found.references(str(tmp_path))[1]) == mine == found.families[1]


def test_families_are_told_apart_by_their_numbers(tmp_path):
    space = ActionSpace((Family("annexk", RAMP, RAMP), family("robidoux")), (10, 50, 90))
    other = ActionSpace((Family("annexk", RAMP, RAMP[::-1]), family("robidoux")), (10, 50, 90))
    first, second = (policy(space=each).references("p") for each in (space, other))
    assert first[0].startswith("p/tables/annexk-")
    assert first[0] != second[0]
    assert first[1] == second[1] == "robidoux"


def test_the_same_policy_is_the_same_bytes(tmp_path):
    versions = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        versions.add(written(tmp_path / name, policy())[0])
    assert len(versions) == 1
    assert (tmp_path / "a" / "weights.npz").read_bytes() == (tmp_path / "b" / "weights.npz").read_bytes()
    (tmp_path / "c").mkdir()
    assert written(tmp_path / "c", policy(agent=agent(1)))[0] not in versions


def changed(folder, **changes):
    path = folder / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "policy.json").unlink(), r"policy\.json cannot be read: No such file or directory"),
        (lambda f: (f / "policy.json").write_text("{"), r"holds no policy: policy\.json is damaged"),
        (lambda f: changed(f, format="else"), "holds no policy: .*its format is 'else'"),
        (
            lambda f: changed(f, format_version=2),
            "has version 2, and this is adacompress for version 1: use the release",
        ),
        (lambda f: changed(f, features={"version": 99}), "looks at features of version 99, and this release computes"),
        (lambda f: changed(f, promise={}), "is damaged: "),
        (
            lambda f: changed(f, actions={"families": [], "qualities": [5]}),
            "is damaged: an action space needs at least",
        ),
        (lambda f: changed(f, kind="oracle"), "is of the unknown kind 'oracle': use a newer release"),
        (lambda f: changed(f, kind="dqn"), "is damaged: 'how'"),
        (
            lambda f: changed(f, agent={"families": 3, "qualities": 3, "price": None}),
            "is damaged: the model knows 6 ac",
        ),
        (lambda f: changed(f, settings=[]), "is damaged: there are 0 settings, and 2 were calibrated"),
        (lambda f: (f / "weights.npz").unlink(), r"weights\.npz cannot be read"),
        (lambda f: (f / "weights.npz").write_bytes(b"PK"), "is damaged: the weights are not those that it names"),
    ],
)
def test_a_broken_policy_is_refused_in_one_sentence(tmp_path, harm, message):
    written(tmp_path, policy())
    harm(tmp_path)
    with pytest.raises(AdaCompressError, match=message) as refused:
        load(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_weights_are_never_unpickled(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        artefact._packed({"w1": np.array([object()])})
    path = tmp_path / "evil.npz"
    np.savez(path, w1=np.array([object()]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        artefact._unpacked(path.read_bytes())


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="the agent knows 6 actions, and there are 3"):
        policy(space=action_space(["annexk"], [10, 50, 90]))
    count = len(features.NAMES)
    with pytest.raises(ValueError, match=f"the model looks at {count + 1} features, and there are {count}"):
        policy(agent=wide(count + 1))
    with pytest.raises(ValueError, match="there are 1 settings, and 2 were calibrated"):
        policy(settings=(0.0,))
