"""What a compress run would come to, from a sample of its images: bytes, failures, agreement, calls, time.

    sample ─▶ Tried rows ─▶ Survey ─▶ predict ─▶ Prediction ─▶ to_json, or prediction_text.said for people

Nothing here reads or writes anything.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from beam_adacompress import sampling
from beam_adacompress.estimates import Z95, Interval
from beam_adacompress.records import COMPRESSED, FAILED, KEPT, Choice
from beam_adacompress.survey import Survey

BUSY = 0.7  # share of the time in which a worker's vCPU works; the rest is reading, writing and waiting
STARTUP = 180.0  # seconds until a worker of Dataflow works: the machine starts, and the package is installed
MACHINE = "e2-standard-4"  # where nothing else is asked for, as docs/dataflow.md advises
SCORE, VERIFY = "score", "verify"  # what calls are for
VERIFYING = Interval(5.0, 4.0, 6.0)  # calls an image of verified choice, with the networks of benchmarks/results


class Tried(NamedTuple):
    """What became of one image of the sample."""

    key: str
    status: str  # `compressed`, `kept` or `failed`
    reason: Optional[str]  # why, where it was not compressed
    tables: Optional[str]  # that were chosen; None where it failed
    quality: Optional[int]
    bytes_in: int
    bytes_out: int  # 0 where it failed
    cpu: Optional[float]  # seconds that reading, choosing and compressing took; None where that was not measured
    calls: int  # of backends that verified the choice
    agreement: Optional[int]  # measured, 0 or 1; None where the backend was not asked, or has no label for the original
    scoring_cpu: Optional[float]  # seconds that asking for it took

    @property
    def is_written(self) -> bool:
        """Whether the run would write a result."""
        return self.status != FAILED


class Asked(NamedTuple):
    """A backend that the run would ask."""

    name: str
    price: float  # USD a call
    is_local: bool
    most_calls: Optional[int] = None  # that the job's limits allow


class Scored(NamedTuple):
    """How the run would score its images."""

    backend: Asked
    sampler: sampling.Sampler


@dataclasses.dataclass(frozen=True)
class Promised:
    """What the policy promises.

    Args:
      policy: its version.
      agreement, confidence: 0..1.
      images: that it was calibrated on.
    """

    policy: str
    agreement: float
    confidence: float
    images: int


@dataclasses.dataclass(frozen=True)
class Calls:
    """Calls of one backend, and their price.

    Args:
      backend: its name.
      what: `score` or `verify`.
      calls: that the run makes, at most: answers that are kept already, and retries, are not counted.
      price: USD a call.
      measured: whether the sample was asked about; else it is arithmetic.
    """

    backend: str
    what: str
    calls: Interval
    price: float
    measured: bool

    @property
    def cost(self) -> Interval:
        """USD."""
        return _times(self.calls, self.price)


@dataclasses.dataclass(frozen=True)
class Machines:
    """Where the run would be.

    Args:
      here: worker processes on this machine.
      dataflow: whether it is Dataflow.
      machine_type: of Dataflow's workers.
      workers: of Dataflow.
      price: USD for one worker and hour; None where it is not known.
    """

    here: int
    dataflow: bool = False
    machine_type: str = MACHINE
    workers: int = 1
    price: Optional[float] = None

    def __post_init__(self) -> None:
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ValueError(f"worker_price must be a number of USD from 0, got {self.price}")

    @property
    def vcpus(self) -> Optional[int]:
        """Of a worker; None where its type does not say."""
        found = re.search(r"custom-(\d+)-\d+|-(\d+)$", self.machine_type)
        return int(found.group(1) or found.group(2)) if found else None


@dataclasses.dataclass(frozen=True)
class Dataflow:
    """Hours on Dataflow.

    Args:
      vcpu_hours: CPU time, and the share of the time in which vCPUs wait.
      worker_hours: of all workers together, start-up included; None where the machine type's vCPUs are not known.
      hours: from beginning to end.
      cost: USD; None where no price was given.
    """

    vcpu_hours: Interval
    worker_hours: Optional[Interval]
    hours: Optional[Interval]
    cost: Optional[Interval]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a run over the whole corpus would come to; numbers are means with 95 % intervals.

    Args:
      sample: images that were tried.
      seed: of the sample.
      exact: whether those are all images.
      images, compressed, kept, failed: images.
      reasons: by status, images of the sample by reason.
      qualities: images of the sample by quality, of the compressed ones.
      bytes_in, bytes_out, saved: of written images.
      bytes_failed: of failed ones.
      size_ratio: bytes_out / bytes_in; None where nothing is written.
      promised: what the policy promises; None where it promises nothing, or a quality is fixed.
      agreement: measured in the sample with the backend that scores; None where it was not asked.
      agreed_on: images of the sample that it answered.
      calls: of backends.
      cpu_per_image: seconds; None where the sample is too small to say.
      cpu: seconds, of all images, scoring in the worker included.
      seconds_here: of `machines.here` workers, start-up not included.
      dataflow: the same on Dataflow.
      machines: where the run would be.
    """

    sample: int
    seed: int
    exact: bool
    images: Interval
    compressed: Interval
    kept: Interval
    failed: Interval
    reasons: Mapping[str, Mapping[str, int]]
    qualities: Mapping[int, int]
    bytes_in: Interval
    bytes_out: Interval
    saved: Interval
    bytes_failed: Interval
    size_ratio: Optional[Interval]
    promised: Optional[Promised]
    agreement: Optional[Interval]
    agreed_on: int
    calls: Sequence[Calls]
    cpu_per_image: Optional[Interval]
    cpu: Optional[Interval]
    seconds_here: Optional[Interval]
    dataflow: Optional[Dataflow]
    machines: Machines

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-able; intervals as objects, an end that is not known as null."""
        found: dict[str, Any] = _jsonable(self)
        return found


def predict(
    survey: Survey,
    seed: int,
    machines: Machines,
    promised: Optional[Promised] = None,
    scored: Optional[Scored] = None,
    verifying: Sequence[Asked] = (),
) -> Prediction:
    """Predicts a run from a sample of Tried rows.

    Args:
      survey: the sample.
      seed: of it.
      machines: where the run would be.
      promised: what the policy promises.
      scored: how the run would score its images; None: it would not.
      verifying: backends that would have to agree. Where all are local, the sample was verified by them.
    """
    tried = [each for unit in survey.drawn for each in unit.drawn]

    def size(what: str) -> Interval:
        return survey.total(lambda each: float(getattr(each, what)) if each.is_written else 0.0) or _NOTHING

    agreement = survey.share(lambda each: each.agreement)
    cpu = survey.total(lambda each: each.cpu, finite=False)
    scoring = None if scored is None else survey.total(lambda each: each.scoring_cpu, finite=False)
    if cpu is not None and scored is not None and scoring is not None:
        cpu = _plus(cpu, _times(scoring, scored.sampler.rate))
    return Prediction(
        sample=len(tried),
        seed=seed,
        exact=survey.is_whole,
        images=survey.images,
        compressed=survey.count(lambda each: each.status == COMPRESSED),
        kept=survey.count(lambda each: each.status == KEPT),
        failed=survey.count(lambda each: each.status == FAILED),
        reasons={status: _counted(each.reason for each in tried if each.status == status) for status in (KEPT, FAILED)},
        qualities=_counted(each.quality for each in tried if each.status == COMPRESSED),
        bytes_in=size("bytes_in"),
        bytes_out=size("bytes_out"),
        saved=survey.total(lambda each: float(each.bytes_in - each.bytes_out) if each.is_written else 0.0) or _NOTHING,
        bytes_failed=survey.total(lambda each: 0.0 if each.is_written else float(each.bytes_in)) or _NOTHING,
        size_ratio=survey.ratio(
            lambda each: float(each.bytes_out), lambda each: float(each.bytes_in) if each.is_written else 0.0
        ),
        promised=promised,
        agreement=agreement,
        agreed_on=sum(each.agreement is not None for each in tried),
        calls=[
            *_calls_of_verifying(survey, verifying),
            *([] if scored is None else [_calls_of_scoring(survey, scored)]),
        ],
        cpu_per_image=None if cpu is None else Interval(*(each / survey.images.mean for each in cpu)),
        cpu=cpu,
        seconds_here=None if cpu is None else _times(cpu, 1 / machines.here),
        dataflow=None if cpu is None else on_dataflow(cpu, machines),
        machines=machines,
    )


_NOTHING = Interval(0.0, 0.0, 0.0)


def on_dataflow(cpu: Interval, machines: Machines) -> Dataflow:
    """Hours on Dataflow of so many CPU seconds.

    vCPU hours = CPU seconds / 3600 / BUSY
    worker hours = vCPU hours / vCPUs of a worker + workers * STARTUP / 3600
    hours = worker hours / workers
    """
    vcpu_hours = _times(cpu, 1 / 3600 / BUSY)
    if machines.vcpus is None:
        return Dataflow(vcpu_hours, None, None, None)
    starting = machines.workers * STARTUP / 3600
    worker_hours = Interval(*(each / machines.vcpus + starting for each in vcpu_hours))
    cost = None if machines.price is None else _times(worker_hours, machines.price)
    return Dataflow(vcpu_hours, worker_hours, _times(worker_hours, 1 / machines.workers), cost)


def _calls_of_scoring(survey: Survey, scored: Scored) -> Calls:
    """Two calls for each image that is sampled, one where the result is the original."""
    backend, sampler = scored
    images: dict[str, float] = {}
    for unit in survey.drawn:
        for each in unit.drawn:
            if each.is_written:
                action = sampling.action_of(_choice_of(each))
                images[action] = images.get(action, 0.0) + unit.images / len(unit.drawn)
    scale = survey.units / max(1, len(survey.drawn))
    sampler = dataclasses.replace(sampler, action_shares={action: scale * n for action, n in images.items()})

    def calls(each: Tried) -> int:
        return 0 if not each.is_written else 1 if each.status == KEPT else 2

    if survey.is_whole:
        every = (each for unit in survey.drawn for each in unit.drawn if each.is_written)
        count = float(sum(calls(each) for each in every if sampler.samples(each.key, _choice_of(each))))
        found = Interval(count, count, count)
    else:

        def expected(each: Tried) -> float:
            return calls(each) * sampler.probability(_choice_of(each)) if each.is_written else 0.0

        def spread(each: Tried) -> float:  # of whether it is sampled
            return expected(each) * (calls(each) - expected(each)) if each.is_written else 0.0

        mean = survey.by_count(expected)
        half = math.hypot(mean.high - mean.mean, Z95 * math.sqrt(survey.by_count(spread).mean))
        found = Interval(mean.mean, max(0.0, mean.mean - half), mean.mean + half)
    return Calls(backend.name, SCORE, _at_most(found, backend.most_calls), backend.price, measured=False)


def _calls_of_verifying(survey: Survey, verifying: Sequence[Asked]) -> Iterator[Calls]:
    measured = all(each.is_local for each in verifying)
    for backend in verifying:
        if measured:
            calls = _times(survey.total(lambda each: float(each.calls)) or _NOTHING, 1 / len(verifying))
        else:
            written = survey.count(lambda each: each.is_written)
            calls = Interval(*(count * each for count, each in zip(written, VERIFYING)))
        yield Calls(backend.name, VERIFY, _at_most(calls, backend.most_calls), backend.price, measured)


def _times(value: Interval, factor: float) -> Interval:
    return Interval(*(each * factor for each in value))


def _plus(one: Interval, other: Interval) -> Interval:
    """The sum of two; the ends as if they were independent."""
    mean = one.mean + other.mean
    low, high = (math.hypot(*(getattr(each, end) - each.mean for each in (one, other))) for end in ("low", "high"))
    return Interval(mean, max(0.0, mean - low), mean + high)


def _at_most(calls: Interval, most: Optional[int]) -> Interval:
    return calls if most is None else Interval(*(min(each, float(most)) for each in calls))


def _counted(values: Any) -> dict[Any, int]:
    return dict(sorted(collections.Counter(values).items()))


def _choice_of(each: Tried) -> Choice:
    assert each.tables is not None, each
    assert each.quality is not None, each
    return Choice(each.tables, each.quality, "", 1.0, None)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: None if math.isinf(each) else each for name, each in value._asdict().items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _jsonable(each) for name, each in value.items()}
    return [_jsonable(each) for each in value] if isinstance(value, (list, tuple)) else value
