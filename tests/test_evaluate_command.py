"""`adacompress evaluate`: which images it asks about, what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from evaluating import COUNT, IMAGES, ONE, SEED, TRIED, TWO, asked, calls_for, command, published, read, saved, split_of
from evaluating import backends as backends  # fixtures
from evaluating import mine as mine
from evaluating import photographs as photographs
from evaluating import policies as policies

from beam_adacompress import jpeg
from beam_adacompress.pipelines import evaluate_job
from beam_adacompress.pipelines.evaluate_job import EvaluateJob, grid, names_of, numbered
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.verify import LADDER


def test_what_is_known_is_not_asked_again(photographs, mine, tmp_path, capsys):
    backend = f"texture?path={tmp_path / 'asked'}"
    out = tmp_path / "out"
    assert command(photographs, out, [mine], [backend]) == 0
    said = capsys.readouterr().out
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    images, calls = len(files), calls_for(files)
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
    found = grid([TWO, ONE], jpeg.Settings())
    assert len(found.configurations) == TRIED + len(LADDER)
    assert [found.configurations[column] for column in found.bare] == [
        found.configurations[column]._replace(align=False) for column in found.ladder
    ]
    assert [found.configurations[column].quality for column in found.ladder] == list(LADDER)
    assert [[found.configurations[column].quality for column in space] for space in found.spaces] == [
        [10, 45, None, None],
        [10, 45],
    ]
    assert found.configurations[found.jitter][1:] == (95, False)
    assert found.jitter not in found.actions
    assert found.actions == sorted(found.actions)
    assert len(found.actions) == TRIED - 1
    assert grid([TWO, ONE], jpeg.Settings(subsampling="4:4:4")).bare == []


def test_names():
    assert numbered(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]
    uris = ["litert:/m/small v1.0.tflite?labels=x/y.txt", "google-vision", "keras:MobileNet", "baidu?price=1", "baidu"]
    assert names_of(uris) == ["small_v1.0", "google-vision", "MobileNet", "baidu", "baidu-2"]


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
