"""What a sample says of a corpus: totals, ratios, shares."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from beam_adacompress.estimates import Interval, wilson
from beam_adacompress.survey import Survey, Unit, students_t


def files(*drawn: tuple[float, float], units: int, size: float) -> Survey:
    """Files by (size, value)."""
    return Survey(units, size, [Unit(size_of, 1, [value]) for size_of, value in drawn])


def same(value: float) -> float:
    return value


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (100, 1.984)])
def test_students_t(freedom, quantile):
    assert students_t(0.975, freedom) == pytest.approx(quantile, rel=2e-3)


def test_the_total_of_a_sample_of_files():
    survey = files((10, 5), (20, 13), (30, 17), units=5, size=100)
    # R = 35/60; residuals 5 - 35/6, 13 - 70/6, 17 - 105/6, squares 0.694, 1.778, 0.25, their s^2 1.3611.
    # 25/3 * 2/5 * 1.3611 = 4.537; scale 100 / (5 * 20) = 1; t(2) = 4.3027.
    total = survey.total(same)
    assert total.mean == pytest.approx(100 * 35 / 60)
    assert total.high - total.mean == pytest.approx(4.302653 * math.sqrt(4.537037), rel=1e-5)
    assert total.mean - total.low == pytest.approx(total.high - total.mean)


def test_a_total_is_not_below_what_was_seen():
    survey = files((10, 2), (30, 30), units=4, size=100)
    # R = 32/40; residuals -6 and 6, s^2 = 72; 16/2 * 1/2 * 72 = 288; scale 100 / (4 * 20) = 1.25; t(1) = 12.706.
    total = survey.total(same)
    assert total.mean == 80
    assert total.low == 32
    assert total.high == pytest.approx(80 + 12.7062 * 1.25 * math.sqrt(288), rel=1e-5)


def test_shards_add_what_their_own_images_vary_by():
    survey = Survey(4, 400, [Unit(100, 10, [1.0, 3.0]), Unit(100, 20, [1.0, 1.0])])
    # 20 each, so there is nothing between them; within the first: 10^2 / 2 * 8/10 * 2 = 80; 4/2 * 80 = 160.
    assert survey.total(same) == pytest.approx(
        Interval(80, max(6.0, 80 - 12.7062 * math.sqrt(160)), 80 + 12.7062 * math.sqrt(160)), rel=1e-5
    )
    assert survey.images == pytest.approx(Interval(60, 30, 60 + 12.7062 * math.sqrt(16 / 2 * 0.5 * 50)), rel=1e-5)


def test_what_was_looked_at_as_a_whole_is_exact():
    whole = Survey(2, 7, [Unit(3, 2, [1.0, 0.0]), Unit(4, 1, [1.0])])
    assert whole.is_whole
    assert whole.total(same) == (2, 2, 2)
    assert whole.images == (3, 3, 3)
    assert whole.share(same) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert whole.count(same) == (2, 2, 2)
    assert whole.ratio(same, lambda value: 2.0) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert not dataclasses.replace(whole, units=3).is_whole
    assert not Survey(1, 3, [Unit(3, 2, [1.0])]).is_whole


def test_what_is_measured_is_never_exact():
    total = files((1, 5), (1, 7), units=2, size=2).total(same, finite=False)
    assert total.mean == 12
    assert total.high == pytest.approx(12 + 12.7062 * math.sqrt(4 / 2 * 2), rel=1e-5)


def test_images_without_a_value_are_as_if_not_drawn():
    survey = files((10, 4), (10, -1), units=2, size=20)
    total = survey.total(lambda value: None if value < 0 else value)
    assert (total.mean, total.high) == (8, math.inf), "one file of two says nothing of how they differ"
    assert survey.share(lambda value: None if value < 0 else 1.0).mean == 1
    assert survey.total(lambda value: None) is None
    assert survey.share(lambda value: None) is None
    assert survey.count(lambda value: None) == (0, 0, 2)
    assert survey.ratio(same, lambda value: 0.0) is None


def test_a_share_of_a_sample():
    survey = files(*[(1, 1)] * 3, *[(1, 0)] * 7, units=20, size=20)
    # s^2 = 0.3 * 0.7 * 10/9; variance of the share 1/2 * s^2 / 10, so 18 images of a sample with replacement.
    assert survey.share(same) == pytest.approx((0.3, *wilson(0.3, 18, 1.959964)), rel=1e-5)
    assert 20 * survey.share(same).low < 3
    assert survey.count(same) == (6, 3, math.ceil(20 * survey.share(same).high)), "3 were seen"
    none = files(*[(1, 0)] * 10, units=20, size=20)
    assert none.share(same) == pytest.approx((0, *wilson(0, 20, 1.959964)), rel=1e-5)
    assert none.count(same) == (0, 0, math.ceil(20 * none.share(same).high))


def test_a_count_leaves_room_for_what_was_seen_otherwise():
    survey = files(*[(1, 1)] * 3, *[(1, 0)] * 7, units=11, size=11)
    assert survey.count(same) == (pytest.approx(3.3), 3, 4)


def test_empty_files_and_empty_shards():
    assert files((0, 1), (0, 2), units=4, size=0).total(same).mean == 6
    empty = Survey(3, 300, [Unit(100, 0, []), Unit(100, 4, [2.0, 2.0])])
    assert empty.total(same).mean == 12
    assert Survey(1, 0, [Unit(0, 0, [])]).total(same) == (0, 0, 0)


SHARDS = 60


def corpus(random: np.random.Generator) -> list[tuple[float, np.ndarray]]:
    """Shards of unlike images: their sizes, and two numbers of each image."""
    found = []
    for _ in range(SHARDS):
        images = random.integers(5, 30)
        size = random.lognormal(3, 0.5, images) * random.lognormal(0, 0.2)
        smaller = size * random.uniform(0.1, 0.4, images)
        found.append((size.sum() * random.uniform(0.97, 1.03), np.column_stack([size, smaller])))
    return found


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(1)
    shards = corpus(random)
    everything = np.vstack([images for _, images in shards])
    truth = {
        "total": everything[:, 1].sum(),
        "images": len(everything),
        "ratio": everything[:, 1].sum() / everything[:, 0].sum(),
        "share": (everything[:, 1] > 5).mean(),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(300):
        units = []
        for index in random.choice(SHARDS, 15, replace=False):
            size, images = shards[index]
            drawn = random.choice(len(images), 4, replace=False)
            units.append(Unit(size, len(images), [tuple(images[each]) for each in drawn]))
        survey = Survey(SHARDS, sum(size for size, _ in shards), units)
        found = {
            "total": survey.total(lambda image: image[1]),
            "images": survey.images,
            "ratio": survey.ratio(lambda image: image[1], lambda image: image[0]),
            "share": survey.share(lambda image: float(image[1] > 5)),
        }
        for name, interval in found.items():
            held[name] += interval.low <= truth[name] <= interval.high
    assert {name: 0.90 <= count / 300 <= 0.99 for name, count in held.items()} == dict.fromkeys(truth, True), held
