from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from conftest import encoded
from PIL import Image

from beam_adacompress.backends import backend, tflite_metadata
from beam_adacompress.backends.contract import BackendError, Query
from beam_adacompress.errors import AdaCompressError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert: pip install ai-edge-litert")
tf = pytest.importorskip("tensorflow", reason="the networks of these tests are made with tensorflow")

SHARED = Path(__file__).parents[2] / "shared" / "data"
COLOURS = ["red", "green", "blue", "grey"]
SIZE = 32


def coloured(colour: str, seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Noise around a grey value with one channel, or none, raised."""
    random = np.random.default_rng(seed)
    values = random.normal(random.uniform(60, 140), 15, (size[1], size[0], 3))
    if colour != "grey":
        values[..., COLOURS.index(colour)] += random.uniform(50, 90)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def queries(*colours: str, seed: int = 10_000, form: str = "PNG") -> list[Query]:
    return [Query(encoded(coloured(colour, seed + index), form)) for index, colour in enumerate(colours)]


@pytest.fixture(scope="module")
def trained() -> Any:
    """Logits of a small network that tells colours apart; takes -1..1."""
    keras = tf.keras
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    hidden = keras.layers.Dense(16, activation="relu")(keras.layers.GlobalAveragePooling2D()(image))
    model = keras.Model(image, keras.layers.Dense(4)(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.03
    inputs = np.stack([np.asarray(coloured(COLOURS[seed % 4], seed)) for seed in range(400)])
    model.fit((inputs - 127.5) / 127.5, np.arange(400) % 4, batch_size=40, epochs=25, verbose=0)
    return model


def converted(model: Any, kind: str = "float32") -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind != "float32":
        pictures = [np.asarray(coloured(COLOURS[seed % 4], seed)) for seed in range(100)]
        pictures += [np.zeros((SIZE, SIZE, 3)), np.full((SIZE, SIZE, 3), 255)]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [((pixels - 127.5) / 127.5).astype(np.float32)[np.newaxis]] for pixels in pictures
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(kind)
    data: bytes = converter.convert()
    return data


def with_head(model: Any, head: str) -> Any:
    return tf.keras.Model(model.inputs, tf.keras.layers.Activation(head)(model.outputs[0]))


@pytest.fixture(scope="module")
def models(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network in several forms and the names of its classes."""
    folder = tmp_path_factory.mktemp("models")
    keras = tf.keras
    softmax = with_head(trained, "softmax")
    planes = keras.Input((3, SIZE, SIZE))
    forms = {
        "float32": converted(softmax),
        "uint8": converted(softmax, "uint8"),
        "int8": converted(softmax, "int8"),
        "logits": converted(trained),
        "sigmoid": converted(with_head(trained, "sigmoid")),
        "nchw": converted(keras.Model(planes, softmax(keras.layers.Permute((2, 3, 1))(planes)))),
    }
    for name, data in forms.items():
        (folder / f"{name}.tflite").write_bytes(data)
    (folder / "colours.txt").write_text("\n".join(COLOURS) + "\n")
    return folder


@pytest.fixture
def opened(models: Path) -> Callable[..., Any]:
    def open_(name: str, labels: Optional[str] = "colours.txt", **parameters: object) -> Any:
        given = ([f"labels={models / labels}"] if labels else []) + [f"{key}={parameters[key]}" for key in parameters]
        made = backend(f"litert:{models / name}.tflite" + ("?" + "&".join(given) if given else ""))
        made.open()
        return made

    return open_


def top(made: Any, images: list[Query]) -> list[str]:
    return [labels[0].name for labels in made.label(images, 1.0)]


def reference(models: Path, name: str, fed: np.ndarray) -> np.ndarray:
    """The scores of the network for what it is fed, without the backend."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=(models / f"{name}.tflite").read_bytes())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], fed[np.newaxis])
    interpreter.invoke()
    details = interpreter.get_output_details()[0]
    scale, zero = details["quantization"]
    scores = interpreter.get_tensor(details["index"])[0].astype(np.float32)
    return (scores - zero) * scale if scale else scores


def by_class(labels: tuple[Any, ...]) -> list[float]:
    scores = {label.name: label.score for label in labels}
    return [scores.get(colour, 0.0) for colour in COLOURS]


@pytest.mark.parametrize("name", ["float32", "uint8", "int8", "logits", "sigmoid", "nchw"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_form_of_the_network_tells_held_out_pictures_apart(opened, name, form):
    wanted = COLOURS * 5
    got = top(opened(name), queries(*wanted[:8], form=form)) + top(opened(name), queries(*wanted[8:], seed=20_000))
    assert sum(a == b for a, b in zip(got, wanted)) >= 19


def test_quantised_and_float_agree_in_rank_and_nearly_in_score(opened):
    images = queries(*COLOURS)
    exact = [by_class(labels) for labels in opened("float32").label(images, 1.0)]
    for name in ("uint8", "int8"):
        rounded = [by_class(labels) for labels in opened(name).label(images, 1.0)]
        assert np.argmax(rounded, axis=1).tolist() == np.argmax(exact, axis=1).tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(rounded, exact, atol=0.08)


@pytest.mark.parametrize(
    ("name", "parameters", "feed"),
    [
        ("float32", {}, lambda byte: ((byte - 127.5) / 127.5).astype(np.float32)),
        ("float32", {"mean": 0, "std": 255}, lambda byte: (byte / 255).astype(np.float32)),
        ("float32", {"channels": "bgr"}, lambda byte: ((byte[..., ::-1] - 127.5) / 127.5).astype(np.float32)),
        ("nchw", {}, lambda byte: ((byte - 127.5) / 127.5).astype(np.float32).transpose(2, 0, 1)),
        ("uint8", {}, lambda byte: byte),
        ("uint8", {"mean": 127.5, "std": 127.5}, lambda byte: byte),
        # real = byte / 255 in 0..1, and the model's step is 1/127.5 from zero point 127 on
        ("uint8", {"mean": 0, "std": 255}, lambda byte: np.rint(byte / 255 * 127.5 + 127).astype(np.uint8)),
        ("int8", {}, lambda byte: (byte.astype(np.int16) - 128).astype(np.int8)),
        ("int8", {"mean": 0, "std": 255}, lambda byte: np.rint(byte / 255 * 127.5 - 1).astype(np.int8)),
    ],
)
def test_the_network_is_fed_what_arithmetic_by_hand_gives(opened, models, name, parameters, feed):
    image = coloured("red", 5)
    made = opened(name, crop=1, **parameters)
    (labels,) = made.label([Query(encoded(image, "PNG"))], 1.0)
    expected = reference(models, name, feed(np.asarray(image)))
    np.testing.assert_allclose(by_class(labels), expected, atol=0.006)


def test_bgr_swaps_red_and_blue(opened):
    assert top(opened("uint8", channels="bgr"), queries("red", "green", "blue")) == ["blue", "green", "red"]


def test_logits_go_through_softmax_and_probabilities_do_not(opened, models):
    image = coloured("blue", 3)
    fed = ((np.asarray(image) - 127.5) / 127.5).astype(np.float32)
    query = Query(encoded(image, "PNG"))
    logits = reference(models, "logits", fed)
    powers = np.exp(logits - logits.max())
    for name, expected in {"logits": powers / powers.sum(), "sigmoid": 1 / (1 + np.exp(-logits))}.items():
        (labels,) = opened(name, crop=1).label([query], 1.0)
        np.testing.assert_allclose(by_class(labels), expected, atol=1e-5)


def test_a_broken_image_costs_only_its_own_answer(opened):
    whole = queries("red", "blue")
    first, broken, empty, last = opened("uint8").label([whole[0], Query(b"GIF89a?"), Query(b""), whole[1]], 1.0)
    assert (first[0].name, last[0].name) == ("red", "blue")
    assert [(error.reason, error.retryable) for error in (broken, empty)] == [("bad-image", False)] * 2
    assert empty.message == "the file has no bytes"


def test_broken_images_only(opened):
    (answer,) = opened("uint8").label([Query(b"")], 1.0)
    assert isinstance(answer, BackendError)


def test_top_bounds_the_answer_and_numbers_stand_for_names(opened):
    (labels,) = opened("float32", None, top=2).label(queries("blue"), 1.0)
    assert len(labels) == 2
    assert labels[0].name == "2"


def test_scores_that_are_no_numbers_are_a_bad_answer(opened, models):
    image = tf.keras.Input((SIZE, SIZE, 3))
    flat = tf.keras.layers.GlobalAveragePooling2D()(image)
    bad = tf.keras.layers.Dense(4, kernel_initializer=tf.keras.initializers.Constant(np.nan))(flat)
    (models / "nan.tflite").write_bytes(converted(tf.keras.Model(image, bad)))
    (answer,) = opened("nan").label(queries("red"), 1.0)
    assert (answer.reason, answer.retryable) == ("bad-answer", False)


def with_metadata(
    model: bytes, mean: list[float], std: list[float], labels: Optional[str], file: str = "labels.txt"
) -> bytes:
    """Adds metadata as TensorFlow's metadata writer does, with the fields that are read and no others."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder()

    def table(fields: int, **slots: tuple[str, int]) -> int:
        builder.StartObject(fields)
        for slot, (kind, value) in slots.items():
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(int(slot[1:]), value, 0)
            else:
                builder.PrependInt8Slot(int(slot[1:]), value, 0)
        return builder.EndObject()

    def vector(values: list[Any], prepend: Callable[[Any], None]) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return builder.EndVector()

    def tables(*offsets: int) -> int:
        return vector(list(offsets), builder.PrependUOffsetTRelative)

    means, stds = vector(mean, builder.PrependFloat32), vector(std, builder.PrependFloat32)
    options = table(2, _0=("offset", means), _1=("offset", stds))
    other = table(2, _0=("byte", 3), _1=("offset", table(1)))  # score thresholding: to be passed over
    unit = table(2, _0=("byte", 1), _1=("offset", options))
    taken = table(7, _4=("offset", tables(other, unit)))
    described = table(5, _0=("offset", builder.CreateString("about.txt")), _2=("byte", 1))
    named = table(5, _0=("offset", builder.CreateString(file)), _2=("byte", 2))
    given = table(7, _6=("offset", tables(described, named))) if labels else table(7)
    subgraph = table(5, _2=("offset", tables(taken)), _3=("offset", tables(given)))
    builder.Finish(table(5, _3=("offset", tables(subgraph))), b"M001")

    changed = schema.ModelT.InitFromPackedBuf(model, 0)
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = b"TFLITE_METADATA", len(changed.buffers)
    buffer.data = np.frombuffer(bytes(builder.Output()), np.uint8)
    changed.metadata = [*(changed.metadata or []), entry]
    changed.buffers.append(buffer)
    packed = flatbuffers.Builder()
    packed.Finish(changed.Pack(packed), b"TFL3")
    whole = io.BytesIO(bytes(packed.Output()))
    if labels:
        with zipfile.ZipFile(whole, "a") as archive:
            archive.writestr("labels.txt", labels)
    return whole.getvalue()


def test_metadata_names_the_classes_and_the_normalisation(opened, models):
    model = (models / "float32.tflite").read_bytes()
    mean, std = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]
    (models / "stated.tflite").write_bytes(with_metadata(model, mean, std, "rot\ngrün\nblau\ngrau\n"))
    image = coloured("red", 5)
    (labels,) = opened("stated", None, crop=1).label([Query(encoded(image, "PNG"))], 1.0)
    expected = reference(models, "float32", ((np.asarray(image) - mean) / std).astype(np.float32))
    scores = {label.name: label.score for label in labels}
    np.testing.assert_allclose([scores[name] for name in ("rot", "grün", "blau", "grau")], expected, atol=1e-5)

    given = opened("stated", "colours.txt", crop=1, mean=127.5, std=127.5)
    plain = opened("float32", "colours.txt", crop=1)
    assert given.label(queries("red"), 1.0) == plain.label(queries("red"), 1.0)


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_metadata_of_a_quantised_network_that_means_plain_bytes(opened, models, name):
    model = (models / f"{name}.tflite").read_bytes()
    (models / f"{name}-stated.tflite").write_bytes(with_metadata(model, [127.5], [127.5], "\n".join(COLOURS)))
    images = queries(*COLOURS)
    assert opened(f"{name}-stated", None).label(images, 1.0) == opened(name).label(images, 1.0)


def test_a_network_without_metadata_has_none(models):
    model = (models / "float32.tflite").read_bytes()
    assert tflite_metadata.normalisation(model, 3) is None
    assert tflite_metadata.label_file(model) is None


@pytest.mark.parametrize(
    ("mean", "std", "labels", "file", "error"),
    [
        ([1.0, 2.0], [1.0], "a\nb\nc\nd", "labels.txt", "give mean and std"),
        ([1.0], [0.0], "a\nb\nc\nd", "labels.txt", "give mean and std"),
        ([1.0], [1.0], "a\nb\nc\nd", "other.txt", "give labels=FILE"),
        ([1.0], [1.0], "a\nb\nc", "labels.txt", "the label file in the model names 3 classes, but .* tells 4 apart"),
    ],
)
def test_metadata_that_cannot_be(opened, models, mean, std, labels, file, error):
    model = with_metadata((models / "float32.tflite").read_bytes(), mean, std, labels, file)
    (models / "odd.tflite").write_bytes(model)
    with pytest.raises(AdaCompressError, match=error):
        opened("odd", None)
    assert top(opened("odd", mean=127.5, std=127.5), queries("red")) == ["red"]


def of_shape(*shapes: tuple[int, ...], out: str = "dense", dtype: str = "float32") -> bytes:
    keras = tf.keras
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    flat = [keras.layers.Flatten()(keras.ops.cast(each, "float32")) for each in inputs]
    scores = keras.layers.Dense(1 if out == "one" else 2)(flat[0] if len(flat) == 1 else sum(flat))
    outputs = {"image": inputs[0] * 2 if dtype == "float32" else None, "two": [scores, scores * 2]}.get(out, scores)
    return converted(keras.Model(inputs, outputs))


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (lambda: b"", "is no TFLite model"),
        (lambda: b"this is text, and more of it", "is no TFLite model"),
        (lambda: of_shape((5,)), "takes no image of a fixed size and one or three channels, but . x 5"),
        (lambda: of_shape((8, 8, 4)), "takes no image .* but . x 8 x 8 x 4"),
        (lambda: of_shape((8, 8, 3), (8, 8, 3)), "has 2 inputs"),
        (lambda: of_shape((8, 8, 3), out="two"), "has 2 outputs"),
        (lambda: of_shape((8, 8, 3), out="image"), "does not answer one score for each class, but 1 x 8 x 8 x 3"),
        (lambda: of_shape((8, 8, 3), out="one"), "does not answer one score for each class, but 1 x 1"),
        (lambda: of_shape((8, 8, 3), dtype="int32"), "takes int32 numbers"),
    ],
)
def test_a_model_that_is_no_classifier_of_images(opened, models, model, error):
    (models / "no.tflite").write_bytes(model())
    with pytest.raises(AdaCompressError, match=f"no.tflite {error}"):
        opened("no", None)


@pytest.mark.parametrize(("missing", "labels"), [("absent", "colours.txt"), ("uint8", "absent.txt")])
def test_a_file_that_is_not_there(opened, missing, labels):
    with pytest.raises(AdaCompressError, match=r"absent.* cannot be read: No such file"):
        opened(missing, labels)


def test_there_has_to_be_one_name_for_each_class(opened, models):
    (models / "three.txt").write_text("a\nb\nc\n")
    with pytest.raises(AdaCompressError, match=r"three.txt names 3 classes, but .*uint8.tflite tells 4 apart"):
        opened("uint8", "three.txt")


@pytest.mark.parametrize(
    "query",
    ["mean=3", "std=3", "mean=1&std=0", "crop=0", "crop=1.5", "resize=stretch", "top=0", "threads=0", "channels=rbg"],
)
def test_parameters_out_of_range(query):
    with pytest.raises(ValueError, match=query.partition("&")[0].partition("=")[0]):
        backend(f"litert:model.tflite?{query}")


def test_models_are_read_with_the_function_that_open_is_given(models):
    made = backend("litert:gs://bucket/m.tflite?labels=gs://bucket/l.txt&top=1")
    files = {"gs://bucket/m.tflite": "uint8.tflite", "gs://bucket/l.txt": "colours.txt"}
    pickle.loads(pickle.dumps(made)).open(lambda path: (models / files[path]).read_bytes())
    made.open(lambda path: (models / files[path]).read_bytes())
    assert top(made, queries("green")) == ["green"]


def test_terms(opened):
    terms = opened("uint8").terms
    assert (terms.name, terms.is_local, terms.price, terms.max_batch, len(terms.version)) == ("litert", True, 0, 8, 12)
    assert opened("uint8", threads=2).terms == terms
    versions = [
        opened(name, labels, **parameters).terms.version
        for name, labels, parameters in [
            ("uint8", "colours.txt", {}),
            ("int8", "colours.txt", {}),
            ("uint8", None, {}),
            ("uint8", "colours.txt", {"top": 3}),
            ("uint8", "colours.txt", {"mean": 0, "std": 1}),
            ("uint8", "colours.txt", {"crop": 0.5}),
            ("uint8", "colours.txt", {"resize": "squash"}),
            ("uint8", "colours.txt", {"channels": "bgr"}),
        ]
    ]
    assert len(set(versions)) == 8


def test_without_the_package_the_message_says_what_to_install(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(
        AdaCompressError, match=r"litert needs ai-edge-litert: pip install 'beam-adacompress\[litert\]'"
    ):
        backend(f"litert:{models}/uint8.tflite").open()


def test_tensorflow_is_not_imported(models):
    program = f"""
import sys
from beam_adacompress.backends import backend
from beam_adacompress.backends.contract import Query
made = backend("litert:{models}/uint8.tflite?labels={models}/colours.txt")
assert not any(name.startswith("ai_edge_litert") for name in sys.modules)
made.open()
print(made.label([Query(sys.stdin.buffer.read())], 1.0)[0][0].name)
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], input=queries("blue")[0].data, capture_output=True)
    assert done.stdout.decode().strip() == "blue", done.stderr.decode()


shared = pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is absent: no real networks to try")


@shared
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "least"),
    [("mobilenet_v1_0.25_128_quant", 7), ("mobilenet_v1_0.75_192_quant", 9), ("mobilenet_v2_1.0_224_quant", 11)],
)
@pytest.mark.parametrize("labels", ["", f"?labels={SHARED}/models/imagenet_labels.txt"])
def test_real_networks_recognise_photographs(name, least, labels):
    made = backend(f"litert:{SHARED}/models/{name}.tflite{labels}")
    made.open()
    files = sorted((SHARED / "images" / "imagenet").iterdir())[1:600:40]
    right = 0
    for file in files:
        (answer,) = made.label([Query(file.read_bytes())], 10.0)
        wanted = file.stem.partition("_")[2].replace("_", " ").lower()
        right += wanted in answer[0].name.lower()
    assert len(files) == 15
    assert right >= least
