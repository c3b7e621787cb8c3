"""What `adacompress train` is asked to do: the job and its options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from beam_adacompress import jpeg, reward
from beam_adacompress.event_log import EventLog
from beam_adacompress.jpeg.settings import SUBSAMPLINGS
from beam_adacompress.jpeg.tables import ANNEXK, LEARNABLE, Quantisation, check_action
from beam_adacompress.pipelines.asking import Asking
from beam_adacompress.pipelines.options import adder, check_shared
from beam_adacompress.policy import dqn
from beam_adacompress.policy.actions import ActionSpace, action_space
from beam_adacompress.policy.artefact import AGENTS, DESCRIPTION
from beam_adacompress.policy.calibration import CONFIDENCE
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.training import AGREEMENT, Learning
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.transforms import files
from beam_adacompress.transforms.augment import AddCopies
from beam_adacompress.transforms.trials import TryConfigurations
from beam_adacompress.trials import Configuration

# Each family takes as many calls for an image as there are qualities; the other two are for whoever names them.
FAMILIES = LEARNABLE
CANDIDATES = (0, 2)  # indices of the qualities at which a lookahead is shown each family; 5 and 11, if nothing is said
SHOWN_FAMILIES = 5  # if there are as many
BY_QUALITY = ("replay", "record")  # backends that know images by their quality alone
_MEASURED = ("subsampling", "optimize", "progressive", "align")  # of jpeg.Settings: what the bytes of a trial depend on


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """One training; the fields are the options of `adacompress train`.

    Args:
      input: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      output: the policy's folder.
      backend: URIs of those that have to agree.
      agent, agreement, confidence, seed, steps, logs, top: as for `training.Learning`.
      augment: copies of each image that trains, see `jpeg.augment`: parts of it, saved again. Each is asked about as an
        image is.
      tables: names of families, or paths of their files; None for FAMILIES. Of the agent `agreement`, as `qualities`.
      qualities: ascending; None for LADDER.
      lookahead, embedding: as for `lookahead.Sight`.
      lookahead_families: how many families the lookahead is shown, each at two qualities; with 0 it sees the original
        alone.
      subsampling, optimize, progressive, align, max_pixels: as for `jpeg.Settings`.
      overwrite: replace a policy that is there.
      max_failures: the largest share of images without an answer with which the job still succeeds; None for any.
      asking: limits and manners; limits are of each backend.

    Raises:
      ValueError, TypeError: an option is out of range, or does not go with another.
      AdaCompressError: limits cannot be kept in the cache, or there is nothing to write logs with.
    """

    input: str
    output: str
    backend: Sequence[str]
    agent: str = AgreementAgent.kind
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    seed: int = 0
    steps: Optional[int] = None
    logs: Optional[str] = None
    top: int = reward.TOP
    augment: int = 0
    tables: Optional[Sequence[str]] = None
    qualities: Optional[Sequence[int]] = None
    lookahead: Optional[str] = None
    lookahead_families: int = SHOWN_FAMILIES
    embedding: Optional[str] = None
    subsampling: str = jpeg.Settings.subsampling
    optimize: bool = jpeg.Settings.optimize
    progressive: bool = jpeg.Settings.progressive
    align: bool = jpeg.Settings.align
    max_pixels: int = jpeg.Settings.max_pixels
    overwrite: bool = False
    max_failures: Optional[float] = None
    asking: Asking = dataclasses.field(default_factory=Asking)

    def __post_init__(self) -> None:
        check_shared(self.max_failures, self.seed)
        EventLog(self.logs)
        how = self.learning()
        if how.agent == DQNAgent.kind:
            for name in ("tables", "qualities"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is of the agent {AgreementAgent.kind}: {how.agent} has the published actions, "
                        f"qualities {', '.join(map(str, dqn.QUALITIES))} of the standard tables"
                    )
        if self.lookahead_families < 0:
            raise ValueError(f"lookahead_families must be at least 0, got {self.lookahead_families}")
        if self.lookahead is None and self.lookahead_families != SHOWN_FAMILIES:
            raise ValueError("lookahead_families is about a lookahead: give lookahead=NETWORK too")
        for reference in self._families:
            check_action(reference, 50)
        self.copies()
        for uri in self.backend:
            name = kind_of(uri)
            if name in BY_QUALITY and self.augment:
                raise ValueError(f"{name} knows images by their names, and their copies have none: give augment=0")
            if name in BY_QUALITY and any(reference != ANNEXK for reference in self._families):
                raise ValueError(
                    f"{name} knows images by their quality, which is one of the standard tables: give tables={ANNEXK}"
                )
        standard = action_space([ANNEXK], self._qualities)  # for checks without reading files
        self.transform(standard, self.sight(standard))

    @property
    def policy(self) -> str:
        """The file that is there when the policy is."""
        return files.join(self.output, DESCRIPTION)

    @property
    def work(self) -> str:
        """A folder for the time of the job."""
        return files.join(self.output, "_adacompress")

    @property
    def cache(self) -> str:
        return self.asking.folder(self.output)

    @property
    def _families(self) -> Sequence[str]:
        if self.agent == DQNAgent.kind:
            return (ANNEXK,)
        return FAMILIES if self.tables is None else self.tables

    @property
    def _qualities(self) -> Sequence[int]:
        if self.agent == DQNAgent.kind:
            return dqn.QUALITIES
        return LADDER if self.qualities is None else self.qualities

    def learning(self) -> Learning:
        agreement = AGREEMENT if self.agreement is None else self.agreement
        confidence = CONFIDENCE if self.confidence is None else self.confidence
        return Learning(self.agent, agreement, confidence, self.top, self.seed, self.steps, self.logs)

    def copies(self) -> AddCopies:
        """What adds copies of the images that train."""
        return AddCopies(self.augment, self.seed, self.max_pixels)

    def settings(self) -> jpeg.Settings:
        by_quality = any(kind_of(uri) in BY_QUALITY for uri in self.backend)  # which aligned steps have none of
        aligns = self.align and not by_quality
        return jpeg.Settings(self.subsampling, self.optimize, self.progressive, aligns, max_pixels=self.max_pixels)

    def encoder(self) -> dict[str, Any]:
        """What a policy remembers of the settings."""
        settings = self.settings()
        return {name: getattr(settings, name) for name in _MEASURED}

    def space(self) -> ActionSpace:
        """What the policy may choose from; reads the families' files.

        Raises:
          AdaCompressError: a family cannot be read.
          ValueError: two families have one name.
        """
        return action_space(self._families, self._qualities, files.read)

    def sight(self, space: ActionSpace) -> Sight:
        """What is looked at; without the versions of its networks."""
        count = len(space.qualities)
        families = range(min(self.lookahead_families, len(space.families))) if self.lookahead is not None else ()
        places = sorted({min(at, count - 1) for at in CANDIDATES})
        shown = [space.quantisation(family * count + at) for family in families for at in places]
        return Sight(self.lookahead, tuple(dict.fromkeys(shown)), self.embedding)

    def transform(self, space: ActionSpace, sight: Sight) -> TryConfigurations:
        """What asks about each image."""
        return TryConfigurations(
            backends=tuple(self.backend),
            configurations=configurations(space),
            settings=self.settings(),
            sight=sight,
            manners=self.asking.manners(),
            cache=self.cache,
            max_calls=self.asking.max_calls,
            max_cost=self.asking.max_cost,
            calls_per_second=self.asking.calls_per_second,
        )


def kind_of(uri: str) -> str:
    """What a backend's URI begins with, e.g. `litert`."""
    return uri.partition("?")[0].partition(":")[0]


def configurations(space: ActionSpace) -> list[Configuration]:
    """What to try, in the order of `ActionSpace.distinct`; only standard tables are known by their quality."""
    unique, _ = space.distinct()
    qualities: dict[Quantisation, int] = {}
    for family in space.families:
        if family.name == ANNEXK:
            qualities = {family.at(quality): quality for quality in reversed(space.qualities)}
    return [Configuration(each, qualities.get(each)) for each in unique]


class TrainOptions:
    """The options that are not those of other commands.

    It is no PipelineOptions: Beam parses the options of all loaded jobs together, and `--seed`, `--tables` and those of
    the encoder are there already, as `adacompress compress` has them. This job hands Beam only Beam's own.
    """

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add("--agent", default=TrainJob.agent, choices=tuple(AGENTS), help="what learns; dqn is AdaCompress's")
        add("--seed", type=int, default=0, metavar="NUMBER", help="of which images are for what, and of learning")
        add(
            "--tables",
            action="append",
            metavar="NAMES",
            help=f"quantisation tables to choose from: {', '.join(jpeg.FAMILIES)} or files of fitted ones, with commas "
            f"or given several times (not given: {','.join(FAMILIES)})",
        )
        add(
            "--qualities",
            action="append",
            metavar="NUMBERS",
            help=f"to choose from, e.g. 10,20,40, with commas or given several times (not given: "
            f"{','.join(map(str, LADDER))})",
        )
        add(
            "--lookahead",
            metavar="NETWORK",
            help="litert:small.tflite: a small network in the worker; what it says of the original and of a few "
            "encodings is looked at, too (not given: none)",
        )
        add(
            "--lookahead-families",
            type=int,
            default=TrainJob.lookahead_families,
            metavar="NUMBER",
            help="how many families the lookahead is shown, each at two qualities; with 0 it sees the original alone, "
            "which takes one answer of it an image in the place of eleven",
        )
        add(
            "--embedding",
            metavar="NETWORK",
            help="a network in the worker whose raw output is looked at, too (not given: none)",
        )
        add("--steps", type=int, metavar="STEPS", help="of dqn (not given: 1600, or twice the images that train)")
        add(
            "--augment",
            type=int,
            default=TrainJob.augment,
            metavar="COPIES",
            help="of each image that trains: parts of it, saved again, about which backends are asked, too; 1 or 2 "
            "make a better policy where there are few images",
        )
        add(
            "--logs",
            metavar="FOLDER",
            help="for TensorBoard, on a disk: loss, agreement, size ratio and reward on "
            "the images that validate, and a plot of rate against agreement, after every epoch (not given: none)",
        )
        add("--subsampling", default=TrainJob.subsampling, choices=SUBSAMPLINGS, help="chroma subsampling")
        for name, help_text in (
            ("optimize", "standard Huffman tables"),
            ("progressive", "one scan"),
            ("align", "the steps of the tables alone"),
        ):
            help_text += ": as the encoder that the policy is for"
            add(f"--no-{name}", dest=name, action="store_false", default=True, help=help_text)
        add(
            "--max-pixels",
            type=int,
            default=TrainJob.max_pixels,
            metavar="PIXELS",
            help="larger images (width x height) are reported as failed",
        )


def job_of(values: Mapping[str, Any], asking: Asking) -> TrainJob:
    """The job that options ask for.

    Raises:
      ValueError, TypeError, AdaCompressError: as TrainJob.
    """
    own = {field.name: values[field.name] for field in dataclasses.fields(TrainJob) if field.name in values}
    if (tables := values["tables"]) is not None:
        own["tables"] = tuple(name for each in tables for name in each.split(",") if name)
    if (written := values["qualities"]) is not None:
        try:
            own["qualities"] = tuple(int(text) for each in written for text in each.split(","))
        except ValueError as error:
            raise ValueError(f"qualities must be whole numbers like 10,20,40, got {','.join(written)!r}") from error
    return TrainJob(**own, asking=asking)
