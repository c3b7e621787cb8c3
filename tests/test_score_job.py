"""`adacompress score` and `adacompress compress --score-with`, against services on this machine."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas
import pytest
from conftest import IN_PROCESS, encoded, manifest_rows, picture
from scoring import CLI, REPLIES, recorded, scored, summary_of

from beam_adacompress import scores
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import cli, progress


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
    assert "on 50.0 % of them" in (tmp_path / "out" / "report.html").read_text()
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


def test_recording_is_paid_once_too(run, tmp_path, vision):
    for name in ("one", "two"):
        assert scored(run, tmp_path / name, f"record:{tmp_path}/{name}.jsonl+{vision.uri}") == 0
    assert sum(vision.asked.values()) == 12
    tapes = [sorted((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("one", "two")]
    assert tapes[0] == tapes[1]


def test_recording_and_replaying_agree(run, tmp_path, vision):
    tape = tmp_path / "tape.jsonl"
    assert scored(run, tmp_path / "live", f"record:{tape}+{vision.uri}") == 0
    assert len(tape.read_text().splitlines()) == 12
    assert scored(run, tmp_path / "replayed", f"replay:{tape}") == 0
    live, replayed = summary_of(tmp_path / "live"), summary_of(tmp_path / "replayed")
    assert replayed["estimates"] == live["estimates"]
    assert replayed["images"] == live["images"]


@pytest.mark.heavy
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
    assert images.get("scored", 0) + images["failed"] == 40  # on a slow machine all calls may go for references
    assert summary_of(tmp_path / "score")["failures"] == {"budget-spent": images["failed"]}


@pytest.mark.heavy
def test_a_killed_run_pays_again_only_for_what_was_under_way(tmp_path, compress, vision):
    vision.delay = 0.1
    for index in range(40):
        path = tmp_path / "many" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(seed=index)))
    assert compress(tmp_path / "many") == 0
    arguments = ["--input", str(tmp_path / "out"), "--output", str(tmp_path / "score"), "--backend", vision.uri]
    command = ["score", *arguments, "--sample-rate=1", "--concurrency=2"]
    process = subprocess.Popen(
        [*CLI, *command, "--direct_num_workers=2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(vision.server.requests) < 30:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its workers end by themselves
    vision.delay = 0.0
    assert cli.main([*command, *IN_PROCESS]) == 0
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
