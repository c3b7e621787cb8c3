"""`adacompress serve`: the loop from an image that arrives to a policy that was trained again."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import IN_PROCESS, encoded, files_of, picture
from pubsub import SUBSCRIPTION, subscribed
from scoring import recorded
from test_policies import published_agent, saved

from beam_adacompress import Retrained, Score
from beam_adacompress.drift.contract import INFERENCE, RETRAIN
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.pipelines import cli, serve
from beam_adacompress.pipelines.retrain import parts_of, read_scores
from beam_adacompress.pipelines.score_job import Scoring
from beam_adacompress.pipelines.serve_job import ServeJob
from beam_adacompress.policy import artefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.retraining import Outcome
from beam_adacompress.scores import FAILURES
from beam_adacompress.transforms import arrivals, control, publishing, replacing
from beam_adacompress.transforms.runs import read_rows

PHOTO = encoded(picture(160, 120))


def rows_of(output: Path) -> list[ManifestRow]:
    """All rows, in the order of their files."""
    return [row for path in sorted((output / "manifest").rglob("*.jsonl")) for row in read_rows(str(path))]


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]


def scores_of(output: Path) -> list[Score]:
    """As `adacompress retrain --scores OUTPUT` finds them."""
    return [row for part in parts_of(str(output)) for row in read_scores(part)]


def until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.05)


class Driving:
    """Runs what the command would run, and meanwhile what a test has to do; then stops it."""

    def __init__(self, meanwhile):
        self._meanwhile = meanwhile

    def __call__(self, pipeline, options, watching):
        result = pipeline.run()
        try:
            self._meanwhile()
        finally:
            result.cancel()
        return result


def careful():
    """Prefers the third of three actions, whatever it sees."""
    network = dataclasses.replace(published_agent().network, b4=np.array([0, 1, 5], np.float32))
    return DQNAgent(network, 3, how=DQN(hidden=(1, 1, 1)))


@pytest.fixture
def incumbent(tmp_path):
    """A policy that takes quality 50 and promises 0.8."""
    (tmp_path / "incumbent").mkdir()
    return saved(tmp_path / "incumbent", promise=0.8)


@pytest.fixture
def candidate(tmp_path):
    """A policy that takes quality 90 and promises 0.8."""
    (tmp_path / "candidate").mkdir()
    folder = saved(tmp_path / "candidate", careful(), calibration=Calibration(400, (60,)), promise=0.8, prices=(0.0,))
    return artefact.load(folder)


def test_the_scenery_changes_and_the_policy_is_trained_again(tmp_path, incumbent, candidate, monkeypatch):
    replies = {}
    for index in range(400):
        for scenery in ("day", "night"):
            seen = {10: "fox", 50: "fox" if scenery == "night" else "cat", 90: "cat", None: "cat"}
            replies |= {(f"{scenery}/{index}.jpg", quality): label for quality, label in seen.items()}
    backend = recorded(tmp_path / "replies.jsonl", replies)
    trained = []

    def retrain(artefact, version, recent, old, how):
        trained.append((version, len(recent)))
        return Outcome(candidate[0], True, "the stub says so", len(recent), 0.1, 1.0, 0.3, 0.6)

    monkeypatch.setattr(replacing, "retrain", retrain)
    photos, out, root = tmp_path / "photos", tmp_path / "out", tmp_path / "policies"
    sent = collections.Counter()

    def send(scenery, count):
        for _ in range(count):
            path = photos / scenery / f"{sent[scenery]}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PHOTO)
            server.publish(str(path).encode())
            sent[scenery] += 1

    def estimates():
        return lines_of(out / "drift" / "estimates")

    def meanwhile():
        send("day", 12)
        until(lambda: any(each["state"] == INFERENCE and each["n"] for each in estimates()))

        def later():
            send("night", 4)
            time.sleep(0.1)
            return any(row.policy_version == candidate[1] for row in rows_of(out))

        until(later)
        send("night", 8)
        until(lambda: {row.key for row in rows_of(out)} == {f"{s}/{i}.jpg" for s in sent for i in range(sent[s])})
        until(lambda: any(each["policy_version"] == candidate[1] and each["n"] for each in estimates()))

    monkeypatch.setattr(serve.local, "run_to_end", Driving(meanwhile))
    arguments = ["--output", out, "--policy", incumbent, "--publish", root, "--root", photos, "--score-with", backend]
    arguments += ["--window", 1, "--refresh", 0.05, "--sample-rate", 1, "--false-alarms", 100, "--gather", 5]
    with subscribed() as server:
        assert cli.main(["serve", "--subscription", SUBSCRIPTION, *map(str, arguments)]) == 0
    old = artefact.load(incumbent)[1]
    rows = rows_of(out)
    expected = {f"{scenery}/{index}.jpg" for scenery in sent for index in range(sent[scenery])}
    assert collections.Counter(row.key for row in rows) == dict.fromkeys(expected, 1)
    assert set(files_of(out / "images")) == expected
    versions = [row.policy_version for row in rows]
    assert versions == sorted(versions, key=[old, candidate[1]].index)  # the order of the files is that of time
    assert {row.quality for row in rows if row.policy_version == candidate[1]} == {90}
    (retrained,) = {Retrained(**each) for each in lines_of(out / "drift" / "retrained")}
    assert (retrained.status, retrained.incumbent, retrained.candidate) == ("published", old, candidate[1])
    assert [(version, count >= 5) for version, count in trained] == [(old, True)]
    states = [(each["policy_version"], each["state"]) for each in estimates()]
    assert states[0] == (old, INFERENCE)
    assert (old, RETRAIN) in states
    assert states[-1] == (candidate[1], INFERENCE)
    assert publishing.latest(str(root)).version == candidate[1]
    assert publishing.latest(str(root)).previous == old
    assert control.read_control(str(root)).policy_version == candidate[1]
    scores = scores_of(out)
    assert {(row.key, row.choice.policy_version) for row in scores} <= {(row.key, row.policy_version) for row in rows}
    assert len(scores) > 20
    assert all(len(row.features) for row in scores)


def test_a_backlog_and_messages_of_every_kind(tmp_path, incumbent, monkeypatch):
    """Of an hour ago: windows of that time wait for nothing any more, where the watermark is the time of day."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    names = ["a.jpg", "b.jpg", "c.jpg"]
    for name in names:
        (photos / name).write_bytes(PHOTO)
    (photos / "torn.jpg").write_bytes(PHOTO[:900])
    backend = recorded(tmp_path / "replies.jsonl", {(name, q): "cat" for name in names[:2] for q in (None, 50)})
    expected = {
        **dict.fromkeys(names, ("compressed", None)),
        "torn.jpg": ("failed", "truncated"),
        "gone.jpg": ("failed", "unreadable"),
        "message 6": ("failed", "bad-message"),
    }

    def meanwhile():
        for name in (*names, "torn.jpg", "gone.jpg"):
            server.publish(f"{photos}/{name}".encode(), age=3600)
        server.publish(b"no path", age=3600)
        server.publish(f"{photos}/a.jpg".encode())  # once more
        server.publish(b"", eventType="OBJECT_DELETE", bucketId="b", objectId="a.jpg")
        until(lambda: not server.open and {row.key for row in rows_of(out)} == set(expected))
        until(lambda: (out / "scores").exists() and {row.key for row in scores_of(out)} == {"a.jpg", "b.jpg"})
        until(lambda: failures_of(out) and lines_of(out / "drift" / "estimates"))

    monkeypatch.setattr(serve.local, "run_to_end", Driving(meanwhile))
    arguments = ["--output", out, "--policy", incumbent, "--root", photos, "--score-with", backend, "--sample-rate", 1]
    with subscribed() as server:
        assert cli.main(["serve", "--subscription", SUBSCRIPTION, *map(str, arguments), "--window", "1"]) == 0
    assert {row.key: (row.status, row.reason) for row in rows_of(out)} == expected
    assert set(files_of(out / "images")) == set(names)
    assert failures_of(out) == [("c.jpg", "ScoreWithBackend", "not-recorded")]
    assert not (out / "drift" / "retrained").exists()
    assert {each["state"] for each in lines_of(out / "drift" / "estimates")} == {INFERENCE}


def failures_of(output: Path) -> list[tuple]:
    parts = sorted((output / "failures").rglob("*.parquet"))
    return [
        tuple(row.values())[:3] for part in parts for row in FAILURES.from_parquet(part.read_bytes(), "").to_pylist()
    ]


@pytest.fixture
def photos(tmp_path):
    """Six, in two folders."""
    for index in range(6):
        path = tmp_path / "in" / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTO)
    return tmp_path / "in"


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Runs `adacompress serve` over the folder `in` for a moment."""
    monkeypatch.setattr(arrivals, "SETTLE", 0.0)

    def run(*options):
        moment = ["--poll=0.1", "--stop-after=0.5"]
        places = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
        return cli.main(["serve", *places, *moment, *map(str, options)])

    return run


def test_a_watched_folder(photos, watch, tmp_path, incumbent, capsys):
    (photos / "plain.png").write_bytes(encoded(picture(), "PNG"))
    (photos / "notes.txt").write_bytes(b"no image")
    assert watch("--policy", incumbent, "--quality=50") == 2
    assert "unknown option --quality" in capsys.readouterr().err
    assert watch("--policy", incumbent) == 0
    out = tmp_path / "out"
    rows = {row.key: (row.status, row.reason, row.output) for row in rows_of(out)}
    names = [f"{'ab'[index % 2]}/{index}.jpg" for index in range(6)]
    assert rows == {
        **{name: ("compressed", None, name) for name in names},
        "plain.png": ("compressed", None, "plain.png.jpg"),
        "notes.txt": ("failed", "not-an-image", None),
    }
    assert set(files_of(out / "images")) == {*names, "plain.png.jpg"}
    assert sorted(path.name for path in out.iterdir()) == ["_adacompress", "images", "job.toml", "manifest"]
    said = capsys.readouterr()
    assert said.err == ""
    assert re.fullmatch(rf"7 images written, [\d.]+ kB: {out}/images, rows in {out}/manifest\n", said.out)


def test_the_next_job_does_what_is_new_and_what_failed(photos, watch, tmp_path, incumbent):
    (photos / "torn.jpg").write_bytes(PHOTO[:900])
    assert watch("--policy", incumbent) == 0
    before = len(rows_of(tmp_path / "out"))
    (photos / "a" / "6.jpg").write_bytes(PHOTO)
    (photos / "a" / "0.jpg").write_bytes(PHOTO)
    assert watch("--policy", incumbent) == 0
    assert sorted(row.key for row in rows_of(tmp_path / "out")[before:]) == ["a/0.jpg", "a/6.jpg", "torn.jpg"]
    assert watch("--policy", incumbent, "--only-new") == 0
    assert len(rows_of(tmp_path / "out")) == before + 3
    assert watch("--policy", incumbent, "--overwrite") == 0
    assert len(rows_of(tmp_path / "out")) == 8


def test_scores_of_a_watched_folder_can_be_learned_from(photos, watch, tmp_path, incumbent, capsys):
    replies = {(f"{index}.jpg", quality): "cat" for index in range(6) for quality in (None, 50)}
    backend = recorded(tmp_path / "replies.jsonl", replies)
    options = ["--policy", incumbent, "--score-with", backend, "--sample-rate", 1, "--window", 3600]
    assert watch(*options) == 0
    assert "the policy will not be trained again, since there is nowhere to publish it" in capsys.readouterr().err
    assert watch(*options, "--publish", tmp_path / "root") == 0  # for the next job: there is nothing to do in this one
    retrain = f"adacompress retrain --scores {tmp_path}/out --only-on-drift --publish {tmp_path}/root"
    assert f"while this job runs, since windows end with it on this runner; afterwards: {retrain}\n" in (
        capsys.readouterr().err
    )
    assert publishing.latest(f"{tmp_path}/root").version == artefact.load(incumbent)[1]
    assert cli.main([*retrain.split()[1:], *IN_PROCESS]) == 0
    assert "6 scores of" in capsys.readouterr().out
    scores = scores_of(tmp_path / "out")
    version = artefact.load(incumbent)[1]
    assert sorted(row.key for row in scores) == sorted(row.key for row in rows_of(tmp_path / "out"))
    assert {(row.agreement, row.choice.policy_version, row.sampling_probability) for row in scores} == {(1, version, 1)}
    (told,) = lines_of(tmp_path / "out" / "drift" / "estimates")
    assert (told["n"], told["policy_version"], told["end"] - told["start"]) == (6, version, 3600)


def test_outputs_of_others(photos, watch, compress, tmp_path, capsys):
    assert compress(photos) == 0
    assert watch() == 1
    assert "holds a run of another kind (adacompress.run): choose another --output" in capsys.readouterr().err


def test_a_policy_that_is_not_there(photos, watch, tmp_path, capsys):
    assert watch("--policy", tmp_path / "nowhere") == 1
    assert f"the policy's file {tmp_path}/nowhere/policy.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_client_of_pubsub(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.cloud.pubsub", None)
    assert cli.main(["serve", f"--subscription={SUBSCRIPTION}", f"--output={tmp_path}/out"]) == 1
    assert "Pub/Sub needs google-cloud-pubsub: pip install 'beam-adacompress[gcp]'" in capsys.readouterr().err


def test_what_cannot_be_promised_is_said_first(photos, watch, incumbent, capsys):
    assert watch("--policy", incumbent, "--agreement", 0.999) == 0
    assert "cannot promise an agreement of 0.999" in capsys.readouterr().err


def job(tmp_path, **options):
    return ServeJob(output=f"{tmp_path}/out", input=f"{tmp_path}/in", score_with="replay:/replies.jsonl", **options)


def test_where_nothing_is_published_the_policy_is_published_first(tmp_path, incumbent, candidate):
    version, root = artefact.load(incumbent)[1], f"{tmp_path}/root"
    settled = job(tmp_path, policy=incumbent, publish=root).settled()
    assert (settled.policy, settled.publish) == (root, root)
    assert publishing.latest(root).version == version
    publishing.publish(root, candidate[0], publishing.latest(root))
    again = job(tmp_path, policy=incumbent, publish=root).settled()  # the same command once more
    assert again == settled
    assert again.loaded().version == candidate[1]
    followed = job(tmp_path, policy=root).settled()
    assert (followed.policy, followed.publish) == (root, root)
    assert job(tmp_path, policy=incumbent).settled().publish is None
    without_scores = ServeJob(output="/out", input="/in", policy=root)
    assert without_scores.settled() == without_scores


def test_of_two_jobs_that_publish_first_one_does(tmp_path, incumbent, candidate, monkeypatch):
    root = f"{tmp_path}/root"
    publish_folder = publishing.publish_folder

    def late(*arguments):
        publishing.publish(root, candidate[0], None)
        return publish_folder(*arguments)

    monkeypatch.setattr(publishing, "publish_folder", late)
    assert job(tmp_path, policy=incumbent, publish=root).settled().loaded().version == candidate[1]


def test_options_reach_the_transforms(tmp_path, incumbent):
    scoring = Scoring(sample_rate=0.3, max_calls=7)
    made = job(tmp_path, policy=incumbent, publish="/p", refresh=5.0, explore=0.1, gather=50, scoring=scoring)
    assert (made.choose_quality().refresh, made.choose_quality().explore) == (5.0, 0.1)
    scored = made.score_with_backend()
    assert (scored.sample_rate, scored.max_calls, scored.policy, scored.refresh) == (0.3, 7, incumbent, 5.0)
    drift, agent = made.estimate_drift(), made.retrain_agent()
    assert (drift.sample_rate, drift.estimate_rate, drift.retrain_rate) == (0.3, 0.3, 1.0)
    assert (agent.sample_rate, agent.estimate_rate, agent.retrain_rate) == (0.3, 0.3, 1.0)
    assert (agent.gather, agent.usual_explore, agent.publish) == (50, 0.1, "/p")
    default = job(tmp_path)
    assert (default.choose_quality().refresh, default.estimate_drift().estimate_rate) == (None, 0.2)
