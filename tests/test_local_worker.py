from __future__ import annotations

import subprocess
import sys

from beam_adacompress.transforms import local_worker


def test_a_worker_without_its_launcher_ends(monkeypatch):
    ended = []
    monkeypatch.setattr(local_worker.os, "_exit", ended.append)
    monkeypatch.delenv(local_worker.LAUNCHER_VARIABLE, raising=False)
    local_worker.exit_without_launcher()
    monkeypatch.setenv(local_worker.LAUNCHER_VARIABLE, str(local_worker.os.getpid()))
    local_worker.exit_without_launcher()
    assert ended == []
    monkeypatch.setenv(local_worker.LAUNCHER_VARIABLE, str(2**22 + 1))  # above the largest process id
    local_worker.exit_without_launcher()
    assert ended == [1]


def test_a_worker_ends_at_once():
    code = (
        "import atexit, beam_adacompress.transforms.local_worker as w; atexit.register(print, 'torn down'); "
        "w.exit_quickly(); print('done')"
    )

    def run(launcher):
        environment = {"ADACOMPRESS_LAUNCHER": launcher} if launcher else {}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:-1]

    assert run("1") == ["done"]
    assert run("") == ["done", "torn down"]
