"""What scores hold for a policy to learn from: features, and the drift stage's word on how many there are."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from backends import CAT, Sizes, unavailable
from conftest import encoded, picture, watch_decoding
from scoring import scored, summary_of
from test_choose_policy import LEFT_PIPELINE, PHOTOS, POLICY, leave, photos
from test_policies import saved
from test_score import Shot

from beam_adacompress import ChooseQuality, CompressedImage, CompressJPEG, EncodedImage, ScoreWithBackend, jpeg, scores
from beam_adacompress.backends import Answer, Backend, Query, Terms, registry
from beam_adacompress.drift.loop import Advice
from beam_adacompress.policy.features import NAMES, features
from beam_adacompress.policy.policies import Serving
from beam_adacompress.records import Choice
from beam_adacompress.transforms import control, publishing

PHOTO = PHOTOS["photo"]
TAKEN = Choice("annexk", 35, POLICY.version, 0.5, 0.9)
ALWAYS = 1e-6  # seconds between looks


def features_of(data):
    opened = jpeg.open_image(data)
    return [float(number) for number in features(opened, jpeg.open_picture(opened))]


def row(key, data=PHOTO, choice=TAKEN):
    return CompressedImage(key, data, choice, data, "kept", None, "image/jpeg", False, 10, 20, None, 0.1)


def rows_of(*rows, policy="default", kind=CompressedImage, before=lambda row: row, **options):
    """The scores of rows, by key, and the counters."""
    LEFT_PIPELINE.clear()
    p = TestPipeline(runner="FnApiRunner")
    given = p | beam.Create(list(rows)) | beam.Map(before).with_output_types(kind)
    found = given | ScoreWithBackend(**{"backend": Sizes(), "sample_rate": 1.0, "policy": policy, **options})
    _ = found.scores | beam.Map(leave)
    counters = p.run().metrics().query(MetricsFilter().with_namespace("adacompress.ScoreWithBackend"))["counters"]
    return {score.key: score for score in LEFT_PIPELINE}, {one.key.metric.name: one.committed for one in counters}


def test_a_policy_can_decide_again_by_what_scores_hold():
    LEFT_PIPELINE.clear()
    images = [EncodedImage(f"{index} {each.key}", each.data) for index in range(6) for each in photos()]
    with TestPipeline(runner="FnApiRunner") as p:
        chosen, _ = p | beam.Create(images) | ChooseQuality(explore=0.5)
        compressed, _ = chosen | CompressJPEG()
        _ = (compressed | ScoreWithBackend(Sizes(), 1.0, policy="default")).scores | beam.Map(leave)
    assert len(LEFT_PIPELINE) == len(images)
    serving = Serving(explore=0.5).load()
    for score in LEFT_PIPELINE:
        assert serving.choose(np.array(score.features, np.float32), score.key) == score.choice
    assert len({score.choice[:2] for score in LEFT_PIPELINE}) > 4


def test_features_are_those_of_the_reference():
    found, _ = rows_of(row("a"), row("b", PHOTOS["gray"])._replace(compressed=PHOTO))
    assert {key: list(score.features) for key, score in found.items()} == {
        "a": features_of(PHOTO),
        "b": features_of(PHOTOS["gray"]),
    }
    assert len(found["a"].features) == len(NAMES)


def test_without_a_policy_there_are_none():
    found, counted = rows_of(row("a"), policy=None)
    assert list(found["a"].features) == []
    assert "policies_loaded" not in counted


def test_what_cannot_be_decoded_has_none():
    found, _ = rows_of(row("text", b"hello"), row("torn", PHOTO[:900]), row("whole"))
    assert {key: len(score.features) for key, score in found.items()} == {"text": 0, "torn": 0, "whole": len(NAMES)}
    assert {score.status for score in found.values()} == {"scored"}


def test_what_was_left_alone_without_a_look_has_none():
    alpha = encoded(picture(160, 120, "RGBA"), "PNG")
    alone = POLICY.left_alone()
    found, _ = rows_of(
        row("alpha", alpha, alone),
        row("flattened", alpha),  # by an encoder that does so
        row("alpha, flattened elsewhere", alpha, alone._replace(propensity=0.9)),
        row("seen", PHOTO, alone),
    )
    assert {key for key, score in found.items() if not score.features} == {"alpha"}


def test_features_that_a_row_has_are_kept():
    shots = [Shot(1, "a", PHOTO, TAKEN, PHOTO, [0.5, 2.0], 0.25), Shot(2, "b", PHOTO, TAKEN, PHOTO, [], 0.25)]
    found, _ = rows_of(*shots, kind=Shot)
    assert {key: list(score.features) for key, score in found.items()} == {"a": [0.5, 2.0], "b": features_of(PHOTO)}


def test_only_sampled_images_are_looked_at(monkeypatch):
    decoded = []
    watch_decoding(monkeypatch, decoded.append)
    keys = [f"{index}.jpg" for index in range(60)]
    found, _ = rows_of(*map(row, keys), sample_rate=0.3)
    assert 5 < len(found) < 35
    assert len(decoded) == len(found)


LOOKED = threading.Event()  # at an image


@dataclasses.dataclass
class Patient(Backend):
    """Answers when somebody has looked at the image."""

    @property
    def terms(self) -> Terms:
        return Terms("patient", "1", price=0.0)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        return [CAT if LOOKED.wait(5) else unavailable() for _ in images]


def test_images_are_looked_at_while_the_calls_wait(monkeypatch):
    watch_decoding(monkeypatch, lambda data: LOOKED.set())
    LOOKED.clear()
    found, _ = rows_of(row("a"), backend=Patient(), retries=0)
    assert list(found["a"].features) == features_of(PHOTO)


@pytest.fixture
def root(tmp_path):
    """A folder of published policies, with one."""
    folder = saved(tmp_path / "policy")
    publishing.publish_folder(str(tmp_path / "policies"), folder, None)
    return str(tmp_path / "policies")


def in_service(root):
    return publishing.latest(root).version


def publish_another(root, folder):
    publishing.publish_folder(root, saved(folder, promise=0.8), publishing.latest(root))


def test_of_published_policies_the_latest_one_looks(root):
    found, counted = rows_of(row("a"), policy=root)
    assert list(found["a"].features) == features_of(PHOTO)
    assert counted["policies_loaded"] == 1


@pytest.mark.parametrize(("refresh", "loaded"), [(None, 1), (ALWAYS, 2)])
def test_newer_ones_look_where_the_job_follows_them(root, tmp_path, refresh, loaded):
    def publish(row):
        if row.key == "now":
            publish_another(root, tmp_path / "another")
        return row

    found, counted = rows_of(row("a"), row("now"), before=publish, policy=root, refresh=refresh)
    assert {key: list(score.features) for key, score in found.items()} == dict.fromkeys(
        ["a", "now"], features_of(PHOTO)
    )
    assert counted["policies_loaded"] == loaded


def advised(root, policy_version, refresh):
    """Sampling probabilities of those of 40 rows that are scored; before the last 20, the drift stage asks for all."""
    choice = TAKEN._replace(policy_version=in_service(root))
    rows = [row(f"{index}", choice=choice) for index in range(20)]
    rows += [row(f"now {index}", choice=choice) for index in range(20)]

    def advise(row):
        if row.key.startswith("now"):
            control.write_control(root, Advice("retrain", 1.0, 0.0, policy_version))
        return row

    options = {"sample_rate": 0.1, "min_action_share": 0.0, "refresh": refresh}
    found, _ = rows_of(*rows, before=advise, policy=root, **options)
    return {key: score.sampling_probability for key, score in found.items()}


def test_the_drift_stage_says_how_much_is_scored(root):
    before, after = {}, {}
    for key, probability in advised(root, in_service(root), ALWAYS).items():
        (after if key.startswith("now") else before)[key] = probability
    assert set(before.values()) == {0.1}
    assert len(before) < 8
    assert after == {f"now {index}": 1.0 for index in range(20)}


@pytest.mark.parametrize(("about", "refresh"), [("another", ALWAYS), (None, None)])
def test_it_says_so_about_a_version_and_to_those_who_follow(root, about, refresh):
    found = advised(root, about or in_service(root), refresh)
    assert len(found) < 14
    assert set(found.values()) == {0.1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ""}, "^policy must be a folder, or default, and is empty$"),
        ({"refresh": 60.0}, "^refresh is about policies that are published: give policy=FOLDER, where they are, too$"),
        ({"policy": "p", "refresh": -1.0}, r"^refresh must be a number of seconds above 0, got -1\.0$"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScoreWithBackend(Sizes(), **arguments)


# In the commands.


@pytest.fixture
def named(monkeypatch):
    """`sizes` as a backend's name."""
    monkeypatch.setitem(registry.BACKENDS, "sizes", f"{Sizes.__module__}:Sizes")
    return "sizes"


def written(output):
    """The features by key."""
    path = output / "scores" / "part-00000.parquet"
    return {score.key: list(score.features) for score in scores.from_parquet(path.read_bytes(), str(path))}


def seen_in(folder: Path):
    return {str(path.relative_to(folder)): features_of(path.read_bytes()) for path in folder.rglob("*.jpg")}


def test_compressing_by_a_policy_scores_with_features(corpus, compress, tmp_path, named):
    options = ["--policy=default", f"--score-with={named}", "--sample-rate=1"]
    assert compress(corpus, tmp_path / "out", *options) == 0
    assert written(tmp_path / "out" / "score") == seen_in(corpus)
    assert summary_of(tmp_path / "out" / "score")["options"]["policy"] == "default"


def test_a_finished_run_is_scored_with_features_of_its_policy(corpus, compress, tmp_path, named, capsys):
    assert compress(corpus, tmp_path / "out", "--policy=default") == 0
    assert scored(tmp_path / "out", tmp_path / "score", named) == 0
    assert written(tmp_path / "score") == seen_in(corpus)
    assert "features" not in capsys.readouterr().err


def test_a_run_at_a_fixed_quality_is_scored_without_features(run, tmp_path, named, capsys):
    assert scored(run, tmp_path / "score", named) == 0
    assert set(map(len, written(tmp_path / "score").values())) == {0}
    assert "features" not in capsys.readouterr().err
    assert summary_of(tmp_path / "score")["options"]["policy"] is None


def test_a_run_whose_policy_is_gone(corpus, compress, tmp_path, named, capsys):
    policy = saved(tmp_path / "policy", promise=0.8)
    version = Serving(policy).load().version
    assert compress(corpus, tmp_path / "out", f"--policy={policy}") == 0
    shutil.move(policy, tmp_path / "moved")
    assert scored(tmp_path / "out", tmp_path / "score", named) == 0
    assert capsys.readouterr().err.splitlines()[0] == (
        f"the scores will hold no features, since the run's policy {version} cannot be used any more (the policy's "
        f"file {policy}/policy.json cannot be read: No such file or directory): give the folder where it is as --policy"
    )
    assert set(map(len, written(tmp_path / "score").values())) == {0}
    saved(tmp_path / "policy", promise=0.95)
    other = Serving(policy).load().version
    assert scored(tmp_path / "out", tmp_path / "other", named) == 0
    assert f"{version} cannot be used any more ({policy} is {other} now): give" in capsys.readouterr().err
    assert scored(tmp_path / "out", tmp_path / "again", named, f"--policy={tmp_path / 'moved'}") == 0
    assert written(tmp_path / "again") == seen_in(corpus)
    assert scored(tmp_path / "out", tmp_path / "broken", named, f"--policy={tmp_path / 'nowhere'}") == 1
    assert f"adacompress: the policy's file {tmp_path}/nowhere/policy.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "broken" / "scores").exists()


def test_one_policy_chooses(run, tmp_path, named, capsys):
    assert scored(run, tmp_path / "score", named, "--policy=a", "--policy=b") == 2
    assert "one policy chooses, and 2 are given: a, b" in capsys.readouterr().err


def test_a_run_goes_by_one_of_the_published_policies(corpus, compress, tmp_path, root, named, capsys):
    first = in_service(root)
    assert compress(corpus, tmp_path / "out", f"--policy={root}") == 0
    publish_another(root, tmp_path / "another")
    assert scored(tmp_path / "out", tmp_path / "score", named) == 0
    assert written(tmp_path / "score") == seen_in(corpus)
    assert summary_of(tmp_path / "score")["options"]["policy"] == publishing.folder_of(root, first)
    capsys.readouterr()
    assert compress(corpus, tmp_path / "out", f"--policy={root}") == 1
    assert f"policy_version was '{first}', now '{in_service(root)}')" in capsys.readouterr().err
