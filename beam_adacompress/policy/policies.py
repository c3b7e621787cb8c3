"""A learned policy in service: from an image to the choice of its JPEG configuration."""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress import jpeg
from beam_adacompress.arguments import check_types
from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.jpeg.tables import ORIGINAL
from beam_adacompress.policy import artefact
from beam_adacompress.policy.agent import Array
from beam_adacompress.policy.agreement import Predicted
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.calibration import Promise
from beam_adacompress.policy.features import source_bytes
from beam_adacompress.policy.learned import ORIGINAL_ACTION, AgreementAgent, decide
from beam_adacompress.policy.lookahead import Looking
from beam_adacompress.policy.search import Recollection
from beam_adacompress.records import Choice
from beam_adacompress.sampling import draw

DEFAULT = "default"  # the policy that comes with this package
_PIXELS = ("subsampling", "align")  # what backends see depends on, of what a policy remembers of the encoder


@dataclasses.dataclass(frozen=True)
class Serving:
    """How a policy is to be used.

    Args:
      policy: its folder, or `default`.
      agreement: to promise, 0..1; None for what it was trained to promise.
      confidence: of the promise, 0..1; None for that of training.
      explore: probability with which an image gets what another setting of the policy would do, each setting alike, so
        that what is logged can be learned from; of an agent without settings, any action, each alike.
      seed: of exploring.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: a number is out of range.
    """

    policy: str = DEFAULT
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    explore: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.policy:
            raise ValueError("policy must be a folder, or default, and is empty")
        if self.agreement is not None and not 0 < self.agreement < 1:
            raise ValueError(f"agreement must be above 0 and below 1, got {self.agreement}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be above 0 and below 1, got {self.confidence}")
        if not 0 <= self.explore < 1:
            raise ValueError(f"explore must be at least 0 and below 1, got {self.explore}")

    @property
    def asks(self) -> bool:
        """Whether another promise is asked for than the policy was trained for."""
        return self.agreement is not None or self.confidence is not None

    @property
    def path(self) -> str:
        """The policy's folder."""
        if self.policy != DEFAULT:
            return self.policy
        return str(resources.files("beam_adacompress.policy") / "default")

    def load(self, read: Read = read_local) -> Policy:
        """Loads it.

        Raises:
          AdaCompressError: it is missing, damaged or of an unknown version.
        """
        loaded, version = artefact.load(self.path, read)
        return Policy(loaded, version, self)


class Policy:
    """A policy in service; made by `Serving.load`.

    Attributes:
      artefact: where it comes from.
      version: names it in manifests.
      promise: what it promises here.
      leaves_all: whether it leaves every image as it is, since it cannot promise what is asked for.
      actions: tables, as encoders know them, and quality of each action.
    """

    def __init__(self, loaded: PolicyArtefact, version: str, serving: Serving) -> None:
        self.artefact = loaded
        self.version = version
        self._serving = serving
        self._agent = loaded.agent
        families = loaded.references(serving.path)
        self.actions = [(family, quality) for family in families for quality in loaded.space.qualities]
        self.promise = loaded.promise
        if serving.asks:
            agreement = loaded.promise.target if serving.agreement is None else serving.agreement
            confidence = loaded.promise.confidence if serving.confidence is None else serving.confidence
            self.promise = loaded.calibration.promise(agreement, confidence)
        if isinstance(self._agent, AgreementAgent):
            setting = self.promise.setting
            self._agent.price = None if setting is None else loaded.settings[setting]
        # An agent without prices goes on as it was trained, unless it is asked for a promise.
        promises = serving.asks or isinstance(self._agent, AgreementAgent)
        self.leaves_all = promises and not self.promise.holds

    def warning(self, settings: Optional[jpeg.Settings] = None) -> Optional[str]:
        """What to tell a person who asks for more than the policy can promise; None where it keeps its promise.

        Args:
          settings: of the encoder that will compress the images, where they are known.
        """
        if not self.promise.holds:
            return unkept(self.version, self.promise, self.leaves_all)
        if settings is None:
            return None
        for name in _PIXELS:
            learned_with, now = self.artefact.encoder.get(name), getattr(settings, name)
            if learned_with not in (None, now):
                return (
                    f"the policy {self.version} was calibrated with {name} {learned_with}, and its promise does not "
                    f"hold for {now}: train one for it, or leave {name} as it is"
                )
        return None

    def described(self) -> str:
        """Who it is and what it promises, in words."""
        asked = " and ".join(name for name, _ in self.artefact.backends)
        several = "all of " if len(self.artefact.backends) > 1 else ""
        if not self.promise.holds:
            return f"the policy {self.version}, which promises nothing here"
        return (
            f"the policy {self.version}, which promises an agreement of {self.promise.target:g} with {several}{asked} "
            f"on images like those that it was calibrated on (confidence {self.promise.confidence:g}, "
            f"{self.promise.images} images)"
        )

    @property
    def recollection(self) -> Optional[Recollection]:
        """What it remembers of other images, for verified choice."""
        return self._agent.recollection if isinstance(self._agent, AgreementAgent) else None

    def choose(self, seen: Array, key: str, explore: Optional[float] = None) -> Choice:
        """Decides for one image.

        An image gets action a with the propensity

            (1 - explore) [a is what is served] + explore * share of the policy's settings that choose a

        so that what is logged holds what the policy would do at any of its settings, and no action that it never takes.
        For an agent without settings, all actions but leaving the image alone have the same share.

        Args:
          seen: what it looks at, `(numbers,)`.
          key: of the image; with the seed it decides where the policy explores.
          explore: in the place of what it was made with.
        """
        explore = self._serving.explore if explore is None else explore
        if self.leaves_all and not explore:
            return self.left_alone()
        agent = self._agent
        if isinstance(agent, AgreementAgent) and not explore:
            action, chance = agent.choose(seen)
            return self.left_alone() if action == ORIGINAL_ACTION else self.choice(action, 1.0, chance)
        row = seen[None]
        expected: Optional[Array] = None
        if isinstance(agent, AgreementAgent):
            predicted, bytes_in = agent.learned.predict(row), source_bytes(row)
            expected = predicted.agreement[0]
            served = agent.act_on(predicted, bytes_in)[0].astype(np.float64)
            tried = self._by_settings(predicted, bytes_in)
        else:
            served = np.append(np.zeros(agent.actions), 1.0)
            if not self.leaves_all:
                served = agent.act(row)[0].astype(np.float64)
            tried = np.append(np.full(agent.actions, 1 / agent.actions), 0.0)
        index, propensity = self._drawn((1 - explore) * served + explore * tried, key)
        if index == agent.actions:
            return self.left_alone(propensity)
        return self.choice(index, propensity, None if expected is None else float(expected[index]))

    def _by_settings(self, predicted: Predicted, bytes_in: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of the settings that take each action with an image, `(actions + 1,)`; the last one leaves it."""
        prices = np.array(self.artefact.settings)
        # A byte at some price is so many bytes at a price of 1.
        sizes = prices.astype(np.float32)[:, None] * predicted.size
        each = Predicted(np.repeat(predicted.agreement, len(prices), axis=0), sizes)
        action = decide(each, prices * bytes_in, 1.0).action
        actions = self._agent.actions
        return np.bincount(np.where(action == ORIGINAL_ACTION, actions, action), minlength=actions + 1) / len(prices)

    def _drawn(self, taken: NDArray[np.float64], key: str) -> tuple[int, float]:
        """An action of a distribution, and its propensity."""
        if taken[best := int(taken.argmax())] == 1:
            return best, 1.0
        bounds = np.cumsum(taken)
        index = int(np.searchsorted(bounds, draw(key, f"act {self._serving.seed}") * bounds[-1], side="right"))
        return index, float(taken[index])

    def left_alone(self, propensity: float = 1.0) -> Choice:
        """The choice to leave an image as it is."""
        return Choice(ORIGINAL, 100, self.version, propensity, 1.0)

    def sizes(self, seen: Array) -> NDArray[np.float64]:
        """The predicted bytes of each action, `(actions,)`, of an agent that predicts them."""
        assert isinstance(self._agent, AgreementAgent), self._agent.kind
        return np.asarray(self._agent.learned.predict(seen[None]).size[0], np.float64)

    def choice(self, action: int, propensity: float, expected: Optional[float]) -> Choice:
        """The choice of an action."""
        return Choice(*self.actions[action], self.version, propensity, expected)


class Onlooker:
    """A policy with what it looks through, loaded in a worker."""

    def __init__(self, policy: Policy, looking: Looking) -> None:
        self.policy = policy
        self._looking = looking

    def look(self, opened: jpeg.Source, picture: jpeg.Picture) -> Array:
        """What the policy sees of an image, `(numbers,)`."""
        return self._looking(opened, picture)


def onlooker(serving: Serving, read: Read = read_local) -> Onlooker:
    """Loads a policy, and the networks that it looks through.

    Raises:
      AdaCompressError: one of them cannot be loaded.
    """
    policy = serving.load(read)
    return Onlooker(policy, policy.artefact.sight.open(read))


def unkept(version: str, promise: Promise, leaves_all: bool) -> str:
    """What cannot be promised, in words."""
    what = "every image is left as it is" if leaves_all else "no agreement is promised"
    return (
        f"the policy {version} cannot promise an agreement of {promise.target:g} with a confidence of "
        f"{promise.confidence:g}: {promise.images} calibration images do not show it, so {what}; ask for less "
        "(--agreement), or train it on more images"
    )
