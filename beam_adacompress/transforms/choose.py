"""ChooseQuality: which JPEG configuration each image gets."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional, Union

import apache_beam as beam

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import Backend
from beam_adacompress.backends import backend as backend_of
from beam_adacompress.backends.manners import Manners
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import decoded
from beam_adacompress.jpeg.codec import obstacle_of
from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.policy import DEFAULT_QUALITY, FixedPolicy
from beam_adacompress.policy.policies import DEFAULT, Onlooker, Serving, onlooker
from beam_adacompress.records import Choice, ChosenImage
from beam_adacompress.transforms import files, reload, rows
from beam_adacompress.transforms.connection import Connection, limits_of
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs, failure, failure_shape
from beam_adacompress.transforms.reload import Following, Service
from beam_adacompress.transforms.runners import check_runner
from beam_adacompress.transforms.verify import VerifyChoice

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass
class ChooseQuality(SeveralOutputs):
    """Adds to each image the choice of its JPEG configuration.

    Takes rows with `key: str` and `data: bytes`, e.g. `EncodedImage`; gives `ChosenImage`, or, where the input
    has other fields, rows with those and `choice`. The second output, `failures`, holds `ImageFailure` rows: images
    that cannot be decoded. (A fixed quality never fails: it does not look at the image.)

    A learned policy decides for each image; the one that comes with this package where nothing else is said. It looks
    at the decoded image, which a `CompressJPEG` in the same stage takes over, so that images are decoded once.

    A folder of published policies stands for the latest of them: the one with which a batch job starts, or, in a
    streaming job and with `refresh`, each newer one as soon as a worker sees it. What the drift stage writes beside
    them about exploring then takes the place of `explore`. Each choice names the version that made it; a version that
    cannot be loaded is refused and logged, and the one before it stays.

    With `verify`, the choice is only where the search starts: the image gets the cheapest action at which those
    backends really see what they see in the original, see `transforms.verify`. The choice then names them. Where none
    will do, the image is left as it is; where a backend gives no answer, it is a failure. What one network verifies
    another need not agree with.

    Args:
      quality: one JPEG quality for every image, 1..100, in the place of a policy.
      tables: quantisation-table family of that quality: a name in `jpeg.FAMILIES`, or the path of a fitted one's JSON
        file. With it alone, the quality is 35.
      verify: backends, as URIs such as `litert:model.tflite` or as Backends, or one of them; all have to agree.
      verify_margin: how many of the next finer qualities have to agree as well.
      top: labels of the compressed image among which the reference's best one has to be.
      encoder: the arguments that `CompressJPEG` is given, so that what is chosen is what will be written.
      cache, max_calls, max_cost, calls_per_second, timeout, retries, concurrency: as for `ScoreWithBackend`; limits
        are for one backend.
      policy: folder of a policy, or of published ones, on any filesystem that Beam knows, or `default`.
      agreement: that the policy is to promise, 0..1; None for what it was trained for. If it cannot, it says so, and
        every image is left as it is.
      confidence: of that promise, 0..1; None for that of training.
      explore: probability with which an image gets what the policy would do at another of its settings, each alike, so
        that what is logged can be learned from.
      seed: of exploring.
      refresh: seconds after which a worker looks for a newer version again; None for once in a batch job, and every 60
        in a streaming job.

    Raises:
      TypeError, ValueError: an argument is no quality, no known family or backend, out of range, or excludes another.
      AdaCompressError: the cache's filesystem cannot keep the limits.
    """

    quality: Optional[int] = None
    tables: Optional[str] = None
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
    policy: Optional[str] = None
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    explore: float = 0.0
    seed: int = 0
    refresh: Optional[float] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decider()
        names = [field.name for field in dataclasses.fields(jpeg.Settings)]
        if set(self.encoder or {}) - set(names):
            raise TypeError(f"ChooseQuality: encoder must be a mapping of {', '.join(names)}, got {self.encoder!r}")
        self._settings = jpeg.Settings(**(self.encoder or {}))
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if self.verify_margin < 0:
            raise ValueError(f"verify_margin must be at least 0, got {self.verify_margin}")
        limits = limits_of(self)
        connections = self._connections()
        if self.verify_margin and not connections:
            raise ValueError("verify_margin is about verifying: give verify=BACKEND too")
        if self.explore and connections:
            raise ValueError("a verified choice does not explore: give explore or verify, not both")
        if limits and len(connections) != 1:
            raise ValueError(f"{limits[0]} is for one backend to verify with, and {len(connections)} are given")

    def decider(self) -> Union[FixedPolicy, Serving]:
        """What decides: one quality for all, or a learned policy.

        Raises:
          TypeError, ValueError: an argument is out of range, or excludes another.
        """
        fixed = [name for name in ("quality", "tables") if getattr(self, name) is not None]
        if not fixed:
            reload.check(self.policy, self.refresh)
            return Serving(
                DEFAULT if self.policy is None else self.policy,
                self.agreement,
                self.confidence,
                self.explore,
                self.seed,
            )
        if self.policy is not None:
            raise ValueError(f"policy and {fixed[0]} exclude each other: a policy chooses both quality and tables")
        for name in ("agreement", "confidence", "explore", "refresh"):
            if getattr(self, name) != getattr(ChooseQuality, name):
                raise ValueError(f"{name} is a policy's, and {fixed[0]} is fixed for every image: give one of them")
        quality = DEFAULT_QUALITY if self.quality is None else self.quality
        return FixedPolicy(quality, ANNEXK if self.tables is None else self.tables)

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
        check_runner(images.pipeline)
        fields = rows.fields_of(images, "ChooseQuality", {"key": str, "data": bytes})
        chosen, chosen_type = rows.shape(fields, "ChooseQuality", {"choice": Choice}, ChosenImage)
        failed, failure_type = failure_shape(fields, "ChooseQuality")
        decider, connections = self.decider(), self._connections()
        proposal: Union[Choice, Service[Onlooker]]
        pinned: dict[str, Any] = {}
        if isinstance(decider, FixedPolicy):
            proposal = decider.choose()
        else:
            refresh = reload.refresh_for(images, decider.policy, self.refresh)
            pinned = reload.side_input(images, decider.policy, refresh)
            make = functools.partial(_load, decider, None if connections else self._settings)
            proposal = Service(decider.policy, make, refresh, "ChooseQuality")
        choose: beam.DoFn
        if connections:
            choose = VerifyChoice(proposal, connections, self.verify_margin, self.top, self._settings, chosen, failed)
        elif isinstance(proposal, Choice):
            choose = _Choose(proposal, chosen)
        else:
            choose = _ChooseByPolicy(proposal, self._settings, chosen, failed)
        outputs = images | "Choose" >> (
            beam.ParDo(choose, **pinned)
            .with_output_types(chosen_type, **{FAILURES: failure_type})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


def _load(serving: Serving, settings: Optional[jpeg.Settings], folder: str) -> Onlooker:
    """The policy in a folder; says what it cannot promise where images are compressed with these settings."""
    loaded = onlooker(dataclasses.replace(serving, policy=folder), files.read)
    if settings is not None and (warning := loaded.policy.warning(settings)) is not None:
        _LOGGER.warning(warning)
    return loaded


class _Choose(beam.DoFn):
    """One choice for all images."""

    def __init__(self, choice: Choice, chosen: rows.Shape) -> None:
        self._choice = choice
        self._chosen = chosen
        self._metrics = StageMetrics("ChooseQuality")

    def process(self, row: Any) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        self._metrics.chose(self._choice.quality)
        yield self._chosen.make(row, choice=self._choice)
        self._metrics.gave(len(row.data))


class _ChooseByPolicy(beam.DoFn):
    """A policy's choice for each image; the policy is loaded once in a process.

    One image at a time rather than through RunInference: deciding takes a hundredth of decoding, so there is nothing to
    gain from batches, and an image that waits in one would be decoded a second time.
    """

    def __init__(
        self, service: Service[Onlooker], settings: jpeg.Settings, chosen: rows.Shape, failed: rows.Shape
    ) -> None:
        self._service = service
        self._settings = settings
        self._chosen = chosen
        self._failed = failed
        self._metrics = StageMetrics("ChooseQuality")

    def process(self, row: Any, pinned: Optional[str] = None) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        try:
            choice = self._choice(row, self._service.now(pinned))
        except ImageError as error:
            self._metrics.failed()
            yield failure(self._failed, row, "ChooseQuality", error)
            return
        self._metrics.chose(choice.quality)
        yield self._chosen.make(row, choice=choice)
        self._metrics.gave(len(row.data))

    def _choice(self, row: Any, service: Following[Onlooker]) -> Choice:
        looker = service.current
        opened = jpeg.open_image(row.data, self._settings.max_pixels)
        if obstacle_of(opened, self._settings):
            return looker.policy.left_alone()  # it will be kept, and CompressJPEG says why
        picture = jpeg.open_picture(opened, self._settings)
        advice = service.advice_for(looker.policy.version)
        explore = None if advice is None else advice.explore
        choice = looker.policy.choose(looker.look(opened, picture), row.key, explore)
        decoded.keep(opened, picture, self._settings)
        return choice
