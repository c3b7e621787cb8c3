"""Fitting the bytes of every action to what was seen of them, by least squares; see `fit_agreement`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.policy.agreement import AgreementModel, Array
from beam_adacompress.policy.outcomes import Logged


def sizes(train: Logged, families: int, qualities: int, ridge: float = 1.0) -> tuple[Array, Array]:
    """Least squares for log2 bytes: each action has its own constant, each family its own slopes.

    Slopes change with the quality in a straight line; `ridge` draws them to zero.
    """
    log_size = np.log2(train.size)
    count = np.bincount(train.action, minlength=families * qualities)
    constant = np.bincount(train.action, log_size, minlength=families * qualities) / np.maximum(count, 1)
    constant[count == 0] = log_size.mean()
    place = _places(qualities)
    weights = []
    for family in range(families):
        rows = train.action // qualities == family
        x = train.features[rows].astype(np.float64)
        both = np.hstack([x, x * place[train.action[rows] % qualities][:, None]])
        rest = log_size[rows] - constant[train.action[rows]]
        slopes = np.linalg.solve(both.T @ both + ridge * np.eye(both.shape[1]), both.T @ rest)
        at_zero, change = np.split(slopes, 2)
        weights.append(at_zero[:, None] + change[:, None] * place)
    return np.hstack(weights).astype(np.float32), constant.astype(np.float32)


def resized(start: AgreementModel, scaled: Logged, importance: NDArray[np.float64], hold: float) -> tuple[Array, Array]:
    """Slopes and constants for log2 bytes, moved to what was seen: all sizes alike, then those of each family.

    As in `sizes`, slopes change with the quality in a straight line; `hold` is the ridge of all moves but the first.
    """
    families, qualities = start.steps.shape[1:]
    predicted = scaled.features @ start.w_size + start.b_size
    rest = np.log2(scaled.size) - predicted[np.arange(len(predicted)), scaled.action]
    alike = float(np.average(rest, weights=importance))
    family, quality = np.divmod(scaled.action, qualities)
    place = _places(qualities)
    constants, slopes = [], []
    for index in range(families):
        rows = family == index
        x, at = scaled.features[rows], quality[rows]
        columns = np.hstack([np.eye(qualities)[at], x, x * place[at][:, None]])
        weighted = columns.T * importance[rows]
        moves = np.linalg.solve(weighted @ columns + hold * np.eye(columns.shape[1]), weighted @ (rest[rows] - alike))
        own, at_zero, change = np.split(moves, [qualities, qualities + x.shape[1]])
        constants.append(own)
        slopes.append(at_zero[:, None] + change[:, None] * place)
    w_size = start.w_size + np.hstack(slopes)
    return w_size.astype(np.float32), (start.b_size + alike + np.hstack(constants)).astype(np.float32)


def _places(qualities: int) -> NDArray[np.float64]:
    """Where each quality stands between the coarsest, -1, and the finest, 1."""
    return np.linspace(-1, 1, qualities) if qualities > 1 else np.zeros(1)
