"""gs:// against a storage emulator: Beam's own GCS client, a real HTTP server, no network and no credentials."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import os
import threading
import time

import pytest
from conftest import IN_PROCESS, encoded, picture
from gcs import emulated

from beam_adacompress.backends import Terms
from beam_adacompress.pipelines import cli
from beam_adacompress.records import Label
from beam_adacompress.transforms import files, runs
from beam_adacompress.transforms.ledger import Ledger
from beam_adacompress.transforms.replies import ReplyCache
from beam_adacompress.transforms.runs import RunFolder


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("account")) as bucket:
        yield bucket


def names(bucket, prefix):
    return sorted(blob.name for blob in bucket.client.list_blobs(bucket, prefix=prefix))


def test_from_bucket_to_bucket_and_on_again(bucket, compress):
    for index in range(5):
        bucket.blob(f"in/ü {index % 2}/{index}.jpg").upload_from_string(encoded(picture(seed=index)))
    bucket.blob("in/torn.jpg").upload_from_string(encoded(picture())[:900])
    bucket.blob("in/").upload_from_string(b"")  # what consoles make for a folder
    assert compress("gs://photos/in", "gs://photos/out") == 0
    assert names(bucket, "out/") == sorted(
        [
            "out/_adacompress/run.json",
            *(f"out/images/ü {index % 2}/{index}.jpg" for index in range(5)),
            "out/job.toml",
            "out/manifest/part-00000.parquet",
            "out/report.html",
            "out/summary.json",
        ]
    )
    rows = runs.read_rows(RunFolder("gs://photos/out").part(0))
    assert {row.key: row.status for row in rows} == {
        **{f"ü {index % 2}/{index}.jpg": "compressed" for index in range(5)},
        "torn.jpg": "failed",
    }
    one = bucket.get_blob("out/images/ü 0/0.jpg")
    assert one.content_type == "image/jpeg"
    assert one.size == next(row.bytes_out for row in rows if row.key == "ü 0/0.jpg")
    written = {blob.name: blob.updated for blob in bucket.client.list_blobs(bucket, prefix="out/images/")}
    bucket.delete_blob("out/images/ü 1/1.jpg")
    assert compress("gs://photos/in", "gs://photos/out") == 0
    again = {blob.name: blob.updated for blob in bucket.client.list_blobs(bucket, prefix="out/images/")}
    assert {name for name in written if again[name] != written[name]} == {"out/images/ü 1/1.jpg"}
    assert isinstance(one.updated, datetime.datetime)


def test_a_report_in_a_bucket_of_a_run_in_a_bucket(bucket, compress, tmp_path):
    bucket.blob("of/a.jpg").upload_from_string(encoded(picture()))
    assert compress("gs://photos/of", "gs://photos/reported") == 0
    bucket.delete_blob("reported/report.html")
    assert cli.main(["report", "gs://photos/reported", "--output", "gs://photos/pages/one.html"]) == 0
    page = bucket.get_blob("pages/one.html")
    assert page.content_type.startswith("text/html")
    assert page.download_as_bytes().count(b'class="flip"') == 1
    assert names(bucket, "pages/") == ["pages/one.html"]


def test_a_glob_in_a_bucket_and_a_local_output(bucket, compress, tmp_path):
    for name in ("glob/a.jpg", "glob/b.png", "glob/sub/c.jpg"):
        bucket.blob(name).upload_from_string(encoded(picture()))
    assert compress("gs://photos/glob/**.jpg", tmp_path / "out") == 0
    assert sorted(os.listdir(tmp_path / "out" / "images")) == ["a.jpg", "sub"]


def test_overwrite_in_a_bucket(bucket, compress):
    bucket.blob("two/a.jpg").upload_from_string(encoded(picture()))
    assert compress("gs://photos/two", "gs://photos/over") == 0
    assert compress("gs://photos/two", "gs://photos/over", "--quality=50") == 1
    assert compress("gs://photos/two", "gs://photos/over", "--quality=50", "--overwrite") == 0
    assert runs.read_rows(RunFolder("gs://photos/over").part(0))[0].quality == 50


def test_nothing_there(bucket, compress, capsys):
    assert compress("gs://photos/nothing", "gs://photos/out2") == 1
    assert "no images found in gs://photos/nothing" in capsys.readouterr().err
    assert compress("gs://no-such-bucket/in", "gs://photos/out2") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_files_in_a_bucket(bucket, tmp_path):
    path = "gs://photos/files/a b ü.jpg"
    assert files.status(path) is None
    files.write(path, b"123", "gs://photos/files/scratch")
    assert files.read(path) == b"123"
    assert files.status(path).size == 3
    assert abs(files.status(path).modified - time.time()) < 60
    assert [found.size for found in files.listing("gs://photos/files")] == [3]
    files.delete([path, path])
    assert files.status(path) is None
    with pytest.raises(OSError, match="404"):
        files.read(path)


def test_of_several_writers_in_a_bucket_one_succeeds(bucket):
    path = "gs://photos/created/a b ü.json"
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        created = list(threads.map(lambda index: files.create(path, b"%d" % index, "unused"), range(8)))
    assert sum(created) == 1
    assert files.read(path) == b"%d" % created.index(True)


def test_a_ledger_in_a_bucket(bucket, monkeypatch):
    # The first claims of all four come at once.
    create, meeting, met = files.create, threading.Barrier(4), threading.local()

    def create_together(*arguments):
        if not hasattr(met, "before"):
            met.before = True
            meeting.wait(60)
        return create(*arguments)

    monkeypatch.setattr(files, "create", create_together)
    refused = bucket.preconditions.refused
    ledgers = [Ledger("gs://photos/ledger", max_calls=50, calls_per_second=1000) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        granted = threads.map(lambda ledger: sum(ledger.claim(3, ahead=3).calls for _ in range(10)), ledgers)
        assert sum(granted) + sum(ledger._left for ledger in ledgers) == 50
    assert bucket.preconditions.refused >= refused + 3


def test_replies_in_a_bucket(bucket):
    cache = ReplyCache("gs://photos/cache", Terms("vision", "v1"))
    assert cache.get("ab" * 32) is None
    assert cache.put("ab" * 32, (Label("cat", 0.5),)) == (Label("cat", 0.5),)
    assert cache.put("ab" * 32, (Label("dog", 0.5),)) == (Label("cat", 0.5),)
    assert cache.get("ab" * 32) == (Label("cat", 0.5),)


def test_scoring_in_a_bucket(bucket, compress):
    for index in range(3):
        bucket.blob(f"scored/{index}.jpg").upload_from_string(encoded(picture(seed=index)))
    assert compress("gs://photos/scored", "gs://photos/run") == 0
    bucket.blob("replies.jsonl").upload_from_string(
        "".join(
            json.dumps(
                {"service": "s", "dataset": "d", "image": f"{i}.jpg", "quality": q, "error": 0, "labels": [["cat", 1]]}
                | {"bytes": 1}
            )
            + "\n"
            for i in range(3)
            for q in (None, 35)
        )
    )
    arguments = ["--input=gs://photos/run", "--output=gs://photos/score", "--backend=replay:gs://photos/replies.jsonl"]
    assert cli.main(["score", *arguments, "--sample-rate=1", "--max-calls=5", *IN_PROCESS]) == 0
    summary = json.loads(files.read("gs://photos/score/summary.json"))
    assert summary["images"] == {"total": 3, "sampled": 3, "scored": 2, "failed": 1}
    assert summary["failures"] == {"budget-spent": 1}
    assert names(bucket, "score/scores/") == ["score/scores/part-00000.parquet"]
    assert names(bucket, "score/cache/ledgers/")
