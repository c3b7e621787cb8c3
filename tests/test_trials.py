from __future__ import annotations

import dataclasses
import json

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from backends import CAT, DOG, Scripted, Texture
from conftest import encoded, picture

from beam_adacompress import EncodedImage, jpeg
from beam_adacompress.artefacts import read_local
from beam_adacompress.backends import BackendError, Query, Terms, backend
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.contract import BUDGET, CREDENTIALS, REFUSED
from beam_adacompress.backends.manners import Manners
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy.features import features
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.records import Label
from beam_adacompress.reward import fidelity
from beam_adacompress.transforms.trials import KeepRows, TryConfigurations, kept_rows, read_trials
from beam_adacompress.trials import FORMAT, NO_ANSWER, Configuration, Trial, rank, try_configurations

ACTIONS = [Configuration(jpeg.quantisation("annexk", quality), quality) for quality in (10, 50)]
IMAGE = encoded(picture())


def test_rank():
    assert rank(CAT, (Label("pet", 0.9), Label("cat", 0.1))) == 2
    assert rank(CAT, DOG) == 0
    assert rank(CAT, ()) == 0


@pytest.mark.parametrize(
    ("reference", "compressed", "expected"),
    [
        (CAT, CAT, 1.0),
        (CAT, DOG, 0.0),
        (CAT, (), 0.0),
        ((Label("a", 0.0),), (Label("a", 0.0),), 0.0),
        ((Label("a", 0.8), Label("b", 0.2)), (Label("a", 0.2), Label("c", 0.8)), 0.4),
        ((Label("a", 0.4),), (Label("a", 0.1),), 1.0),  # scaled alike
        ((Label("a", 0.4), Label("a", 0.2)), (Label("a", 0.4), Label("a", 0.2)), 1.0),  # two classes of one name
    ],
)
def test_fidelity(reference, compressed, expected):
    assert fidelity(reference, compressed) == pytest.approx(expected)


def picture_again(data):
    return jpeg.open_image(data).pixels()


def tried(backend, configurations=ACTIONS):
    client = Client(backend, Manners(retries=0))
    shown = jpeg.open_picture(jpeg.open_image(IMAGE))
    return try_configurations(Query(IMAGE, "a"), shown, {"x": configurations}, {"x": client}, jpeg.Settings())["x"]


def by_quality(answers):
    return Scripted(lambda images, number: [answers[image.quality] for image in images])


def test_an_image_under_several_configurations():
    backend = by_quality({None: CAT, 10: DOG, 50: CAT})
    found = tried(backend)
    assert [outcome.rank for outcome in found.outcomes.values()] == [0, 1]
    assert [outcome.fidelity for outcome in found.outcomes.values()] == [0.0, pytest.approx(1)]
    assert found.calls == 3
    shown = jpeg.open_picture(jpeg.open_image(IMAGE))
    sizes = [len(shown.encode(each.tables, jpeg.Settings())) for each in ACTIONS]
    assert [outcome.size for outcome in found.outcomes.values()] == sizes
    asked = [(image.key, image.quality) for batch in backend.asked for image in batch]
    assert asked[0] == ("a", None), "nothing is asked before it is known that there is something to agree with"
    assert sorted(asked[1:]) == [("a", 10), ("a", 50)]


def test_a_failure_of_one_configuration_leaves_the_others():
    found = tried(by_quality({None: CAT, 10: BackendError(REFUSED, "no"), 50: CAT}))
    assert [outcome.rank for outcome in found.outcomes.values()] == [NO_ANSWER, 1]


@pytest.mark.parametrize("reason", [BUDGET, CREDENTIALS])
def test_what_concerns_every_call_is_said(reason):
    found = tried(by_quality({None: CAT, 10: BackendError(reason, "no more"), 50: CAT}))
    assert (found.reason, found.message) == (reason, "no more")


def test_nothing_is_asked_where_there_is_nothing_to_agree_with():
    backend = by_quality({None: ()})
    found = tried(backend)
    assert (found.reason, len(backend.asked)) == ("no-reference", 1)
    assert "x sees nothing in the original" in found.message
    assert tried(by_quality({None: BackendError(REFUSED, "not this one")})).message == "not this one"


def run(transform, images, kept):
    with TestPipeline() as pipeline:
        outputs = pipeline | beam.Create(images) | transform
        _ = outputs.trials | KeepRows(str(kept / "trials"))
        _ = outputs.failures | "KeepFailures" >> KeepRows(str(kept / "failures"))
    return read_trials(str(kept / "trials")), sorted(kept_rows(str(kept / "failures")))


def calls(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_trials_of_images(tmp_path):
    images = [
        EncodedImage("a", IMAGE),
        EncodedImage("b", encoded(picture(40, 30, seed=1))),
        EncodedImage("c", IMAGE[:400]),
    ]
    trials, failures = run(TryConfigurations([Texture()], ACTIONS), images, tmp_path)
    assert [(trial.key, trial.width, trial.height) for trial in trials] == [("a", 96, 64), ("b", 40, 30)]
    assert trials[0].bytes_in == len(IMAGE)
    assert trials[0].bytes_75 == len(encoded(picture_again(IMAGE), quality=75))
    assert len(trials[0].sizes) == len(trials[0].ranks) == len(trials[0].fidelity) == 2
    assert trials[0].plain == []
    assert trials[0].sizes[0] < trials[0].sizes[1]
    assert all(1 <= each <= 4 for each in trials[0].ranks)
    assert all(0.99 < each <= 1 for each in trials[0].fidelity)
    assert [failure[:3] for failure in failures] == [["c", "TryConfigurations", "truncated"]]


def test_the_bytes_of_standard_tables_in_one_plain_scan(tmp_path):
    transform = TryConfigurations([Texture()], ACTIONS, plain=(75, 20))
    (trial,), _ = run(transform, [EncodedImage("a", IMAGE)], tmp_path)
    assert trial.plain == [trial.bytes_75, len(encoded(picture_again(IMAGE), quality=20))]


class Glance(Sight):
    """Sees of an image how large it is, once it is open."""

    def open(self, read):
        return lambda opened, shown: np.array([opened.width, shown.height, len(opened.data)], np.float32)


def test_features_are_what_a_policy_will_look_at(tmp_path):
    (plain,), _ = run(TryConfigurations([Texture()], ACTIONS), [EncodedImage("a", IMAGE)], tmp_path / "1")
    opened = jpeg.open_image(IMAGE)
    assert plain.features == features(opened, jpeg.open_picture(opened)).tolist()
    transform = TryConfigurations([Texture()], ACTIONS, sight=Glance())
    (trial,), _ = run(transform, [EncodedImage("a", IMAGE)], tmp_path / "2")
    assert trial.features == [96, 64, len(IMAGE)]


def test_no_pair_is_paid_twice(tmp_path):
    asked = tmp_path / "asked"
    images = [EncodedImage("a", IMAGE)]
    cache = str(tmp_path / "cache")
    first, _ = run(TryConfigurations([Texture(str(asked))], ACTIONS, cache=cache), images, tmp_path / "1")
    assert (calls(asked), first[0].calls) == (3, 3)
    more = [*ACTIONS, Configuration(jpeg.quantisation("robidoux", 30), 30)]
    second, _ = run(TryConfigurations([Texture(str(asked))], more, cache=cache), images, tmp_path / "2")
    assert (calls(asked), second[0].calls) == (4, 1)
    assert second[0].ranks[:2] == first[0].ranks
    reversed_, _ = run(TryConfigurations([Texture(str(asked))], ACTIONS[::-1], cache=cache), images, tmp_path / "3")
    assert (calls(asked), reversed_[0].sizes) == (4, first[0].sizes[::-1])
    coarse = jpeg.Settings(progressive=False)
    run(TryConfigurations([Texture(str(asked))], ACTIONS, coarse, cache=cache), images, tmp_path / "4")
    assert calls(asked) == 6, "another coding makes other files"


def test_kept_outcomes_of_another_version_are_refused(tmp_path):
    images = [EncodedImage("a", IMAGE)]
    run(TryConfigurations([Texture()], ACTIONS, cache=str(tmp_path / "cache")), images, tmp_path / "1")
    (kept,) = (tmp_path / "cache" / "trials").rglob("*.json")
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "format_version": 99}))
    with pytest.raises(Exception, match=r"cannot be read \(it has version 99, and this release reads 1\): delete"):
        run(TryConfigurations([Texture()], ACTIONS, cache=str(tmp_path / "cache")), images, tmp_path / "2")


def test_wrong_credentials_end_the_job(tmp_path):
    backend = by_quality({None: BackendError(CREDENTIALS, "the key is wrong")})
    with pytest.raises(Exception, match="the key is wrong"):
        run(TryConfigurations([backend], ACTIONS), [EncodedImage("a", IMAGE)], tmp_path)


def test_several_backends_each_with_limits_of_its_own(tmp_path):
    transform = TryConfigurations(
        [Texture(), Scripted()], ACTIONS, cache=str(tmp_path / "cache"), keep=False, max_calls=4
    )
    trials, failures = run(transform, [EncodedImage("a", IMAGE)], tmp_path)
    assert [(trial.backend, trial.calls) for trial in trials] == [("Scripted-1", 3), ("Texture-0", 3)]
    assert failures == []
    with pytest.raises(ValueError, match="the backend google-vision is given twice"):
        TryConfigurations(["google-vision", "google-vision"], ACTIONS)
    assert TryConfigurations([backend("litert:m.tflite")], ACTIONS).backends  # its terms are known only when it is open


def test_images_too_large_for_a_backend_are_not_sent(tmp_path):
    small = dataclasses.make_dataclass(
        "Small", [], bases=(Texture,), namespace={"terms": Terms("small", "1", max_pixels=99)}
    )
    _, failures = run(
        TryConfigurations([small(str(tmp_path / "asked"))], ACTIONS), [EncodedImage("a", IMAGE)], tmp_path
    )
    assert [failure[2] for failure in failures] == ["too-large-for-backend"]
    assert calls(tmp_path / "asked") == 0


def test_limits_need_a_cache():
    with pytest.raises(ValueError, match="max_calls is kept in files that all workers share"):
        TryConfigurations(["google-vision"], ACTIONS, max_calls=3)
    with pytest.raises(ValueError, match="unknown name 'oracle'"):
        TryConfigurations(["oracle"], ACTIONS)


def test_trials_as_parquet(tmp_path):
    trials, _ = run(TryConfigurations([Texture()], ACTIONS), [EncodedImage("a", IMAGE)], tmp_path)
    path = tmp_path / "trials.parquet"
    path.write_bytes(FORMAT.to_parquet(FORMAT.table(trials)))
    table = FORMAT.from_parquet(read_local(str(path)), str(path))
    again = [Trial(**row) for row in table.to_pylist()]
    assert again[0]._replace(fidelity=None) == trials[0]._replace(fidelity=None)
    assert again[0].fidelity == pytest.approx(trials[0].fidelity)
    with pytest.raises(AdaCompressError, match="is no readable Parquet file"):
        FORMAT.from_parquet(b"PAR1", "x.parquet")
