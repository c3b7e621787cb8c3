"""A policy in service is replaced by one that is trained on scores: train, judge, publish, say what came of it.

ROOT/LATEST ─▶ incumbent, with the scores that it learned from ─┬▶ retrain ─▶ better? ─▶ publish ─▶ Retrained
scores, the most recent ones ───────────────────────────────────┘
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Optional

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.policies import Policy, Serving
from beam_adacompress.policy.retraining import Outcome, Retraining, retrain
from beam_adacompress.records import Retrained, Score
from beam_adacompress.scores import MostRecent, from_parquet, to_parquet
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.publishing import MEMORY, LostRaceError, Pointer

PUBLISHED = "published"
KEPT = "kept"
FAILED = "failed"

REMEMBERED = 5_000  # scores that a version keeps for the next one

_LOGGER = logging.getLogger(__name__)


class Incumbent(NamedTuple):
    """The policy that is to be replaced."""

    artefact: PolicyArtefact
    version: str
    pointer: Optional[Pointer]  # that names it; None where nothing is published
    old: Sequence[Score]  # that it was trained on
    lost: str  # why those are not known, if they are not


@dataclasses.dataclass(frozen=True)
class Replacing:
    """Replaces a policy by one that is trained on scores.

    Args:
      policy, recent: as for RetrainAgent.
      root: its `publish`.
      how: to train.
    """

    policy: str
    root: Optional[str]
    recent: int
    how: Retraining

    def found(self) -> tuple[Optional[Pointer], str]:
        """What LATEST says, if there is one, and the folder of the policy in service.

        Raises:
          AdaCompressError: it cannot be read.
        """
        if self.root is not None and (pointer := publishing.latest(self.root)) is not None:
            return pointer, publishing.folder_of(self.root, pointer.version)
        return None, Serving(publishing.resolve(self.policy)).path

    def load(self, folder: str) -> Policy:
        """The policy in a folder, as it is served.

        Raises:
          AdaCompressError, OSError: it cannot be read.
        """
        return Serving(folder, self.how.agreement, self.how.confidence).load(files.read)

    def _incumbent(self) -> Incumbent:
        pointer, folder = self.found()
        policy = self.load(folder)
        return Incumbent(policy.artefact, policy.version, pointer, *_memory(folder))

    def __call__(self, scores: Sequence[Score], drifted: Optional[Collection[str]] = None) -> Retrained:
        """Trains, judges and publishes; whatever goes wrong, the incumbent serves on, and the row says why.

        The same scores give the same version, and one that has learned from them and is in service already is left as
        it is. So a bundle that is tried again, or a job that was killed and runs again, publishes nothing twice.

        Args:
          scores: from the oldest to the newest.
          drifted: versions that have to be replaced; None for any.
        """
        incumbent: Optional[Incumbent] = None
        try:
            incumbent = self._incumbent()
            chose = [row for row in scores if row.choice.policy_version == incumbent.version]
            if chose and (drifted is None or incumbent.version in drifted):
                return self._replaced(incumbent, chose, scores)
            return self._left(incumbent, scores, drifted)
        except (AdaCompressError, OSError) as error:
            reason = str(error)
        except Exception as error:  # of Keras, or of whatever store: none of them may end the job that serves
            _LOGGER.exception("training the policy again failed")
            reason = f"training failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return _row(FAILED, reason, "" if incumbent is None else incumbent.version)

    def _replaced(self, incumbent: Incumbent, chose: Sequence[Score], scores: Sequence[Score]) -> Retrained:
        recent = chose[-self.recent :]
        others = [row for row in scores if row.choice.policy_version != incumbent.version]
        old = [*incumbent.old, *others, *chose[: -self.recent]]
        outcome = retrain(incumbent.artefact, incumbent.version, recent, old, self.how)
        candidate, reason = outcome.candidate, f"{outcome.reason}{incumbent.lost}"
        if candidate is None:
            return _row(KEPT, reason, incumbent.version, outcome)
        version = artefacts.save(candidate, lambda name, data: None)
        told = functools.partial(_row, incumbent=incumbent.version, outcome=outcome, candidate=version)
        if not outcome.publish:
            return told(KEPT, reason)
        if self.root is None:
            return told(KEPT, f"{reason}; it is not published, since no folder for that is given")
        try:
            self._publish(self.root, candidate, incumbent, _remembered([*old, *recent]))
        except LostRaceError as error:
            return told(KEPT, str(error))
        return told(PUBLISHED, reason)

    def _publish(self, root: str, candidate: PolicyArtefact, incumbent: Incumbent, memory: bytes) -> None:
        pointer = incumbent.pointer
        if pointer is None:  # so that there is something to roll back to
            publishing.publish_folder(root, self.policy, None)
            pointer = publishing.latest(root)
            if pointer is None or pointer.version != incumbent.version:
                raise LostRaceError(f"another publisher was first to publish anything in {root}: look what is there")
        publishing.publish(root, candidate, pointer, {MEMORY: memory})

    def _left(self, incumbent: Incumbent, scores: Sequence[Score], drifted: Optional[Collection[str]]) -> Retrained:
        """The row where the version in service is not what this is about."""
        before = None if incumbent.pointer is None else incumbent.pointer.previous
        of_before = [row for row in scores if row.choice.policy_version == before][-self.recent :]
        if before is not None and of_before and set(map(_name, of_before)) <= set(map(_name, incumbent.old)):
            reason = "it has learned from these scores already, and is in service"
            return _row(PUBLISHED, reason, before, candidate=incumbent.version)
        if drifted is not None:
            what = f"it is {', '.join(sorted(drifted))} that has drifted"
        else:
            seen = ", ".join(sorted({row.choice.policy_version for row in scores})) or "no policy"
            what = f"the scores are of {seen}: score what {incumbent.version} chose"
        return _row(KEPT, f"{incumbent.version} is in service, and {what}", incumbent.version)


def _memory(path: str) -> tuple[Sequence[Score], str]:
    """What the policy in a folder has learned from, if it says so; and for people why that is not known any more."""
    memory = files.join(path, MEMORY)
    try:
        content = files.read(memory) if files.exists(memory) else None
    except OSError as error:
        raise AdaCompressError(f"the old scores {memory} cannot be read: {error.strerror or error}") from error
    try:
        return ([] if content is None else from_parquet(content, memory)), ""
    except AdaCompressError as error:  # damaged for good: that must not keep a policy from being trained
        _LOGGER.warning("old scores are left out: %s", error)
        return [], f"; the old scores are left out, {error}"


def _remembered(scores: Iterable[Score]) -> bytes:
    """What a version keeps of the scores that it has learned from."""
    latest = MostRecent(REMEMBERED)
    for row in scores:
        latest.add(row)
    return to_parquet(latest.ordered())


def _name(row: Score) -> tuple[str, str, float]:
    return row.key, row.choice.policy_version, row.time


_NOTHING = Outcome(None, False, "", 0)


def _row(
    status: str, reason: str, incumbent: str, outcome: Outcome = _NOTHING, candidate: Optional[str] = None
) -> Retrained:
    numbers = {name: getattr(outcome, name) for name in Retrained._fields if name in Outcome._fields}
    return Retrained(**{**numbers, "status": status, "reason": reason, "incumbent": incumbent, "candidate": candidate})
