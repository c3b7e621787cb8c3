"""What a job that serves writes, window by window."""

from __future__ import annotations

import json
import time

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from conftest import files_of
from test_drift import score
from test_manifest import ROW

from beam_adacompress import ImageFailure, Score, scores
from beam_adacompress.records import DriftEstimate, Retrained
from beam_adacompress.transforms import sinks
from beam_adacompress.transforms.runs import read_rows
from beam_adacompress.transforms.serve_sinks import (
    LogEach,
    ServeFolder,
    WriteEach,
    WriteWindows,
    encoded_failures,
    encoded_scores,
)

NOON = 1_700_049_600  # 2023-11-15, 12:00:00 UTC


@pytest.fixture
def folder(tmp_path):
    return ServeFolder(f"{tmp_path}/out")


def named(folder, place):
    """The start of the name of each file, and its content."""
    found = files_of(folder).items()
    return sorted((name[: len("2023-11-15/12-00-00-")], data) for name, data in found if name.startswith(place))


def streamed(stream, write, lateness=0):
    options = PipelineOptions(["--streaming"])
    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        rows = p | stream.advance_watermark_to_infinity() | beam.Map(lambda row: row).with_output_types(Score)
        _ = rows | beam.WindowInto(FixedWindows(60), allowed_lateness=lateness) | write


def at(second, *keys):
    return [TimestampedValue(score(key, 1, 1.0), NOON + second) for key in keys]


def test_a_file_for_each_window_and_for_what_comes_late(folder, tmp_path):
    stream = TestStream(coder=coders.registry.get_coder(Score)).advance_watermark_to(NOON)
    stream.add_elements(at(0, "b", "a")).add_elements(at(61, "c")).advance_watermark_to(NOON + 90)
    stream.add_elements(at(59, "late")).add_elements(at(62, "d"))
    streamed(stream, WriteWindows(folder, folder.scores, encoded_scores), lateness=600)
    written = named(tmp_path / "out" / "scores", "2023")
    keys = [(name, [row.key for row in scores.from_parquet(data, name)]) for name, data in written]
    noon, then = "2023-11-15/12-00-00-", "2023-11-15/12-01-00-"
    assert sorted(keys) == [(noon, ["a", "b"]), (noon, ["late"]), (then, ["c", "d"])]
    assert all(name.endswith(".parquet") for name in files_of(tmp_path / "out" / "scores"))


def test_what_is_written_again_is_the_same_file(folder, tmp_path):
    for keys in (("b", "a"), ("a", "b")):
        stream = TestStream(coder=coders.registry.get_coder(Score)).advance_watermark_to(NOON)
        streamed(stream.add_elements(at(0, *keys)), WriteWindows(folder, folder.scores, encoded_scores))
    assert len(files_of(tmp_path / "out" / "scores")) == 1


def test_scores_in_any_order_are_the_same_file():
    rows = [score("b", 1, 1.0), score("a", 1, 2.0), score("a", 0, 1.0)]
    assert encoded_scores(rows) == encoded_scores(rows[::-1])


def test_failures_in_any_order_are_the_same_file():
    rows = [ImageFailure("b", "S", "r", "e"), ImageFailure("a", "S", "r", "e")]
    assert encoded_failures(rows) == encoded_failures(rows[::-1])
    table = scores.FAILURES.from_parquet(encoded_failures(rows), "failures")
    assert table.to_pylist()[0] == {"key": "a", "stage": "S", "reason": "r", "error": "e"}


def test_each_row_is_a_file_of_its_time(folder, tmp_path):
    first = DriftEstimate("", 0.0, 1.0, 0, 5, *[None] * 6, 0.97, 0.5, "v", "adwin", "retrain", "why", 1.0)
    rows = [TimestampedValue(each, NOON + 59.999) for each in (first, first._replace(key="7"), first)]
    with TestPipeline(runner="FnApiRunner") as p:
        stamped = p | beam.Create(rows) | beam.Map(lambda row: row).with_output_types(DriftEstimate)
        _ = stamped | WriteEach(folder, f"{folder.drift}/estimates")
    written = named(tmp_path / "out" / "drift" / "estimates", "2023")
    assert [name for name, _ in written] == ["2023-11-15/12-00-59-"] * 2
    assert {DriftEstimate(**json.loads(data)) for _, data in written} == {first, first._replace(key="7")}


def test_each_row_is_shown_in_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    well = DriftEstimate(
        "", 0.0, 60.0, 9, 9, 0.9, *[None] * 5, 0.97, 0.5, "v1", "adwin", "inference", "why", 0.05, 0.25
    )
    told = well._replace(key="../a/b", end=120.0, state="estimate", evidence=None)
    came = Retrained("kept", "why", "v1", "v2", 30, 0.5, 0.75, 0.25, None)
    with TestPipeline(runner="FnApiRunner") as p:
        estimates = p | "Estimates" >> beam.Create([well, told, well._replace(policy_version="v2")])
        _ = estimates | "LogEstimates" >> LogEach(str(tmp_path), "estimate")
        _ = p | "Retrained" >> beam.Create([came]) | "LogRetrained" >> LogEach(str(tmp_path), "retrained")
    written = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("events.out.tfevents.*")}
    assert written == {"drift/v1", "drift/v2", "drift/__a_b/v1", "retrained"}
    shown = accumulator(str(tmp_path / "drift" / "v1")).Reload()
    assert [(each.wall_time, each.step, each.value) for each in shown.Scalars("evidence")] == [(60, 60, 0.25)]
    assert [each.value for each in shown.Scalars("state")] == [0]
    other = accumulator(str(tmp_path / "drift" / "__a_b" / "v1")).Reload()
    assert sorted(other.Tags()["scalars"]) == ["agreement", "level", "sample_rate", "scores", "state"]
    assert [(each.step, each.value) for each in other.Scalars("state")] == [(120, 1)]
    retrained = accumulator(str(tmp_path / "retrained")).Reload()
    values = {tag: retrained.Scalars(tag)[0].value for tag in retrained.Tags()["scalars"]}
    assert values == {
        "published": 0,
        "scores": 30,
        "incumbent_agreement": 0.5,
        "candidate_agreement": 0.75,
        "incumbent_size_ratio": 0.25,
    }


def outcome(key):
    return sinks.Outcome(0, ROW._replace(key=key, output=key), b"an image", "image/jpeg")


def test_rows_of_the_manifest_in_windows(folder, tmp_path):
    with TestPipeline(runner="FnApiRunner") as p:
        keys = p | beam.Create([TimestampedValue("a", NOON), TimestampedValue("b", NOON + 60)])
        windows = keys | beam.WindowInto(FixedWindows(60))
        fragments = windows | sinks.CommitRows(folder, "attempt", outcome)
        _ = fragments | beam.WithKeys(0) | beam.GroupByKey()  # their windows survive a shuffle
    paths = sorted((tmp_path / "out" / "manifest").rglob("*.jsonl"))
    assert sorted(row.key for path in paths for row in read_rows(str(path))) == ["a", "b"]
    assert set(files_of(tmp_path / "out" / "images")) == {"a", "b"}


def test_later_rows_are_in_later_files(folder):
    names = [folder.row_file(0, "attempt", number) for number in range(1, 20)]
    for _ in range(9):  # of other workers
        time.sleep(0.001)
        names.append(folder.row_file(0, "attempt", 1))
    assert names == sorted(names)
    assert len(set(names)) == 28
    assert all(name.startswith(f"{folder.manifest}/20") for name in names)
