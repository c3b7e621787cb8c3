"""From trials to what an agent learns from: outcomes of actions, and images kept apart by their keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_adacompress import reward
from beam_adacompress.sampling import draw
from beam_adacompress.trials import NO_ANSWER, Trial

Floats = NDArray[np.float64]

TRAIN = "train"
VALIDATE = "validate"  # when to stop
CALIBRATE = "calibrate"  # what may be promised
TEST = "test"  # what is reported
_SHARES = ((TRAIN, 0.5), (VALIDATE, 0.1), (CALIBRATE, 0.2), (TEST, 0.2))


def part_of(key: str, salt: str = "") -> str:
    """Which part of the data an image belongs to, by its key alone: half of the images train, a fifth tests."""
    drawn = draw(key, f"part {salt}")
    for part, share in _SHARES:
        if drawn < share:
            return part
        drawn -= share
    return TEST


class Logged(NamedTuple):
    """Single outcomes: what a run logs, or all entries of a table."""

    features: Floats  # `(rows, features)`
    action: NDArray[np.intp]  # `(rows,)`
    propensity: Floats  # with which the action was taken, `(rows,)`
    agreement: Floats  # 0 or 1, `(rows,)`
    size: Floats  # bytes, `(rows,)`
    bytes_75: Floats  # at AdaCompress's reference, `(rows,)`


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """A table: every image under every action.

    Args:
      keys: of the images.
      features: `(images, features)`.
      sizes: bytes, `(images, actions)`.
      agreement: 0 or 1, of all backends together, `(images, actions)`.
      strict: the same with the best label alone.
      bytes_in: of the reference, `(images,)`.
      bytes_75: at AdaCompress's reference, `(images,)`.
    """

    keys: tuple[str, ...]
    features: Floats
    sizes: Floats
    agreement: Floats
    strict: Floats
    bytes_in: Floats
    bytes_75: Floats

    def __post_init__(self) -> None:
        images, actions = self.sizes.shape
        assert self.features.shape[0] == images, (self.features.shape, self.sizes.shape)
        assert self.agreement.shape == self.strict.shape == (images, actions), (self.agreement.shape, self.sizes.shape)
        assert self.bytes_in.shape == self.bytes_75.shape == (images,), (self.bytes_in.shape, images)

    def of(self, parts: Collection[str], salt: str = "") -> Outcomes:
        """The images of some parts."""
        return self.take([index for index, key in enumerate(self.keys) if part_of(key, salt) in parts])

    def take(self, indices: Sequence[int]) -> Outcomes:
        """Some of the images."""
        chosen = np.asarray(indices, np.intp)
        arrays = {
            field.name: getattr(self, field.name)[chosen] for field in dataclasses.fields(self) if field.name != "keys"
        }
        return Outcomes(keys=tuple(self.keys[index] for index in indices), **arrays)

    def logged(self) -> Logged:
        """Every entry as if it had been logged: all actions taken on each image."""
        images, actions = self.sizes.shape
        return Logged(
            features=np.repeat(self.features, actions, axis=0),
            action=np.tile(np.arange(actions), images),
            propensity=np.ones(images * actions),
            agreement=self.agreement.ravel(),
            size=self.sizes.ravel(),
            bytes_75=np.repeat(self.bytes_75, actions),
        )


def outcomes(trials: Sequence[Trial], columns: Sequence[int], top: int = reward.TOP) -> Outcomes:
    """The table of trials; images without an answer of any backend to any action are left out.

    Args:
      trials: of one or several backends.
      columns: for each action, which configuration of the trials it is.
      top: labels of the compressed image among which the reference's best one has to be.
    """
    by_key: dict[str, list[Trial]] = {}
    for trial in trials:
        by_key.setdefault(trial.key, []).append(trial)
    backends = len({trial.backend for trial in trials})
    complete = {
        key: several
        for key, several in sorted(by_key.items())
        if len(several) == backends and not any(NO_ANSWER in trial.ranks for trial in several)
    }
    taken = list(columns)
    width = max(taken) + 1
    ranks = np.array([[trial.ranks for trial in several] for several in complete.values()], np.int64)
    ranks = ranks.reshape(len(complete), backends, -1 if complete else width)[:, :, taken]
    firsts = [several[0] for several in complete.values()]
    return Outcomes(
        keys=tuple(complete),
        features=np.array([trial.features for trial in firsts], np.float64),
        sizes=np.array([trial.sizes for trial in firsts], np.float64).reshape(len(firsts), -1 if firsts else width)[
            :, taken
        ],
        agreement=np.asarray(((ranks >= 1) & (ranks <= top)).all(axis=1), np.float64),
        strict=np.asarray((ranks == 1).all(axis=1), np.float64),
        bytes_in=np.array([trial.bytes_in for trial in firsts], np.float64),
        bytes_75=np.array([trial.bytes_75 for trial in firsts], np.float64),
    )
