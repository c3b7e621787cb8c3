"""How the default agent decides, and how boldly it may.

For an image x, an action a with predicted chance of agreement p_a(x) and predicted bytes s_a(x) is worth

    p_a(x) - price * s_a(x)

and the best one is taken; leaving the original alone is worth 1 - price * its bytes. That is AdaCompress's reward with
an exchange rate for bytes in the place of a fixed one: among all ways to reach a mean agreement it takes the fewest
bytes, if p and s are right. (A threshold on each image's own p_a, the other way to reach a target, needs more: it pays
for certainty alike on images of 5 kB and of 50.) Which price keeps a promise of agreement is not left to p and s; it is
calibrated, see `calibration`.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.policy.agreement import AgreementModel, Array
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.outcomes import Outcomes

ORIGINAL_ACTION = -1
MOST_CAUTIOUS = 0.0  # a byte costs nothing: whatever agrees most


class Chosen(NamedTuple):
    """Of some images."""

    action: NDArray[np.intp]  # index, or ORIGINAL_ACTION
    expected: Array  # predicted chance of agreement


def prices(outcomes: Outcomes, count: int = 60) -> tuple[float, ...]:
    """Settings worth calibrating, from the most cautious one: a byte for nothing, then in equal ratios.

    The dearest price makes a typical original cost as much as ten disagreements; the cheapest one a thousandth of it.
    """
    typical = float(np.median(outcomes.bytes_in))
    return (MOST_CAUTIOUS, *(float(each) for each in np.geomspace(1e-3, 10, count - 1) / typical))


def choose(model: AgreementModel, features: Array, bytes_in: NDArray[np.float64], price: Optional[float]) -> Chosen:
    """Decides.

    Args:
      model: what the agent knows.
      features: `(images, features)`.
      bytes_in: of the originals, `(images,)`.
      price: of a byte, in disagreements; None to leave everything as it is.
    """
    images = len(features)
    assert bytes_in.shape == (images,), (bytes_in.shape, images)
    if price is None:
        return Chosen(np.full(images, ORIGINAL_ACTION, np.intp), np.ones(images, np.float32))
    predicted = model.predict(features)
    worth = predicted.agreement - price * predicted.size
    best = np.argmax(worth, axis=1)
    each = np.arange(images)
    kept = worth[each, best] < 1 - price * bytes_in
    action = np.where(kept, ORIGINAL_ACTION, best)
    expected = np.where(kept, np.float32(1), predicted.agreement[each, best])
    return Chosen(action, expected)


def agreed(outcomes: Outcomes, action: NDArray[np.intp]) -> NDArray[np.float64]:
    """Whether the backends agreed with what was chosen, `(images,)`; an original always agrees with itself."""
    taken: NDArray[np.float64] = outcomes.agreement[np.arange(len(action)), np.maximum(action, 0)]
    return np.where(action == ORIGINAL_ACTION, 1.0, taken)


def sizes(outcomes: Outcomes, action: NDArray[np.intp]) -> NDArray[np.float64]:
    """Bytes of what was chosen, `(images,)`."""
    taken: NDArray[np.float64] = outcomes.sizes[np.arange(len(action)), np.maximum(action, 0)]
    return np.where(action == ORIGINAL_ACTION, outcomes.bytes_in, np.minimum(taken, outcomes.bytes_in))


def calibration(model: AgreementModel, outcomes: Outcomes, settings: tuple[float, ...]) -> Calibration:
    """What each setting comes to on images that training never saw."""
    seen = outcomes.features.astype(np.float32)
    counts = []
    for price in settings:
        action = choose(model, seen, outcomes.bytes_in, price).action
        counts.append(int(len(action) - agreed(outcomes, action).sum()))
    return Calibration(len(outcomes.keys), tuple(counts))
