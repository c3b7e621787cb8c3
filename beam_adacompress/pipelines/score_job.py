"""What a score run is asked to do: the job and its options."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from beam_adacompress import backends, reward, sampling
from beam_adacompress.backends.manners import Manners
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines.options import UsageError, adder, check_shared
from beam_adacompress.transforms import files
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.score import ScoreWithBackend
from beam_adacompress.transforms.score_sinks import ScoreFolder
from beam_adacompress.transforms.sources import input_root


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
        run, folder = RunFolder(self.input), ScoreFolder(self.output)
        if self.output == self.input or is_below(self.output, [*run.folders(), run.work]):
            raise ValueError(f"the output {self.output} is a part of the run {self.input}: choose another --output")
        if is_below(self.cache, [*run.folders(), run.work, *folder.folders(), folder.work]):
            raise ValueError(f"the cache {self.cache} is where runs delete files: choose another --cache")

    @property
    def cache(self) -> str:
        return self.scoring.cache or default_cache(self.output)

    def score_with_backend(self) -> ScoreWithBackend:
        """For images that have been sampled already."""
        given = dataclasses.asdict(self.scoring)
        return ScoreWithBackend(self.backend, **{**given, "sample_rate": 1.0, "cache": self.cache})

    def options(self) -> dict[str, Any]:
        """All that was asked for, for the record."""
        scoring = dataclasses.asdict(self.scoring)
        return {"input": self.input, "backend": self.backend, **scoring, "cache": self.cache}

    def identity(self) -> dict[str, Any]:
        """What the scores mean depends on: only with the same a run takes the place of an earlier one."""
        meaning = ("input", "backend", "sample_rate", "min_action_share", "salt", "top", "errors")
        return {name: value for name, value in self.options().items() if name in meaning}

    def prepare(self, software: Mapping[str, str]) -> None:
        """Claims the output; the same job again replaces what it made, at no cost for what is in the cache."""
        folder = ScoreFolder(self.output)
        folder.prepare(self.identity(), software, self.overwrite)
        files.delete([folder.rows])


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


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of the folders, or in one of them."""
    return any(files.join(path, "").startswith(files.join(folder, "")) for folder in folders)


def check_limits(job: ScoreJob, options: PipelineOptions) -> None:
    """Refuses limits that would not hold.

    Raises:
      UsageError: the job is a template, whose runs would share one budget, or its workers do not share the cache.
    """
    limits = [name for name in ("max_calls", "max_cost", "calls_per_second") if getattr(job.scoring, name) is not None]
    if not limits:
        return
    option = "--" + limits[0].replace("_", "-")
    if options.view_as(GoogleCloudOptions).template_location:
        raise UsageError(f"{option} holds for one run, and a template is run many times: give it to the run instead")
    if options.view_as(StandardOptions).runner == "DataflowRunner" and files.is_local(job.cache):
        raise UsageError(
            f"{option} is kept in the cache {job.cache}, which Dataflow's workers do not share: give --cache gs://..."
        )


def default_cache(output: str) -> str:
    """Where answers are kept if nobody says where."""
    if not files.is_local(output):
        return files.join(output, "cache")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "beam-adacompress")


def job_of(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A job from the values of its options; `scoring` is made from those of Scoring."""
    scoring = Scoring(**{field.name: values[field.name] for field in dataclasses.fields(Scoring)})
    own = {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
    return kind(**own, scoring=scoring)


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
