"""What a format of shards can do. A shard is a file that holds many images, and other things beside them.

It is read twice, from beginning to end, and never held in memory as a whole:

    records:  shard ─▶ image, image, image ...        which are then compressed
    rewrite:  shard ─▶ the same shard, with results in the places of images
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import BinaryIO, ClassVar, NamedTuple, Optional

MAX_BYTES = 512 * 1024 * 1024


class Record(NamedTuple):
    """One image of a shard."""

    name: str  # unique in its shard, a relative path: of a tar's member; else its position, e.g. `00000012`
    data: Optional[bytes]  # the image; None where there is none, or not one that can be taken
    problem: Optional[str] = None  # why there is none, one sentence for people
    may_rename: bool = True  # False where a result in another format could not take a name that says so


class Replacement(NamedTuple):
    """What takes the place of an image."""

    data: bytes  # a JPEG
    renamed: bool  # the image was none: its name, where the format gives it one, wants another extension


Replace = Callable[[str], Optional[Replacement]]  # by the name of a record; None: it stays as it is


@dataclasses.dataclass(frozen=True)
class ShardFormat(abc.ABC):
    """A format of shards.

    Args:
      image_field: where the image is in a record, in the format's own terms; None for the usual place.
      max_bytes: larger images are not taken, but carried along.
    """

    image_field: Optional[str] = None
    max_bytes: int = MAX_BYTES

    name: ClassVar[str]

    @abc.abstractmethod
    def records(self, source: BinaryIO) -> Iterator[Record]:
        """The images of a shard, in order.

        Args:
          source: the shard, at its beginning; it can be sought in.

        Raises:
          ImageError: `corrupt-shard`: it is damaged from here on; `no-such-field`: it has no `image_field`.
          OSError: it cannot be read.
        """

    @abc.abstractmethod
    def rewrite(self, source: BinaryIO, target: BinaryIO, replace: Replace) -> None:
        """Copies a shard, with results in the places of images; all else is as it was, bit for bit and in order.

        Args:
          source: as for `records`.
          target: where to write.
          replace: the result for a record's name.

        Raises:
          ImageError, OSError: as `records`.
        """

    def too_large(self, size: int) -> Optional[str]:
        """The problem of an image of so many bytes; None if it has none."""
        if size <= self.max_bytes:
            return None
        return f"{size} bytes are more than the limit of {self.max_bytes}; raise it with --max-bytes"
