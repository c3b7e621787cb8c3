"""Publishing to gs://, against a storage emulator behind a server that keeps conditions and has faults."""

from __future__ import annotations

import gc
import json
import time

import pytest
from gcs import emulated
from loopback import Reply
from test_publishing import VERSIONS, at_once, made, published, seen_while_publishing

from beam_adacompress.drift.loop import Advice
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import cli
from beam_adacompress.policy import artefact
from beam_adacompress.transforms import buckets, control, files, publishing
from beam_adacompress.transforms.publishing import latest, publish, resolve, rollback


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("account")) as bucket:
        yield bucket


@pytest.fixture
def store(bucket, monkeypatch):
    """The server, without faults to begin with; clients give up soon."""
    monkeypatch.setattr(buckets, "PATIENCE", 0.3)
    yield bucket.preconditions
    bucket.preconditions.first = lambda request: None
    bucket.preconditions.cut = lambda half: False


@pytest.fixture
def root(store, request):
    return f"gs://photos/{request.node.name}"


def writes(request, name):
    """Whether a request writes an object whose path ends like this."""
    return request.method == "POST" and f'/{name}"'.encode() in request.body


def test_what_is_published(root, bucket):
    assert latest(root) is None
    assert resolve(root) == root
    assert published(root, 2)[:2] == (VERSIONS[1], VERSIONS[0])
    path = root.removeprefix("gs://photos/")
    assert latest(root).token == str(bucket.get_blob(f"{path}/LATEST").generation)
    assert bucket.get_blob(f"{path}/LATEST").content_type == "application/json"
    assert sorted(blob.name.removeprefix(f"{path}/") for blob in bucket.list_blobs(prefix=f"{path}/")) == [
        "LATEST",
        *sorted(f"versions/{version}/{name}" for version in VERSIONS[:2] for name in ("policy.json", "weights.npz")),
    ]
    assert resolve(root) == f"{root}/versions/{VERSIONS[1]}"
    assert artefact.load(resolve(root), files.read)[1] == VERSIONS[1]
    assert rollback(root) == VERSIONS[0]
    rows = publishing.versions(root)
    assert [(row.version, row.is_latest) for row in rows] == [(VERSIONS[1], False), (VERSIONS[0], True)]
    assert all(abs(row.published - time.time()) < 60 for row in rows)


@pytest.mark.parametrize("before", [0, 1])
def test_of_several_publishers_at_once_one_wins(root, store, monkeypatch, before):
    published(root, before)
    refused = store.refused
    results = at_once(monkeypatch, root)
    (winner,) = [result for result in results if isinstance(result, str)]
    assert sorted(type(result).__name__ for result in results) == ["LostRaceError"] * 7 + ["str"]
    assert store.refused == refused + 7
    assert latest(root)[:2] == (winner, VERSIONS[0] if before else None)


def unavailable(store, name):
    store.first = lambda request: Reply(b"busy", 503) if writes(request, name) else None


def hangs_up(store, name):
    store.first = lambda request: Reply(b"{}" * 50, cut=10) if writes(request, name) else None


def hangs_up_after_half(store, name):
    store.cut = lambda half: f'/{name}"'.encode() in half


@pytest.mark.parametrize("name", ["weights.npz", "policy.json", "LATEST"])
@pytest.mark.parametrize("fault", [unavailable, hangs_up, hangs_up_after_half])
def test_a_publisher_that_is_stopped_midway_changes_nothing(root, bucket, store, monkeypatch, fault, name):
    root = f"gs://photos/midway-{fault.__name__}-{name}"
    seen = published(root, 1)
    fault(store, name)
    began = time.monotonic()
    with pytest.raises(AdaCompressError, match=r"^[^\n]* cannot be (published|moved) to [^\n]*$"):
        publish(root, made(1), seen)
    assert time.monotonic() - began < 10
    store.first, store.cut = (lambda request: None), (lambda half: False)
    gc.collect()  # Beam's own writer would write now
    assert latest(root) == seen
    assert artefact.load(resolve(root), files.read)[1] == VERSIONS[0]
    assert files.exists(f"{root}/versions/{VERSIONS[1]}/policy.json") == (name == "LATEST")
    assert files.exists(f"{root}/versions/{VERSIONS[1]}/weights.npz") == (name != "weights.npz")
    assert publish(root, made(1), seen) == VERSIONS[1]
    assert artefact.load(resolve(root), files.read)[1] == VERSIONS[1]


@pytest.mark.parametrize(
    "move",
    [lambda root, seen: publish(root, made(2), seen), lambda root, seen: rollback(root)],
    ids=["publish", "rollback"],
)
def test_a_move_whose_answer_was_lost_is_no_lost_race(root, store, monkeypatch, move):
    monkeypatch.setattr(buckets, "PATIENCE", 30)
    seen = published(root, 2)
    refused, lost = store.refused, []

    def lose(request):
        if lost or not writes(request, "LATEST"):
            return None
        lost.append(store.answer(request))
        return Reply(b"{}" * 50, cut=10)

    store.first = lose
    version = move(root, seen)
    assert [reply.status for reply in lost] == [200]
    assert store.refused == refused + 1
    assert latest(root)[:2] == (version, VERSIONS[1])


def test_what_is_read_is_of_the_generation_that_is_named(root, bucket, store):
    published(root, 1)
    path = f"{root}/LATEST".removeprefix("gs://photos/")
    other = files.read(f"{root}/LATEST").replace(VERSIONS[0].encode(), VERSIONS[3].encode())
    overwritten = []

    def overwrite(request):
        if not overwritten and "alt=media" in request.path and "LATEST" in request.path:
            overwritten.append(request)
            bucket.blob(path).upload_from_string(other)

    store.first = overwrite
    found = latest(root)
    assert len(overwritten) == 1
    assert found.version == VERSIONS[3]
    assert found.token == str(bucket.get_blob(path).generation)


def test_an_object_that_never_holds_still(root, bucket, store):
    published(root, 1)
    store.first = lambda request: Reply(b"", 404) if "alt=media" in request.path else None
    with pytest.raises(AdaCompressError, match="/LATEST cannot be read: it is replaced faster than it can be read"):
        latest(root)


def test_a_reader_always_finds_a_whole_policy(root):
    published(root, 1)
    assert len(seen_while_publishing(root, 8)) > 1


def test_a_bucket_that_is_not_there(store, capsys):
    root = "gs://no-such-bucket/policies"
    assert latest(root) is None
    with pytest.raises(AdaCompressError, match=f"{VERSIONS[0]} cannot be published to {root}: 404, no such file or bu"):
        publish(root, made(0), None)
    for arguments in (["list", root], ["publish", "default", root], ["show", root], ["rollback", root]):
        assert cli.main(["policy", *arguments]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)


def test_without_permission(root, store):
    published(root, 1)
    message = "a@p.iam does not have storage.objects.create access to the Google Cloud Storage object."
    denied = Reply(json.dumps({"error": {"code": 403, "message": message}}, indent=1).encode(), 403)
    store.first = lambda request: denied if request.method == "POST" else None
    with pytest.raises(AdaCompressError, match=rf"^the policy {VERSIONS[1]} cannot be published to .*403.*{message}"):
        publish(root, made(1), latest(root))
    denied = denied._replace(headers={"Content-Type": "application/json"})
    store.first = lambda request: denied
    for read in (latest, resolve, publishing.versions, rollback, control.read_control):
        with pytest.raises(AdaCompressError, match=rf"^[^\n]*cannot be read: 403[^\n]*{message}[^\n]*$"):
            read(root)


def test_advice_of_the_drift_stage(root, store):
    assert control.read_control(root) is None
    for rate in (0.05, 0.2):
        control.write_control(root, Advice("estimate", rate, 0.02, VERSIONS[0]))
    assert control.read_control(root) == Advice("estimate", 0.2, 0.02, VERSIONS[0])
    store.first = lambda request: Reply(b"busy", 503) if writes(request, "STATE") else None
    with pytest.raises(AdaCompressError, match=r"the state of drift .*/STATE cannot be written: .*503"):
        control.write_control(root, Advice("retrain", 1.0, 0.02, VERSIONS[0]))
    store.first = lambda request: None
    gc.collect()
    assert control.read_control(root).state == "estimate"


def test_the_command(root, capsys):
    published(root, 2)
    assert cli.main(["policy", "rollback", f"{root}/", "--no_gcsio_throttling_counter"]) == 0
    assert cli.main(["policy", "list", root]) == 0
    assert cli.main(["policy", "show", root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"{VERSIONS[0]} is the latest of {root} now",
        f"back to {VERSIONS[1]}: adacompress policy rollback {root}",
    ]
    assert [line.split()[0] for line in lines[3:5]] == [VERSIONS[1], VERSIONS[0]]
    assert lines[4].endswith("  latest")
    assert lines[5] == f"published   the latest of {root}"
