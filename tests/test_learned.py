from __future__ import annotations

import numpy as np
import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy import features, learned
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.learned import (
    ORIGINAL_ACTION,
    AgreementAgent,
    agreed,
    calibration,
    choose,
    decide,
    prices,
)
from beam_adacompress.policy.outcomes import Outcomes
from beam_adacompress.policy.search import Recollection


def logit(p):
    return np.log(p / (1 - p))


def model(chances=(0.6, 0.9, 0.99), log_sizes=(10.0, 11.0, 12.0)):
    """One family of three qualities; the first feature doubles the bytes for each unit."""
    rising = np.diff([logit(each) for each in chances])
    steps = np.log(np.expm1([1.0, *rising]))
    return AgreementModel(
        mean=np.zeros(2, np.float32),
        scale=np.ones(2, np.float32),
        w1=np.zeros((1, 2, 1), np.float32),
        b1=np.zeros((1, 1), np.float32),
        w_ease=np.zeros((1, 1, 1), np.float32),
        base=np.array([[logit(chances[0]) - 1]], np.float32),
        steps=steps[None, None].astype(np.float32),
        w_size=np.array([[1.0] * 3, [0.0] * 3], np.float32),
        b_size=np.array(log_sizes, np.float32),
    )


SMALL, LARGE = [-1.0, 0.0], [2.0, 0.0]
BYTES_IN = np.array([1e6, 1e6])


@pytest.mark.parametrize(
    ("price", "action"),
    [
        (0.0, [ORIGINAL_ACTION, ORIGINAL_ACTION]),  # bytes cost nothing: nothing agrees like the original
        (1e-9, [ORIGINAL_ACTION, ORIGINAL_ACTION]),
        (1e-6, [2, 2]),
        (2e-5, [2, 1]),  # what it takes to be surer costs more on the large image
        (2e-4, [1, 0]),
        (1.0, [0, 0]),
    ],
)
def test_the_price_decides_and_large_images_are_compressed_more_boldly(price, action):
    chosen = choose(model(), np.array([SMALL, LARGE], np.float32), BYTES_IN, price)
    assert chosen.action.tolist() == action
    expected = [1.0 if each == ORIGINAL_ACTION else (0.6, 0.9, 0.99)[each] for each in action]
    assert chosen.expected == pytest.approx(expected, abs=1e-5)


def test_without_a_promise_everything_stays():
    chosen = choose(model(), np.array([SMALL], np.float32), BYTES_IN[:1], None)
    assert (chosen.action.tolist(), chosen.expected.tolist()) == ([ORIGINAL_ACTION], [1.0])


def test_an_original_that_is_smaller_than_any_result_stays():
    chosen = choose(model(), np.array([SMALL], np.float32), np.array([100.0]), 1e-4)
    assert chosen.action.tolist() == [ORIGINAL_ACTION]


def table(images, seed=0):
    random = np.random.default_rng(seed)
    agreement = (random.uniform(0, 1, (images, 1)) < np.array([0.6, 0.9, 0.99])).astype(float)
    features = np.stack([random.uniform(-1, 2, images), np.zeros(images)], axis=1)
    size = np.exp2(features[:, :1] + np.array([10.0, 11.0, 12.0]))
    ones = np.ones(images)
    return Outcomes(tuple(map(str, range(images))), features, size, agreement, agreement, 1e6 * ones, 5e4 * ones)


def test_what_a_choice_comes_to():
    outcomes = table(3)
    outcomes.agreement[:] = [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    action = np.array([ORIGINAL_ACTION, 0, 2])
    assert agreed(outcomes, action).tolist() == [1, 0, 1]


def test_prices_go_from_cautious_to_bold():
    found = prices(table(50), count=20)
    assert (len(found), found[0]) == (20, 0.0)
    assert list(found) == sorted(found)
    assert found[-1] == pytest.approx(1e-5)


def test_a_calibrated_promise_holds_on_other_images():
    outcomes, others = table(2000), table(20_000, seed=1)
    settings = tuple(np.geomspace(1e-6, 1e-2, 40))
    seen = calibration(model(), outcomes, settings)
    assert seen.images == 2000
    assert seen.disagreements[0] < seen.disagreements[-1]
    for target in (0.85, 0.93, 0.97):
        promise = seen.promise(target)
        assert promise.setting is not None
        chosen = choose(model(), others.features.astype(np.float32), others.bytes_in, settings[promise.setting])
        assert target <= agreed(others, chosen.action).mean() < target + 0.05
    assert not seen.promise(0.999).holds


SEEN = np.array([SMALL, LARGE], np.float32)


@pytest.mark.parametrize(
    ("price", "taken"),
    [
        (None, [[0, 0, 0, 1], [0, 0, 0, 1]]),
        (0.0, [[0, 0, 0, 1], [0, 0, 0, 1]]),
        (2e-5, [[0, 0, 1, 0], [0, 1, 0, 0]]),
        (2e-4, [[0, 1, 0, 0], [1, 0, 0, 0]]),
    ],
)
def test_an_agent_acts_as_it_decides(price, taken):
    agent = AgreementAgent(1, 3, model(), price)
    assert agent.act_on(agent.learned.predict(SEEN), BYTES_IN).tolist() == taken
    assert (agent.kind, agent.actions, agent.looks_at) == ("agreement", 3, 2)


def test_a_decision_is_the_choice_of_what_is_predicted():
    decided = decide(model().predict(SEEN), BYTES_IN, 2e-5)
    chosen = choose(model(), SEEN, BYTES_IN, 2e-5)
    assert decided.action.tolist() == chosen.action.tolist() == [2, 1]
    assert decided.expected.tolist() == chosen.expected.tolist()


def test_an_agent_knows_the_size_of_the_original_from_what_it_sees():
    count = len(features.NAMES)
    zeros = {"mean": (count,), "w1": (1, count, 1), "b1": (1, 1), "w_ease": (1, 1, 1), "w_size": (count, 1)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in zeros.items()}
    arrays |= {"scale": np.ones(count, np.float32), "base": np.zeros((1, 1), np.float32)}
    arrays |= {"steps": np.full((1, 1, 1), 20, np.float32), "b_size": np.full(1, 10, np.float32)}
    agent = AgreementAgent(1, 1, AgreementModel(**arrays), 1.0)
    seen = np.zeros((2, count), np.float32)
    seen[:, features.NAMES.index("log2_pixels")] = 12
    seen[:, features.NAMES.index("log2_bits_per_pixel")] = 0, 2  # 512 bytes, and 2048; the result has 1024
    assert agent.act(seen).tolist() == [[0, 1], [1, 0]]


def test_what_an_agent_remembers(monkeypatch):
    monkeypatch.setattr(learned, "MOST", 2)
    agent = AgreementAgent(1, 3, model())
    outcomes = table(3)
    outcomes.agreement[:] = [[0, 1, 1], [1, 1, 0], [1, 1, 1]]
    agent.remember(outcomes)
    assert agent.recollection.answers.tolist() == [[False, True, True], [True, True, False]]


@pytest.mark.parametrize("price", [None, 0.5])
@pytest.mark.parametrize("recollection", [None, Recollection(np.array([[0, 1, 1], [1, 1, 0]]) > 0)])
def test_an_agent_is_arrays_and_settings(price, recollection):
    agent = AgreementAgent(1, 3, model(), price, recollection)
    again = AgreementAgent.restored(agent.arrays(), agent.settings())
    assert again.settings() == agent.settings() == {"families": 1, "qualities": 3, "price": price}
    assert set(again.arrays()) == set(agent.arrays())
    assert all(np.array_equal(array, again.arrays()[name]) for name, array in agent.arrays().items())
    assert (again.recollection is None) == (recollection is None)


def test_agents_whose_parts_do_not_fit():
    with pytest.raises(ValueError, match="the model knows 3 actions, and there are 6"):
        AgreementAgent(2, 3, model())
    with pytest.raises(ValueError, match="2 actions are remembered, and there are 3"):
        AgreementAgent(1, 3, model(), recollection=Recollection(np.ones((1, 2), np.bool_)))
    with pytest.raises(KeyError, match="scale"):
        AgreementAgent.restored({"mean": np.zeros(2)}, {"families": 1, "qualities": 3, "price": None})
    with pytest.raises(AdaCompressError, match="the agent has learned nothing yet: let it learn first"):
        AgreementAgent(1, 3).act(SEEN)
