from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encoded, picture
from PIL import Image

from beam_adacompress.backends import applications, backend, preprocess
from beam_adacompress.backends.contract import Query
from beam_adacompress.errors import AdaCompressError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="needs tensorflow: pip install 'beam-adacompress[train]'")
keras = pytest.importorskip("keras", reason="needs keras: pip install 'beam-adacompress[train]'")

SIZE = 8


def plain(colour: tuple[int, int, int]) -> Query:
    return Query(encoded(Image.new("RGB", (20, 10), colour), "PNG"))


def mean_colour(shape: tuple[Any, ...] = (SIZE, SIZE, 3), activation: str = "linear", factor: float = 1 / 255) -> Any:
    """A network whose scores are the mean of each channel, times `factor`."""
    image = keras.Input(shape)
    mean = keras.layers.GlobalAveragePooling2D()(image)
    unchanged = keras.initializers.Identity(factor)
    scores = keras.layers.Dense(3, activation, use_bias=False, kernel_initializer=unchanged)(mean)
    return keras.Model(image, scores)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = mean_colour()
    model.save(folder / "mean.keras")
    model.save(folder / "mean.h5")
    model.export(folder / "exported", verbose=False)
    shutil.make_archive(str(folder / "mean"), "zip", folder / "exported")
    mean_colour(factor=1 / 50).save(folder / "logits.keras")
    (folder / "names.txt").write_text("red\ngreen\nblue\n")
    return folder


def opened(uri: str) -> Any:
    made = backend(uri)
    made.open()
    return made


@pytest.mark.parametrize("ending", ["keras", "h5", "zip"])
def test_a_saved_model_answers_a_batch(models, ending):
    made = opened(f"keras:{models}/mean.{ending}?labels={models}/names.txt")
    images = [plain((255, 51, 0)), plain((0, 102, 204)), Query(b"no image"), plain((51, 51, 51))]
    first, second, broken, last = made.label(images, 1.0)
    assert [label.name for label in first] == ["red", "green"]  # what scores 0 is not seen
    assert [label.score for label in first] == pytest.approx([1, 0.2])
    assert [label.name for label in second] == ["blue", "green"]
    assert [label.score for label in second] == pytest.approx([0.8, 0.4])
    assert (broken.reason, broken.retryable) == ("bad-image", False)
    assert [label.name for label in last] == ["red", "green", "blue"]


def test_a_batch_is_one_call(models):
    made = opened(f"keras:{models}/mean.keras")
    calls = []
    network = made._model
    made._model = lambda batch, training: calls.append(batch.shape) or network(batch, training=training)
    made.label([Query(encoded(picture(seed=seed))) for seed in range(5)], 1.0)
    made.label([Query(b"")], 1.0)
    assert calls == [(5, SIZE, SIZE, 3)]


def test_classes_without_names_are_numbered_and_top_bounds_the_answer(models):
    ((label, other),) = opened(f"keras:{models}/mean.keras?top=2").label([plain((10, 20, 255))], 1.0)
    assert (label.name, other.name) == ("2", "1")


def test_mean_and_std(models):
    (labels,) = opened(f"keras:{models}/mean.keras?mean=-255&std=2").label([plain((255, 153, 51))], 1.0)
    assert [label.score for label in labels] == pytest.approx([1, 0.8, 0.6])


def test_logits_go_through_softmax(models):
    (labels,) = opened(f"keras:{models}/logits.keras").label([plain((50, 0, 0))], 1.0)
    assert [label.score for label in labels] == pytest.approx([np.e / (np.e + 2), 1 / (np.e + 2), 1 / (np.e + 2)])


def test_channels_first(tmp_path):
    planes = keras.Input((3, SIZE, SIZE))
    model = keras.Model(planes, mean_colour()(keras.layers.Permute((2, 3, 1))(planes)))
    model.save(tmp_path / "planes.keras")
    (labels,) = opened(f"keras:{tmp_path}/planes.keras").label([plain((51, 255, 102))], 1.0)
    assert [(label.name, round(label.score, 4)) for label in labels] == [("1", 1), ("2", 0.4), ("0", 0.2)]


def test_scores_that_are_no_numbers_are_a_bad_answer(tmp_path):
    mean_colour(factor=float("nan")).save(tmp_path / "nan.keras")
    (answer,) = opened(f"keras:{tmp_path}/nan.keras").label([plain((1, 2, 3))], 1.0)
    assert (answer.reason, answer.retryable) == ("bad-answer", False)


@pytest.fixture(scope="module")
def random_mobilenet() -> Any:
    return opened("keras:MobileNetV2?weights=none&crop=1&top=1000")


def test_a_network_by_name_applies_its_own_preprocessing(random_mobilenet):
    assert random_mobilenet._normalise is keras.applications.mobilenet_v2.preprocess_input
    fed = []
    network = random_mobilenet._model

    def spy(batch: Any, training: bool) -> Any:
        fed.append(np.array(batch))
        return network(batch, training=training)

    random_mobilenet._model = spy
    image = picture(224, 224)
    (labels,) = random_mobilenet.label([Query(encoded(image, "PNG"))], 1.0)
    random_mobilenet._model = network
    assert len(labels) == 1000
    assert sum(label.score for label in labels) == pytest.approx(1, abs=1e-3)
    assert {label.name for label in labels} == {str(number) for number in range(1000)}
    np.testing.assert_allclose(fed[0][0], np.asarray(image) / 127.5 - 1, atol=1e-6)


@pytest.mark.heavy
def test_random_weights_are_always_the_same(random_mobilenet, tmp_path):
    assert opened("keras:MobileNetV2?weights=none&crop=1&top=1000").terms == random_mobilenet.terms
    random_mobilenet._model.save_weights(tmp_path / "own.weights.h5")
    loaded = opened(f"keras:MobileNetV2?weights={tmp_path}/own.weights.h5&crop=1&top=1000")
    assert loaded.terms == random_mobilenet.terms
    query = Query(encoded(picture()))
    assert loaded.label([query], 1.0) == random_mobilenet.label([query], 1.0)


def refused(*args: object, **kwargs: object) -> Any:
    raise Exception("URL fetch failure on https://storage.example/file: None -- no route\nand more")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.utils import file_utils

    monkeypatch.setattr(file_utils, "get_file", refused)
    monkeypatch.setattr(keras.applications.mobilenet_v2, "decode_predictions", refused)


def test_weights_that_cannot_be_downloaded(offline):
    with pytest.raises(AdaCompressError, match=r"ImageNet weights of MobileNetV2 .*no route\): put .* weights=PATH$"):
        opened("keras:MobileNetV2")


def test_class_names_that_cannot_be_downloaded(offline):
    with pytest.raises(AdaCompressError, match=r"names of ImageNet's classes .*no route\): give labels=FILE$"):
        applications.imagenet_names(keras.applications.mobilenet_v2)


def test_class_names_keep_the_order_of_the_classes(monkeypatch):
    from keras.src.applications import imagenet_utils

    index = {str(number): [f"n{number:08}", f"thing {number}"] for number in range(1000)}
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX", index)
    names = applications.imagenet_names(keras.applications.mobilenet_v2)
    assert (len(names), names[0], names[999]) == (1000, "thing 0", "thing 999")


@pytest.mark.parametrize(
    ("name", "near"),
    [("mobilenetv2", "MobileNetV2"), ("ResNet5O", "ResNet50"), ("EfficientNet", "EfficientNetB0"), ("qq", "Xception")],
)
def test_an_unknown_name_lists_near_ones(name, near):
    with pytest.raises(AdaCompressError, match=f"{name} is no network of Keras Applications .*: try .*{near}"):
        opened(f"keras:{name}")


def saved(model: Any) -> Any:
    return lambda path: model().save(path)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda path: path.write_bytes(b"no model"), "Keras cannot load .*no.keras: "),
        (saved(lambda: mean_colour((None, None, 3))), r"no.keras takes no image .* but \? x \? x \? x 3"),
        (saved(lambda: mean_colour((8, 8, 5))), r"no.keras takes no image .* but \? x 8 x 8 x 5"),
        (
            saved(lambda: keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()])),
            r"no.keras does not answer one score for each class, but \? x 8 x 8 x 3",
        ),
        (
            saved(lambda: keras.Model([one := keras.Input((8, 8, 3)), two := keras.Input((8, 8, 3))], one + two)),
            "no.keras has 2 inputs",
        ),
        (
            saved(lambda: keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda image: image)])),
            "Keras cannot load .*no.keras: .*[Ll]ambda",
        ),
    ],
)
def test_a_model_that_is_no_classifier_of_images(tmp_path, write, error):
    write(tmp_path / "no.keras")
    with pytest.raises(AdaCompressError, match=error) as caught:
        opened(f"keras:{tmp_path}/no.keras")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("keras:/nowhere/m.keras", "/nowhere/m.keras cannot be read: No such file"),
        ("keras:MobileNetV2?weights=/nowhere/w.weights.h5", "/nowhere/w.weights.h5 cannot be read: No such file"),
        ("keras:MobileNetV2?weights=none&labels=/nowhere/l.txt", "/nowhere/l.txt cannot be read: No such file"),
        (
            "keras:{models}/mean.keras?labels={models}/two.txt",
            "two.txt names 2 classes, but .*mean.keras tells 3 apart",
        ),
        ("keras:MobileNetV2?weights={models}/names.txt", "Keras cannot load .*names.txt"),
    ],
)
def test_a_file_that_is_not_there_or_does_not_fit(models, uri, error):
    (models / "two.txt").write_text("a\nb\n")
    with pytest.raises(AdaCompressError, match=error):
        opened(uri.format(models=models))


def test_models_are_read_with_the_function_that_open_is_given(models):
    made = pickle.loads(pickle.dumps(backend("keras:gs://bucket/m.keras?labels=gs://bucket/l.txt")))
    files = {"gs://bucket/m.keras": "mean.keras", "gs://bucket/l.txt": "names.txt"}
    made.open(lambda path: (models / files[path]).read_bytes())
    ((label, *_),) = made.label([plain((0, 255, 0))], 1.0)
    assert label.name == "green"


def test_terms(models):
    terms = opened(f"keras:{models}/mean.keras").terms
    assert (terms.name, terms.is_local, terms.price, terms.max_batch, len(terms.version)) == ("keras", True, 0, 16, 12)
    assert not backend("keras:MobileNetV2").concurrent
    queries = ["", f"?labels={models}/names.txt", "?top=2", "?crop=1", "?resize=squash", "?mean=1&std=2"]
    assert len({opened(f"keras:{models}/mean.keras{query}").terms.version for query in queries}) == 6
    assert opened(f"keras:{models}/logits.keras").terms.version != terms.version


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(AdaCompressError, match=r"keras needs tensorflow: pip install 'beam-adacompress\[train\]'"):
        backend("keras:MobileNetV2").open()


def test_the_version_counts_the_rules_of_preprocessing(models, monkeypatch):
    before = opened(f"keras:{models}/mean.keras").terms.version
    monkeypatch.setattr(preprocess, "RULES", preprocess.RULES + 1)
    assert opened(f"keras:{models}/mean.keras").terms.version != before
