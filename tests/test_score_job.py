"""`adacompress score` and `adacompress compress --score-with`, against services on this machine."""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

import pandas
import pytest
from conftest import IN_PROCESS, encoded, files_of, make_corpus, manifest_rows, picture
from loopback import Reply, Request, json_reply, serving

from beam_adacompress import scores
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import cli, progress, score_job

CLI = [sys.executable, "-m", "beam_adacompress"]


def recorded(path: Path, replies: dict[tuple[str, int | None], str | None]) -> str:
    """A file of replies: labels by (image, quality); None for an error."""
    rows = [
        {
            "service": "s",
            "dataset": "d",
            "image": image,
            "quality": quality,
            "bytes": 1,
            "error": int(labels is None),
            "labels": [[name, 0.5] for name in (labels or "").split()],
        }
        for (image, quality), labels in replies.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"replay:{path}"


REPLIES = {
    ("a/0.jpg", None): "cat dog",
    ("a/0.jpg", 35): "cat dog",  # agrees
    ("b/1.jpg", None): "cat dog",
    ("b/1.jpg", 35): "dog cat",  # agrees, but not strictly
    ("a/2.jpg", None): "cat",
    ("a/2.jpg", 35): "fox",  # disagrees
    ("b/3.jpg", None): "cat",
    ("b/3.jpg", 35): "",  # sees nothing any more
    ("a/4.jpg", None): "",  # nothing to compare with
    ("b/5.jpg", None): "cat",
    ("b/5.jpg", 35): None,  # fails
}


@pytest.fixture(scope="module")
def compressed(tmp_path_factory) -> Path:
    """A corpus `in` and a compress run of it at quality 35, `out`; not to be changed."""
    folder = tmp_path_factory.mktemp("compressed")
    make_corpus(folder / "in")
    assert cli.main(["compress", f"--input={folder / 'in'}", f"--output={folder / 'out'}", *IN_PROCESS]) == 0
    return folder


@pytest.fixture
def run(compressed, tmp_path) -> Path:
    """A copy of the compress run; its originals are not copied."""
    return shutil.copytree(compressed / "out", tmp_path / "out")


def scored(run: Path, output: Path, backend: str, *options: str) -> int:
    arguments = ["--input", str(run), "--output", str(output), "--backend", backend, "--sample-rate", "1"]
    return cli.main(["score", *arguments, *IN_PROCESS, *options])


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


class Vision:
    """Face++ on this machine: sees a cat in everything."""

    def __init__(self, delay: float = 0.0) -> None:
        self.asked: collections.Counter[str] = collections.Counter()  # by sha256 of the image
        self.delay = delay

    def answer(self, request: Request) -> Reply:
        (image,) = parse_qs(request.body.decode())["image_base64"]
        self.asked[hashlib.sha256(base64.b64decode(image)).hexdigest()] += 1
        objects = [{"value": "cat", "confidence": 90.0}]
        return json_reply({"request_id": "1", "objects": objects, "scenes": []}, delay=self.delay)


@pytest.fixture
def vision(monkeypatch):
    monkeypatch.setenv("FACEPP_API_KEY", "the-key")
    monkeypatch.setenv("FACEPP_API_SECRET", "the-secret")
    vision = Vision()
    with serving(vision.answer) as server:
        vision.server, vision.uri = server, f"facepp?endpoint={server.url}&price=0.5"
        yield vision


def test_what_a_score_run_comes_to(run, tmp_path, capsys):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, tmp_path / "score", backend) == 0
    content = summary_of(tmp_path / "score")
    assert content["images"] == {"total": 6, "sampled": 6, "no-reference": 1, "scored": 4, "failed": 1}
    assert content["failures"] == {"refused": 1}
    estimates = content["estimates"]
    assert estimates["images"] == 4
    assert estimates["agreement"]["mean"] == 0.5
    assert estimates["strict_agreement"]["mean"] == 0.25
    rows = manifest_rows(run)
    ratios = [rows[key].size_ratio for key in ("a/0.jpg", "b/1.jpg", "a/2.jpg", "b/3.jpg")]
    assert estimates["size_ratio"]["mean"] == pytest.approx(sum(ratios) / 4)
    assert estimates["reward"]["mean"] == pytest.approx(0.5 - sum(ratios) / 4)
    assert content["actions"]["annexk-35"] == estimates
    assert content["options"]["backend"] == backend
    said = capsys.readouterr().out
    assert "4 of 6 images scored with replay: 11 calls, of them 0 retries, 0 answers from the cache, 0.00 USD" in said
    assert "agreement        0.500 (0.150 to 0.850)" in said
    assert "no label for the original: 1 images" in said
    assert "no score: 1 images (refused 1), see" in said


def test_errors_skip_leaves_out_what_shows_nothing(run, tmp_path):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, tmp_path / "score", backend, "--errors", "skip") == 0
    content = summary_of(tmp_path / "score")
    assert (content["images"]["scored"], content["images"]["skipped"]) == (3, 1)
    assert content["estimates"]["agreement"]["mean"] == pytest.approx(2 / 3)


def test_scores_and_failures_are_tables(run, tmp_path):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, tmp_path / "score", backend) == 0
    path = tmp_path / "score" / "scores" / "part-00000.parquet"
    rows = scores.from_parquet(path.read_bytes(), str(path))
    assert [row.key for row in rows] == ["a/0.jpg", "a/2.jpg", "a/4.jpg", "b/1.jpg", "b/3.jpg"]
    assert [row.agreement for row in rows] == [1, 0, None, 1, 0]
    assert [label.name for label in rows[3].compressed_labels] == ["dog", "cat"]
    assert (rows[0].choice.quality, rows[0].choice.policy_version, rows[0].propensity) == (35, "fixed-35", 1.0)
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == [column.name for column in scores.FORMAT.columns]
    assert frame["status"].tolist() == ["scored", "scored", "no-reference", "scored", "scored"]
    failures = pandas.read_parquet(tmp_path / "score" / "failures")
    assert failures[["key", "stage", "reason"]].values.tolist() == [["b/5.jpg", "ScoreWithBackend", "refused"]]


def test_scores_of_another_version_are_refused(run, tmp_path):
    assert scored(run, tmp_path / "score", recorded(tmp_path / "replies.jsonl", REPLIES)) == 0
    data = (run / "manifest" / "part-00000.parquet").read_bytes()
    with pytest.raises(AdaCompressError, match="x has scores version none, and this is adacompress for version 1"):
        scores.from_parquet(data, "x")


def test_a_compress_run_can_be_scored_in_the_same_pipeline(corpus, compress, tmp_path, capsys):
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert compress(corpus, tmp_path / "out", "--score-with", backend, "--sample-rate", "1") == 0
    content = summary_of(tmp_path / "out" / "score")
    assert content["images"]["scored"] == 4
    assert content["estimates"]["agreement"]["mean"] == 0.5
    said = capsys.readouterr().out
    assert "6 of 6 images compressed" in said
    assert "4 of 6 images scored with replay" in said
    # Scoring is no part of what makes the images: with other scoring the same run goes on.
    assert compress(corpus, tmp_path / "out", "--score-with", backend, "--sample-rate", "0.5", "--salt", "x") == 0
    assert summary_of(tmp_path / "out" / "score")["options"]["sample_rate"] == 0.5


def test_a_service_is_paid_once(run, tmp_path, vision, capsys):
    assert scored(run, tmp_path / "score", vision.uri) == 0
    assert sum(vision.asked.values()) == 12
    assert "12 calls, of them 0 retries, 0 answers from the cache, 6.00 USD" in capsys.readouterr().out
    assert scored(run, tmp_path / "again", vision.uri) == 0
    assert sum(vision.asked.values()) == 12
    assert "0 calls, of them 0 retries, 12 answers from the cache, 0.00 USD" in capsys.readouterr().out
    assert summary_of(tmp_path / "again")["estimates"] == summary_of(tmp_path / "score")["estimates"]


def test_references_are_paid_once_for_all_qualities(corpus, compress, run, tmp_path, vision):
    assert scored(run, tmp_path / "35", vision.uri) == 0
    assert compress(corpus, tmp_path / "other", "--quality", "15") == 0
    assert scored(tmp_path / "other", tmp_path / "15", vision.uri) == 0
    assert sum(vision.asked.values()) == 18
    assert max(vision.asked.values()) == 1


def test_a_dry_run_makes_no_call(run, tmp_path, vision, capsys):
    assert scored(run, tmp_path / "score", vision.uri, "--dry-run") == 0
    planned = "6 of 6 images (100.0%) would be scored with facepp: at most 12 calls, retries not counted "
    assert capsys.readouterr().out == (
        planned + "(0 answers are in the cache), 6.00 USD at 0.5 USD a call; no call was made\n"
    )
    assert not vision.server.requests
    assert not (tmp_path / "score").exists()
    assert scored(run, tmp_path / "score", vision.uri, "--sample-rate", "0.5") == 0
    capsys.readouterr()
    paid = sum(vision.asked.values())
    assert scored(run, tmp_path / "score", vision.uri, "--dry-run", "--max-cost", "2") == 0
    assert (
        f"at most 4 calls, retries not counted ({paid} answers are in the cache), 2.00 USD" in capsys.readouterr().out
    )


def test_a_dry_run_needs_no_credentials(run, tmp_path, capsys):
    assert scored(run, tmp_path / "score", "google-vision", "--dry-run") == 0
    assert "0.0180 USD at 0.0015 USD a call" in capsys.readouterr().out


def test_what_is_no_longer_what_it_was_is_not_scored(corpus, run, tmp_path, vision):
    originals = ["--originals", str(corpus)]
    (corpus / "a" / "0.jpg").write_bytes(encoded(picture(seed=99)))
    (corpus / "b" / "1.jpg").unlink()
    (run / "images" / "a" / "2.jpg").write_bytes(b"damaged")
    assert scored(run, tmp_path / "score", vision.uri, *originals) == 0
    failures = pandas.read_parquet(tmp_path / "score" / "failures")
    assert failures[["key", "stage", "reason"]].values.tolist() == [
        ["a/0.jpg", "ReadPairs", "changed"],
        ["a/2.jpg", "ReadPairs", "changed"],
        ["b/1.jpg", "ReadPairs", "unreadable"],
    ]
    assert "is not the file that the manifest tells of: compress it again" in failures["error"][0]
    assert summary_of(tmp_path / "score")["images"]["scored"] == 3


def test_originals_that_have_moved(compressed, run, tmp_path):
    shutil.copytree(compressed / "in", tmp_path / "elsewhere")
    backend = recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, tmp_path / "score", backend, "--originals", str(tmp_path / "elsewhere")) == 0
    assert summary_of(tmp_path / "score")["images"]["scored"] == 4


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
        (["--backend", "vision"], 2, "unknown name 'vision'; known: baidu"),
        (["--sample-rate", "2"], 2, "sample_rate must be from 0 to 1, got 2.0"),
        (["--max-calls", "-1"], 2, "max_calls must be at least 0, got -1"),
        (["--samplerate", "1"], 2, "unknown option --samplerate: did you mean --sample-rate?"),
        (["--input", "/nowhere"], 1, "/nowhere holds no manifest: give the output of a finished adacompress compress"),
        (["--backend", "litert:/nowhere.tflite"], 1, "/nowhere.tflite cannot be read: No such file or directory"),
    ],
)
def test_wrong_usage(run, tmp_path, capsys, options, status, message):
    assert scored(run, tmp_path / "score", "replay:/nowhere.jsonl", *options) == status
    assert message in capsys.readouterr().err


def test_options_of_another_command_are_refused(corpus, compress, tmp_path, vision, capsys):
    for option in ("--dry-run", "--backend=facepp", "--originals=/nowhere"):
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
        assert scored(run, output, "replay:/nowhere.jsonl", "--overwrite") == 2
        assert "is a part of the run" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert scored(run, other, "replay:/nowhere.jsonl", "--overwrite") == 1
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


def test_recording_is_paid_once_too(run, tmp_path, vision):
    for name in ("one", "two"):
        assert scored(run, tmp_path / name, f"record:{tmp_path}/{name}.jsonl+{vision.uri}") == 0
    assert sum(vision.asked.values()) == 12
    tapes = [sorted((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("one", "two")]
    assert tapes[0] == tapes[1]


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


def test_recording_and_replaying_agree(run, tmp_path, vision):
    tape = tmp_path / "tape.jsonl"
    assert scored(run, tmp_path / "live", f"record:{tape}+{vision.uri}") == 0
    assert len(tape.read_text().splitlines()) == 12
    assert scored(run, tmp_path / "replayed", f"replay:{tape}") == 0
    live, replayed = summary_of(tmp_path / "live"), summary_of(tmp_path / "replayed")
    assert replayed["estimates"] == live["estimates"]
    assert replayed["images"] == live["images"]


def test_limits_hold_over_all_workers(tmp_path, compress, vision):
    for index in range(40):
        path = tmp_path / "many" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(seed=index)))
    assert compress(tmp_path / "many") == 0
    arguments = ["--input", str(tmp_path / "out"), "--output", str(tmp_path / "score"), "--backend", vision.uri]
    limits = ["--sample-rate=1", "--max-calls=30", "--calls-per-second=60", "--direct_num_workers=2"]
    done = subprocess.run([*CLI, "score", *arguments, *limits], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(vision.server.requests) == 30
    times = sorted(request.time for request in vision.server.requests)
    assert times[-1] - times[0] >= 0.45
    images = summary_of(tmp_path / "score")["images"]
    assert images["scored"] + images["failed"] == 40
    assert summary_of(tmp_path / "score")["failures"] == {"budget-spent": images["failed"]}


def test_a_killed_run_pays_again_only_for_what_was_under_way(tmp_path, compress, vision):
    vision.delay = 0.1
    for index in range(40):
        path = tmp_path / "many" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(seed=index)))
    assert compress(tmp_path / "many") == 0
    arguments = ["--input", str(tmp_path / "out"), "--output", str(tmp_path / "score"), "--backend", vision.uri]
    command = [*CLI, "score", *arguments, "--sample-rate=1", "--concurrency=2", "--direct_num_workers=2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(vision.server.requests) < 30:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its workers end by themselves
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path / "score")["images"]["scored"] == 40
    assert len(vision.asked) == 80
    assert sum(vision.asked.values()) - 80 <= 2 * 2  # two workers with two calls each


def test_progress_tells_what_is_spent(run, tmp_path, vision, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    vision.delay = 0.3
    assert scored(run, tmp_path / "score", vision.uri, "--concurrency=1") == 0
    lines = capsys.readouterr().err.splitlines()
    assert "0 images, 0 calls, 0.00 USD" in lines
    assert "3 images, 6 calls, 3.00 USD" in lines


def test_where_answers_are_kept_by_default(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert score_job.default_cache("/out") == "/caches/beam-adacompress"
    assert score_job.default_cache("gs://bucket/run") == "gs://bucket/run/cache"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert score_job.default_cache("/out") == "/home/me/.cache/beam-adacompress"


@pytest.mark.shared_data
def test_recorded_replies_of_a_real_service(tmp_path, compress):
    """The replies that AdaCompress's authors recorded, for stand-ins with the images' names."""
    tape = Path(__file__).parents[2] / "shared" / "data" / "recorded" / "baidu.jsonl"
    if not tape.exists():
        pytest.skip(f"{tape} is not here")
    by_image: dict[str, dict[int, dict]] = collections.defaultdict(dict)
    for line in tape.read_text().splitlines():
        row = json.loads(line)
        if not row["error"]:
            by_image[row["image"]][row["quality"]] = row
    both = sorted(image for image, rows in by_image.items() if {15, 75} <= set(rows))[:60]
    agreed = [by_image[i][75]["labels"][0][0] in [name for name, _ in by_image[i][15]["labels"]] for i in both]
    (tmp_path / "in").mkdir()
    for index, image in enumerate(both):
        (tmp_path / "in" / image).write_bytes(encoded(picture(seed=index)))
    assert compress(tmp_path / "in", tmp_path / "out", "--quality", "15") == 0
    assert scored(tmp_path / "out", tmp_path / "score", f"replay:{tape}") == 0
    estimate = summary_of(tmp_path / "score")["estimates"]
    assert estimate["images"] == 60
    assert estimate["agreement"]["mean"] == pytest.approx(sum(agreed) / 60)
