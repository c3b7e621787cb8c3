"""Training AdaCompress's agent, in Keras, by the published schedule (Li et al., arXiv 1909.08148).

    image ─▶ action (epsilon-greedy, or as logged) ─▶ reward ─▶ memory ──batch, every 5th step──▶ 5 updates
                                                       target = reward + discount * max Q(next image)

The reward is agreement - bytes / bytes at quality 75. The target is computed once, when a step is remembered, by the
network of that moment; nothing refreshes it, and there is no target network. The published discount of 0.95 treats
images as a chain, although no action has a say in which image comes next; 0 makes it the contextual bandit that it is.

What differs from the authors' code: features are standardised; epsilon stops at its floor without undercutting it once;
and an image without an answer is not skipped. (There, an empty answer for the compressed image leaves no trace in
memory and metrics, which lifts the agreement of a service that often sees nothing. Rows here always have an answer, and
an empty one is counted as a disagreement; whoever wants the published reading leaves those rows out.)

Training again, as published, goes on from the weights that there are with an empty memory, explores anew, and ends when
`dqn.Stop` says so. In the authors' code the learnings of the first training still count in the second one, so that it
hardly explores and may stop at once; here each training counts its own.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.event_log import EventLog
from beam_adacompress.policy.agreement import Array, standardised
from beam_adacompress.policy.dqn import QNetwork, Stop, epsilon_greedy, of_arrays
from beam_adacompress.policy.outcomes import Logged, Outcomes

_RECENT = 100  # steps that `Progress` and `Stop` look back
_EXTRA = "pip install 'beam-adacompress[train]'"


@dataclasses.dataclass(frozen=True)
class DQN:
    """How to train; the published constants.

    Args:
      hidden: units of the three layers.
      discount: of the next image's value, 0..1; 0 for a contextual bandit.
      rate: of learning, Adam.
      memory: steps that are remembered; the oldest is forgotten first.
      batch: steps drawn from memory for each learning, with replacement.
      epochs: updates on that one batch, each with all of it.
      warm_up: steps before anything is learned.
      every: how many steps there are from one learning to the next.
      decay: of epsilon, with every learning.
      floor: of epsilon.
      seed: of weights, order, exploration and batches.

    Raises:
      ValueError: a number is out of range.
    """

    hidden: tuple[int, int, int] = (64, 32, 32)
    discount: float = 0.95
    rate: float = 2e-3
    memory: int = 2000
    batch: int = 256
    epochs: int = 5
    warm_up: int = 128
    every: int = 5
    decay: float = 0.99
    floor: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("discount", "decay", "floor"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        for name in ("memory", "batch", "epochs", "every"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def epsilon(self, learned: int) -> float:
        """Probability of any action after so many learnings: decay ** learned, not below the floor.

        So it is 1 until the first one, all through the warm-up. The published run has 295 and ends at 0.05.
        """
        return float(max(self.floor, self.decay**learned))

    def learns(self, step: int) -> bool:
        """Whether it learns after a step, the first being 1."""
        return step > self.warm_up and step % self.every == 0

    @property
    def first(self) -> int:
        """The first step after which it learns."""
        return (self.warm_up // self.every + 1) * self.every


class Progress(NamedTuple):
    """How far learning is; means are over the last 100 steps."""

    step: int
    steps: int  # in all
    epsilon: Optional[float]  # None where actions were logged and not chosen
    loss: float  # of the batch before the updates: squared error, mean over steps and actions
    reward: float
    agreement: float
    size_ratio: float  # bytes / bytes at quality 75
    network: QNetwork  # as it is now


Report = Callable[[Progress], None]

_LOGGED = ("epsilon", "loss", "reward", "agreement", "size_ratio")


def learn_online(
    outcomes: Outcomes,
    how: DQN = DQN(),
    steps: Optional[int] = None,
    *,
    start: Optional[QNetwork] = None,
    logs: Optional[str] = None,
    report: Optional[Report] = None,
    until: Optional[Stop] = None,
) -> QNetwork:
    """Plays the published schedule against a table: one image a step, with actions of its own.

    Args:
      outcomes: the table.
      how: parameters.
      steps: as many as there are images, if not given; more walk them again, in another order. The published run has
        learned all that it does after 1600, of 2000 images.
      start: weights to go on from, and the standardisation that they belong to.
      logs: folder for TensorBoard.
      report: is told how far it is, after every learning.
      until: when it may end sooner; asked after every learning.

    Raises:
      AdaCompressError: Keras is not installed, or there are too few steps to learn even once.
      ValueError: `start` has another shape.
    """
    images, actions = outcomes.sizes.shape
    total = images if steps is None or not images else steps
    ratio = outcomes.sizes / outcomes.bytes_75[:, None]
    exploring = np.random.default_rng((how.seed, 1))
    order = _walk(images, np.random.default_rng((how.seed, 2)))
    with _Run(outcomes.features, actions, total, how, start, logs, report) as run:
        row = next(order)
        for step in range(1, total + 1):
            epsilon = how.epsilon(run.learned)
            chances = epsilon_greedy(run.values([row]), epsilon)[0].astype(np.float64)
            action = int(exploring.choice(actions, p=chances / chances.sum()))
            following = next(order)
            run.step(row, action, outcomes.agreement[row, action], ratio[row, action], following, epsilon)
            if until is not None and how.learns(step):
                reward, agreement, _ = run.recent(until.steps)
                if until.met(reward, agreement, how.epsilon(run.learned)):
                    break
            row = following
        return run.network


def learn_logged(
    transitions: Logged,
    actions: int,
    how: DQN = DQN(),
    *,
    start: Optional[QNetwork] = None,
    logs: Optional[str] = None,
    report: Optional[Report] = None,
) -> QNetwork:
    """Replays logged rows in their order, with the same memory and schedule; to the end, as the rewards in them are not
    its own.

    Q-learning asks only what came of the action that was taken, so propensities are not needed. The last row has no
    next image and is not remembered, as published.

    Args:
      transitions: to learn from.
      actions: how many there are.
      how: parameters; nothing explores here.
      start, logs, report: as for `learn_online`.

    Raises:
      AdaCompressError: Keras is not installed, or there are too few rows to learn even once.
      ValueError: an action is none of so many, or `start` has another shape.
    """
    total = max(0, len(transitions.action) - 1)
    if total and not 0 <= transitions.action.min() <= transitions.action.max() < actions:
        span = f"{transitions.action.min()} to {transitions.action.max()}"
        raise ValueError(f"logged actions go from {span}, and there are {actions}")
    ratio = transitions.size / transitions.bytes_75
    with _Run(transitions.features, actions, total, how, start, logs, report) as run:
        for row in range(total):
            run.step(row, int(transitions.action[row]), transitions.agreement[row], ratio[row], row + 1, None)
        return run.network


class Memory:
    """The last steps, oldest forgotten first; a state is the number of its row.

    Args:
      capacity: steps.
    """

    def __init__(self, capacity: int) -> None:
        self._row = np.zeros(capacity, np.intp)
        self._action = np.zeros(capacity, np.intp)
        self._target = np.zeros(capacity, np.float32)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._row))

    def add(self, row: int, action: int, target: float) -> None:
        at = self._added % len(self._row)
        self._row[at], self._action[at], self._target[at] = row, action, target
        self._added += 1

    def draw(self, count: int, random: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        """Rows, actions and targets, `(count,)` each, with replacement."""
        at = random.integers(len(self), size=count)
        return self._row[at], self._action[at], self._target[at]


def target(reward: float, discount: float, following: Array) -> float:
    """reward + discount * max Q(next image).

    Args:
      reward: of the action.
      discount: 0..1.
      following: Q values of the next image, `(actions,)`.
    """
    assert following.ndim == 1, following.shape
    return reward + discount * float(following.max())


class _Run:
    """One training: the network in Keras, its weights as arrays for acting, memory, schedule and reports."""

    def __init__(
        self,
        features: NDArray[np.float64],
        actions: int,
        steps: int,
        how: DQN,
        start: Optional[QNetwork],
        logs: Optional[str],
        report: Optional[Report],
    ) -> None:
        keras = _keras()
        self._log = EventLog(logs)
        if steps < how.first:
            raise AdaCompressError(f"{steps} steps are too few: nothing is learned before step {how.first}")
        shape = (features.shape[1], *how.hidden, actions)
        if start is not None and start.shape != shape:
            raise ValueError(
                f"the network to go on from is {_arrows(start.shape)}, and {_arrows(shape)} is to be learned"
            )
        self.learned = 0
        self._taken = 0
        self._steps = steps
        self._how = how
        self._told = report
        self._memory = Memory(how.memory)
        self._drawing = np.random.default_rng((how.seed, 3))
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=_RECENT)
        if start is None:
            seen = features.astype(np.float32)
            self._shared = {"mean": seen.mean(axis=0), "scale": np.maximum(seen.std(axis=0), np.float32(1e-3))}
        else:
            self._shared = {"mean": start.mean, "scale": start.scale}
        self._scaled = standardised(features.astype(np.float32), self._shared["mean"], self._shared["scale"])
        self._model = _model(keras, shape, how, start)
        self.network = self._weights()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()

    def values(self, rows: list[int]) -> Array:
        """Q values of some images, `(rows, actions)`."""
        return self.network.of_standardised(self._scaled[rows])

    def recent(self, steps: int) -> list[float]:
        """Mean reward, agreement and size ratio of the last steps, or of all if there were fewer."""
        return list(np.mean(list(self._recent)[-steps:], axis=0).tolist())

    def step(
        self, row: int, action: int, agreed: float, ratio: float, following: int, epsilon: Optional[float]
    ) -> None:
        """What came of an action: remembered, and every so often learned from."""
        reward = float(agreed - ratio)
        self._taken += 1
        self._recent.append((reward, float(agreed), float(ratio)))
        self._memory.add(row, action, target(reward, self._how.discount, self.values([following])[0]))
        if self._how.learns(self._taken):
            loss = self._learn()
            lately, agreement, size_ratio = self.recent(_RECENT)
            progress = Progress(self._taken, self._steps, epsilon, loss, lately, agreement, size_ratio, self.network)
            self._log.scalars(self._taken, **{name: getattr(progress, name) for name in _LOGGED})
            if self._told is not None:
                self._told(progress)

    def _learn(self) -> float:
        """Several updates on one batch; where an action was not taken the network is held to what it said before.

        Each update has the whole batch, as in the authors' code, which gives `fit` the batch's size.
        """
        rows, actions, targets = self._memory.draw(self._how.batch, self._drawing)
        before = self.network.of_standardised(self._scaled[rows])
        wanted = before.copy()
        wanted[np.arange(len(rows)), actions] = targets
        for _ in range(self._how.epochs):  # much faster than fit(epochs=5), and the same updates
            self._model.train_on_batch(self._scaled[rows], wanted)
        self.network = self._weights()
        self.learned += 1
        return float(np.mean(np.square(wanted - before)))

    def _weights(self) -> QNetwork:
        found = self._model.get_weights()
        names = [f"{kind}{layer}" for layer in range(1, len(found) // 2 + 1) for kind in ("w", "b")]
        return of_arrays(self._shared | dict(zip(names, found, strict=True)))


def _model(keras: Any, shape: tuple[int, ...], how: DQN, start: Optional[QNetwork]) -> Any:
    """The network in Keras; its seeds are its own, those of the process are left alone."""
    features, *widths = shape
    layers = [keras.Input((features,))]
    for index, units in enumerate(widths):
        weights = keras.initializers.GlorotUniform(seed=len(widths) * how.seed + index)
        activation = "relu" if index < len(widths) - 1 else "linear"
        layers.append(keras.layers.Dense(units, activation=activation, kernel_initializer=weights))
    model = keras.Sequential(layers)
    if start is not None:
        arrays = start.arrays()
        model.set_weights([arrays[f"{kind}{layer}"] for layer in range(1, len(layers)) for kind in ("w", "b")])
    # Without XLA: compiling takes longer than all updates of so small a network.
    model.compile(keras.optimizers.Adam(how.rate), loss="mse", jit_compile=False)
    return model


def _arrows(shape: tuple[int, ...]) -> str:
    return " -> ".join(map(str, shape))


def _walk(images: int, random: np.random.Generator) -> Iterator[int]:
    """The images in some order, then in another, without end."""
    while images:
        yield from random.permutation(images).tolist()


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise AdaCompressError(f"training needs keras: {_EXTRA}") from error
    return keras
