"""From images to the statistic that quantisation tables are fitted to.

    ImageFile (names) ─▶ by class ─▶ SampleFiles ─▶ shuffle ─▶ ReadFiles ─▶ MeasureBands ─▶ BandStats

Classes are folders: a class with many images must not decide alone what the tables are made for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import apache_beam as beam

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import native
from beam_adacompress.jpeg.bands import BandStats
from beam_adacompress.sampling import draw
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import SeveralOutputs
from beam_adacompress.transforms.sources import ImageFile


def class_of(key: str) -> str:
    """The folder that an image is in, which is its class: `shirts/1.jpg` is one of `shirts`."""
    return key.rpartition("/")[0]


@dataclasses.dataclass
class SampleFiles(beam.PTransform):
    """Draws the same number of images of each class, as far as there are as many.

    Args:
      per_class: images of each class; None for all.
      seed: another one draws other images.
    """

    per_class: Optional[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"per_class must be at least 1, got {self.per_class}")

    def expand(self, images: beam.PCollection[ImageFile]) -> beam.PCollection[ImageFile]:
        if self.per_class is None:
            return images
        salt = f"tables {self.seed}"
        return (
            images
            | "Draw" >> beam.Map(lambda file: (class_of(file.key), (-draw(file.key, salt), file)))
            | "OfEachClass" >> beam.combiners.Top.PerKey(self.per_class)
            | "Drawn" >> beam.FlatMapTuple(lambda _, drawn: [file for _, file in drawn]).with_output_types(ImageFile)
        )


@dataclasses.dataclass
class MeasureBands(SeveralOutputs):
    """Adds up the DCT coefficients of all images, un-quantised, band by band.

    Takes rows with `data: bytes`; gives one BandStats. Images that cannot be decoded are counted as failed in the
    metrics and left out.

    Args:
      subsampling: of the chrominance, as the encoder will have it.
      max_pixels: larger images are left out.
    """

    subsampling: str = jpeg.Settings.subsampling
    max_pixels: int = jpeg.Settings.max_pixels

    def expand(self, images: beam.PCollection[Any]) -> beam.PCollection[BandStats]:
        return (
            images
            | "Measure" >> beam.ParDo(_Measure(self.subsampling, self.max_pixels)).with_output_types(BandStats)
            | "AddUp" >> beam.CombineGlobally(Merge(BandStats))
        )


class _Measure(beam.DoFn):
    def __init__(self, subsampling: str, max_pixels: int) -> None:
        self._subsampling = subsampling
        self._max_pixels = max_pixels
        self._metrics = StageMetrics("MeasureBands")

    def process(self, row: Any) -> Iterator[BandStats]:
        self._metrics.took(len(row.data))
        try:
            opened = jpeg.open_image(row.data, self._max_pixels)
            stats = BandStats()
            coded = native.open_coded(row.data, self._max_pixels) if opened.is_coded else None
            if coded is None or not stats.add_coded(coded, self._subsampling):
                stats.add(opened.pixels(), self._subsampling)
        except ImageError:
            self._metrics.failed()
            return
        yield stats
