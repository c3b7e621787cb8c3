"""From scores to what agents learn from and are judged by: the logged actions of one policy's space.

scores ─▶ scored, seen and chosen by the policy ─▶ LoggedScores ─┬▶ taken, agreement, ratio: judged by (offpolicy)
                                                                 └▶ learnable: learned from
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.jpeg.tables import ORIGINAL
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.features import source_bytes
from beam_adacompress.policy.offpolicy import Taken
from beam_adacompress.policy.outcomes import Logged
from beam_adacompress.records import SCORED, Score
from beam_adacompress.sampling import draw

Floats = NDArray[np.float64]

# Why scores are left out.
NOT_SCORED = "have no answer to compare"
NOT_SEEN = "have no features that this policy looks at"
VERIFIED = "were verified before they were chosen"
UNKNOWN_ACTION = "have an action that this policy does not know"
BROKEN = "have numbers that cannot be"
REPEATED = "are there twice"


@dataclasses.dataclass(frozen=True, eq=False)
class LoggedScores:
    """Scores as arrays, in the order of their keys; `(rows,)` each, where nothing else is said.

    Args:
      keys: of the images.
      backends: name and version of those that answered, sorted.
      features: `(rows, features)`.
      action: index; the number of actions where the image was left as it is.
      propensity: with which the action was taken, (0, 1].
      stands_for: images, 1 / sampling probability.
      agreement: 0 or 1.
      ratio: compressed bytes / reference bytes.
      time: of scoring, seconds since the epoch.
      actions: how many there are.
      left_out: why scores are not here, and how many.
    """

    keys: tuple[str, ...]
    backends: tuple[tuple[str, str], ...]
    features: Floats
    action: NDArray[np.intp]
    propensity: Floats
    stands_for: Floats
    agreement: Floats
    ratio: Floats
    time: Floats
    actions: int
    left_out: collections.Counter[str]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def taken(self) -> Taken:
        """What off-policy estimates are made of."""
        return Taken(self.action, self.propensity, self.stands_for)

    @property
    def bytes_in(self) -> Floats:
        """Of the originals, by what was seen of them."""
        return source_bytes(self.features)

    def take(self, chosen: NDArray[Any]) -> LoggedScores:
        """Some rows, by whether or where they are, `(rows,)`."""
        arrays = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        keys = tuple(self.keys[row] for row in np.arange(len(self))[chosen])
        return dataclasses.replace(self, keys=keys, **arrays)

    def parts(self, count: int, salt: str) -> NDArray[np.intp]:
        """To which of so many parts each row belongs, by its key alone: all rows of an image are in one."""
        return np.array([int(count * draw(key, f"fold {salt}")) for key in self.keys], np.intp)

    def learnable(self) -> LoggedScores:
        """The rows that say something of their action: not left alone, and really encoded again."""
        return self.take((self.action < self.actions) & (self.ratio < 1))

    def logged(self) -> Logged:
        """The rows as agents learn from them, all with an action.

        `bytes_75` is of the original here: at AdaCompress's reference, quality 75, scores do not have it.
        """
        assert (self.action < self.actions).all(), "learn from `learnable` rows"
        bytes_in = self.bytes_in
        return Logged(
            self.features, self.action, self.propensity, self.agreement, self.ratio * bytes_in, bytes_75=bytes_in
        )

    def said(self) -> str:
        """Why others were left out, in words; empty if none were."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))


_ARRAYS = ("features", "action", "propensity", "stands_for", "agreement", "ratio", "time")


def logged(scores: Sequence[Score], artefact: PolicyArtefact) -> LoggedScores:
    """Takes from scores what a policy, and those that it is trained into, can learn from.

    An image counts once for each version of a policy that chose for it. Scores of verified choices are left out: their
    actions were chosen by what the backend says of them.

    Args:
      scores: in any order.
      artefact: whose features and actions they are to have.
    """
    families = [_name(reference) for reference in artefact.references("")]
    named = ((family, quality) for family in families for quality in artefact.space.qualities)
    index = {action: number for number, action in enumerate(named)}
    left_out = collections.Counter[str]()
    rows: dict[tuple[str, str], tuple[Score, int]] = {}
    for score in sorted(scores, key=_order):
        choice = score.choice
        of_version = (score.key, choice.policy_version)
        of_original = choice.tables == ORIGINAL
        action = len(index) if of_original else index.get((_name(choice.tables), choice.quality))
        if (reason := _obstacle(score, artefact.agent.looks_at)) is not None:
            left_out[reason] += 1
        elif action is None:
            left_out[UNKNOWN_ACTION] += 1
        elif of_version in rows:
            left_out[REPEATED] += 1
        else:
            rows[of_version] = (score, action)
    taken = [score for score, _ in rows.values()]
    return LoggedScores(
        keys=tuple(score.key for score in taken),
        backends=tuple(sorted({(score.backend, score.backend_version) for score in taken})),
        features=np.array([score.features for score in taken], np.float64).reshape(-1, artefact.agent.looks_at),
        action=np.array([action for _, action in rows.values()], np.intp),
        propensity=np.array([score.propensity for score in taken], np.float64),
        stands_for=np.array([1 / score.sampling_probability for score in taken], np.float64),
        agreement=np.array([score.agreement for score in taken], np.float64),
        ratio=np.array([score.size_ratio for score in taken], np.float64),
        time=np.array([score.time for score in taken], np.float64),
        actions=len(index),
        left_out=left_out,
    )


def _name(reference: str) -> str:
    """What a family is called wherever its policy lies: its name, or its file's."""
    return reference.rpartition("/")[2]


def _order(score: Score) -> tuple[str, str, float, str, int]:
    """By key; of an image that is there twice, the first one comes first."""
    choice = score.choice
    return score.key, choice.policy_version, score.time, choice.tables, choice.quality


def _obstacle(score: Score, looks_at: int) -> Optional[str]:
    """Why a score cannot be used, if it cannot, whatever its action."""
    if score.status != SCORED:
        return NOT_SCORED
    if len(score.features) != looks_at:
        return NOT_SEEN
    if score.choice.verified_by is not None:
        return VERIFIED
    likely = 0 < score.propensity <= 1 and 0 < score.sampling_probability <= 1
    sound = score.agreement in (0, 1) and score.size_ratio > 0 and math.isfinite(score.time)
    if not (likely and sound and all(map(math.isfinite, (score.size_ratio, *score.features)))):
        return BROKEN
    return None
