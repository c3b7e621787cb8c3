"""AdaCompress's agent, a deep Q-network (Li et al., arXiv 1909.08148, in its authors' constants).

    features ─▶ standardised ─▶ 64, 32, 32 hidden, ReLU ─▶ Q value of each quality ─▶ the greatest, or any (epsilon)

It is here to be compared with, so it does as published; where it differs, and why, is said where it does. Weights are
plain arrays: training needs Keras, see `fit_dqn`, acting does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.agent import Agent, Array
from beam_adacompress.policy.agreement import standardised
from beam_adacompress.policy.outcomes import Logged, Outcomes

if TYPE_CHECKING:
    from beam_adacompress.policy.fit_dqn import DQN, Progress

QUALITIES: tuple[int, ...] = tuple(range(5, 100, 10))  # the published actions: 5, 15 ... 95, of the standard tables

NAMES = ("mean", "scale", "w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4")
_LAYERS = 4


@dataclasses.dataclass(frozen=True)
class QNetwork:
    """Three hidden layers and a linear one.

    Features are always standardised, embeddings too: the published agent takes the latter as they are, but what it
    learns then hangs on the scale of whatever network they come from.

    Args:
      mean, scale: of the features, `(features,)`.
      w1, b1, w2, b2, w3, b3: hidden layers, `(in, out)` and `(out,)`.
      w4, b4: `(hidden, actions)` and `(actions,)`.

    Raises:
      ValueError: an array has another shape.
    """

    mean: Array
    scale: Array
    w1: Array
    b1: Array
    w2: Array
    b2: Array
    w3: Array
    b3: Array
    w4: Array
    b4: Array

    def __post_init__(self) -> None:
        if self.w1.ndim != 2:
            raise ValueError(f"w1 has the shape {self.w1.shape}, not (features, hidden)")
        features, width = self.w1.shape
        expected: dict[str, tuple[int, ...]] = {"mean": (features,), "scale": (features,), "b1": (width,)}
        for layer in range(2, _LAYERS + 1):
            bias = getattr(self, f"b{layer}")
            expected |= {f"w{layer}": (width, bias.size), f"b{layer}": (bias.size,)}
            width = bias.size
        for name, shape in expected.items():
            if (found := getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has the shape {found}, not {shape}")

    @property
    def features(self) -> int:
        """How many numbers it looks at."""
        return int(self.w1.shape[0])

    @property
    def actions(self) -> int:
        return int(self.b4.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Features, units of the hidden layers, actions."""
        return (self.features, *(getattr(self, f"b{layer}").size for layer in range(1, _LAYERS + 1)))

    def predict(self, features: Array) -> Array:
        """Q values.

        Args:
          features: `(images, features)`.

        Returns:
          `(images, actions)`.
        """
        assert features.ndim == 2, features.shape
        assert features.shape[1] == self.features, (features.shape, self.features)
        return self.of_standardised(standardised(features, self.mean, self.scale))

    def of_standardised(self, scaled: Array) -> Array:
        """Q values of features that are standardised already."""
        hidden = scaled
        for layer in range(1, _LAYERS):
            hidden = np.maximum(hidden @ getattr(self, f"w{layer}") + getattr(self, f"b{layer}"), 0)
        values: Array = hidden @ self.w4 + self.b4
        return values

    def arrays(self) -> dict[str, Array]:
        """What `of_arrays` takes."""
        return {name: getattr(self, name) for name in NAMES}


def of_arrays(arrays: Mapping[str, Array]) -> QNetwork:
    """Puts a network together again.

    Raises:
      KeyError, ValueError: an array is missing or has another shape.
    """
    return QNetwork(**{name: np.asarray(arrays[name], np.float32) for name in NAMES})


def epsilon_greedy(values: Array, epsilon: float) -> Array:
    """Any action with the probability epsilon, the best one among them; else the best one.

    Args:
      values: `(images, actions)`.
      epsilon: 0..1.

    Returns:
      `(images, actions)`, rows adding up to 1.
    """
    images, actions = values.shape
    taken = np.full((images, actions), epsilon / actions, np.float32)
    taken[np.arange(images), values.argmax(axis=1)] += np.float32(1 - epsilon)
    return taken


@dataclasses.dataclass(frozen=True)
class Stop:
    """When training again has done enough; the published thresholds, all of which have to be passed.

    Args:
      reward: mean above which it may end.
      agreement: the same.
      epsilon: probability of any action below which it may end; with the published schedule that takes 930 steps.
      steps: over which means are taken, or over all if there were fewer; 100 at most.
    """

    reward: float = 0.45
    agreement: float = 0.8
    epsilon: float = 0.2
    steps: int = 10

    def met(self, reward: float, agreement: float, epsilon: float) -> bool:
        """Whether it may end, by means over the last `steps`, and by epsilon as it is in the next one."""
        return reward > self.reward and agreement > self.agreement and epsilon < self.epsilon


class DQNAgent(Agent):
    """Takes the quality with the greatest Q value; never leaves an image alone, the published agent cannot.

    Args:
      network: what it has learned; None before it has, and then it takes all actions alike, as the published one does
        while it warms up.
      actions: how many; the published ones are `QUALITIES`.
      epsilon: probability of any action instead of the best, 0..1. What is served is frozen, and that is 0.
      how: to learn; as published where not given.
      logs: folder for TensorBoard, while it learns.
      report: is told how far learning is.

    Raises:
      ValueError: epsilon is out of range, or the network has not as many actions.
    """

    kind: ClassVar[str] = "dqn"

    def __init__(
        self,
        network: Optional[QNetwork] = None,
        actions: int = len(QUALITIES),
        epsilon: float = 0.0,
        how: Optional[DQN] = None,
        logs: Optional[str] = None,
        report: Optional[Callable[[Progress], None]] = None,
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must lie between 0 and 1, got {epsilon}")
        if network is not None and network.actions != actions:
            raise ValueError(f"the network knows {network.actions} actions, and there are {actions}")
        self.network = network
        self.actions = actions
        self.epsilon = epsilon
        self.logs = logs
        self.report = report
        self._how = how

    @property
    def how(self) -> DQN:
        """How it learns."""
        from beam_adacompress.policy.fit_dqn import DQN  # which imports this module

        return DQN() if self._how is None else self._how

    @property
    def looks_at(self) -> int:
        return self._learned.features

    @property
    def _learned(self) -> QNetwork:
        if self.network is None:
            raise AdaCompressError("the agent has learned nothing that could be kept: let it learn first")
        return self.network

    def act(self, features: Array) -> Array:
        if self.network is None:
            taken = np.full((len(features), self.actions), 1 / self.actions, np.float32)
        else:
            taken = epsilon_greedy(self.network.predict(features), self.epsilon)
        return np.pad(taken, ((0, 0), (0, 1)))

    def learn(self, transitions: Logged, held_out: Logged) -> None:
        """Learns from logged outcomes, in their order; goes on from the weights that it has, as published retraining.

        Args:
          transitions: to learn from.
          held_out: not looked at: the published learner stops when its images have passed.

        Raises:
          AdaCompressError: Keras is not installed, or there are too few outcomes for a single update.
        """
        from beam_adacompress.policy import fit_dqn

        self.network = fit_dqn.learn_logged(
            transitions, self.actions, self.how, start=self.network, logs=self.logs, report=self.report
        )

    def learn_online(self, outcomes: Outcomes, steps: Optional[int] = None, until: Optional[Stop] = None) -> None:
        """Learns by playing against a table, see `fit_dqn.learn_online`; goes on from the weights that it has."""
        from beam_adacompress.policy import fit_dqn

        if (found := outcomes.sizes.shape[1]) != self.actions:
            raise ValueError(f"the table has {found} actions, and the agent {self.actions}")
        self.network = fit_dqn.learn_online(
            outcomes, self.how, steps, start=self.network, logs=self.logs, report=self.report, until=until
        )

    def arrays(self) -> dict[str, Array]:
        return self._learned.arrays()

    def settings(self) -> dict[str, Any]:
        how = dataclasses.asdict(self.how)
        return {"actions": self.actions, "epsilon": self.epsilon, "how": how | {"hidden": list(self.how.hidden)}}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> DQNAgent:
        from beam_adacompress.policy.fit_dqn import DQN

        how = DQN(**{**settings["how"], "hidden": tuple(settings["how"]["hidden"])})
        return cls(of_arrays(arrays), int(settings["actions"]), float(settings["epsilon"]), how)
