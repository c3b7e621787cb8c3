from __future__ import annotations

import numpy as np

from beam_adacompress.policy import judging
from beam_adacompress.policy.learned import ORIGINAL_ACTION, AgreementAgent
from beam_adacompress.policy.outcomes import Outcomes
from beam_adacompress.policy.search import Recollection


def table():
    """Four images of 1000 bytes and three actions."""
    sizes = np.array([[100, 200, 400], [100, 200, 400], [500, 960, 1200], [100, 200, 400]], float)
    agreement = np.array([[0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], float)
    strict = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], float)
    four = np.full(4, 1000.0)
    return Outcomes(tuple("abcd"), np.zeros((4, 2)), sizes, agreement, strict, four, four / 2)


def test_what_is_written_is_the_original_where_too_little_is_saved():
    written = judging.written(table(), min_saving=0.05)
    assert written.sizes[2].tolist() == [500, 1000, 1000]
    assert written.agreement[2].tolist() == [0, 1, 1]
    assert written.strict[2].tolist() == [0, 1, 1]
    assert written.sizes[[0, 1, 3]].tolist() == table().sizes[[0, 1, 3]].tolist()
    assert judging.written(table(), min_saving=0.0).sizes[2].tolist() == [500, 960, 1000]


def test_what_actions_come_to():
    came = judging.judged(table(), np.array([1, ORIGINAL_ACTION, 0, 2]))
    assert came.sizes.tolist() == [200, 1000, 500, 400]
    assert came.agreement.tolist() == [1, 1, 0, 0]
    assert came.strict.tolist() == [0, 1, 0, 0]


def test_the_oracle_takes_the_smallest_that_agrees_or_the_original():
    assert judging.cheapest(table()).tolist() == [1, 0, ORIGINAL_ACTION, ORIGINAL_ACTION]
    oracle = judging.oracle("oracle", table())
    assert (oracle.kind, oracle.sizes.tolist()) == ("oracle", [200, 100, 1000, 1000])
    assert oracle.agreement.tolist() == [1, 1, 1, 1]
    assert judging.cheapest(judging.written(table(), 0.05)).tolist() == [1, 0, ORIGINAL_ACTION, ORIGINAL_ACTION]


class Fixed(AgreementAgent):
    """Takes the actions that it is told."""

    def __init__(self, *taken):
        super().__init__(1, 3)
        self.taken = taken

    def act(self, features):
        return np.eye(4, dtype=np.float32)[list(self.taken)]


def test_a_policy_is_judged_by_the_action_that_it_likes_best():
    agent = Fixed(0, 1, 2, 3)
    assert judging.acted(agent, table()).tolist() == [0, 1, 2, ORIGINAL_ACTION]
    policy = judging.by_policy("mine", agent, table(), promised=0.9)
    assert (policy.name, policy.kind, policy.promised, policy.calls) == ("mine", "policy", 0.9, None)
    assert policy.sizes.tolist() == [100, 200, 1200, 1000]
    assert policy.agreement.tolist() == [0, 1, 0, 1]


class Sizes:
    """A model that knows all bytes."""

    actions, features = 3, 2

    def predict(self, features):
        return type("Predicted", (), {"size": np.array([[100, 200, 400]] * len(features), np.float32)})


def test_verified_choice_agrees_and_counts_the_reference():
    agent = AgreementAgent(1, 3, Sizes(), recollection=Recollection(np.array([[0, 1, 1], [1, 1, 1], [0, 0, 1]]) > 0))
    written = judging.written(table(), 0.05)
    found = judging.searched(agent, written, families=1)
    own = judging.verified("verified", written, found)
    assert own.agreement.tolist() == [1, 1, 1, 1]
    assert found.action.tolist() == [1, 0, ORIGINAL_ACTION, ORIGINAL_ACTION]
    assert own.calls.tolist() == found.calls.tolist()
    assert found.calls[3] == 4, "the reference, and all three actions in vain"
    assert found.calls[2] == 2, "what would not get smaller is not asked about"
    other = judging.verified("by another", table(), found, asked=False)
    assert other.calls is None


def test_curves_and_the_ceiling():
    curve = judging.curve("fixed", (5, 20), table(), (0, 2))
    assert curve.sizes[0].tolist() == [100, 400]
    assert curve.agreement.mean(axis=0).tolist() == [0.25, 0.5]
    plain = judging.plain(curve, "plain", curve.sizes + 50)
    assert (plain.name, plain.sizes[0].tolist()) == ("plain", [150, 450])
    assert plain.agreement is curve.agreement
    jitter = judging.jitter(table(), 2)
    assert (jitter.kind, jitter.agreement.tolist()) == ("jitter", [1, 1, 0, 0])
