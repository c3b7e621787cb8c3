"""Training the default agent, in Keras, from logged outcomes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Optional

import numpy as np

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.agreement import AgreementModel, Array, standardised
from beam_adacompress.policy.outcomes import Logged


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    Args:
      hidden: units.
      members: of the ensemble.
      dropout: share of the hidden units.
      decay: of the weights, as AdamW has it.
      rate: of learning.
      batch: images.
      epochs: at most.
      patience: epochs without a better validation loss before it ends.
      smallest_propensity: rows that were likelier to be logged count less, by 1 / propensity; not more than this.
      seed: of weights and batches.
      logs: folder for TensorBoard, with a folder for each member; None for none.
    """

    hidden: int = 32
    members: int = 5
    dropout: float = 0.5
    decay: float = 0.1
    rate: float = 2e-3
    batch: int = 32
    epochs: int = 60
    patience: int = 6
    smallest_propensity: float = 0.02
    seed: int = 0
    logs: Optional[str] = None


def fit(train: Logged, validate: Logged, families: int, qualities: int, how: Training = Training()) -> AgreementModel:
    """Trains an ensemble.

    The loss of a row is the cross-entropy of its agreement, weighted by the inverse of its propensity; bytes are fitted
    by least squares. Rows may be of any actions; a full table is one row for each of its entries.

    Args:
      train: to learn from.
      validate: of other images, to know when to stop.
      families, qualities: of the action space.
      how: parameters.

    Raises:
      AdaCompressError: Keras is not installed, or there is nothing to learn from.
    """
    try:
        import keras
    except ImportError as error:
        raise AdaCompressError("training needs keras: pip install 'beam-adacompress[train]'") from error
    if not len(train.action) or not len(validate.action):
        raise AdaCompressError("there are no outcomes to learn from, or none to validate with")
    mean = train.features.mean(axis=0).astype(np.float32)
    scale = np.maximum(train.features.std(axis=0), 1e-3).astype(np.float32)
    train, validate = (
        rows._replace(features=standardised(rows.features.astype(np.float32), mean, scale).astype(np.float64))
        for rows in (train, validate)
    )
    seeds = range(how.seed, how.seed + how.members)
    base, steps = _start(train, families, qualities)
    learned_from, held_out = (_grouped(rows, families * qualities, how) for rows in (train, validate))
    members = [_member(keras, learned_from, held_out, base, steps, how, seed) for seed in seeds]
    w_size, b_size = _sizes(train, families, qualities)
    arrays = {name: np.stack([member[name] for member in members]) for name in members[0]}
    return AgreementModel(mean=mean, scale=scale, w_size=w_size, b_size=b_size, **arrays)


class _Grouped(NamedTuple):
    """Outcomes by image: rows that were logged of one image are learned from together, in one pass."""

    features: Array  # `(images, features)`
    targets: Array  # weights that agree, and all weights, of each action, `(images, 2 * actions)`; 0 where not known


def _grouped(rows: Logged, actions: int, how: Training) -> _Grouped:
    """Puts the rows of equal features together; rows that were likelier to be logged weigh less."""
    seen, image = np.unique(rows.features.astype(np.float32), axis=0, return_inverse=True)
    weights = 1 / np.maximum(rows.propensity, how.smallest_propensity)
    targets = np.zeros((2, len(seen), actions))
    for target, values in zip(targets, (weights * rows.agreement, weights)):
        np.add.at(target, (image.reshape(-1), rows.action), values)
    targets /= targets[1].sum(axis=1).mean()
    return _Grouped(seen, np.hstack(list(targets)).astype(np.float32))


def _member(
    keras: Any, train: _Grouped, validate: _Grouped, base: Array, steps: Array, how: Training, seed: int
) -> dict[str, Array]:
    """One network, from a base and steps on: it predicts all actions, but learns only of those that were taken."""
    keras.utils.set_random_seed(seed)
    ops = keras.ops
    families, actions = base.size, steps.size
    hidden = keras.layers.Dense(how.hidden, activation=lambda value: keras.activations.gelu(value, approximate=True))
    ease = keras.layers.Dense(families, kernel_initializer="zeros", use_bias=False)
    monotone = _steps_layer(keras, base, steps)
    x = keras.Input((train.features.shape[1],), name="features")
    model = keras.Model(x, monotone(ease(keras.layers.Dropout(how.dropout, seed=seed)(hidden(x)))))

    def cross_entropy(targets: Any, logits: Any) -> Any:
        agreeing, weights = targets[:, :actions], targets[:, actions:]
        return ops.sum(weights * ops.softplus(logits) - agreeing * logits, axis=-1)

    model.compile(keras.optimizers.AdamW(how.rate, weight_decay=how.decay), loss=cross_entropy)
    stop = keras.callbacks.EarlyStopping("val_loss", mode="min", patience=how.patience, restore_best_weights=True)
    model.fit(
        train.features,
        train.targets,
        validation_data=tuple(validate),
        batch_size=how.batch,
        epochs=how.epochs,
        callbacks=[stop, *_curves(keras, how, seed - how.seed)],
        verbose=0,
    )
    return {
        "w1": np.asarray(hidden.kernel),
        "b1": np.asarray(hidden.bias),
        "w_ease": np.asarray(ease.kernel),
        "base": np.asarray(monotone.base),
        "steps": np.asarray(monotone.steps),
    }


def _curves(keras: Any, how: Training, member: int) -> list[Any]:
    """What writes a member's loss for TensorBoard, if anything is to."""
    if how.logs is None:
        return []
    try:
        return [keras.callbacks.TensorBoard(f"{how.logs.rstrip('/')}/member-{member}", write_graph=False)]
    except ImportError as error:
        raise AdaCompressError("logs for TensorBoard need tensorflow: pip install 'beam-adacompress[train]'") from error


def _sizes(train: Logged, families: int, qualities: int, ridge: float = 1.0) -> tuple[Array, Array]:
    """Least squares for log2 bytes: each action has its own constant, each family its own slopes.

    Slopes change with the quality in a straight line; `ridge` draws them to zero.
    """
    log_size = np.log2(train.size)
    count = np.bincount(train.action, minlength=families * qualities)
    constant = np.bincount(train.action, log_size, minlength=families * qualities) / np.maximum(count, 1)
    constant[count == 0] = log_size.mean()
    place = np.linspace(-1, 1, qualities) if qualities > 1 else np.zeros(1)
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


def _start(train: Logged, families: int, qualities: int) -> tuple[Array, Array]:
    """Base and steps that fit the mean agreement of each action: what is left to learn are the images."""
    actions = families * qualities
    count = np.bincount(train.action, minlength=actions) + 1.0
    share = (np.bincount(train.action, train.agreement, minlength=actions) + 0.5) / count
    logits = np.log(share / (1 - share)).reshape(families, qualities)
    rising = np.maximum(np.diff(np.maximum.accumulate(logits, axis=1), axis=1), 0.05)
    first = np.full((families, 1), np.log(np.expm1(1.0)))  # softplus of it is 1
    steps = np.concatenate([first, np.log(np.expm1(rising))], axis=1)
    return (logits[:, 0] - 1).astype(np.float32), steps.astype(np.float32)


def _steps_layer(keras: Any, base: Array, steps: Array) -> Any:
    """A layer that makes of the ease of each family, `(images, families)`, the logits of all actions."""

    class Monotone(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.base = self.add_weight(shape=base.shape, initializer=keras.initializers.Constant(base), name="base")
            self.steps = self.add_weight(
                shape=steps.shape, initializer=keras.initializers.Constant(steps), name="steps"
            )

        def call(self, ease: Any) -> Any:
            ops = keras.ops
            rising = ops.cumsum(ops.softplus(self.steps), axis=1)
            return ops.reshape((ease + self.base)[..., None] + rising, (-1, base.size * steps.shape[1]))

    return Monotone()
