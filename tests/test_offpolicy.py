from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_adacompress.policy.offpolicy import Estimate, Taken, doubly_robust, self_normalised, weights

# Three rows, two actions and leaving the image alone. The last row stands for two images.
TAKEN = Taken(np.array([0, 1, 2]), np.array([0.5, 0.25, 1.0]), np.array([1.0, 1.0, 2.0]))
TARGET = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
AGREED = np.array([1.0, 0.0, 1.0])
MODEL = np.array([[0.8, 0.9], [0.6, 0.7], [0.5, 0.5]])


def certain(action, actions):
    """A target that takes these actions for sure."""
    return np.eye(actions + 1)[action]


def everything(rows):
    """A log in which action 0 was taken for sure."""
    return Taken(np.zeros(rows, np.intp), np.ones(rows), np.ones(rows))


def test_weights_by_hand():
    assert weights(TAKEN, TARGET).tolist() == [2, 2, 0]
    assert weights(TAKEN, TARGET, most=1.5).tolist() == [1.5, 1.5, 0]


def test_the_self_normalised_estimate_by_hand():
    # Of the images that the target does not leave alone, (2 * 1 + 2 * 0) / (2 + 2) agree; there are two of four.
    found = self_normalised(TAKEN, TARGET, AGREED, 1.0)
    assert found.mean == pytest.approx(0.75)
    # Values: 0.5 + 2/4 * 2 * (1 - 0.5), 0.5 - 0.5, and 1, which count for 1, 1 and 2 images.
    assert found.values == pytest.approx([1.0, 0.0, 1.0])
    assert found.variance == pytest.approx((0.25**2 + 0.75**2 + 0.5**2) * 3 / 2 / 16)
    assert found.rows == pytest.approx((2 + 2 + 2) ** 2 / (4 + 4 + 4))


def test_the_doubly_robust_estimate_by_hand():
    found = doubly_robust(TAKEN, TARGET, AGREED, MODEL, 1.0)
    assert found.values == pytest.approx([0.8 + 2 * 0.2, 0.65 - 2 * 0.7, 1.0])
    assert found.mean == pytest.approx((1.2 - 0.75 + 2) / 4)
    assert (found.support, found.rows) == (1.0, pytest.approx(16 / 6))
    assert found.noise.tolist() == [0, 0, 0]


def test_the_noise_that_a_model_expects_by_hand():
    found = doubly_robust(TAKEN, TARGET, AGREED, MODEL, 1.0, binary=True)
    dispersion = (0.2**2 + 0.7**2) / (0.16 + 0.21)
    assert found.noise == pytest.approx([2 * math.sqrt(0.16 * dispersion), 2 * math.sqrt(0.21 * dispersion), 0])
    calm = doubly_robust(TAKEN, TARGET, np.array([1.0, 1.0, 1.0]), MODEL, 1.0, binary=True)  # dispersed by 0.35
    assert calm.noise == pytest.approx([0.8, 2 * math.sqrt(0.21), 0])
    assert calm.variance == pytest.approx((0.64 + 0.84) / 16)  # the values' own is less


def test_what_leaving_alone_comes_to_may_differ_from_image_to_image():
    bytes_in = np.array([100.0, 200.0, 300.0])
    size = np.array([50.0, 60.0, 300.0])
    assert self_normalised(TAKEN, certain([2, 2, 2], 2), size, bytes_in).mean == pytest.approx(900 / 4)
    assert doubly_robust(TAKEN, certain([2, 2, 2], 2), size, 0 * MODEL, bytes_in).mean == pytest.approx(900 / 4)


def test_what_the_log_never_shows_is_not_estimated_from_it():
    other = certain([1, 1, 1, 1], 2)
    assert self_normalised(everything(4), other, np.ones(4), 1.0) is None
    found = doubly_robust(everything(4), other, np.ones(4), np.full((4, 2), 0.9), 1.0)
    assert (found.mean, found.support, found.effective) == (pytest.approx(0.9), 0.0, 0.0)
    assert found.share_interval()[1:] == (0.0, 1.0)
    assert found.interval().high == math.inf


def test_without_exploring_only_the_same_decisions_count():
    target = certain([0] * 60 + [1] * 30 + [2] * 10, 2)
    found = doubly_robust(everything(100), target, np.ones(100), np.full((100, 2), 0.99), 1.0)
    assert (found.support, found.rows) == (pytest.approx(0.7), pytest.approx(70))
    half = self_normalised(everything(100), target, np.ones(100), 1.0)
    assert (half.mean, half.rows) == (pytest.approx(1.0), pytest.approx(70))


def test_where_nothing_disagreed_the_interval_still_has_a_width():
    found = self_normalised(everything(50), certain([0] * 50, 1), np.ones(50), 1.0)
    assert (found.mean, found.variance, found.effective) == (1.0, 0.0, pytest.approx(50))
    assert found.share_interval() == pytest.approx((1.0, 50 / (50 + 1.959964**2), 1.0))  # Wilson's for 50 of 50
    assert found.share_bound(0.9) == pytest.approx(50 / (50 + 1.281552**2), abs=1e-6)
    assert found.share_bound(0.5) == 1.0


def test_a_share_interval_by_hand():
    agreed = np.array([1.0] * 90 + [0.0] * 10)
    found = self_normalised(everything(100), certain([0] * 100, 1), agreed, 1.0)
    # Wilson's interval for 90 of 100, as it stands in tables.
    assert found.effective == pytest.approx(100)
    assert found.share_interval() == pytest.approx((0.9, 0.8256, 0.9448), abs=1e-4)


def test_the_effective_size_is_that_of_a_share_with_the_same_variance():
    values = np.array([3.0, -1.0] * 50)  # a mean of 1, a variance of 4 * 100 / 99 / 100
    found = Estimate(values, np.zeros(100), np.ones(100), 100.0)
    share = (100 + 2) / 104
    assert found.effective == pytest.approx(share * (1 - share) / (4 / 99))
    assert found.share_interval().mean == 1.0


def test_a_difference_is_paired():
    first = Estimate(np.array([1.0, 0.0, 1.0, 0.0]), np.full(4, 0.3), np.ones(4), 4.0, 0.5)
    second = Estimate(np.array([0.5, -0.5, 0.5, -0.5]), np.full(4, 0.3), np.ones(4), 3.0, 1.0)
    found = first - second
    assert found.interval() == (0.5, 0.5, 0.5)  # although both vary
    assert (found.rows, found.support) == (3.0, 0.5)
    with pytest.raises(AssertionError, match="a difference is of the same rows"):
        first - Estimate(np.ones(4), np.zeros(4), np.array([1.0, 1, 1, 2]), 4.0)


def test_little_support_widens_an_interval():
    values = np.array([1.0, 0.0] * 8)
    half = Estimate(values, np.zeros(16), np.ones(16), 16.0).interval().high - 0.5
    assert half == pytest.approx(1.959964 * math.sqrt(0.25 / 15))
    assert Estimate(values, np.zeros(16), np.ones(16), 4.0, 0.25).interval().high - 0.5 == pytest.approx(2 * half)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(1, 20)), min_size=2, max_size=30), st.randoms())
def test_of_what_was_taken_for_sure_both_are_the_mean_of_what_was_logged(rows, random):
    action = np.array([each[0] for each in rows])
    agreed = np.array([each[0] == 2 or each[1] for each in rows], np.float64)
    taken = Taken(action, np.ones(len(rows)), np.array([each[2] for each in rows]))
    model = np.array([[random.random(), random.random()] for _ in rows])
    expected = np.average(agreed, weights=taken.stands_for)
    target = certain(action, 2)
    for found in (self_normalised(taken, target, agreed, 1.0), doubly_robust(taken, target, agreed, model, 1.0)):
        assert found.mean == pytest.approx(expected)
        mean, low, high = found.share_interval()
        assert 0 <= low <= mean + 1e-9
        assert mean - 1e-9 <= high <= 1
        assert found.share_bound(0.9) <= found.share_bound(0.6) + 1e-9
        assert 0 < found.effective <= len(rows) + 1e-6


class World:
    """Images of two kinds; three actions, of which the log prefers the first, and the target the others."""

    chance = np.array([[0.7, 0.9, 0.99], [0.3, 0.6, 0.96]])
    logging = np.array([[0.6, 0.2, 0.1, 0.1], [0.5, 0.2, 0.2, 0.1]])
    target = np.array([[0, 0.8, 0.2, 0], [0, 0, 0.7, 0.3]])

    def __init__(self, rows, seed):
        random = np.random.default_rng(seed)
        self.kind = random.integers(2, size=rows)
        action = (random.uniform(size=(rows, 1)) > np.cumsum(self.logging, axis=1)[self.kind]).sum(axis=1)
        right = np.hstack([self.chance, np.ones((2, 1))])[self.kind, action]
        self.agreed = (random.uniform(size=rows) < right).astype(np.float64)
        self.taken = Taken(action, self.logging[self.kind, action], np.ones(rows))
        self.of_target = self.target[self.kind]

    truth = float((np.hstack([chance, np.ones((2, 1))]) * target).sum(axis=1).mean())


def test_they_are_right_on_average():
    world = World(200_000, 0)
    wrong = np.full((200_000, 3), 0.5)
    alike = world.taken._replace(propensity=np.full(200_000, 0.25))
    estimates = {
        "self-normalised": self_normalised(world.taken, world.of_target, world.agreed, 1.0),
        "with a wrong model": doubly_robust(world.taken, world.of_target, world.agreed, wrong, 1.0),
        "with a right model": doubly_robust(world.taken, world.of_target, world.agreed, world.chance[world.kind], 1.0),
        "with wrong propensities": doubly_robust(alike, world.of_target, world.agreed, world.chance[world.kind], 1.0),
    }
    for name, found in estimates.items():
        assert found.mean == pytest.approx(World.truth, abs=4 * math.sqrt(found.variance)), name
        assert math.sqrt(found.variance) < 0.004, name
    neither = doubly_robust(alike, world.of_target, world.agreed, wrong, 1.0)
    assert abs(neither.mean - World.truth) > 0.05
    assert estimates["with a right model"].variance < estimates["with a wrong model"].variance


@pytest.mark.parametrize("name", ["self-normalised", "doubly robust"])
def test_intervals_hold_as_often_as_they_say(name):
    found = []
    for seed in range(400):
        world = World(150, seed)
        model = world.chance[world.kind] - 0.02
        if name == "self-normalised":
            found.append(self_normalised(world.taken, world.of_target, world.agreed, 1.0))
        else:
            found.append(doubly_robust(world.taken, world.of_target, world.agreed, model, 1.0, binary=True))
    intervals = [each.share_interval() for each in found]
    inside = sum(each.low <= World.truth <= each.high for each in intervals)
    below = sum(each.share_bound(0.9) <= World.truth for each in found)
    # Of 400 the standard deviation is 4.4 and 6.
    assert 380 - 13 <= inside <= 398
    assert below >= 360 - 18
    # As many plain rows as vary as the estimates do: about 40.
    real = World.truth * (1 - World.truth) / np.var([each.mean for each in found])
    assert 0.7 * real < np.mean([each.effective for each in found]) < 1.3 * real


def test_paired_differences_hold_as_often_as_they_say():
    bold = np.array([[1.0, 0, 0, 0], [0.0, 1, 0, 0]])
    truth = World.truth - (0.7 + 0.6) / 2
    inside = 0
    for seed in range(400):
        world = World(150, seed)
        model = world.chance[world.kind] - 0.02
        first, second = (
            doubly_robust(world.taken, target, world.agreed, model, 1.0, binary=True)
            for target in (world.of_target, bold[world.kind])
        )
        _, low, high = (first - second).interval()
        inside += low <= truth <= high
    assert 380 - 13 <= inside <= 396
