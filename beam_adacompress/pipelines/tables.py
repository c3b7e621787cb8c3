"""`adacompress tables fit` and `adacompress tables show`: quantisation tables made for networks.

ListImages ─▶ SampleFiles ─▶ SpreadImages (shuffle) ─▶ ReadFiles ─▶ MeasureBands ─▶ fit ─▶ FAMILY.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import uuid
from collections.abc import Sequence
from typing import Any, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import jpeg
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg import fitting
from beam_adacompress.jpeg.bands import BandStats
from beam_adacompress.jpeg.fitting import DeepN, FeatureDistillation
from beam_adacompress.jpeg.tables import DEEPN, FEATURE_DISTILLATION, SUFFIX, Family, Table, family, quantisation
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.asking import (
    Asking,
    AskingOptions,
    BackendOptions,
    asking_of,
    check_limits,
    check_reachable,
    only,
)
from beam_adacompress.pipelines.compress_job import CompressOptions
from beam_adacompress.pipelines.mistakes import check_apart, check_models, check_reach, no_images
from beam_adacompress.pipelines.options import CommandLine, JobOptions, UsageError, absolute, adder, one_of, some_of
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.search import search
from beam_adacompress.pipelines.search_job import Search
from beam_adacompress.transforms import files
from beam_adacompress.transforms.measure_bands import MeasureBands, SampleFiles
from beam_adacompress.transforms.sources import ListImages, ReadFiles, SpreadImages, find_images

SEARCH = "search"
METHODS = (DEEPN, FEATURE_DISTILLATION, SEARCH)


@dataclasses.dataclass(frozen=True)
class FitJob:
    """One fit; the fields are options of `adacompress tables fit`.

    Args:
      input: a folder or prefix, a glob, or one file. Folders are classes.
      output: the family's JSON file.
      method: `deepn`, `feature-distillation` or `search`.
      per_class: images of each folder to look at; None for all.
      subsampling: of the chrominance, as the encoder will have it.
      max_pixels: larger images are left out.
      overwrite: write over a file that is there.
      seed: of the images that are drawn.
      deepn, distillation: the methods' parameters.
      search: of the method `search`.

    Raises:
      ValueError: an option is out of range.
    """

    input: str
    output: str
    method: str = DEEPN
    per_class: Optional[int] = None
    subsampling: str = jpeg.Settings.subsampling
    max_pixels: int = jpeg.Settings.max_pixels
    overwrite: bool = False
    seed: int = 0
    deepn: DeepN = dataclasses.field(default_factory=DeepN)
    distillation: FeatureDistillation = dataclasses.field(default_factory=FeatureDistillation)
    search: Optional[Search] = None

    def __post_init__(self) -> None:
        if not self.output.endswith(SUFFIX):
            raise ValueError(f"the output {self.output} must end in {SUFFIX}: that is how a family of tables is known")
        SampleFiles(self.per_class, self.seed)
        if (self.method == SEARCH) != (self.search is not None):
            raise ValueError(f"method {self.method} {'needs a' if self.method == SEARCH else 'asks no'} backend")
        if self.method == SEARCH and self.per_class is not None:
            raise ValueError("per_class is of the other methods: search_images says how many images a search looks at")

    @property
    def settings(self) -> jpeg.Settings:
        """Of the encoder."""
        return jpeg.Settings(subsampling=self.subsampling, align=False, max_pixels=self.max_pixels)

    @property
    def name(self) -> str:
        return self.output.removesuffix(SUFFIX).rpartition("/")[2]

    def fit(self, stats: BandStats) -> Family:
        """The family for a statistic.

        Raises:
          AdaCompressError: it is of no image.
        """
        if not stats.images:
            raise AdaCompressError(f"no image in {self.input} can be read: there is nothing to fit tables to")
        if self.method == DEEPN:
            return fitting.fit_deepn(stats, self.name, self.deepn)
        return fitting.fit_feature_distillation(stats, self.name, self.distillation)


class TablesOptions:
    """The options that are not those of other commands; why it is no PipelineOptions, see TrainOptions."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add("--method", default=DEEPN, choices=METHODS, help="how tables are made of the images' statistics")
        add("--per-class", type=int, metavar="IMAGES", help="of each folder to look at (not given: all)")
        add("--seed", type=int, default=0, metavar="NUMBER", help="of the images that are drawn")
        for name in ("a", "b", "c", "k1", "k2", "k3", "smallest"):
            default = getattr(DeepN, name)
            add(
                f"--deepn-{name}",
                type=float,
                default=default,
                metavar="NUMBER",
                help=f"the constant {name} of DeepN-JPEG's map, see fitting.DeepN",
            )
        add(
            "--deepn-thresholds",
            default="20,60",
            metavar="T1,T2",
            help="of DeepN-JPEG's map, as deviations of coefficients; or ranking: 6, 22, 36 bands",
        )
        add("--deepn-monotone", action="store_true", help="mend the jump of DeepN-JPEG's map at its second threshold")
        step = {"type": int, "metavar": "STEP"}
        add("--defensive-step", default=FeatureDistillation.step, help="of Feature Distillation, 1 to 255", **step)
        add("--spared-step", default=FeatureDistillation.spared_step, help="of the bands that it spares", **step)
        add("--spared", default=FeatureDistillation.spared, choices=fitting.SPARED, help="which bands it spares")
        add("--spared-bands", type=int, default=FeatureDistillation.bands, metavar="BANDS", help="how many it spares")
        add(
            "--search-images",
            type=int,
            default=Search.images,
            metavar="IMAGES",
            help="that a search looks at; a third to judge it",
        )
        add("--rounds", type=int, default=Search.rounds, metavar="ROUNDS", help="of a search, of 12 proposals each")
        add(
            "--search-agreement",
            type=float,
            default=Search.agreement,
            metavar="SHARE",
            help="of the images at which a search is to beat the standard tables",
        )


def job_of(values: dict[str, Any]) -> FitJob:
    """The job that options ask for.

    Raises:
      ValueError: one is out of range.
    """
    if values["method"] != SEARCH:
        _check_search_options(values)
    written = values["deepn_thresholds"]
    try:
        low, high = (None, None) if written == fitting.RANKING else (float(text) for text in written.split(","))
    except ValueError as error:
        raise ValueError(f"deepn_thresholds must be ranking or two numbers like 20,60, got {written!r}") from error
    constants = {name: values[f"deepn_{name}"] for name in ("a", "b", "c", "k1", "k2", "k3", "smallest", "monotone")}
    return FitJob(
        input=absolute(values["input"]),
        output=absolute(values["output"]),
        method=values["method"],
        per_class=values["per_class"],
        subsampling=values["subsampling"],
        max_pixels=values["max_pixels"],
        overwrite=values["overwrite"],
        search=_search_of(values) if values["method"] == SEARCH else None,
        seed=values["seed"],
        deepn=DeepN(**constants, thresholds=None if low is None or high is None else (low, high)),
        distillation=FeatureDistillation(
            values["defensive_step"], values["spared_step"], values["spared"], values["spared_bands"]
        ),
    )


def _check_search_options(values: dict[str, Any]) -> None:
    """Raises ValueError for an option of a search where none was asked for."""
    defaults: dict[str, Any] = {"backend": None, "search_images": Search.images, "rounds": Search.rounds}
    defaults |= {"search_agreement": Search.agreement, "top": Search.top, **dataclasses.asdict(Asking())}
    if given := [name for name, default in defaults.items() if values[name] != default]:
        raise ValueError(f"{given[0]} is about searching: give method search too")


def _search_of(values: dict[str, Any]) -> Search:
    if not values["backend"]:
        raise ValueError("method search needs a backend to ask: give --backend")
    return Search(
        backend=only(values["backend"], "adacompress tables fit"),
        agreement=values["search_agreement"],
        top=values["top"],
        images=values["search_images"],
        rounds=values["rounds"],
        asking=asking_of(values),
    )


class _ShowOptions:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("family", help=f"one of {', '.join(jpeg.FAMILIES)}, or the path of a family's file")
        adder(parser)("--quality", type=int, default=50, metavar="QUALITY", help="that the tables are for, 1 to 100")


FIT = CommandLine(
    "adacompress tables fit",
    "Fit quantisation tables to the images that they are for.",
    (JobOptions, TablesOptions, some_of(CompressOptions, ("subsampling", "max_pixels")), BackendOptions, AskingOptions),
    ("--input", "--output"),
)
SHOW = CommandLine("adacompress tables show", "Show the tables of a family.", (_ShowOptions,), epilog="")
LINES = {"fit": FIT, "show": SHOW}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress tables ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the tables cannot be fitted, or read.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print("usage: adacompress tables fit|show [OPTIONS]; --help after one of them says more")
        return 0
    return int(one_of("tables", {"fit": _run_fit, "show": _run_show}, arguments[0])(arguments[1:]))


def fit(pipeline: beam.Pipeline, job: FitJob) -> beam.PCollection[str]:
    """Adds the job to a pipeline; gives the path of the family's file, when it is written."""
    listed = pipeline | "ListImages" >> ListImages(job.input)
    read = (
        listed.images
        | "SampleFiles" >> SampleFiles(job.per_class, job.seed)
        | "SpreadImages" >> SpreadImages()
        | "ReadImages" >> ReadFiles()
    )
    return (
        read.images
        | "MeasureBands" >> MeasureBands(job.subsampling, job.max_pixels)
        | "Fit" >> beam.Map(functools.partial(_write, job)).with_output_types(str)
    )


def _write(job: FitJob, stats: BandStats) -> str:
    return _save(job, job.fit(stats))


def _save(job: FitJob, made: Family) -> str:
    scratch = files.join(job.output.rpartition("/")[0], f".adacompress-{uuid.uuid4().hex}")
    try:
        files.write(job.output, made.to_json(), scratch, "application/json")
    except OSError as error:
        raise AdaCompressError(f"{job.output} cannot be written: {error.strerror or error}") from error
    finally:
        files.delete([scratch])
    return job.output


def _run_fit(argv: Sequence[str]) -> int:
    values, rest = FIT.parse(argv)
    values["cache"] = values["cache"] and absolute(values["cache"])
    try:
        job = job_of(values)
    except ValueError as error:
        raise UsageError(str(error)) from error
    options = PipelineOptions(rest)
    FileSystems.set_options(options)
    check_reach(options, output=job.output, input=job.input)
    check_apart(job.input, job.output)
    if next(find_images(job.input), None) is None:
        raise no_images(job.input)
    if not job.overwrite and files.status(job.output) is not None:
        raise AdaCompressError(f"{job.output} is there already: choose another --output, or --overwrite it")
    if job.search is not None:
        cache = job.search.asking.folder(job.output)
        check_limits(job.search.asking, cache, options)
        check_models(options, [job.search.backend])
        check_reachable("a search", options, output=job.output, cache=cache)
        _save(job, search(job, job.search, options, rest))
    else:
        runner, _ = local.choose_runner(options, rest)
        pipeline = beam.Pipeline(runner, options)
        fit(pipeline, job)
        if not local.run_to_end(pipeline, options, contextlib.nullcontext()):
            return 0
    made = family(job.output, files.read)
    tell(family=made.name, output=job.output, origin=made.origin)
    print(f"{made.name}: fitted to {made.origin['images']} images")
    print(shown(made, 50))
    if job.search is not None:
        print(_said_of_worth(made))
    print(f"use it with: adacompress compress --tables {job.output} ...")
    return 0


def _said_of_worth(made: Family) -> str:
    worth = made.origin["validation"]
    ratio = worth["bytes_ratio"]
    where = f"on {worth['images']} images that the search did not see, at an agreement of {worth['agreement']:.3f}:"
    if ratio["mean"] is None:
        return f"{where} the tables do not reach it, and the standard ones do"
    low, high = ("more" if ratio[side] is None else f"{ratio[side]:.3f}" for side in ("low", "high"))
    sure = ratio["high"] is not None and ratio["high"] < 1
    verdict = "" if sure else ": not surely fewer bytes than the standard tables need"
    return f"{where} {ratio['mean']:.3f} ({low} to {high}) of the standard tables' bytes{verdict}"


def _run_show(argv: Sequence[str]) -> int:
    given, _ = SHOW.parse(argv)
    try:
        luminance, chrominance, rounding = quantisation(given["family"], given["quality"], files.read)
    except ValueError as error:
        raise UsageError(str(error)) from error
    made = family(given["family"], files.read)
    tell(family=made.name, quality=given["quality"], rounding=rounding, luminance=luminance, chrominance=chrominance)
    print(shown(made, given["quality"]))
    return 0


def shown(made: Family, quality: int) -> str:
    """Both tables side by side, for people."""
    luma, chroma, _ = made.at(quality)
    lines = [f"{'luminance, quality ' + str(quality):<40}  chrominance"]
    lines += [f"{_row(luma, row)}  {_row(chroma, row)}" for row in range(8)]
    return "\n".join(lines)


def _row(table: Table, row: int) -> str:
    return "".join(f"{step:>5}" for step in table[8 * row : 8 * row + 8])
