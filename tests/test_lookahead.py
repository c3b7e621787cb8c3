from __future__ import annotations

import dataclasses
import json
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from conftest import encoded, picture

from beam_adacompress import jpeg
from beam_adacompress.artefacts import read_local
from beam_adacompress.backends import Terms, registry
from beam_adacompress.backends.network import Network
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import Quantisation
from beam_adacompress.policy.features import NAMES, features
from beam_adacompress.policy.lookahead import Sight, ahead, sight_from_json


def flat(step):
    return Quantisation((step,) * 64, (step,) * 64)


# Scores of cat, dog and fox, by the first luminance step of the JPEG. Annex K's is 16 at quality 50, and 2 at 95.
SCORES = {
    2: (0.6, 0.3, 0.1),
    16: (0.0, 0.0, 0.0),
    10: (0.6, 0.3, 0.1),
    100: (0.3, 0.6, 0.1),
    200: (0.0, 0.64, 0.36),
    255: (0.0, 0.0, 0.0),
}
IMAGE = encoded(picture())
BLIND = encoded(picture(), quality=50)
CANDIDATES = tuple(flat(step) for step in (10, 100, 200, 255))


@dataclasses.dataclass
class StandIn(Network):
    """Scores by what the file is quantised with; its version is the content of its file."""

    name: ClassVar[str] = "stand-in"
    max_batch: ClassVar[int] = 2

    def __post_init__(self):
        self.batches = []
        self.under_way = self.most_under_way = 0

    def open(self, read=read_local):
        self._names = ["cat", "dog", "fox"]
        self._terms = Terms("stand-in", read(self.path).decode(), max_batch=2, is_local=True)
        self._logits = False

    def look(self, data):
        return jpeg.open_image(data).luma_steps()[0]

    def scores(self, seen):
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(0.01)
        self.batches.append(list(seen))
        self.under_way -= 1
        return np.array([SCORES[step] for step in seen], np.float32)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The URI of a network of version 7."""
    monkeypatch.setitem(registry.BACKENDS, "stand-in", f"{__name__}:StandIn")
    (tmp_path / "small").write_text("7")
    return f"stand-in:{tmp_path / 'small'}"


@pytest.fixture
def network(stand_in):
    made = registry.backend(stand_in)
    made.open()
    return made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"lookahead": "google-vision", "candidates": CANDIDATES},
            r"^lookahead is a network in the worker, such as litert:small\.tflite, got 'google-vision'$",
        ),
        ({"embedding": "replay:x.jsonl"}, "^embedding is a network in the worker, .*, got 'replay:x.jsonl'$"),
        ({"embedding": "dct:x.tflite"}, "^embedding is a network in the worker, .*, got 'dct:x.tflite'$"),
        ({"embedding": "oracle"}, "unknown name 'oracle'"),
        ({"candidates": CANDIDATES}, "^there are candidates and no lookahead to show them to: give its network$"),
        ({"embedding": "litert:x.tflite", "versions": ("1", "2")}, "there are 1 networks, and 2 versions of them"),
        ({"versions": ("1",)}, "there are 0 networks, and 1 versions of them"),
    ],
)
def test_what_nobody_can_look_through(given, message):
    with pytest.raises(ValueError, match=message):
        Sight(**given)


def test_which_networks_there_are():
    assert Sight().networks == ()
    both = Sight("litert:a.tflite", CANDIDATES, "keras:b.keras")
    assert both.networks == ("litert:a.tflite", "keras:b.keras")
    assert Sight(embedding="keras:b.keras").networks == ("keras:b.keras",)


SHOWN = jpeg.open_picture(jpeg.open_image(IMAGE))


def test_what_a_network_says_ahead_by_hand(network):
    found = ahead(network, IMAGE, SHOWN, CANDIDATES)
    assert (found.shape, found.dtype) == ((4 + 4 * 4,), np.float32)
    # Best, next, gap, and -(0.6 ln 0.6 + 0.3 ln 0.3 + 0.1 ln 0.1).
    assert found[:4] == pytest.approx([0.6, 0.3, 0.3, 0.897946], abs=1e-5)
    # Fidelity, what is left of the cat, whether it is still the best, and whether it is there.
    assert found[4:8] == pytest.approx([1, 0.6, 1, 1], abs=1e-5)
    assert found[8:12] == pytest.approx([2 * 0.18**0.5 + 0.1, 0.3, 0, 1], abs=1e-5)
    assert found[12:16] == pytest.approx([0.192**0.5 + 0.036**0.5, 0, 0, 0], abs=1e-5)
    assert found[16:].tolist() == [0, 0, 0, 0], "it sees nothing"
    assert network.batches == [[2, 10], [100, 200], [255]]


def test_where_it_sees_nothing_there_are_zeros(network):
    assert ahead(network, BLIND, SHOWN, CANDIDATES[:2]).tolist() == [0] * 12
    assert ahead(network, b"no image", SHOWN, CANDIDATES[:1]).tolist() == [0] * 8


@pytest.mark.parametrize("scores", [(1.0, 1e-45, 0.0), (1.0, 1.0, 1e-45)])
def test_scores_near_nothing_and_answers_of_one_label(network, monkeypatch, scores):
    monkeypatch.setitem(SCORES, 2, scores)
    assert np.isfinite(ahead(network, IMAGE, SHOWN, CANDIDATES)).all()
    monkeypatch.setitem(SCORES, 2, (0.8, 0.0, 0.0))
    assert ahead(network, IMAGE, SHOWN, ()) == pytest.approx([0.8, 0, 0.8, 0])
    assert ahead(network, IMAGE, SHOWN, CANDIDATES[:1])[:4] == pytest.approx([0.8, 0, 0.8, 0])


def opened(data=IMAGE):
    source = jpeg.open_image(data)
    return source, jpeg.open_picture(source)


def test_features_come_first_and_the_embedding_last(stand_in, network):
    looking = Sight(stand_in, CANDIDATES[:2], stand_in + "?top=1").open()
    found = looking(*opened())
    count = len(NAMES)
    assert (found.shape, found.dtype) == ((count + 4 + 2 * 4 + 3,), np.float32)
    assert np.array_equal(found[:count], features(*opened()))
    assert np.array_equal(found[count:-3], ahead(network, IMAGE, opened()[1], CANDIDATES[:2]))
    assert found[-3:] == pytest.approx([0.6, 0.3, 0.1])
    assert looking.versions == ("7", "7")


def test_without_networks_there_are_the_features():
    looking = Sight().open()
    assert np.array_equal(looking(*opened()), features(*opened()))
    assert looking.versions == ()


def test_only_an_embedding(stand_in):
    found = Sight(embedding=stand_in).open()(*opened(BLIND))
    assert found.shape == (len(NAMES) + 3,)
    assert found[-3:].tolist() == [0, 0, 0]


def test_networks_are_asked_by_one_thread_at_a_time(stand_in, monkeypatch):
    made = registry.backend(stand_in)
    monkeypatch.setattr("beam_adacompress.policy.lookahead.backend_of", lambda uri: made)
    looking = Sight(embedding=stand_in).open()
    threads = [threading.Thread(target=looking, args=opened()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made.batches), made.most_under_way) == (4, 1)


def test_another_network_than_the_one_of_training_is_refused(stand_in, tmp_path):
    assert Sight(embedding=stand_in, versions=("7",)).open().versions == ("7",)
    (tmp_path / "other").write_text("8")
    other = f"stand-in:{tmp_path / 'other'}"
    with pytest.raises(
        AdaCompressError,
        match=f"^the policy was trained with another network than {other}: that has version 8, and 7 is needed$",
    ):
        Sight(embedding=other, versions=("7",)).open()
    with pytest.raises(AdaCompressError, match=f"another network than {other}: that has version 8, and 9 is needed"):
        Sight(stand_in, CANDIDATES, other, ("7", "9")).open()


@pytest.mark.parametrize(
    ("sight", "fits", "message"),
    [
        (Sight(), 0, "^the model looks at {} features, and there are {}$"),
        (Sight("litert:a.tflite", CANDIDATES[:2]), 12, "^the model looks at {} features, and there are {}$"),
    ],
)
def test_a_model_takes_as_many_numbers_as_there_are(sight, fits, message):
    count = len(NAMES) + fits
    sight.check(count)
    for wrong in (count - 1, count + 1):
        with pytest.raises(ValueError, match=message.format(wrong, count)):
            sight.check(wrong)


def test_of_an_embedding_it_is_not_known_how_many_numbers_it_has():
    sight = Sight(embedding="litert:a.tflite")
    sight.check(len(NAMES) + 99)
    with pytest.raises(ValueError, match=f"the model looks at 3 features, and there are {len(NAMES)}"):
        sight.check(3)


@pytest.mark.parametrize(
    "sight",
    [
        Sight(),
        Sight("litert:a.tflite"),
        Sight("litert:a.tflite", CANDIDATES, "keras:b.keras", ("1", "2")),
        Sight(embedding="keras:b.h5"),
    ],
)
def test_what_is_looked_at_is_data(sight):
    again = sight_from_json(json.loads(json.dumps(sight.to_json())))
    assert again == sight
    assert all(isinstance(each, Quantisation) for each in again.candidates)
