"""The two outputs that every transform on images has, and the base of transforms with several outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints.decorators import IOTypeHints
from apache_beam.utils.windowed_value import WindowedValue

from beam_adacompress.arguments import check_types
from beam_adacompress.backends import BackendError
from beam_adacompress.errors import ImageError
from beam_adacompress.records import ImageFailure
from beam_adacompress.transforms import rows

FAILURES = "failures"

_FAILURE_FIELDS: rows.Fields = {name: kind for name, kind in ImageFailure.__annotations__.items() if name != "key"}


class SeveralOutputs(beam.PTransform):
    """Base of transforms whose `expand` returns a NamedTuple of PCollections.

    Beam takes an annotated return type for the type of a single output and warns at each use; the types of several
    outputs are stated where they are made.
    """

    def __post_init__(self) -> None:
        super().__init__()
        check_types(self)

    def default_type_hints(self) -> Optional[IOTypeHints]:
        hints = IOTypeHints.from_callable(self.expand)
        if hints is None:  # Beam YAML puts a function without annotations in the place of expand
            return None
        return hints._replace(output_types=None).strip_pcoll()


class ImagesAndFailures(NamedTuple):
    """What a transform on images returns: `images, failures = rows | CompressJPEG()`."""

    images: beam.PCollection[Any]
    failures: beam.PCollection[Any]  # ImageFailure, or a row with its fields and the input's other ones


def failure_shape(
    fields: rows.Fields, transform: str, ours: Collection[str] = ("data", "choice")
) -> tuple[rows.Shape, Any]:
    """Failure rows carry the input's fields except ours: the image itself and what had been decided about it."""
    dropped = tuple(name for name in ours if name in fields)
    return rows.shape(fields, transform, _FAILURE_FIELDS, ImageFailure, dropped)


def failure(shape: rows.Shape, row: Any, stage: str, error: ImageError) -> Any:
    """The failure row of an image, for the second output."""
    return beam.pvalue.TaggedOutput(FAILURES, failure_row(shape, row, stage, error))


def failure_row(shape: rows.Shape, row: Any, stage: str, error: Union[ImageError, BackendError]) -> Any:
    """The failure row of an image."""
    return shape.make(row, stage=stage, reason=error.reason, error=error.message)


def in_global_window(value: Any) -> WindowedValue:
    """What `finish_bundle` of a batch job gives out."""
    window = GlobalWindow()
    return WindowedValue(value, window.max_timestamp(), (window,))
