from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from conftest import encoded, manifest_rows, picture
from PIL import Image
from scoring import scored, summary_of

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, ScoreWithBackend
from beam_adacompress.backends import backend
from beam_adacompress.backends.contract import Query
from beam_adacompress.dct_networks import build
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.geometry import view

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
needs_train = "the networks of these tests are made with tensorflow: pip install 'beam-adacompress[train]'"
tf = pytest.importorskip("tensorflow", reason=needs_train)
keras = pytest.importorskip("keras", reason=needs_train)
pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert: pip install ai-edge-litert")

CLASSES = ["across", "down", "red"]
SIZE = 32  # pixels: 4 x 4 blocks of Y


def drawn(kind: str, seed: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Noise, with light that swings across or down, or with red."""
    random = np.random.default_rng(seed)
    rgb = random.normal(128, 8, (height, width, 3))
    down, across = np.mgrid[:height, :width]
    swing = 50 * np.cos({"across": across, "down": down}.get(kind, 0 * down) * 0.9 + random.uniform(0, 6))
    rgb += swing[..., np.newaxis] if kind != "red" else (70, -30, -30)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def queries(*kinds: str, seed: int = 1000, **options: object) -> list[Query]:
    return [Query(encoded(drawn(kind, seed + index), **options)) for index, kind in enumerate(kinds)]


def convolved(y: Any, cbcr: Any, activation: str | None) -> Any:
    """A small network on the two inputs: the strength of a few mixtures of bands."""
    layers = keras.layers
    found = [
        layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, activation="relu")(layers.BatchNormalization()(plane)))
        for plane in (y, cbcr)
    ]
    return layers.Dense(len(CLASSES), activation)(layers.Concatenate()(found))


def inputs(rows: int = 4, luma: str = "y", chroma: str = "cbcr") -> list[Any]:
    return [keras.Input((rows, rows, 64), name=luma), keras.Input((rows // 2, rows // 2, 128), name=chroma)]


def converted(model: Any) -> bytes:
    data: bytes = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    return data


@pytest.fixture(scope="module")
def trained() -> Any:
    keras.utils.set_random_seed(0)
    planes = inputs()
    model = keras.Model(planes, convolved(*planes, "softmax"))
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    seen = [view(encoded(drawn(CLASSES[seed % 3], seed)), 4, 4) for seed in range(150)]
    model.fit([np.stack(plane) for plane in zip(*seen)], np.arange(150) % 3, batch_size=30, epochs=40, verbose=0)
    return model


@pytest.fixture(scope="module")
def models(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network in several forms and the names of its classes."""
    folder = tmp_path_factory.mktemp("models")
    trained.save(folder / "network.keras")
    (folder / "network.tflite").write_bytes(converted(trained))
    chroma, luma = inputs(luma="a", chroma="b")[::-1]
    exchanged = keras.Model([chroma, luma], trained([luma, chroma]))
    exchanged.save(folder / "exchanged.keras")
    (folder / "exchanged.tflite").write_bytes(converted(exchanged))
    (folder / "names.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


@pytest.fixture
def opened(models: Path) -> Callable[..., Any]:
    def open_(name: str = "network.tflite", **parameters: object) -> Any:
        given = {"labels": models / "names.txt", **parameters}
        made = backend(f"dct:{models / name}?" + "&".join(f"{key}={given[key]}" for key in given))
        made.open()
        return made

    return open_


def top(made: Any, images: list[Query]) -> list[str]:
    return [labels[0].name for labels in made.label(images, 1.0)]


@pytest.mark.parametrize("name", ["network.keras", "network.tflite", "exchanged.keras", "exchanged.tflite"])
def test_a_network_answers_whatever_its_form_and_the_order_of_its_inputs(opened, models, trained, name):
    images = queries(*CLASSES, *CLASSES, quality=60, subsampling="4:2:2")
    made = opened(name)
    assert top(made, images) == CLASSES + CLASSES
    seen = [view(image.data, 4, 4) for image in images]
    expected = np.array(trained([np.stack(plane) for plane in zip(*seen)]))
    answers = [{label.name: label.score for label in labels} for labels in made.label(images, 1.0)]
    scores = [[answer.get(name, 0.0) for name in CLASSES] for answer in answers]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("variant", ["Deconvolution-RFA", "Late-Concat-RFA-Thinner"])
@pytest.mark.heavy
def test_the_networks_of_the_paper_fit(tmp_path, variant):
    network = build(variant, classes=3, size=32, width=1 / 32)
    network.save(tmp_path / "network.keras")
    made = backend(f"dct:{tmp_path}/network.keras")
    made.open()
    image = encoded(picture(100, 80))
    (labels,) = made.label([Query(image)], 1.0)
    seen = view(image, 4, 4)
    (expected,) = np.array(network([seen.y[np.newaxis], seen.cbcr[np.newaxis]]))
    assert [label.name for label in labels] == [str(number) for number in np.argsort(-expected)]
    assert [label.score for label in labels] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_a_turned_image_counts_upright(opened):
    exif = Image.Exif()
    exif[0x0112] = 6
    ((upright, *_), (turned, *_)) = opened().label(
        [*queries("across", seed=7), *queries("across", seed=7, exif=exif)], 1.0
    )
    assert (upright.name, turned.name) == ("across", "down")


def test_halved_or_cropped(opened):
    image = drawn("across", 5)
    fourfold = Query(encoded(image.resize((4 * SIZE, 4 * SIZE), Image.Resampling.NEAREST)))
    (plain,) = opened().label([Query(encoded(image))], 1.0)
    (halved,), (cropped,) = (opened(resize=resize).label([fourfold], 1.0) for resize in ("halve", "crop"))
    assert (plain[0].name, halved[0].name) == ("across", "across")
    assert halved[0].score == pytest.approx(plain[0].score, abs=0.05)
    assert cropped != halved


def test_the_order_of_the_bands_matters(opened):
    images = queries("down", "down", "down")
    assert top(opened(), images) == ["down"] * 3
    natural, zigzag = (opened(order=order).label(images, 1.0) for order in ("natural", "zigzag"))
    assert natural != zigzag


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "the file has no bytes"),
        (b"no image", "the content is no image format that can be read"),
        (encoded(picture(), "PNG"), "only JPEGs have DCT coefficients, and this is PNG: compress it first"),
        (encoded(picture(mode="CMYK")), "it has 4 colour components (CMYK or YCCK has 4); only 1 or 3 can be read"),
        (encoded(picture())[:1000], "decoding failed: "),
    ],
)
def test_an_image_that_cannot_be_read_fails_alone(opened, data, error):
    first, broken, last = opened().label([*queries("red"), Query(data), *queries("down")], 1.0)
    assert (first[0].name, last[0].name) == ("red", "down")
    assert (broken.reason, broken.retryable) == ("bad-image", False)
    assert broken.message.startswith(error)
    (alone,) = opened().label([Query(data)], 1.0)
    assert alone.reason == "bad-image"


def test_a_batch_of_keras_is_one_call(opened):
    made = opened("network.keras")
    calls = []
    scores = made._model.scores
    made._model = made._model._replace(scores=lambda views: calls.append(len(views)) or scores(views))
    made.label([*queries("red", "down"), Query(b"")], 1.0)
    made.label([Query(b"")], 1.0)
    assert calls == [2]


def test_logits_go_through_softmax(models, opened, trained):
    logits = keras.Model(trained.inputs, keras.layers.Lambda(keras.ops.log)(trained.outputs[0]))
    (models / "logits.tflite").write_bytes(converted(logits))
    images = queries(*CLASSES)
    for ours, expected in zip(opened("logits.tflite").label(images, 1.0), opened().label(images, 1.0)):
        assert [label.name for label in ours] == [label.name for label in expected]
        assert [label.score for label in ours] == pytest.approx([label.score for label in expected], abs=1e-5)


def test_scores_that_are_no_numbers_are_a_bad_answer(opened):
    made = opened("network.keras")
    made._model = made._model._replace(scores=lambda views: np.full((len(views), 3), np.nan, np.float32))
    (answer,) = made.label(queries("red"), 1.0)
    assert (answer.reason, answer.retryable) == ("bad-answer", False)
    assert answer.message.endswith("network.keras: a score is not a finite number")


def test_numbered_classes_and_top(models):
    made = backend(f"dct:{models}/network.tflite?top=1")
    made.open()
    assert [[label.name for label in labels] for labels in made.label(queries("red", "down"), 1.0)] == [["2"], ["1"]]


def of_inputs(*shapes: tuple[int | None, ...], classes: int = 3) -> Any:
    planes = [keras.Input(shape) for shape in shapes]
    found = [keras.layers.GlobalAveragePooling2D()(plane) for plane in planes]
    return keras.Model(planes, keras.layers.Dense(classes)(keras.layers.Concatenate()([*found, *found])))


FITTING = ": a network on DCT input takes Y in blocks of a fixed even number of rows and columns, x 64, and CbCr in"


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (lambda: of_inputs((32, 32, 3)), r"takes \? x 32 x 32 x 3" + FITTING),
        (lambda: of_inputs((4, 4, 192)), r"takes \? x 4 x 4 x 192" + FITTING),
        (lambda: of_inputs((4, 4, 64), (2, 2, 64)), r"takes \? x 4 x 4 x 64 and \? x 2 x 2 x 64" + FITTING),
        (lambda: of_inputs((4, 4, 64), (4, 4, 128)), r"takes \? x 4 x 4 x 64 and \? x 4 x 4 x 128" + FITTING),
        (lambda: of_inputs((5, 5, 64), (3, 3, 128)), r"takes \? x 5 x 5 x 64 and \? x 3 x 3 x 128" + FITTING),
        (
            lambda: of_inputs((None, 4, 64), (None, 2, 128)),
            r"takes \? x \? x 4 x 64 and " + FITTING.replace(": ", ".*"),
        ),
        (lambda: of_inputs((4, 4, 64), (2, 2, 64), (2, 2, 64)), "takes .* and .* and .*" + FITTING),
        (
            lambda: of_inputs((4, 4, 64), (2, 2, 128), classes=1),
            r"does not answer one score for each class, but \? x 1",
        ),
    ],
)
def test_a_model_that_does_not_fit(tmp_path, model, error):
    model().save(tmp_path / "no.keras")
    with pytest.raises(AdaCompressError, match=f"no.keras {error}") as caught:
        backend(f"dct:{tmp_path}/no.keras").open()
    assert "\n" not in str(caught.value)


def fixed_batch(model: Any) -> bytes:
    specs = [tf.TensorSpec([2, *place.shape[1:]]) for place in model.inputs]
    function = tf.function(lambda y, cbcr: model([y, cbcr])).get_concrete_function(*specs)
    data: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert()
    return data


def int8(model: Any) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    random = np.random.default_rng(0)
    converter.representative_dataset = lambda: (
        [random.normal(0, 9, (1, *place.shape[1:])).astype(np.float32) for place in model.inputs] for _ in range(5)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    data: bytes = converter.convert()
    return data


@pytest.mark.parametrize(
    ("convert", "error"),
    [
        (lambda model: b"this is text, and more of it", "no.tflite is no TFLite model that can run here"),
        (fixed_batch, "no.tflite takes 2 images at a time: convert it for a batch of 1"),
        (int8, "no.tflite takes or gives int8 numbers, not float32"),
        (lambda model: converted(of_inputs((8, 8, 3))), r"no.tflite takes \? x 8 x 8 x 3: a network on DCT input"),
        (lambda model: converted(keras.Model(model.inputs, model.outputs * 2)), "no.tflite has 2 outputs"),
    ],
)
def test_a_tflite_model_that_does_not_fit(tmp_path, trained, convert, error):
    (tmp_path / "no.tflite").write_bytes(convert(trained))
    with pytest.raises(AdaCompressError, match=error):
        backend(f"dct:{tmp_path}/no.tflite").open()


def test_files_that_are_not_there_or_broken(models, tmp_path):
    (tmp_path / "no.keras").write_bytes(b"no model")
    (tmp_path / "two.txt").write_text("a\nb\n")
    for uri, error in (
        ("dct:/nowhere/m.tflite", "/nowhere/m.tflite cannot be read: No such file"),
        (f"dct:{models}/network.tflite?labels=/nowhere/l.txt", "/nowhere/l.txt cannot be read: No such file"),
        (f"dct:{tmp_path}/no.keras", "Keras cannot load .*no.keras: "),
        (f"dct:{models}/network.tflite?labels={tmp_path}/two.txt", "two.txt names 2 classes, but .* tells 3 apart"),
    ):
        with pytest.raises(AdaCompressError, match=error):
            backend(uri).open()


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("dct:model.h5", "path=model.h5 ends in none of .keras, .tflite"),
        ("dct:m.keras?resize=squash", "resize=squash is none of halve, crop"),
        ("dct:m.keras?order=random", "order=random is none of natural, zigzag"),
        ("dct:m.keras?top=0", "top=0 threads=1: both must be at least 1"),
        ("dct:m.keras?threads=0", "top=10 threads=0: both must be at least 1"),
        ("dct:m.keras?mean=1", "unknown parameter 'mean'; known: labels, top, resize, order, threads"),
    ],
)
def test_parameters_out_of_range(uri, error):
    with pytest.raises(ValueError, match=error):
        backend(uri)


def test_terms(opened):
    terms = opened().terms
    assert (terms.name, terms.is_local, terms.price, terms.max_pixels, len(terms.version)) == (
        "dct",
        True,
        0,
        10**8,
        12,
    )
    assert opened(threads=2).terms == terms
    assert not opened().concurrent
    changed = [
        {"top": 2},
        {"resize": "crop"},
        {"order": "zigzag"},
        {"name": "exchanged.tflite"},
        {"name": "network.keras"},
    ]
    assert len({terms.version} | {opened(**change).terms.version for change in changed}) == 6


def test_models_are_read_with_the_function_that_open_is_given(models):
    made = pickle.loads(pickle.dumps(backend("dct:gs://bucket/m.tflite?labels=gs://bucket/l.txt")))
    files = {"gs://bucket/m.tflite": "network.tflite", "gs://bucket/l.txt": "names.txt"}
    made.open(lambda path: (models / files[path]).read_bytes())
    assert top(made, queries("down")) == ["down"]


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        ("ai_edge_litert.interpreter", "network.tflite", r"dct needs ai-edge-litert: .*beam-adacompress\[litert\]"),
        ("keras", "network.keras", r"dct needs keras: .*beam-adacompress\[train\]"),
    ],
)
def test_without_the_package_the_message_says_what_to_install(opened, monkeypatch, module, name, error):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(AdaCompressError, match=error):
        opened(name)


def test_a_tflite_model_is_served_without_tensorflow(models):
    program = f"""
import sys
from beam_adacompress.backends import backend
from beam_adacompress.backends.contract import Query
made = backend("dct:{models}/network.tflite?labels={models}/names.txt")
made.open()
print(made.label([Query(sys.stdin.buffer.read())], 1.0)[0][0].name)
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], input=queries("red")[0].data, capture_output=True)
    assert done.stdout.decode().strip() == "red", done.stderr.decode()


def test_in_a_pipeline(models):
    uri = f"dct:{models}/network.tflite?labels={models}/names.txt"
    images = [EncodedImage(kind, query.data) for kind, query in zip(CLASSES, queries(*CLASSES, quality=98))]
    images.append(EncodedImage("png", encoded(drawn("red", 1), "PNG")))
    with TestPipeline(runner="FnApiRunner") as p:
        chosen = p | beam.Create(images) | ChooseQuality(quality=60)
        compressed = chosen.images | CompressJPEG()
        found = compressed.images | ScoreWithBackend(uri, 1.0)
        scores = found.scores | beam.Map(lambda score: (score.key, score.reference_labels[0].name, score.agreement))
        assert_that(scores, equal_to([(kind, kind, 1) for kind in CLASSES]))
        failures = found.failures | beam.Map(lambda row: (row.key, row.reason))
        assert_that(failures, equal_to([("png", "bad-image")]), label="failures")


def test_adacompress_score(models, compress, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for kind, query in zip(CLASSES, queries(*CLASSES, quality=98)):
        (folder / f"{kind}.jpg").write_bytes(query.data)
    assert compress(folder, tmp_path / "run", "--quality", "50") == 0
    uri = f"dct:{models}/network.tflite?labels={models}/names.txt&top=1"
    assert scored(tmp_path / "run", tmp_path / "score", uri) == 0
    content = summary_of(tmp_path / "score")
    assert content["images"] == {"total": 3, "sampled": 3, "scored": 3, "failed": 0}
    assert content["estimates"]["strict_agreement"]["mean"] == 1.0
    assert "3 of 3 images scored with dct: 6 calls" in capsys.readouterr().out


def test_adacompress_compress_verify(models, compress, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for kind, query in zip(CLASSES, queries(*CLASSES, quality=98)):
        (folder / f"{kind}.jpg").write_bytes(query.data)
    uri = f"dct:{models}/network.tflite?labels={models}/names.txt"
    assert compress(folder, tmp_path / "run", "--verify", uri, "--top", "1", "--min-saving", "0") == 0
    rows = manifest_rows(tmp_path / "run")
    made = backend(uri)
    made.open()
    for kind in CLASSES:
        row = rows[f"{kind}.jpg"]
        assert (row.status, row.verified_by) == ("compressed", f"dct {made.terms.version}")
        assert top(made, [Query((tmp_path / "run" / "images" / row.output).read_bytes())]) == [kind]
