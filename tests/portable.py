"""Job servers on this machine, for tests of runners that are no part of Python: Prism and Flink.

They are found through the environment, which `.ci/job_servers` sets: ADACOMPRESS_PRISM is the path of the binary,
ADACOMPRESS_FLINK_JAR that of Beam's job server for Flink.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PRISM, FLINK = "ADACOMPRESS_PRISM", "ADACOMPRESS_FLINK_JAR"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end, f"{process.args} does not listen on {port}"
        time.sleep(0.05)


class Workers:
    """A pool of SDK workers in processes of their own.

    Attributes:
      options: for a job that is to use it.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.options = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{self.port}"]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={self.port}"]
        here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # functions of tests travel by their names
        self._process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, env=here)
        wait_for(self.port, self._process)

    def kill(self) -> None:
        """As the kernel does when memory is short: no worker says good-bye."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def prism() -> Iterator[list[str]]:
    """Prism; the options of a job for it."""
    port = free_port()
    process = subprocess.Popen(
        [os.environ[PRISM], f"--job_port={port}", "--serve_http=false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, process)
        yield ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def flink() -> Iterator[list[str]]:
    """Flink in one process, with two task slots, behind Beam's job server; the options of a job for it."""
    ports = [free_port() for _ in range(3)]
    names = ("--job-port", "--artifact-port", "--expansion-port")
    process = subprocess.Popen(
        [
            shutil.which("java") or "java",
            "-jar",
            os.environ[FLINK],
            "--flink-master=[local]",
            *(f"{name}={port}" for name, port in zip(names, ports)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(ports[0], process)
        yield [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{ports[0]}",
            "--parallelism=2",
            "--number_of_execution_retries=3",
        ]
    finally:
        process.kill()
        process.wait()


SERVERS = {"prism": (PRISM, prism), "flink": (FLINK, flink)}


@contextlib.contextmanager
def job_server(name: str) -> Iterator[list[str]]:
    """One of SERVERS; skips the test where it is not installed."""
    variable, start = SERVERS[name]
    found = os.environ.get(variable)
    if not found or not Path(found).is_file():
        pytest.skip(f"{name} is not here: {variable} does not name it; .ci/job_servers installs it where it can be had")
    with start() as options:
        yield options
