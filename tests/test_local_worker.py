from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import encoded, manifest_rows, picture

from beam_adacompress.pipelines import local, local_worker

COMMAND = "from beam_adacompress.pipelines import cli; sys.exit(cli.main(['compress', *sys.argv[1:]]))"


class Ended(BaseException):
    pass


@pytest.fixture
def endings(monkeypatch):
    def end(status):
        raise Ended(status)

    monkeypatch.setattr(local_worker.os, "_exit", end)


def test_a_worker_ends_with_its_command(endings):
    command = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
    started = time.monotonic()
    os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOWAIT)
    command.wait()
    with pytest.raises(Ended, match="1"):
        local_worker._end_with(command.pid)
    assert time.monotonic() - started > 0.2


def test_a_worker_ends_at_once_when_there_is_no_more_work(endings, monkeypatch):
    worked = []
    monkeypatch.setenv(local_worker.LAUNCHER_VARIABLE, str(os.getpid()))
    monkeypatch.setattr(local_worker.sdk_worker_main, "main", worked.append)
    with pytest.raises(Ended, match="0"):
        local_worker.main()
    assert worked == [sys.argv]


def test_a_worker_imports_what_its_command_imports(tmp_path):
    # The current folder has a package of the same name, as a checkout has beside an installed one.
    (tmp_path / "here" / "beam_adacompress").mkdir(parents=True)
    (tmp_path / "here" / "beam_adacompress" / "__init__.py").write_text("raise AssertionError('the wrong package')")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(encoded(picture(400, 300)))
    launch = f"import sys; sys.path[:] = {[each for each in sys.path if each]!r}; {COMMAND}"
    given = ["--input", str(tmp_path / "images"), "--output", str(tmp_path / "out"), "--direct_num_workers=2"]
    done = subprocess.run(
        [sys.executable, "-c", launch, *given],
        cwd=tmp_path / "here",
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [row.status for row in manifest_rows(tmp_path / "out").values()] == ["compressed"]


def test_the_stages_of_a_job_that_never_ends_may_warn(monkeypatch):
    logger = logging.getLogger("beam_adacompress.transforms")
    monkeypatch.setenv(local_worker.QUIET_VARIABLE, "")
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    before, of_beam = logger.level, logging.getLogger("apache_beam").level
    try:
        local.quiet_logs()
        assert not logger.isEnabledFor(logging.WARNING)
        local.show_warnings()
        assert logger.isEnabledFor(logging.WARNING)
        assert not logging.getLogger("apache_beam").isEnabledFor(logging.ERROR)
    finally:
        logger.setLevel(before)
        logging.getLogger("apache_beam").setLevel(of_beam)
