"""`adacompress retrain`: a policy again, from the scores of what it chose.

list_parts ─▶ ReadScores ─┬▶ EstimateDrift ─▶ estimates ─┐
                          └───────────────────▶ scores ──┴▶ RetrainAgent ─▶ (published) ─▶ KeepRows
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.drift.log import DriftLog
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.asking import check_reachable
from beam_adacompress.pipelines.options import CommandLine, UsageError, absolute, adder
from beam_adacompress.pipelines.policy_options import PolicyOptions, PromiseOptions, policy_of
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.retrain_job import DriftOptions, RetrainJob, job_of
from beam_adacompress.policy.policies import DEFAULT
from beam_adacompress.policy.training import require_keras
from beam_adacompress.records import DriftEstimate, Retrained, Score
from beam_adacompress.scores import from_parquet
from beam_adacompress.transforms import documents, files, publishing
from beam_adacompress.transforms.replacing import FAILED, PUBLISHED
from beam_adacompress.transforms.score_sinks import ScoreFolder
from beam_adacompress.transforms.trials import KeepRows, kept_rows


class Came(NamedTuple):
    """What came of it."""

    estimates: list[DriftEstimate]
    retrained: list[Retrained]


def relearn(scores: beam.PCollection[Any], job: RetrainJob, scratch: str) -> None:
    """Adds the last stages of the loop to a pipeline.

    Args:
      scores: rows with the fields of Score.
      job: what to do; paths are absolute.
      scratch: a folder of this run alone, for `came_of`.
    """
    estimates = scores | "EstimateDrift" >> job.estimate_drift()
    retrained = {"scores": scores, "estimates": estimates} | "RetrainAgent" >> job.retrain_agent()
    _ = estimates | "KeepEstimates" >> KeepRows(files.join(scratch, "estimates"))
    _ = retrained | "KeepRetrained" >> KeepRows(files.join(scratch, "retrained"))


def came_of(scratch: str) -> Came:
    """What `relearn` left behind; the folder is deleted."""
    estimates = sorted({DriftEstimate(*values) for values in kept_rows(files.join(scratch, "estimates"))})
    retrained = sorted({Retrained(*values) for values in kept_rows(files.join(scratch, "retrained"))})
    files.delete([scratch])
    return Came(estimates, retrained)


def scratch_of(job: RetrainJob) -> str:
    """A folder of one run alone: beside the published policies, where the workers write anyway."""
    if job.publish is None:
        return tempfile.mkdtemp()
    return files.join(documents.scratch(job.publish), uuid.uuid4().hex)


class _RetrainOptions:
    """The options that no other command has."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--scores",
            action="append",
            metavar="FOLDER",
            help="the output of adacompress score, or OUTPUT/score of a compress run; or files of scores, as a glob; "
            "may be given several times",
        )
        add(
            "--only-on-drift",
            action="store_true",
            help="train only if the scores say that the policy has drifted, e.g. in a scheduled job",
        )
        add("--seed", type=int, default=0, metavar="NUMBER", help="of training")


OPTIONS = (PolicyOptions, _RetrainOptions, DriftOptions, PromiseOptions)
REQUIRED = ("--scores",)
LINE = CommandLine(
    "adacompress retrain",
    "Train a policy again from the scores of what it chose, and publish it if it is better.",
    OPTIONS,
    REQUIRED,
)
LINES = {"": LINE}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress retrain ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, there are no scores, or training or publishing failed.
    """
    values, rest = LINE.parse(sys.argv[1:] if argv is None else argv)
    for name in ("publish", "logs"):
        values[name] = values[name] and absolute(values[name])
    given = [absolute(each) for each in values["scores"]]
    options = PipelineOptions(rest)
    FileSystems.set_options(options)
    try:
        job = job_of(values, policy_of(values["policy"]) or DEFAULT, not values["only_on_drift"])
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    scratch = scratch_of(job)
    for each in given:
        check_reachable("retraining", options, publish=scratch, scores=each)
    if job.publish is not None and publishing.latest(job.publish) is not None:
        job = dataclasses.replace(job, policy=job.publish)
    parts = sorted({part for each in given for part in parts_of(each)})
    runner, is_local = local.choose_runner(options, rest)
    if is_local:
        require_keras()
    pipeline = beam.Pipeline(runner, options)
    read = beam.FlatMap(read_scores).with_output_types(Score)
    relearn(pipeline | "Parts" >> beam.Create(parts) | "ReadScores" >> read, job, scratch)
    if local.run_to_end(pipeline, options, contextlib.nullcontext()):
        report_on(came_of(scratch), job.logs)
    return 0


def parts_of(given: str) -> Iterator[str]:
    """The files of scores that a folder, a glob or a name stands for.

    Raises:
      AdaCompressError: there are none.
    """
    folder = ScoreFolder(given)
    places = [given] if files.has_wildcard(given) or given.endswith(".parquet") else [folder.scores, given]
    for place in places:
        try:
            found = [file.path for file in files.find(place) if file.path.endswith(".parquet")]
        except OSError as error:
            raise AdaCompressError(f"the scores {place} cannot be listed: {error.strerror or error}") from error
        if found:
            yield from found
            return
    raise AdaCompressError(
        f"there are no scores in {given}: give the output of adacompress score, or OUTPUT/score of a compress run"
    )


def read_scores(path: str) -> list[Score]:
    """The scores of a file.

    Raises:
      AdaCompressError: it cannot be read, or holds no scores.
    """
    try:
        return from_parquet(files.read(path), path)
    except OSError as error:
        raise AdaCompressError(f"the scores {path} cannot be read: {error.strerror or error}") from error


def report_on(came: Came, logs: Optional[str] = None) -> None:
    """Prints what came of it, and writes it into logs for TensorBoard where there are to be any.

    Raises:
      AdaCompressError: training or publishing failed, or the logs cannot be written.
    """
    tell(estimates=came.estimates, retrained=came.retrained)
    for line in said(came):
        print(line)
    with contextlib.closing(DriftLog(logs)) as log:
        for estimate in came.estimates:
            log.estimate(estimate)
        for retrained in came.retrained:
            log.retrained(retrained)
    if logs is not None:
        print(f"curves of drift: tensorboard --logdir {logs}")
    for each in came.retrained:
        if each.status == FAILED:
            raise AdaCompressError(f"the policy was not trained again: {each.reason}")


def said(came: Came) -> Iterator[str]:
    """What came of it, in words."""
    for each in came.estimates:
        yield (
            f"{each.n} scores of {each.policy_version}: {_interval('agreement', each)}, {_interval('reward', each)}, "
            f"and the level to keep is {each.level:g}: {each.state}, {each.reason}"
        )
    if not came.estimates:
        yield "no score is of the policy, so nothing is known of drift"
    for retrained in came.retrained:
        if retrained.status == PUBLISHED:
            yield f"published: {retrained.candidate} takes the place of {retrained.incumbent}: {retrained.reason}"
        else:
            yield f"not published, {retrained.incumbent or 'what is in service'} serves on: {retrained.reason}"
    if not came.retrained:
        yield "not trained again: no estimate asks for it"


def _interval(name: str, estimate: DriftEstimate) -> str:
    mean, low, high = (getattr(estimate, f"{name}{end}") for end in ("", "_low", "_high"))
    if mean is None:
        return f"{name} unknown"
    return f"{name} {mean:.3f}" if low is None else f"{name} {mean:.3f} ({low:.3f} to {high:.3f})"
