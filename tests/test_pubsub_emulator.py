"""`adacompress serve` between two topics: what it tells, and when it takes a message off its subscription."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import subprocess
import sys
import time

import apache_beam as beam
import portable
import pubsub
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from conftest import encoded, files_of, picture
from scoring import recorded
from test_policies import saved

from beam_adacompress.pipelines import cli, serve
from beam_adacompress.pipelines.serve_job import ServeJob
from beam_adacompress.transforms import arrivals, sinks
from beam_adacompress.transforms.pull import MESSAGES, PullMessages

EMULATOR = pytest.param(pubsub.emulated, marks=(pytest.mark.pubsub_emulator, pytest.mark.heavy), id="emulator")
STAND_IN = pytest.param(pubsub.subscribed, id="stand-in")


@pytest.fixture(params=[STAND_IN, EMULATOR])
def service(request, monkeypatch):
    # The shortest lease, so that it is soon seen what would be delivered again.
    monkeypatch.setattr(arrivals, "PullMessages", functools.partial(PullMessages, lease=10))
    with request.param() as service:
        yield service


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.jpg").write_bytes(encoded(picture(seed=index)))
    (folder / "torn.jpg").write_bytes(encoded(picture())[:900])
    return folder


def arguments(service, photos, output, *options):
    places = [f"--subscription={service.subscription}", f"--root={photos}", f"--output={output}"]
    return ["serve", *places, f"--notify={service.topic}", *options]


def publish(service, photos):
    for path in sorted(photos.iterdir()):
        service.publish(str(path).encode())


def test_messages_in_and_out(service, photos, tmp_path):
    publish(service, photos)
    service.publish(b"no path")
    service.publish(b"", eventType="OBJECT_DELETE", bucketId="b", objectId="a.jpg")
    service.publish(b"{}", adacompress="image", status="kept")  # of a job that tells the topic that this one reads
    out = tmp_path / "out"
    assert cli.main(arguments(service, photos, out, "--stop-after=3")) == 0
    images = {f"{index}.jpg" for index in range(5)}
    assert set(files_of(out / "images")) == images
    told = service.told()
    assert {message.attributes["adacompress"] for message in told} == {"image"}
    rows = [json.loads(message.data) for message in told]
    assert [row["status"] for row in rows] == [message.attributes["status"] for message in told]
    assert {row["key"]: row["path"] for row in rows if row["path"]} == {key: f"{out}/images/{key}" for key in images}
    failed = sorted((row["reason"], row["path"]) for row in rows if row["status"] == "failed")
    assert failed == [("bad-message", None), ("truncated", None)]
    assert len(rows) == 7
    assert service.pending() == []


def test_a_message_stays_until_its_image_is_written(service, photos, tmp_path, monkeypatch, capsys):
    publish(service, photos)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:

        def full(commit, outcome):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(sinks._Commit, "_write_image", full)
        assert cli.main(arguments(service, photos, out, "--stop-after=3")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert service.told() == []
    assert sorted(service.pending()) == sorted(str(path).encode() for path in photos.iterdir())
    assert cli.main(arguments(service, photos, out, "--stop-after=3")) == 0
    assert set(files_of(out / "images")) == {f"{index}.jpg" for index in range(5)}
    assert {json.loads(message.data)["key"] for message in service.told()} == {path.name for path in photos.iterdir()}
    assert service.pending() == []


def test_an_image_that_cannot_be_written_is_told_as_failed(photos, tmp_path, monkeypatch):
    with pubsub.subscribed() as service:
        publish(service, photos)
        (tmp_path / "out" / "images" / "3.jpg").mkdir(parents=True)  # where the image would be
        assert cli.main(arguments(service, photos, tmp_path / "out", "--stop-after=2")) == 0
        rows = [json.loads(message.data) for message in service.told()]
    of_it = [(row["status"], row["reason"], row["path"]) for row in rows if row["key"] == "3.jpg"]
    assert of_it == [("failed", "write-failed", None)]
    assert len(rows) == 6


def test_drift_is_told_too(photos, tmp_path):
    replies = {(f"{index}.jpg", quality): "cat" for index in range(5) for quality in (None, 50)}
    backend = recorded(tmp_path / "replies.jsonl", replies)
    out = tmp_path / "out"
    scoring = [f"--policy={saved(tmp_path, promise=0.8)}", f"--score-with={backend}", "--sample-rate=1"]
    with pubsub.subscribed() as service:
        publish(service, photos)
        assert cli.main(arguments(service, photos, out, *scoring, "--window=3600", "--stop-after=2")) == 0
        told = [message for message in service.told() if message.attributes["adacompress"] == "estimate"]
    (path,) = (out / "drift" / "estimates").rglob("*.jsonl")
    (message,) = told
    assert json.loads(message.data) == json.loads(path.read_text())
    assert json.loads(message.data)["n"] == 5
    assert message.attributes["status"] == "inference"


def test_what_the_usual_runner_may_lose_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serve.local, "run_to_end", lambda *arguments: None)
    assert cli.main(["serve", f"--subscription={pubsub.SUBSCRIPTION}", f"--output={tmp_path}/out"]) == 0
    assert "takes messages off the subscription before their images are written" in capsys.readouterr().err


@pytest.fixture(scope="module")
def prism():
    with portable.job_server("prism") as options:
        yield options


# Starts the command with the shortest lease.
COMMAND = """
import functools, sys
from beam_adacompress.pipelines import cli
from beam_adacompress.transforms import arrivals
arrivals.PullMessages = functools.partial(arrivals.PullMessages, lease=10)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.portable
def test_no_image_is_lost_with_a_worker(service, prism, tmp_path):
    """Killed between the receipt of messages and the writing of their images; the next job gets them again."""
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    for index in range(150):
        (photos / f"{index:03d}.jpg").write_bytes(encoded(picture(480, 360, seed=index % 7)))
    publish(service, photos)
    names = {path.name for path in photos.iterdir()}
    command = [sys.executable, "-c", COMMAND, *arguments(service, photos, out, *prism)]

    def written():
        return {path.name for path in (out / "images").glob("*")}

    with running(command) as workers:
        until(lambda: len(written()) > 2 * MESSAGES)
        workers.kill()
    before = written()
    pending = {message.decode().rpartition("/")[2] for message in service.pending()}
    assert names - before <= pending  # what is not written
    assert names - before
    assert names - pending  # a bundle that was done
    told = {json.loads(message.data)["key"] for message in service.told()}
    assert told  # by Prism
    assert told <= before
    assert cli.main(arguments(service, photos, out, "--stop-after=15")) == 0
    assert written() == names
    assert service.pending() == []


@contextlib.contextmanager
def running(command):
    """A job that never ends, with workers in processes of their own."""
    workers = portable.Workers()
    process = subprocess.Popen([*command, *workers.options], stderr=subprocess.DEVNULL)
    try:
        yield workers
    finally:
        process.kill()
        process.wait()
        workers.kill()


def until(holds, seconds=90.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("flags", "pulls", "reader"),
    [
        (["--runner=FnApiRunner"], True, "Arrive/Read/Pull"),
        (
            [
                "--runner=DataflowRunner",
                "--dry_run=True",
                "--project=our-project",
                "--region=r",
                "--temp_location=gs://photos/temporary",
            ],
            False,
            "Arrive/Read/Read",
        ),
    ],
)
def test_nothing_is_shuffled_between_a_message_and_its_image(flags, pulls, reader):
    """So they are of one bundle, with which messages are acknowledged."""
    producers, commits = {}, []

    class Graph(PipelineVisitor):
        def visit_transform(self, node):
            producers.update((output, node) for output in node.outputs.values())
            if node.full_label.startswith("Commit") and node.full_label.endswith("/Commit"):
                commits.append(node)

    pipeline = beam.Pipeline(options=PipelineOptions([*flags, "--streaming"]))
    job = ServeJob(output="gs://photos/out", subscription=pubsub.SUBSCRIPTION, notify=pubsub.TOPIC)
    serve.serve(pipeline, job, "attempt", pulls=pulls)
    pipeline.visit(Graph())
    assert len(commits) == 5
    for commit in commits:
        behind = [commit]
        while not behind[-1].full_label.startswith(reader):
            (source,) = behind[-1].inputs
            behind.append(producers[source])
        assert not [node for node in behind if isinstance(node.transform, (beam.GroupByKey, beam.Flatten))]


def test_arguments():
    with pytest.raises(ValueError, match=r"^lease must be from 10 to 600 seconds, got 5$"):
        PullMessages(pubsub.SUBSCRIPTION, lease=5)
    with pytest.raises(ValueError, match=r"^stop_after must be above 0 seconds, got -1$"):
        PullMessages(pubsub.SUBSCRIPTION, stop_after=-1)
    with pytest.raises(ValueError, match=r"^stop_after needs pull: Beam's own reader does not end after 9 seconds$"):
        arrivals.ReceiveImages(pubsub.SUBSCRIPTION, "/out", stop_after=9)
