"""Runners that must not be used."""

from __future__ import annotations

from typing import Any, Optional

_REFUSED = {
    "DaskRunner": (
        "DaskRunner drops batches and mixes up outputs without a word (apache-beam 2.77), so images would be lost: "
        "use DirectRunner on one machine, or FlinkRunner or DataflowRunner on many"
    )
}


def refusal(runner: Any) -> Optional[str]:
    """Why a runner must not be used; None where it may.

    Args:
      runner: a PipelineRunner, or the name of one, as `--runner` takes it.
    """
    name = runner if isinstance(runner, str) else type(runner).__name__
    return _REFUSED.get(name.rpartition(".")[2])


def check_runner(pipeline: Any) -> None:
    """Checks the runner of a pipeline.

    Raises:
      ValueError: it must not be used.
    """
    if (why := refusal(pipeline.runner)) is not None:
        raise ValueError(why)
