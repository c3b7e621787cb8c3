"""What each way to choose comes to on a table of outcomes: fixed qualities, policies, verified choice, the oracle.

All but the plain curve are judged by what `adacompress compress` writes: where a result does not save `min_saving`, the
original is kept, which costs its bytes and agrees with itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.evaluation import JITTER, ORACLE, POLICY, VERIFIED, Curve, Strategy
from beam_adacompress.policy import search
from beam_adacompress.policy.agent import Agent
from beam_adacompress.policy.learned import ORIGINAL_ACTION, AgreementAgent
from beam_adacompress.policy.outcomes import Outcomes

Floats = NDArray[np.float64]


def written(outcomes: Outcomes, min_saving: float) -> Outcomes:
    """The table of what is written: the original where a result would not save so large a share of its bytes."""
    kept = (outcomes.sizes > (1 - min_saving) * outcomes.bytes_in[:, None]) | (
        outcomes.sizes >= outcomes.bytes_in[:, None]
    )
    return dataclasses.replace(
        outcomes,
        sizes=np.where(kept, outcomes.bytes_in[:, None], outcomes.sizes),
        agreement=np.where(kept, 1.0, outcomes.agreement),
        strict=np.where(kept, 1.0, outcomes.strict),
    )


class Judged(NamedTuple):
    """What choosing comes to, `(images,)` each; the fields are those of `evaluation.Strategy`."""

    sizes: Floats  # bytes
    agreement: Floats  # 0 or 1
    strict: Floats


def judged(outcomes: Outcomes, action: NDArray[np.intp]) -> Judged:
    """What actions come to; ORIGINAL_ACTION costs the original's bytes and agrees.

    Args:
      outcomes: as `written` gives them.
      action: index for each image, `(images,)`.
    """
    assert action.shape == (len(outcomes.keys),), (action.shape, len(outcomes.keys))
    each, index, kept = np.arange(len(action)), np.maximum(action, 0), action == ORIGINAL_ACTION
    return Judged(
        np.where(kept, outcomes.bytes_in, outcomes.sizes[each, index]),
        np.where(kept, 1.0, outcomes.agreement[each, index]),
        np.where(kept, 1.0, outcomes.strict[each, index]),
    )


def acted(agent: Agent, outcomes: Outcomes) -> NDArray[np.intp]:
    """The action that an agent likes best for each image, or ORIGINAL_ACTION, `(images,)`."""
    action = agent.act(outcomes.features.astype(np.float32)).argmax(axis=1)
    return np.where(action == agent.actions, ORIGINAL_ACTION, action)


def by_policy(name: str, agent: Agent, outcomes: Outcomes, promised: Optional[float] = None) -> Strategy:
    """A policy. Arguments as for `judged`; `promised` is its agreement, 0..1."""
    return Strategy(name, POLICY, *judged(outcomes, acted(agent, outcomes)), promised=promised)


def cheapest(outcomes: Outcomes) -> NDArray[np.intp]:
    """The action with the fewest bytes of those that agree, for each image; ORIGINAL_ACTION where none does."""
    sizes = np.where(outcomes.agreement > 0, outcomes.sizes, np.inf)
    action = sizes.argmin(axis=1)
    found: NDArray[np.intp] = np.where(sizes.min(axis=1) < outcomes.bytes_in, action, ORIGINAL_ACTION)
    return found


def oracle(name: str, outcomes: Outcomes) -> Strategy:
    """The per-image oracle over the actions of a table."""
    return Strategy(name, ORACLE, *judged(outcomes, cheapest(outcomes)))


class Searched(NamedTuple):
    """What verified choice came to."""

    action: NDArray[np.intp]  # `(images,)`
    calls: Floats  # for each backend that was asked, the reference's among them, `(images,)`


def searched(agent: AgreementAgent, outcomes: Outcomes, families: int) -> Searched:
    """Verified choice as the transform makes it, with the table's answers in the place of the backend's.

    Actions of the same bytes and answers are taken for one file, see `jpeg.Settings.align`.

    Args:
      agent: that guides it; it has to remember other images.
      outcomes: as `written` gives them.
      families: among the actions.
    """
    recollection = agent.recollection
    assert recollection is not None, "the agent remembers no images"
    predicted = agent.learned.predict(outcomes.features.astype(np.float32)).size.astype(np.float64)
    found = []
    each_action = np.stack([outcomes.sizes, outcomes.agreement, outcomes.strict], axis=-1)
    for sizes, agreement, guesses, original, files in zip(
        outcomes.sizes, outcomes.agreement, predicted, outcomes.bytes_in, map(_files, each_action)
    ):

        def ask(
            action: int, sizes: Floats = sizes, agreement: Floats = agreement, original: float = float(original)
        ) -> search.Answer:
            size = float(sizes[action])
            return search.Answer(None if size >= original else bool(agreement[action]), size)

        least_saving = search.worth(families)
        found.append(search.cheapest(recollection, guesses, float(original), ask, len(sizes), least_saving, files))
    action = [ORIGINAL_ACTION if each.action is None else each.action for each in found]
    return Searched(np.array(action, np.intp), np.array([1.0 + each.asked for each in found]))


def _files(of_actions: Floats) -> NDArray[np.intp]:
    """A number for each action, the same for those of the same bytes and answers, `(actions, 3)`."""
    return np.unique(of_actions, axis=0, return_inverse=True)[1].reshape(-1)


def verified(name: str, outcomes: Outcomes, choice: Searched, asked: bool = True) -> Strategy:
    """What verified choice came to with a backend.

    Args:
      name: of the strategy.
      outcomes: of the backend that judges.
      choice: of the backend that was asked, this one or another.
      asked: whether it was this one.
    """
    return Strategy(name, VERIFIED, *judged(outcomes, choice.action), calls=choice.calls if asked else None)


def curve(name: str, qualities: Sequence[int], outcomes: Outcomes, columns: Sequence[int]) -> Curve:
    """Fixed qualities, by the columns of the table that have them."""
    taken = list(columns)
    return Curve(name, qualities, outcomes.sizes[:, taken], outcomes.agreement[:, taken], outcomes.strict[:, taken])


def plain(curve_of: Curve, name: str, sizes: Floats) -> Curve:
    """Fixed qualities as a bare loop over Pillow writes them: the same pixels in one plain scan, and nothing is kept.

    Args:
      curve_of: the table's own answers, not `written` ones.
      name: of the curve.
      sizes: bytes, `(images, qualities)`.
    """
    return curve_of._replace(name=name, sizes=sizes)


def jitter(outcomes: Outcomes, column: int) -> Strategy:
    """The backend's agreement with itself on references that were saved again at a higher quality: the ceiling."""
    return Strategy(
        "the reference, saved again",
        JITTER,
        outcomes.sizes[:, column],
        outcomes.agreement[:, column],
        outcomes.strict[:, column],
    )
