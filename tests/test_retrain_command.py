"""`adacompress retrain`: from scores on disk to a policy that takes the place of another."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import IN_PROCESS
from gcs import emulated
from test_drift import score
from test_retrain_agent import first as first  # fixtures
from test_retrain_agent import in_service, memory_of
from test_retrain_agent import policy as policy
from test_retrain_agent import root as root
from test_retrain_agent import trainer as trainer

from beam_adacompress.pipelines import cli
from beam_adacompress.policy.policies import Serving
from beam_adacompress.scores import FORMAT, to_parquet
from beam_adacompress.transforms import files, publishing


def score_run(folder, rows, part=0):
    """The output of `adacompress score`."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    (folder / "scores" / f"part-{part:05d}.parquet").write_bytes(to_parquet(rows))
    (folder / "failures").mkdir(exist_ok=True)
    (folder / "failures" / "part-00000.parquet").write_bytes(b"of another kind")
    return folder


def logged(version, agreements, start=0):
    return [score(f"image {at}", agreement, float(at), version) for at, agreement in enumerate(agreements, start)]


WELL, BADLY = [1] * 40, [1] * 10 + [0] * 30


def retrain(*arguments, runner=IN_PROCESS):
    return cli.main(["retrain", *map(str, arguments), *runner])


def test_a_policy_takes_the_place_of_another(tmp_path, trainer, policy, root, first, capsys):
    run = score_run(tmp_path / "score", logged(first, BADLY))
    options = ["--agreement=0.95", "--confidence=0.9", "--recent=25", "--seed=3"]
    assert retrain("--scores", run, "--publish", root, *options) == 0
    second = in_service(root)
    assert capsys.readouterr().out.splitlines() == [
        f"40 scores of {first}: agreement 0.250 (0.142 to 0.402), reward -0.150 (-0.286 to -0.014), and the level to "
        "keep is 0.95: retrain, the evidence against an agreement of 0.95 is 4.958e+04, and 10000 is enough",
        f"published: {second} takes the place of {first}: it is better",
    ]
    ((version, recent, old, how),) = trainer.given
    assert (version, len(recent), len(old)) == (first, 25, 15)
    assert (how.agreement, how.confidence, how.seed) == (0.95, 0.9, 3)
    assert cli.main(["policy", "list", root]) == 0
    listed = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0]: line.endswith("latest") for line in listed} == {first: False, second: True}
    assert not [path for path in (Path(root) / "_adacompress").rglob("*") if path.suffix == ".jsonl"]
    # The same command again: it is done already.
    assert retrain("--scores", run, "--publish", root, *options, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    (retrained,) = result["retrained"]
    assert (retrained["status"], retrained["candidate"]) == ("published", second)
    assert [(each["n"], each["agreement"], each["state"]) for each in result["estimates"]] == [(40, 0.25, "retrain")]
    assert result["text"][-1] == (
        f"published: {second} takes the place of {first}: it has learned from these scores already, and is in service"
    )
    assert len(trainer.given) == 1


def test_drift_is_shown_in_tensorboard(tmp_path, trainer, root, first, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    run, logs = score_run(tmp_path / "score", logged(first, BADLY)), tmp_path / "logs"
    assert retrain("--scores", run, "--publish", root, "--logs", logs) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"curves of drift: tensorboard --logdir {logs}"
    shown = accumulator(str(logs / "drift" / first)).Reload()
    found = {tag: [(each.step, each.value) for each in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}
    assert {tag: round(value, 3) for tag, ((_, value),) in found.items()} == {
        "agreement": 0.25,
        "agreement_low": 0.142,
        "agreement_high": 0.402,
        "reward": -0.15,
        "reward_low": -0.286,
        "reward_high": -0.014,
        "level": 0.97,
        "evidence": 1.0,
        "state": 2.0,
        "scores": 40.0,
        "sample_rate": 1.0,
    }
    assert {step for ((step, _),) in found.values()} == {39}, "the time of the last score"
    came = accumulator(str(logs / "retrained")).Reload()
    assert [each.value for each in came.Scalars("published")] == [1]


@pytest.mark.parametrize(
    ("agreements", "last"),
    [
        (WELL, "not trained again: no estimate asks for it"),
        (BADLY, "published: {new} takes the place of {first}: it is better"),
    ],
)
def test_only_where_there_is_drift(tmp_path, trainer, root, first, capsys, agreements, last):
    run = score_run(tmp_path / "score", logged(first, agreements))
    assert retrain("--scores", run, "--publish", root, "--only-on-drift") == 0
    assert capsys.readouterr().out.splitlines()[-1] == last.format(new=in_service(root), first=first)
    assert len(trainer.given) == (agreements is BADLY)


@pytest.mark.parametrize(
    ("options", "state"),
    [([], "estimate"), (["--false-alarms=100"], "retrain"), (["--detector=adacompress"], "inference")],
)
def test_how_drift_is_looked_for(tmp_path, trainer, root, first, capsys, options, state):
    run = score_run(tmp_path / "score", logged(first, [1] * 20 + [0] * 3))
    assert retrain("--scores", run, "--publish", root, "--only-on-drift", *options) == 0
    assert f", and the level to keep is 0.97: {state}, " in capsys.readouterr().out


def test_the_agreement_that_is_asked_for_is_the_level(tmp_path, trainer, root, first, capsys):
    run = score_run(tmp_path / "score", logged(first, [1, 1, 1, 0] * 10))
    assert retrain("--scores", run, "--publish", root, "--only-on-drift", "--agreement=0.7") == 0
    assert ", and the level to keep is 0.7: inference, " in capsys.readouterr().out
    assert retrain("--scores", run, "--publish", root, "--only-on-drift") == 0
    assert ", and the level to keep is 0.97: retrain, " in capsys.readouterr().out


def test_scores_of_several_runs_and_in_several_forms(tmp_path, trainer, root, first):
    rows = logged(first, WELL)
    one = score_run(tmp_path / "one", rows[:10])
    score_run(tmp_path / "one", rows[10:20], part=1)
    two = score_run(tmp_path / "two", rows[20:30])
    three = tmp_path / "three.parquet"
    three.write_bytes(to_parquet(rows[30:]))
    given = [one, tmp_path / "t*" / "scores" / "*.parquet", three, two, two / "scores" / "part-00000.parquet"]
    assert retrain(*(f"--scores={each}" for each in given), "--publish", root) == 0
    assert sorted(trainer.given[0][1]) == sorted(row.key for row in rows)
    assert len(memory_of(root, in_service(root))) == 40


def test_without_a_folder_to_publish_in_it_says_what_it_would_do(tmp_path, trainer, policy, root, first, capsys):
    run = score_run(tmp_path / "score", logged(first, WELL))
    for named in (policy, root):
        assert retrain("--scores", run, "--policy", named) == 0
        assert capsys.readouterr().out.splitlines()[-1] == (
            f"not published, {first} serves on: it is better; it is not published, since no folder for that is given"
        )
    assert in_service(root) == first


def test_the_policy_that_comes_with_the_package_is_where_it_begins(tmp_path, trainer, capsys):
    default = Serving().load().version
    run = score_run(tmp_path / "score", logged(default, WELL))
    root = str(tmp_path / "new")
    assert retrain("--scores", run, "--publish", root) == 0
    assert publishing.latest(root)[:2] == (in_service(root), default)
    later = score_run(tmp_path / "later", logged(in_service(root), WELL, 100))
    assert retrain("--scores", later, "--publish", root) == 0
    assert trainer.given[1][0] == publishing.latest(root).previous


def test_nothing_better(tmp_path, trainer, root, first, capsys):
    trainer.said = [False]
    run = score_run(tmp_path / "score", logged(first, WELL))
    assert retrain("--scores", run, "--publish", root) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"not published, {first} serves on: it is not better"
    assert in_service(root) == first


def test_a_training_that_fails(tmp_path, trainer, root, first, capsys):
    trainer.said = [ValueError("x < 0")]
    run = score_run(tmp_path / "score", logged(first, WELL))
    assert retrain("--scores", run, "--publish", root) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"not published, {first} serves on: training failed: ValueError: x < 0"
    assert said.err == "adacompress: the policy was not trained again: training failed: ValueError: x < 0\n"
    assert in_service(root) == first


def test_scores_of_a_fixed_quality(tmp_path, root, first, capsys):
    run = score_run(tmp_path / "score", logged("fixed-35", WELL))
    assert retrain("--scores", run, "--publish", root) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no score is of the policy, so nothing is known of drift",
        f"not published, {first} serves on: {first} is in service, and the scores are of fixed-35: score what {first} "
        "chose",
    ]


def test_scores_without_features(tmp_path, root, first, capsys):
    run = score_run(tmp_path / "score", logged(first, WELL))
    assert retrain("--scores", run, "--publish", root, runner=["--direct_num_workers=2"]) == 0  # in other processes
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"not published, {first} serves on: 0 of the 0 scores that can be used are of images that ")
    assert "40 have no features that this policy looks at" in last


def nothing(folder):
    folder.mkdir()
    return f"there are no scores in {folder}: give the output of adacompress score, or OUTPUT/score of a compress run"


def no_parquet(folder):
    score_run(folder, [])
    path = folder / "scores" / "part-00000.parquet"
    path.write_bytes(b"PAR1")
    return f"{path} is no readable Parquet file: "


def another_table(folder):
    score_run(folder, [])
    path = folder / "scores" / "part-00000.parquet"
    pq.write_table(pa.table({"key": ["a"]}), path)
    return f"{path} has scores version none, and this is adacompress for version 1: use the release that wrote it"


def a_later_release(folder):
    score_run(folder, [])
    path = folder / "scores" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({FORMAT.key: "9"}), path)
    return f"{path} has scores version 9, and this is adacompress for version 1: use the release that wrote it"


@pytest.mark.parametrize("made", [nothing, no_parquet, another_table, a_later_release])
def test_what_holds_no_scores(tmp_path, root, first, capsys, made):
    message = made(tmp_path / "score")
    assert retrain("--scores", tmp_path / "score", "--publish", root) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"adacompress: {message}")
    assert said.count("\n") == 1
    assert in_service(root) == first


def test_a_glob_that_matches_nothing(tmp_path, root, capsys):
    assert retrain(f"--scores={tmp_path}/*/scores/*.parquet", "--publish", root) == 1
    assert f"there are no scores in {tmp_path}/*/scores/*.parquet: give" in capsys.readouterr().err


def test_a_broken_latest(tmp_path, root, first, capsys):
    run = score_run(tmp_path / "score", logged(first, WELL))
    Path(root, "LATEST").write_text("{")
    assert retrain("--scores", run, "--publish", root) == 1
    assert f"adacompress: {root}/LATEST is damaged (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--scores is missing; see adacompress retrain --help"),
        (["--scores=a", "--recent=0"], "recent must be from 1 to most (20000), got 0"),
        (["--scores=a", "--agreement=2"], "agreement must be above 0 and below 1, got 2.0"),
        (["--scores=a", "--seed=-1"], "seed must be at least 0, got -1"),
        (["--scores=a", "--false-alarms=1"], "false_alarms must be at least 100 scores, got 1"),
        (["--scores=a", "--detector=x"], "argument --detector: invalid choice: 'x'"),
        (
            ["--scores=a", "--detector=adacompress", "--false-alarms=500"],
            "the detector adacompress has no option 'fals",
        ),
        (["--scores=a", "--policy=a", "--policy=b"], "one policy chooses, and 2 are given: a, b"),
        (["--scores=a", "--quality=35"], "unknown option --quality"),
        (["--scores=a", "--runner=DataflowRunner"], "Dataflow's workers do not reach /tmp/"),
        (["--scores=a", "--runner=DataflowRunner", "--publish=p"], "give --publish gs://..."),
        (["--scores=a", "--runner=DataflowRunner", "--publish=gs://b/p"], "give --scores gs://..."),
        (
            ["--scores=a", "--template_location=gs://b/t"],
            "retraining goes by what its jobs come to, so it cannot be a te",
        ),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, message, capsys):
    assert retrain(*arguments, runner=[]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_keras(tmp_path, root, first, monkeypatch, capsys):
    run = score_run(tmp_path / "score", logged(first, WELL))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "keras" else find_spec(name))
    assert retrain("--scores", run, "--publish", root) == 1
    assert capsys.readouterr().err == "adacompress: training needs keras: pip install 'beam-adacompress[train]'\n"


def test_in_a_bucket(tmp_path, trainer, policy, first, capsys):
    with emulated(tmp_path) as bucket:
        root = "gs://photos/policies"
        publishing.publish_folder(root, policy, None)
        data = to_parquet(logged(first, BADLY))
        files.write("gs://photos/run/score/scores/part-00000.parquet", data, "gs://photos/run/scratch")
        assert retrain("--scores=gs://photos/run/score/", f"--publish={root}/", "--only-on-drift") == 0
        second = in_service(root)
        assert f"published: {second} takes the place of {first}: " in capsys.readouterr().out
        assert sorted(blob.name.removeprefix("policies/") for blob in bucket.list_blobs(prefix="policies/")) == sorted(
            [
                "LATEST",
                f"versions/{second}/scores.parquet",
                *(f"versions/{each}/{name}" for each in (first, second) for name in ("policy.json", "weights.npz")),
            ]
        )


def test_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["retrain", "--help"])
    printed = capsys.readouterr().out
    for option in ("--scores", "--publish", "--only-on-drift", "--detector", "--false-alarms", "--recent", "--policy"):
        assert option in printed
