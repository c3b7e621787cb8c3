"""What every agent can do: act on what it sees of images, and learn from what came of it.

    features ─▶ act ─▶ distribution over actions ─▶ an action, with its propensity ─▶ agreement, bytes
                 ▲                                                                          │
                 └──────────────────────────── learn ◀──────── transitions ◀────────────────┘

Acting takes numpy alone; only learning imports Keras. What an agent knows is a few arrays, which `policy.artefact`
writes beside what says where they come from.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.policy.outcomes import Logged

Array = NDArray[np.float32]


class Agent(abc.ABC):
    """An agent.

    Attributes:
      kind: what artefacts and `adacompress train --agent` call it.
      actions: how many it chooses from, in the order of an `ActionSpace`.
    """

    kind: ClassVar[str]
    actions: int

    @property
    @abc.abstractmethod
    def looks_at(self) -> int:
        """How many numbers it takes of an image."""

    @abc.abstractmethod
    def act(self, features: Array) -> Array:
        """With what probability it takes each action.

        Args:
          features: `(images, features)`, see `policy.features`.

        Returns:
          `(images, actions + 1)`, each row adding up to 1; the last column is to leave the image as it is.
        """

    @abc.abstractmethod
    def learn(self, transitions: Logged, held_out: Logged) -> None:
        """Learns from outcomes that were logged, under whatever policy.

        Args:
          transitions: to learn from, in the order in which they happened.
          held_out: of other images, to know when to stop.

        Raises:
          AdaCompressError: Keras is not installed, or there is nothing to learn from.
        """

    @abc.abstractmethod
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All that it knows, by name."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """What is not an array, JSON-able."""

    @classmethod
    @abc.abstractmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Agent:
        """The agent that had these `arrays` and `settings`.

        Raises:
          KeyError, TypeError, ValueError: something is missing, or has another shape.
        """
