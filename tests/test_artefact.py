from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy import artefact, features
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import Baseline, PolicyArtefact, load, save
from beam_adacompress.policy.calibration import Calibration, Promise

SPACE = action_space(["annexk", "robidoux"], [10, 50, 90])


def model(seed=0):
    random = np.random.default_rng(seed)
    count = len(features.NAMES)
    shapes = {"mean": (count,), "scale": (count,), "w1": (2, count, 5), "b1": (2, 5), "w_ease": (2, 5, 2)}
    shapes |= {"base": (2, 2), "steps": (2, 2, 3), "w_size": (count, 6), "b_size": (6,)}
    return AgreementModel(**{name: random.normal(1, 0.1, shape).astype(np.float32) for name, shape in shapes.items()})


def policy(**changes):
    made = PolicyArtefact(
        space=SPACE,
        model=model(),
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
        (folder / name).write_bytes(data)

    return save(made, write), order


def test_what_is_saved_is_loaded(tmp_path):
    version, order = written(tmp_path, policy())
    assert order == ["weights.npz", "policy.json"], "a policy is there when its description is"
    found, same = load(str(tmp_path))
    assert version == same
    assert version.startswith("agreement-")
    for field in dataclasses.fields(PolicyArtefact):
        if field.name != "model":
            assert getattr(found, field.name) == getattr(policy(), field.name), field.name
    x = np.random.default_rng(1).normal(1, 0.1, (3, len(features.NAMES))).astype(np.float32)
    assert np.array_equal(found.model.predict(x).agreement, model().predict(x).agreement)
    assert found.baseline.reward == pytest.approx(0.78)
    assert found.calibration.promise(0.97) == found.promise


def test_the_same_policy_is_the_same_bytes(tmp_path):
    versions = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        versions.add(written(tmp_path / name, policy())[0])
    assert len(versions) == 1
    assert (tmp_path / "a" / "weights.npz").read_bytes() == (tmp_path / "b" / "weights.npz").read_bytes()
    (tmp_path / "c").mkdir()
    assert written(tmp_path / "c", policy(model=model(1)))[0] not in versions


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
    with pytest.raises(ValueError, match="the model knows 6 actions, and there are 3"):
        policy(space=action_space(["annexk"], [10, 50, 90]))
