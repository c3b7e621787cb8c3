"""Sizes by folder, in bounded memory: folders are cut to as many levels as there is room for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

MOST = 5_000  # folders told apart


class Sizes(NamedTuple):
    """What a folder's images came to."""

    images: int
    failed: int  # of those
    bytes_in: int  # of written images
    bytes_out: int

    def plus(self, other: Sizes) -> Sizes:
        return Sizes(*(one + more for one, more in zip(self, other)))


_NOTHING = Sizes(0, 0, 0, 0)


@dataclasses.dataclass
class Folders:
    """Sizes by the folder of a key; `add` and `merge` give the same whatever the order and the grouping.

    Where there are more than `most` folders, the deepest level is dropped, until there are no more than that; with
    no level left all images are in one folder without a name. A set of images so always ends at the same depth.

    Args:
      most: folders to keep.
      depth: levels that are left; a folder of fewer stands for itself.
      sizes: by folder, `a/b`, without a separator at its end.
    """

    most: int = MOST
    depth: int = 64
    sizes: dict[str, Sizes] = dataclasses.field(default_factory=dict)

    def add(self, key: str, sizes: Sizes) -> None:
        self._put(key.rpartition("/")[0], sizes)
        self._cut()

    def merge(self, other: Folders) -> None:
        assert self.most == other.most, (self.most, other.most)
        self.depth = min(self.depth, other.depth)
        self._fold()
        for folder, sizes in other.sizes.items():
            self._put(folder, sizes)
        self._cut()

    def largest(self, most: int) -> Iterator[tuple[str, Sizes]]:
        """Folders by the bytes of their originals, the largest one first."""
        ranked = sorted(self.sizes.items(), key=lambda item: (-item[1].bytes_in, -item[1].images, item[0]))
        yield from ranked[:most]

    def _put(self, folder: str, sizes: Sizes) -> None:
        if folder.count("/") >= self.depth:
            folder = "/".join(folder.split("/")[: self.depth])
        self.sizes[folder] = self.sizes.get(folder, _NOTHING).plus(sizes)

    def _cut(self) -> None:
        while len(self.sizes) > self.most and self.depth:
            deepest = max(0 if not folder else folder.count("/") + 1 for folder in self.sizes)
            self.depth = min(self.depth, deepest) - 1
            self._fold()

    def _fold(self) -> None:
        folded, self.sizes = self.sizes, {}
        for folder, sizes in folded.items():
            self._put(folder, sizes)
