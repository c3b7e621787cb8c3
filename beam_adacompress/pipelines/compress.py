"""`adacompress compress`: shrink a folder or bucket of images.

names ─▶ shuffle ─▶ ReadImages ─▶ ChooseQuality ─▶ CompressJPEG ─▶ CommitRows ─▶ manifest, shards ─▶ FinishRun
            │            └──────────────┴───── failures ────────▶┘                                       │
            └ (continued runs) rows of what is finished ────────▶┘                                       │
                                                                (--score-with) adacompress score ◀───────┘
                                    (--retrain-on-drift) EstimateDrift ─▶ RetrainAgent ◀── scores ─┘
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import report
from beam_adacompress.pipelines import dry_run, local
from beam_adacompress.pipelines.asking import AskingOptions, check_limits, check_reachable
from beam_adacompress.pipelines.compress_job import CompressJob, CompressOptions
from beam_adacompress.pipelines.dry_run import DryRunOptions, dry_run_of
from beam_adacompress.pipelines.job_file import Record
from beam_adacompress.pipelines.mistakes import check_apart, check_models, check_reach, heard_by, no_images, unheard
from beam_adacompress.pipelines.options import (
    CommandLine,
    JobOptions,
    PlanOptions,
    UsageError,
    absolute,
    check_failures,
)
from beam_adacompress.pipelines.policy_options import PolicyOptions, PromiseOptions, policy_of
from beam_adacompress.pipelines.progress import Compressing, Progress
from beam_adacompress.pipelines.report import report_on_scores
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.retrain import came_of, relearn, report_on
from beam_adacompress.pipelines.retrain_job import ON_DRIFT, RetrainJob, RetrainOnDriftOptions, retraining_of
from beam_adacompress.pipelines.score import conclude, score
from beam_adacompress.pipelines.score_job import ScoringOptions, job_of
from beam_adacompress.policy.policies import DEFAULT, Policy
from beam_adacompress.policy.training import require_keras
from beam_adacompress.transforms import files, publishing, sinks
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.version import versions

OPTIONS = (
    JobOptions,
    PolicyOptions,
    PromiseOptions,
    CompressOptions,
    ScoringOptions,
    AskingOptions,
    RetrainOnDriftOptions,
    PlanOptions,
    DryRunOptions,
)
REQUIRED = ("--input", "--output")
LINE = CommandLine(
    "adacompress compress",
    "Compress a folder or bucket of images as JPEG for the machines that look at them.",
    OPTIONS,
    REQUIRED,
)
LINES = {"": LINE}


def compress(
    pipeline: beam.Pipeline, job: CompressJob, attempt: str, started: float, resume: bool
) -> beam.PCollection[str]:
    """Adds the job to a pipeline.

    Args:
      pipeline: to add to.
      job: what to do; paths are absolute.
      attempt: an identifier that no other execution has.
      started: when the job began, in seconds since the epoch.
      resume: whether the output holds rows of an earlier attempt.

    Returns:
      The path of the summary, when it is written.
    """
    corpus = job.corpus
    folder = corpus.folder(job.output)
    read = pipeline | "ReadImages" >> corpus.reading(job.output, folder, attempt, resume)
    chosen = read.images | "ChooseQuality" >> job.choose_quality()
    compressed = chosen.images | "CompressJPEG" >> job.compress_jpeg()
    images = corpus.commit(folder, attempt, sinks.compressed_outcome)
    fragments = [*read.fragments, compressed.images | "CommitImages" >> images]
    for stage, failures in (("Read", read), ("Choose", chosen), ("Compress", compressed)):
        commit = corpus.commit(folder, attempt, sinks.failed_outcome)
        fragments.append(failures.failures | f"Commit{stage}Failures" >> commit)
    rows = fragments | "Rows" >> beam.Flatten()
    stats = corpus.merge(rows, read.shards, folder, job.seed)
    return stats | "FinishRun" >> corpus.finish(folder, job.options(), versions(), started)


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress compress ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, or failed.
    """
    started = time.time()
    given = list(sys.argv[1:] if argv is None else argv)
    values, rest = LINE.parse(given)
    for name in ("input", "output", "cache", "publish", "logs"):
        values[name] = values[name] and absolute(values[name])
    drift = {name: values.pop(name) for name in ON_DRIFT}  # which Beam does not know
    try:
        values["policy"] = policy_of(values["policy"])
        job = job_of(CompressJob, values)
        retraining = retraining_of(job, drift)
        rehearsal = dry_run_of(values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    options = PipelineOptions(rest, **values)
    if rehearsal is not None:
        FileSystems.set_options(options)
        _count_images(job, up_to=1)
        return dry_run.run(job, rehearsal, options, rest)
    return execute(job, options, rest, started, retraining, Record(LINE, given))


def execute(
    job: CompressJob,
    options: PipelineOptions,
    flags: Sequence[str],
    started: float,
    retraining: Optional[RetrainJob] = None,
    record: Optional[Record] = None,
) -> int:
    """Runs a job, shows its progress if it is local, and prints what it came to.

    Args:
      job: what to do; paths are absolute.
      options, flags: of Beam, and the command line behind them.
      started: when the job began, in seconds since the epoch.
      retraining: of the policy, by the scores of this job; None for none.
      record: written into the output; None for none.

    Raises:
      AdaCompressError: there is nothing to do it on, or nowhere to put it, or it failed.
    """
    FileSystems.set_options(options)
    check_apart(job.input, job.output)
    check_reach(options, input=job.input, output=job.output, policy=job.policy, cache=job.scoring.cache)
    check_models(options, [*job.verify, *([job.score_with] if job.score_with is not None else [])])
    if job.policy is not None:  # what is published meanwhile is for another run
        job = dataclasses.replace(job, policy=publishing.resolve(job.policy))
    score_job = None if job.score_with is None else job.score_job()
    if score_job is not None:
        check_limits(score_job.scoring, score_job.cache, options)  # before anything of an earlier run is discarded
    if job.verify:
        check_limits(job.scoring, job.cache, options)
    policy = job.loaded
    if policy is not None and (warning := policy.warning(job.settings())) is not None:
        print(warning, file=sys.stderr)
    if policy is not None and job.verify and (warning := unheard(policy, heard_by(job.verify))) is not None:
        print(warning, file=sys.stderr)
    runner, is_local = local.choose_runner(options, flags)
    if retraining is not None:
        assert policy is not None, "retraining_of refuses a fixed quality"
        retraining = retraining.of_run(job.policy or DEFAULT, policy.version)
        check_reachable("retraining", options, publish=retraining.publish or job.output)
        if is_local:
            require_keras()
    total = _count_images(job, up_to=None if is_local else 1)
    folder = job.corpus.folder(job.output)
    is_dry = local.is_dry(options)
    resume = not is_dry and folder.prepare(job.options(), versions(), job.overwrite)
    if record is not None and not is_dry:
        # A later run is to take the same version, unless it is to go on from what has been learned since.
        record.write(job.output, folder.scratch, **({} if retraining else {"policy": [job.policy]}))
    attempt = uuid.uuid4().hex
    relearning = files.join(folder.work, f"relearn-{attempt}")
    pipeline = beam.Pipeline(runner, options)
    summary = compress(pipeline, job, attempt, started, resume)
    if score_job is not None:
        if not is_dry:
            score_job.prepare(versions())
        scored = score(summary, score_job, job.corpus, started)
        if retraining is not None:
            relearn(scored.scores, retraining, relearning)
    watching: AbstractContextManager[Any] = contextlib.nullcontext()
    if is_local:
        watching = Progress(Compressing(folder, attempt, total), terminal=sys.stderr.isatty())
    result = local.run_to_end(pipeline, options, watching)
    if result is None:
        return 0
    _conclude(folder, policy, bool(job.verify))
    if job.verify and (asked := local.counted(result, "ChooseQuality", "images_in")):
        calls = local.counted(result, "ChooseQuality", "calls")
        tell(verified={"backends": job.verify, "calls": calls, "images": asked})
        print(f"verified with {', '.join(job.verify)}: {calls} calls, {calls / asked:.1f} an image")
    if score_job is not None:
        report_on_scores(job.output)
        conclude(score_job)
    if retraining is not None:
        report_on(came_of(relearning), retraining.logs)
    images = json.loads(files.read(folder.summary))["images"]
    check_failures(images["failed"], images["total"], job.max_failures)
    return 0


def _count_images(job: CompressJob, up_to: Optional[int]) -> Optional[int]:
    """Counts the images of the input, or only as many as asked for; None where it is shards, which hold many."""
    count, hint = job.corpus.look(job.output, 1 if job.corpus.is_sharded else up_to)
    if hint is not None:
        print(hint, file=sys.stderr)
    if not count:
        raise no_images(job.input)
    return None if job.corpus.is_sharded else count


def _conclude(folder: RunFolder, policy: Optional[Policy], verified: bool) -> None:
    content = json.loads(files.read(folder.summary))
    images, size = content["images"], content["bytes"]
    tell(summary=content, output=folder.output, manifest=folder.manifest, report=folder.report)
    if policy is not None:
        tell(policy={"version": policy.version, "promise": policy.promise, "backends": policy.artefact.backends})
    saved = f"{100 * size['saved'] / size['in']:.1f} % saved" if size["in"] else "nothing saved"
    print(
        f"{images['compressed']} of {images['total']} images compressed, {images['kept']} kept, "
        f"{images['failed']} failed: {report.megabytes(size['in'])} became {report.megabytes(size['out'])} "
        f"({saved}) in {content['wall_seconds']:.1f} s"
    )
    if policy is not None and not verified:
        print(f"chosen by {policy.described()}")
    if images["failed"]:
        print(f"failed images: rows with status 'failed' in {folder.manifest}, and in the report")
    print(f"report: {folder.report}")
