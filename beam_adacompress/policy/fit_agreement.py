"""Training the default agent, in Keras, from logged outcomes: anew with `fit`, or on from what it knows with `tune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.event_log import EventLog
from beam_adacompress.policy.agreement import AgreementModel, Array, of_arrays, standardised
from beam_adacompress.policy.fit_bytes import resized, sizes
from beam_adacompress.policy.outcomes import Logged

_EXTRA = "pip install 'beam-adacompress[train]'"
_FARTHEST = 20.0  # that logits move


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


class Epoch(NamedTuple):
    """How far one network of the ensemble is."""

    member: int
    epoch: int  # from 1
    loss: float
    validation_loss: float
    model: AgreementModel  # of that network alone


Report = Callable[[Epoch], None]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How to go on from a model with few outcomes.

    Args:
      decay: how strongly the networks are held to where they start: a weight that moves by 1 costs as much as this many
        rows with half a unit of loss each.
      hold: the same for bytes, by least squares.
      rate: of learning, Adam.
      steps: each with all rows.
      smallest_propensity: rows that were likelier to be logged count less, by 1 / propensity; not more than this. It is
        larger than in training from nothing, since a few rows must not outweigh all others.
      logs: folder for TensorBoard; None for none.
    """

    decay: float = 200.0
    hold: float = 100.0
    rate: float = 1e-2
    steps: int = 200
    smallest_propensity: float = 0.2
    logs: Optional[str] = None


def fit(
    train: Logged,
    validate: Logged,
    families: int,
    qualities: int,
    how: Training = Training(),
    report: Optional[Report] = None,
) -> AgreementModel:
    """Trains an ensemble.

    The loss of a row is the cross-entropy of its agreement, weighted by the inverse of its propensity; bytes are fitted
    by least squares. Rows may be of any actions; a full table is one row for each of its entries.

    Args:
      train: to learn from.
      validate: of other images, to know when to stop.
      families, qualities: of the action space.
      how: parameters.
      report: is told how far it is, after every epoch.

    Raises:
      AdaCompressError: Keras is not installed, or there is nothing to learn from.
    """
    keras = _keras()
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
    learned_from, held_out = (
        _grouped(rows, _weights(rows, how.smallest_propensity), families * qualities) for rows in (train, validate)
    )
    w_size, b_size = sizes(train, families, qualities)

    def joined(members: Sequence[dict[str, Array]]) -> AgreementModel:
        arrays = {name: np.stack([member[name] for member in members]) for name in members[0]}
        return AgreementModel(mean=mean, scale=scale, w_size=w_size, b_size=b_size, **arrays)

    members: list[dict[str, Array]] = []
    for seed in seeds:

        def told(epoch: int, losses: Mapping[str, float], found: dict[str, Array]) -> None:
            if report is not None:
                report(Epoch(len(members), epoch, losses["loss"], losses["val_loss"], joined([found])))

        members.append(_member(keras, learned_from, held_out, base, steps, how, seed, told))
    return joined(members)


def tune(
    start: AgreementModel, train: Logged, how: Tuning = Tuning(), importance: Optional[NDArray[np.float64]] = None
) -> AgreementModel:
    """Goes on from a model that was trained elsewhere, with what few outcomes there are of the scenery as it is now.

    What a few hundred rows show best is how much likelier agreement is on the whole, so first all logits move by one
    shift b, up to where the weighted rows agree as often as is predicted,

        sum(w (agreement - p(b))) = b

    (b on the right is a standard normal prior: rows that all agree do not prove that all will). From there the weights
    of all networks move together by as little as the rows make worthwhile, L2-SP of Li et al. (arXiv 1802.01483):

        sum(w cross-entropy) + decay / 2 * |weights - where they started|^2

    which is solved with all rows at every step, so it needs no images to know when to stop. Bytes move in the same way,
    by ridge regression of what is left over. How features are standardised stays as it is.

    Args:
      start: to go on from.
      train: to learn from.
      how: parameters.
      importance: of the rows, beside that of their propensities, `(rows,)`; None for all alike.

    Raises:
      AdaCompressError: Keras is not installed, or there is nothing to learn from.
    """
    keras = _keras()
    if not len(train.action):
        raise AdaCompressError("there are no outcomes to learn from")
    weights = _weights(train, how.smallest_propensity)
    importance = np.ones(len(weights)) if importance is None else importance
    weights *= importance / weights.mean()
    seen = standardised(train.features.astype(np.float32), start.mean, start.scale).astype(np.float64)
    scaled = train._replace(features=seen)
    moved = _moved(keras, _shifted(start, train, weights), scaled, weights, how)
    w_size, b_size = resized(start, scaled, importance, how.hold)
    return of_arrays(start.arrays() | moved | {"w_size": w_size, "b_size": b_size})


class _Grouped(NamedTuple):
    """Outcomes by image: rows that were logged of one image are learned from together, in one pass."""

    features: Array  # `(images, features)`
    targets: Array  # weights that agree, and all weights, of each action, `(images, 2 * actions)`; 0 where not known


def _weights(rows: Logged, smallest_propensity: float) -> NDArray[np.float64]:
    """Rows that were likelier to be logged weigh less."""
    return 1 / np.maximum(rows.propensity, smallest_propensity)


def _grouped(rows: Logged, weights: NDArray[np.float64], actions: int) -> _Grouped:
    """Puts the rows of equal features together, by their weights, `(rows,)`; those of an image are 1 on average."""
    seen, image = np.unique(rows.features.astype(np.float32), axis=0, return_inverse=True)
    targets = np.zeros((2, len(seen), actions))
    for target, values in zip(targets, (weights * rows.agreement, weights)):
        np.add.at(target, (image.reshape(-1), rows.action), values)
    targets /= targets[1].sum(axis=1).mean()
    return _Grouped(seen, np.hstack(list(targets)).astype(np.float32))


def _member(
    keras: Any,
    train: _Grouped,
    validate: _Grouped,
    base: Array,
    steps: Array,
    how: Training,
    seed: int,
    told: Callable[[int, Mapping[str, float], dict[str, Array]], None],
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

    def found() -> dict[str, Array]:
        return {
            "w1": np.asarray(hidden.kernel),
            "b1": np.asarray(hidden.bias),
            "w_ease": np.asarray(ease.kernel),
            "base": np.asarray(monotone.base),
            "steps": np.asarray(monotone.steps),
        }

    model.compile(keras.optimizers.AdamW(how.rate, weight_decay=how.decay), loss=cross_entropy)
    stop = keras.callbacks.EarlyStopping("val_loss", mode="min", patience=how.patience, restore_best_weights=True)
    tell = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, losses: told(epoch + 1, losses, found()))
    model.fit(
        train.features,
        train.targets,
        validation_data=tuple(validate),
        batch_size=how.batch,
        epochs=how.epochs,
        callbacks=[tell, stop],
        verbose=0,
    )
    return found()


def _shifted(start: AgreementModel, train: Logged, weights: NDArray[np.float64]) -> AgreementModel:
    """The model with all logits moved by what the rows show on the whole; by bisection, as agreement rises with b."""
    rows, features = np.arange(len(weights)), train.features.astype(np.float32)

    def moved(shift: float) -> AgreementModel:
        return dataclasses.replace(start, base=start.base + np.float32(shift))

    low, high = -_FARTHEST, _FARTHEST
    for _ in range(30):
        shift = (low + high) / 2
        predicted = moved(shift).predict(features).agreement[rows, train.action]
        if weights @ (train.agreement - predicted) > shift:
            low = shift
        else:
            high = shift
    return moved(low)


def _moved(
    keras: Any, start: AgreementModel, scaled: Logged, weights: NDArray[np.float64], how: Tuning
) -> dict[str, Array]:
    """The arrays of all networks, moved to fit the rows; one step moves all members, which are apart in the loss."""
    ops = keras.ops
    seen, targets = _grouped(scaled, weights, start.actions)
    ensemble = _ensemble_layer(keras, start, how.decay / float(weights.sum()))
    x = keras.Input((start.features,))
    model = keras.Model(x, ensemble(x))

    def cross_entropy(targets: Any, logits: Any) -> Any:
        agreeing, weight = targets[:, None, : start.actions], targets[:, None, start.actions :]
        return ops.sum(weight * ops.softplus(logits) - agreeing * logits, axis=(1, 2))

    # Without XLA: compiling takes longer than all steps of so small a network. (And `fit` longer than its steps.)
    model.compile(keras.optimizers.Adam(how.rate), loss=cross_entropy, jit_compile=False)
    with EventLog(None if how.logs is None else f"{how.logs.rstrip('/')}/tuned") as log:
        for step in range(how.steps):
            log.scalars(step + 1, loss=float(model.train_on_batch(seen, targets)))
    return {name: getattr(start, name) + np.asarray(move) for name, move in ensemble.moves.items()}


def _ensemble_layer(keras: Any, start: AgreementModel, decay: float) -> Any:
    """A layer that makes of features the logits of all members, `(images, members, actions)`; it learns the moves."""
    ops = keras.ops

    class Ensemble(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            held = keras.regularizers.L2(decay / 2)
            self.moves = {
                name: self.add_weight(
                    shape=getattr(start, name).shape, initializer="zeros", regularizer=held, name=name
                )
                for name in ("w1", "b1", "w_ease", "base", "steps")
            }

        def call(self, x: Any) -> Any:
            w1, b1, w_ease, base, steps = (ops.add(getattr(start, name), move) for name, move in self.moves.items())
            hidden = keras.activations.gelu(ops.einsum("if,mfh->imh", x, w1) + b1, approximate=True)
            ease = ops.einsum("imh,mhk->imk", hidden, w_ease) + base
            rising = ops.cumsum(ops.softplus(steps), axis=2)
            return ops.reshape(ease[..., None] + rising, (-1, len(start.base), start.actions))

    return Ensemble()


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise AdaCompressError(f"training needs keras: {_EXTRA}") from error
    return keras


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
