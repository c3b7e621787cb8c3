"""What a score run is asked to do: the job and its options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import reward, sampling
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines.asking import Asking
from beam_adacompress.pipelines.options import adder, check_shared
from beam_adacompress.policy import artefact
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.corpus import Corpus, corpus_of
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.score import ScoreWithBackend
from beam_adacompress.transforms.score_sinks import ScoreFolder


@dataclasses.dataclass(frozen=True)
class Scoring(Asking):
    """How images are sampled and a backend is asked; all as for ScoreWithBackend."""

    sample_rate: float = ScoreWithBackend.sample_rate
    min_action_share: float = ScoreWithBackend.min_action_share
    salt: str = ScoreWithBackend.salt
    top: int = ScoreWithBackend.top
    errors: str = ScoreWithBackend.errors

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
      policy: whose features the scores hold, as for ScoreWithBackend; None for none.
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
    policy: Optional[str] = None
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
        return self.scoring.folder(self.output)

    def score_with_backend(self) -> ScoreWithBackend:
        """For images that have been sampled already."""
        given = {**dataclasses.asdict(self.scoring), "sample_rate": 1.0, "cache": self.cache}
        return ScoreWithBackend(self.backend, **given, policy=self.policy)

    def options(self) -> dict[str, Any]:
        """All that was asked for, for the record."""
        scoring = dataclasses.asdict(self.scoring)
        return {"input": self.input, "backend": self.backend, **scoring, "cache": self.cache, "policy": self.policy}

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
    """The fields that Scoring adds to Asking as pipeline options."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--sample-rate",
            type=float,
            default=Scoring.sample_rate,
            metavar="SHARE",
            help="of the images to score, 0 to 1",
        )
        add(
            "--min-action-share",
            type=float,
            default=Scoring.min_action_share,
            metavar="SHARE",
            help="share of the sample that each quality and table family keeps, however rarely it was chosen",
        )
        add("--salt", default=Scoring.salt, metavar="TEXT", help="another salt samples other images")
        add(
            "--errors",
            default=Scoring.errors,
            choices=reward.ERRORS,
            help="whether a result in which the backend sees nothing any more counts as a disagreement, or is left out",
        )


class ScoreOptions(PipelineOptions):
    """The options that only `adacompress score` has."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--originals",
            metavar="FOLDER",
            help="where the originals are, if they have moved since they were compressed (not given: where they were)",
        )


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of the folders, or in one of them."""
    return any(files.join(path, "").startswith(files.join(folder, "")) for folder in folders)


def job_of(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A job from the values of its options; `scoring` is made from those of Scoring."""
    scoring = Scoring(**{field.name: values[field.name] for field in dataclasses.fields(Scoring)})
    own = {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
    return kind(**own, scoring=scoring)


def corpus_of_run(job: ScoreJob) -> Corpus:
    """What was compressed.

    Raises:
      AdaCompressError: the input holds no run.
    """
    options = RunFolder(job.input).earlier_options()
    if options is None or "input" not in options:
        raise AdaCompressError(f"{job.input} holds no run of adacompress compress: give the --output of one as --input")
    return corpus_of(options)


def policy_of_run(job: ScoreJob) -> tuple[Optional[str], Optional[str]]:
    """The policy that chose in a run, where it can still be used.

    Returns:
      Its folder, or None; and, for a person, why the scores will hold no features although a policy chose, or None.

    Raises:
      AdaCompressError: a policy is given, and cannot be loaded.
    """
    if job.policy is not None:
        artefact.load(publishing.resolve(Serving(job.policy).path), files.read)
        return job.policy, None
    options = RunFolder(job.input).earlier_options() or {}
    if (recorded := options.get("policy")) is None:
        return None, None
    try:
        loaded, found = artefact.load(Serving(recorded).path, files.read)
        loaded.sight.open(files.read)
    except AdaCompressError as error:
        why = str(error)
    else:
        if found == options["policy_version"]:
            return recorded, None
        why = f"{recorded} is {found} now"
    return None, (
        f"the scores will hold no features, since the run's policy {options['policy_version']} cannot be used any more "
        f"({why}): give the folder where it is as --policy"
    )
