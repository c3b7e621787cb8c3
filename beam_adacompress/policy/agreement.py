"""What the default agent knows: for every action the chance that the backend agrees, and the bytes.

    features ─▶ standardised ─┬▶ hidden, GELU ─▶ ease of each family ─▶ + steps of its qualities ─▶ logit of agreement
                              └▶ linear ─▶ log2 bytes of each action

The logit of agreement for the family f and its k-th quality is

    ease_f(x) + base_f + sum over j <= k of softplus(step_fj)

so that predicted agreement never falls with quality within a family. Several networks that started differently are
averaged. Weights are plain arrays: training needs Keras, predicting does not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg import native

Array = NDArray[np.float32]

NAMES = ("mean", "scale", "w1", "b1", "w_ease", "base", "steps", "w_size", "b_size")


class _Joined(NamedTuple):
    """What predicting needs of the members, put together once."""

    w1: Array  # `(features, members * hidden)`
    b1: Array
    rising: Array  # logits at an ease of zero, `(members, families, qualities)`


class Best(NamedTuple):
    """The action that is worth most for an image."""

    action: int
    worth: float  # agreement - price * bytes
    agreement: float  # chance, 0..1


class Predicted:
    """Of some images, `(images, actions)` each."""

    def __init__(self, agreement: Array, size: Array) -> None:
        self.agreement = agreement  # chance, 0..1
        self.size = size  # bytes


@dataclasses.dataclass(frozen=True)
class AgreementModel:
    """An ensemble; the first axis of its arrays is the member, apart from what all members share.

    Args:
      mean, scale: of the features, `(features,)`, shared.
      w1, b1: hidden layer, `(members, features, hidden)` and `(members, hidden)`.
      w_ease: `(members, hidden, families)`.
      base: `(members, families)`.
      steps: before softplus, `(members, families, qualities)`.
      w_size, b_size: `(features, actions)` and `(actions,)`, shared.
    """

    mean: Array
    scale: Array
    w1: Array
    b1: Array
    w_ease: Array
    base: Array
    steps: Array
    w_size: Array
    b_size: Array

    def __post_init__(self) -> None:
        members, features, hidden = self.w1.shape
        families, qualities = self.steps.shape[1:]
        expected = {
            "mean": (features,),
            "scale": (features,),
            "b1": (members, hidden),
            "w_ease": (members, hidden, families),
            "base": (members, families),
            "steps": (members, families, qualities),
            "w_size": (features, families * qualities),
            "b_size": (families * qualities,),
        }
        for name, shape in expected.items():
            if (found := getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has the shape {found}, not {shape}")

    @property
    def features(self) -> int:
        """How many numbers it looks at."""
        return int(self.w1.shape[1])

    @property
    def actions(self) -> int:
        return int(self.b_size.shape[0])

    def predict(self, features: Array) -> Predicted:
        """Chances of agreement and bytes.

        Args:
          features: `(images, features)`.
        """
        assert features.ndim == 2, features.shape
        assert features.shape[1] == self.features, (features.shape, self.features)
        scaled = standardised(features, self.mean, self.scale)
        joined = self._joined
        images, members = len(features), self.w1.shape[0]
        hidden = gelu(scaled @ joined.w1 + joined.b1).reshape(images, members, 1, -1)
        ease = (hidden @ self.w_ease).reshape(images, members, -1)
        odds = np.exp(-(ease[..., None] + joined.rising))
        agreement = (1 / (1 + odds)).sum(axis=1) / np.float32(members)
        log_size = scaled @ self.w_size + self.b_size
        return Predicted(agreement.reshape(images, -1), np.exp2(log_size))

    def best(self, features: Array, price: float) -> Best:
        """The best action for one image.

        Args:
          features: `(features,)`, contiguous.
          price: of a byte, in disagreements.
        """
        if native.is_installed():
            return Best(*native.best(features, price, *self._packed))
        assert features.shape == (self.features,), features.shape
        predicted = self.predict(features[None])
        worth = predicted.agreement[0] - price * predicted.size[0]
        action = int(worth.argmax())
        return Best(action, float(worth[action]), float(predicted.agreement[0, action]))

    @functools.cached_property
    def _packed(self) -> tuple[Any, ...]:
        """What the native core takes: the shape, and the arrays as bytes."""
        joined = self._joined
        arrays = (self.mean, self.scale, joined.w1, joined.b1, self.w_ease, joined.rising, self.w_size, self.b_size)
        return self.steps.shape, *(np.asarray(each, np.float32).tobytes() for each in arrays)

    @functools.cached_property
    def _joined(self) -> _Joined:
        members, features, hidden = self.w1.shape
        rising = self.base[..., None] + np.cumsum(np.logaddexp(0, self.steps), axis=2)
        w1 = self.w1.swapaxes(0, 1).reshape(features, members * hidden)
        return _Joined(np.ascontiguousarray(w1), self.b1.reshape(-1), rising.astype(np.float32))

    def arrays(self) -> dict[str, Array]:
        """What `of_arrays` takes."""
        return {name: getattr(self, name) for name in NAMES}


def of_arrays(arrays: Mapping[str, Array]) -> AgreementModel:
    """Puts a model together again.

    Raises:
      KeyError, ValueError: an array is missing or has another shape.
    """
    return AgreementModel(**{name: np.asarray(arrays[name], np.float32) for name in NAMES})


def standardised(features: Array, mean: Array, scale: Array) -> Array:
    """Features less their mean, in units of their scale, within -5..5: no feature is trusted beyond what was seen."""
    found: Array = np.minimum(np.maximum((features - mean) / scale, -5), 5).astype(np.float32, copy=False)
    return found


def gelu(x: Array) -> Array:
    """The tanh form of GELU (Hendrycks and Gimpel, arXiv 1606.08415)."""
    found: Array = 0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * (x * x * x))))
    return found
