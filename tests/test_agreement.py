from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.agreement import NAMES, AgreementModel, gelu, of_arrays
from beam_adacompress.policy.fit_agreement import Training, fit
from beam_adacompress.policy.outcomes import Logged

FAMILIES, QUALITIES, FEATURES = 2, 3, 4


def model(**changes):
    shapes = {
        "mean": (4,),
        "scale": (4,),
        "w1": (2, 4, 5),
        "b1": (2, 5),
        "w_ease": (2, 5, 2),
        "base": (2, 2),
        "steps": (2, 2, 3),
        "w_size": (4, 6),
        "b_size": (6,),
    }
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | {"scale": np.ones(4, np.float32)}
    return AgreementModel(**(arrays | changes))


def test_what_it_predicts_by_hand():
    one = model(
        base=np.full((2, 2), -1.0, np.float32),
        b_size=np.array([3, 4, 5, 3, 4, 5], np.float32),
        w_size=np.eye(4, 6, dtype=np.float32),
    )
    found = one.predict(np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]], np.float32))
    softplus = np.log(2)
    expected = [1 / (1 + np.exp(1 - count * softplus)) for count in (1, 2, 3)] * 2
    assert found.agreement == pytest.approx(np.array([expected] * 2), abs=1e-6)
    assert found.size.tolist() == [[16, 16, 32, 8, 16, 32], [8, 16, 32, 8, 16, 32]]


def test_members_are_averaged_and_features_standardised():
    ease = np.zeros((2, 5, 2), np.float32)
    ease[0, 0, 0] = 100.0
    weights = np.zeros((2, 4, 5), np.float32)
    weights[:, 0, 0] = 1.0
    one = model(w1=weights, w_ease=ease, mean=np.full(4, 7, np.float32), scale=np.full(4, 2, np.float32))
    low, middle, high, beyond = one.predict(
        np.array([[-90, 7, 7, 7], [7] * 4, [11, 7, 7, 7], [900, 7, 7, 7]], np.float32)
    ).agreement
    assert middle[0] == pytest.approx(2 / 3)  # softplus(0) is log 2
    assert high[0] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    assert beyond[0] == high[0]
    assert low[3] == middle[3] == pytest.approx(2 / 3)


def test_agreement_never_falls_with_quality():
    random = np.random.default_rng(0)
    shapes = {name: array.shape for name, array in model().arrays().items()}
    one = of_arrays({name: random.normal(0, 2, shape) for name, shape in shapes.items()} | {"scale": np.ones(4)})
    found = one.predict(random.normal(0, 3, (50, 4)).astype(np.float32)).agreement.reshape(50, 2, 3)
    assert (np.diff(found, axis=2) >= 0).all()


def test_arrays_of_the_wrong_shape_are_refused():
    assert set(model().arrays()) == set(NAMES)
    with pytest.raises(ValueError, match=r"b1 has the shape \(2, 4\), not \(2, 5\)"):
        model(b1=np.zeros((2, 4), np.float32))
    with pytest.raises(KeyError, match="steps"):
        of_arrays({name: array for name, array in model().arrays().items() if name != "steps"})


def test_gelu():
    assert gelu(np.array([-10.0, 0.0, 1.0, 10.0], np.float32)) == pytest.approx([0, 0, 0.841192, 10], abs=1e-5)


def world(images, seed, actions_taken=None):
    """Images whose first feature makes them easy, and whose second makes them large.

    Logged under all actions, or under one each that a policy took, which prefers the coarsest."""
    random = np.random.default_rng(seed)
    features = random.normal(0, 1, (images, FEATURES))
    threshold = np.array([0.0, 1.5, 3.0, 1.0, 2.5, 4.0])  # family by family
    chance = 1 / (1 + np.exp(-(3 * features[:, :1] + threshold)))
    agreement = (random.uniform(0, 1, chance.shape) < chance).astype(float)
    size = np.exp2(10 + np.tile([0.0, 1.0, 2.0], 2) + 0.5 * features[:, 1:2])
    if actions_taken is None:
        action = np.tile(np.arange(6), images)
        rows = np.repeat(np.arange(images), 6)
        propensity = np.ones(len(rows))
    else:
        action = random.choice(6, images, p=actions_taken)
        rows = np.arange(images)
        propensity = np.asarray(actions_taken)[action]
    return (
        Logged(features[rows], action, propensity, agreement[rows, action], size[rows, action], np.ones(len(rows))),
        features,
        chance,
        size,
    )


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")


QUICK = Training(members=2, hidden=8, epochs=20, batch=20, dropout=0.2, decay=0.01, rate=3e-3)


@pytest.mark.parametrize("taken", [None, (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)], ids=["full table", "logged"])
def test_it_learns_from_a_table_and_from_logged_rows_alike(keras, taken):
    images = 300 if taken is None else 2400
    train, validate = world(images, 1, taken)[0], world(images // 2, 2, taken)[0]
    found = fit(train, validate, FAMILIES, QUALITIES, QUICK)
    _, features, chance, size = world(400, 3)
    predicted = found.predict(features.astype(np.float32))
    constant = np.tile(chance.mean(axis=0), (400, 1))
    assert np.abs(predicted.agreement - chance).mean() < 0.5 * np.abs(constant - chance).mean()
    assert np.abs(predicted.agreement.mean(axis=0) - chance.mean(axis=0)).max() < 0.09
    assert np.abs(np.log2(predicted.size / size)).max() < 0.1
    assert (found.features, found.actions) == (FEATURES, 6)


def test_the_same_seed_gives_the_same_model(keras):
    train, validate = world(60, 1)[0], world(30, 2)[0]
    how = Training(members=1, hidden=4, epochs=2)
    first, again = (fit(train, validate, FAMILIES, QUALITIES, how).arrays() for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)
    other = fit(train, validate, FAMILIES, QUALITIES, Training(members=1, hidden=4, epochs=2, seed=5)).arrays()
    assert not np.array_equal(first["w1"], other["w1"])


def test_nothing_to_learn_from(keras):
    nothing = Logged(*(array[:0] for array in world(4, 1)[0]))
    with pytest.raises(AdaCompressError, match="there are no outcomes to learn from, or none to validate with"):
        fit(nothing, world(4, 1)[0], FAMILIES, QUALITIES)


def test_without_keras_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(AdaCompressError, match=r"training needs keras: pip install 'beam-adacompress\[train\]'"):
        fit(world(4, 1)[0], world(4, 2)[0], FAMILIES, QUALITIES)


def test_predicting_needs_no_keras():
    code = (
        "import sys, beam_adacompress.policy.agreement; print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
