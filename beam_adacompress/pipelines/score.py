"""`adacompress score`: ask a backend about a sample of what a compress run made.

SampleRun (names) ─▶ shuffle ─▶ ReadPairs ─▶ ScoreWithBackend ─┬ scores ──▶ WriteScores ─▶ summary
    └ images by action                          └ failures ────┴ usage ─────▲
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import backends, report, reward, sampling
from beam_adacompress.backends.client import Manners
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.options import (
    JobOptions,
    UsageError,
    absolute,
    adder,
    check_failures,
    check_shared,
    parse,
)
from beam_adacompress.pipelines.progress import Progress
from beam_adacompress.pipelines.progress import Scoring as Watching
from beam_adacompress.transforms import files
from beam_adacompress.transforms.pairs import ReadPairs, SampleRun, choice_of, manifest_parts, stored_image
from beam_adacompress.transforms.replies import ReplyCache
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.score import ScoreWithBackend
from beam_adacompress.transforms.score_sinks import ScoreFolder, Tick, WriteScores
from beam_adacompress.transforms.sources import input_root
from beam_adacompress.version import versions


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How images are sampled and a backend is asked; all as for ScoreWithBackend.

    Without `cache` the answers are kept in the user's cache folder, or, where the output is not on a disk, in
    OUTPUT/cache.
    """

    sample_rate: float = ScoreWithBackend.sample_rate
    min_action_share: float = ScoreWithBackend.min_action_share
    salt: str = ScoreWithBackend.salt
    top: int = ScoreWithBackend.top
    errors: str = ScoreWithBackend.errors
    max_calls: Optional[int] = None
    max_cost: Optional[float] = None
    calls_per_second: Optional[float] = None
    timeout: float = Manners.timeout
    retries: int = Manners.retries
    concurrency: Optional[int] = None
    cache: Optional[str] = None

    def sampler(self) -> sampling.Sampler:
        return sampling.Sampler(self.sample_rate, self.min_action_share, salt=self.salt)


@dataclasses.dataclass(frozen=True)
class ScoreJob:
    """One score run; the fields are the options of `adacompress score`.

    Args:
      input: the output of a compress run.
      output: the score run's folder.
      backend: a URI, see `backends.BACKENDS`.
      originals: folder that the keys are relative to; None for where the compress run found them.
      overwrite: discard what an earlier score run left in the output.
      max_failures: the largest share of sampled images without a score with which the job still succeeds.
      scoring: how.

    Raises:
      ValueError: an option is out of range.
      AdaCompressError: the limits cannot be kept in the cache.
    """

    input: str
    output: str
    backend: str
    originals: Optional[str] = None
    overwrite: bool = False
    max_failures: Optional[float] = None
    scoring: Scoring = dataclasses.field(default_factory=Scoring)

    def __post_init__(self) -> None:
        check_shared(self.max_failures)
        self.score_with_backend()
        self.scoring.sampler()

    @property
    def cache(self) -> str:
        return self.scoring.cache or default_cache(self.output)

    def score_with_backend(self) -> ScoreWithBackend:
        """For images that have been sampled already."""
        given = dataclasses.asdict(self.scoring)
        return ScoreWithBackend(self.backend, **{**given, "sample_rate": 1.0, "cache": self.cache})

    def options(self) -> dict[str, Any]:
        """What the results depend on, for the record."""
        scoring = dataclasses.asdict(self.scoring)
        return {"input": self.input, "backend": self.backend, **scoring, "cache": self.cache}

    def prepared(self, software: Mapping[str, str]) -> ScoreJob:
        """Claims the output; the same job again replaces what it made, at no cost for what is in the cache."""
        folder = ScoreFolder(self.output)
        folder.prepare(self.options(), software, self.overwrite)
        files.delete([folder.scores, folder.failures, folder.rows])
        return self


class ScoringOptions(PipelineOptions):
    """The fields of Scoring as pipeline options."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add("--sample-rate", type=float, default=Scoring.sample_rate, help="share of the images to score, 0 to 1")
        add(
            "--min-action-share",
            type=float,
            default=Scoring.min_action_share,
            help="share of the sample that each quality and table family keeps, however rarely it was chosen",
        )
        add("--salt", default=Scoring.salt, help="another salt samples other images")
        add("--top", type=int, default=Scoring.top, help="labels among which the reference's best one has to be")
        add(
            "--errors",
            default=Scoring.errors,
            choices=reward.ERRORS,
            help="whether a result in which the backend sees nothing any more counts as a disagreement, or is left out",
        )
        add("--max-calls", type=int, help="calls that the whole job makes at most, repeated ones counted")
        add("--max-cost", type=float, metavar="USD", help="what the whole job spends at most")
        add("--calls-per-second", type=float, help="of all workers together")
        add("--timeout", type=float, default=Scoring.timeout, metavar="SECONDS", help="after which a call is given up")
        add("--retries", type=int, default=Scoring.retries, help="of a call that failed and may succeed later")
        add("--concurrency", type=int, help="calls at once in each worker; 16, or 1 for a model in the worker")
        add(
            "--cache",
            metavar="FOLDER",
            help="where answers are kept, so that none is paid for twice; all workers have to reach it "
            "(not given: the user's cache folder, or OUTPUT/cache where the output is not on a disk)",
        )


class ScoreOptions(PipelineOptions):
    """The options that only `adacompress score` has."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        known = ", ".join(backends.BACKENDS)
        add(
            "--backend", help=f"what to ask, e.g. google-vision or litert:model.tflite?labels=names.txt; one of {known}"
        )
        add(
            "--originals",
            metavar="FOLDER",
            help="where the originals are, if they have moved since they were compressed",
        )
        # Beam has a --dry_run of its own, which builds a Dataflow job without running it.
        parser.add_argument(
            "--dry-run",
            dest="plan_only",
            action="store_true",
            help="say how many calls it would make and what they would cost, and make none",
        )


def default_cache(output: str) -> str:
    """Where answers are kept if nobody says where."""
    if not files.is_local(output):
        return files.join(output, "cache")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "beam-adacompress")


def score(ready: beam.PCollection[Any], job: ScoreJob, started: float, watched: bool = False) -> beam.PCollection[str]:
    """Adds the job to a pipeline.

    Args:
      ready: has one element, whatever it is, when the compress run is complete.
      job: what to do; paths are absolute, and the output is claimed.
      started: when the job began, in seconds since the epoch.
      watched: whether to write what `progress.Scoring` reads, on this machine's disk.

    Returns:
      The path of the summary, when it is written.
    """
    sampled = ready | "SampleRun" >> SampleRun(RunFolder(job.input), originals_of(job), job.scoring.sampler())
    pairs = sampled.images | "ReadPairs" >> ReadPairs()
    scored = pairs.images | "ScoreWithBackend" >> job.score_with_backend()
    failures = (pairs.failures, scored.failures) | "ScoreFailures" >> beam.Flatten()
    if watched:
        _ = scored.usage | "Tick" >> Tick(ScoreFolder(job.output))
    results = {"scores": scored.scores, "failures": failures, "usage": scored.usage, "counts": sampled.counts}
    return results | "WriteScores" >> WriteScores(ScoreFolder(job.output), job.options(), versions(), started)


def originals_of(job: ScoreJob) -> str:
    """The folder with the originals of a run.

    Raises:
      AdaCompressError: the input holds no run.
    """
    if job.originals is not None:
        return job.originals
    options = RunFolder(job.input).earlier_options()
    if options is None or "input" not in options:
        raise AdaCompressError(f"{job.input} holds no run of adacompress compress: give the --output of one as --input")
    return input_root(options["input"])


class Plan(NamedTuple):
    """What scoring a run would take."""

    images: int  # of the run, written ones
    sampled: int
    calls: int  # at most, without retries
    cached: int  # answers that are there already
    cost: float  # USD
    terms: backends.Terms


def plan(job: ScoreJob) -> Plan:
    """Counts calls and their cost; calls nothing.

    Raises:
      AdaCompressError: the run, or a local backend's model, cannot be read.
    """
    folder, root = RunFolder(job.input), originals_of(job)
    backend = backends.backend(job.backend)
    if backend.terms_need_open:
        backend.open(files.read)
    terms = backend.terms
    cache = ReplyCache(job.cache, terms)
    counts: dict[str, int] = {}
    for part in manifest_parts(folder):
        for row in read_rows(part.path):
            if row.is_written:
                action = sampling.action_of(choice_of(row))
                counts[action] = counts.get(action, 0) + 1
    sampler = dataclasses.replace(job.scoring.sampler(), action_shares=counts)
    sampled = 0
    asked: set[str] = set()
    cached: set[str] = set()
    for part in manifest_parts(folder):
        for row in read_rows(part.path):
            image = stored_image(row, folder, root, sampler, part.shard)
            if image is not None:
                sampled += 1
                for digest in (image.sha256_in, image.sha256_out):
                    known = terms.cacheable and cache.has(digest)
                    (cached if known else asked).add(digest)
    calls = len(asked) if terms.cacheable else 2 * sampled
    allowed = terms.most_calls(job.scoring.max_calls, job.scoring.max_cost)
    calls = calls if allowed is None else min(calls, allowed)
    return Plan(sum(counts.values()), sampled, calls, len(cached), calls * terms.price, terms)


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress score ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, or failed.
    """
    started = time.time()
    values, rest = parse(
        "adacompress score",
        "Score a sample of the images of a compress run with a backend.",
        [JobOptions, ScoreOptions, ScoringOptions],
        ["--input", "--output", "--backend"],
        sys.argv[1:] if argv is None else argv,
    )
    for name in ("input", "output", "originals", "cache"):
        values[name] = values[name] and absolute(values[name])
    options = PipelineOptions(rest, **values)
    FileSystems.set_options(options)
    try:
        job = job_of(ScoreJob, values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    if values["plan_only"]:
        print(described(plan(job)))
        return 0
    if next(manifest_parts(RunFolder(job.input)), None) is None or files.status(RunFolder(job.input).summary) is None:
        raise AdaCompressError(f"the run {job.input} is not finished: run its adacompress compress again, it goes on")
    runner, is_local = local.choose_runner(options, rest)
    job.prepared(versions())
    pipeline = beam.Pipeline(runner, options)
    watched = is_local and files.is_local(job.output)
    score(pipeline | "Start" >> beam.Create([None]), job, started, watched)
    progress = Progress(Watching(ScoreFolder(job.output)), sys.stderr.isatty()) if watched else contextlib.nullcontext()
    if local.run_to_end(pipeline, options, progress):
        conclude(job)
    return 0


def job_of(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A job from the values of its options; `scoring` is made from those of Scoring."""
    scoring = Scoring(**{field.name: values[field.name] for field in dataclasses.fields(Scoring)})
    own = {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
    return kind(**own, scoring=scoring)


def described(planned: Plan) -> str:
    """The plan in words."""
    terms = planned.terms
    share = planned.sampled / planned.images if planned.images else 0.0
    return (
        f"{planned.sampled} of {planned.images} images ({share:.1%}) would be scored with {terms.name}: at most "
        f"{planned.calls} calls, retries not counted ({planned.cached} answers are in the cache), "
        f"{report.dollars(planned.cost)} at {terms.price:g} USD a call; no call was made"
    )


def conclude(job: ScoreJob) -> None:
    """Prints what a score run came to.

    Raises:
      TooManyFailuresError: more images failed than the job allows.
    """
    folder = ScoreFolder(job.output)
    content = json.loads(files.read(folder.summary))
    images, usage, estimates = content["images"], content["usage"], content["estimates"]
    names = ", ".join(sorted({backend["name"] for backend in content["backends"]})) or job.backend.partition(":")[0]
    print(
        f"{estimates['images']} of {images['total']} images scored with {names}: {usage['calls']} calls, of them "
        f"{usage['retries']} retries, {usage['cache_hits']} answers from the cache, {report.dollars(usage['cost_usd'])}"
    )
    for name in ("agreement", "strict_agreement", "reward", "size_ratio"):
        if (interval := estimates[name]) is not None:
            print(
                f"{name.replace('_', ' '):<16} {interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
            )
    print(
        "means over the images of the run, with 95 % intervals" if estimates["images"] else "nothing to estimate from"
    )
    for status, text in (
        ("no-reference", "no label for the original"),
        ("skipped", "no label for the result, skipped"),
    ):
        if images.get(status):
            print(f"{text}: {images[status]} images")
    if images["failed"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in content["failures"].items())
        print(f"no score: {images['failed']} images ({reasons}), see {folder.failures}")
    print(f"summary: {folder.summary}")
    check_failures(images["failed"], images["sampled"], job.max_failures)
