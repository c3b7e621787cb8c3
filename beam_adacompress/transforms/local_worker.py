"""What a worker process does for a command on the same machine: end with it, and end quickly."""

from __future__ import annotations

import atexit
import functools
import os
import sys

LAUNCHER_VARIABLE = "ADACOMPRESS_LAUNCHER"  # process id of the command; workers inherit it


def exit_without_launcher() -> None:
    """Ends this process if the command that started it has been killed, so that it does not go on writing alone."""
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is None:
        return
    try:
        os.kill(int(launcher), 0)
    except ProcessLookupError:
        os._exit(1)


@functools.lru_cache(maxsize=1)
def exit_quickly() -> None:
    """Lets this process, if it is a worker on the command's machine, end without tearing the interpreter down.

    That takes half a second, and the runner waits for one worker after the other.
    """
    if os.environ.get(LAUNCHER_VARIABLE, str(os.getpid())) != str(os.getpid()):
        atexit.register(_leave)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
