"""Running on this machine: all cores, quiet workers, and no worker that outlives the command."""

from __future__ import annotations

import logging
import os
import threading

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_adacompress.transforms.local_worker import LAUNCHER_VARIABLE

_LOGGER = logging.getLogger(__name__)

LOCAL_RUNNER = "FnApiRunner"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure(options: PipelineOptions) -> bool:
    """Where no runner is named, sets the local one up with one worker process per core.

    FnApiRunner is what DirectRunner ends up with; naming it spares the attempt to download another.

    Returns:
      Whether the job runs on this machine.
    """
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = LOCAL_RUNNER
        direct = options.view_as(DirectOptions)
        if direct.direct_num_workers == 1 and "direct_num_workers" not in options.get_all_options(drop_default=True):
            direct.direct_num_workers = cores()
        if direct.direct_num_workers != 1 and direct.direct_running_mode == "in_memory":
            direct.direct_running_mode = "multi_processing"
    local = standard.runner in (LOCAL_RUNNER, "DirectRunner", "BundleBasedDirectRunner")
    if local:
        os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    return local


def quiet_logs() -> None:
    """Silences Beam, whose workers and threads report each error with several tracebacks; --debug shows all."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    threading.excepthook = lambda failure: _LOGGER.debug("a thread failed", exc_info=failure.exc_value)
