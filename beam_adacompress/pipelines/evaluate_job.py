"""What `adacompress evaluate` is asked to do: the job and its options, its policies, and what it tries."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Optional

from beam_adacompress import jpeg, reward
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import ANNEXK, family
from beam_adacompress.pipelines.asking import Asking
from beam_adacompress.pipelines.mistakes import no_images
from beam_adacompress.pipelines.options import adder, check_shared
from beam_adacompress.pipelines.policy_options import located
from beam_adacompress.pipelines.train_job import BY_QUALITY, configurations, kind_of
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import TEST, part_of
from beam_adacompress.policy.policies import DEFAULT, Policy, Serving
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.transforms import files
from beam_adacompress.transforms.sources import MAX_BYTES, ImageFile, list_images
from beam_adacompress.transforms.trials import TryConfigurations
from beam_adacompress.trials import Configuration

JITTER_QUALITY = 95  # at which the references are saved again, to see how far a backend agrees with itself
PLAIN_SUBSAMPLING = "4:2:0"  # Pillow's, and that of the plain scan that trials measure
SAMPLES = 1000  # of the bootstrap
ALL = "all"  # the other split
SPLITS = (TEST, ALL)
SEED = 0  # of policies that do not say with which one their images were dealt out

_READERS = 8  # threads
_REPORT, _JSON, _PLOT = "report.html", "evaluation.json", "rate_agreement"


@dataclasses.dataclass(frozen=True)
class EvaluateJob:
    """One evaluation; the fields are the options of `adacompress evaluate`.

    Args:
      input: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      output: the evaluation's folder.
      backend: URIs of those that judge, each for itself.
      policy: folders, or `default`.
      agreement, confidence: what all policies are to promise, as for `policies.Serving`.
      split: `test` for the images that every policy's training kept for testing, `all` for all of them.
      seed: of the split, for policies that do not say theirs; None for SEED.
      samples: of the bootstrap.
      top: labels of the compressed image among which the reference's best one has to be.
      overwrite: replace an evaluation that is there.
      max_failures: the largest share of images without an answer with which the job still succeeds; None for any.
      asking: limits and manners; limits are of each backend.

    Raises:
      ValueError, TypeError: an option is out of range, or does not go with another.
      AdaCompressError: limits cannot be kept in the cache.
    """

    input: str
    output: str
    backend: Sequence[str]
    policy: Sequence[str] = (DEFAULT,)
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    split: str = TEST
    seed: Optional[int] = None
    samples: int = SAMPLES
    top: int = reward.TOP
    overwrite: bool = False
    max_failures: Optional[float] = None
    asking: Asking = dataclasses.field(default_factory=Asking)

    def __post_init__(self) -> None:
        check_shared(self.max_failures, SEED if self.seed is None else self.seed)
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if not self.policy:
            raise ValueError("an evaluation needs at least one policy, and none is given")
        for policy in self.policy:
            self._serving(policy)
        self.transform((), jpeg.Settings(), Sight())

    @property
    def json(self) -> str:
        """The file that is there when the evaluation is complete."""
        return files.join(self.output, _JSON)

    @property
    def report(self) -> str:
        return files.join(self.output, _REPORT)

    def plot(self, backend: str) -> str:
        """The plot of the backend with one of `names_of`."""
        if len(self.backend) == 1:
            return files.join(self.output, f"{_PLOT}.png")
        return files.join(self.output, f"{_PLOT}-{backend}.png")

    def is_ours(self, path: str) -> bool:
        """Whether an evaluation wrote a file."""
        name = path.rpartition("/")[2]
        plot = name.startswith(_PLOT) and name.endswith(".png")
        return path == files.join(self.output, name) and (plot or name in (_REPORT, _JSON))

    @property
    def work(self) -> str:
        """A folder for the time of the job."""
        return files.join(self.output, "_adacompress")

    @property
    def cache(self) -> str:
        return self.asking.folder(self.output)

    def _serving(self, policy: str) -> Serving:
        return Serving(policy, self.agreement, self.confidence)

    def contenders(self) -> list[Contender]:
        """The policies, loaded.

        Raises:
          AdaCompressError: one cannot be read, or they do not go together, or do not go with a backend.
        """
        found = []
        for name, folder in zip(numbered([each.rpartition("/")[2] for each in self.policy]), self.policy):
            policy = self._serving(folder).load(files.read)
            seed = int(policy.artefact.data.get("seed", SEED if self.seed is None else self.seed))
            if self.seed not in (None, seed):
                raise AdaCompressError(
                    f"the images of the policy {folder} were dealt out with seed {seed}, so with seed {self.seed} it "
                    "would be tested on images that it was trained on: leave out --seed"
                )
            found.append(Contender(name, folder, policy, seed))
        for each in found:
            if each.settings != found[0].settings:
                raise AdaCompressError(
                    f"the policies {found[0].folder} and {each.folder} are for different encoders "
                    f"({found[0].encoder} and {each.encoder}): evaluate each on its own"
                )
        for uri in self.backend:
            others = [each for each in found if any(one.name != ANNEXK for one in each.policy.artefact.families)]
            if kind_of(uri) in BY_QUALITY and others:
                raise AdaCompressError(
                    f"{kind_of(uri)} knows images by their quality, which is one of the standard tables, and the "
                    f"policy {others[0].folder} has other tables: ask the backend itself"
                )
            aligning = [each for each in found if each.policy.artefact.encoder.get("align")]
            if kind_of(uri) in BY_QUALITY and aligning:
                raise AdaCompressError(
                    f"{kind_of(uri)} knows images by their quality, which aligned steps have none of, and the policy "
                    f"{aligning[0].folder} is for an encoder that aligns them: train one with --no-align"
                )
        return found

    def transform(
        self, tried: Sequence[Configuration], settings: jpeg.Settings, sight: Sight, plain: Sequence[int] = ()
    ) -> TryConfigurations:
        """What looks at each image, and asks about it where there is something to try."""
        return TryConfigurations(
            backends=tuple(self.backend),
            configurations=tried,
            settings=settings,
            sight=sight,
            plain=plain,
            manners=self.asking.manners(),
            cache=self.cache,
            max_calls=self.asking.max_calls,
            max_cost=self.asking.max_cost,
            calls_per_second=self.asking.calls_per_second,
        )


class Contender(NamedTuple):
    """A policy that is evaluated."""

    name: str  # the last part of its folder, and a number if another has that, too
    folder: str
    policy: Policy
    seed: int  # of dealing its images out

    @property
    def settings(self) -> jpeg.Settings:
        """The encoder that it is for.

        Raises:
          AdaCompressError: it is none that this release knows.
        """
        try:
            return jpeg.Settings(**self.policy.artefact.encoder)
        except (TypeError, ValueError) as error:
            raise AdaCompressError(f"the policy {self.folder} is for an unknown encoder: {error}") from error

    @property
    def encoder(self) -> str:
        """The same in words."""
        return ", ".join(f"{name} {value}" for name, value in self.policy.artefact.encoder.items())


class Grid(NamedTuple):
    """What is tried on each image, once, and who has it: columns are indices of configurations."""

    configurations: list[Configuration]
    ladder: list[int]  # of the standard tables at the qualities LADDER
    bare: list[int]  # of the same with steps that are not aligned, as a bare loop has them; none if nobody is asked
    spaces: list[list[int]]  # for each policy, of its actions
    jitter: int

    @property
    def actions(self) -> list[int]:
        """Everything that anyone may choose."""
        return sorted({*self.ladder, *(column for space in self.spaces for column in space)})


def grid(spaces: Sequence[ActionSpace], settings: jpeg.Settings) -> Grid:
    """What there is to try for policies with these actions and this encoder."""
    standard = family(ANNEXK)
    ladder, jitter = (ActionSpace((standard,), qualities) for qualities in (LADDER, (JITTER_QUALITY,)))
    written = [_actions(space) for space in (ladder, *spaces)]
    unaligned = [[each._replace(align=False) for each in _actions(space)] for space in (ladder, jitter)]
    if settings.subsampling != PLAIN_SUBSAMPLING:
        unaligned[0] = []  # nobody is asked about pixels that Pillow would have written
    tried = list(dict.fromkeys(each for own in (*written, *unaligned) for each in own))
    index = {each: column for column, each in enumerate(tried)}
    columns, (bare, again) = ([[index[each] for each in own] for own in several] for several in (written, unaligned))
    return Grid(tried, columns[0], bare, columns[1:], again[0])


def _actions(space: ActionSpace) -> list[Configuration]:
    """What each action tries."""
    own = configurations(space)
    return [own[column] for column in space.distinct()[1]]


def is_test(sha256: str, seeds: Sequence[int]) -> bool:
    """Whether trainings with these seeds all kept an image for testing."""
    return all(part_of(sha256, str(seed)) == TEST for seed in seeds)


def test_images(job: EvaluateJob, policies: Sequence[Contender]) -> list[ImageFile]:
    """The images to judge by, one of each content where the split is known by it; nobody is asked.

    Files that cannot be read are among them: the job says what is wrong with them.

    Raises:
      AdaCompressError: there are none.
    """
    listed = list_images(job.input, exclude=job.output)
    images = [each for each in listed if isinstance(each, ImageFile)]
    if not images:
        raise no_images(job.input)
    if job.split == ALL:
        return images
    seeds = [each.seed for each in policies]
    chosen: dict[str, ImageFile] = {}
    with ThreadPoolExecutor(_READERS) as threads:
        for image, sha256 in zip(images, threads.map(_sha256, images)):
            if sha256 is None or is_test(sha256, seeds):
                chosen.setdefault(sha256 or image.path, image)
    if not chosen:
        raise AdaCompressError(
            f"none of the {len(images)} images in {job.input} is one that every policy's training would have kept for "
            "testing: give more images, or --split all if no policy was trained on any of them"
        )
    return list(chosen.values())


def _sha256(image: ImageFile) -> Optional[str]:
    if image.bytes_in > MAX_BYTES:
        return None
    try:
        return hashlib.sha256(files.read(image.path)).hexdigest()
    except OSError:
        return None


def names_of(backends: Sequence[str]) -> list[str]:
    """Short names of backends, fit for files, by their URIs: a network's file, or the service."""
    stems = [PurePosixPath(uri.partition("?")[0].partition(":")[2]).stem or kind_of(uri) for uri in backends]
    return numbered([re.sub(r"[^\w.-]", "_", stem) for stem in stems])


def numbered(names: Sequence[str]) -> list[str]:
    """The same names, with numbers where one comes again."""
    found: list[str] = []
    for name in names:
        number, new = 1, name
        while new in found:
            number += 1
            new = f"{name}-{number}"
        found.append(new)
    return found


class EvaluateOptions:
    """The options that are not those of other commands; why it is no PipelineOptions, see TrainOptions."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--split",
            default=TEST,
            choices=SPLITS,
            help="test: the fifth of the images that each policy's training keeps for testing, known by their bytes; "
            "all: all of them, for images that no training ever saw",
        )
        add(
            "--seed",
            type=int,
            metavar="NUMBER",
            help=f"of the split, for policies that do not say theirs (not given: {SEED})",
        )
        add("--samples", type=int, default=SAMPLES, metavar="SAMPLES", help="of the bootstrap that gives the intervals")


def job_of(values: Mapping[str, Any], asking: Asking) -> EvaluateJob:
    """The job that options ask for.

    Raises:
      ValueError, TypeError, AdaCompressError: as EvaluateJob.
    """
    own = {field.name: values[field.name] for field in dataclasses.fields(EvaluateJob) if field.name in values}
    own["policy"] = tuple(map(located, values["policy"] or [DEFAULT]))
    return EvaluateJob(**own, asking=asking)
