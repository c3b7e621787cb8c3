"""Verified choice over all families: which action to ask a backend about next, by what it said of other images.

The images that a policy was trained on, each with the backend's answer to every action, are remembered. They stand for
what an image can be like: every one of them counts as much as its answers are typical, and as much as they agree with
what the backend said of this image so far, and together they say how likely each other action is to agree. (How
typical: by the product over actions of how often that answer was given. Rows with odd answers here and there would
otherwise make everything seem possible, and each call tell little.) The action with the largest expected saving,

    P(agrees | answers so far) * (bytes of the cheapest one that agreed - its bytes),

is asked about, until no expected saving is worth a call. An answer that does not match takes all but `NOISE` of the
weight: backends are not quite consistent. (Expected improvement as in Bayesian optimisation, Jones et al. 1998, with
an empirical prior over whole rows of answers.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Bytes = NDArray[np.float64]

MOST = 4000  # remembered images
NOISE = 0.05  # of an answer
# Expected savings below this share of the bytes so far are not worth a call. Within one family a call saves more, and
# the last one is left out; over several there are many small savings left.
WORTH_WITHIN_ONE, WORTH = 0.17, 0.025


def worth(families: int) -> float:
    """The share of the bytes so far below which an expected saving is not worth a call, for so many families."""
    return WORTH if families > 1 else WORTH_WITHIN_ONE


class Answer(NamedTuple):
    """What asking about an action came to."""

    agrees: Optional[bool]  # None where the result would not be smaller than the original, so that nobody was asked
    size: float  # bytes, as they really are


class Found(NamedTuple):
    """What a search came to."""

    action: Optional[int]  # the cheapest action that really agrees; None where none was found
    asked: int  # actions that were asked about


class Recollection:
    """What backends said of images under every action.

    Args:
      answers: 0 or 1, `(images, actions)`.

    Attributes:
      typical: how much each image counts before anything is asked, the most typical one 1, `(images,)`.
    """

    def __init__(self, answers: NDArray[np.bool_]) -> None:
        assert answers.ndim == 2, answers.shape
        self.answers = answers.astype(np.bool_)
        self._likely = np.where(self.answers, np.float32(1 - NOISE), np.float32(NOISE))
        share = self._likely.mean(axis=0, dtype=np.float64)
        log_typical = np.where(self.answers, np.log(share), np.log(1 - share)).sum(axis=1)
        self.typical: Array = np.exp(log_typical - log_typical.max()).astype(np.float32)

    def __len__(self) -> int:
        return len(self.answers)

    def chances(self, weights: Array) -> Array:
        """How likely each action is to agree, `(actions,)`, where each image has a weight, `(images,)`."""
        found: Array = np.asarray(weights @ self._likely / weights.sum(), np.float32)
        return found

    def told(self, weights: Array, action: int, agrees: bool) -> Array:
        """The weights after an answer."""
        likely = self._likely[:, action]
        changed = weights * (likely if agrees else 1 - likely)
        return np.asarray(changed / changed.max(), np.float32)


def cheapest(
    recollection: Recollection,
    predicted: Bytes,
    original: float,
    ask: Callable[[int], Answer],
    most: int,
    least_saving: float = WORTH,
    files: Optional[NDArray[np.intp]] = None,
) -> Found:
    """Searches the cheapest action that agrees.

    Args:
      recollection: of other images, not empty.
      predicted: bytes of each action, `(actions,)`; those not asked about yet are corrected by how far off the
        predictions of the others were, in the geometric mean.
      original: bytes of the image as it is.
      ask: asks the backend about an action.
      most: actions that are asked about at most, as long as one has agreed; before that, all are tried.
      least_saving: expected savings below this share of the bytes so far are not worth a call.
      files: a number for each action, the same for those that come to the same file: one of them is asked about,
        `(actions,)`; None where all are different.
    """
    assert predicted.shape == recollection.answers.shape[1:], (predicted.shape, recollection.answers.shape)
    weights = recollection.typical
    left = np.ones(len(predicted), np.bool_)
    best: Optional[int] = None
    least, asked, off = original, 0, list[float]()
    while best is None or asked < most:
        sizes = predicted * math.exp(math.fsum(off) / max(1, len(off)))
        expected = np.where(left & (sizes < least), recollection.chances(weights) * (least - sizes), -math.inf)
        action = int(np.argmax(expected))
        if expected[action] <= (0 if best is None else least_saving * least):
            break
        left[action if files is None else files == files[action]] = False
        answer = ask(action)
        off.append(math.log(answer.size / predicted[action]))
        if answer.agrees is None:
            continue
        asked += 1
        if answer.agrees and answer.size < least:
            best, least = action, answer.size
        weights = recollection.told(weights, action, answer.agrees)
    return Found(best, asked)
