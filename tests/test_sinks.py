"""The sink alone: what a caller's rows may and may not make it write."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from conftest import files_of
from test_manifest import ROW

from beam_adacompress.transforms import runs, sinks
from beam_adacompress.transforms.runs import RunFolder


def outcome(element):
    key, data = element
    row = ROW._replace(key=key, output=key, bytes_out=len(data))
    return sinks.Outcome(0, row, data, "image/jpeg")


def commit(tmp_path, *elements):
    folder = RunFolder(str(tmp_path / "out"))
    with TestPipeline(runner="FnApiRunner") as p:
        fragments = p | beam.Create(elements) | sinks.CommitRows(folder, "attempt", outcome)
        _ = fragments | sinks.MergeManifest(folder, seed=0)
    return {row.key: row for row in runs.read_rows(folder.part(0))}


@pytest.mark.parametrize("key", ["../../escaped.jpg", "/tmp/escaped.jpg", "a/../../../escaped.jpg", "", "a\x00b"])
def test_a_key_may_not_write_outside_the_output(tmp_path, key):
    rows = commit(tmp_path, (key, b"evil"), ("good.jpg", b"good"))
    assert (rows[key].status, rows[key].reason, rows[key].output) == ("failed", "bad-key", None)
    assert rows["good.jpg"].status == "compressed"
    assert files_of(tmp_path / "out" / "images") == {"good.jpg": b"good"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_rows_are_there_before_their_images(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(RunFolder, "write", lambda self, path, data, media_type="": written.append(path))
    monkeypatch.setattr(sinks, "_write_part", lambda *_: None)
    folder = RunFolder(str(tmp_path / "out"))
    with TestPipeline(runner="FnApiRunner") as p:
        _ = p | beam.Create([("a.jpg", b"1"), ("b.jpg", b"2")]) | sinks.CommitRows(folder, "attempt", outcome)
    assert written[0].startswith(folder.rows)
    assert written[1:] == [folder.image("a.jpg"), folder.image("b.jpg")]


def test_memory_is_bounded_by_flushing(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "FLUSH_BYTES", 10)
    folder = RunFolder(str(tmp_path / "out"))
    with TestPipeline(runner="FnApiRunner") as p:
        _ = p | beam.Create([(f"{i}.jpg", b"123456") for i in range(6)]) | sinks.CommitRows(folder, "at", outcome)
    assert len(list((tmp_path / "out" / "_adacompress" / "rows").iterdir())) == 3
