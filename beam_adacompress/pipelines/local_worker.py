"""A worker process of a local run: Beam's own, but it ends with its command, and ends at once.

`local.worker_command` starts it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from apache_beam.runners.worker import sdk_worker_main

LAUNCHER_VARIABLE = "ADACOMPRESS_LAUNCHER"  # process id of the command; workers inherit it
QUIET_VARIABLE = "ADACOMPRESS_QUIET"  # set where workers have nothing to say to the terminal

LOOK_SECONDS = 0.1


def main() -> None:
    """Works until the runner has no more work."""
    if QUIET_VARIABLE in os.environ:
        # Beam prints the traceback of every error here, and libjpeg and libtiff what they think of a file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    threading.Thread(target=_end_with, args=(int(os.environ[LAUNCHER_VARIABLE]),), daemon=True).start()
    sdk_worker_main.main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # Tearing the interpreter down takes half a second, and the runner waits for one worker after the other.
    os._exit(0)


def _end_with(launcher: int) -> None:
    """Ends this process when the command has been killed, so that it does not go on writing alone."""
    while True:
        try:
            os.kill(launcher, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(LOOK_SECONDS)
