"""Runners that are no part of Python: the same results, byte for byte, and no image lost with a worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import apache_beam as beam
import portable
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from conftest import encoded, files_of, manifest_rows, picture

from beam_adacompress import EstimateDrift, Score
from beam_adacompress.pipelines.retrain import parts_of, read_scores

pytestmark = pytest.mark.portable

IMAGES = 300


@pytest.fixture(scope="module", params=portable.SERVERS)
def server(request):
    with portable.job_server(request.param) as options:
        yield options


@pytest.fixture
def workers():
    pool = portable.Workers()
    yield pool
    pool.kill()


def command(name, *options):
    return [sys.executable, "-m", "beam_adacompress", name, *options]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Photographs `in`, and what the local runner makes of them: `out`, and its scores."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "in").mkdir()
    for index in range(IMAGES):
        data = encoded(picture(480, 360, seed=index % 7), "PNG" if index % 10 == 0 else "JPEG")
        (folder / "in" / f"{index:03d}.jpg").write_bytes(data)
    (folder / "in" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0torn")
    reply = {"service": "s", "dataset": "d", "bytes": 1, "error": 0}
    with open(folder / "replies.jsonl", "w") as tape:
        for index in range(IMAGES):
            for quality in (None, 35):
                label = "cat" if quality is None or index % 20 else "dog"
                row = {"image": f"{index:03d}.jpg", "quality": quality, "labels": [[label, 0.5]]}
                tape.write(json.dumps(reply | row) + "\n")
    subprocess.run(
        command("compress", f"--input={folder / 'in'}", f"--output={folder / 'out'}", "--quality=35"),
        check=True,
        capture_output=True,
    )
    subprocess.run(score(folder, folder / "out", folder / "scores"), check=True, capture_output=True)
    return folder


def score(folder, run, output, *options):
    tape = f"--backend=replay:{folder / 'replies.jsonl'}"
    return command("score", f"--input={run}", f"--output={output}", tape, "--sample-rate=1", "--top=1", *options)


def rows_of(output):
    return {key: row._replace(seconds=None) for key, row in manifest_rows(output).items()}


def scores_of(folder):
    rows = [row for part in parts_of(str(folder)) for row in read_scores(part)]
    return sorted(row._replace(time=0.0, latency=None) for row in rows)


def test_compress_score_and_drift(server, workers, expected, tmp_path):
    options = [*server, *workers.options]
    compress = command("compress", f"--input={expected / 'in'}", f"--output={tmp_path / 'out'}", "--quality=35")
    subprocess.run([*compress, *options], check=True, timeout=300)
    assert files_of(tmp_path / "out" / "images") == files_of(expected / "out" / "images")
    assert rows_of(tmp_path / "out") == rows_of(expected / "out")

    subprocess.run(score(expected, expected / "out", tmp_path / "scores", *options), check=True, timeout=300)
    found = scores_of(tmp_path / "scores")
    assert found == scores_of(expected / "scores")
    assert len(found) == IMAGES

    for name, flags in (("here", ["--runner=FnApiRunner"]), ("there", options)):
        with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
            parts = pipeline | beam.Create(list(parts_of(str(expected / "scores"))))
            _ = (
                parts
                | beam.FlatMap(read_scores).with_output_types(Score)
                | EstimateDrift(level=0.97, options={"false_alarms": 100})
                | beam.Map(described)
                | beam.io.WriteToText(str(tmp_path / name), shard_name_template="")
            )
    (here,) = (tmp_path / "here").read_text().splitlines()
    assert (tmp_path / "there").read_text().splitlines() == [here]
    assert json.loads(here)["n"] == IMAGES


def described(estimate):
    return json.dumps(estimate._asdict())


def test_a_worker_that_is_killed(server, workers, expected, tmp_path):
    """The same command finishes the job, if the runner does not do so by itself."""
    output = tmp_path / "out"
    compress = command("compress", f"--input={expected / 'in'}", f"--output={output}", "--quality=35")
    process = subprocess.Popen([*compress, *server, *workers.options], stderr=subprocess.PIPE)
    while process.poll() is None and len(list((output / "images").glob("*"))) < IMAGES // 4:
        time.sleep(0.005)
    assert process.poll() is None, "the job was too fast to be disturbed"
    workers.kill()
    workers.start()
    ended = True
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        ended = False  # the runner waits for the worker for ever
        process.kill()
        process.communicate()
    survived = ended and process.returncode == 0
    print(f"the runner {'went on by itself' if survived else 'gave up: the command is run again'}")
    if not survived:
        subprocess.run([*compress, *server, *workers.options], check=True, timeout=300)
    assert files_of(output / "images") == files_of(expected / "out" / "images")
    assert rows_of(output) == rows_of(expected / "out")
