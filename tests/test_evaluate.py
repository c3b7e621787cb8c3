from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import sys
from typing import ClassVar

import numpy as np
import pytest
from backends import Texture
from conftest import IN_PROCESS, encoded, picture
from PIL import Image

from beam_adacompress import evaluation, jpeg
from beam_adacompress.artefacts import read_local
from beam_adacompress.backends import Query, Terms, registry
from beam_adacompress.backends.network import Network
from beam_adacompress.pipelines import cli, evaluate_job
from beam_adacompress.pipelines.evaluate_job import EvaluateJob, grid, names_of, numbered
from beam_adacompress.policy import artefact
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.dqn import DQNAgent, QNetwork
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import part_of
from beam_adacompress.policy.search import Recollection
from beam_adacompress.policy.verify import LADDER

COUNT = len(NAMES)
IMAGES = 60
SEED = 3
TWO = action_space(["annexk", "deepn"], [10, 45])  # 45 is in LADDER
ONE = action_space(["annexk"], [10, 45])
TRIED = len(LADDER) + 3 + 1  # of the standard tables also quality 10, DeepN's two, and quality 95
CALIBRATION = Calibration(400, (4,))  # shows 0.97, not 0.99


@dataclasses.dataclass
class Downwards(Texture):
    """Sees how rough the four quarters are from top to bottom."""

    @property
    def terms(self):
        return dataclasses.replace(super().terms, name="downwards")

    def _label(self, data):
        return super()._label(turned(data))


def turned(data):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass
class Blind(Texture):
    """Sees nothing in anything."""

    @property
    def terms(self):
        return dataclasses.replace(super().terms, name="blind")

    def label(self, images, timeout):
        return [() for _ in images]


@dataclasses.dataclass
class Wide(Network):
    """A network whose one output is 1 for wide images and 0 for others."""

    name: ClassVar[str] = "wide"
    max_batch: ClassVar[int] = 1

    def open(self, read=read_local):
        self._names, self._logits = ["wide"], False
        self._terms = Terms("wide", "7", is_local=True)

    def look(self, data):
        return jpeg.open_image(data).width

    def scores(self, seen):
        return np.array([[float(width > 90)] for width in seen], np.float32)


@pytest.fixture(scope="module", autouse=True)
def backends():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKENDS, "texture", f"{Texture.__module__}:Texture")
        for kind in (Downwards, Blind, Wide):
            patch.setitem(registry.BACKENDS, kind.__name__.lower(), f"{__name__}:{kind.__name__}")
        yield


def photograph(width, seed):
    """A picture whose quarters differ in how rough they are."""
    random = np.random.default_rng(seed)
    rough = np.kron(random.uniform(2, 16, (2, 2)), np.ones((32, width // 2)))
    noise = rough[..., None] * random.normal(0, 1, (64, width, 3))
    return Image.fromarray(np.clip(np.asarray(picture(width, 64, seed=seed)) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(IMAGES):
        how = {"quality": 95} if seed % 4 else {"quality": 30, "optimize": True, "progressive": True}
        (folder / f"{seed:02d}.jpg").write_bytes(encoded(photograph(80 + 8 * (seed % 3), seed), **how))
    return folder


def remembering(families=2):
    """Takes the last quality of the first family: chances of 0.6 and 0.99, and 256 and 512 bytes, for every image."""
    base, step = np.log(0.6 / 0.4), np.log(99) - np.log(0.6 / 0.4)
    arrays = {"mean": np.zeros(COUNT), "scale": np.ones(COUNT), "w1": np.zeros((1, COUNT, 1)), "b1": np.zeros((1, 1))}
    arrays |= {"w_ease": np.zeros((1, 1, families)), "base": np.full((1, families), base - 1)}
    arrays |= {"steps": np.tile(np.log(np.expm1([1.0, step])), (1, families, 1))}
    arrays |= {"w_size": np.zeros((COUNT, 2 * families)), "b_size": np.tile([8.0, 9.0], families)}
    model = AgreementModel(**{name: array.astype(np.float32) for name, array in arrays.items()})
    answers = np.tile(np.array([[0, 1], [1, 1], [0, 0]]) > 0, families)
    return AgreementAgent(families, 2, model, None, Recollection(answers))


def published(numbers=COUNT, of_last=0.0):
    """Prefers the second of two actions, unless `of_last` times the last number is above 1: then the first."""
    w1 = np.zeros((numbers, 1), np.float32)
    w1[-1] = of_last
    ones = {name: np.ones((1, 1), np.float32) for name in ("w2", "w3")}
    biases = {name: np.zeros(1, np.float32) for name in ("b1", "b2", "b3")}
    scaling = {"mean": np.zeros(numbers, np.float32), "scale": np.ones(numbers, np.float32)}
    w4, b4 = np.array([[1, 0]], np.float32), np.array([0, 1], np.float32)
    return DQNAgent(QNetwork(w1=w1, **ones, **biases, **scaling, w4=w4, b4=b4), 2, how=DQN(hidden=(1, 1, 1)))


def saved(folder, agent, space, **changes):
    defaults = {
        "space": space,
        "agent": agent,
        "sight": Sight(),
        "settings": (1e-4,),
        "calibration": CALIBRATION,
        "promise": CALIBRATION.promise(0.97),
        "backends": (("texture?path=elsewhere", "1"),),
        "encoder": {"subsampling": "4:2:0", "optimize": True, "progressive": True},
        "top": 1,
        "baseline": None,
        "data": {"images": 100, "sha256": "ff", "seed": SEED},
        "versions": {},
    }
    folder.mkdir(parents=True)
    made = PolicyArtefact(**{**defaults, **changes})
    artefact.save(made, lambda name, data: (folder / name).write_bytes(data) and None)
    return str(folder)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    return [saved(folder / "mine", remembering(), TWO), saved(folder / "theirs", published(), ONE)]


@pytest.fixture
def mine(policies):
    return policies[0]


def command(photographs, output, policies, backends, *options):
    arguments = ["--input", str(photographs), "--output", str(output), "--samples=100", "--top=1", *IN_PROCESS]
    chosen = [f"--policy={policy}" for policy in policies]
    return cli.main(["evaluate", *arguments, *chosen, *(f"--backend={each}" for each in backends), *options])


def split_of(photographs, *seeds):
    """The files that trainings with these seeds kept for testing, by the bytes in them."""
    return [
        path
        for path in sorted(photographs.iterdir())
        if {part_of(hashlib.sha256(path.read_bytes()).hexdigest(), str(seed)) for seed in seeds} == {"test"}
    ]


def read(output):
    return evaluation.from_json((output / "evaluation.json").read_bytes(), "evaluation.json")


def asked(path):
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def evaluated(photographs, policies, tmp_path_factory):
    """The folder of an evaluation by two backends, `out`, and of all that it was made with; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated")
    backends = [f"texture?path={folder / 'asked'}", f"downwards?path={folder / 'asked-too'}"]
    assert command(photographs, folder / "out", policies, backends, f"--cache={folder / 'cache'}") == 0
    return folder


@pytest.fixture(scope="module")
def found(evaluated):
    return read(evaluated / "out")[0]


def rows_of(evaluation):
    return {row.name: row for row in evaluation.strategies}


def test_only_test_images_are_asked_about_and_each_once(photographs, evaluated, found):
    wanted = [path.name for path in split_of(photographs, SEED)]
    assert 5 < len(wanted) < IMAGES / 2
    for name in ("asked", "asked-too"):
        assert sorted(asked(evaluated / name)) == sorted(wanted * (1 + TRIED))
    assert {each.images for each in found.values()} == {len(wanted)}


@pytest.mark.parametrize(("name", "backend"), [("texture", Texture()), ("downwards", Downwards())])
def test_fixed_qualities_are_counted_by_hand(photographs, found, name, backend):
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    wanted = [backend.label([Query(data)], 1.0)[0][0] for data in files]
    plain, written = found[name].curves
    assert plain.name == "fixed quality, Pillow's defaults"
    assert written.name == "fixed quality, optimised progressive"
    assert [row.name for row in plain.points] == [str(quality) for quality in LADDER]
    disagreements = left_alone = 0
    for quality, bare, encoder in zip(LADDER, plain.points, written.points, strict=True):
        saved = [encoded(Image.open(io.BytesIO(data)), quality=quality) for data in files]
        got = [backend.label([Query(optimised(data, quality))], 1.0)[0][0] for data in files]
        agrees = [one.name == other.name for one, other in zip(wanted, got, strict=True)]
        assert bare.disagreements == agrees.count(False)
        assert bare.total_ratio.mean == pytest.approx(sum(map(len, saved)) / sum(map(len, files)))
        disagreements += bare.disagreements

        sizes = [written_size(data, quality) for data in files]
        kept = [size == len(data) for size, data in zip(sizes, files, strict=True)]
        assert encoder.total_ratio.mean == pytest.approx(sum(sizes) / sum(map(len, files)))
        assert encoder.disagreements == [a or k for a, k in zip(agrees, kept, strict=True)].count(False)
        left_alone += sum(kept)
    assert disagreements > 0
    assert left_alone > 0
    assert rows_at(plain)["75"].total_ratio_75.mean == rows_at(plain)["75"].mean_ratio_75.mean == 1


def rows_at(curve):
    return {row.name: row for row in curve.points}


def optimised(data, quality):
    opened = jpeg.open_image(data)
    return jpeg.open_picture(opened).encode(jpeg.quantisation("annexk", quality), jpeg.Settings())


def written_size(data, quality):
    """Bytes of what is written: the original where the result does not save 5 % of them."""
    size = len(optimised(data, quality))
    return len(data) if size > 0.95 * len(data) else size


@pytest.mark.parametrize("name", ["texture", "downwards"])
def test_nothing_that_always_agrees_is_below_the_oracle(found, name):
    rows = rows_of(found[name])
    every, standard = rows["oracle, all actions"], rows["oracle, standard tables"]
    assert every.disagreements == standard.disagreements == 0
    assert every.total_ratio.mean <= standard.total_ratio.mean
    agreeing = [row for row in rows.values() if not row.disagreements]
    assert len(agreeing) >= 4
    assert min(row.total_ratio.mean for row in agreeing) == every.total_ratio.mean


def test_policies_are_judged_by_what_they_choose(photographs, found):
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    for name in ("texture", "downwards"):
        rows = rows_of(found[name])
        # Both take quality 45 of the standard tables for every image.
        (fixed,) = [row for row in found[name].curves[1].points if row.name == "45"]
        for policy in ("mine", "theirs"):
            assert rows[policy].kind == "policy"
            assert rows[policy].total_ratio == fixed.total_ratio
            assert rows[policy].agreement == fixed.agreement
        assert fixed.total_ratio.mean == pytest.approx(
            sum(written_size(data, 45) for data in files) / sum(map(len, files))
        )


def test_promises_count_for_the_backends_that_they_are_of(found):
    texture, downwards = (rows_of(found[name]) for name in ("texture", "downwards"))
    assert texture["mine"].promised == texture["theirs"].promised == 0.97
    assert downwards["mine"].promised is downwards["theirs"].promised is None
    assert texture["oracle, all actions"].promised is None


def test_verified_choice_and_outsiders(found):
    for name, other in (("texture", "downwards"), ("downwards", "texture")):
        rows = rows_of(found[name])
        assert {row for row in rows if row.startswith("verified")} == {
            "verified",
            f"verified by {other}",
            "verified by all",
        }
        here, there, everywhere = rows["verified"], rows[f"verified by {other}"], rows["verified by all"]
        assert {row.kind for row in (here, there, everywhere)} == {"verified"}
        assert here.agreement.mean == everywhere.agreement.mean == 1
        assert here.calls.mean > 1
        assert everywhere.calls == rows_of(found[other])["verified by all"].calls
        assert there.calls is None
        assert there.total_ratio == rows_of(found[other])["verified"].total_ratio
        assert here.total_ratio.mean <= everywhere.total_ratio.mean
    assert any(
        rows_of(each)[name].disagreements
        for each, name in ((found["texture"], "verified by downwards"), (found["downwards"], "verified by texture"))
    )


def test_the_ceiling_is_measured_at_quality_95(photographs, found):
    backend = Texture()
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    wanted, got = (
        [backend.label([Query(data)], 1.0)[0][0].name for data in several]
        for several in (files, [optimised(data, 95) for data in files])
    )
    jitter = found["texture"].jitter
    assert jitter.disagreements == sum(one != other for one, other in zip(wanted, got, strict=True))
    assert jitter.total_ratio.mean == pytest.approx(
        sum(len(optimised(data, 95)) for data in files) / sum(map(len, files))
    )


def test_the_files(evaluated, policies, photographs):
    out = evaluated / "out"
    names = ["evaluation.json", "job.toml", "rate_agreement-downwards.png", "rate_agreement-texture.png", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names[2:4]:
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n")
    page = (out / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert f"policy mine</td><td>folder {policies[0]}, version agreement-" in page
    about = read(out)[1]
    assert about["input"] == str(photographs)
    assert about["backends"]["texture"] == {"uri": f"texture?path={evaluated / 'asked'}", "version": "1"}
    assert about["policies"]["theirs"]["seed"] == SEED
    assert about["policies"]["theirs"]["version"] == artefact.load(policies[1])[1]
    assert (about["split"], about["seed"]) == ("test", None)
    assert about["images"] == len(split_of(photographs, SEED))
    assert about["encoder"] == {"subsampling": "4:2:0", "optimize": True, "progressive": True}
    assert "pillow" in about["versions"]


def test_what_is_known_is_not_asked_again(photographs, mine, tmp_path, capsys):
    backend = f"texture?path={tmp_path / 'asked'}"
    out = tmp_path / "out"
    assert command(photographs, out, [mine], [backend]) == 0
    said = capsys.readouterr().out
    images = len(split_of(photographs, SEED))
    calls = images * (1 + TRIED)
    assert len(asked(tmp_path / "asked")) == calls
    assert f"texture: {backend}\n" in said
    assert f"All numbers are on {images} test images that no policy saw" in said
    assert f"{images} of {images} images evaluated, {calls} calls, {calls / 1000:.4f} USD" in said
    for name in ("evaluation.json", "report.html", "rate_agreement.png"):
        assert f"{out / name}\n" in said
        assert (out / name).exists()
    assert [row.name for row in read(out)[0]["texture"].strategies] == [
        "oracle, standard tables",
        "oracle, all actions",
        "mine",
        "verified",
    ]

    before = read(out)[0]
    assert command(photographs, out, [mine], [backend]) == 1
    assert "holds an evaluation already: choose another --output, or --overwrite it" in capsys.readouterr().err
    (out / "rate_agreement-earlier.png").touch()
    (out / "notes.png").touch()
    assert command(photographs, out, [mine], [backend], "--overwrite", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["calls"], result["failures"]) == (0, [])
    assert result["evaluation"] == json.loads((out / "evaluation.json").read_text())
    assert len(asked(tmp_path / "asked")) == calls
    assert read(out)[0] == before
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.json",
        "job.toml",
        "notes.png",
        "rate_agreement.png",
        "report.html",
    ]


def test_a_policy_that_cannot_promise_leaves_everything(photographs, policies, tmp_path, capsys):
    assert command(photographs, tmp_path / "out", policies, ["texture"], "--agreement=0.99") == 0
    rows = rows_of(read(tmp_path / "out")[0]["texture"])
    for name in ("mine", "theirs"):
        assert rows[name].total_ratio.mean == rows[name].agreement.mean == 1
        assert rows[name].promised is None
    assert rows["verified"].total_ratio.mean < 1
    assert capsys.readouterr().err.count("cannot promise an agreement of 0.99") == 2


def test_policies_with_different_sights_are_asked_about_once(photographs, mine, tmp_path):
    seeing = saved(
        tmp_path / "seeing", published(COUNT + 1, of_last=5.0), ONE, sight=Sight(embedding="wide:x", versions=("7",))
    )
    backend = f"texture?path={tmp_path / 'asked'}"
    assert command(photographs, tmp_path / "out", [mine, seeing], [backend]) == 0
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    assert len(asked(tmp_path / "asked")) == len(files) * (1 + TRIED)
    sizes = [written_size(data, 10 if jpeg.open_image(data).width > 90 else 45) for data in files]
    rows = rows_of(read(tmp_path / "out")[0]["texture"])
    assert rows["seeing"].total_ratio.mean == pytest.approx(sum(sizes) / sum(map(len, files)))
    assert rows["seeing"].total_ratio.mean < rows["mine"].total_ratio.mean


def test_another_network_than_it_was_trained_with_is_refused(photographs, tmp_path, capsys):
    other = saved(tmp_path / "p", published(COUNT + 1), ONE, sight=Sight(embedding="wide:x", versions=("6",)))
    assert command(photographs, tmp_path / "out", [other], [f"texture?path={tmp_path / 'asked'}"]) == 1
    assert "the policy was trained with another network than wide:x" in capsys.readouterr().err
    assert not (tmp_path / "asked").exists()


def test_all_images_where_no_training_saw_them(photographs, mine, tmp_path, capsys):
    some = tmp_path / "some"
    some.mkdir()
    for index in range(6):
        shutil.copy(photographs / f"{index:02d}.jpg", some)
    shutil.copy(photographs / "00.jpg", some / "again.jpg")
    (some / "broken.jpg").write_bytes(b"not an image")
    assert command(some, tmp_path / "out", [mine], ["texture"], "--split=all", "--max-failures=0.1") == 3
    said = capsys.readouterr()
    assert read(tmp_path / "out")[0]["texture"].images == 6
    assert "6 of 8 images evaluated" in said.out
    assert "failed: 1 images (" in said.out
    assert "e.g. broken.jpg: " in said.out
    assert "12.50% of the images failed" in said.err


def job(photographs, policies, **options):
    return EvaluateJob(str(photographs), "/nowhere", ["texture"], policies, **options)


def chosen(asked_for):
    return [image.key for image in evaluate_job.test_images(asked_for, asked_for.contenders())]


def test_an_image_tests_only_if_no_policy_was_trained_on_it(photographs, mine, tmp_path):
    other = saved(tmp_path / "other", published(), ONE, data={"seed": 4})
    both = [path.name for path in split_of(photographs, SEED, 4)]
    assert chosen(job(photographs, [mine, other])) == both
    assert 0 < len(both) < len(split_of(photographs, SEED))
    assert len(chosen(job(photographs, [mine, other], split="all"))) == IMAGES


def test_the_seed_is_for_policies_that_do_not_say_theirs(photographs, mine, tmp_path, capsys):
    old = saved(tmp_path / "old", published(), ONE, data={})
    assert chosen(job(photographs, [old])) == [path.name for path in split_of(photographs, 0)]
    assert chosen(job(photographs, [old], seed=5)) == [path.name for path in split_of(photographs, 5)]
    assert chosen(job(photographs, [old, mine], seed=SEED)) == [path.name for path in split_of(photographs, SEED)]
    assert command(photographs, tmp_path / "out", [mine], ["texture"], "--seed=5") == 1
    assert "were dealt out with seed 3, so with seed 5 it would be tested on" in capsys.readouterr().err


def test_copies_of_an_image_are_one(photographs, mine, tmp_path):
    some = tmp_path / "some"
    some.mkdir()
    for path in split_of(photographs, SEED)[:2]:
        shutil.copy(path, some)
        shutil.copy(path, some / f"z-{path.name}")
    (some / "gone.jpg").symlink_to(tmp_path / "nothing")
    wanted = [path.name for path in split_of(photographs, SEED)[:2]]
    assert sorted(chosen(job(some, [mine]))) == [*wanted, "gone.jpg"]


def test_the_grid_has_everything_once():
    found = grid([TWO, ONE])
    assert len(found.configurations) == TRIED
    assert [found.configurations[column].quality for column in found.ladder] == list(LADDER)
    assert [[found.configurations[column].quality for column in space] for space in found.spaces] == [
        [10, 45, None, None],
        [10, 45],
    ]
    assert found.configurations[found.jitter].quality == 95
    assert found.jitter not in found.actions
    assert found.actions == sorted(found.actions)
    assert len(found.actions) == TRIED - 1


def test_names():
    assert numbered(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]
    uris = ["litert:/m/small v1.0.tflite?labels=x/y.txt", "google-vision", "keras:MobileNet", "baidu?price=1", "baidu"]
    assert names_of(uris) == ["small_v1.0", "google-vision", "MobileNet", "baidu", "baidu-2"]


def test_the_plain_curve_is_left_out_where_nobody_saw_its_pixels(photographs, tmp_path):
    other = saved(tmp_path / "p", published(), ONE, encoder={"subsampling": "4:4:4", "optimize": False})
    assert command(photographs, tmp_path / "out", [other], ["texture"]) == 0
    assert [curve.name for curve in read(tmp_path / "out")[0]["texture"].curves] == ["fixed quality, progressive"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples=0"], "samples must be at least 1, got 0"),
        (["--top=0"], "top must be at least 1, got 0"),
        (["--agreement=1"], "agreement must be above 0 and below 1, got 1.0"),
        (["--max-failures=2"], "max_failures must be a share from 0 to 1"),
        (["--seed=-1"], "seed must be from 0"),
        (["--split=train"], "invalid choice: 'train'"),
        (["--backend=texture"], "the backend texture is given twice"),
        (["--backend=nothing"], "nothing"),
        (["--runner=DataflowRunner"], "Dataflow's workers do not reach"),
        (["--template_location=gs://b/t"], "so it cannot be a template"),
        (["--sampels=3"], "unknown option --sampels: did you mean --samples?"),
    ],
)
def test_wrong_usage(photographs, mine, tmp_path, options, message, capsys):
    assert command(photographs, tmp_path / "out", [mine], ["texture"], *options) == 2
    assert message in capsys.readouterr().err


def refused(capsys, *arguments):
    assert command(*arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("adacompress: ")
    assert said.count("\n") == 1
    return said


def test_no_images(mine, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert "no images found in" in refused(capsys, tmp_path / "in", tmp_path / "out", [mine], ["texture"])


def test_no_test_images(photographs, mine, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    trained = sorted(set(photographs.iterdir()) - set(split_of(photographs, SEED)))
    for path in trained[:3]:
        shutil.copy(path, tmp_path / "in")
    said = refused(capsys, tmp_path / "in", tmp_path / "out", [mine], [f"texture?path={tmp_path / 'asked'}"])
    assert "none of the 3 images in" in said
    assert "or --split all if no policy was trained on any of them" in said
    assert not (tmp_path / "asked").exists()


def test_a_backend_that_sees_nothing(photographs, mine, tmp_path, capsys):
    assert command(photographs, tmp_path / "out", [mine], ["texture", "blind"]) == 1
    assert "blind has no answer for any test image in" in capsys.readouterr().err
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_budget_that_is_spent(photographs, mine, tmp_path, capsys):
    arguments = [photographs, tmp_path / "out", [mine], ["texture"], f"--cache={tmp_path / 'cache'}"]
    assert command(*arguments, "--max-calls=20") == 1
    said = capsys.readouterr().err
    assert "nothing was evaluated: " in said
    assert f"the answers so far are in {tmp_path / 'cache'}, and the same command with higher limits goes on" in said
    assert command(*arguments, "--max-calls=10000") == 0


def test_without_matplotlib_nothing_is_asked(photographs, mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refused(capsys, photographs, tmp_path / "out", [mine], [f"texture?path={tmp_path / 'asked'}"])
    assert "plots need matplotlib: pip install 'beam-adacompress[report]'" in said
    assert not (tmp_path / "asked").exists()


def test_policies_that_cannot_be_evaluated(photographs, mine, tmp_path, capsys):
    def said(*policies, backend="texture"):
        return refused(capsys, photographs, tmp_path / "out", policies, [backend])

    assert "policy.json cannot be read: No such file or directory" in said(tmp_path / "nowhere")
    other = saved(tmp_path / "other", published(), ONE, encoder={"subsampling": "4:4:4"})
    assert f"the policies {mine} and {other} are for different encoders (subsampling 4:2:0, " in said(mine, other)
    odd = saved(tmp_path / "odd", published(), ONE, encoder={"wavelet": 1})
    assert f"the policy {odd} is for an unknown encoder: " in said(odd)
    answers = tmp_path / "x.jsonl"
    answers.touch()
    assert f"and the policy {mine} has other tables" in said(mine, backend=f"replay:{answers}")


def test_a_full_disk(photographs, mine, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("beam_adacompress.plots.rate_agreement", full)
    assert command(photographs, tmp_path / "out", [mine], ["texture"]) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
