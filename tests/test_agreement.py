from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg import native
from beam_adacompress.policy.agreement import NAMES, AgreementModel, gelu, of_arrays
from beam_adacompress.policy.fit_agreement import Training, Tuning, fit, tune
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


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 4, 5, 2, 3), (5, 76, 32, 5, 11)])
def test_the_best_action_is_the_same_by_the_core_and_by_numpy(monkeypatch, shape):
    members, features, hidden, families, qualities = shape
    random = np.random.default_rng(0)
    shapes = {
        "mean": (features,),
        "scale": (features,),
        "w1": (members, features, hidden),
        "b1": (members, hidden),
        "w_ease": (members, hidden, families),
        "base": (members, families),
        "steps": (members, families, qualities),
        "w_size": (features, families * qualities),
        "b_size": (families * qualities,),
    }
    one = of_arrays({name: random.normal(0, 0.3, each) for name, each in shapes.items()} | {"scale": np.ones(features)})
    rows = random.normal(0, 3, (20, features)).astype(np.float32)
    found = [one.best(row, price) for row in rows for price in (0.0, 0.1, 1.0)]
    monkeypatch.setattr(native, "_native", None)
    expected = [one.best(row, price) for row in rows for price in (0.0, 0.1, 1.0)]
    assert [each.action for each in found] == [each.action for each in expected]
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-5, abs=1e-6)


@pytest.mark.skipif(not native.is_installed(), reason="the native core was not built")
def test_arrays_of_an_ensemble_that_do_not_go_together():
    shape, *arrays = model()._packed
    seen = np.zeros(4, np.float32)
    for wrong in range(len(arrays)):
        changed = [each[:-4] if place == wrong else each for place, each in enumerate(arrays)]
        with pytest.raises(ValueError, match=r"none of an ensemble|do not go together"):
            native.best(seen, 0.1, shape, *changed)
    for numbers in ((0, 2, 3), (2, 0, 3), (2, 2, 0), (3, 2, 3), (2, 3, 3), (1 << 20, 2, 3)):
        with pytest.raises(ValueError, match=r"none of an ensemble|do not go together"):
            native.best(seen, 0.1, numbers, *arrays)
    with pytest.raises(ValueError, match="none of an ensemble"):
        native.best(seen[:3], 0.1, shape, *arrays)


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


def world(images, seed, actions_taken=None, harder=0.0):
    """Images whose first feature makes them easy, and whose second makes them large.

    Logged under all actions, or under one each that a policy took, which prefers the coarsest."""
    random = np.random.default_rng(seed)
    features = random.normal(0, 1, (images, FEATURES))
    threshold = np.array([0.0, 1.5, 3.0, 1.0, 2.5, 4.0])  # family by family
    chance = 1 / (1 + np.exp(harder - (3 * features[:, :1] + threshold)))
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
@pytest.mark.heavy
def test_it_learns_from_a_table_and_from_logged_rows_alike(keras, taken):
    images = 300 if taken is None else 2400
    train, validate = world(images, 1, taken)[0], world(images // 2, 2, taken)[0]
    how = QUICK if taken is None else dataclasses.replace(QUICK, batch=80, rate=6e-3)
    found = fit(train, validate, FAMILIES, QUALITIES, how)
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
    with pytest.raises(AdaCompressError, match=r"training needs keras: pip install 'beam-adacompress\[train\]'"):
        tune(model(), world(4, 1)[0])


TAKEN = (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)


@pytest.fixture(scope="module")
def start(keras):
    """What is true where nothing is harder, in two members: GELU(x) - GELU(-x) is x."""
    weights = np.zeros((2, 4, 5), np.float32)
    weights[:, 0, :2] = 3, -3
    ease = np.zeros((2, 5, 2), np.float32)
    ease[:, 0], ease[:, 1] = 1, -1
    steps = np.log(np.expm1([1.0, 1.5, 1.5]))
    w_size = np.zeros((4, 6), np.float32)
    w_size[1] = 0.5
    return model(
        w1=weights,
        w_ease=ease,
        base=np.tile(np.array([-1, 0], np.float32), (2, 1)),
        steps=np.tile(steps, (2, 2, 1)).astype(np.float32),
        w_size=w_size,
        b_size=np.tile([10, 11, 12], 2).astype(np.float32),
    )


def log_loss(found, harder):
    """Of chances, on other images of a scenery that is harder by so many logits."""
    _, features, chance, _ = world(2000, 3, harder=harder)
    predicted = np.clip(found.predict(features.astype(np.float32)).agreement.astype(np.float64), 1e-6, 1 - 1e-6)
    return -(chance * np.log(predicted) + (1 - chance) * np.log(1 - predicted)).mean()


def off_by(found, harder):
    """How far predicted agreement is from the true one, in the mean over images, for each action."""
    _, features, chance, _ = world(2000, 3, harder=harder)
    return found.predict(features.astype(np.float32)).agreement.mean(axis=0) - chance.mean(axis=0)


@pytest.mark.heavy
def test_few_rows_of_a_harder_scenery_lower_all_predictions(start):
    rows = world(200, 4, TAKEN, harder=1.5)[0]
    tuned = tune(start, rows)
    afresh = fit(*(Logged(*(array[part::2] for array in rows)) for part in (0, 1)), FAMILIES, QUALITIES, QUICK)
    assert np.abs(off_by(start, 0)).max() < 0.01
    assert off_by(start, 1.5).min() > 0.05
    assert np.abs(off_by(tuned, 1.5)).max() < 0.03
    assert log_loss(tuned, 1.5) < log_loss(start, 1.5) - 0.05
    assert log_loss(tuned, 1.5) < log_loss(afresh, 1.5) - 0.02
    assert (tuned.features, tuned.actions, len(tuned.base)) == (FEATURES, 6, 2)
    assert np.array_equal(tuned.mean, start.mean)
    assert np.array_equal(tuned.scale, start.scale)


def test_where_nothing_has_changed_little_changes(start):
    tuned = tune(start, world(200, 5, TAKEN)[0])
    assert log_loss(tuned, 0) < log_loss(start, 0) + 0.01
    assert np.abs(off_by(tuned, 0)).max() < 0.05


def test_rows_that_all_agree_do_not_prove_that_all_will(start):
    rows = world(200, 4, TAKEN)[0]
    tuned = tune(start, rows._replace(agreement=np.ones(200)))
    before, after = (each.predict(rows.features.astype(np.float32)).agreement for each in (start, tuned))
    assert (after > before).all()
    assert after.mean() < 0.995


def test_decay_holds_the_networks_to_where_they_start(start):
    rows = world(300, 4, TAKEN, harder=1.5)[0]
    held, free = (tune(start, rows, Tuning(decay=decay)) for decay in (1e6, 1.0))
    assert np.abs(held.w1 - start.w1).max() < 1e-3 < 0.05 < np.abs(free.w1 - start.w1).max()
    moved = held.base - start.base
    assert moved == pytest.approx(np.full_like(moved, moved[0, 0]), abs=1e-3)
    assert -2 < moved[0, 0] < -1


def test_rows_count_by_their_importance(start):
    now, old = world(200, 4, TAKEN, harder=1.5)[0], world(200, 5, TAKEN)[0]
    both = Logged(*(np.concatenate(columns) for columns in zip(now, old)))
    alone = tune(start, now)
    forgotten = tune(start, both, importance=np.repeat([1.0, 0.0], 200))
    alike = tune(start, both)
    assert forgotten.base == pytest.approx(alone.base, abs=2e-3)
    assert forgotten.b_size == pytest.approx(alone.b_size, abs=1e-4)
    assert alone.base.mean() < alike.base.mean() - 0.3


def test_bytes_move_to_what_was_seen(start):
    rows, features, _, size = world(300, 6, TAKEN)
    tuned = tune(start, rows._replace(size=2 * rows.size))
    off = np.log2(tuned.predict(features.astype(np.float32)).size / (2 * size))
    assert np.abs(off.mean(axis=0)).max() < 0.05
    assert np.abs(off).max() < 0.3


def test_tuning_again_gives_the_same(start):
    rows = world(150, 4, TAKEN)[0]
    first, again = (tune(start, rows, Tuning(steps=20)).arrays() for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)


def test_there_has_to_be_something_to_tune_with(start):
    with pytest.raises(AdaCompressError, match="there are no outcomes to learn from"):
        tune(start, Logged(*(array[:0] for array in world(4, 1)[0])))


def test_a_curve_of_tuning_for_tensorboard(start, tmp_path):
    pytest.importorskip("tensorboard")
    tune(start, world(50, 4, TAKEN)[0], Tuning(steps=2, logs=str(tmp_path)))
    assert len(list((tmp_path / "tuned").glob("events.out.tfevents.*"))) == 1
