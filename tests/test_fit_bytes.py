from __future__ import annotations

import numpy as np
import pytest

from beam_adacompress.policy import fit_bytes
from beam_adacompress.policy.outcomes import Logged

QUALITIES = 5


def logged(slopes, seen, images=300):
    """Two features, of which the first changes log2 bytes by an action's slope; only some actions were taken."""
    features = np.random.default_rng(0).normal(size=(images, 2))
    action = np.resize(np.array(seen), images)
    size = np.exp2(10 + action + np.array(slopes)[action] * features[:, 0])
    ones = np.ones(images)
    return Logged(features, action, ones, ones, size, ones)


def test_an_action_has_slopes_of_its_own():
    # As where one of them comes to the very file that is there already, and its neighbours do not.
    slopes = [0.5, 0.5, -0.5, 0.5, 0.5]
    weights, constant = fit_bytes.sizes(logged(slopes, range(5), 3000), 1, QUALITIES)
    assert weights[0] == pytest.approx(slopes, abs=0.1)
    assert weights[1] == pytest.approx(np.zeros(5), abs=0.1)
    assert constant == pytest.approx(10 + np.arange(5), abs=0.1)


def test_an_action_that_was_not_seen_has_its_neighbours_slopes():
    place = np.linspace(-1, 1, QUALITIES)
    slopes = 0.2 + 0.3 * place + 0.4 * place**2
    weights, _ = fit_bytes.sizes(logged(slopes, [0, 1, 3, 4]), 1, QUALITIES)
    assert weights[0] == pytest.approx(slopes, abs=0.05)


def test_families_do_not_learn_from_each_other():
    slopes = [0.5] * QUALITIES + [-0.5] * QUALITIES
    weights, _ = fit_bytes.sizes(logged(slopes, range(7), 2000), 2, QUALITIES)
    assert weights[0, :QUALITIES] == pytest.approx([0.5] * 5, abs=0.05)
    assert weights[0, QUALITIES : QUALITIES + 2] == pytest.approx([-0.5] * 2, abs=0.05)
