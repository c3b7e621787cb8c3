from __future__ import annotations

import concurrent.futures
import hashlib
import os
import signal
import subprocess
import sys

import pytest
from memory import MemoryFileSystem

from beam_adacompress.transforms import buckets, files


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_replacing_a_file(tmp_path):
    path, scratch = f"{tmp_path}/a", f"{tmp_path}/scratch"
    assert files.read_with_token(path) is None
    assert not files.replace(path, b"1", digest(b""), scratch)
    assert files.replace(path, b"1", None, scratch)
    assert not files.replace(path, b"2", None, scratch)
    assert files.read_with_token(path) == (b"1", digest(b"1"))
    assert files.replace(path, b"2", digest(b"1"), scratch)
    assert not files.replace(path, b"3", digest(b"1"), scratch)
    assert files.read(path) == b"2"
    assert os.listdir(scratch) == ["a.lock"]


@pytest.mark.parametrize("before", [None, b"0"])
def test_of_several_at_once_one_replaces_it(tmp_path, before):
    for attempt in range(20):
        path = f"{tmp_path}/{attempt}"
        if before is not None:
            files.write(path, before, str(tmp_path))
        token = before and digest(before)
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            tries = [threads.submit(files.replace, path, b"%d" % index, token, str(tmp_path)) for index in range(1, 9)]
        (winner,) = [index for index, each in enumerate(tries, 1) if each.result()]
        assert files.read(path) == b"%d" % winner


HOLDER = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); "


def test_one_waits_for_a_living_process_and_not_for_one_that_was_killed(tmp_path):
    path, scratch = f"{tmp_path}/a", str(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER + "time.sleep(600)", f"{path}.lock"], stdout=subprocess.PIPE
    )
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        try:
            assert holder.stdout.readline() == b"\n"
            waiting = thread.submit(files.replace, path, b"1", None, scratch)
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(0.5)
            assert not files.exists(path)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        assert waiting.result(20)
    holder.stdout.close()


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(OSError, match="this system has no flock, by which writers to a local disk take turns"):
        files.replace(f"{tmp_path}/a", b"1", None, str(tmp_path))
    assert not files.exists(f"{tmp_path}/a")


def test_on_a_filesystem_without_conditions(monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "content", {})
    path, scratch = "memory://place/a", "memory://place/scratch"
    assert files.read_with_token(path) is None
    assert files.replace(path, b"1", None, scratch)
    assert not files.replace(path, b"2", None, scratch)
    assert not files.replace(path, b"2", digest(b"2"), scratch)
    assert files.replace(path, b"2", digest(b"1"), scratch)
    assert MemoryFileSystem.content == {path: b"2"}
    with pytest.raises(OSError, match="only local disks and gs:// can create a file for one of several writers"):
        files.create(path, b"3", scratch)


def test_a_bucket_without_its_extra(monkeypatch):
    buckets.client.cache_clear()
    monkeypatch.setitem(sys.modules, "apache_beam.io.gcp.gcsio", None)
    for use in (
        files.read_with_token,
        lambda path: files.write(path, b"", "unused"),
        lambda path: files.replace(path, b"", None, "unused"),
    ):
        with pytest.raises(OSError, match=r"gs:// needs Google's client: pip install 'beam-adacompress\[gcp\]'"):
            use("gs://photos/a")
