"""What a policy tries beside what it serves, and with what probability."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import LARGE, PRICES, SMALL, default_agent, image, published, saved

from beam_adacompress.policy import learned
from beam_adacompress.policy.features import source_bytes
from beam_adacompress.policy.policies import Serving

ORIGINAL = ("original", 100)


def explored(path, agreement, seen, explore=0.12, seed=0, images=2000):
    policy = Serving(path, agreement, explore=explore, seed=seed).load()
    return [policy.choose(seen, f"{index}.jpg") for index in range(images)]


def propensities(choices):
    """By action; the same at every image that is seen alike."""
    found = {choice[:2]: choice.propensity for choice in choices}
    assert {(*choice[:2], choice.propensity) for choice in choices} == {(*key, found[key]) for key in found}
    return found


def shares(choices):
    counted = collections.Counter(choice[:2] for choice in choices)
    return {action: count / len(choices) for action, count in counted.items()}


# Of the four settings of this policy one leaves SMALL as it is, two take quality 90, and one takes 50; of LARGE, one
# leaves it, and the others take 90, 50 and 10. Nobody takes 10 for SMALL.


def test_where_an_action_is_served(tmp_path):
    choices = explored(saved(tmp_path), 0.97, SMALL)
    expected = {("annexk", 90): 0.88 + 0.12 / 2, ("annexk", 50): 0.12 / 4, ORIGINAL: 0.12 / 4}
    assert propensities(choices) == pytest.approx(expected)
    assert shares(choices) == pytest.approx(expected, abs=0.02)
    assert {choice[:2]: choice.expected_agreement for choice in choices} == pytest.approx(
        {("annexk", 90): 0.99, ("annexk", 50): 0.9, ORIGINAL: 1.0}
    )


def test_where_the_original_is_served(tmp_path):
    choices = explored(saved(tmp_path), 0.99, LARGE)
    expected = {ORIGINAL: 0.88 + 0.03, ("annexk", 90): 0.03, ("annexk", 50): 0.03, ("annexk", 10): 0.03}
    assert propensities(choices) == pytest.approx(expected)
    assert shares(choices) == pytest.approx(expected, abs=0.025)


def test_a_policy_that_leaves_everything_as_it_is_can_be_learned_again(tmp_path):
    policy = Serving(saved(tmp_path), 0.999).load()
    assert policy.leaves_all
    choices = explored(str(tmp_path), 0.999, SMALL, explore=0.5)
    expected = {ORIGINAL: 0.5 + 0.5 / 4, ("annexk", 90): 0.25, ("annexk", 50): 0.125}
    assert propensities(choices) == pytest.approx(expected)
    assert shares(choices) == pytest.approx(expected, abs=0.04)


def test_of_an_agent_without_settings_all_actions_are_tried(tmp_path):
    path = published(tmp_path)
    choices = explored(path, None, SMALL, explore=0.3)
    expected = {("annexk", 10): 0.1, ("annexk", 50): 0.8, ("annexk", 90): 0.1}
    assert propensities(choices) == pytest.approx(expected)
    assert shares(choices) == pytest.approx(expected, abs=0.03)
    assert {choice.expected_agreement for choice in choices} == {None}


def test_of_an_agent_without_settings_that_promises_nothing(tmp_path):
    choices = explored(published(tmp_path), 0.95, SMALL, explore=0.3)
    expected = {ORIGINAL: 0.7, ("annexk", 10): 0.1, ("annexk", 50): 0.1, ("annexk", 90): 0.1}
    assert propensities(choices) == pytest.approx(expected)
    assert shares(choices) == pytest.approx(expected, abs=0.03)


def test_it_is_a_matter_of_key_and_seed(tmp_path):
    path = saved(tmp_path)
    first = explored(path, 0.97, SMALL, images=300)
    assert explored(path, 0.97, SMALL, images=300) == first
    assert explored(path, 0.97, SMALL, seed=1, images=300) != first


def test_nobody_explores_unless_told_to(tmp_path):
    choices = explored(saved(tmp_path), 0.97, SMALL, explore=0, images=50)
    assert {(choice.quality, choice.propensity) for choice in choices} == {(90, 1.0)}


def test_somebody_else_may_say_how_much(tmp_path):
    quiet = Serving(saved(tmp_path), 0.97).load()
    bold = Serving(str(tmp_path), 0.97, explore=0.4).load()
    keys = [f"{index}.jpg" for index in range(100)]
    assert [quiet.choose(SMALL, key, 0.4) for key in keys] == [bold.choose(SMALL, key) for key in keys]
    assert {bold.choose(SMALL, key, 0.0) for key in keys} == {quiet.choose(SMALL, "a.jpg")}


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """The same policy with each of its settings in service, and with none."""
    path = saved(tmp_path_factory.mktemp("policy"))
    return [Serving(path, agreement).load() for agreement in (0.99, 0.97, 0.95, 0.8, 0.999)]


@settings(max_examples=60, deadline=None)
@given(
    log2_aspect=st.floats(-4, 4, width=32),
    explore=st.floats(0.01, 0.99),
    served=st.integers(0, 4),
    keys=st.lists(st.text(max_size=4), min_size=1, max_size=20),
)
def test_propensities_are_what_each_setting_alone_would_do(policies, log2_aspect, explore, served, keys):
    seen = image(log2_aspect)
    model, bytes_in = default_agent().model, source_bytes(seen[None])
    alone = [int(learned.choose(model, seen[None], bytes_in, price).action[0]) for price in (*PRICES, None)]
    actions = [ORIGINAL if index == -1 else policies[0].actions[index] for index in alone]
    chances = {
        action: (1 - explore) * (action == actions[served]) + explore * actions[:4].count(action) / 4
        for action in set(actions)
    }
    assert sum(chances.values()) == pytest.approx(1)
    for key in keys:
        choice = policies[served].choose(seen, key, explore)
        assert choice.propensity == pytest.approx(chances[choice[:2]])
        assert 0 < choice.propensity <= 1


def test_what_is_logged_tells_what_another_setting_would_come_to(tmp_path):
    """Inverse propensity weighting, with an agreement that depends on the action alone."""
    agreement = {("annexk", 10): 0.5, ("annexk", 50): 0.8, ("annexk", 90): 0.95, ORIGINAL: 1.0}
    choices = explored(saved(tmp_path), 0.97, LARGE, explore=0.5, images=4000)
    bold = Serving(str(tmp_path), 0.8).load().choose(LARGE, "a.jpg")[:2]
    assert bold == ("annexk", 10)
    weights = np.array([(choice[:2] == bold) / choice.propensity for choice in choices])
    assert weights.mean() == pytest.approx(1, abs=0.15)
    worth = np.array([agreement[choice[:2]] for choice in choices])
    assert (weights * worth).mean() == pytest.approx(agreement[bold], abs=0.08)
