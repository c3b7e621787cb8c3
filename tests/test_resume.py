"""A run that is killed again and again comes to the same as one that is left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import IN_PROCESS, encoded, files_of, manifest_rows, picture

from beam_adacompress.pipelines import cli


def arguments(source, output):
    return ["compress", "--input", str(source), "--output", str(output)]


def workers_of(output):
    """The processes of any attempt that still work."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "local_worker" in " ".join(process.info["cmdline"] or ())
        and str(output) in (process.info["environ"] or {}).get("ADACOMPRESS_TEST", "")
    ]


IMAGES = 700


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A corpus `in`, and a run of it that nobody stopped, `out`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source = folder / "in"
    source.mkdir()
    forms = ("JPEG", "jpg"), ("PNG", "png")
    contents = [(encoded(picture(480, 360, seed=seed), form), name) for seed in range(3) for form, name in forms]
    for index in range(IMAGES):
        data, name = contents[index % len(contents)]
        (source / f"{index:04d}.{name}").write_bytes(data)
    (source / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0torn")
    assert cli.main([*arguments(source, folder / "out"), *IN_PROCESS]) == 0
    return folder


WORKERS: list[str] = []  # one for each core, each a process; IN_PROCESS starts sooner


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("how", "attempts"),
    [
        (signal.SIGKILL, [WORKERS, IN_PROCESS, IN_PROCESS, WORKERS]),
        (signal.SIGTERM, [IN_PROCESS, WORKERS]),
        (signal.SIGINT, [WORKERS, IN_PROCESS]),
    ],
    ids=["killed", "terminated", "interrupted"],
)
def test_stopped_several_times(tmp_path, undisturbed, how, attempts):
    source, whole = undisturbed / "in", files_of(undisturbed / "out" / "images")
    output = tmp_path / "out"
    environment = {**os.environ, "ADACOMPRESS_TEST": str(output)}
    moment = random.Random(how)
    seen: dict[str, int] = {}
    stopped = 0
    for attempt, workers in enumerate(attempts, 1):
        command = [sys.executable, "-m", "beam_adacompress", *arguments(source, output), *workers]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, preexec_fn=take_interrupts)
        last = attempt == len(attempts)  # stopped when the images are done and the manifest is being written
        wanted = IMAGES if last else len(seen) + moment.randint(1, 60)
        while process.poll() is None and len(written(output)) < wanted:
            time.sleep(0.002)
        process.send_signal(how)
        process.wait()
        stopped += process.returncode != 0
        wait_for_workers(output)
        now = written(output)
        # What was whole stays as it is, and nothing half-written stands under a final name.
        assert {name: now[name] for name in seen} == seen
        assert all((output / "images" / name).read_bytes() == whole[name] for name in now)
        seen = now
    assert stopped >= len(attempts) - 1
    assert cli.main([*arguments(source, output), *IN_PROCESS]) == 0

    assert files_of(output / "images") == whole
    assert {name: time for name, time in written(output).items() if name in seen} == seen
    expected, found = (
        {key: row._replace(seconds=None) for key, row in manifest_rows(place).items()}
        for place in (undisturbed / "out", output)
    )
    assert found == expected
    assert [path.name for path in (output / "manifest").iterdir()] == ["part-00000.parquet"]
    assert [path.name for path in (output / "_adacompress").iterdir()] == ["run.json"]


def take_interrupts():
    """Background jobs, and so perhaps these tests, are started deaf to them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def written(output):
    """Results by name, with the time of their writing."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "images").glob("*")}


def wait_for_workers(output):
    """Workers notice by themselves that their command is gone."""
    patience = time.monotonic() + 30
    while workers_of(output):
        assert time.monotonic() < patience, "a worker outlived its command"
        time.sleep(0.05)
