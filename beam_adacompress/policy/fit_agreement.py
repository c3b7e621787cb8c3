"""Training the default agent, in Keras, from logged outcomes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.agreement import AgreementModel, Array
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
      batch: rows.
      epochs: at most.
      patience: epochs without a better validation loss before it ends.
      smallest_propensity: rows that were likelier to be logged count less, by 1 / propensity; not more than this.
      seed: of weights and batches.
    """

    hidden: int = 32
    members: int = 5
    dropout: float = 0.2
    decay: float = 1e-2
    rate: float = 3e-3
    batch: int = 2048
    epochs: int = 60
    patience: int = 6
    smallest_propensity: float = 0.02
    seed: int = 0


def fit(train: Logged, validate: Logged, families: int, qualities: int, how: Training = Training()) -> AgreementModel:
    """Trains an ensemble.

    The loss of a row is the cross-entropy of its agreement plus the squared error of its log2 bytes, weighted by the
    inverse of its propensity. Rows may be of any actions; a full table is one row for each of its entries.

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
    members = [
        _member(keras, train, validate, families, qualities, how, how.seed + index) for index in range(how.members)
    ]
    return AgreementModel(**{name: np.stack([member[name] for member in members]) for name in members[0]})


def _member(
    keras: Any, train: Logged, validate: Logged, families: int, qualities: int, how: Training, seed: int
) -> dict[str, Array]:
    keras.utils.set_random_seed(seed)
    mean = train.features.mean(axis=0)
    scale = np.maximum(train.features.std(axis=0), 1e-3)
    base, steps, sizes = _start(train, families, qualities)

    ops = keras.ops
    x = keras.Input((train.features.shape[1],), name="features")
    taken = keras.Input((), dtype="int32", name="action")
    scaled = ops.clip((x - mean.astype(np.float32)) / scale.astype(np.float32), -5.0, 5.0)
    layer = keras.layers.Dense(how.hidden, activation=lambda value: keras.activations.gelu(value, approximate=True))
    hidden = keras.layers.Dropout(how.dropout, seed=seed)(layer(scaled))
    ease = keras.layers.Dense(families, kernel_initializer="zeros", use_bias=False)
    size = keras.layers.Dense(
        families * qualities, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(sizes)
    )
    monotone = _steps_layer(keras, base, steps)
    one = ops.one_hot(taken, families * qualities)
    logit = ops.sum(one * monotone(ease(hidden)), axis=-1)
    outputs = {
        "agreement": keras.layers.Activation("sigmoid", name="agreement")(logit),
        "size": keras.layers.Identity(name="size")(ops.sum(one * size(hidden), axis=-1)),
    }
    model = keras.Model([x, taken], outputs)
    model.compile(
        keras.optimizers.AdamW(how.rate, weight_decay=how.decay),
        loss={"agreement": "binary_crossentropy", "size": "mse"},
        loss_weights={"agreement": 1.0, "size": 0.1},
    )

    def fed(rows: Logged) -> tuple[Any, Any, Any]:
        weights = 1 / np.maximum(rows.propensity, how.smallest_propensity)
        weights = (weights / weights.mean()).astype(np.float32)
        inputs = [rows.features.astype(np.float32), rows.action.astype(np.int32)]
        targets = {
            "agreement": rows.agreement.astype(np.float32),
            "size": np.log2(rows.size).astype(np.float32),
        }
        return inputs, targets, {"agreement": weights, "size": weights}

    stop = keras.callbacks.EarlyStopping(
        "val_agreement_loss", mode="min", patience=how.patience, restore_best_weights=True
    )
    model.fit(
        *fed(train)[:2],
        sample_weight=fed(train)[2],
        validation_data=fed(validate),
        batch_size=how.batch,
        epochs=how.epochs,
        callbacks=[stop],
        verbose=0,
    )
    return {
        "mean": mean.astype(np.float32),
        "scale": scale.astype(np.float32),
        "w1": np.asarray(layer.kernel),
        "b1": np.asarray(layer.bias),
        "w_ease": np.asarray(ease.kernel),
        "base": np.asarray(monotone.base),
        "steps": np.asarray(monotone.steps),
        "w_size": np.asarray(size.kernel),
        "b_size": np.asarray(size.bias),
    }


def _start(train: Logged, families: int, qualities: int) -> tuple[Array, Array, Array]:
    """Base, steps and log2 bytes that fit the mean outcome of each action: what is left to learn are the images."""
    actions = families * qualities
    count = np.bincount(train.action, minlength=actions) + 1.0
    share = (np.bincount(train.action, train.agreement, minlength=actions) + 0.5) / count
    logits = np.log(share / (1 - share)).reshape(families, qualities)
    rising = np.maximum(np.diff(np.maximum.accumulate(logits, axis=1), axis=1), 0.05)
    first = np.full((families, 1), np.log(np.expm1(1.0)))  # softplus of it is 1
    steps = np.concatenate([first, np.log(np.expm1(rising))], axis=1)
    overall = np.log2(train.size).mean()
    sizes = (np.bincount(train.action, np.log2(train.size), minlength=actions) + overall) / count
    return (logits[:, 0] - 1).astype(np.float32), steps.astype(np.float32), sizes.astype(np.float32)


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
