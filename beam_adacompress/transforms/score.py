"""ScoreWithBackend: what a backend says of a sample of the images, before and after.

    CompressedImage ─▶ sampled? ─▶ ask for the reference ─▶ ask for the compressed image ─▶ Score
                          │                 └────────── BackendError ──────────────────────▶ failure row
                          └─────▶ (with a policy) look at the reference: features ──────────▲

A row holds both images, so nothing is joined and no image crosses a shuffle. Rows wait for their answers side by
side; each leaves with the timestamp and in the window that it came in.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import Backend, BackendError, Query, contract
from beam_adacompress.backends import backend as backend_of
from beam_adacompress.backends.manners import Answered, Manners
from beam_adacompress.backends.pairs import PairAnswered, ask_pair
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg.codec import obstacle_of
from beam_adacompress.jpeg.tables import ORIGINAL
from beam_adacompress.policy import artefact
from beam_adacompress.policy.lookahead import Looking
from beam_adacompress.policy.policies import Serving
from beam_adacompress.records import Choice, CompressedImage, Score, Usage
from beam_adacompress.sampling import Sampler
from beam_adacompress.transforms import files, reload, rows
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.metrics import CallMetrics, StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, SeveralOutputs, failure_row, failure_shape
from beam_adacompress.transforms.reload import Following, Service
from beam_adacompress.transforms.runners import check_runner
from beam_adacompress.transforms.side_by_side import SideBySide

USAGE = "usage"

_STAGE = "ScoreWithBackend"
_NEEDED = {"key": str, "data": bytes, "choice": Choice, "compressed": bytes}
_ADDED: rows.Fields = {name: kind for name, kind in Score.__annotations__.items() if name not in ("key", "choice")}
_OURS = [name for name in (*CompressedImage._fields, "features", "sampling_probability") if name != "key"]


class ScoresAndFailures(NamedTuple):
    """What ScoreWithBackend returns."""

    scores: beam.PCollection[Any]  # Score, or a row with its fields and the input's other ones
    failures: beam.PCollection[Any]  # ImageFailure, likewise
    usage: beam.PCollection[Usage]  # one row for each sampled image, failed ones too


@dataclasses.dataclass
class ScoreWithBackend(SeveralOutputs):
    """Asks a backend what it sees in a sample of the images, before and after compression.

    Takes rows with `key: str`, `data: bytes` (the reference), `choice: Choice` and `compressed: bytes`, as
    `CompressJPEG` gives them; gives `Score` rows for the sampled ones, with the input's other fields. Where the input
    has `features`, they become the score's; where it has a `sampling_probability`, it has been sampled before, and the
    score's is the product. `failures` holds `ImageFailure` rows for sampled images without an answer; the reasons are
    the words in `backends.contract`. `usage` says what each sampled image took.

    With a policy, scores can be learned from: where rows have no `features`, what it sees of the references is computed
    while the calls are under way. An image that cannot be decoded, or that it left alone without a look, has none.

    A call is one image sent to the backend, also if it is sent again, and also if several go in one request; it counts
    as paid whatever its answer. Limits hold over the whole job, whatever the number of workers, through a ledger in
    the cache's folder (see `transforms.ledger`). Images that the limits leave without a call are failures with the
    reason `budget-spent`.

    Args:
      backend: a URI such as `google-vision` or `litert:model.tflite`, see `backends.BACKENDS`, or a Backend.
      sample_rate: share of the images that is scored, 0..1, decided by a hash of the key.
      min_action_share: share of the sample that each action keeps, see `sampling.Sampler`.
      action_shares: share of the images by action, e.g. `{"annexk-35": 0.9, "annexk-75": 0.1}`, where known.
      salt: of the hash; another salt samples other images.
      top: labels of the compressed image among which the reference's best label has to be.
      errors: `count` an empty answer for a compressed image as a disagreement, or `skip` it, as AdaCompress did.
      max_calls: of the job; None for no limit.
      max_cost: of the job, in USD; None for no limit.
      calls_per_second: of the job, all workers together; None for no limit.
      timeout, retries, concurrency, pause: as for `backends.manners.Manners`; concurrency in each worker process.
      cache: a folder on any filesystem that Beam knows, shared by all workers and by later jobs: answers are kept
        there, and none is paid for twice. Limits need it.
      policy: folder of the policy that chose, or of published ones, or `default`; None for no features.
      refresh: seconds after which a worker looks again for a newer version of the policy, and for what the drift stage
        writes beside it: for images that the policy chose for, its sample rate takes the place of `sample_rate`. None
        for neither in a batch job, and every 60 in a streaming job.

    Raises:
      TypeError, ValueError: an argument is out of range, or the backend is not known.
      AdaCompressError: the cache's filesystem cannot keep the limits.
    """

    backend: Union[str, Backend]
    sample_rate: float = 0.1
    min_action_share: float = 0.02
    action_shares: Optional[Mapping[str, float]] = None
    salt: str = ""
    top: int = reward.TOP
    errors: str = reward.COUNT
    max_calls: Optional[int] = None
    max_cost: Optional[float] = None
    calls_per_second: Optional[float] = None
    timeout: float = Manners.timeout
    retries: int = Manners.retries
    concurrency: Optional[int] = None
    pause: float = Manners.pause
    cache: Optional[str] = None
    policy: Optional[str] = None
    refresh: Optional[float] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._backend = backend_of(self.backend) if isinstance(self.backend, str) else self.backend
        if not self._backend.terms_need_open:
            _ = self._backend.terms  # a price that is none
        self._sampler = Sampler(self.sample_rate, self.min_action_share, self.action_shares, self.salt)
        self._manners = Manners(self.timeout, self.retries, self.concurrency, self.pause)
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if self.errors not in reward.ERRORS:
            raise ValueError(f"errors must be one of {', '.join(reward.ERRORS)}, got {self.errors!r}")
        reload.check(self.policy, self.refresh)
        if self.policy is not None:
            Serving(self.policy)
        self._connection()

    def _connection(self) -> Connection:
        # A ledger is of one job: the same transform applied again has limits of its own.
        return Connection(
            self._backend, self._manners, self.cache, self.max_calls, self.max_cost, self.calls_per_second
        )

    def expand(self, images: beam.PCollection[Any]) -> ScoresAndFailures:
        check_runner(images.pipeline)
        fields = rows.fields_of(images, _STAGE, _NEEDED)
        ours = tuple(name for name in _OURS if name in fields and name != "choice")
        scored, scored_type = rows.shape(fields, _STAGE, _ADDED, Score, ours)
        failed, failed_type = failure_shape(fields, _STAGE, _OURS)
        service, pinned = None, {}
        if self.policy is not None:
            refresh = reload.refresh_for(images, self.policy, self.refresh)
            pinned = reload.side_input(images, self.policy, refresh)
            service = Service(self.policy, _sight, refresh, _STAGE)
        score = _Score(self._connection(), self._sampler, self.top, self.errors, service, scored, failed)
        outputs = images | "Score" >> (
            beam.ParDo(score, **pinned)
            .with_output_types(scored_type, **{FAILURES: failed_type, USAGE: Usage})
            .with_outputs(FAILURES, USAGE, main="scores")
        )
        return ScoresAndFailures(outputs.scores, outputs.failures, outputs.usage)


def _sight(folder: str) -> Looking:
    """What the policy in a folder looks through."""
    loaded, _ = artefact.load(Serving(folder).path, files.read)
    return loaded.sight.open(files.read)


def features_of(row: Any, looking: Looking) -> list[float]:
    """What a policy sees of the reference; empty where that cannot be decoded, or the policy did not look."""
    for_certain = row.choice.tables == ORIGINAL and row.choice.propensity == 1
    try:
        opened = jpeg.open_image(row.data, jpeg.Settings.max_pixels)
        if for_certain and obstacle_of(opened, jpeg.Settings()):
            return []
        return list(map(float, looking(opened, jpeg.open_picture(opened, jpeg.Settings()))))
    except ImageError:
        return []


class _Sampled(NamedTuple):
    """A row that waits for its answers."""

    row: Any
    probability: float  # with which it was sampled
    features: list[float]


class _Score(SideBySide):
    def __init__(
        self,
        connection: Connection,
        sampler: Sampler,
        top: int,
        errors: str,
        service: Optional[Service[Looking]],
        scored: rows.Shape,
        failed: rows.Shape,
    ) -> None:
        self._connection = connection
        self._sampler = self._advised = sampler
        self._top = top
        self._errors = errors
        self._service = service
        self._scored = scored
        self._failed = failed
        self._metrics = StageMetrics(_STAGE)
        self._calls = CallMetrics(_STAGE)

    def setup(self) -> None:
        self._client = self._connection.client()

    def process(
        self,
        row: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pinned: Optional[str] = None,
    ) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        following = None if self._service is None else self._service.now(pinned)
        sampler = self._sampler_for(row.choice, following)
        if not sampler.samples(row.key, row.choice):
            return
        self._calls.sampled()
        answer = self._ask(row)
        features = list(getattr(row, "features", ()))
        if not features and following is not None:
            features = features_of(row, following.current)
        sampled = _Sampled(row, sampler.probability(row.choice), features)
        size = len(row.data) + len(row.compressed)
        yield from self.wait_for(sampled, answer, size, timestamp, window, self._client.in_flight)

    def _sampler_for(self, choice: Choice, following: Optional[Following[Looking]]) -> Sampler:
        advice = None if following is None else following.advice_for(choice.policy_version)
        if advice is None:
            return self._sampler
        if advice.sample_rate != self._advised.rate:
            self._advised = dataclasses.replace(self._sampler, rate=advice.sample_rate)
        return self._advised

    def _ask(self, row: Any) -> Future[PairAnswered]:
        error = self._client.terms.too_many_pixels(getattr(row, "width", 0), getattr(row, "height", 0))
        if error is not None:
            refused: Future[PairAnswered] = Future()
            refused.set_result(PairAnswered(Answered(error), None))
            return refused
        quality = None if row.compressed == row.data else row.choice.quality
        return ask_pair(self._client, Query(row.data, row.key, None), Query(row.compressed, row.key, quality))

    def outputs(self, sampled: _Sampled, result: PairAnswered) -> Iterator[tuple[Optional[str], Any]]:
        row, probability, features = sampled
        self._calls.throttled(self._client.take_throttled())
        usage = self._usage(row.key, result)
        self._calls.used(usage)
        yield USAGE, usage
        reference, compressed = result
        last = compressed or reference
        if isinstance(last.answer, BackendError):
            if last.answer.reason == contract.CREDENTIALS:
                raise AdaCompressError(last.answer.message)  # no image will be scored before that is mended
            self._metrics.failed()
            yield FAILURES, failure_row(self._failed, row, _STAGE, last.answer)
            return
        assert not isinstance(reference.answer, BackendError)
        compressed_labels = last.answer if compressed is not None else ()
        ratio = len(row.compressed) / len(row.data)
        judgement = reward.judge(reference.answer, compressed_labels, ratio, self._top, self._errors)
        self._metrics.gave(len(row.compressed))
        yield (
            None,
            self._scored.make(
                row,
                features=features,
                propensity=row.choice.propensity,
                sampling_probability=probability * getattr(row, "sampling_probability", 1.0),
                reference_labels=list(reference.answer),
                compressed_labels=list(compressed_labels),
                size_ratio=ratio,
                backend=self._client.terms.name,
                backend_version=self._client.terms.version,
                latency=None if compressed is None else compressed.latency,
                cost=usage.cost,
                time=time.time(),
                **judgement._asdict(),
            ),
        )

    def _usage(self, key: str, pair: PairAnswered) -> Usage:
        answered = [side for side in pair if side is not None]
        calls = sum(side.calls for side in answered)
        return Usage(
            key=key,
            calls=calls,
            retries=sum(side.retries for side in answered),
            cache_hits=sum(side.from_cache for side in answered),
            throttled=sum(side.throttled for side in answered),
            cost=calls * self._client.terms.price,
        )
