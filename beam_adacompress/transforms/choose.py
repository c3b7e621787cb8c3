"""ChooseQuality: which JPEG configuration each image gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional, Union

import apache_beam as beam

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import Backend
from beam_adacompress.backends import backend as backend_of
from beam_adacompress.backends.manners import Manners
from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.policy import DEFAULT_QUALITY, FixedPolicy
from beam_adacompress.records import Choice, ChosenImage
from beam_adacompress.transforms import rows
from beam_adacompress.transforms.connection import Connection, limits_of
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs, failure_shape
from beam_adacompress.transforms.verify import VerifyChoice


@dataclasses.dataclass
class ChooseQuality(SeveralOutputs):
    """Adds to each image the choice of its JPEG configuration.

    Takes rows with `key: str` and `data: bytes`, e.g. `EncodedImage`; gives `ChosenImage`, or, where the input
    has other fields, rows with those and `choice`. The second output, `failures`, holds `ImageFailure` rows. A
    fixed quality never fails: it does not look at the image.

    With `verify`, the choice is only a proposal: the image gets the cheapest quality of its table family at which
    those backends really see what they see in the original, looked for from the proposal on, see `policy.verify`. The
    choice then names them. Where not even the finest quality will do, the image is left as it is; where a backend
    gives no answer, it is a failure. What one network verifies another need not agree with.

    Args:
      quality: the JPEG quality for every image, 1..100.
      tables: quantisation-table family: a name in `jpeg.FAMILIES`, or the path of a fitted one's JSON file.
      verify: backends, as URIs such as `litert:model.tflite` or as Backends, or one of them; all have to agree.
      verify_margin: how many of the next finer qualities have to agree as well.
      top: labels of the compressed image among which the reference's best one has to be.
      encoder: the arguments that `CompressJPEG` is given, so that what is verified is what will be written.
      cache, max_calls, max_cost, calls_per_second, timeout, retries, concurrency: as for `ScoreWithBackend`; limits
        are for one backend.

    Raises:
      TypeError, ValueError: an argument is no quality, no known family or backend, or out of range.
      AdaCompressError: the cache's filesystem cannot keep the limits.
    """

    quality: int = DEFAULT_QUALITY
    tables: str = ANNEXK
    verify: Union[str, Backend, Sequence[Union[str, Backend]]] = ()
    verify_margin: int = 0
    top: int = reward.TOP
    encoder: Optional[Mapping[str, Any]] = None
    cache: Optional[str] = None
    max_calls: Optional[int] = None
    max_cost: Optional[float] = None
    calls_per_second: Optional[float] = None
    timeout: float = Manners.timeout
    retries: int = Manners.retries
    concurrency: Optional[int] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._policy = FixedPolicy(self.quality, self.tables)
        self._settings = jpeg.Settings(**(self.encoder or {}))
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if self.verify_margin < 0:
            raise ValueError(f"verify_margin must be at least 0, got {self.verify_margin}")
        limits = limits_of(self)
        connections = self._connections()
        if self.verify_margin and not connections:
            raise ValueError("verify_margin is about verifying: give verify=BACKEND too")
        if limits and len(connections) != 1:
            raise ValueError(f"{limits[0]} is for one backend to verify with, and {len(connections)} are given")

    def _connections(self) -> list[Connection]:
        several = [self.verify] if isinstance(self.verify, (str, Backend)) else self.verify
        return [
            Connection(
                backend_of(each) if isinstance(each, str) else each,
                Manners(self.timeout, self.retries, self.concurrency),
                self.cache,
                self.max_calls,
                self.max_cost,
                self.calls_per_second,
                keeps_local=False,
            )
            for each in several
        ]

    def expand(self, images: beam.PCollection[Any]) -> ImagesAndFailures:
        fields = rows.fields_of(images, "ChooseQuality", {"key": str, "data": bytes})
        chosen, chosen_type = rows.shape(fields, "ChooseQuality", {"choice": Choice}, ChosenImage)
        failed, failure_type = failure_shape(fields, "ChooseQuality")
        proposal = self._policy.choose()
        choose: beam.DoFn = _Choose(proposal, chosen)
        if connections := self._connections():
            choose = VerifyChoice(proposal, connections, self.verify_margin, self.top, self._settings, chosen, failed)
        outputs = images | "Choose" >> (
            beam.ParDo(choose)
            .with_output_types(chosen_type, **{FAILURES: failure_type})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _Choose(beam.DoFn):
    def __init__(self, choice: Choice, chosen: rows.Shape) -> None:
        self._choice = choice
        self._chosen = chosen
        self._metrics = StageMetrics("ChooseQuality")

    def process(self, row: Any) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        self._metrics.chose(self._choice.quality)
        yield self._chosen.make(row, choice=self._choice)
        self._metrics.gave(len(row.data))
