"""Running on this machine: all cores, quiet workers, and no worker that outlives the command."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from beam_adacompress.pipelines import local_worker
from beam_adacompress.pipelines.options import UsageError
from beam_adacompress.pipelines.results import tell
from beam_adacompress.transforms.runners import refusal

_LOGGER = logging.getLogger(__name__)

_LOCAL_RUNNERS = {"FnApiRunner", "DirectRunner", "BundleBasedDirectRunner"}

LAUNCHED_VARIABLE = "ADACOMPRESS_LAUNCHED"  # set where a flex template's launcher runs the command


class Runner(NamedTuple):
    """What runs a job."""

    runner: Any  # a PipelineRunner, or the name of one
    is_local: bool


def choose_runner(options: PipelineOptions, flags: Sequence[str]) -> Runner:
    """The runner that the options name; if none, a local one with a worker process per core.

    That is what DirectRunner ends up with too, but for an attempt to download another runner, and with Beam's own
    workers, which outlive a killed command and log to the terminal.

    Args:
      options: of the job; the number of workers is set where it is left open.
      flags: the command line behind them.

    Raises:
      UsageError: that runner must not be used.
    """
    named = options.view_as(StandardOptions).runner
    if named is not None:
        if (why := refusal(named)) is not None:
            raise UsageError(why)
        return Runner(named, named in _LOCAL_RUNNERS)
    direct = options.view_as(DirectOptions)
    stated = {flag.split("=")[0] for flag in flags}
    if "--direct_num_workers" not in stated:
        direct.direct_num_workers = cores()
    if "--direct_running_mode" in stated or direct.direct_num_workers == 1:
        return Runner(FnApiRunner(), True)
    os.environ[local_worker.LAUNCHER_VARIABLE] = str(os.getpid())
    return Runner(FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"exec {worker_command()}")), True)


def worker_command() -> str:
    """A shell's command for a worker that imports what this process imports, from where this process does.

    `python -m` would look into the current folder first: inside a checkout that is another package than the installed
    one, and has no native core.
    """
    starts = f"import sys; sys.path[:] = {sys.path!r}; from {local_worker.__name__} import main; main()"
    return shlex.join([sys.executable, "-c", starts])


def run_to_end(pipeline: beam.Pipeline, options: PipelineOptions, watching: AbstractContextManager[Any]) -> Any:
    """Runs a pipeline and waits for it.

    Args:
      pipeline: to run.
      options: of it.
      watching: entered while it runs; shows progress, or nothing.

    Returns:
      Beam's result, for its metrics; None where nothing was run, but a job or a template made.
    """
    template = options.view_as(GoogleCloudOptions).template_location
    with watching:
        result = pipeline.run()
        if template:
            tell(template=template)
            print(f"template written to {template}")
            return None
        if is_dry(options):
            tell(built=True)
            print("the job is built, and was not run, as --dry_run asks")
            return None
        result.wait_until_finish()
    return result


def is_dry(options: PipelineOptions) -> bool:
    """Whether a job is only built and not run, so that nothing may be written."""
    return bool(options.view_as(TestOptions).dry_run)


def is_template(options: PipelineOptions) -> bool:
    """Whether a job is only written down, and then run any number of times.

    A flex template's launcher has it written down as well, but anew for each run, see `template.main`.
    """
    return bool(options.view_as(GoogleCloudOptions).template_location) and LAUNCHED_VARIABLE not in os.environ


def counted(result: Any, stage: str, name: str) -> int:
    """What a counter of a stage came to, see transforms.metrics; 0 where the runner does not tell."""
    wanted = MetricsFilter().with_namespace(f"adacompress.{stage}").with_name(name)
    return sum(each.result or 0 for each in result.metrics().query(wanted)["counters"])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quiet_logs() -> None:
    """Silences Beam, whose workers and threads report each error with several tracebacks; --debug shows all."""
    os.environ[local_worker.QUIET_VARIABLE] = "1"
    warnings.filterwarnings("ignore", module="PIL")  # what matters of it is in the manifest
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger("beam_adacompress.transforms").setLevel(logging.ERROR)  # the command says it once
    threading.excepthook = lambda failure: _LOGGER.debug("a thread failed", exc_info=failure.exc_value)


def show_warnings() -> None:
    """Lets our own stages warn: a job that never ends has no other way to say what goes wrong."""
    logger = logging.getLogger("beam_adacompress.transforms")
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))


def show_logs() -> None:
    """Shows all that Beam and its workers have to say."""
    os.environ.pop(local_worker.QUIET_VARIABLE, None)
    logging.basicConfig(level=logging.INFO)
