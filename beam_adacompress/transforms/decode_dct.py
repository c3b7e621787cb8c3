"""DecodeDCT: the coefficients of JPEGs as a transform."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Optional

import apache_beam as beam
from apache_beam import coders

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import dct
from beam_adacompress.transforms import rows
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs, failure, failure_shape
from beam_adacompress.transforms.runners import check_runner

coders.registry.register_coder(dct.DecodedDCT, coders.RowCoder)

_ADDED: rows.Fields = {name: kind for name, kind in dct.DecodedDCT.__annotations__.items() if name != "key"}


@dataclasses.dataclass
class DecodeDCT(SeveralOutputs):
    """Reads the DCT coefficients of JPEGs, the input of networks that work without pixels.

    Takes rows with `key: str` and `data: bytes`; gives `jpeg.DecodedDCT`, without `data`, or, where the input has
    other fields, rows with those too. `jpeg.unpack` makes arrays of a row. The second output, `failures`, holds
    `ImageFailure` rows; `jpeg.read_dct` lists their reasons.

    The rows are 10 to 40 times as large as the files: use them in the stage that makes them, and shuffle the files.

    The arguments are those of `jpeg.read_dct`.

    Raises:
      ValueError: an argument is none of the allowed ones, or they do not go together.
    """

    dequantised: bool = True
    subsampling: Optional[str] = None
    order: str = "natural"
    max_pixels: int = jpeg.Settings.max_pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        dct.check_arguments(self.dequantised, self.subsampling, self.order)
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")

    def expand(self, images: beam.PCollection[Any]) -> ImagesAndFailures:
        check_runner(images.pipeline)
        fields = rows.fields_of(images, "DecodeDCT", {"key": str, "data": bytes})
        decoded, decoded_type = rows.shape(fields, "DecodeDCT", _ADDED, dct.DecodedDCT, dropped=("data",))
        failed, failed_type = failure_shape(fields, "DecodeDCT")
        arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        outputs = images | "Decode" >> (
            beam.ParDo(_Decode(arguments, decoded, failed))
            .with_output_types(decoded_type, **{FAILURES: failed_type})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _Decode(beam.DoFn):
    def __init__(self, arguments: dict[str, Any], decoded: rows.Shape, failed: rows.Shape) -> None:
        self._arguments = arguments
        self._decoded = decoded
        self._failed = failed
        self._metrics = StageMetrics("DecodeDCT")

    def setup(self) -> None:
        dct.require_reader()

    def process(self, row: Any) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        start = time.perf_counter()
        try:
            packed = dct.pack(row.key, dct.read_dct(row.data, **self._arguments))._asdict()
        except ImageError as error:
            self._metrics.failed()
            yield failure(self._failed, row, "DecodeDCT", error)
            return
        self._metrics.lasted(time.perf_counter() - start)
        self._metrics.gave(sum(len(value) for value in packed.values() if isinstance(value, bytes)))
        del packed["key"]  # carried with the other fields
        yield self._decoded.make(row, **packed)
