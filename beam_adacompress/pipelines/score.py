"""`adacompress score`: ask a backend about a sample of what a compress run made.

SampleRun (names) ─▶ shuffle ─▶ ReadPairs ─▶ ScoreWithBackend ─┬ scores ──▶ WriteScores ─▶ summary
    └ images by action                          └ failures ────┴ usage ─────▲
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.asking import AskingOptions, BackendOptions, check_limits, only
from beam_adacompress.pipelines.job_file import Record
from beam_adacompress.pipelines.mistakes import check_models, check_reach, unheard
from beam_adacompress.pipelines.options import (
    CommandLine,
    JobOptions,
    PlanOptions,
    UsageError,
    absolute,
    check_failures,
)
from beam_adacompress.pipelines.plan import described, plan
from beam_adacompress.pipelines.policy_options import PolicyOptions, policy_of
from beam_adacompress.pipelines.progress import Progress, Scoring
from beam_adacompress.pipelines.report import report_on_scores
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.score_job import (
    ScoreJob,
    ScoreOptions,
    ScoringOptions,
    corpus_of_run,
    job_of,
    policy_of_run,
)
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.corpus import Corpus
from beam_adacompress.transforms.pairs import ReadPairs, SampleRun, manifest_parts
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.score_sinks import ScoreFolder, Tick, WriteScores
from beam_adacompress.version import versions

LINE = CommandLine(
    "adacompress score",
    "Score a sample of the images of a compress run with a backend.",
    (JobOptions, PlanOptions, BackendOptions, PolicyOptions, ScoreOptions, ScoringOptions, AskingOptions),
    ("--input", "--output", "--backend"),
)
LINES = {"": LINE}


class Scored(NamedTuple):
    """What `score` adds."""

    summary: beam.PCollection[str]  # its path, when it is written
    scores: beam.PCollection[Any]  # rows with the fields of Score, and others


def score(ready: beam.PCollection[Any], job: ScoreJob, corpus: Corpus, started: float, watched: bool = False) -> Scored:
    """Adds the job to a pipeline.

    Args:
      ready: has one element, whatever it is, when the compress run is complete.
      job: what to do; paths are absolute, and the output is claimed.
      corpus: what was compressed.
      started: when the job began, in seconds since the epoch.
      watched: whether to write what `progress.Scoring` reads, on this machine's disk.
    """
    folder, root = corpus.folder(job.input), job.originals or corpus.root
    sampled = ready | "SampleRun" >> SampleRun(folder, root, job.scoring.sampler())
    pairs = sampled.images | "ReadPairs" >> ReadPairs(corpus.shard_format())
    scored = pairs.images | "ScoreWithBackend" >> job.score_with_backend()
    failures = (pairs.failures, scored.failures) | "ScoreFailures" >> beam.Flatten()
    if watched:
        _ = scored.usage | "Tick" >> Tick(ScoreFolder(job.output))
    results = {"scores": scored.scores, "failures": failures, "usage": scored.usage, "counts": sampled.counts}
    summary = results | "WriteScores" >> WriteScores(ScoreFolder(job.output), job.options(), versions(), started)
    return Scored(summary, scored.scores)


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress score ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, or failed.
    """
    started = time.time()
    given = list(sys.argv[1:] if argv is None else argv)
    values, rest = LINE.parse(given)
    values["backend"] = only(values["backend"], "adacompress score")
    for name in ("input", "output", "originals", "cache"):
        values[name] = values[name] and absolute(values[name])
    try:
        values["policy"] = policy_of(values["policy"])
        job = job_of(ScoreJob, values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    options = PipelineOptions(rest, **values)
    FileSystems.set_options(options)
    if values["plan_only"]:
        planned = plan(job)
        tell(plan=planned)
        print(described(planned))
        return 0
    check_limits(job.scoring, job.cache, options)
    paths = {"input": job.input, "output": job.output, "originals": job.originals, "cache": job.scoring.cache}
    check_reach(options, **paths, policy=job.policy)
    if next(manifest_parts(RunFolder(job.input)), None) is None or files.status(RunFolder(job.input).summary) is None:
        raise AdaCompressError(f"the run {job.input} is not finished: run its adacompress compress again, it goes on")
    check_models(options, [job.backend])
    policy, lost = policy_of_run(job)
    if lost is not None:
        print(lost, file=sys.stderr)
    job = dataclasses.replace(job, policy=policy)
    runner, is_local = local.choose_runner(options, rest)
    if not local.is_dry(options):
        job.prepare(versions())
        Record(LINE, given).write(job.output, ScoreFolder(job.output).scratch)
    pipeline = beam.Pipeline(runner, options)
    watched = is_local and files.is_local(job.output)
    score(pipeline | "Start" >> beam.Create([None]), job, corpus_of_run(job), started, watched)
    progress = Progress(Scoring(ScoreFolder(job.output)), sys.stderr.isatty()) if watched else contextlib.nullcontext()
    if local.run_to_end(pipeline, options, progress):
        page = report_on_scores(job.output)
        if page is not None:
            print(f"report: {page}")
        conclude(job)
    return 0


def conclude(job: ScoreJob) -> None:
    """Prints what a score run came to.

    Raises:
      TooManyFailuresError: more images failed than the job allows.
    """
    folder = ScoreFolder(job.output)
    content = json.loads(files.read(folder.summary))
    images, usage, estimates = content["images"], content["usage"], content["estimates"]
    tell(scores={**content, "output": folder.output})
    names = (
        ", ".join(sorted({backend["name"] for backend in content["backends"]}))
        or job.backend.partition("?")[0].partition(":")[0]
    )
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
    if job.policy is not None and (warning := _unheard(job.policy, content["backends"])) is not None:
        tell(warning=warning)
        print(warning, file=sys.stderr)
    check_failures(images["failed"], images["sampled"], job.max_failures)


def _unheard(policy: str, backends: Sequence[Mapping[str, str]]) -> Optional[str]:
    """What to say where those who scored are not those that the policy's promise is about."""
    loaded = Serving(publishing.resolve(policy)).load(files.read)
    return unheard(loaded, {(each["name"], each["version"]) for each in backends})
