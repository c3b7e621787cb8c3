from __future__ import annotations

import os
import threading

import pytest

from beam_adacompress.transforms import files
from beam_adacompress.transforms.files import FoundFile


def test_listing_follows_links_and_survives_their_loops(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"12345")
    (tmp_path / "elsewhere" / "b.jpg").write_bytes(b"1")
    (tmp_path / "in" / "sub" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "self").symlink_to("self")
    (tmp_path / "in" / "nowhere").symlink_to("gone")
    root = str(tmp_path / "in")
    assert sorted((found.path, found.size) for found in files.listing(root)) == [
        (f"{root}/a.jpg", 5),
        (f"{root}/nowhere", 0),
        (f"{root}/other/b.jpg", 1),
        (f"{root}/self", 0),
    ]
    assert sorted(found.size for found in files.listing(root, exclude=str(tmp_path / "elsewhere"))) == [0, 0, 5]


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"1")
    scan = os.scandir

    def scandir(path):
        if path == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = {found.path for found in files.listing(str(tmp_path))}
    assert found == {str(tmp_path / "a.jpg"), str(tmp_path / "locked")}
    with pytest.raises(PermissionError):
        list(files.listing(str(tmp_path / "locked")))


def test_listing_what_is_not_there(tmp_path):
    assert list(files.listing(str(tmp_path / "gone"))) == []


def test_find_takes_a_folder_a_glob_and_a_file(tmp_path):
    for name in ("a.jpg", "b.png", "sub/c.jpg", "odd[1]*/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    root = str(tmp_path)
    assert len(list(files.find(root))) == 4
    assert [found.path for found in files.find(f"{root}/*.jpg")] == [f"{root}/a.jpg"]
    assert sorted(found.path for found in files.find(f"{root}/**.jpg"))[0] == f"{root}/a.jpg"
    assert [found.path for found in files.find(f"{root}/b.png")] == [f"{root}/b.png"]
    assert [found.path for found in files.find(f"{root}/odd[1]*")] == [f"{root}/odd[1]*/d.jpg"]


def test_reading_is_never_decompressing(tmp_path):
    (tmp_path / "a.gz").write_bytes(b"not gzip")
    assert files.read(str(tmp_path / "a.gz")) == b"not gzip"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is no regular file"):
        files.read(str(tmp_path / "pipe"))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(PermissionError, match="the folder cannot be listed"):
        files.read(str(tmp_path))


def test_write_makes_folders_and_leaves_nothing_beside(tmp_path):
    target = tmp_path / "deep" / "down" / "a.jpg"
    files.write(str(target), b"data", str(tmp_path / "scratch"))
    files.write(str(target), b"other", str(tmp_path / "scratch"))
    assert target.read_bytes() == b"other"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch):
    target = tmp_path / "a.jpg"
    files.write(str(target), b"whole", str(tmp_path / "scratch"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write(str(target), b"half", str(tmp_path / "scratch"))
    assert target.read_bytes() == b"whole"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_readers_see_the_old_or_the_new_file_whole(tmp_path):
    target, scratch = str(tmp_path / "a"), str(tmp_path / "scratch")
    contents = {bytes([letter]) * 200_000 for letter in b"abc"}
    files.write(target, min(contents), scratch)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for content in sorted(contents):
                files.write(target, content, scratch)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        assert all(files.read(target) in contents for _ in range(300))
    finally:
        stop.set()
        writer.join()


def test_size_and_delete(tmp_path):
    path = tmp_path / "a"
    assert files.status(str(path)) is None
    assert files.status(str(path / "below")) is None
    path.write_bytes(b"123")
    assert files.status(str(path)) == FoundFile(str(path), 3, path.stat().st_mtime)
    assert files.status(str(path / "below")) is None
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    files.delete([str(path), str(path), str(tmp_path / "folder")])
    assert list(tmp_path.iterdir()) == []
