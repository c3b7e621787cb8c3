"""Whatever goes wrong while a policy is trained again: the incumbent serves on, and nothing is published twice."""

from __future__ import annotations

import concurrent.futures
import logging
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import apache_beam as beam
import pytest
import scenery
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from gcs import emulated
from loopback import Reply
from test_publishing_gcs import writes
from test_retrain_agent import LEFT, batch, in_service, leave, memory_of, scores
from test_retrain_agent import first as first  # fixtures
from test_retrain_agent import policy as policy
from test_retrain_agent import root as root
from test_retrain_agent import trainer as trainer
from test_retrain_stream import ALARM, USUAL, advised, at, streamed
from test_retrain_stream import agent as agent

from beam_adacompress import AdaCompressError, DriftEstimate, RetrainAgent, Score
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.transforms import buckets, files, publishing
from beam_adacompress.transforms.publishing import MEMORY
from beam_adacompress.transforms.retrain import _Retraining

DOWN = OSError(28, "No space left on device")


def whole(root):
    """The version in service, which can be loaded, and how many there are."""
    version = artefacts.load(publishing.resolve(root), files.read)[1]
    assert version == in_service(root)
    return version, len(publishing.versions(root))


def fail(monkeypatch, name, suffix, times):
    """Lets a function of `files` fail so many times for paths that end like this."""
    original, left = getattr(files, name), [times]

    def failing(path, *arguments):
        if path.endswith(suffix) and left[0]:
            left[0] -= 1
            raise DOWN
        return original(path, *arguments)

    monkeypatch.setattr(files, name, failing)
    return left


def stream(agent, first):
    """A job that has enough scores in its second window, and one more in each of the next two."""
    return streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 10, 5), 20],
        *[at(20, "retrain", first), 30, scores(first, 30, 1), 40, scores(first, 50, 1), 60],
    )


# The store fails for a while.


@pytest.mark.parametrize(
    ("name", "suffix", "message"),
    [
        ("write", "weights.npz", "the policy NEW cannot be published to {root}: No space left on device"),
        ("write", MEMORY, "the policy NEW cannot be published to {root}: No space left on device"),
        ("write", "policy.json", "the policy NEW cannot be published to {root}: No space left on device"),
        ("replace", "LATEST", "{root}/LATEST cannot be moved to NEW: No space left on device"),
    ],
)
def test_an_outage_while_publishing(agent, trainer, root, first, monkeypatch, name, suffix, message):
    fail(monkeypatch, name, suffix, times=1)
    failed, published = stream(agent, first)
    assert len(trainer.given) == 2
    assert (failed.status, failed.incumbent, failed.candidate) == ("failed", first, None)
    assert re.sub(r"agreement-\w{10}", "NEW", failed.reason) == message.format(root=root)
    assert published.status == "published"
    assert publishing.latest(root)[:2] == (published.candidate, first)
    assert advised(root) == USUAL._replace(policy_version=published.candidate)


def test_an_outage_that_does_not_end(agent, trainer, root, first, monkeypatch):
    fail(monkeypatch, "replace", "LATEST", times=10**6)
    before = publishing.latest(root)
    rows = stream(agent, first)
    assert [row.status for row in rows] == ["failed"] * 3  # once with the scores of each window
    assert publishing.latest(root) == before
    assert advised(root) == ALARM._replace(policy_version=first)


def test_where_it_cannot_be_read_what_is_in_service_estimates_are_passed_over(
    agent, trainer, root, first, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING, "beam_adacompress.transforms.retrain")
    fail(monkeypatch, "read_with_token", "LATEST", times=1)  # at the first estimate
    rows = stream(agent, first)
    assert rows == []
    assert "it is not known which policy is in service: " in caplog.text
    assert advised(root) == ALARM._replace(policy_version=first)  # by the second one


def test_advice_that_cannot_be_written_is_written_later(agent, trainer, root, first, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "beam_adacompress.transforms.retrain")
    left = fail(monkeypatch, "write", "STATE", times=2)
    (row,) = stream(agent, first)
    assert (row.status, left) == ("published", [0])
    assert caplog.text.count("other stages go on as before: the state of drift") == 2
    assert advised(root) == USUAL._replace(policy_version=row.candidate)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("account")) as bucket:
        yield bucket


@pytest.mark.parametrize("name", ["weights.npz", "policy.json", "LATEST"])
def test_an_outage_of_a_bucket(bucket, trainer, policy, first, monkeypatch, name):
    monkeypatch.setattr(buckets, "PATIENCE", 0.3)
    root = f"gs://photos/outage-{name}"
    publishing.publish_folder(root, policy, None)
    before = publishing.latest(root)
    agent = RetrainAgent(policy=policy, publish=root, always=True)
    bucket.preconditions.first = lambda request: Reply(b"busy", 503) if writes(request, name) else None
    (failed,) = batch(agent, scores(first), [])
    assert failed.status == "failed"
    assert "503" in failed.reason
    assert publishing.latest(root) == before
    assert artefacts.load(publishing.resolve(root), files.read)[1] == first
    bucket.preconditions.first = lambda request: None
    (published,) = batch(agent, scores(first), [])
    assert published.status == "published"
    assert whole(root) == (published.candidate, 2)
    assert [row.key for row in memory_of(root, published.candidate)] == [f"image {index}" for index in range(5)]


# Training fails, or what is there is broken.


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AdaCompressError("training needs keras: pip install it"), "training needs keras: pip install it"),
        (MemoryError("no room"), "training failed: MemoryError: no room"),
        (ValueError("x < 0"), "training failed: ValueError: x < 0"),
    ],
)
def test_a_training_that_fails(trainer, policy, root, first, error, reason):
    trainer.said = [error]
    (row,) = batch(RetrainAgent(policy=policy, publish=root, always=True), scores(first), [])
    assert row == ("failed", reason, first, None, 0, None, None, None, None)
    assert whole(root) == (first, 1)


def test_a_broken_latest(trainer, policy, root, first):
    Path(root, "LATEST").write_text("{")
    (row,) = batch(RetrainAgent(policy=policy, publish=root, always=True), scores(first), [])
    assert (row.status, row.incumbent, trainer.given) == ("failed", "", [])
    assert row.reason.startswith(f"{root}/LATEST is damaged (")
    assert Path(root, "LATEST").read_text() == "{"


def test_a_policy_that_is_not_there(trainer, tmp_path):
    (row,) = batch(RetrainAgent(policy=str(tmp_path / "nowhere"), always=True), scores("v"), [])
    assert row[:3] == (
        "failed",
        f"the policy's file {tmp_path}/nowhere/policy.json cannot be read: No such file or directory",
        "",
    )


def test_old_scores_that_are_damaged_do_not_keep_a_policy_from_being_trained(trainer, policy, root, first):
    memory = Path(publishing.folder_of(root, first), MEMORY)
    memory.write_bytes(b"PAR1 torn")
    (row,) = batch(RetrainAgent(policy=policy, publish=root, always=True), scores(first), [])
    assert row.status == "published"
    assert row.reason.startswith(f"it is better; the old scores are left out, {memory} is no readable Parquet file: ")
    assert trainer.given[0][2] == []
    assert len(memory_of(root, row.candidate)) == 5


def test_old_scores_that_cannot_be_read_for_a_while(trainer, policy, root, first, monkeypatch):
    memory = Path(publishing.folder_of(root, first), MEMORY)
    memory.write_bytes(b"")
    fail(monkeypatch, "read", MEMORY, times=1)
    (row,) = batch(RetrainAgent(policy=policy, publish=root, always=True), scores(first), [])
    assert row[:2] == ("failed", f"the old scores {memory} cannot be read: No space left on device")
    assert whole(root) == (first, 1)


# Work that is done twice.


def fails_once_after(monkeypatch):
    """A DoFn that fails when it has trained and published, so that the runner tries its bundle again."""
    retrained, failures = _Retraining._retrained, []

    def failing(self, *arguments):
        found = retrained(self, *arguments)
        if not failures:
            failures.append(found)
            raise RuntimeError("the worker is lost")
        return found

    monkeypatch.setattr(_Retraining, "_retrained", failing)
    return failures


def test_a_bundle_that_is_tried_again_in_a_batch_job(trainer, policy, root, first, monkeypatch):
    failures = fails_once_after(monkeypatch)
    LEFT.clear()
    with TestPipeline(runner=BundleBasedDirectRunner()) as p:
        _ = (
            {
                "scores": p | "Scores" >> beam.Create(scores(first)).with_output_types(Score),
                "estimates": p | "Estimates" >> beam.Create([]).with_output_types(DriftEstimate),
            }
            | RetrainAgent(policy=policy, publish=root, always=True)
            | beam.Map(leave)
        )
    ((row, _),) = LEFT
    assert (row.status, row.incumbent, row.candidate) == ("published", first, failures[0].candidate)
    assert whole(root) == (row.candidate, 2)
    assert len(trainer.given) == 1


def test_a_bundle_that_is_tried_again_in_a_stream(agent, trainer, root, first, monkeypatch):
    failures = fails_once_after(monkeypatch)
    (row,) = stream(agent, first)
    assert (row.status, row.incumbent, row.candidate) == ("published", first, failures[0].candidate)
    assert whole(root) == (row.candidate, 2)
    assert len(trainer.given) == 1
    assert advised(root) == USUAL._replace(policy_version=row.candidate)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_retrain_agent import Trainer, batch, scores
from beam_adacompress import RetrainAgent
from beam_adacompress.transforms import files, replacing

replacing.retrain = Trainer()
original = files.{function}

def killed(path, *arguments):
    if not path.endswith({suffix!r}):
        return original(path, *arguments)
    if {after}:
        original(path, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

files.{function} = killed
batch(RetrainAgent(policy={policy!r}, publish={root!r}, always=True), scores({first!r}), [])
"""


@pytest.mark.parametrize(
    ("function", "suffix", "after", "moved"),
    [
        ("write", "policy.json", False, False),  # the version is half written
        ("replace", "LATEST", False, False),
        ("replace", "LATEST", True, True),
    ],
)
@pytest.mark.heavy
def test_a_worker_that_is_killed(trainer, policy, root, first, function, suffix, after, moved):
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        function=function,
        suffix=suffix,
        after=after,
        policy=policy,
        root=root,
        first=first,
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (whole(root)[0] != first) == moved
    (row,) = batch(RetrainAgent(policy=policy, publish=root, always=True), scores(first), [])
    assert (row.status, row.incumbent) == ("published", first)
    assert whole(root) == (row.candidate, 2)
    assert publishing.latest(root).previous == first
    assert len(trainer.given) == (0 if moved else 1)


def test_of_two_at_once_one_wins(trainer, policy, root, first, monkeypatch):
    meet, replace = threading.Barrier(2), files.replace

    def together(path, *arguments):
        meet.wait(timeout=30)
        return replace(path, *arguments)

    monkeypatch.setattr(files, "replace", together)
    agents = [RetrainAgent(policy=policy, publish=root, recent=recent) for recent in (3, 4)]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        rows = list(threads.map(lambda agent: agent._replacing()(scores(first)), agents))
    kept, published = sorted(rows)
    assert (kept.status, published.status) == ("kept", "published")
    assert kept.reason == (
        f"{kept.candidate} is not in use: another publisher put {published.candidate} in the place of {first} as the "
        f"latest of {root} first; compare the two and publish again"
    )
    assert kept.candidate_agreement == 0.97
    assert whole(root) == (published.candidate, 3)


def test_of_two_that_publish_first_of_all_one_wins(trainer, policy, tmp_path, first, monkeypatch):
    root, publish_folder = str(tmp_path / "new"), publishing.publish_folder

    def later(*arguments):  # another one was faster with all of it
        RetrainAgent(policy=policy, publish=root, recent=3)._replacing()(scores(first))
        return publish_folder(*arguments)

    replacing = RetrainAgent(policy=policy, publish=root)._replacing()
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish_folder", lambda *each: (patch.undo(), later(*each))[1])
        row = replacing(scores(first))
    assert row.status == "kept"
    assert "another publisher put " in row.reason
    assert whole(root)[1] == 2


# For real.


@pytest.mark.heavy
def test_real_training(tmp_path):
    pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")
    incumbent = scenery.policy()
    root = str(tmp_path / "root")
    first = publishing.publish(root, incumbent, None)
    logged = [
        row._replace(choice=row.choice._replace(policy_version=first))
        for row in scenery.scores(incumbent, 300, 5, harder=3.0)
    ]
    agent = RetrainAgent(policy=root, publish=root, always=True)
    (row,) = batch(agent, logged, [])
    assert row.status == "published", row.reason
    assert row.candidate_agreement > row.incumbent_agreement
    assert row.scores == len(memory_of(root, row.candidate)) == 300
    assert whole(root) == (row.candidate, 2)
    publishing.rollback(root)
    (again,) = batch(agent, logged[::-1], [])
    assert again == row
    assert whole(root) == (row.candidate, 2)
