"""AddCopies: images to train with, and copies of them, see `jpeg.augment`."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import apache_beam as beam

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg.augment import augmented
from beam_adacompress.policy.outcomes import TRAIN, part_of


class CopiedImage(NamedTuple):
    """An image, or a copy of one."""

    key: str  # of the image
    data: bytes
    parent: Optional[str]  # sha256 of the image that it is a copy of; None for the image itself


@dataclasses.dataclass
class AddCopies(beam.PTransform):
    """Gives each image, and behind it copies of those that a policy learns from.

    Takes rows with `key: str` and `data: bytes`; gives `CopiedImage`. An image that cannot be decoded has no copies;
    whoever comes next says what is wrong with it.

    Args:
      count: copies of an image.
      part: the seed by which images are dealt out, see `policy.outcomes.part_of`: those that do not train have no
        copies; None to copy all.
      max_pixels: as for `jpeg.Settings`.

    Raises:
      ValueError: count is below 0.
    """

    count: int
    part: Optional[int] = None
    max_pixels: int = jpeg.Settings.max_pixels

    def __post_init__(self) -> None:
        super().__init__()
        if self.count < 0:
            raise ValueError(f"augment must be at least 0 copies, got {self.count}")

    def expand(self, images: beam.PCollection[Any]) -> beam.PCollection[CopiedImage]:
        each = functools.partial(with_copies, count=self.count, part=self.part, max_pixels=self.max_pixels)
        return images | "Copy" >> beam.FlatMap(each).with_output_types(CopiedImage)


def with_copies(row: Any, count: int, part: Optional[int], max_pixels: int) -> Iterator[CopiedImage]:
    """An image, and behind it its copies. Arguments as for AddCopies."""
    yield CopiedImage(row.key, row.data, None)
    digest = hashlib.sha256(row.data).hexdigest()
    if not count or (part is not None and part_of(digest, str(part)) != TRAIN):
        return
    try:
        pixels = jpeg.open_image(row.data, max_pixels).pixels()
    except ImageError:
        return
    for number in range(count):
        yield CopiedImage(row.key, augmented(pixels, (int(digest[:8], 16), number)), digest)
