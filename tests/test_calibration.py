from __future__ import annotations

import numpy as np
import pytest

from beam_adacompress.policy.calibration import calibrate, images_needed, p_value


@pytest.mark.parametrize(
    ("disagreements", "images", "target", "expected"),
    [
        (0, 1, 0.9, 0.9),
        (0, 10, 0.5, 2**-10),
        (1, 2, 0.5, 0.75),
        (2, 2, 0.5, 1.0),
        (0, 0, 0.9, 1.0),
        (3, 100, 0.97, 0.64724921),  # scipy.stats.binom.cdf(3, 100, 0.03)
        (0, 100_000, 0.97, 0.0),
        (5, 10, 1.0, 1.0),
        (5, 10, 0.0, 1.0),
    ],
)
def test_p_value(disagreements, images, target, expected):
    assert p_value(disagreements, images, target) == pytest.approx(expected, abs=1e-6)


def test_the_boldest_setting_that_passes_is_taken():
    promise = calibrate([0, 1, 2, 9, 12, 40], images=400, target=0.97, confidence=0.9)
    # With 400 images 7 disagreements show 97 %, and 8 do not.
    assert (promise.setting, promise.agreement, promise.holds) == (2, 1 - 2 / 400, True)
    assert calibrate([0, 7], 400, 0.97, 0.9).setting == 1
    assert calibrate([0, 8], 400, 0.97, 0.9).setting == 0


def test_nothing_behind_the_first_failure_counts():
    assert calibrate([0, 30, 0, 0], 400, 0.97, 0.9).setting == 0


def test_where_nothing_can_be_shown_nothing_is_promised():
    promise = calibrate([9, 9], 400, 0.97, 0.9)
    assert (promise.setting, promise.agreement, promise.holds) == (None, None, False)
    needed = images_needed(0.97, 0.9)
    assert needed == 76
    assert calibrate([0], needed, 0.97, 0.9).holds
    assert not calibrate([0], needed - 1, 0.97, 0.9).holds


def test_the_promise_holds_as_often_as_it_says():
    # Settings with true agreement 0.995, 0.990, ...: the first five keep a promise of 0.97.
    random = np.random.default_rng(0)
    truth = 1 - 0.005 * np.arange(1, 21)
    broken = 0
    for _ in range(400):
        agreed = random.uniform(0, 1, (300, 1)) < truth  # the same images for all settings
        promise = calibrate((~agreed).sum(axis=0).tolist(), 300, 0.97, 0.9)
        broken += promise.setting is not None and truth[promise.setting] < 0.97
    assert broken <= 0.1 * 400 + 2 * np.sqrt(400 * 0.1 * 0.9)
    assert broken > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 1.0}, "agreement must be above 0 and below 1, got 1.0"),
        ({"target": 0.9, "confidence": 1.0}, "confidence must be above 0 and below 1, got 1.0"),
    ],
)
def test_what_nothing_finite_shows_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate([0], 10, **arguments)
