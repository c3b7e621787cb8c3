from __future__ import annotations

import json
import os

import numpy as np
import pytest

from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.train import said_of_promise
from beam_adacompress.policy import artefact, features, policies
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import Baseline, PolicyArtefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.dqn import NAMES, DQNAgent, of_arrays
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight

SPACE = action_space(["annexk", "deepn"], [10, 50, 90])
COUNT = len(features.NAMES)


def saved(folder, agent, space, sight, calibration, baseline):
    made = PolicyArtefact(
        space=space,
        agent=agent,
        sight=sight,
        settings=(0.0, 1e-5)[: len(calibration.disagreements)],
        calibration=calibration,
        promise=calibration.promise(0.97, 0.9),
        backends=(("litert:a.tflite", "abc"), ("baidu", "1")),
        encoder={"subsampling": "4:2:0", "optimize": True},
        top=5,
        baseline=baseline,
        data={"images": 1000, "sha256": "ff"},
        versions={"beam-adacompress": "0.1.0", "keras": "3"},
    )
    return artefact.save(made, lambda name, data: (folder / name).write_bytes(data) and None)


@pytest.fixture
def policy(tmp_path):
    """Version and folder of a default agent's policy that looks ahead."""
    candidates = (SPACE.quantisation(0), SPACE.quantisation(3))
    sight = Sight("litert:small.tflite", candidates, None, ("9",))
    count = COUNT + 4 + 4 * len(candidates)
    shapes = {"mean": (count,), "scale": (count,), "w1": (2, count, 5), "b1": (2, 5), "w_ease": (2, 5, 2)}
    shapes |= {"base": (2, 2), "steps": (2, 2, 3), "w_size": (count, 6), "b_size": (6,)}
    model = AgreementModel(**{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    agent = AgreementAgent(2, 3, model, 1e-5)
    return saved(tmp_path, agent, SPACE, sight, Calibration(400, (0, 6)), Baseline(300, 0.98, 0.2)), tmp_path


def show(path, *options):
    return cli.main(["policy", "show", str(path), *options])


def test_a_policy_in_words(policy, capsys):
    version, folder = policy
    assert show(folder) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"policy      {version}, an agent of the kind agreement",
        "backend     litert:a.tflite, version abc",
        "backend     baidu, version 1",
        "agreement   the original's label is among the best 5 of the result, for all backends",
        "actions     6: the tables annexk, deepn at the qualities 10, 50, 90",
        "encoder     subsampling 4:2:0, optimize True",
        f"looks at    {COUNT} features of the image, what litert:small.tflite says of it and of 2 encodings; "
        f"{COUNT + 12} numbers in all",
        "promise     an agreement of 0.97 with a confidence of 0.9; it is 0.985 on 400 calibration images",
        "0.9?        yes, with 0.985 on calibration images",
        "0.95?       yes, with 0.985 on calibration images",
        "0.97?       yes, with 0.985 on calibration images",
        "0.99?       yes, with 1.000 on calibration images",
        "on test     agreement 0.980, size ratio 0.200, reward 0.780 on 300 images",
        "trained on  1000 images, those to calibrate and to test with included",
        "made with   beam-adacompress 0.1.0, keras 3",
    ]


def test_a_policy_that_promises_nothing(tmp_path, capsys):
    shapes = {"mean": (COUNT,), "scale": (COUNT,), "w1": (COUNT, 3), "b1": (3,), "w2": (3, 2), "b2": (2,)}
    shapes |= {"w3": (2, 2), "b3": (2,), "w4": (2, 3), "b4": (3,)}
    network = of_arrays({name: np.ones(shapes[name], np.float32) for name in NAMES})
    space = action_space(["annexk"], [10, 50, 90])
    saved(tmp_path, DQNAgent(network, 3), space, Sight(), Calibration(100, (4,)), None)
    assert show(tmp_path) == 0
    said = capsys.readouterr().out
    assert "an agent of the kind dqn" in said
    assert "confidence of 0.9: 100 calibration images do not show it; so nothing is promised\n" in said
    assert "promise     it could promise 0.9: give --agreement 0.9\n" in said
    assert "0.9?        yes, with 0.960 on calibration images\n0.95?       no\n" in said
    assert "on test     no image was left to test it on" in said


def test_the_description(policy, capsys):
    version, folder = policy
    assert show(folder, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["format"], printed["format_version"]) == ("adacompress.result", 1)
    description = json.loads((folder / "policy.json").read_text())
    assert printed["policy"] == {"version": version, "folder": str(folder), **description}


def test_the_policy_that_comes_with_the_package(policy, monkeypatch, capsys):
    version, folder = policy
    (folder / "default").mkdir()
    for name in ("policy.json", "weights.npz"):
        (folder / name).rename(folder / "default" / name)
    monkeypatch.setattr(policies.resources, "files", lambda package: folder)
    assert show("default") == 0
    assert f"policy      {version}" in capsys.readouterr().out


def test_a_broken_policy_is_refused_in_one_sentence(policy, capsys):
    _, folder = policy
    (folder / "weights.npz").write_bytes(b"PK")
    for options in ([], ["--json"]):
        assert show(folder, *options) == 1
        assert "is damaged: the weights are not those that it names\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["show"], 2, "the following arguments are required: policy"),
        (["show", "/nowhere"], 1, "the policy's file /nowhere/policy.json cannot be read: No such file or directory"),
        (["show", "a", "b"], 2, "unexpected argument b: see adacompress policy show --help"),
        (["show", ""], 2, "policy is empty; see adacompress policy show --help"),
        (["shw"], 2, "unknown 'shw': did you mean show?; adacompress policy knows show, list, publish, rollback"),
        (["list"], 2, "the following arguments are required: root"),
        (["list", "/nowhere", "--jsn"], 2, "unknown option --jsn: did you mean --json?"),
        (["list", "nosuch://a"], 1, "nosuch://a/LATEST cannot be read: Unable to get filesystem from specified path"),
        (["publish", "default"], 2, "the following arguments are required: root"),
        (["publish", "/nowhere", "/there"], 1, "the policy's file /nowhere/policy.json cannot be read: No such file"),
        (["publish", "default", "/dev/null"], 1, "cannot be published to /dev/null: Not a directory"),
        (["rollback", "/nowhere"], 1, "nothing is published in /nowhere: there is nothing to go back to"),
        (["rollback", "/nowhere", "--to"], 2, "argument --to: expected one argument"),
        (["rollback", "/nowhere", "--to="], 2, "to is empty; see adacompress policy rollback --help"),
    ],
)
def test_wrong_usage(arguments, status, message, capsys):
    assert cli.main(["policy", *arguments]) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_usage(capsys):
    assert cli.main(["policy"]) == 0
    said = capsys.readouterr().out
    assert "usage: adacompress policy show POLICY\n" in said
    assert "adacompress policy rollback ROOT [--to VERSION]\n" in said


@pytest.fixture
def versions(policy, tmp_path):
    """Two versions, published to `root` by the command: the one of `policy`, then one that promises nothing."""
    first, folder = policy
    other = tmp_path / "other"
    other.mkdir()
    shapes = {"mean": (COUNT,), "scale": (COUNT,), "w1": (COUNT, 3), "b1": (3,), "w2": (3, 2), "b2": (2,)}
    shapes |= {"w3": (2, 2), "b3": (2,), "w4": (2, 6), "b4": (6,)}
    agent = DQNAgent(of_arrays({name: np.ones(shapes[name], np.float32) for name in NAMES}), 6)
    second = saved(other, agent, SPACE, Sight(), Calibration(100, (4,)), None)
    for index, (version, source) in enumerate([(first, folder), (second, other)]):
        assert cli.main(["policy", "publish", str(source), str(tmp_path / "root")]) == 0
        time = 1_700_000_000 + index
        os.utime(tmp_path / "root" / "versions" / version / "policy.json", (time, time))
    return first, second


def test_publishing_says_what_is_in_use(versions, tmp_path, capsys):
    first, second = versions
    root = tmp_path / "new"
    for policy in (tmp_path, tmp_path / "other", tmp_path / "root"):  # the last one has published the other
        assert cli.main(["policy", "publish", str(policy), str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{first} is the latest of {root} now",
        f"{second} is the latest of {root} now",
        f"back to {first}: adacompress policy rollback {root}",
        f"{second} is the latest of {root} already",
    ]


def test_the_published_versions_in_a_table(versions, tmp_path, monkeypatch, capsys):
    first, second = versions
    monkeypatch.chdir(tmp_path)
    assert cli.main(["policy", "list", "root"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "version               published (UTC)      promise  agreement  size ratio",
        f"{second}        2023-11-14 22:13:21  none     -          -           latest",
        f"{first}  2023-11-14 22:13:20  0.97     0.980      0.200",
    ]
    (tmp_path / "root" / "versions" / first / "policy.json").write_text("{")
    assert cli.main(["policy", "list", "root"]) == 0
    assert f"{first}  20" in (line := capsys.readouterr().out.splitlines()[1])
    assert line.endswith("  damaged  -          -")


def test_the_published_versions_for_programs(versions, tmp_path, capsys):
    first, second = versions
    assert cli.main(["policy", "list", str(tmp_path / "root"), "--json"]) == 0
    promise = {"target": 0.97, "confidence": 0.9}
    assert json.loads(capsys.readouterr().out)["versions"] == [
        {
            "version": second,
            "published": 1_700_000_001,
            "latest": True,
            "promise": {**promise, "images": 100, "agreement": None, "setting": None},
            "baseline": None,
        },
        {
            "version": first,
            "published": 1_700_000_000,
            "latest": False,
            "promise": {**promise, "images": 400, "agreement": 0.985, "setting": 1},
            "baseline": {"images": 300, "agreement": 0.98, "size_ratio": 0.2},
        },
    ]
    assert cli.main(["policy", "list", str(tmp_path / "empty"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["command"], printed["exit_status"], printed["versions"]) == ("policy list", 0, [])


def test_nothing_to_list(tmp_path, capsys):
    assert cli.main(["policy", "list", str(tmp_path)]) == 0
    assert (
        capsys.readouterr().out == f"nothing is published in {tmp_path}: adacompress policy publish POLICY {tmp_path}\n"
    )


def test_going_back_is_shown(versions, tmp_path, capsys):
    first, second = versions
    root = tmp_path / "root"
    assert show(root) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"published   the latest of {root}",
        f"policy      {second}, an agent of the kind dqn",
    ]
    assert cli.main(["policy", "rollback", str(root)]) == 0
    assert cli.main(["policy", "rollback", str(root), "--to", first]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{first} is the latest of {root} now",
        f"back to {second}: adacompress policy rollback {root}",
        f"{first} is the latest of {root} already",
    ]
    assert show(root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["policy"]["version"] == first
    assert cli.main(["policy", "rollback", str(root), "--to", f"{second}x"]) == 1
    assert capsys.readouterr().err == f"adacompress: {root} has no version {second}x: it has {second}\n"


@pytest.mark.parametrize(
    ("disagreements", "images", "kind", "said"),
    [
        ((0,), 100, "agreement", ["promised: an agreement of 0.97 with a confidence of 0.9; it is 1.000 on 100 cal"]),
        (
            (4, 5),
            100,
            "agreement",
            [
                "not promised: an agreement of 0.97 with a confidence of 0.9: 100 calibration images do not show it; "
                "so every image is left as it is",
                "it could promise 0.9: give --agreement 0.9",
            ],
        ),
        ((0,), 5, "dqn", ["not promised: an agreement of 0.97 with a confidence of 0.9: 5 calibration images cannot"]),
    ],
)
def test_promises_in_words(disagreements, images, kind, said):
    calibration = Calibration(images, disagreements)
    found = list(said_of_promise(calibration.promise(0.97, 0.9), calibration, kind))
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))
