"""Fitting the bytes of every action to what was seen of them, by least squares; see `fit_agreement`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.policy.agreement import AgreementModel, Array
from beam_adacompress.policy.outcomes import Logged


def sizes(
    train: Logged, families: int, qualities: int, ridge: float = 1.0, own_ridge: float = 30.0
) -> tuple[Array, Array]:
    """Least squares for log2 bytes: each action has its own constant, each family its own slopes.

    Slopes change with the quality in a parabola, which `ridge` draws to zero, so that actions that were seldom seen
    learn from their neighbours. To what is left over each action adds slopes of its own, which `own_ridge` draws to
    zero: where files keep the steps of their images, bytes do not change smoothly with quality.
    """
    log_size = np.log2(train.size)
    count = np.bincount(train.action, minlength=families * qualities)
    constant = np.bincount(train.action, log_size, minlength=families * qualities) / np.maximum(count, 1)
    constant[count == 0] = log_size.mean()
    rest = log_size - constant[train.action]
    shapes, weights = _shapes(qualities), []
    for family in range(families):
        rows = train.action // qualities == family
        columns = _shaped(train.features[rows].astype(np.float64), shapes, train.action[rows] % qualities)
        slopes = _ridge(columns.T, columns, rest[rows], ridge)
        weights.append(slopes.reshape(len(shapes), -1).T @ shapes)
    found = np.hstack(weights)
    for action in range(families * qualities):
        rows = train.action == action
        x = train.features[rows].astype(np.float64)
        found[:, action] += _ridge(x.T, x, rest[rows] - x @ found[:, action], own_ridge)
    return found.astype(np.float32), constant.astype(np.float32)


def resized(start: AgreementModel, scaled: Logged, importance: NDArray[np.float64], hold: float) -> tuple[Array, Array]:
    """Slopes and constants for log2 bytes, moved to what was seen: all sizes alike, then those of each family.

    As in `sizes`, slopes change with the quality in a parabola, but no action has slopes of its own: rows are few.
    `hold` is the ridge of all moves but the first.
    """
    families, qualities = start.steps.shape[1:]
    predicted = scaled.features @ start.w_size + start.b_size
    rest = np.log2(scaled.size) - predicted[np.arange(len(predicted)), scaled.action]
    alike = float(np.average(rest, weights=importance))
    family, quality = np.divmod(scaled.action, qualities)
    shapes = _shapes(qualities)
    constants, slopes = [], []
    for index in range(families):
        rows = family == index
        columns = np.hstack([np.eye(qualities)[quality[rows]], _shaped(scaled.features[rows], shapes, quality[rows])])
        moves = _ridge(columns.T * importance[rows], columns, rest[rows] - alike, hold)
        constants.append(moves[:qualities])
        slopes.append(moves[qualities:].reshape(len(shapes), -1).T @ shapes)
    w_size = start.w_size + np.hstack(slopes)
    return w_size.astype(np.float32), (start.b_size + alike + np.hstack(constants)).astype(np.float32)


def _ridge(
    weighted: NDArray[np.float64], columns: NDArray[np.float64], wanted: NDArray[np.float64], ridge: float
) -> NDArray[np.float64]:
    """Least squares, drawn to zero; `weighted` is columns.T, times the weights of the rows if they have any."""
    gram = weighted @ columns + ridge * np.eye(columns.shape[1])
    return np.asarray(np.linalg.solve(gram, weighted @ wanted), np.float64)


def _shapes(qualities: int) -> NDArray[np.float64]:
    """How a slope may change with the quality, constant, in a line and in a parabola, `(3, qualities)`."""
    place = np.linspace(-1, 1, qualities) if qualities > 1 else np.zeros(1)
    return np.stack([np.ones(qualities), place, place**2])


def _shaped(x: NDArray[np.float64], shapes: NDArray[np.float64], quality: NDArray[np.intp]) -> NDArray[np.float64]:
    """Features times each shape at the qualities of the rows, `(rows, shapes * features)`."""
    return np.hstack([x * shape[quality][:, None] for shape in shapes])
