"""The action space as data: what a policy may choose from, with the tables of its families."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.jpeg import tables
from beam_adacompress.jpeg.tables import Family, Quantisation
from beam_adacompress.policy.verify import LADDER


class Action(NamedTuple):
    """One JPEG configuration."""

    tables: str  # name of a family of the space
    quality: int  # 1..100


@dataclasses.dataclass(frozen=True)
class ActionSpace:
    """Families, each at the same qualities; actions are numbered family by family, qualities ascending.

    Args:
      families: with different names.
      qualities: 1..100, ascending.

    Raises:
      ValueError: there is no action, a quality is out of range or not in order, or two families have one name.
    """

    families: tuple[Family, ...]
    qualities: tuple[int, ...] = LADDER

    def __post_init__(self) -> None:
        names = [family.name for family in self.families]
        if not self.families or not self.qualities:
            raise ValueError("an action space needs at least one family and one quality")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two families of tables are called {repeated[0]}: rename one of their files")
        if (
            list(self.qualities) != sorted(set(self.qualities))
            or not 1 <= self.qualities[0] <= self.qualities[-1] <= 100
        ):
            raise ValueError(f"qualities must ascend from 1 to 100 at most, got {self.qualities}")

    def __len__(self) -> int:
        return len(self.families) * len(self.qualities)

    def __getitem__(self, index: int) -> Action:
        family, step = divmod(index, len(self.qualities))
        return Action(self.families[family].name, self.qualities[step])

    def __iter__(self) -> Iterator[Action]:
        return (Action(family.name, quality) for family in self.families for quality in self.qualities)

    def index(self, action: Action) -> int:
        """The number of an action.

        Raises:
          ValueError: it is none of the space.
        """
        names = [family.name for family in self.families]
        return names.index(action.tables) * len(self.qualities) + self.qualities.index(action.quality)

    def quantisation(self, index: int) -> Quantisation:
        """The tables of an action."""
        family, step = divmod(index, len(self.qualities))
        return self.families[family].at(self.qualities[step])

    def distinct(self) -> tuple[list[Quantisation], NDArray[np.intp]]:
        """The different tables of the space, and for each action which of them it has: steps end at 1 and 255."""
        every = [self.quantisation(index) for index in range(len(self))]
        unique = list(dict.fromkeys(every))
        return unique, np.array([unique.index(each) for each in every], np.intp)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "families": [json.loads(family.to_json()) for family in self.families],
            "qualities": list(self.qualities),
        }


def from_json(content: Mapping[str, Any], path: str) -> ActionSpace:
    """Reads what `ActionSpace.to_json` gave.

    Raises:
      AdaCompressError: a family is of an unknown version; `path` is for the message.
      KeyError, TypeError, ValueError: it is no action space.
    """
    families = [tables.from_json(json.dumps(each).encode(), path) for each in content["families"]]
    return ActionSpace(tuple(families), tuple(int(quality) for quality in content["qualities"]))


def action_space(references: Sequence[str], qualities: Sequence[int] = LADDER, read: Read = read_local) -> ActionSpace:
    """A space of families by their names, or by the paths of their files.

    Raises:
      AdaCompressError: a family cannot be read.
      ValueError: as `ActionSpace`, or a reference is neither.
    """
    for reference in references:
        tables.check_action(reference, qualities[0])
    return ActionSpace(tuple(tables.family(reference, read) for reference in references), tuple(qualities))
