"""How the default agent decides, and how boldly it may.

For an image x, an action a with predicted chance of agreement p_a(x) and predicted bytes s_a(x) is worth

    p_a(x) - price * s_a(x)

and the best one is taken; leaving the original alone is worth 1 - price * its bytes. That is AdaCompress's reward with
an exchange rate for bytes in the place of a fixed one: among all ways to reach a mean agreement it takes the fewest
bytes, if p and s are right. (A threshold on each image's own p_a, the other way to reach a target, needs more: it pays
for certainty alike on images of 5 kB and of 50.) Which price keeps a promise of agreement is not left to p and s; it is
calibrated, see `calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.agent import Agent, Array
from beam_adacompress.policy.agreement import AgreementModel, Predicted, of_arrays
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.features import source_bytes, source_bytes_of
from beam_adacompress.policy.outcomes import Logged, Outcomes
from beam_adacompress.policy.search import MOST, Recollection

ORIGINAL_ACTION = -1
MOST_CAUTIOUS = 0.0  # a byte costs nothing: whatever agrees most


class Chosen(NamedTuple):
    """Of some images."""

    action: NDArray[np.intp]  # index, or ORIGINAL_ACTION
    expected: Array  # predicted chance of agreement


def prices(outcomes: Outcomes, count: int = 60) -> tuple[float, ...]:
    """Settings worth calibrating, from the most cautious one: a byte for nothing, then in equal ratios.

    The dearest price makes a typical original cost as much as ten disagreements; the cheapest one a thousandth of it.
    """
    typical = float(np.median(outcomes.bytes_in))
    return (MOST_CAUTIOUS, *(float(each) for each in np.geomspace(1e-3, 10, count - 1) / typical))


def choose(model: AgreementModel, features: Array, bytes_in: NDArray[np.float64], price: Optional[float]) -> Chosen:
    """Decides.

    Args:
      model: what the agent knows.
      features: `(images, features)`.
      bytes_in: of the originals, `(images,)`.
      price: of a byte, in disagreements; None to leave everything as it is.
    """
    assert bytes_in.shape == (len(features),), (bytes_in.shape, len(features))
    return decide(model.predict(features), bytes_in, price)


def decide(predicted: Predicted, bytes_in: NDArray[np.float64], price: Optional[float]) -> Chosen:
    """Decides by what is predicted, see `choose`."""
    images = len(bytes_in)
    if price is None:
        return Chosen(np.full(images, ORIGINAL_ACTION, np.intp), np.ones(images, np.float32))
    worth = predicted.agreement - price * predicted.size
    best = np.argmax(worth, axis=1)
    each = np.arange(images)
    kept = worth[each, best] < 1 - price * bytes_in
    action = np.where(kept, ORIGINAL_ACTION, best)
    expected = np.where(kept, np.float32(1), predicted.agreement[each, best])
    return Chosen(action, expected)


def agreed(outcomes: Outcomes, action: NDArray[np.intp]) -> NDArray[np.float64]:
    """Whether the backends agreed with what was chosen, `(images,)`; an original always agrees with itself."""
    taken: NDArray[np.float64] = outcomes.agreement[np.arange(len(action)), np.maximum(action, 0)]
    return np.where(action == ORIGINAL_ACTION, 1.0, taken)


def calibration(model: AgreementModel, outcomes: Outcomes, settings: tuple[float, ...]) -> Calibration:
    """What each setting comes to on images that training never saw."""
    predicted = model.predict(outcomes.features.astype(np.float32))
    counts = []
    for price in settings:
        action = decide(predicted, outcomes.bytes_in, price).action
        counts.append(int(len(action) - agreed(outcomes, action).sum()))
    return Calibration(len(outcomes.keys), tuple(counts))


class AgreementAgent(Agent):
    """The default agent.

    Args:
      families, qualities: of the action space.
      model: what it has learned; None before it has.
      price: of a byte, in disagreements; None to leave every image as it is.
      recollection: what backends said of images under every action, for verified choice; None where that is not known.
      how: to learn, a `fit_agreement.Training`; None for its defaults.
      report: is told how far learning is, see `fit_agreement.fit`; None for nobody.
    """

    kind: ClassVar[str] = "agreement"

    def __init__(
        self,
        families: int,
        qualities: int,
        model: Optional[AgreementModel] = None,
        price: Optional[float] = None,
        recollection: Optional[Recollection] = None,
        how: Any = None,
        report: Any = None,
    ) -> None:
        self.families = families
        self.qualities = qualities
        self.actions = families * qualities
        self.model = model
        self.price = price
        self.recollection = recollection
        self._how = how
        self._report = report
        if model is not None and model.actions != self.actions:
            raise ValueError(f"the model knows {model.actions} actions, and there are {self.actions}")
        if recollection is not None and recollection.answers.shape[1] != self.actions:
            raise ValueError(f"{recollection.answers.shape[1]} actions are remembered, and there are {self.actions}")

    @property
    def learned(self) -> AgreementModel:
        """The model.

        Raises:
          AdaCompressError: it has not learned anything.
        """
        if self.model is None:
            raise AdaCompressError("the agent has learned nothing yet: let it learn first")
        return self.model

    @property
    def looks_at(self) -> int:
        return self.learned.features

    def act(self, features: Array) -> Array:
        return self.act_on(self.learned.predict(features), source_bytes(features))

    def choose(self, features: Array) -> tuple[int, float]:
        """What `act` does with one image, `(features,)`: an action or ORIGINAL_ACTION, and its chance of agreement."""
        if self.price is None:
            return ORIGINAL_ACTION, 1.0
        best = self.learned.best(features, self.price)
        if best.worth < 1 - self.price * source_bytes_of(features):
            return ORIGINAL_ACTION, 1.0
        return best.action, best.agreement

    def act_on(self, predicted: Predicted, bytes_in: NDArray[np.float64]) -> Array:
        """The same, of what is predicted for images of so many bytes, `(images,)`."""
        images = len(bytes_in)
        action = decide(predicted, bytes_in, self.price).action
        taken = np.zeros((images, self.actions + 1), np.float32)
        taken[np.arange(images), np.where(action == ORIGINAL_ACTION, self.actions, action)] = 1
        return taken

    def learn(self, transitions: Logged, held_out: Logged) -> None:
        from beam_adacompress.policy import fit_agreement  # which is for training alone

        how = fit_agreement.Training() if self._how is None else self._how
        self.model = fit_agreement.fit(transitions, held_out, self.families, self.qualities, how, self._report)

    def remember(self, outcomes: Outcomes) -> None:
        """Keeps the answers to every action, of so many images as a policy may hold."""
        self.recollection = Recollection(outcomes.agreement[:MOST] > 0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = dict(self.learned.arrays())
        if self.recollection is not None:
            arrays["answers"] = np.packbits(self.recollection.answers, axis=1)
        return arrays

    def settings(self) -> dict[str, Any]:
        return {"families": self.families, "qualities": self.qualities, "price": self.price}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> AgreementAgent:
        families, qualities = int(settings["families"]), int(settings["qualities"])
        recollection = None
        if "answers" in arrays:
            bits = np.unpackbits(np.asarray(arrays["answers"], np.uint8), axis=1, count=families * qualities)
            recollection = Recollection(bits.astype(np.bool_))
        price = settings["price"]
        return cls(families, qualities, of_arrays(arrays), None if price is None else float(price), recollection)
