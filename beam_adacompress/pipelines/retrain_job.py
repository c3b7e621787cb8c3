"""What training a policy again is asked to do: the job and its options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from beam_adacompress.drift import DETECTORS
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.event_log import EventLog
from beam_adacompress.pipelines.compress_job import CompressJob
from beam_adacompress.pipelines.options import adder
from beam_adacompress.policy.policies import DEFAULT
from beam_adacompress.transforms import publishing
from beam_adacompress.transforms.drift import EstimateDrift
from beam_adacompress.transforms.retrain import RetrainAgent


@dataclasses.dataclass(frozen=True)
class RetrainJob:
    """One try to train a policy again; the fields are the options of `adacompress retrain`.

    Args:
      policy: the incumbent, as for RetrainAgent.
      publish, agreement, confidence, seed, recent: as for RetrainAgent.
      detector: as for EstimateDrift.
      false_alarms: of the default detector: scores for each false alarm, at the least; None for its own.
      always: train whatever the estimates say.
      logs: folder on a disk, for TensorBoard; None for none.

    Raises:
      ValueError, TypeError: an option is out of range.
      AdaCompressError: the detector or the logs need an extra that is not installed.
    """

    policy: str = DEFAULT
    publish: Optional[str] = None
    agreement: Optional[float] = None
    confidence: Optional[float] = None
    seed: int = 0
    recent: int = RetrainAgent.recent
    detector: str = EstimateDrift.detector
    false_alarms: Optional[int] = None
    always: bool = True
    logs: Optional[str] = None

    def __post_init__(self) -> None:
        EventLog(self.logs)
        self.retrain_agent()
        self.estimate_drift()

    def estimate_drift(self) -> EstimateDrift:
        """What looks for drift: below the agreement that is asked of the policy, else below its own promise."""
        options = {} if self.false_alarms is None else {"false_alarms": self.false_alarms}
        if self.agreement is not None:
            return EstimateDrift(level=self.agreement, detector=self.detector, options=options)
        return EstimateDrift(policy=self.policy, detector=self.detector, options=options)

    def retrain_agent(self) -> RetrainAgent:
        names = ("policy", "publish", "agreement", "confidence", "seed", "recent", "always")
        return RetrainAgent(**{name: getattr(self, name) for name in names})

    def of_run(self, folder: str, version: str) -> RetrainJob:
        """The same job for a run that goes by one version of the policy; what is trained again is that one.

        Args:
          folder: of the version; where the policy is a folder of published ones, a new version goes there, too, if no
            other place is given.
          version: its name.

        Raises:
          AdaCompressError: another one is in service where the new one would go, or that cannot be read.
        """
        root = self.publish or (None if folder == self.policy else self.policy)
        if root is not None and (now := publishing.latest(root)) is not None and now.version != version:
            raise AdaCompressError(
                f"{now.version} is in service in {root}, and this run would go by {version}: give --policy {root}"
            )
        return dataclasses.replace(self, policy=folder, publish=root)


class DriftOptions:
    """How drift is looked for, and where a new policy goes.

    It is no PipelineOptions: these go into the transforms when the job is made.
    """

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--publish",
            metavar="FOLDER",
            help="where policies are published, on any filesystem: a new version goes there, and becomes "
            "the latest (not given: where the policy of compress or serve is published, and nowhere for retrain)",
        )
        add("--detector", default=RetrainJob.detector, choices=tuple(DETECTORS), help="what says that there is drift")
        add(
            "--false-alarms",
            type=int,
            metavar="SCORES",
            help="of the default detector: not more than one false alarm in so many scores (not given: 10,000)",
        )
        add(
            "--recent",
            type=int,
            default=RetrainJob.recent,
            metavar="SCORES",
            help="how many of the latest scores tell of the scenery as it is",
        )
        add(
            "--logs",
            metavar="FOLDER",
            help="for TensorBoard, on a disk: agreement, reward, evidence of drift and state, and what came of "
            "training again (not given: no curves are written)",
        )


class RetrainOnDriftOptions(DriftOptions):
    """The same for a command that looks for drift where it is asked to."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        super()._add_argparse_args(parser)
        adder(parser)(
            "--retrain-on-drift",
            action="store_true",
            help="where the scores say that the policy has drifted, train it again at the end, and publish what is "
            "better; where the policy is published, if --publish is not given (with --score-with, and with "
            "--explore 0.1, so that there is something to learn from)",
        )


DRIFT = ("publish", "detector", "false_alarms", "recent", "logs")
ON_DRIFT = ("retrain_on_drift", *DRIFT)  # the options of RetrainOnDriftOptions


def job_of(values: Mapping[str, Any], policy: str, always: bool) -> RetrainJob:
    """The job that options ask for.

    Args:
      values: of the options.
      policy: the incumbent.
      always: as for RetrainJob.

    Raises:
      ValueError, TypeError, AdaCompressError: as RetrainJob.
    """
    own = {field.name: values[field.name] for field in dataclasses.fields(RetrainJob) if field.name in values}
    return RetrainJob(**{**own, "policy": policy, "always": always})


def retraining_of(job: CompressJob, drift: Mapping[str, Any]) -> Optional[RetrainJob]:
    """What `adacompress compress --retrain-on-drift` asks for; None where it is not given.

    Args:
      job: the run whose policy it is about.
      drift: the options ON_DRIFT.

    Raises:
      ValueError: an option is given without it, or the run goes by no policy or is not scored.
      others: as RetrainJob.
    """
    if not drift["retrain_on_drift"]:
        if idle := [name for name in DRIFT if drift[name] != getattr(RetrainJob, name)]:
            raise ValueError(f"{idle[0]} is about retraining: give retrain_on_drift too")
        return None
    if job.score_with is None:
        raise ValueError("retrain_on_drift goes by scores: give score_with=BACKEND too")
    if job.verify or job.quality is not None or job.tables is not None:
        raise ValueError("retrain_on_drift trains the policy that chooses: give no quality, tables or verify")
    if job.explore > 0.5:
        raise ValueError(f"explore must be at most 0.5 where drift is looked for, got {job.explore}")
    asked = {name: getattr(job, name) for name in ("agreement", "confidence", "seed")}
    return job_of({**asked, **drift}, job.policy or DEFAULT, always=False)
