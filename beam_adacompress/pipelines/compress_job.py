"""What a compress run is asked to do: the job and its options."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Optional

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import jpeg
from beam_adacompress.formats import FORMATS
from beam_adacompress.jpeg.metadata import POLICIES
from beam_adacompress.jpeg.native import ENGINES
from beam_adacompress.jpeg.settings import SUBSAMPLINGS
from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.pipelines.asking import Asking
from beam_adacompress.pipelines.options import adder, check_shared
from beam_adacompress.pipelines.score_job import ScoreJob, Scoring, is_below
from beam_adacompress.policy import FixedPolicy
from beam_adacompress.policy.policies import Policy, Serving
from beam_adacompress.transforms import files
from beam_adacompress.transforms.choose import ChooseQuality
from beam_adacompress.transforms.compress import CompressJPEG
from beam_adacompress.transforms.connection import limits_of
from beam_adacompress.transforms.corpus import Corpus
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.sources import MAX_BYTES

_OF_POLICIES = ("policy", "agreement", "confidence", "explore")


@dataclasses.dataclass(frozen=True)
class CompressJob:
    """One compress run; the fields are the options of `adacompress compress`.

    Args:
      input, format, image_field, max_bytes: as for Corpus.
      output: the run's folder.
      policy, agreement, confidence, explore, quality, tables: as for ChooseQuality.
      subsampling, optimize, progressive, align, keep_metadata, min_saving, max_pixels, flatten, engine: as for
        CompressJPEG.
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
    quality: Optional[int] = None
    tables: Optional[str] = None
    subsampling: str = jpeg.Settings.subsampling
    optimize: bool = jpeg.Settings.optimize
    progressive: bool = jpeg.Settings.progressive
    align: bool = jpeg.Settings.align
    keep_metadata: str = jpeg.Settings.keep_metadata
    min_saving: float = jpeg.Settings.min_saving
    max_pixels: int = jpeg.Settings.max_pixels
    flatten: bool = jpeg.Settings.flatten
    engine: str = jpeg.Settings.engine
    max_bytes: int = MAX_BYTES
    overwrite: bool = False
    max_failures: Optional[float] = None
    seed: int = 0
    verify: Sequence[str] = ()
    verify_margin: int = 0
    score_with: Optional[str] = None
    scoring: Scoring = dataclasses.field(default_factory=Scoring)
    policy: Optional[str] = None
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    explore: float = 0.0
    format: Optional[str] = None
    image_field: Optional[str] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "verify", tuple(self.verify or ()))  # an option that is not given is None
        self.choose_quality()
        self.compress_jpeg()
        self.corpus  # noqa: B018 (it checks its own fields)
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
        own = {name: getattr(self, name) for name in ("quality", "tables", *_OF_POLICIES, "seed")}
        asking: dict[str, Any] = {}
        if self.verify:
            asking = {field.name: getattr(self.scoring, field.name) for field in dataclasses.fields(Asking)}
            asking |= {"cache": self.cache, "top": self.scoring.top, "verify": self.verify}
        return ChooseQuality(**own, **asking, verify_margin=self.verify_margin, encoder=self._encoder())

    @functools.cached_property
    def loaded(self) -> Optional[Policy]:
        """The policy that will choose, loaded once; None for a fixed quality.

        Raises:
          AdaCompressError: it cannot be loaded.
        """
        decider = self.choose_quality().decider()
        return decider.load(files.read) if isinstance(decider, Serving) else None

    @functools.cached_property
    def corpus(self) -> Corpus:
        """What is compressed."""
        return Corpus(self.input, self.format, self.image_field, self.max_bytes)

    @property
    def cache(self) -> str:
        return self.scoring.folder(self.output)

    def compress_jpeg(self) -> CompressJPEG:
        return CompressJPEG(**self._encoder())

    def settings(self) -> jpeg.Settings:
        """Of the encoder."""
        return jpeg.Settings(**self._encoder())

    def _encoder(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(jpeg.Settings)}

    def options(self) -> dict[str, Any]:
        """What the results depend on: a run is continued only with the same.

        Raises:
          AdaCompressError: the policy cannot be loaded.
        """
        left_out = ["output", "overwrite", "max_failures", "score_with", "scoring", "format", "image_field"]
        decider = self.choose_quality().decider()
        own = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        own |= self.corpus.options()
        if isinstance(decider, FixedPolicy):  # as the runs of earlier releases have it
            own = {name: value for name, value in own.items() if name not in _OF_POLICIES}
            own |= {"quality": decider.quality, "tables": decider.tables}
        else:
            assert self.loaded is not None
            own |= {"policy": decider.policy, "policy_version": self.loaded.version}
        if not self.verify:
            return {name: value for name, value in own.items() if name not in ("verify", "verify_margin")}
        return {**own, "verify": list(self.verify), "top": self.scoring.top}

    def score_job(self) -> ScoreJob:
        """What scores the images of this run."""
        assert self.score_with is not None
        decider = self.choose_quality().decider()
        return ScoreJob(
            input=self.output,
            output=files.join(self.output, "score"),
            backend=self.score_with,
            overwrite=True,
            max_failures=self.max_failures,
            policy=decider.policy if isinstance(decider, Serving) else None,
            scoring=dataclasses.replace(self.scoring, cache=self.cache),
        )


class CompressOptions(PipelineOptions):
    """The same as pipeline options, for the command line and for Dataflow templates."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--quality",
            type=int,
            metavar="QUALITY",
            help="one JPEG quality for every image, 1 to 100, in the place of a policy (not given: the policy chooses)",
        )
        add(
            "--tables",
            metavar="NAME",
            help=f"quantisation tables of that quality: {', '.join(jpeg.FAMILIES)}, or a fitted family's file (not "
            f"given: {ANNEXK})",
        )
        add(
            "--explore",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="share of the images that get what the policy would do at another of its settings, bolder or more "
            "cautious, so that scores can be learned from",
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
            "--no-align",
            dest="align",
            action="store_false",
            default=True,
            help="quantise JPEGs by the tables alone; without this, the steps that one has are kept wherever less than "
            "twice as coarse ones are asked for: fewer bytes, and nothing lost",
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
            metavar="SHARE",
            help="share of the bytes that must be saved, else the original is kept",
        )
        add(
            "--max-pixels",
            type=int,
            default=jpeg.Settings.max_pixels,
            metavar="PIXELS",
            help="larger images (width x height) are reported as failed",
        )
        add(
            "--format",
            choices=FORMATS,
            help="of the input: files of one image each; shards of many, tfrecord (tf.train.Example), parquet or "
            "webdataset (tar); or list, a CSV or Parquet file with URIs (not given: as its name ends, else files)",
        )
        add(
            "--image-field",
            metavar="NAME",
            help="where the image, or its URI, is: the feature of an Example (default image/encoded), the column of a "
            "Parquet file or a list, the extensions in a tar ('jpg;png') (not given: the one that is there)",
        )
        add("--max-bytes", type=int, default=MAX_BYTES, metavar="BYTES", help="larger files are reported as failed")
        add(
            "--flatten",
            action="store_true",
            help="compress alpha (over white), 16-bit, animated and multi-picture files too (first frame)",
        )
        add(
            "--engine",
            default=jpeg.Settings.engine,
            choices=ENGINES,
            help="native: JPEGs by their DCT coefficients, where the native core is installed; pillow: everything by "
            "its pixels; auto: native where it is installed",
        )
        add("--seed", type=int, default=0, metavar="NUMBER", help="of the images that the report shows")
        add(
            "--verify",
            action="append",
            metavar="BACKEND",
            help="give each image the cheapest quality at which this backend agrees; given several times, all of them "
            "(not given: the policy chooses alone)",
        )
        add(
            "--verify-margin", type=int, default=0, metavar="K", help="the K next finer qualities have to agree as well"
        )
        add(
            "--score-with",
            metavar="BACKEND",
            help="score a sample of the images when they are written, as adacompress score does, into OUTPUT/score "
            "(not given: none is)",
        )
