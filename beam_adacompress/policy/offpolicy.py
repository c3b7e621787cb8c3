"""What a policy would have come to, from what was logged while another one acted: off-policy evaluation.

Of an image x that was logged, the action a was taken with the propensity p. Another policy, the target, takes actions
with probabilities t(. | x); what a row says of it weighs

    w = t(a | x) / p,    not more than `most`

The self-normalised estimate (Swaminathan and Joachims, NIPS 2015) of the mean outcome is

    sum(w r) / sum(w)

and the doubly robust one (Dudik et al., arXiv 1103.4601), with a model q of outcomes that has not seen these rows,

    mean of  sum over b of t(b | x) q(x, b) + w (r - q(x, a))

which is right on average if either the propensities or the model are, and `most` bounds how far one row counts. Leaving
an image as it is has an outcome that is known without trying; it needs neither weights nor a model. All means are over
the images that the rows stand for, as in `estimates.WeightedSums`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from statistics import NormalDist
from typing import NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.estimates import Z95, Interval, wilson

Floats = NDArray[np.float64]

MOST = 5.0  # that one row weighs: where propensities are a few per cent, less variance is worth some bias


class Taken(NamedTuple):
    """Actions as they were logged, `(rows,)` each."""

    action: NDArray[np.intp]  # index; the number of actions where the image was left as it is
    propensity: Floats  # with which it was taken, (0, 1]
    stands_for: Floats  # images: 1 / probability of being logged


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over rows, and what is needed for its intervals; differences of estimates are estimates.

    Args:
      values: whose weighted mean it is, `(rows,)`; single ones may lie outside of what outcomes can be.
      noise: standard deviation of each value that a model expects, whatever came of it, `(rows,)`.
      stands_for: images, of each row.
      rows: how many rows, all alike and all of the target's decisions, would say as much.
      support: share of the target's decisions that could have been logged, 0..1; the rest is what a model says.
    """

    values: Floats
    noise: Floats
    stands_for: Floats
    rows: float
    support: float = 1.0

    def __post_init__(self) -> None:
        shapes = self.values.shape, self.noise.shape, self.stands_for.shape
        assert len(set(shapes)) == 1, shapes
        assert len(self.values), "there are no rows to estimate from"

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two estimates from the same rows, paired row by row."""
        assert np.array_equal(self.stands_for, other.stands_for), "a difference is of the same rows"
        rows, support = min(self.rows, other.rows), min(self.support, other.support)
        return Estimate(self.values - other.values, self.noise - other.noise, self.stands_for, rows, support)

    @functools.cached_property
    def mean(self) -> float:
        return float(self.stands_for @ self.values / self.stands_for.sum())

    @functools.cached_property
    def variance(self) -> float:
        """Of the mean: as the values show it, linearised for the ratio of sums, or as `noise` says, if that is more.

        (Where agreement is high and rows are few, values vary only if something happened to disagree; by them alone
        intervals hold too seldom.) It is that of only the supported rows; infinite where there are none, or but one.
        """
        rows = len(self.values)
        if rows < 2 or not self.support:
            return math.inf
        seen = float(np.square(self.stands_for * (self.values - self.mean)).sum()) * rows / (rows - 1)
        expected = float(np.square(self.stands_for * self.noise).sum())
        return max(seen, expected) / float(self.stands_for.sum()) ** 2 / self.support

    @functools.cached_property
    def effective(self) -> float:
        """Effective sample size of a share: `rows`, and no more than a plain share with this variance would have,

            m (1 - m) / variance

        where m is the mean, drawn to one half by two rows of each kind (Agresti and Coull, 1998): by itself a share of
        exactly 1 has no variance, and one close to it hardly any.
        """
        if not self.variance:
            return self.rows
        mean = (self._share * self.rows + 2) / (self.rows + 4)
        return min(self.rows, mean * (1 - mean) / self.variance)

    @property
    def _share(self) -> float:
        return min(1.0, max(0.0, self.mean))

    def interval(self) -> Interval:
        """For outcomes of any kind: the mean plus and minus 1.96 standard errors."""
        half = Z95 * math.sqrt(self.variance)
        return Interval(self.mean, self.mean - half, self.mean + half)

    def share_interval(self) -> Interval:
        """For outcomes of 0 and 1: Wilson's 95 % score interval (1927) at the effective sample size.

        It has a width even where nothing disagreed, and stays within 0..1.
        """
        low, high = wilson(self._share, self.effective, Z95)
        return Interval(self._share, low, high)

    def share_bound(self, confidence: float) -> float:
        """For outcomes of 0 and 1: what the mean is at least, with a confidence; one-sided, 0..1."""
        return wilson(self._share, self.effective, NormalDist().inv_cdf(confidence))[0]


def weights(taken: Taken, target: Floats, most: float = MOST) -> Floats:
    """w of each row, `(rows,)`; 0 where the image was left as it is, which says nothing that was not known.

    Args:
      taken: what was logged.
      target: probabilities, `(rows, actions + 1)`; the last column is to leave the image as it is.
      most: that a row weighs.
    """
    rows, columns = target.shape
    assert taken.action.shape == taken.propensity.shape == (rows,), (taken.action.shape, target.shape)
    assert (taken.propensity > 0).all(), "a propensity is above 0"
    ratio = target[np.arange(rows), taken.action] / taken.propensity
    return np.where(taken.action == columns - 1, 0.0, np.minimum(ratio, most))


def self_normalised(
    taken: Taken, target: Floats, outcome: Floats, kept: Union[float, Floats], most: float = MOST
) -> Optional[Estimate]:
    """The self-normalised estimate, of images that the target leaves as they are and of the others apart.

    Args:
      taken, target, most: as for `weights`.
      outcome: of what was taken, `(rows,)`.
      kept: outcome of leaving an image as it is; of all, or `(rows,)`.

    Returns:
      None where no row has an action that the target would take, and it does take some.
    """
    weight = weights(taken, target, most)
    acting = 1 - target[:, -1]
    total, matched = (float(taken.stands_for @ each) for each in (acting, weight))
    if total and not matched:
        return None
    mean = float((taken.stands_for * weight) @ outcome) / matched if matched else 0.0
    # The last term adds up to nothing; with it, the values vary as the estimate does.
    corrected = total / matched * weight * (outcome - mean) if matched else np.zeros(len(outcome))
    rows = _kish(taken.stands_for * (target[:, -1] + weight))
    values = target[:, -1] * kept + acting * mean + corrected
    return Estimate(values, np.zeros(len(values)), taken.stands_for, rows)


def doubly_robust(
    taken: Taken,
    target: Floats,
    outcome: Floats,
    model: Floats,
    kept: Union[float, Floats],
    most: float = MOST,
    binary: bool = False,
) -> Estimate:
    """The doubly robust estimate.

    It rests on the log as far as the target's decisions could have been logged: by the mean of target / propensity,
    with images that the target leaves alone counted whole. That is near 1 where the log explored; where it never did,
    it is the share of the same decisions, and only so many rows count.

    Args:
      taken, target, most: as for `weights`.
      outcome: of what was taken, `(rows,)`.
      model: outcomes that are expected of every action, by what has not learned from these rows, `(rows, actions)`.
      kept: outcome of leaving an image as it is; of all, or `(rows,)`.
      binary: whether outcomes are 0 or 1. Then each is expected to vary by q (1 - q), times the dispersion of all
        outcomes around the model where that is above 1.
    """
    rows, actions = model.shape
    assert target.shape == (rows, actions + 1), (target.shape, model.shape)
    weight, s = weights(taken, target, most), taken.stands_for
    expected = (target[:, :-1] * model).sum(axis=1) + target[:, -1] * kept
    of_taken = model[np.arange(rows), np.minimum(taken.action, actions - 1)]
    surprise = np.where(taken.action < actions, outcome - of_taken, 0.0)
    noise = np.zeros(rows)
    if binary:
        spread = np.where(taken.action < actions, of_taken * (1 - of_taken), 0.0)
        dispersion = float(s @ np.square(surprise)) / max(float(s @ spread), 1e-9)
        noise = weight * np.sqrt(spread * max(1.0, dispersion))
    support = min(1.0, float(s @ (target[:, -1] + weights(taken, target, math.inf)) / s.sum()))
    return Estimate(expected + weight * surprise, noise, s, support * _kish(s), support)


def _kish(weight: Floats) -> float:
    """Effective sample size of weighted rows: (sum w)^2 / sum w^2."""
    return float(weight.sum() ** 2 / np.square(weight).sum())
