"""`adacompress compress` onto disks that are full or read-only."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import encoded, files_of, manifest_rows, picture

from beam_adacompress.transforms import files


def test_a_disk_that_fills_up_ends_the_job_and_the_rest_is_done_later(corpus, compress, tmp_path, monkeypatch, capsys):
    write = files.write
    room = [4]  # files that still fit

    def writing(path, data, scratch, media_type=""):
        if "/images/" in path:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            room[0] -= 1
        write(path, data, scratch, media_type)

    monkeypatch.setattr(files, "write", writing)
    assert compress(corpus) == 1
    message = capsys.readouterr().err
    assert (
        f"adacompress: writing to {tmp_path / 'out'} failed: No space left on device; "
        "mend that and run the same command again, it goes on where it stopped"
    ) in message
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "summary.json").exists()
    assert len(files_of(tmp_path / "out" / "images")) == 4
    room[0] = 2  # just enough for what is missing: nothing whole is written again
    assert compress(corpus) == 0
    assert len(files_of(tmp_path / "out" / "images")) == 6
    assert len(manifest_rows(tmp_path / "out")) == 6


def mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small disk needs root and the right to mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    yield from mounted(tmp_path / "disk", "size=256k")


@pytest.fixture
def read_only_disk(tmp_path):
    yield from mounted(tmp_path / "disk", "ro,size=256k")


def test_a_disk_that_is_really_full(compress, tmp_path, small_disk, capsys):
    (tmp_path / "in").mkdir()
    for index in range(30):
        (tmp_path / "in" / f"{index}.jpg").write_bytes(encoded(picture(400, 300, seed=index)))
    assert compress(tmp_path / "in", small_disk / "out", "--quality=75") == 1
    assert "No space left on device" in capsys.readouterr().err
    rows = {path: path.stat().st_size for path in (small_disk / "out" / "images").iterdir()}
    assert min(rows.values()) > 0
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert compress(tmp_path / "in", small_disk / "out", "--quality=75") == 0
    assert len(manifest_rows(small_disk / "out")) == 30


def test_a_read_only_output(corpus, compress, read_only_disk, capsys):
    assert compress(corpus, read_only_disk / "out") == 1
    message = capsys.readouterr().err
    assert f"cannot write to the output {read_only_disk / 'out'}: Read-only file system" in message
    assert "Traceback" not in message
