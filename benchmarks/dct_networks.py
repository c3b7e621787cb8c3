"""Accuracy and speed of the ResNet-50 variants on DCT input beside ResNet-50 on pixels, from the same JPEG files.

    python benchmarks/dct_networks.py --images ../shared/data/images/clothing --only train
    python benchmarks/dct_networks.py --images ../shared/data/images/clothing --only time

Every photograph (its folder is its class) is brought to one square size and encoded as JPEG, quality 90, 4:2:0, in
memory: all networks start from those bytes. One thread, no GPU; run it under `nice` where others work.

`train` gives each network the same images, flips, shifts by 16 pixels, order, schedule and number of epochs, from
random weights: SGD with Nesterov momentum 0.9 and cosine decay after one epoch of warm-up. Coefficients are flipped and
shifted as they are, exactly as the pixels are. Intervals are Wilson's; those of differences come from resampling the
images held out, and do not cover what another seed would change: give several with `--seeds`.

`time` takes turns between the networks, with random weights, at two sizes: that of `train`, and the paper's, where
Keras' own ResNet50 is the baseline. Decoding is simplejpeg for pixels and `geometry.view` for coefficients, a file at a
time; networks take batches, as graphs of TensorFlow or, with `--runtime litert`, images one by one on LiteRT.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import simplejpeg
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageOps
from throughput import files_below

from beam_adacompress import jpeg
from beam_adacompress.dct_networks import GRID, RGB, VARIANTS, build
from beam_adacompress.estimates import WeightedSums
from beam_adacompress.jpeg.geometry import turned, view

# The paper's fastest at ResNet-50's accuracy, and its images/s on a GPU, as a ratio.
PAPERS_BEST, PAPERS_RATIO = "Late-Concat-RFA-Thinner", 1.77
KERAS = "ResNet50 of Keras"
QUALITY = 90
BATCH = 8  # of timing
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # cpu: of all threads of the process
MARGIN = 2 * GRID  # pixels by which training images are larger than the networks' input, for shifts
HELD_OUT = 0.25
MOMENTUM, DECAY = 0.9, 1e-4  # weight decay: twice the factor of L2, 5e-5

Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="photographs, in a folder for each class")
    parser.add_argument("--only", choices=["train", "time"])
    parser.add_argument("--networks", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="beside RGB")
    parser.add_argument("--size", type=int, default=64, help="of the trained networks' input in pixels")
    parser.add_argument("--width", type=float, default=0.25, help="of the trained networks")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="of training")
    parser.add_argument("--rate", type=float, default=0.02, help="of learning, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="the first also says which are held out")
    parser.add_argument("--full-size", type=int, default=224, help="of the input at full width, in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--count", type=int, default=16, help="images a round and network, in batches of 8")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where the machine is busy")
    parser.add_argument("--runtime", choices=["tensorflow", "litert"], default="tensorflow")
    options = parser.parse_args()
    options.networks = [name for name in VARIANTS if name in {RGB, *options.networks}]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    files = files_below(options.images)
    if options.only != "time":
        report_accuracy(files, options)
    if options.only != "train":
        data = [path.read_bytes() for path in files[:: max(1, len(files) // options.count)][: options.count]]
        report_speed(data, options.size, options.width, len({path.parent for path in files}), options)
        report_speed(data, options.full_size, 1.0, 1000, options)


def squared(data: bytes, size: int) -> bytes:
    """The centre of a photograph as a square JPEG."""
    image = ImageOps.fit(jpeg.open_image(data).pixels().convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def decoded(data: bytes, name: str, size: int) -> tuple[Array, ...]:
    """What a network takes of a file: pixels, or Y and CbCr."""
    if name in (RGB, KERAS):
        return (simplejpeg.decode_jpeg(data, "RGB"),)
    return view(data, size // 8, size // 8)


# Accuracy


class Data(NamedTuple):
    """The images as one kind of network takes them, larger by MARGIN."""

    planes: list[Array]  # images x rows x columns x channels: uint8 pixels, or int16 coefficients of Y and of CbCr
    labels: Array
    held_out: Array  # for each image, whether it is


def report_accuracy(files: list[Path], options: argparse.Namespace) -> None:
    classes = sorted({path.parent.name for path in files})
    labels = np.array([classes.index(path.parent.name) for path in files])
    held_out = split(labels, options.seeds[0])
    squares = [squared(path.read_bytes(), options.size + MARGIN) for path in files]
    commonest = np.bincount(labels[held_out]).max() / held_out.sum()
    print(
        f"{len(files)} images of {len(classes)} classes, {held_out.sum()} of them held out ({commonest:.1%} are of the "
        f"commonest class); {options.size} x {options.size} pixels, width {options.width:g}, {options.epochs} epochs "
        f"with batches of {options.batch}, rate {options.rate:g}, seeds {' '.join(map(str, options.seeds))}"
    )
    print(f"{'network':24} {'accuracy':>9} {'95 %':>14}   {'minus RGB':>9} {'95 %':>16}   {'parameters':>10}   seconds")
    right: dict[str, Array] = {}
    for name in options.networks:
        data = Data(cached(squares, name, options.size + MARGIN), labels, held_out)
        start = time.perf_counter()
        runs = [trained(name, data, len(classes), seed, options) for seed in options.seeds]
        right[name] = np.mean([answers for answers, _ in runs], axis=0)  # of each image: the share of the seeds
        seconds = (time.perf_counter() - start) / len(runs)
        print(f"{name:24} {accuracy(right[name], right[RGB])}   {runs[0][1]:10,}   {seconds:7.0f}", flush=True)
    print(judgement(right))


def split(labels: Array, seed: int) -> Array:
    """Which images are held out: the same share of each class."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(HELD_OUT * len(members))]] = True
    return held_out


def cached(squares: list[bytes], name: str, size: int) -> list[Array]:
    planes = [np.stack(plane) for plane in zip(*(decoded(data, name, size) for data in squares))]
    # Dequantised coefficients are whole numbers.
    return planes if planes[0].dtype == np.uint8 else [plane.astype(np.int16) for plane in planes]


def trained(name: str, data: Data, classes: int, seed: int, options: argparse.Namespace) -> tuple[Array, int]:
    """Trains a network.

    Returns:
      For each held-out image whether its class was found, and the number of the network's parameters.
    """
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    model = build(name, classes, options.size, options.width)
    training = np.flatnonzero(~data.held_out)
    steps = math.ceil(len(training) / options.batch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, options.epochs - 1) * steps, warmup_target=options.rate, warmup_steps=steps
    )
    optimizer = keras.optimizers.SGD(rate, MOMENTUM, nesterov=True, weight_decay=DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    for _ in range(options.epochs):
        order = random.permutation(training)
        planes = [plane[order] for plane in data.planes]
        shifts, flips = random.integers(0, MARGIN // GRID + 1, (len(order), 2)), random.random(len(order)) < 0.5
        inputs = fed([cut(plane, shifts, flips) for plane in planes])
        model.fit(inputs, data.labels[order], options.batch, shuffle=False, verbose=0)
    centre = np.full((int(data.held_out.sum()), 2), MARGIN // GRID // 2)
    seen = [cut(plane[data.held_out], centre, centre[:, 0] < 0) for plane in data.planes]
    answers = model.predict(fed(seen), batch_size=options.batch, verbose=0).argmax(-1)
    parameters = model.count_params()
    keras.utils.clear_session()
    return answers == data.labels[data.held_out], parameters


def fed(planes: list[Array]) -> Any:
    return planes if len(planes) > 1 else planes[0]


def cut(plane: Array, shifts: Array, flips: Array) -> Array:
    """The networks' input of each image, shifted by so many times 16 pixels down and across, and flipped or not."""
    cells = {3: GRID, 64: 2, 128: 1}[plane.shape[-1]]  # of 16 pixels
    side = plane.shape[1] - MARGIN // GRID * cells
    found = np.empty((len(plane), side, side, plane.shape[-1]), np.float32)
    for place, image, (down, across), flip in zip(found, plane, shifts * cells, flips):
        inner = image[down : down + side, across : across + side]
        place[:] = mirrored(inner) if flip else inner
    return found


def mirrored(image: Array) -> Array:
    """Left becomes right."""
    if image.shape[-1] == 3:
        return image[:, ::-1]
    components = np.split(image, image.shape[-1] // 64, axis=-1)
    return np.concatenate([turned(component, across=True) for component in components], axis=-1)


def accuracy(right: Array, beside: Array) -> str:
    sums = WeightedSums()
    for share in right:
        sums.add(float(share), 1.0)
    mean, low, high = (100 * value for value in sums.share_interval() or ())
    gain, least, most = (100 * value for value in difference(right, beside))
    between = f"{gain:+9.1f} {f'{least:+.1f} to {most:+.1f}':>16}"
    return f"{mean:7.1f} % {f'{low:.1f} to {high:.1f}':>14}   {between}"


def difference(right: Array, beside: Array) -> tuple[float, float, float]:
    """Of two networks' accuracies on the same images, with its 95 % interval from a bootstrap over them."""
    gains = right.astype(float) - beside
    samples = gains[np.random.default_rng(0).integers(0, len(gains), (2000, len(gains)))].mean(1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(gains.mean()), float(low), float(high)


def judgement(right: dict[str, Array]) -> str:
    found: dict[str, list[str]] = {"more accurate than": [], "less accurate than": [], "no difference shown to": []}
    for name in [name for name in right if name != RGB]:
        _, low, high = difference(right[name], right[RGB])
        found["more accurate than" if low > 0 else "less accurate than" if high < 0 else [*found][2]].append(name)
    return "; ".join(f"{what} RGB: {', '.join(names) or 'none'}" for what, names in found.items())


# Speed


class Subject(NamedTuple):
    """A network to be timed."""

    name: str
    parameters: int
    macs: int  # multiply-accumulates an image
    decode: Callable[[bytes], tuple[Array, ...]]
    answer: Callable[[list[Array]], Any]  # of a batch


class Times(NamedTuple):
    """Images per second."""

    network: float
    decoding: float
    both: float


def report_speed(photographs: list[bytes], size: int, width: float, classes: int, options: argparse.Namespace) -> None:
    files = [squared(data, size) for data in photographs]
    names = [KERAS, *options.networks] if width == 1 else options.networks
    baseline = names[0]
    subjects = [subject(name, classes, size, width, options.runtime) for name in names]
    times: dict[str, list[Times]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for each in subjects:
            times[each.name].append(timed(each, files, CLOCKS[options.clock]))
    print(
        f"\n{size} x {size} pixels, width {width:g}, {options.runtime}, one thread, {options.clock} time; "
        f"{options.rounds} rounds of {len(files)} images; medians of images/s, and of ratios to {baseline} in the same "
        "round (range)"
    )
    columns = ("network alone", "decoding alone", "end to end from JPEG")
    print(f"{'':24} {'parameters':>10} {'GMAC':>6}" + "".join(f"{column:>32}" for column in columns))
    for each in subjects:
        cells = "".join(f"{cell(times[each.name], times[baseline], kind):>32}" for kind in Times._fields)
        print(f"{each.name:24} {each.parameters:10,} {each.macs / 1e9:6.3f}{cells}")
    print(verdict(subjects, times, baseline))


def subject(name: str, classes: int, size: int, width: float, runtime: str) -> Subject:
    if name == KERAS:
        model = keras.applications.ResNet50(weights=None, input_shape=(size, size, 3), classes=classes)
    else:
        model = build(name, classes, size, width)
    macs = sum(multiply_accumulates(layer) for layer in model.layers)
    answer = on_litert(model) if runtime == "litert" else on_tensorflow(model)
    made = Subject(name, model.count_params(), macs, lambda data: decoded(data, name, size), answer)
    made.answer([np.zeros((BATCH, *place.shape[1:]), np.float32) for place in model.inputs])  # traces, allocates
    return made


def multiply_accumulates(layer: Any) -> int:
    """Of a convolution: its weights without biases, at every output; of a transposed one, at every input."""
    if not hasattr(layer, "kernel"):
        return 0
    positions = layer.input.shape if isinstance(layer, keras.layers.Conv2DTranspose) else layer.output.shape
    return math.prod(layer.kernel.shape) * math.prod(positions[1:-1])


def on_tensorflow(model: Any) -> Callable[[list[Array]], Any]:
    graph = tf.function(lambda *planes: model(fed(list(planes)), training=False))
    return lambda planes: graph(*map(tf.constant, planes)).numpy()


def on_litert(model: Any) -> Callable[[list[Array]], Any]:
    from ai_edge_litert.interpreter import Interpreter

    with contextlib.redirect_stdout(io.StringIO()):  # it says much
        converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = Interpreter(model_content=converted, num_threads=1)
    interpreter.allocate_tensors()
    places = {int(place["shape"][-1]): place["index"] for place in interpreter.get_input_details()}

    def answer(planes: list[Array]) -> Any:
        for image in zip(*planes):
            for plane in image:
                interpreter.set_tensor(places[plane.shape[-1]], plane[np.newaxis])
            interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return answer


def timed(each: Subject, files: list[bytes], clock: Callable[[], float]) -> Times:
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    ready: list[list[Array]] = []

    def rate(work: Callable[[], object]) -> float:
        start = clock()
        work()
        return len(files) / (clock() - start)

    decoding = rate(lambda: ready.extend(batched(each, batch) for batch in batches))
    network = rate(lambda: [each.answer(planes) for planes in ready])
    return Times(network, decoding, rate(lambda: [each.answer(batched(each, batch)) for batch in batches]))


def batched(each: Subject, files: list[bytes]) -> list[Array]:
    return [np.stack(plane).astype(np.float32) for plane in zip(*map(each.decode, files))]


def ratios(times: list[Times], baseline: list[Times], kind: str) -> list[float]:
    return [getattr(ours, kind) / getattr(theirs, kind) for ours, theirs in zip(times, baseline)]


def cell(times: list[Times], baseline: list[Times], kind: str) -> str:
    found = ratios(times, baseline, kind)
    speed = statistics.median(getattr(each, kind) for each in times)
    return f"{speed:8.4g}  {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def verdict(subjects: list[Subject], times: dict[str, list[Times]], baseline: str) -> str:
    macs = {each.name: each.macs for each in subjects}
    if PAPERS_BEST not in macs:
        return f"without {PAPERS_BEST} there is nothing to compare with the paper"

    def ratio(name: str, kind: str) -> float:
        return statistics.median(ratios(times[name], times[baseline], kind))

    fastest = max((name for name in macs if name not in (RGB, KERAS)), key=lambda name: ratio(name, "both"))
    return (
        f"{PAPERS_BEST} answers {ratio(PAPERS_BEST, 'network'):.2f} times as many images/s as {baseline}, and "
        f"{ratio(PAPERS_BEST, 'both'):.2f} times as many from JPEG to answer, on one CPU thread; in the paper, on a "
        f"GPU, {PAPERS_RATIO} times. It needs {macs[PAPERS_BEST] / macs[baseline]:.2f} times the multiply-accumulates; "
        f"its coefficients are read at {ratio(PAPERS_BEST, 'decoding'):.2f} times the speed of pixels. From JPEG to "
        f"answer the fastest is {fastest}: {ratio(fastest, 'both'):.2f} times."
    )


if __name__ == "__main__":
    main()
