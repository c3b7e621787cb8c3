from __future__ import annotations

import math

import numpy as np
import pytest

from beam_adacompress.rates import bytes_needed, ratio_of_bytes

SIZES = np.array([100.0, 200.0, 300.0, 400.0])


@pytest.mark.parametrize(
    ("agreement", "target", "expected"),
    [
        ([0.5, 0.7, 0.9, 1.0], 0.9, 300),
        ([0.5, 0.7, 0.9, 1.0], 0.8, 250),
        ([0.5, 0.7, 0.9, 1.0], 0.4, 100),
        ([0.5, 0.9, 0.7, 1.0], 0.8, 175),  # what a smaller size has reached stays reached
        ([0.5, 0.9, 0.7, 1.0], 0.95, 350),
    ],
)
def test_bytes_needed(agreement, target, expected):
    assert bytes_needed(SIZES, np.array(agreement), target) == pytest.approx(expected)
    shuffled = [2, 0, 3, 1]
    assert bytes_needed(SIZES[shuffled], np.array(agreement)[shuffled], target) == pytest.approx(expected)


def test_what_is_not_reached_is_no_number():
    assert math.isnan(bytes_needed(SIZES, np.array([0.1, 0.2, 0.3, 0.4]), 0.5))


def test_the_ratio_of_a_set_that_takes_half_the_bytes_for_the_same():
    random = np.random.default_rng(1)
    sizes = random.uniform(50, 150, (200, 1)) * np.array([1.0, 2.0, 4.0])
    agreement = (random.uniform(0, 1, (200, 1)) < np.array([0.6, 0.8, 1.0])).astype(float)
    ratio = ratio_of_bytes((sizes / 2, sizes), (agreement, agreement), 0.9)
    assert ratio == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_says_how_sure_it_is():
    random = np.random.default_rng(1)
    sizes = np.ones((300, 1)) * np.array([1.0, 2.0, 4.0])
    agreement = [(random.uniform(0, 1, (300, 1)) < np.array([0.6, 0.8, 1.0])).astype(float) for _ in range(2)]
    mean, low, high = ratio_of_bytes((sizes, sizes), tuple(agreement), 0.9)
    assert low < 1 < high
    assert low < mean < high
    assert 0.05 < high - low < 1


def test_an_agreement_that_one_does_not_reach():
    sizes = np.ones((50, 1)) * np.array([1.0, 2.0])
    agreement = np.repeat([[0.0, 1.0]], 50, axis=0)
    low = agreement * (np.arange(50)[:, None] > 3)
    assert ratio_of_bytes((sizes, sizes), (low, agreement), 0.99)[::2] == (float("inf"), float("inf"))
    assert ratio_of_bytes((sizes, sizes), (agreement, low), 0.99)[:2] == (0.0, 0.0)


def test_an_agreement_that_nobody_reaches():
    nothing = np.zeros((20, 3))
    assert all(math.isnan(each) for each in ratio_of_bytes((nothing + 1, nothing + 1), (nothing, nothing), 0.9))
