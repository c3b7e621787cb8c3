"""`adacompress serve`: the whole loop as one streaming job.

WatchImages ─┬▶ ReadFiles ─▶ ChooseQuality ─▶ CompressJPEG ─┬▶ CommitRows: images/, manifest/ ─▶ NotifyImages
or Receive ──┘                     ▲                         └▶ ScoreWithBackend ─▶ scores/
                                   │                                  ▲   └▶ EstimateDrift ─▶ RetrainAgent ─▶ drift/
                      LATEST, STATE└──────────────────────────────────┴──────────────────────────────┘

Images go through one fused stage, from their reading to their writing; what crosses a shuffle are names and scores.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import FixedWindows

from beam_adacompress import report
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.asking import AskingOptions, check_limits
from beam_adacompress.pipelines.job_file import Record
from beam_adacompress.pipelines.mistakes import check_models, check_reach, heard_by, unheard
from beam_adacompress.pipelines.options import CommandLine, UsageError, absolute
from beam_adacompress.pipelines.policy_options import PolicyOptions, PromiseOptions, policy_of
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.retrain_job import DriftOptions
from beam_adacompress.pipelines.score_job import ScoringOptions
from beam_adacompress.pipelines.serve_job import OPTIONS, ServeJob, ServeOptions, serve_job_of
from beam_adacompress.policy.policies import DEFAULT
from beam_adacompress.policy.training import require_keras
from beam_adacompress.records import Score
from beam_adacompress.scores import score_of
from beam_adacompress.transforms import files, sinks
from beam_adacompress.transforms.arrivals import require_pubsub
from beam_adacompress.transforms.notify import NotifyEach, NotifyImages
from beam_adacompress.transforms.runners import refusal
from beam_adacompress.transforms.serve_sinks import LogEach, WriteEach, WriteWindows, encoded_failures, encoded_scores
from beam_adacompress.transforms.sources import ReadFiles
from beam_adacompress.version import versions

LINE = CommandLine(
    "adacompress serve",
    "Compress images as they arrive, score a sample, and train the policy again where it has drifted.",
    (ServeOptions, *OPTIONS, PolicyOptions, PromiseOptions, ScoringOptions, AskingOptions, DriftOptions),
    ("--output",),
)
LINES = {"": LINE}

_DIRECT = "DirectRunner"
_BUNDLES = "BundleBasedDirectRunner"
_STREAMING = "--runner=DataflowRunner or FlinkRunner, or, on this machine, PrismRunner"


class Chosen(NamedTuple):
    """What runs the job."""

    runner: Any  # a PipelineRunner, or the name of one
    is_local: bool
    streams: bool  # windows end while the job goes on, and not with it
    pulls: bool = False  # it has no reader of Pub/Sub, so that ours is used


def serve(pipeline: beam.Pipeline, job: ServeJob, attempt: str, streams: bool = True, pulls: bool = False) -> None:
    """Adds the job to a pipeline.

    Args:
      pipeline: to add to; a streaming one.
      job: what to do; paths are absolute, and it is settled.
      attempt: an identifier that no other execution has.
      streams: see Chosen; where it does not, nothing is trained again, since all that is known comes too late.
      pulls: see Chosen.
    """
    folder = job.folder
    arrived = pipeline | "Arrive" >> job.arrive(streams, pulls)
    read = arrived.images | "Windows" >> _windows(job) | "ReadImages" >> ReadFiles(job.max_bytes)
    chosen = read.images | "ChooseQuality" >> job.choose_quality()
    compressed = chosen.images | "CompressJPEG" >> job.compress_jpeg()
    committed = [compressed.images | "CommitImages" >> sinks.CommitRows(folder, attempt, sinks.compressed_outcome)]
    failures = {"Arrive": arrived.failures | "FailureWindows" >> _windows(job), "Read": read.failures}
    failures |= {"Choose": chosen.failures, "Compress": compressed.failures}
    for stage, failed in failures.items():
        committed.append(failed | f"Commit{stage}Failures" >> sinks.CommitRows(folder, attempt, sinks.failed_outcome))
    if job.notify is not None:
        _ = committed | "Committed" >> beam.Flatten() | "NotifyImages" >> NotifyImages(job.notify, folder)
    if job.score_with is not None:
        _close_the_loop(compressed.images, job, streams)


def _windows(job: ServeJob) -> beam.WindowInto:
    return beam.WindowInto(FixedWindows(job.window), allowed_lateness=job.allowed_lateness)


def _close_the_loop(compressed: beam.PCollection[Any], job: ServeJob, streams: bool) -> None:
    """From the sample that is scored to the policy that comes of it."""
    folder = job.folder
    scored = compressed | "ScoreWithBackend" >> job.score_with_backend()
    _ = scored.failures | "WriteFailures" >> WriteWindows(folder, folder.failures, encoded_failures)
    scores = scored.scores | "AsScores" >> beam.Map(score_of).with_output_types(Score)
    _ = scores | "WriteScores" >> WriteWindows(folder, folder.scores, encoded_scores)
    estimates = scores | "EstimateDrift" >> job.estimate_drift()
    written = estimates | "WriteEstimates" >> WriteEach(folder, files.join(folder.drift, "estimates"))
    if job.logs is not None:
        _ = written | "LogEstimates" >> LogEach(job.logs, "estimate")
    if job.notify is not None:
        _ = written | "NotifyEstimates" >> NotifyEach(job.notify, "estimate", "state")
    if job.publish is not None and streams:
        retrained = {"scores": scores, "estimates": estimates} | "RetrainAgent" >> job.retrain_agent()
        written = retrained | "WriteRetrained" >> WriteEach(folder, files.join(folder.drift, "retrained"))
        if job.logs is not None:
            _ = written | "LogRetrained" >> LogEach(job.logs, "retrained")
        if job.notify is not None:
            _ = written | "NotifyRetrained" >> NotifyEach(job.notify, "retrained", "status")


def choose_runner(job: ServeJob, options: PipelineOptions) -> Chosen:
    """The runner that the options name, or one on this machine that can do the job.

    Raises:
      UsageError: it cannot, or would not end, or must not be used.
    """
    named = options.view_as(StandardOptions).runner
    if named is not None and (why := refusal(named)) is not None:
        raise UsageError(why)
    if named == "DataflowRunner":
        if job.subscription is not None and job.stop_after is not None:
            raise UsageError(f"{named} reads from Pub/Sub until it is drained: do that in the place of --stop-after")
        return Chosen(named, is_local=False, streams=True)
    if named == _BUNDLES or (named in (None, _DIRECT) and job.subscription is not None and job.stop_after is None):
        if job.input is not None:
            raise UsageError(f"{named} cannot watch a folder: use {_STREAMING}, or FnApiRunner with --stop-after")
        if job.stop_after is not None:
            raise UsageError(f"{named} reads from Pub/Sub for ever: use FnApiRunner with --stop-after")
        return Chosen(BundleBasedDirectRunner(), is_local=True, streams=True)
    embedded = options.view_as(PortableOptions).job_endpoint == "embed"
    if named not in (None, _DIRECT, "FnApiRunner") and not embedded:
        return Chosen(named, is_local=False, streams=True, pulls=True)
    if job.stop_after is None:
        raise UsageError(
            f"{named or 'FnApiRunner'} ends all windows when the job ends, and this one would not: give --stop-after "
            f"SECONDS, or {_STREAMING}"
        )
    return Chosen(named if embedded else FnApiRunner(), is_local=True, streams=False, pulls=True)


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress serve ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, or failed.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    values, rest = LINE.parse(given)
    # Messages name images as their senders do, so for those links on the way to the root are left as they are.
    for name in ("input", "output", "cache", "publish", "logs", *(("root",) if values["input"] else ())):
        values[name] = values[name] and absolute(values[name])
    options = PipelineOptions(rest)
    options.view_as(StandardOptions).streaming = True
    FileSystems.set_options(options)
    try:
        values["policy"] = policy_of(values["policy"]) or DEFAULT
        job = serve_job_of(values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    chosen = choose_runner(job, options)
    _check(job, options, chosen)
    job = job.settled()
    for line in _remarks(job, chosen):
        print(line, file=sys.stderr)
    local.show_warnings()
    if not local.is_dry(options):
        job.folder.prepare({}, versions(), job.overwrite)
        Record(LINE, given).write(job.output, job.folder.scratch)
    pipeline = beam.Pipeline(chosen.runner, options)
    serve(pipeline, job, uuid.uuid4().hex, chosen.streams, chosen.pulls)
    result = local.run_to_end(pipeline, options, contextlib.nullcontext())
    if chosen.is_local and not chosen.streams:  # others only end by being stopped
        images, size = (local.counted(result, "WriteImages", name) for name in ("images_out", "bytes_out"))
        tell(images=images, bytes_out=size, output=job.output)
        print(f"{images} images written, {report.megabytes(size)}: {job.folder.images}, rows in {job.folder.manifest}")
    return 0


def _check(job: ServeJob, options: PipelineOptions, chosen: Chosen) -> None:
    """Refuses what would fail later, in the workers.

    Raises:
      UsageError: workers would not reach a path, or not keep a limit.
      AdaCompressError: something needs an extra that is not installed.
    """
    if options.view_as(StandardOptions).runner == "DataflowRunner" and job.logs is not None:
        raise UsageError(f"Dataflow's workers do not reach {job.logs}: leave --logs out")
    check_reach(options, **{name: getattr(job, name) for name in ("input", "output", "policy", "publish")})
    check_reach(options, cache=job.scoring.cache)
    check_models(options, [job.score_with] if job.score_with is not None else [])
    if job.subscription is not None or job.notify is not None:
        require_pubsub()
    if job.score_with is not None:
        check_limits(job.scoring, job.cache, options)
    if job.publish is not None and chosen.is_local and chosen.streams:
        require_keras()


def _remarks(job: ServeJob, chosen: Chosen) -> Iterator[str]:
    """What someone who starts a job should know.

    Raises:
      AdaCompressError: the policy cannot be loaded.
    """
    policy = job.loaded()
    if (warning := policy.warning(job.encoder)) is not None:
        yield warning
    if job.score_with is not None and (warning := unheard(policy, heard_by([job.score_with]))) is not None:
        yield warning
    if job.subscription is not None and isinstance(chosen.runner, BundleBasedDirectRunner):
        yield (
            f"{_BUNDLES} takes messages off the subscription before their images are written, so when it is stopped "
            "some are lost: to keep them give --stop-after SECONDS, or --runner=PrismRunner or DataflowRunner"
        )
    if job.score_with is None:
        return
    if job.publish is None:
        yield "the policy will not be trained again, since there is nowhere to publish it: give --publish FOLDER"
    elif not chosen.streams:
        yield (
            "the policy will not be trained again while this job runs, since windows end with it on this runner; "
            f"afterwards: adacompress retrain --scores {job.output} --only-on-drift --publish {job.publish}"
        )
