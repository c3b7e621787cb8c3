from __future__ import annotations

import numpy as np
import pytest

from beam_adacompress.estimates import WeightedSums


def sums(values, weights=None) -> WeightedSums:
    collected = WeightedSums()
    for value, weight in zip(values, weights if weights is not None else [1.0] * len(values)):
        collected.add(value, weight)
    return collected


def test_no_values_no_estimate():
    assert (WeightedSums().mean, WeightedSums().interval(), WeightedSums().share_interval()) == (None, None, None)
    assert sums([0.5]).interval() is None


def test_wilson_by_hand():
    # 8 of 10: centre (0.8 + 3.8415 / 20) / 1.38415 = 0.7168, half-width 0.2266.
    assert sums([1] * 8 + [0] * 2).share_interval() == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("values", "ends"), [([1] * 20, (0.8389, 1.0)), ([0] * 20, (0.0, 0.1611))])
def test_wilson_stays_within_0_and_1(values, ends):
    assert sums(values).share_interval()[1:] == pytest.approx(ends, abs=1e-4)


def test_normal_interval_by_hand():
    # Mean 2, sample standard deviation 1, standard error 1 / sqrt(3).
    assert sums([1.0, 2.0, 3.0]).interval() == pytest.approx((2.0, 2 - 1.13159, 2 + 1.13159), abs=1e-4)


def test_weights_stand_for_images_that_were_not_sampled():
    # A tenth of 90 agreeing images and all of 10 others: 0.9, not 9 / 19.
    weighted = sums([1.0] * 9 + [0.0] * 10, [10.0] * 9 + [1.0] * 10)
    assert weighted.mean == pytest.approx(0.9)
    assert weighted.share_interval().mean == pytest.approx(0.9)


def test_scaling_all_weights_changes_nothing():
    values = [0.3, 0.8, 0.1, 0.9]
    assert sums(values, [5.0] * 4).interval() == pytest.approx(sums(values).interval())
    assert sums([1, 0, 1], [5.0] * 3).share_interval() == pytest.approx(sums([1, 0, 1]).share_interval())


def test_merging_is_adding():
    random = np.random.default_rng(0)
    values, weights = random.random(50), random.random(50) + 0.5
    merged = sums(values[:20], weights[:20])
    merged.merge(sums(values[20:], weights[20:]))
    assert merged.interval() == pytest.approx(sums(values, weights).interval())


@pytest.mark.parametrize("rare", [0.05, 0.3])
def test_intervals_hold_the_truth_as_often_as_they_say(rare):
    # Strata sampled at unequal rates, as the sampler does: 95 % of the intervals have to hold the population's mean.
    random = np.random.default_rng(7)
    population = 4000
    is_rare = random.random(population) < rare
    agreed = random.random(population) < np.where(is_rare, 0.7, 0.95)
    rates = np.where(is_rare, 0.4, 0.1)
    held = {"share": 0, "mean": 0}
    for _ in range(400):
        sampled = random.random(population) < rates
        drawn = sums(agreed[sampled].astype(float), 1 / rates[sampled])
        share, mean = drawn.share_interval(), drawn.interval()
        held["share"] += share.low <= agreed.mean() <= share.high
        held["mean"] += mean.low <= agreed.mean() <= mean.high
    assert held["share"] / 400 >= 0.93
    assert held["mean"] / 400 >= 0.92
