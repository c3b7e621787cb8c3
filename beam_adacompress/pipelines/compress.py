"""`adacompress compress`: shrink a folder or bucket of images.

ListImages ─▶ SpreadImages (shuffle) ─▶ ReadImages ─▶ ChooseQuality ─▶ CompressJPEG ─▶ CommitRows ─▶ MergeManifest
                        │                └──────────────┴───── failures ────────▶┘
                        └ (continued runs) SkipFinished ─▶ finished rows ────────▶┘                 └▶ FinishRun
                                                                       (--score-with) adacompress score ◀┘
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
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

from beam_adacompress import jpeg, report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.codec import SUBSAMPLINGS
from beam_adacompress.jpeg.metadata import POLICIES
from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.asking import Asking, AskingOptions, check_limits
from beam_adacompress.pipelines.options import (
    JobOptions,
    UsageError,
    absolute,
    adder,
    check_failures,
    check_shared,
    parse,
)
from beam_adacompress.pipelines.progress import Compressing, Progress
from beam_adacompress.pipelines.score import conclude, score
from beam_adacompress.pipelines.score_job import ScoreJob, Scoring, ScoringOptions, is_below, job_of
from beam_adacompress.policy import DEFAULT_QUALITY
from beam_adacompress.transforms import files, sinks
from beam_adacompress.transforms.choose import ChooseQuality
from beam_adacompress.transforms.compress import CompressJPEG
from beam_adacompress.transforms.connection import limits_of
from beam_adacompress.transforms.runs import RunFolder, SkipFinished
from beam_adacompress.transforms.sources import (
    MAX_BYTES,
    ListImages,
    ReadImages,
    SpreadImages,
    find_images,
    input_root,
)
from beam_adacompress.version import versions


@dataclasses.dataclass(frozen=True)
class CompressJob:
    """One compress run; the fields are the options of `adacompress compress`.

    Args:
      input: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      output: the run's folder.
      quality, tables: as for ChooseQuality.
      subsampling, optimize, progressive, keep_metadata, min_saving, max_pixels, flatten: as for CompressJPEG.
      max_bytes: as for ReadImages.
      overwrite: discard what an earlier run left in the output.
      max_failures: the largest share of failed images with which the job still succeeds; None for any.
      seed: of the images that the report shows.
      verify: backends' URIs: each image gets the cheapest quality at which they all agree, see ChooseQuality.
      verify_margin: how many of the next finer qualities have to agree as well.
      score_with: a backend's URI: score a sample of the images when they are written, into OUTPUT/score.
      scoring: how, as for ScoreJob; limits, manners, cache and `top` are those of `verify`, too.

    Raises:
      ValueError, TypeError: an option is out of range.
    """

    input: str
    output: str
    quality: int = DEFAULT_QUALITY
    tables: str = ANNEXK
    subsampling: str = jpeg.Settings.subsampling
    optimize: bool = jpeg.Settings.optimize
    progressive: bool = jpeg.Settings.progressive
    keep_metadata: str = jpeg.Settings.keep_metadata
    min_saving: float = jpeg.Settings.min_saving
    max_pixels: int = jpeg.Settings.max_pixels
    flatten: bool = jpeg.Settings.flatten
    max_bytes: int = MAX_BYTES
    overwrite: bool = False
    max_failures: Optional[float] = None
    seed: int = 0
    verify: Sequence[str] = ()
    verify_margin: int = 0
    score_with: Optional[str] = None
    scoring: Scoring = dataclasses.field(default_factory=Scoring)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verify", tuple(self.verify or ()))  # an option that is not given is None
        self.choose_quality()
        self.compress_jpeg()
        ReadImages(self.max_bytes)
        check_shared(self.max_failures, self.seed)
        if self.score_with is not None:
            self.score_job()
        given = [name for name, value in dataclasses.asdict(self.scoring).items() if value != getattr(Scoring, name)]
        of_verify = [*(field.name for field in dataclasses.fields(Asking)), "top"] if self.verify else []
        if self.score_with is None and (idle := [name for name in given if name not in of_verify]):
            raise ValueError(f"{idle[0]} is about scoring: give score_with=BACKEND too")
        folder = RunFolder(self.output)
        if self.verify and is_below(self.cache, [*folder.folders(), folder.work]):
            raise ValueError(f"the cache {self.cache} is where runs delete files: choose another --cache")
        if self.score_with is not None and self.verify and (limits := limits_of(self.scoring)):
            raise ValueError(
                f"{limits[0]} is for one backend: verify first, and run adacompress score with a limit of its own"
            )

    def choose_quality(self) -> ChooseQuality:
        if not self.verify:
            return ChooseQuality(self.quality, self.tables, verify_margin=self.verify_margin)
        asking = {field.name: getattr(self.scoring, field.name) for field in dataclasses.fields(Asking)}
        return ChooseQuality(
            self.quality,
            self.tables,
            self.verify,
            self.verify_margin,
            self.scoring.top,
            self._encoder(),
            **{**asking, "cache": self.cache},
        )

    @property
    def cache(self) -> str:
        return self.scoring.folder(self.output)

    def compress_jpeg(self) -> CompressJPEG:
        return CompressJPEG(**self._encoder())

    def _encoder(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(jpeg.Settings)}

    def options(self) -> dict[str, Any]:
        """What the results depend on: a run is continued only with the same."""
        own = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in ("output", "overwrite", "max_failures", "score_with", "scoring")
        }
        if not self.verify:  # as the runs of earlier releases have it
            return {name: value for name, value in own.items() if name not in ("verify", "verify_margin")}
        return {**own, "verify": list(self.verify), "top": self.scoring.top}

    def score_job(self) -> ScoreJob:
        """What scores the images of this run."""
        assert self.score_with is not None
        return ScoreJob(
            input=self.output,
            output=files.join(self.output, "score"),
            backend=self.score_with,
            originals=input_root(self.input),
            overwrite=True,
            max_failures=self.max_failures,
            scoring=dataclasses.replace(self.scoring, cache=self.cache),
        )


class CompressOptions(PipelineOptions):
    """The same as pipeline options, for the command line and for Dataflow templates."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add("--quality", type=int, default=DEFAULT_QUALITY, help="JPEG quality of every image, 1 to 100")
        add(
            "--tables",
            default=ANNEXK,
            help=f"quantisation tables: {', '.join(jpeg.FAMILIES)}, or a fitted family's file",
        )
        add("--subsampling", default=jpeg.Settings.subsampling, choices=SUBSAMPLINGS, help="chroma subsampling")
        add(
            "--no-optimize",
            dest="optimize",
            action="store_false",
            default=True,
            help="standard Huffman tables: less CPU time, more bytes",
        )
        add(
            "--no-progressive",
            dest="progressive",
            action="store_false",
            default=True,
            help="one scan: less CPU time, more bytes",
        )
        add(
            "--keep-metadata",
            default=jpeg.Settings.keep_metadata,
            choices=POLICIES,
            help="what to keep beside the pixels; the EXIF orientation is always applied to them",
        )
        add(
            "--min-saving",
            type=float,
            default=jpeg.Settings.min_saving,
            help="share of the bytes that must be saved, else the original is kept",
        )
        add(
            "--max-pixels",
            type=int,
            default=jpeg.Settings.max_pixels,
            help="larger images (width x height) are reported as failed",
        )
        add("--max-bytes", type=int, default=MAX_BYTES, help="larger files are reported as failed")
        add(
            "--flatten",
            action="store_true",
            help="compress alpha (over white), 16-bit, animated and multi-picture files too (first frame)",
        )
        add("--seed", type=int, default=0, help="of the images that the report shows")
        add(
            "--verify",
            action="append",
            metavar="BACKEND",
            help="give each image the cheapest quality at which this backend agrees; given several times, all of them",
        )
        add(
            "--verify-margin", type=int, default=0, metavar="K", help="the K next finer qualities have to agree as well"
        )
        add(
            "--score-with",
            metavar="BACKEND",
            help="score a sample of the images when they are written, as adacompress score does, into OUTPUT/score",
        )


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
    folder = RunFolder(job.output)
    listed = pipeline | "ListImages" >> ListImages(job.input, exclude=job.output)
    fragments = []
    if resume:
        todo, finished = listed.images | "SkipFinished" >> SkipFinished(folder)
        fragments.append(finished | "CommitFinished" >> sinks.CommitRows(folder, attempt, sinks.finished_outcome))
    else:
        todo = listed.images | "SpreadImages" >> SpreadImages()
    read = todo | "ReadImages" >> ReadImages(job.max_bytes)
    chosen = read.images | "ChooseQuality" >> job.choose_quality()
    compressed = chosen.images | "CompressJPEG" >> job.compress_jpeg()
    fragments.append(compressed.images | "CommitImages" >> sinks.CommitRows(folder, attempt, sinks.compressed_outcome))
    for stage, failures in (("List", listed), ("Read", read), ("Choose", chosen), ("Compress", compressed)):
        fragments.append(
            failures.failures | f"Commit{stage}Failures" >> sinks.CommitRows(folder, attempt, sinks.failed_outcome)
        )
    return (
        fragments
        | "Rows" >> beam.Flatten()
        | "MergeManifest" >> sinks.MergeManifest(folder, job.seed)
        | "FinishRun" >> sinks.FinishRun(folder, input_root(job.input), job.options(), versions(), started)
    )


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress compress ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, or failed.
    """
    started = time.time()
    values, rest = parse(
        "adacompress compress",
        "Compress a folder or bucket of images as JPEG for the machines that look at them.",
        [JobOptions, CompressOptions, ScoringOptions, AskingOptions],
        ["--input", "--output"],
        sys.argv[1:] if argv is None else argv,
    )
    for name in ("input", "output", "cache"):
        values[name] = values[name] and absolute(values[name])
    try:
        job = job_of(CompressJob, values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    return execute(job, PipelineOptions(rest, **values), rest, started)


def execute(job: CompressJob, options: PipelineOptions, flags: Sequence[str], started: float) -> int:
    """Runs a job, shows its progress if it is local, and prints what it came to.

    Raises:
      AdaCompressError: there is nothing to do it on, or nowhere to put it, or it failed.
    """
    FileSystems.set_options(options)
    score_job = None if job.score_with is None else job.score_job()
    if score_job is not None:
        check_limits(score_job.scoring, score_job.cache, options)  # before anything of an earlier run is discarded
    if job.verify:
        check_limits(job.scoring, job.cache, options)
    runner, is_local = local.choose_runner(options, flags)
    total = _count_images(job, up_to=None if is_local else 1)
    folder = RunFolder(job.output)
    resume = folder.prepare(job.options(), versions(), job.overwrite)
    attempt = uuid.uuid4().hex
    pipeline = beam.Pipeline(runner, options)
    summary = compress(pipeline, job, attempt, started, resume)
    if score_job is not None:
        score_job.prepare(versions())
        score(summary, score_job, started)
    watching: AbstractContextManager[Any] = contextlib.nullcontext()
    if is_local:
        watching = Progress(Compressing(folder, attempt, total), terminal=sys.stderr.isatty())
    if not local.run_to_end(pipeline, options, watching):
        return 0
    _conclude(folder)
    if score_job is not None:
        conclude(score_job)
    images = json.loads(files.read(folder.summary))["images"]
    check_failures(images["failed"], images["total"], job.max_failures)
    return 0


def _count_images(job: CompressJob, up_to: Optional[int]) -> int:
    """Counts the images of the input; all of them, or only as many as asked for."""
    if files.join(job.input, "").startswith(files.join(job.output, "")):
        raise UsageError(f"the input {job.input} lies in the output {job.output}: choose another --output")
    count = sum(1 for _ in itertools.islice(find_images(job.input, exclude=job.output), up_to))
    if not count:
        raise AdaCompressError(
            f"no images found in {job.input}: give a folder, a glob such as 'DIR/*.jpg', or gs://BUCKET/FOLDER"
        )
    return count


def _conclude(folder: RunFolder) -> None:
    content = json.loads(files.read(folder.summary))
    images, size = content["images"], content["bytes"]
    saved = f"{100 * size['saved'] / size['in']:.1f} % saved" if size["in"] else "nothing saved"
    print(
        f"{images['compressed']} of {images['total']} images compressed, {images['kept']} kept, "
        f"{images['failed']} failed: {report.megabytes(size['in'])} became {report.megabytes(size['out'])} "
        f"({saved}) in {content['wall_seconds']:.1f} s"
    )
    if images["failed"]:
        print(f"failed images: rows with status 'failed' in {folder.manifest}, and in the report")
    print(f"report: {folder.report}")
