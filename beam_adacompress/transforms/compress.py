"""CompressJPEG: the encoder as a transform."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Optional

import apache_beam as beam

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg.tables import ORIGINAL, check_action
from beam_adacompress.records import KEPT, Choice, CompressedImage
from beam_adacompress.transforms import files, rows
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs, failure, failure_shape
from beam_adacompress.transforms.runners import check_runner

_ADDED: rows.Fields = {
    name: kind for name, kind in CompressedImage.__annotations__.items() if name not in ("key", "data", "choice")
}


@dataclasses.dataclass
class CompressJPEG(SeveralOutputs):
    """Compresses each image as chosen, or keeps it where that would not make it smaller.

    Takes rows with `key: str`, `data: bytes` and `choice: Choice`, as `ChooseQuality` gives them; gives
    `CompressedImage`, which holds the original and the result side by side, or, where the input has other fields,
    rows with those too. The second output, `failures`, holds `ImageFailure` rows: images that are truncated,
    corrupt, no image at all, or larger than `max_pixels`.

    Args:
      tables: quantisation-table family in the place of the chosen ones: a name in `jpeg.FAMILIES`, or the path of a
        fitted one's JSON file. The row's choice then names it.
      subsampling, optimize, progressive, align, keep_metadata, min_saving, max_pixels, flatten, engine: as in
        `jpeg.Settings`.

    Raises:
      ValueError: an argument is out of range.
    """

    subsampling: str = jpeg.Settings.subsampling
    optimize: bool = jpeg.Settings.optimize
    progressive: bool = jpeg.Settings.progressive
    align: bool = jpeg.Settings.align
    keep_metadata: str = jpeg.Settings.keep_metadata
    min_saving: float = jpeg.Settings.min_saving
    max_pixels: int = jpeg.Settings.max_pixels
    flatten: bool = jpeg.Settings.flatten
    engine: str = jpeg.Settings.engine
    tables: Optional[str] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tables is not None:
            check_action(self.tables, quality=1)
        names = [field.name for field in dataclasses.fields(jpeg.Settings)]
        self._settings = jpeg.Settings(**{name: getattr(self, name) for name in names})

    def expand(self, images: beam.PCollection[Any]) -> ImagesAndFailures:
        check_runner(images.pipeline)
        fields = rows.fields_of(images, "CompressJPEG", {"key": str, "data": bytes, "choice": Choice})
        compressed, compressed_type = rows.shape(fields, "CompressJPEG", _ADDED, CompressedImage)
        failed, failed_type = failure_shape(fields, "CompressJPEG")
        outputs = images | "Compress" >> (
            beam.ParDo(_Compress(self._settings, self.tables, compressed, failed))
            .with_output_types(compressed_type, **{FAILURES: failed_type})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _Compress(beam.DoFn):
    def __init__(
        self, settings: jpeg.Settings, tables: Optional[str], compressed: rows.Shape, failed: rows.Shape
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._compressed = compressed
        self._failed = failed
        self._metrics = StageMetrics("CompressJPEG")

    def process(self, row: Any) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        choice = row.choice
        if self._tables is not None and choice.tables != ORIGINAL:  # what is promised is promised of the chosen tables
            choice = choice._replace(tables=self._tables, expected_agreement=None, verified_by=None)
        start = time.perf_counter()
        try:
            result = jpeg.compress(
                row.data, choice.tables, choice.quality, choice.policy_version, self._settings, files.read
            )
        except ImageError as error:
            self._metrics.failed()
            yield failure(self._failed, row, "CompressJPEG", error)
            return
        seconds = time.perf_counter() - start
        if result.status == KEPT:
            self._metrics.kept()
        self._metrics.lasted(seconds)
        self._metrics.gave(len(result.data))
        yield self._compressed.make(
            row,
            choice=choice,
            compressed=result.data,
            status=result.status,
            reason=result.reason,
            media_type=result.media_type,
            renamed=result.renamed,
            width=result.width,
            height=result.height,
            subsampling=result.subsampling,
            seconds=seconds,
            engine=result.engine,
        )
