"""Shards through `adacompress compress` and `score`: TFRecord, Parquet and tar."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import shards
from conftest import IN_PROCESS, decoded, encoded, files_of, manifest_rows, picture

from beam_adacompress.pipelines import cli
from beam_adacompress.transforms import files
from beam_adacompress.transforms.shards import Shard, ShardedFolder, list_shards

IMAGES = {f"{index:03d}.jpg": encoded(picture(seed=index)) for index in range(7)}


@pytest.fixture(params=shards.KINDS, ids=lambda kind: kind.format)
def kind(request):
    return request.param


@pytest.fixture
def corpus(tmp_path, kind):
    """Two shards, one in a folder; the second one has a torn image."""
    torn = {**IMAGES, "003.jpg": IMAGES["003.jpg"][:700]}
    shards.make(kind, tmp_path / "in" / f"one{kind.suffix}", IMAGES)
    shards.make(kind, tmp_path / "in" / "sub" / f"two{kind.suffix}", torn)
    return tmp_path / "in"


def keys_of(kind, shard):
    return [kind.key(shard, index, name) for index, name in enumerate(IMAGES)]


def test_a_run_from_end_to_end(corpus, kind, compress, tmp_path, capsys):
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    one, two = f"one{kind.suffix}", f"sub/two{kind.suffix}"
    rows = manifest_rows(tmp_path / "out")
    torn = keys_of(kind, two)[3]
    assert sorted(rows) == sorted(keys_of(kind, one) + keys_of(kind, two))
    assert {key for key, row in rows.items() if row.status == "failed"} == {torn}
    assert (rows[torn].reason, rows[torn].output) == ("truncated", None)
    before, after = (shards.read(kind, place / two) for place in (corpus, tmp_path / "out" / "images"))
    assert [label for label, _ in after] == list(IMAGES)
    assert after[3] == before[3]  # what failed comes out as it went in
    for key, (_, data), (_, result) in zip(keys_of(kind, two), before, after):
        if key != torn:
            assert (rows[key].bytes_in, rows[key].bytes_out, rows[key].output) == (len(data), len(result), two)
            assert len(result) < len(data)
            assert decoded(result).size == (96, 64)
    assert sorted(path.name for path in (tmp_path / "out" / "manifest").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert sorted(files_of(tmp_path / "out" / "images")) == [one, two]
    assert sorted(path.name for path in (tmp_path / "out" / "_adacompress").iterdir()) == ["run.json", "shards.json"]
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert content["images"] == {"total": 14, "compressed": 13, "kept": 0, "failed": 1}
    assert content["options"]["format"] == kind.format
    assert "data:image/jpeg;base64" in (tmp_path / "out" / "report.html").read_text()
    assert "13 of 14 images compressed" in capsys.readouterr().out


def test_the_same_as_from_files(corpus, kind, compress, tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    for name, data in IMAGES.items():
        (loose / name).write_bytes(data)
    assert compress(loose, tmp_path / "expected") == 0
    assert compress(corpus / f"one{kind.suffix}", tmp_path / "out") == 0  # the format is told by the name
    expected = [(name, (tmp_path / "expected" / "images" / name).read_bytes()) for name in IMAGES]
    assert shards.read(kind, tmp_path / "out" / "images" / f"one{kind.suffix}") == expected


def test_twice_the_same_bytes(corpus, kind, compress, tmp_path):
    for name in ("a", "b"):
        assert compress(corpus, tmp_path / name, f"--format={kind.format}") == 0
    assert files_of(tmp_path / "a" / "images") == files_of(tmp_path / "b" / "images")


def test_a_shard_that_is_torn_fails_alone(corpus, kind, compress, tmp_path):
    one, two = f"one{kind.suffix}", f"sub/two{kind.suffix}"
    (corpus / one).write_bytes((corpus / one).read_bytes()[:-700])
    if kind.format == "webdataset":  # a tar without its end is one; one that ends in a member is torn
        (corpus / one).write_bytes((corpus / one).read_bytes()[:5000])
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    rows = manifest_rows(tmp_path / "out")
    assert {key: row.reason for key, row in rows.items() if row.status == "failed"} == {
        one: "corrupt-shard",
        keys_of(kind, two)[3]: "truncated",
    }
    assert rows[one].bytes_in == (corpus / one).stat().st_size
    assert sorted(files_of(tmp_path / "out" / "images")) == [two]


def test_a_run_goes_on_where_it_stopped(corpus, kind, compress, tmp_path, monkeypatch):
    real = ShardedFolder.writing
    one, two = f"one{kind.suffix}", f"sub/two{kind.suffix}"

    def full(folder, path):
        if path.endswith(two):
            raise OSError(28, "No space left on device")
        return real(folder, path)

    monkeypatch.setattr(ShardedFolder, "writing", full)
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 1
    monkeypatch.undo()
    assert sorted(files_of(tmp_path / "out" / "images")) == [one]
    first = (tmp_path / "out" / "images" / one).stat().st_mtime_ns
    seen = []
    from beam_adacompress import jpeg

    real_compress = jpeg.compress
    monkeypatch.setattr(jpeg, "compress", lambda *args: seen.append(args[0]) or real_compress(*args))
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    assert len(seen) == 1  # the torn one, which is tried again
    assert (tmp_path / "out" / "images" / one).stat().st_mtime_ns == first
    assert compress(corpus, tmp_path / "whole", f"--format={kind.format}") == 0
    assert files_of(tmp_path / "out" / "images") == files_of(tmp_path / "whole" / "images")
    found, expected = (
        {key: row._replace(seconds=None) for key, row in manifest_rows(tmp_path / name).items()}
        for name in ("out", "whole")
    )
    assert found == expected


@pytest.mark.heavy
def test_a_run_that_is_killed(compress, tmp_path):
    kind = shards.KINDS[0]  # what is killed knows nothing of formats
    content = {f"{index:03d}.jpg": encoded(picture(480, 360, seed=index % 5)) for index in range(60)}
    for shard in range(8):
        shards.make(kind, tmp_path / "in" / f"{shard}{kind.suffix}", content)

    command = [sys.executable, "-m", "beam_adacompress", "compress", f"--format={kind.format}", "--quality=35"]
    places = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    work = tmp_path / "out" / "_adacompress" / "rows"
    for wanted in (2, 6):  # row files of some 60 images each
        process = subprocess.Popen([*command, *places], stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(work.rglob("*.jsonl"))) < wanted:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -9, "it was too fast to be killed"
    packs = {path.name: path.stat().st_mtime_ns for path in work.rglob("*.arrow")}
    assert packs
    for name in ("out", "whole"):
        assert compress(tmp_path / "in", tmp_path / name, f"--format={kind.format}") == 0
    assert files_of(tmp_path / "out" / "images") == files_of(tmp_path / "whole" / "images")
    found, expected = (
        {key: row._replace(seconds=None) for key, row in manifest_rows(tmp_path / name).items()}
        for name in ("out", "whole")
    )
    assert found == expected


def test_a_shard_that_could_not_be_read_is_tried_again(corpus, kind, compress, tmp_path, monkeypatch):
    one, two = f"one{kind.suffix}", f"sub/two{kind.suffix}"
    with monkeypatch.context() as patch:
        opened = files.opened
        patch.setattr(files, "opened", lambda path: opened(path + "?" if path.endswith(one) else path))
        patch.setattr(ShardedFolder, "writing", lambda *args: opened("nowhere"))  # so the run ends before its end
        assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 1
    left = [path.name for path in (tmp_path / "out" / "_adacompress" / "rows").iterdir()]
    assert sorted(left) == ["00000", "00001"]
    for _ in range(2):
        assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    assert sorted(files_of(tmp_path / "out" / "images")) == [one, two]
    assert {key for key, row in manifest_rows(tmp_path / "out").items() if row.status == "failed"} == {
        keys_of(kind, two)[3]
    }


def test_a_run_adds_what_is_new_and_what_has_changed(corpus, kind, compress, tmp_path):
    one, two = f"one{kind.suffix}", f"sub/two{kind.suffix}"
    options = (tmp_path / "out", f"--format={kind.format}")
    assert compress(corpus, *options) == 0
    untouched = (tmp_path / "out" / "images" / two).stat().st_mtime_ns
    fewer = dict(list(IMAGES.items())[:2])
    shards.make(kind, corpus / one, fewer)
    shards.make(kind, corpus / f"another{kind.suffix}", IMAGES)
    assert compress(corpus, *options) == 0
    assert [name for name, _ in shards.read(kind, tmp_path / "out" / "images" / one)] == list(fewer)
    assert (tmp_path / "out" / "images" / two).stat().st_mtime_ns == untouched
    rows = manifest_rows(tmp_path / "out")
    assert len(rows) == 2 + 7 + 7
    assert len(list((tmp_path / "out" / "manifest").iterdir())) == 3


def test_scores_of_a_run(corpus, kind, compress, tmp_path, vision, capsys):
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    command = ["score", f"--input={tmp_path / 'out'}", f"--output={tmp_path / 'scores'}", f"--backend={vision.uri}"]
    assert cli.main([*command, "--sample-rate=1", *IN_PROCESS]) == 0
    assert "13 of 13 images scored" in capsys.readouterr().out


def test_scores_of_another_shard_are_refused(corpus, kind, compress, tmp_path, vision, capsys):
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    other = {name: encoded(picture(seed=50)) for name in IMAGES}
    shards.make(kind, corpus / f"one{kind.suffix}", other)
    command = ["score", f"--input={tmp_path / 'out'}", f"--output={tmp_path / 'scores'}", f"--backend={vision.uri}"]
    assert cli.main([*command, "--sample-rate=1", *IN_PROCESS]) == 0
    printed = capsys.readouterr().out
    assert "6 of 13 images scored" in printed
    assert "changed 7" in printed


def test_scored_when_it_is_written(corpus, kind, compress, tmp_path, vision, capsys):
    options = [f"--format={kind.format}", f"--score-with={vision.uri}", "--sample-rate=1"]
    assert compress(corpus, tmp_path / "out", *options) == 0
    assert "13 of 13 images scored" in capsys.readouterr().out


def test_png_becomes_jpeg(kind, compress, tmp_path):
    images = {"0.png": encoded(picture(), "PNG"), "1.png": encoded(picture(mode="RGBA"), "PNG")}
    shards.make(kind, tmp_path / "in" / f"one{kind.suffix}", images)
    assert compress(tmp_path / "in", tmp_path / "out", f"--format={kind.format}") == 0
    (_, result), (_, kept) = shards.read(kind, tmp_path / "out" / "images" / f"one{kind.suffix}")
    assert decoded(result).format == "JPEG"
    assert kept == images["1.png"]


def test_shards_that_are_taken_for_images(corpus, kind, compress, tmp_path, capsys):
    assert compress(corpus, tmp_path / "out") == 0
    said = f"{kind.suffix} is taken for one image; if it holds many: --format {kind.format}"
    assert said in capsys.readouterr().err
    assert {row.reason for row in manifest_rows(tmp_path / "out").values()} == {"not-an-image"}


def test_numbers_stay_with_shards(tmp_path):
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).write_bytes(b"..")
    first = list(list_shards(str(tmp_path), None, []))
    assert [(shard.number, shard.key, shard.size) for shard in first] == [(0, "a.tar", 2), (1, "b.tar", 2)]
    (tmp_path / "0.tar").write_bytes(b"")
    (tmp_path / "b.tar").write_bytes(b"...")
    assert [(shard.number, shard.key) for shard in list_shards(str(tmp_path), None, first)] == [
        (2, "0.tar"),
        (0, "a.tar"),
        (3, "b.tar"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[]", "is damaged"), (b'{"format_version": 9, "shards": []}', "has version 9")],
)
def test_a_record_of_shards_that_is_none(corpus, kind, compress, tmp_path, capsys, content, message):
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 0
    (tmp_path / "out" / "_adacompress" / "shards.json").write_bytes(content)
    assert compress(corpus, tmp_path / "out", f"--format={kind.format}") == 1
    assert message in capsys.readouterr().err


def test_memory_is_not_filled_by_a_shard(tmp_path, kind, monkeypatch):
    """A shard is read and written through open files."""
    shard = shards.make(kind, tmp_path / f"one{kind.suffix}", IMAGES)
    read = []
    monkeypatch.setattr(files, "read", lambda path: read.append(path))
    folder = ShardedFolder(str(tmp_path / "out"))
    from beam_adacompress.formats import shard_format
    from beam_adacompress.manifest import to_table
    from beam_adacompress.transforms import packs
    from beam_adacompress.transforms.shard_sinks import rewrite

    form = shard_format(kind.format, None, 10**6)
    table = rewrite(folder, form, Shard(0, shard.name, str(shard), 1, 0.0), to_table([]), packs.Packs({}))
    assert (table.num_rows, read) == (0, [])
    assert shards.read(kind, tmp_path / "out" / "images" / shard.name) == shards.read(kind, shard)
