"""A policy in use: verified by backends, and in the command, from disks and buckets."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import test_buckets
from backends import CAT, DOG, Scripted, Sizes
from conftest import IN_PROCESS, encoded, manifest_rows, picture
from test_choose_policy import LEFT, PHOTO, PHOTOS, POLICY, by_hand, photos, run
from test_policies import RAMP, default_agent, saved

from beam_adacompress import AdaCompressError, ChooseQuality, CompressJPEG, EncodedImage, jpeg
from beam_adacompress.backends import Answer, Backend, Query, Terms, registry
from beam_adacompress.jpeg.tables import Family, family
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.compress_job import CompressJob
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms.sources import MAX_BYTES

bucket = test_buckets.bucket  # a fixture

VERIFIED = f"{POLICY.version}-verified"


def bundled(folder: Path) -> Path:
    """A copy of the policy that comes with the package."""
    return Path(shutil.copytree(Serving().path, folder))


def changed(folder: Path) -> Path:
    """Another policy: the same weights, in other words."""
    description = folder / "policy.json"
    description.write_text(json.dumps(json.loads(description.read_text())))
    return folder


def no_json(folder: Path) -> str:
    (folder / "policy.json").write_text("{")
    return f"{folder} holds no policy: policy.json is damaged (Expecting property name"


def other_weights(folder: Path) -> str:
    (folder / "weights.npz").write_bytes(b"PK" + bytes(100))
    return f"the policy {folder} is damaged: the weights are not those that it names"


def no_weights(folder: Path) -> str:
    (folder / "weights.npz").unlink()
    return f"the policy's file {folder}/weights.npz cannot be read: No such file or directory"


def nothing(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"the policy's file {folder}/policy.json cannot be read: No such file or directory"


def newer(folder: Path) -> str:
    content = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(content | {"format_version": 99}))
    return f"the policy {folder} has version 99, and this is adacompress for version 1: use the release that wrote it"


@pytest.mark.parametrize("damage", [no_json, other_weights, no_weights, nothing, newer])
def test_a_policy_that_cannot_be_loaded_is_one_sentence(tmp_path, damage, compress, corpus, capsys):
    folder = bundled(tmp_path / "policy")
    message = damage(folder)
    with pytest.raises(AdaCompressError) as raised:
        run(photos(["photo"]), ChooseQuality(policy=str(folder)))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert compress(corpus, tmp_path / "out", f"--policy={folder}") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"adacompress: {message}")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def written(output):
    return {
        key: (row.status, row.tables, row.quality, row.policy_version) for key, row in manifest_rows(output).items()
    }


@pytest.fixture
def folder(tmp_path):
    """Photographs that the policy compresses, and one that it leaves alone."""
    (tmp_path / "photos").mkdir()
    for name, data in PHOTOS.items():
        (tmp_path / "photos" / name).write_bytes(data)
    return tmp_path / "photos"


def test_the_command_chooses_by_the_policy(folder, tmp_path, capsys):
    arguments = [f"--input={folder}", f"--output={tmp_path / 'out'}", *IN_PROCESS]
    assert cli.main(["compress", *arguments]) == 0
    said = capsys.readouterr()
    assert said.err.count("cannot promise") == 0
    assert f"chosen by the policy {POLICY.version}, which promises an agreement of 0.97 with all of" in said.out
    rows = manifest_rows(tmp_path / "out")
    for key, data in PHOTOS.items():
        choice = by_hand(key, data)
        found = rows[key].tables, rows[key].policy_version, rows[key].propensity, rows[key].expected_agreement
        assert found == (choice.tables, POLICY.version, 1.0, pytest.approx(choice.expected_agreement))
    assert rows["photo"].quality == by_hand("photo", PHOTO).quality
    assert (rows["small"].status, rows["small"].reason) == ("kept", "chosen")


def test_the_command_says_what_cannot_be_promised(folder, tmp_path, compress, capsys):
    assert compress(folder, tmp_path / "out", "--policy=default", "--agreement=0.9999") == 0
    said = capsys.readouterr()
    assert Serving(agreement=0.9999).load().warning() in said.err.splitlines()
    assert f"chosen by the policy {POLICY.version}, which promises nothing here" in said.out
    assert {row.reason for row in manifest_rows(tmp_path / "out").values()} == {"chosen"}


def test_a_run_with_another_policy_is_refused_until_overwrite(folder, tmp_path, compress, capsys):
    other = bundled(tmp_path / "policy")
    assert compress(folder, tmp_path / "out", f"--policy={other}") == 0
    before = written(tmp_path / "out")
    version = Serving(str(changed(other))).load().version
    assert version != POLICY.version
    assert compress(folder, tmp_path / "out", f"--policy={other}") == 1
    assert (
        f"holds a run with other options (policy_version was '{POLICY.version}', now '{version}'): choose another "
        "--output, or discard that run with --overwrite\n"
    ) in capsys.readouterr().err
    assert written(tmp_path / "out") == before
    assert compress(folder, tmp_path / "out", "--quality=35") == 1
    assert "holds a run with other options (" in capsys.readouterr().err
    assert compress(folder, tmp_path / "out", f"--policy={other}", "--overwrite") == 0
    assert {row.policy_version for row in manifest_rows(tmp_path / "out").values()} == {version}


def test_what_the_results_depend_on():
    fixed = {
        "engine": "auto",
        "flatten": False,
        "input": "/in",
        "keep_metadata": "icc",
        "max_bytes": MAX_BYTES,
        "max_pixels": 100_000_000,
        "min_saving": 0.05,
        "optimize": True,
        "progressive": True,
        "align": True,
        "quality": 40,
        "seed": 0,
        "subsampling": "4:2:0",
        "tables": "annexk",
    }
    assert CompressJob("/in", "/out", quality=40).options() == fixed
    by_policy = {
        "policy": "default",
        "policy_version": POLICY.version,
        "agreement": 0.9,
        "confidence": None,
        "explore": 0.1,
        "quality": None,
        "tables": None,
    }
    assert CompressJob("/in", "/out", agreement=0.9, explore=0.1).options() == fixed | by_policy


def test_a_policy_in_a_bucket(bucket, folder, tmp_path, compress, capsys):
    for path in bundled(tmp_path / "policy").iterdir():
        bucket.blob(f"policies/mine/{path.name}").upload_from_string(path.read_bytes())
    assert compress(folder, tmp_path / "out", "--policy=gs://photos/policies/mine") == 0
    assert compress(folder, tmp_path / "local", "--policy=default") == 0
    assert written(tmp_path / "out") == written(tmp_path / "local")
    assert written(tmp_path / "out")["photo"] == ("compressed", *by_hand("photo", PHOTO)[:3])
    capsys.readouterr()
    assert compress(folder, tmp_path / "out2", "--policy=gs://photos/policies/none") == 1
    assert "adacompress: the policy's file gs://photos/policies/none/policy.json cannot be read: " in (
        capsys.readouterr().err
    )


def test_a_policy_in_a_bucket_with_tables_of_its_own(bucket, folder, tmp_path, compress):
    mine = Family("mine", RAMP, RAMP)
    space = ActionSpace((mine, family("robidoux")), (10, 50, 90))
    policy = Path(saved(tmp_path / "policy", default_agent(2), space, promise=0.8))
    for path in (path for path in policy.rglob("*") if path.is_file()):
        bucket.blob(f"policies/own/{path.relative_to(policy)}").upload_from_string(path.read_bytes())
    assert compress(folder, tmp_path / "out", "--policy=gs://photos/policies/own", "--no-align") == 0
    row = manifest_rows(tmp_path / "out")["photo"]
    assert row.status == "compressed"
    assert row.tables.startswith("gs://photos/policies/own/tables/mine-")
    made = jpeg.open_image((tmp_path / "out" / "images" / row.output).read_bytes())
    assert made.luma_steps() == mine.at(row.quality).luma


@dataclasses.dataclass
class Noting(Sizes):
    """Writes down what it is asked."""

    path: str = ""

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        note(self.path, images)
        return super().label(images, timeout)


@dataclasses.dataclass
class Remembered(Backend):
    """Agrees with an image named by a number as it agreed with that one of those that the policy remembers."""

    path: str = ""

    @property
    def terms(self) -> Terms:
        return Terms("remembered", "1", price=0.0)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        note(self.path, images)
        return [CAT if image.quality is None or agreed(image.key, action_of(image.data)) else DOG for image in images]


def note(path, images):
    with open(path, "a") as file:
        file.writelines(f"{image.key} {image.quality} {len(image.data)}\n" for image in images)


def noted(path):
    """Key, quality and bytes of each call."""
    return [tuple(line.split()) for line in path.read_text().splitlines()]


def agreed(key, action):
    return bool(POLICY.recollection.answers[int(key), action])


@functools.cache
def actions_by_steps():
    return {jpeg.quantisation(*action).luma: index for index, action in enumerate(POLICY.actions)}


def action_of(data):
    return actions_by_steps()[jpeg.open_image(data).luma_steps()]


@functools.cache
def made(data=PHOTO):
    """Bytes that each action makes of an image, of those that make it smaller, by the action's index."""
    results = [jpeg.compress(data, *action, VERIFIED, jpeg.Settings()) for action in POLICY.actions]
    return {index: len(result.data) for index, result in enumerate(results) if result.status == "compressed"}


def size_of(choice, data=PHOTO):
    return made(data)[POLICY.actions.index(choice[:2])]


@pytest.mark.parametrize("at", [0, 2])
def test_verified_over_all_families(tmp_path, at):
    limit = sorted(made().values())[at]
    backend = Noting(limit, path=str(tmp_path / "calls"))  # sees `large` in the original
    rows, failed = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backend), CompressJPEG())
    assert failed == []
    row = rows["a"]
    assert row.choice[2:] == (VERIFIED, 1.0, 1.0, f"sizes limit={limit}")
    assert limit <= len(row.compressed) == size_of(row.choice)
    assert size_of(row.choice) <= 1.1 * limit  # which is the cheapest that agrees
    calls = noted(tmp_path / "calls")
    assert len(calls) == len(set(calls)) <= 9
    assert calls[0] == ("a", "None", str(len(PHOTO)))


def test_verified_for_a_backend_like_those_that_the_policy_knows(tmp_path):
    images = {str(index): encoded(picture(160, 120, seed=index)) for index in range(16)}
    backend = Remembered(str(tmp_path / "calls"))
    rows, failed = run([EncodedImage(*each) for each in images.items()], ChooseQuality(verify=backend))
    assert failed == []
    ratios = []
    for key, data in images.items():
        cheapest = min(size for index, size in made(data).items() if agreed(key, index))
        choice = rows[key].choice
        assert agreed(key, POLICY.actions.index(choice[:2]))
        assert choice.verified_by == "remembered 1"
        ratios.append(size_of(choice, data) / cheapest)
    assert min(ratios) >= 1
    assert sum(ratios) / len(ratios) <= 1.1
    calls = noted(tmp_path / "calls")
    assert 2 * len(images) < len(calls) <= 9 * len(images)


def test_verified_where_only_the_finest_agrees():
    limit = max(made().values())
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=Sizes(limit)))
    assert size_of(rows["a"].choice) == limit


def test_verified_where_nothing_agrees():
    backend = Scripted(lambda images, number: [CAT if image.quality is None else DOG for image in images])
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backend), CompressJPEG())
    assert rows["a"].choice == ("original", 100, VERIFIED, 1.0, 1.0, "scripted 1")
    assert (rows["a"].status, rows["a"].reason, rows["a"].compressed) == ("kept", "chosen", PHOTO)


def test_what_is_kept_is_not_verified():
    backend = Scripted(lambda images, number: pytest.fail("was asked"))
    rows, failed = run(LEFT, ChooseQuality(verify=backend))
    assert failed == []
    assert {row.choice for row in rows.values()} == {POLICY.left_alone()}


def test_what_cannot_be_promised_can_be_verified():
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=Sizes(limit=1), agreement=0.9999))
    assert rows["a"].choice.verified_by == "sizes limit=1"
    assert size_of(rows["a"].choice) <= 1.1 * min(made().values())


def test_all_backends_have_to_agree():
    limits = [sorted(made().values())[at] for at in (30, 1, 10)]
    backends = [Sizes(limit) for limit in limits]
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backends))
    assert size_of(rows["a"].choice) >= max(limits)
    assert rows["a"].choice.verified_by == ", ".join(f"sizes limit={limit}" for limit in limits)
    alone, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backends[1:]))
    assert max(limits[1:]) <= size_of(alone["a"].choice) < max(limits)


def comes_and_goes(images, number):
    """At quality 20, and at 45 and above."""
    return [CAT if each.quality is None or each.quality == 20 or each.quality >= 45 else DOG for each in images]


def test_a_margin_asks_finer_ones_too(tmp_path):
    images = [EncodedImage("a", PHOTO)]
    rows, _ = run(images, ChooseQuality(verify=Scripted(comes_and_goes)))
    assert rows["a"].choice.quality == 20
    rows, _ = run(images, ChooseQuality(verify=Scripted(comes_and_goes), verify_margin=1))
    assert rows["a"].choice.quality >= 45
    asked = {}
    for margin in (0, 1):
        backend = Noting(limit=1, path=str(tmp_path / str(margin)))  # agrees with everything
        rows, _ = run(images, ChooseQuality(verify=backend, verify_margin=margin))
        asked[margin] = noted(tmp_path / str(margin))
        found = POLICY.actions.index(rows["a"].choice[:2])
    assert len(asked[0]) < len(asked[1])
    assert ("a", str(POLICY.actions[found + 1][1]), str(made()[found + 1])) in asked[1]


def test_the_command_verifies_over_all_families(folder, tmp_path, compress, monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "sizes", f"{Sizes.__module__}:Sizes")
    options = ["--policy=default", "--verify=sizes?limit=1", "--verify=sizes?limit=2"]
    assert compress(folder, tmp_path / "out", *options) == 0
    rows = manifest_rows(tmp_path / "out")
    assert {row.verified_by for row in rows.values()} == {"sizes limit=1, sizes limit=2"}
    assert {(row.policy_version, row.propensity, row.expected_agreement) for row in rows.values()} == {
        (VERIFIED, 1.0, 1.0)
    }
    assert rows["photo"].bytes_out <= 1.1 * min(made().values())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["options"]["policy_version"] == POLICY.version
