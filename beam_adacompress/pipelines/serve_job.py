"""What a job that serves is asked to do: the job and its options."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Optional, Union

from beam_adacompress import jpeg
from beam_adacompress.pipelines.compress_job import CompressOptions
from beam_adacompress.pipelines.options import JobOptions, adder, some_of
from beam_adacompress.pipelines.retrain_job import RetrainJob
from beam_adacompress.pipelines.score_job import Scoring, is_below, job_of
from beam_adacompress.policy.policies import DEFAULT, Policy, Serving
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.arrivals import LATENESS, POLL, ReceiveImages, WatchImages
from beam_adacompress.transforms.choose import ChooseQuality
from beam_adacompress.transforms.compress import CompressJPEG
from beam_adacompress.transforms.drift import EstimateDrift
from beam_adacompress.transforms.notify import NotifyImages
from beam_adacompress.transforms.publishing import LostRaceError
from beam_adacompress.transforms.reload import REFRESH
from beam_adacompress.transforms.retrain import RetrainAgent
from beam_adacompress.transforms.score import ScoreWithBackend
from beam_adacompress.transforms.serve_sinks import ServeFolder
from beam_adacompress.transforms.sources import MAX_BYTES, ReadFiles

_OF_RETRAINING = ("publish", "detector", "false_alarms", "recent", "gather", "logs")


@dataclasses.dataclass(frozen=True)
class ServeJob:
    """A job that serves; the fields are the options of `adacompress serve`.

    Args:
      output: the job's folder.
      input: what is watched, as for WatchImages; or
      subscription: what tells of new images, as for ReceiveImages.
      root, poll, only_new, stop_after, allowed_lateness: as for those.
      notify: a topic, for messages of what has been written, see NotifyImages.
      window: seconds: of the windows in which scores are written and drift is estimated.
      refresh: seconds after which workers look again for a newer policy, and for what the drift stage advises.
      policy: that chooses: the folder of one, or of published ones, or `default`.
      agreement, confidence, explore, seed: as for ChooseQuality; `explore` while nothing else is advised.
      encoder: the arguments of CompressJPEG.
      max_bytes: as for ReadFiles.
      overwrite: discard what an earlier job left in the output.
      score_with: a backend's URI: what scores a sample of the images; None: drift is not looked for.
      scoring: how, as for ScoreWithBackend.
      publish: folder of the published policies, which workers follow; None for where the policy is published already;
        where it is not, nothing is trained again.
      detector, false_alarms, recent, logs: as for RetrainJob.
      gather: as for RetrainAgent.

    Raises:
      TypeError, ValueError: an option is out of range, or excludes another.
      AdaCompressError: the detector needs an extra that is not installed, or the limits cannot be kept in the cache.
    """

    output: str
    input: Optional[str] = None
    subscription: Optional[str] = None
    root: Optional[str] = None
    poll: float = POLL
    only_new: bool = False
    stop_after: Optional[float] = None
    window: float = 60.0
    allowed_lateness: float = LATENESS
    notify: Optional[str] = None
    refresh: float = REFRESH
    policy: str = DEFAULT
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    explore: float = 0.0
    seed: int = 0
    encoder: jpeg.Settings = dataclasses.field(default_factory=jpeg.Settings)
    max_bytes: int = MAX_BYTES
    overwrite: bool = False
    score_with: Optional[str] = None
    scoring: Scoring = dataclasses.field(default_factory=Scoring)
    publish: Optional[str] = None
    detector: str = RetrainJob.detector
    false_alarms: Optional[int] = None
    recent: int = RetrainJob.recent
    gather: int = RetrainAgent.gather
    logs: Optional[str] = None

    def __post_init__(self) -> None:
        if (self.input is None) == (self.subscription is None):
            given = "neither is" if self.input is None else "both are"
            raise ValueError(f"give either input, which is watched, or subscription, which tells; {given} given")
        of_watching = ("poll", "only_new") if self.input is None else ()
        if idle := [name for name in of_watching if getattr(self, name) != getattr(ServeJob, name)]:
            raise ValueError(f"{idle[0]} is about watching: give input in the place of subscription")
        for name in ("window", "refresh"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        if self.input is not None and is_below(self.input, [self.output]):
            raise ValueError(f"the input {self.input} lies in the output {self.output}: choose another --output")
        self.arrive(pull=self.stop_after is not None)
        if self.notify is not None:
            NotifyImages(self.notify, self.folder)
        self.choose_quality()
        self.compress_jpeg()
        ReadFiles(self.max_bytes)
        idle = [name for name in _OF_RETRAINING if getattr(self, name) != getattr(ServeJob, name)]
        idle += [name for name, value in vars(self.scoring).items() if value != getattr(Scoring, name)]
        if self.score_with is None and idle:
            raise ValueError(f"{idle[0]} is about scores: give score_with=BACKEND too")
        if self.score_with is not None:
            if self.explore > 0.5:
                raise ValueError(f"explore must be at most 0.5 where drift is looked for, got {self.explore}")
            self.score_with_backend()
            self.estimate_drift()
            self.retrain_agent()
        if is_below(self.cache, [*self.folder.folders(), self.folder.work]):
            raise ValueError(f"the cache {self.cache} is where jobs delete files: choose another --cache")

    @property
    def folder(self) -> ServeFolder:
        return ServeFolder(self.output)

    @property
    def cache(self) -> str:
        return self.scoring.folder(self.output)

    @property
    def _refresh(self) -> Optional[float]:
        return None if self.policy == DEFAULT else self.refresh

    def arrive(self, spread: bool = True, pull: bool = False) -> Union[WatchImages, ReceiveImages]:
        """Where images come from.

        Args:
          spread: as for WatchImages.
          pull: as for ReceiveImages.
        """
        if self.input is not None:
            return WatchImages(self.input, self.folder, self.root, self.poll, self.only_new, self.stop_after, spread)
        assert self.subscription is not None
        return ReceiveImages(self.subscription, self.output, self.root, self.allowed_lateness, pull, self.stop_after)

    def choose_quality(self) -> ChooseQuality:
        return ChooseQuality(
            policy=self.policy,
            agreement=self.agreement,
            confidence=self.confidence,
            explore=self.explore,
            seed=self.seed,
            encoder=dataclasses.asdict(self.encoder),
            refresh=self._refresh,
        )

    def compress_jpeg(self) -> CompressJPEG:
        return CompressJPEG(**dataclasses.asdict(self.encoder))

    def score_with_backend(self) -> ScoreWithBackend:
        assert self.score_with is not None
        scoring = {**dataclasses.asdict(self.scoring), "cache": self.cache}
        return ScoreWithBackend(self.score_with, **scoring, policy=self.policy, refresh=self._refresh)

    def estimate_drift(self) -> EstimateDrift:
        return dataclasses.replace(
            self._retraining().estimate_drift(), sample_rate=self.scoring.sample_rate, estimate_rate=self._estimate_rate
        )

    def retrain_agent(self) -> RetrainAgent:
        return dataclasses.replace(
            self._retraining().retrain_agent(),
            gather=self.gather,
            usual_explore=self.explore,
            sample_rate=self.scoring.sample_rate,
            estimate_rate=self._estimate_rate,
        )

    @property
    def _estimate_rate(self) -> float:
        """Share of the images that is scored where there may be drift: not less than usually."""
        return max(self.scoring.sample_rate, EstimateDrift.estimate_rate)

    def _retraining(self) -> RetrainJob:
        names = ("policy", "publish", "agreement", "confidence", "seed", "detector", "false_alarms", "recent", "logs")
        return RetrainJob(**{name: getattr(self, name) for name in names}, always=False)

    def loaded(self) -> Policy:
        """The policy that will choose first.

        Raises:
          AdaCompressError: it cannot be loaded.
        """
        folder = publishing.resolve(self.policy)
        return Serving(folder, self.agreement, self.confidence, self.explore, self.seed).load(files.read)

    def settled(self) -> ServeJob:
        """The same job with a folder of published policies, where it is to publish, as its policy.

        Where nothing is published there, the policy is published first, so that there is something to follow, and to go
        back to.

        Raises:
          AdaCompressError: it cannot be read or published.
        """
        published = publishing.resolve(self.policy) != self.policy
        root = self.publish or (self.policy if published else None)
        if root is None or self.score_with is None:
            return self
        if publishing.latest(root) is None:
            with contextlib.suppress(LostRaceError):  # another job has published meanwhile
                publishing.publish_folder(root, self.policy, None)
        return dataclasses.replace(self, policy=root, publish=root)


_ENCODER = tuple(field.name for field in dataclasses.fields(jpeg.Settings))

OPTIONS = (
    some_of(JobOptions, ("output", "overwrite")),
    some_of(CompressOptions, (*_ENCODER, "explore", "max_bytes")),
)


class ServeOptions:
    """The options that no other command has.

    It is no PipelineOptions: these go into the transforms when the job is made.
    """

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--input",
            metavar="PATH",
            help="what to watch: a folder or prefix (everything below it), or a glob; gs://... works as well (not "
            "given: --subscription tells)",
        )
        add(
            "--subscription",
            metavar="NAME",
            help="projects/PROJECT/subscriptions/NAME of Pub/Sub, in the place of --input: notifications of Cloud "
            "Storage about new objects, or paths of images (not given: --input is watched)",
        )
        add("--root", metavar="FOLDER", help="that the keys are relative to (not given: the one that is watched)")
        add("--poll", type=float, default=ServeJob.poll, metavar="SECONDS", help="between two listings of the input")
        add("--only-new", action="store_true", help="leave out what is in the input when the job starts")
        add(
            "--stop-after",
            type=float,
            metavar="SECONDS",
            help="do not look for new images any more, finish what is there, and end (not given: never)",
        )
        add(
            "--notify",
            metavar="TOPIC",
            help="projects/PROJECT/topics/NAME of Pub/Sub: tell it of each image, and of drift, when that is written "
            "(not given: nobody is told)",
        )
        add(
            "--window",
            type=float,
            default=ServeJob.window,
            metavar="SECONDS",
            help="scores are written and drift is estimated once in so many seconds",
        )
        add(
            "--allowed-lateness",
            type=float,
            default=ServeJob.allowed_lateness,
            metavar="SECONDS",
            help="for which a window waits for images that come late; later ones go into a later window",
        )
        add(
            "--refresh",
            type=float,
            default=ServeJob.refresh,
            metavar="SECONDS",
            help="after which workers look for a newer policy",
        )
        add("--seed", type=int, default=0, metavar="NUMBER", help="of exploring, and of training")
        add(
            "--score-with",
            metavar="BACKEND",
            help="score a sample of the images with it, and look for drift (not given: neither)",
        )
        add(
            "--gather",
            type=int,
            default=ServeJob.gather,
            metavar="SCORES",
            help="where there is drift, train again when so many scores have come since",
        )


def serve_job_of(values: Mapping[str, Any]) -> ServeJob:
    """The job that options ask for.

    Raises:
      TypeError, ValueError, AdaCompressError: as ServeJob.
    """
    encoder = jpeg.Settings(**{name: values[name] for name in _ENCODER})
    job: ServeJob = job_of(ServeJob, {**values, "encoder": encoder})
    return job
