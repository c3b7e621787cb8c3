from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.dqn import NAMES, QUALITIES, DQNAgent, QNetwork, Stop, epsilon_greedy, of_arrays
from beam_adacompress.policy.fit_dqn import DQN, Memory, Progress, learn_logged, learn_online, target
from beam_adacompress.policy.outcomes import Logged, Outcomes

QUICK = DQN(hidden=(16, 8, 8), discount=0.0, rate=0.01, batch=64, warm_up=40)


def network(**changes):
    """Two features, hidden layers of 2, 1 and 2 units, three actions."""
    arrays = {
        "mean": [1, 0],
        "scale": [2, 1],
        "w1": [[1, 0], [0, -1]],
        "b1": [0, 1],
        "w2": [[2], [1]],
        "b2": [-1],
        "w3": [[1, -1]],
        "b3": [0, 1],
        "w4": [[1, 0, -1], [0, 3, 0]],
        "b4": [0.5, 0, 0],
    }
    return QNetwork(**{name: np.array(array, np.float32) for name, array in (arrays | changes).items()})


def test_what_it_predicts_by_hand():
    # [5, 0]: (2, 0) | (2, 1) | 2 * 2 + 1 - 1 = 4 | (4, relu(-3)) | (4.5, 0, -4)
    # [1, 2]: (0, 2) | (0, relu(-1)) | relu(-1) | (0, 1) | (0.5, 3, 0)
    # [99, 0] is not trusted beyond 5 deviations: (5, 0) | (5, 1) | 10 | (10, 0) | (10.5, 0, -10)
    found = network().predict(np.array([[5, 0], [1, 2], [99, 0]], np.float32))
    assert found.tolist() == [[4.5, 0, -4], [0.5, 3, 0], [10.5, 0, -10]]
    assert network().shape == (2, 2, 1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b4": [0, 0]}, r"w4 has the shape \(2, 3\), not \(2, 2\)"),
        ({"w2": [[1, 1]]}, r"w2 has the shape \(1, 2\), not \(2, 1\)"),
        ({"mean": [0]}, r"mean has the shape \(1,\), not \(2,\)"),
        ({"b3": [[0, 0]]}, r"b3 has the shape \(1, 2\), not \(2,\)"),
        ({"w1": [1, 0]}, r"w1 has the shape \(2,\), not \(features, hidden\)"),
    ],
)
def test_arrays_of_the_wrong_shape_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_missing_arrays_and_too_few_features_are_refused():
    assert tuple(network().arrays()) == NAMES
    with pytest.raises(KeyError, match="w3"):
        of_arrays({name: array for name, array in network().arrays().items() if name != "w3"})
    with pytest.raises(AssertionError, match=r"\(1, 3\), 2"):
        network().predict(np.zeros((1, 3), np.float32))


def test_the_published_actions():
    assert QUALITIES == (5, 15, 25, 35, 45, 55, 65, 75, 85, 95)


def test_propensities_of_the_published_floor():
    values = np.zeros((2, 10), np.float32)
    values[0, 3] = values[1, 9] = 1
    found = epsilon_greedy(values, 0.02)
    expected = np.full((2, 10), 0.02 / 10)
    expected[0, 3] = expected[1, 9] = 0.98 + 0.02 / 10
    assert found == pytest.approx(expected, abs=1e-7)
    assert found.sum(axis=1) == pytest.approx([1, 1], abs=1e-6)


def test_what_is_served_is_greedy_and_never_leaves_an_image_alone():
    seen = np.array([[5, 0], [1, 2]], np.float32)
    assert DQNAgent(network(), 3).act(seen).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    exploring = DQNAgent(network(), 3, epsilon=0.3).act(seen)
    assert exploring == pytest.approx(np.array([[0.8, 0.1, 0.1, 0], [0.1, 0.8, 0.1, 0]]), abs=1e-6)
    untaught = DQNAgent().act(np.zeros((2, 7), np.float32))
    assert untaught == pytest.approx(np.array([[0.1] * 10 + [0]] * 2))


def test_agents_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"epsilon must lie between 0 and 1, got 1.5"):
        DQNAgent(epsilon=1.5)
    with pytest.raises(ValueError, match="the network knows 3 actions, and there are 10"):
        DQNAgent(network())
    with pytest.raises(AdaCompressError, match="learned nothing that could be kept: let it learn first"):
        DQNAgent().arrays()


def test_an_agent_comes_back_as_it_was():
    agent = DQNAgent(network(), 3, epsilon=0.25, how=DQN(discount=0.5, seed=7))
    settings = json.loads(json.dumps(agent.settings()))
    again = DQNAgent.restored(agent.arrays(), settings)
    seen = np.array([[5, 0], [1, 2], [0, 0]], np.float32)
    assert np.array_equal(again.act(seen), agent.act(seen))
    assert (again.actions, again.epsilon, again.how) == (3, 0.25, DQN(discount=0.5, seed=7))
    assert again.settings() == agent.settings()
    with pytest.raises(KeyError, match="b4"):
        DQNAgent.restored({name: array for name, array in agent.arrays().items() if name != "b4"}, settings)
    with pytest.raises(KeyError, match="epsilon"):
        DQNAgent.restored(agent.arrays(), {name: value for name, value in settings.items() if name != "epsilon"})


def test_the_published_schedule():
    how = DQN()
    steps = [step for step in range(1, 1601) if how.learns(step)]
    assert (steps[:2], steps[-1], len(steps), how.first) == ([130, 135], 1600, 295, 130)
    assert [how.epsilon(learned) for learned in (0, 1, 2)] == pytest.approx([1, 0.99, 0.9801])
    assert how.epsilon(295) == pytest.approx(0.0516, abs=1e-4)
    assert how.epsilon(389) > 0.02  # 0.99 ** 389 is 0.02005
    assert [how.epsilon(learned) for learned in (390, 5000)] == [0.02, 0.02]
    assert [step for step in range(1, 12) if DQN(warm_up=5, every=5).learns(step)] == [10]
    assert DQN(warm_up=5, every=5).first == 10


def test_the_target_by_hand():
    following = np.array([-1.0, 0.5, 0.25], np.float32)
    assert target(0.4, 0.95, following) == pytest.approx(0.4 + 0.475)
    assert target(0.4, 0.0, following) == 0.4


def test_the_oldest_is_forgotten_first():
    memory = Memory(3)
    for step in range(2):
        memory.add(step, 10 + step, 0.5 * step)
    assert len(memory) == 2
    assert set(memory.draw(100, np.random.default_rng(0))[0].tolist()) == {0, 1}
    for step in range(2, 5):
        memory.add(step, 10 + step, 0.5 * step)
    rows, actions, targets = memory.draw(200, np.random.default_rng(0))  # more than there are: with replacement
    assert len(memory) == 3
    assert set(rows.tolist()) == {2, 3, 4}
    assert np.array_equal(actions, rows + 10)
    assert np.array_equal(targets, 0.5 * rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.1}, "discount must lie between 0 and 1, got 1.1"),
        ({"floor": -0.1}, "floor must lie between 0 and 1, got -0.1"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_constants_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DQN(**changes)


def table(images=120, actions=3, seed=0):
    """The first action agrees where the first feature is positive, the others always; they cost 0.1, 0.4 and 0.9.

    So the first action is the best one for half of the images, with 0.9, and the second for the rest, with 0.6."""
    random = np.random.default_rng(seed)
    seen = random.normal(0, 1, (images, 4))
    seen[:, 0] = np.where(seen[:, 0] > 0, 1, -1)
    agreement = np.ones((images, actions))
    agreement[:, 0] = seen[:, 0] > 0
    sizes = np.tile([100.0, 400.0, 900.0][:actions], (images, 1))
    keys = tuple(f"image {index}" for index in range(images))
    bytes_75 = np.full(images, 1000.0)
    return Outcomes(keys, seen, sizes, agreement, agreement, bytes_in=3 * bytes_75, bytes_75=bytes_75)


def logged(rows=400, seed=0):
    """One action for each of so many images of the table, taken at random."""
    random = np.random.default_rng(seed)
    full = table(rows, seed=seed)
    action = random.integers(3, size=rows)
    each = np.arange(rows)
    agreement, size = full.agreement[each, action], full.sizes[each, action]
    return Logged(full.features, action, np.full(rows, 1 / 3), agreement, size, full.bytes_75)


def share_of_best(agent):
    """For how many of other images it takes the best action."""
    other = table(200, seed=9)
    best = np.where(other.features[:, 0] > 0, 0, 1)
    return (agent.act(other.features.astype(np.float32)).argmax(axis=1) == best).mean()


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")


def test_it_learns_by_playing(keras):
    told: list[Progress] = []
    agent = DQNAgent(actions=3, how=dataclasses.replace(QUICK, decay=0.95), report=told.append)
    agent.learn_online(table(), steps=500)
    assert share_of_best(agent) > 0.95  # the better constant action is best for about half
    assert [each.step for each in told[:2]] == [45, 50]
    assert told[0].epsilon == 1.0
    assert told[1].epsilon == pytest.approx(0.95)
    assert (told[-1].step, told[-1].steps, len(told)) == (500, 500, 92)
    assert told[-1].reward == pytest.approx(told[-1].agreement - told[-1].size_ratio)
    assert told[-1].reward > 0.65 > 0.4 > told[0].reward  # the best is 0.75, at random it is 0.37
    assert told[-1].loss < 0.2 * told[0].loss


def test_it_learns_from_logged_rows(keras):
    told: list[Progress] = []
    agent = DQNAgent(actions=3, how=QUICK, report=told.append)
    agent.learn(logged(), logged(40, seed=1))
    assert share_of_best(agent) > 0.95
    assert {each.epsilon for each in told} == {None}
    values = agent.network.predict(np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], np.float32))
    assert values == pytest.approx(np.array([[0.9, 0.6, 0.1], [-0.1, 0.6, 0.1]]), abs=0.15)


def test_the_discount_raises_values_by_what_follows(keras):
    rows = logged(300)
    bandit = learn_logged(rows, 3, QUICK)
    chain = learn_logged(rows, 3, dataclasses.replace(QUICK, discount=0.5))
    seen = rows.features.astype(np.float32)
    assert chain.predict(seen).mean() > bandit.predict(seen).mean() + 0.2


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_network(keras):
    short = dataclasses.replace(QUICK, discount=0.95)
    first, again = (learn_online(table(), short, 60).arrays() for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)
    other = learn_online(table(), dataclasses.replace(short, seed=1), 60).arrays()
    assert not np.array_equal(first["w1"], other["w1"])
    rows = logged(70)
    first, again = (learn_logged(rows, 3, short).arrays() for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)


def test_one_update_is_that_of_adam_by_hand(keras):
    """Adam's first step moves each weight by the rate, against the sign of its gradient.

    One row is remembered again and again, whose target is 0.4 + 0.5 * 4.5 = 2.65 for the first action, below its 4.5:
    only that output's error is not 0, and what feeds it are the hidden units (4, 0)."""
    how = DQN(hidden=(2, 1, 2), discount=0.5, rate=0.01, batch=4, epochs=1, warm_up=0, every=1)
    rows = Logged(
        np.array([[5.0, 0.0]] * 2), np.zeros(2, np.intp), np.ones(2), np.ones(2), np.full(2, 600.0), np.full(2, 1000.0)
    )
    told: list[Progress] = []
    found = learn_logged(rows, 3, how, start=network(), report=told.append)
    assert found.b4 == pytest.approx([0.49, 0, 0], abs=1e-5)
    assert found.w4 == pytest.approx(np.array([[0.99, 0, -1], [0, 3, 0]]), abs=1e-5)
    assert [each.loss for each in told] == pytest.approx([(4.5 - 2.65) ** 2 / 3])
    assert found.mean.tolist() == [1, 0]
    assert found.scale.tolist() == [2, 1]


def test_learning_again_goes_on_from_what_it_knows(keras):
    agent = DQNAgent(actions=3, how=QUICK)
    agent.learn_online(table(), steps=300)
    known = agent.network
    agent.learn(logged(60), logged(10, seed=1))
    assert np.array_equal(agent.network.mean, known.mean)
    assert np.abs(agent.network.w1 - known.w1).max() < 0.3
    assert not np.array_equal(agent.network.w1, known.w1)


@pytest.mark.parametrize(
    ("reward", "agreement", "epsilon", "met"),
    [
        (0.46, 0.81, 0.19, True),
        (0.45, 0.81, 0.19, False),
        (0.46, 0.8, 0.19, False),
        (0.46, 0.81, 0.2, False),
    ],
)
def test_the_published_end_of_training_again(reward, agreement, epsilon, met):
    assert Stop().met(reward, agreement, epsilon) is met
    assert Stop().steps == 10


def test_the_published_schedule_explores_for_930_steps_at_least():
    how = DQN()
    learnings = [step for step in range(1, 1601) if how.learns(step)]
    first = next(count for count in range(1, 296) if how.epsilon(count) < Stop().epsilon)
    assert learnings[first - 1] == 930


def test_training_again_ends_when_it_has_done_enough(keras):
    told: list[Progress] = []
    agent = DQNAgent(actions=3, how=dataclasses.replace(QUICK, decay=0.9), report=told.append)
    agent.learn_online(table(), steps=500, until=Stop(reward=0.6))
    assert 40 + 5 * 16 <= told[-1].step < 500  # 0.9 ** 16 is the first below 0.2
    assert told[-1].epsilon * 0.9 < 0.2
    told.clear()
    agent.learn_online(table(), steps=500, until=Stop(reward=0.6))
    assert told[0].epsilon == 1.0, "it explores anew"
    assert told[-1].step >= 40 + 5 * 16
    told.clear()
    agent.learn_online(table(), steps=60, until=Stop(reward=0.99))
    assert told[-1].step == 60


def test_what_cannot_be_learned_is_refused(keras):
    with pytest.raises(AdaCompressError, match="100 steps are too few: nothing is learned before step 130"):
        learn_online(table(100))
    with pytest.raises(AdaCompressError, match="0 steps are too few"):
        learn_online(table(0), steps=500)
    with pytest.raises(AdaCompressError, match="0 steps are too few"):
        learn_logged(logged(0), 3)
    with pytest.raises(ValueError, match="logged actions go from 0 to 2, and there are 2"):
        learn_logged(logged(200), 2)
    with pytest.raises(ValueError, match="the table has 3 actions, and the agent 10"):
        DQNAgent().learn_online(table())
    with pytest.raises(ValueError, match="is 2 -> 2 -> 1 -> 2 -> 3, and 4 -> 64 -> 32 -> 32 -> 3 is to be learned"):
        learn_logged(logged(200), 3, start=network())


def test_curves_for_tensorboard(keras, tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logs = tmp_path / "curves"
    told: list[Progress] = []
    learn_online(table(), QUICK, 60, logs=str(logs), report=told.append)
    (file,) = logs.glob("events.out.tfevents.*")
    events = loader.EventAccumulator(str(file)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["agreement", "epsilon", "loss", "reward", "size_ratio"]
    curve = events.Scalars("reward")
    assert [each.step for each in curve] == [45, 50, 55, 60]
    assert [each.value for each in curve] == pytest.approx([each.reward for each in told])


def test_without_keras_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(AdaCompressError, match=r"training needs keras: pip install 'beam-adacompress\[train\]'"):
        learn_logged(logged(200), 3)


def test_without_tensorboard_there_are_no_curves(keras, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(AdaCompressError, match=r"logs for TensorBoard need tensorboard: pip install"):
        learn_logged(logged(200), 3, logs=str(tmp_path))
