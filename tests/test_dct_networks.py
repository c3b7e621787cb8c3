from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from beam_adacompress.dct_networks import RGB, VARIANTS, Field, build, receptive_fields
from beam_adacompress.errors import AdaCompressError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
needs_train = "needs tensorflow: pip install 'beam-adacompress[train]'"
tf = pytest.importorskip("tensorflow", reason=needs_train)
keras = pytest.importorskip("keras", reason=needs_train)

NAMES = (
    "RGB",
    "UpSampling",
    "UpSampling-RFA",
    "Deconvolution-RFA",
    "DownSampling",
    "Late-Concat",
    "Late-Concat-RFA",
    "Late-Concat-RFA-Thinner",
)
SIZE, CLASSES = 48, 5  # 3 x 3 blocks of chroma: an odd number


def test_the_networks():
    assert tuple(VARIANTS) == NAMES
    assert RGB == "RGB"


class Summary(NamedTuple):
    shapes: dict[str, tuple[int, ...]]
    trainable: int
    total: int
    gmac: float


def multiply_accumulates(layer: Any) -> int:
    """Of a convolution: its weights without biases, at every output; of a transposed one, at every input."""
    if not hasattr(layer, "kernel"):
        return 0
    positions = layer.input.shape if isinstance(layer, keras.layers.Conv2DTranspose) else layer.output.shape
    return math.prod(layer.kernel.shape) * math.prod(positions[1:-1])


def summary(model: Any) -> Summary:
    return Summary(
        shapes={layer.name: tuple(layer.output.shape[1:]) for layer in model.layers},
        trainable=sum(math.prod(weight.shape) for weight in model.trainable_weights),
        total=model.count_params(),
        gmac=sum(multiply_accumulates(layer) for layer in model.layers) / 1e9,
    )


@pytest.fixture(scope="module")
def full() -> dict[str, Summary]:
    """The paper's networks for 224 pixels and 1000 classes, without values for their 200 million weights."""
    with keras.StatelessScope(initialize_variables=False):
        found = {name: summary(build(name)) for name in NAMES}
    keras.utils.clear_session()  # or the next such scope would give the weights their values
    return found


RES2, RES3, RES4, RES5 = (28, 28, 1024), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)
DCT = {"y": (28, 28, 64), "cbcr": (14, 14, 128), "res5c": RES5, "avg_pool": (2048,), "fc1000": (1000,)}
DOUBLED = {**DCT, "concat": (28, 28, 192), "bn_inputs": (28, 28, 192), "res3d": RES3, "res4a": RES4, "res4f": RES4}
LATE = {**DCT, "res4a": (14, 14, 512), "res4x": (14, 14, 512), "concat": RES4, "res4b": RES4, "res4f": RES4}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "RGB",
            {
                "rgb": (224, 224, 3),
                "conv1": (112, 112, 64),
                "pool1": (55, 55, 64),
                "res2c": (55, 55, 256),
                "res3d": (28, 28, 512),
                "res4f": (14, 14, 1024),
                "res5c": (7, 7, 2048),
                "fc1000": (1000,),
            },
        ),
        ("UpSampling", {**DOUBLED, "upsample": (28, 28, 128), "res3a": RES3}),
        ("UpSampling-RFA", {**DOUBLED, "upsample": (28, 28, 128), "res2a": RES2, "res2c": RES2}),
        ("Deconvolution-RFA", {**DOUBLED, "conv_cb_upsample": (28, 28, 64), "conv_cr_upsample": (28, 28, 64)}),
        (
            "DownSampling",
            {
                **DCT,
                "conv_y": (14, 14, 256),
                "concat": (14, 14, 384),
                "res2c": (14, 14, 1024),
                "res3d": (14, 14, 512),
                "res4f": (14, 14, 1024),
            },
        ),
        ("Late-Concat", {**LATE, "bn_y": (28, 28, 64), "bn_cbcr": (14, 14, 128), "res3a": RES3, "res3d": RES3}),
        ("Late-Concat-RFA", {**LATE, "res2a": RES2, "res2c": RES2, "res3d": RES3}),
        (
            "Late-Concat-RFA-Thinner",
            {
                **LATE,
                "res2a_branch2a": (28, 28, 96),
                "res2c": (28, 28, 384),
                "res3a_branch2b": (28, 28, 96),
                "res3d": (28, 28, 384),
                "res4a_branch2a": (14, 14, 192),
                "res4a": (14, 14, 768),
                "res4x_branch2a": (14, 14, 128),
                "res4x": (14, 14, 256),
            },
        ),
    ],
)
def test_shapes_of_the_paper(full, name, shapes):
    assert {layer: full[name].shapes[layer] for layer in shapes} == shapes


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("UpSampling", {"conv1", "res2a", "res4x"}),
        ("DownSampling", {"upsample", "res4x"}),
        ("Late-Concat", {"res2a", "upsample"}),
        ("Late-Concat-RFA", {"upsample", "bn_inputs"}),
    ],
)
def test_layers_that_a_network_does_without(full, name, absent):
    assert not absent & set(full[name].shapes)


@pytest.mark.parametrize(
    ("name", "trainable", "normalisation", "gmac"),
    [
        ("RGB", 25_583_592, 53_120, 3.83),
        ("UpSampling", 25_316_200, 50_560, 3.04),
        ("UpSampling-RFA", 28_339_560, 61_824, 5.40),
        ("Deconvolution-RFA", 28_372_456, 61_824, 5.40),
        ("DownSampling", 28_651_496, 62_208, 3.00),
        ("Late-Concat", 25_137_512, 51_584, 2.96),
        ("Late-Concat-RFA", 28_078_952, 62_848, 5.25),
        ("Late-Concat-RFA-Thinner", 24_705_832, 53_248, 2.89),
    ],
)
def test_parameters_and_work(full, name, trainable, normalisation, gmac):
    assert (full[name].trainable, full[name].total) == (trainable, trainable + normalisation)
    assert full[name].gmac == pytest.approx(gmac, abs=0.006)


def test_the_network_on_pixels_has_the_parameters_of_keras_own(full):
    assert full["RGB"].total == 25_636_712


# What the paper's plots say, as pixels / stride.
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RGB", "input 1/1, conv1 7/2, pool1 11/4, res2c 35/4, res3d 99/8, res4f 291/16, res5c 483/32"),
        ("UpSampling", "input 8/8, res3a 24/8, res3d 72/8, res4a 104/16, res4f 264/16, res5c 456/32"),
        ("UpSampling-RFA", "res2a 8/8, res2b 16/8, res2c 32/8, res3d 96/8, res4f 288/16, res5c 480/32"),
        ("Deconvolution-RFA", "res2a 8/8, res2b 16/8, res2c 32/8, res3d 96/8, res4f 288/16, res5c 480/32"),
        ("DownSampling", "input 8/8, conv_y 16/16, res2c 64/16, res3d 192/16, res4f 384/16, res5c 576/32"),
        ("Late-Concat", "res3d 72/8, res4a 104/16, res4x 16/16, res4f 264/16, res5c 456/32"),
        ("Late-Concat-RFA", "res2c 32/8, res3d 96/8, res4a 128/16, res4x 16/16, res4f 288/16, res5c 480/32"),
        ("Late-Concat-RFA-Thinner", "res2c 32/8, res3d 96/8, res4a 128/16, res4x 16/16, res4f 288/16, res5c 480/32"),
    ],
)
def test_receptive_fields_of_the_paper(name, fields):
    found = receptive_fields(name)
    stages = [entry.split()[0] for entry in fields.split(", ")]
    assert ", ".join(f"{stage} {found[stage].pixels}/{found[stage].stride}" for stage in stages) == fields


def test_strides_are_those_of_the_shapes(full):
    for name in NAMES:
        fields = {layer: field for layer, field in receptive_fields(name).items() if layer in full[name].shapes}
        sides = {layer: full[name].shapes[layer][0] for layer in fields}
        assert sides == {layer: 224 // field.stride - (field.stride == 4) for layer, field in fields.items()}


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    keras.utils.set_random_seed(7)
    return {name: build(name, CLASSES, SIZE, width=1 / 8) for name in NAMES}


def fed(model: Any, count: int = 4) -> Any:
    """What the network takes: the list of y and cbcr, or pixels."""
    random = np.random.default_rng(1)
    arrays = [random.normal(0, 30, (count, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("RGB", {"rgb": (48, 48, 3), "conv1": (24, 24, 8), "pool1": (11, 11, 8), "res2c": (11, 11, 32)}),
        ("UpSampling", {"y": (6, 6, 64), "cbcr": (3, 3, 128), "concat": (6, 6, 192), "res3d": (6, 6, 64)}),
        ("UpSampling-RFA", {"concat": (6, 6, 192), "res2c": (6, 6, 128), "res4f": (3, 3, 128)}),
        ("Deconvolution-RFA", {"conv_cr_upsample": (6, 6, 64), "res2c": (6, 6, 128)}),
        ("DownSampling", {"conv_y": (3, 3, 256), "concat": (3, 3, 384), "res2c": (3, 3, 128), "res3d": (3, 3, 64)}),
        ("Late-Concat", {"res3d": (6, 6, 64), "res4a": (3, 3, 64), "res4x": (3, 3, 64), "concat": (3, 3, 128)}),
        ("Late-Concat-RFA", {"res2c": (6, 6, 128), "res4x": (3, 3, 64), "concat": (3, 3, 128)}),
        ("Late-Concat-RFA-Thinner", {"res2c": (6, 6, 48), "res4a": (3, 3, 96), "res4x": (3, 3, 32)}),
    ],
)
def test_shapes_of_small_networks(small, name, shapes):
    shapes = {**shapes, "res5a": (2, 2, 256), "res5c": (2, 2, 256), "avg_pool": (256,), "fc5": (5,)}
    assert {layer: tuple(small[name].get_layer(layer).output.shape[1:]) for layer in shapes} == shapes


def test_parameters_of_a_width_by_hand():
    # At 1/32 the stages have 4 and 16, 8 and 32, 16 and 64 channels; each convolution is followed by a normalisation of
    # 2 trainable and 2 other numbers a channel, and has a bias. The weights of ConvBlocks: 3 + 1 convolutions.
    def convolution(before: int, after: int, kernel: int = 1) -> int:
        return before * after * kernel**2 + after + 4 * after

    def bottleneck(before: int, inner: int, outer: int) -> int:
        return convolution(before, inner) + convolution(inner, inner, 3) + convolution(inner, outer)

    third = bottleneck(192, 4, 16) + convolution(192, 16) + 3 * bottleneck(16, 4, 16)
    fourth = bottleneck(16, 8, 32) + convolution(16, 32) + 5 * bottleneck(32, 8, 32)
    fifth = bottleneck(32, 16, 64) + convolution(32, 64) + 2 * bottleneck(64, 16, 64)
    by_hand = 4 * 192 + third + fourth + fifth + 64 * 3 + 3
    with keras.StatelessScope(initialize_variables=False):
        found = build("UpSampling", classes=3, size=16, width=1 / 32).count_params()
    keras.utils.clear_session()
    assert found == by_hand


# A batch normalisation takes the mean away, and with it what was added to all alike.
UNDONE = ("bn_inputs/beta", "bn_y/beta", "bn_cbcr/beta")


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_weight(small, name):
    model = small[name]
    with tf.GradientTape() as tape:
        answers = model(fed(model), training=True)
        loss = keras.losses.SparseCategoricalCrossentropy()(np.arange(4), answers)
    gradients = tape.gradient(loss, model.trainable_weights)
    assert all(gradient is not None for gradient in gradients)
    largest = {w.path: float(np.abs(g).max()) for w, g in zip(model.trainable_weights, gradients)}
    assert all(math.isfinite(size) for size in largest.values())
    paths = [path for path in largest if path != "fc5/bias"]
    assert {path for path in largest if largest[path] < 1e-3} == {
        path for path in paths if path.endswith("/bias") or path in UNDONE
    }


def probabilities(model: Any, given: Any) -> np.ndarray:
    answers = np.asarray(model(given))
    assert answers.shape == (4, CLASSES)
    assert answers.min() >= 0
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    return answers


def test_answers_of_pixels_are_probabilities(small):
    probabilities(small["RGB"], fed(small["RGB"]))


@pytest.mark.parametrize("name", NAMES[1:])
def test_answers_are_probabilities_and_depend_on_each_plane(small, name):
    y, cbcr = (array.repeat(4, axis=0) for array in fed(small[name], count=1))
    y[1] *= -1
    cbcr[2, ..., :64] *= -1
    cbcr[3, ..., 64:] *= -1
    answers = probabilities(small[name], [y, cbcr])
    assert np.abs(answers[1:] - answers[0]).max(axis=1).min() > 1e-4


def test_the_blocks_see_what_the_recursion_says(small):
    # One output cell in, the gradient shows which cells of Y it sees; kernel 2 looks down and to the right.
    model = small["Late-Concat-RFA"]
    y, cbcr = (tf.constant(array) for array in fed(model, count=1))
    seen = {}
    for block in ("res2a", "res2b", "res2c", "res3a"):
        part = keras.Model(model.inputs, model.get_layer(block).output)
        with tf.GradientTape() as tape:
            tape.watch(y)
            answer = tf.reduce_sum(part([y, cbcr])[0, 2, 2])
        rows = np.abs(tape.gradient(answer, y)[0]).sum(axis=(1, 2))
        seen[block] = np.flatnonzero(rows).tolist()
    assert seen == {"res2a": [2], "res2b": [2, 3], "res2c": [1, 2, 3, 4], "res3a": [0, 1, 2, 3, 4, 5]}
    assert {block: Field(8 * len(cells), 8) for block, cells in seen.items()} == {
        block: receptive_fields("Late-Concat-RFA")[block] for block in seen
    }


def test_chroma_is_copied_beside_the_luma(small):
    model = small["UpSampling"]
    y, cbcr = fed(model, count=1)
    joined = np.asarray(keras.Model(model.inputs, model.get_layer("concat").output)([y, cbcr]))
    np.testing.assert_array_equal(joined[..., :64], y)
    np.testing.assert_array_equal(joined[..., 64:], cbcr.repeat(2, axis=1).repeat(2, axis=2))


def test_cb_and_cr_are_deconvolved_apart(small):
    model = small["Deconvolution-RFA"]
    y, cbcr = fed(model, count=1)
    concat = keras.Model(model.inputs, model.get_layer("concat").output)
    before = np.asarray(concat([y, cbcr]))
    cbcr[..., 100] += 1  # one of Cr's
    changed = np.flatnonzero((np.asarray(concat([y, cbcr])) != before).any(axis=(0, 1, 2)))
    assert changed.tolist() == list(range(128, 192))


def test_a_saved_network_answers_the_same(small, tmp_path):
    model = small["Deconvolution-RFA"]  # one is slow enough: it has all that Keras could save wrong, such as the split
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(loaded(fed(model)), model(fed(model)))


def test_names_are_those_of_the_plots(small):
    assert small["Late-Concat-RFA-Thinner"].name == "late_concat_rfa_thinner"
    convolutions = [layer.name for layer in small["Late-Concat"].layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 46
    assert {"res3a_branch1", "res4a_branch2a", "res4x_branch2b", "res4b_branch2c", "res5c_branch2c"} <= {*convolutions}
    assert "res4b_branch1" not in convolutions  # no projection after the concat


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"variant": "late-concat"}, f"'late-concat' is no network: choose one of {', '.join(NAMES)}$"),
        ({"variant": "RGB", "size": 100}, "size is 100, but must be a multiple of 16: chroma blocks cover 16 x 16"),
        ({"variant": "UpSampling", "size": 0}, "size is 0, but must be a multiple of 16"),
        ({"variant": "UpSampling", "size": -16}, "size is -16, but must be a multiple of 16"),
        ({"variant": "UpSampling", "classes": 1}, "classes is 1, but must be at least 2"),
        ({"variant": "UpSampling", "width": 0.3}, "width is 0.3, but must be a multiple of 1/32"),
        ({"variant": "UpSampling", "width": 0}, "width is 0, but must be a multiple of 1/32"),
        ({"variant": "UpSampling", "width": -0.5}, "width is -0.5, but must be a multiple of 1/32"),
    ],
)
def test_what_cannot_be_built(arguments, error):
    with pytest.raises(ValueError, match=error):
        build(**arguments)


def test_receptive_fields_of_an_unknown_network():
    with pytest.raises(ValueError, match="'ResNet' is no network: choose one of RGB, UpSampling, "):
        receptive_fields("ResNet")


def test_without_keras_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(AdaCompressError, match=r"dct_networks needs keras: pip install 'beam-adacompress\[train\]'"):
        build("UpSampling")


def run(script: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ELSEWHERE = """
import sys
import keras, numpy as np
from beam_adacompress.dct_networks import VARIANTS, build
path, arrays = sys.argv[1], np.load(sys.argv[2])
with keras.StatelessScope(initialize_variables=False):
    assert all(build(name, classes=3).output.shape == (None, 3) for name in VARIANTS)
keras.utils.clear_session()
model = keras.models.load_model(path, compile=False, safe_mode=True)
model = keras.Model(model.inputs, model.get_layer("avg_pool").output)
features = keras.ops.convert_to_numpy(model([arrays["y"], arrays["cbcr"]]))
np.testing.assert_allclose(features, arrays["features"], atol=1e-4 * features.max())
print(keras.backend.backend())
"""


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_other_backends_of_keras_build_them_and_answer_the_same(small, framework, tmp_path: Path):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed: Keras can only be tried on TensorFlow")
    model = small["Deconvolution-RFA"]  # it has an even kernel, transposed convolutions and the split
    y, cbcr = fed(model)
    model.save(tmp_path / "network.keras")
    # Before the softmax, which hides small differences where it is sure.
    features = keras.Model(model.inputs, model.get_layer("avg_pool").output)([y, cbcr])
    np.savez(tmp_path / "arrays.npz", y=y, cbcr=cbcr, features=features)
    answered = run(ELSEWHERE, tmp_path / "network.keras", tmp_path / "arrays.npz", KERAS_BACKEND=framework)
    assert answered == framework
