"""ChooseQuality: which JPEG configuration each image gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.policy import DEFAULT_QUALITY, FixedPolicy
from beam_adacompress.records import Choice, ChosenImage
from beam_adacompress.transforms import rows
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs, failure_shape


@dataclasses.dataclass
class ChooseQuality(SeveralOutputs):
    """Adds to each image the choice of its JPEG configuration.

    Takes rows with `key: str` and `data: bytes`, e.g. `EncodedImage`; gives `ChosenImage`, or, where the input
    has other fields, rows with those and `choice`. The second output, `failures`, holds `ImageFailure` rows. A
    fixed quality never fails: it does not look at the image.

    Args:
      quality: the JPEG quality for every image, 1..100.
      tables: quantisation-table family: a name in `jpeg.FAMILIES`, or the path of a fitted one's JSON file.

    Raises:
      TypeError, ValueError: an argument is no quality, or no known family.
    """

    quality: int = DEFAULT_QUALITY
    tables: str = ANNEXK

    def __post_init__(self) -> None:
        super().__post_init__()
        self._policy = FixedPolicy(self.quality, self.tables)

    def expand(self, images: beam.PCollection[Any]) -> ImagesAndFailures:
        fields = rows.fields_of(images, "ChooseQuality", {"key": str, "data": bytes})
        chosen, chosen_type = rows.shape(fields, "ChooseQuality", {"choice": Choice}, ChosenImage)
        _, failure_type = failure_shape(fields, "ChooseQuality")
        outputs = images | "Choose" >> (
            beam.ParDo(_Choose(self._policy, chosen))
            .with_output_types(chosen_type, **{FAILURES: failure_type})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _Choose(beam.DoFn):
    def __init__(self, policy: FixedPolicy, chosen: rows.Shape) -> None:
        self._choice = policy.choose()
        self._chosen = chosen
        self._metrics = StageMetrics("ChooseQuality")

    def process(self, row: Any) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        self._metrics.chose(self._choice.quality)
        yield self._chosen.make(row, choice=self._choice)
        self._metrics.gave(len(row.data))
