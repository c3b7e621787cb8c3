"""How the jobs ask backends: what all of them have in common, and its options."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any, Optional

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import backends, reward
from beam_adacompress.backends.manners import Manners
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.mistakes import check_reach, runs_on_dataflow
from beam_adacompress.pipelines.options import UsageError, adder
from beam_adacompress.transforms import files
from beam_adacompress.transforms.connection import limits_of


@dataclasses.dataclass(frozen=True)
class Asking:
    """Limits and manners, as for ScoreWithBackend.

    Without `cache` the answers are kept in the user's cache folder, or, where the output is not on a disk, in
    OUTPUT/cache.
    """

    max_calls: Optional[int] = None
    max_cost: Optional[float] = None
    calls_per_second: Optional[float] = None
    timeout: float = Manners.timeout
    retries: int = Manners.retries
    concurrency: Optional[int] = None
    cache: Optional[str] = None

    def manners(self) -> Manners:
        return Manners(self.timeout, self.retries, self.concurrency)

    def folder(self, output: str) -> str:
        """Where the answers of a job with an output are kept."""
        return self.cache or default_cache(output)


def asking_of(values: dict[str, Any]) -> Asking:
    """From the values of the options."""
    return Asking(**{field.name: values[field.name] for field in dataclasses.fields(Asking)})


class AskingOptions(PipelineOptions):
    """The fields of Asking as pipeline options, and what counts as agreement."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--top",
            type=int,
            default=reward.TOP,
            metavar="LABELS",
            help="how many labels of the result the best one of the original has to be among",
        )
        add(
            "--max-calls",
            type=int,
            metavar="CALLS",
            help="that the whole job makes at most, repeated ones counted (not given: no limit)",
        )
        add("--max-cost", type=float, metavar="USD", help="what the whole job spends at most (not given: no limit)")
        add(
            "--calls-per-second",
            type=float,
            metavar="CALLS",
            help="of all workers together in a second, at most (not given: no limit)",
        )
        add("--timeout", type=float, default=Asking.timeout, metavar="SECONDS", help="after which a call is given up")
        add(
            "--retries",
            type=int,
            default=Asking.retries,
            metavar="CALLS",
            help="in the place of a call that failed and may succeed later",
        )
        add(
            "--concurrency",
            type=int,
            metavar="CALLS",
            help="at once in each worker (not given: 16, or 1 for a model in the worker)",
        )
        add(
            "--cache",
            metavar="FOLDER",
            help="where answers are kept, so that none is paid for twice; all workers have to reach it "
            "(not given: the user's cache folder, or OUTPUT/cache where the output is not on a disk)",
        )


class BackendOptions(PipelineOptions):
    """Whom to ask."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        known = ", ".join(backends.BACKENDS)
        adder(parser)(
            "--backend",
            action="append",
            metavar="BACKEND",
            help=f"what to ask, e.g. google-vision or litert:model.tflite?labels=names.txt; one of {known}; for "
            "train and evaluate several may be given (not given: tables fit alone can do without)",
        )


def only(named: list[str], prog: str) -> str:
    """The backend of a command that asks one.

    Raises:
      UsageError: several are named.
    """
    if len(named) > 1:
        raise UsageError(f"{prog} asks one backend, and {len(named)} are given: {', '.join(named)}")
    return named[0]


def check_limits(asking: Asking, cache: str, options: PipelineOptions) -> None:
    """Refuses limits that would not hold.

    Raises:
      UsageError: the job is a template, whose runs would share one budget, or its workers do not share the cache.
    """
    limits = limits_of(asking)
    if not limits:
        return
    option = "--" + limits[0].replace("_", "-")
    if local.is_template(options):
        raise UsageError(f"{option} holds for one run, and a template is run many times: give it to the run instead")
    if runs_on_dataflow(options) and files.is_local(cache):
        raise UsageError(
            f"{option} is kept in the cache {cache}, which Dataflow's workers do not share: give --cache gs://..."
        )


def check_reachable(what: str, options: PipelineOptions, **paths: str) -> None:
    """Refuses a command whose job's workers could not hand back what it goes by.

    Args:
      what: the command, for the message.
      options: of the Beam job.
      paths: by the name of their option.

    Raises:
      UsageError: they run elsewhere, and a path is on this machine's disk; or it is a template.
    """
    if local.is_template(options):
        raise UsageError(f"{what} goes by what its jobs come to, so it cannot be a template")
    check_reach(options, **paths)


def default_cache(output: str) -> str:
    """Where answers are kept if nobody says where."""
    if not files.is_local(output):
        return files.join(output, "cache")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "beam-adacompress")
