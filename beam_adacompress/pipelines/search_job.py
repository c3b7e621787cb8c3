"""What a search for tables is asked to do, and the folder that it keeps."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import backend as backend_of
from beam_adacompress.pipelines.asking import Asking
from beam_adacompress.transforms import files
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.runs import RunFolder

QUALITIES = (5, 8, 11, 15, 20, 26, 34, 45, 60, 80)  # of the standard tables' curve
A_ROUND = 12  # proposals
ADVANCE = 4  # of them, that see all images
FINALISTS = 3
NEARBY = 2  # qualities on each side of the one searched at, at which the finalists are compared
FEWEST = 12  # images
JUDGING = 3  # one image of so many is kept to see what the result is worth
LEVELLING = 24  # images by which shapes are brought to one size


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search is asked to do.

    Args:
      backend: URI.
      agreement: share of the images, 0..1, at which the standard tables are to be beaten.
      top: labels of the compressed image among which the reference's best one has to be.
      images: how many it looks at; a third of them only to see what the result is worth.
      rounds: of A_ROUND proposals.
      asking: limits and manners; they hold over the whole search.

    Raises:
      ValueError: an argument is out of range, or the budget is too small.
    """

    backend: str
    agreement: float = 0.97
    top: int = reward.TOP
    images: int = 300
    rounds: int = 10
    asking: Asking = dataclasses.field(default_factory=Asking)

    def __post_init__(self) -> None:
        if self.name in ("replay", "record"):
            raise ValueError(
                f"{self.name} knows images by their JPEG quality, and searched tables have none: ask the backend"
            )
        asked = backend_of(self.backend)
        Connection(
            asked,
            self.asking.manners(),
            self.asking.cache or ".",
            self.asking.max_calls,
            self.asking.max_cost,
            self.asking.calls_per_second,
        )
        if not 0 < self.agreement <= 1:
            raise ValueError(f"agreement must be above 0 and at most 1, got {self.agreement}")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if self.images < FEWEST:
            raise ValueError(f"search_images must be at least {FEWEST}, got {self.images}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        limits = self.asking.max_calls, self.asking.max_cost
        affordable = None if asked.terms_need_open else asked.terms.most_calls(*limits)
        if affordable is None:
            affordable = self.asking.max_calls
        if affordable is not None and self.calls > affordable:
            raise ValueError(
                f"{self.rounds} rounds over {self.images} images take up to {self.calls} calls, and max_calls and "
                f"max_cost allow {affordable}: allow more, or give fewer rounds or search_images"
            )

    @property
    def name(self) -> str:
        """Of the backend, without its path and parameters."""
        return self.backend.partition(":")[0].partition("?")[0]

    @property
    def calls(self) -> int:
        """The most that it makes, not counting repeated ones; networks in the worker see references in every step."""
        others = self.images // JUDGING
        mine = self.images - others
        first = -(-mine // 3)
        nearby = 2 * NEARBY + 1
        a_round = A_ROUND * first + ADVANCE * (mine - first)
        references = mine * (2 * self.rounds + 2) if backend_of(self.backend).terms_need_open else mine
        searching = mine * (len(QUALITIES) + FINALISTS * nearby) + self.rounds * a_round
        return references + searching + others * (1 + 2 * nearby)


class SearchFolder(RunFolder):
    """Paths below the folder of a search."""

    FORMAT: ClassVar[str] = "adacompress.table-search"

    @property
    def steps(self) -> str:
        return files.join(self.output, "steps")

    def folders(self) -> tuple[str, ...]:
        return (self.steps,)

    def step(self, name: str) -> str:
        return files.join(self.steps, f"{name}.parquet")


class Fit(Protocol):
    """What of a pipelines.tables.FitJob concerns a search."""

    @property
    def input(self) -> str: ...

    @property
    def output(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def overwrite(self) -> bool: ...

    @property
    def settings(self) -> jpeg.Settings: ...
