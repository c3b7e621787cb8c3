"""`adacompress score` used wrongly, or where something is in its way."""

from __future__ import annotations

import shutil

import pytest
from conftest import files_of
from loopback import json_reply
from scoring import REPLIES, recorded, scored, summary_of

from beam_adacompress.pipelines import asking, cli


def test_more_failures_than_allowed(run, tmp_path, capsys):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, tmp_path / "score", backend, "--max-failures", "0.1") == 3
    assert "16.67% of the images failed, more than --max-failures 0.1" in capsys.readouterr().err


def test_wrong_credentials_are_one_sentence(run, tmp_path, vision, capsys):
    vision.server.answer = lambda request: json_reply({"error_message": "AUTHENTICATION_ERROR"}, 401)
    assert scored(run, tmp_path / "score", vision.uri) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "FACEPP_API_KEY" in said
    assert "the-secret" not in said


def test_missing_credentials_are_one_sentence(run, tmp_path, vision, capsys, monkeypatch):
    monkeypatch.delenv("FACEPP_API_SECRET")
    assert scored(run, tmp_path / "score", vision.uri) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "FACEPP_API_SECRET" in said


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--backend", "vision"], 2, "unknown name 'vision': did you mean google-vision?; known: baidu"),
        (["--sample-rate", "2"], 2, "sample_rate must be from 0 to 1, got 2.0"),
        (["--max-calls", "-1"], 2, "max_calls must be at least 0, got -1"),
        (["--samplerate", "1"], 2, "unknown option --samplerate: did you mean --sample-rate?"),
        (["--input", "/nowhere"], 1, "/nowhere holds no manifest: give the output of a finished adacompress compress"),
        (
            ["--backend", "litert:/nowhere.tflite"],
            1,
            "the file /nowhere.tflite of the backend litert:/nowhere.tflite does not",
        ),
    ],
)
def test_wrong_usage(run, tmp_path, capsys, options, status, message):
    assert scored(run, tmp_path / "score", "replay:/nowhere.jsonl", *options) == status
    assert message in capsys.readouterr().err


def test_options_of_another_command_are_refused(corpus, compress, tmp_path, vision, capsys):
    for option in ("--backend=facepp", "--originals=/nowhere"):
        assert compress(corpus, tmp_path / "out", "--score-with", vision.uri, option) == 2
        assert f"unknown option {option.partition('=')[0]}" in capsys.readouterr().err
    assert compress(corpus, tmp_path / "out", "--score-with", vision.uri, "--dry_run=True") == 2
    assert "--dry_run is DataflowRunner's, and a local run would go on" in capsys.readouterr().err
    assert compress(corpus, tmp_path / "out", "--sample-rate", "0.5") == 2
    assert "sample_rate is about scoring: give score_with=BACKEND too" in capsys.readouterr().err
    assert not vision.server.requests


def test_a_run_is_not_scored_into_itself(run, tmp_path, capsys):
    before = files_of(run)
    for output in (run, run / "images", run / "images" / "sub", run / "manifest", run / "_adacompress"):
        assert scored(run, output, "facepp", "--overwrite") == 2
        assert "is a part of the run" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert scored(run, other, "facepp", "--overwrite") == 1
    assert "holds a run of another kind (adacompress.run): choose another --output" in capsys.readouterr().err
    assert files_of(run) == files_of(other) == before


def test_a_cache_is_not_where_runs_delete(run, tmp_path, capsys):
    for cache in (tmp_path / "score" / "scores", run / "images" / "cache"):
        assert scored(run, tmp_path / "score", "google-vision", "--cache", str(cache)) == 2
        assert "is where runs delete files: choose another --cache" in capsys.readouterr().err


def test_what_fails_leaves_the_earlier_scores(run, tmp_path, vision, monkeypatch):
    assert scored(run, tmp_path / "score", vision.uri) == 0
    before = files_of(tmp_path / "score" / "scores")
    monkeypatch.delenv("FACEPP_API_KEY")
    assert scored(run, tmp_path / "score", vision.uri) == 1
    assert files_of(tmp_path / "score" / "scores") == before


def test_files_of_others_are_left_alone(run, tmp_path, vision):
    mine = tmp_path / "score" / "scores" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    assert scored(run, tmp_path / "score", vision.uri) == 1
    assert scored(run, tmp_path / "score", vision.uri, "--overwrite") == 0
    assert mine.read_text() == "precious"
    assert scored(run, tmp_path / "score", vision.uri) == 0


def test_limits_may_change_between_runs(run, tmp_path, vision, capsys):
    assert scored(run, tmp_path / "score", vision.uri, "--max-calls", "4", "--concurrency=1") == 0
    assert summary_of(tmp_path / "score")["failures"] == {"budget-spent": 4}
    assert scored(run, tmp_path / "score", vision.uri, "--max-calls", "100", "--timeout", "7") == 0
    content = summary_of(tmp_path / "score")
    assert (content["images"]["scored"], content["options"]["max_calls"]) == (6, 100)
    assert content["usage"] | {"throttled_seconds": 0} == {
        "calls": 8,
        "retries": 0,
        "cache_hits": 4,
        "throttled_seconds": 0,
        "cost_usd": 4.0,
    }
    assert not list((tmp_path / "score" / "failures").glob("*.parquet"))


def test_a_cache_that_cannot_be_written_is_found_before_the_first_call(run, tmp_path, vision, capsys):
    (tmp_path / "file").write_text("")
    assert scored(run, tmp_path / "score", vision.uri, "--cache", str(tmp_path / "file")) == 1
    assert "answers cannot be cached below" in capsys.readouterr().err
    assert not vision.server.requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template_location=gs://b/t"], "--max-calls holds for one run, and a template is run many times"),
        (["--runner=DataflowRunner"], "which Dataflow's workers do not share: give --cache gs://..."),
    ],
)
def test_limits_that_would_not_hold_are_refused(run, tmp_path, capsys, options, message):
    arguments = ["--input", str(run), "--output", str(tmp_path / "score"), "--backend", "google-vision"]
    assert cli.main(["score", *arguments, "--max-calls=5", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-cost", "inf"], "max_cost must be at least 0 USD"),
        (
            ["--backend", "google-vision?price=nan"],
            "the price of google-vision must be a number of USD from 0, got nan",
        ),
        (
            ["--backend", "google-vision?price=-1"],
            "the price of google-vision must be a number of USD from 0, got -1.0",
        ),
    ],
)
def test_money_that_is_none(run, tmp_path, capsys, options, message):
    assert scored(run, tmp_path / "score", "google-vision", *options) == 2
    assert message in capsys.readouterr().err


def test_score_failures_count_in_a_compress_run(corpus, compress, tmp_path):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    options = ["--score-with", backend, "--sample-rate", "1", "--max-failures", "0.1"]
    assert compress(corpus, tmp_path / "out", *options) == 3


def test_an_unfinished_run_is_not_scored(run, tmp_path, capsys):
    (run / "summary.json").unlink()
    assert scored(run, tmp_path / "score", recorded(tmp_path / "r.jsonl", REPLIES)) == 1
    assert "is not finished: run its adacompress compress again, it goes on" in capsys.readouterr().err


def test_another_run_is_not_written_over(run, tmp_path, capsys):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, tmp_path / "score", backend) == 0
    before = files_of(tmp_path / "score" / "scores")
    assert scored(run, tmp_path / "score", backend, "--errors", "skip") == 1
    assert "holds a run with other options (errors was 'count', now 'skip')" in capsys.readouterr().err
    assert files_of(tmp_path / "score" / "scores") == before
    assert scored(run, tmp_path / "score", backend, "--errors", "skip", "--overwrite") == 0


def test_where_answers_are_kept_by_default(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert asking.default_cache("/out") == "/caches/beam-adacompress"
    assert asking.default_cache("gs://bucket/run") == "gs://bucket/run/cache"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert asking.default_cache("/out") == "/home/me/.cache/beam-adacompress"
