"""Whether Feature Distillation defends: accuracy of a small network on clean and on attacked photographs.

    nice -n 5 python benchmarks/feature_distillation.py --images ../shared/data/images/clothing
    nice -n 5 python benchmarks/feature_distillation.py --images ... --seed 1 --epochs 60

`--images` holds one folder for each class. A hash of the path splits the photographs into a part for training, one for
validation (the weights of the best epoch are kept) and one for testing. Every number is of all test images, not of
those that the network happens to know, with Wilson's 95 % interval. The network is trained here from nothing, on
photographs as they are, and never on attacked ones or on results of a defence. It is small and sees 96 px, where a
block of 8 x 8 holds more of the picture than at the 224 or 299 px of ImageNet's networks. What is found here is found
for this network: where in the DCT its attacks lie is printed, and a network that leans on finer detail may differ.

Attacks know the network and not the defence ("oblivious"), work on the pixels that the network sees, and are rounded to
8 bits, as files are, before any defence:

- FGSM: one step of eps along the sign of the gradient; eps in levels of 255.
- BIM: ten such steps of eps / 5, kept within eps.
- C&W: Carlini and Wagner's L2 attack: 30 steps of Adam with one weight on the class, not a search over weights, and
  clipping instead of tanh variables; it needs more distortion than it could. The confidence is a margin of logits.

Defences:

- JPEG 75, 50, 25: the standard's tables, written by this project's encoder at 4:2:0.
- distil: one pass, at the decoder: `fitting.distil` with the authors' steps, on R, G and B; no file.
- FD JPEG 50: one pass, the same table in a real JPEG: the family `feature-distillation`, 4:2:0.
- FD 1/41: a third party's parameters: step 1 for 15 bands of lowest frequency, 41 for the others; JPEG at 4:4:4.
- two-pass: every image is compressed by a DNN-oriented table first, the attack is made on the result (the attacker
  gets what was stored), and `distil` stands before the network. First pass "distil": the same function twice, as the
  authors' code has it. First pass "FD JPEG": the family in a real JPEG at 4:4:4, as a user of this package would have
  it; its bins are of Y, Cb and Cr, those of the second pass of R, G and B. "First pass alone" has no second one.

One row is adaptive: BIM that sees the output of `distil` at every step and takes the gradient there for the gradient at
its input (BPDA, straight through). It shows what the others do not: nothing here is a promise against an attacker who
knows the defence.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from throughput import files_below

from beam_adacompress import jpeg
from beam_adacompress.estimates import Interval, WeightedSums
from beam_adacompress.jpeg.bands import basis, blocks
from beam_adacompress.jpeg.fitting import ZIGZAG, FeatureDistillation, distil
from beam_adacompress.jpeg.tables import FEATURE_DISTILLATION, Quantisation
from beam_adacompress.sampling import draw

Pixels = NDArray[np.uint8]  # images x side x side x 3
Levels = NDArray[np.float32]  # the same, 0..255, not rounded
Labels = NDArray[np.int64]
Defence = Callable[[Pixels], Pixels]
Correct = Mapping[str, NDArray[np.bool_]]  # by attack: whether the network answers rightly, for each test image

SIDE = 96  # pixels; photographs are squeezed into a square
TEST, VALIDATION = 0.25, 0.08  # shares of the photographs
BATCH = 32
STRENGTHS = (2, 4, 8, 16)  # levels of 255
BIM_STEPS = 10
CONFIDENCES = (0.0, 2.0)
CW_STEPS, CW_RATE, CW_WEIGHT = 30, 0.005, 10.0
CLAIMED_ATTACKED, CLAIMED_DEFENDED, CLAIMED_LOSS = 0.20, 0.90, 0.01  # of the paper's abstract
NONE, ONE_PASS, ADAPTIVE = "none", "distil", "distil, adaptive"
ALONE, TWO_PASS = "first pass alone: ", "two-pass: "  # and the name of the first pass


@dataclasses.dataclass(frozen=True)
class Part:
    """Photographs of one part of the split."""

    pixels: Pixels
    labels: Labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder with one folder of photographs per class")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the first weights and the training")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(options.seed)
    start = time.perf_counter()
    training, validation, test, classes = load(options.images, options.seed)
    model = network(len(classes))
    best = train(model, training, validation, options.epochs, options.seed)
    counts = f"{len(training.labels)} to train, {len(validation.labels)} to validate, {len(test.labels)} to test"
    print(f"photographs: {counts}; {len(classes)} classes, the largest {np.bincount(test.labels).max()} of the test")
    print(f"network: {model.count_params()} weights, {SIDE} px, {best:.1%} of validation at the best epoch", flush=True)
    report(Attacker(model), test)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


def load(folder: Path, seed: int) -> tuple[Part, Part, Part, list[str]]:
    """Parts for training (larger, to be cropped), validation and testing, and the names of the classes."""
    files = files_below(folder)
    classes = sorted({path.parent.name for path in files})
    parts: list[list[Path]] = [[], [], []]
    for path in files:
        place = draw(path.relative_to(folder).as_posix(), f"split-{seed}")
        parts[2 if place < TEST else 1 if place < TEST + VALIDATION else 0].append(path)

    def part(paths: list[Path], side: int) -> Part:
        pictures = [Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for path in paths]
        labels = [classes.index(path.parent.name) for path in paths]
        return Part(np.stack([np.asarray(picture) for picture in pictures]), np.array(labels))

    return part(parts[0], SIDE * 4 // 3), part(parts[1], SIDE), part(parts[2], SIDE), classes


def network(classes: int) -> Any:
    """Five convolutions on 4 x 4 patches, logits out; it takes levels, 0..255."""
    layers = keras.layers
    given = keras.Input((SIDE, SIDE, 3))
    rows = SIDE // 4
    values = layers.Reshape((rows, 4, rows, 12))(layers.Rescaling(1 / 64, -2.0)(given))
    values = layers.Reshape((rows, rows, 48))(layers.Permute((1, 3, 2, 4))(values))
    for width, stride in ((40, 1), (80, 2), (80, 1), (160, 2), (160, 1)):
        values = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(values)
        values = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(values))
    values = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(values))
    return keras.Model(given, layers.Dense(classes)(values))


def train(model: Any, training: Part, validation: Part, epochs: int, seed: int) -> float:
    """Trains with random crops, flips and colours; returns the best accuracy of validation."""
    random = np.random.default_rng(seed)
    classes = model.output_shape[-1]
    steps = len(training.labels) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        3e-4, epochs * steps * 9 // 10, warmup_target=3e-3, warmup_steps=epochs * steps // 10
    )
    optimiser = keras.optimizers.AdamW(rate, weight_decay=0.05)
    model.compile(optimiser, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.05))
    best, weights = -1.0, model.get_weights()
    for _ in range(epochs):
        order = random.permutation(len(training.labels))
        for step in range(steps):
            model.train_on_batch(*augmented(training, order[step * BATCH : (step + 1) * BATCH], classes, random))
        reached = float((predict(model, validation.pixels) == validation.labels).mean())
        if reached >= best:
            best, weights = reached, model.get_weights()
    model.set_weights(weights)
    return best


def augmented(part: Part, chosen: Labels, classes: int, random: np.random.Generator) -> tuple[Levels, Levels]:
    """A batch for training: crops of 70 to 100 % of each side, half of them mirrored, recoloured."""
    count = len(chosen)
    size = random.uniform(0.7, 1, (count, 2))
    corner = random.uniform(0, 1, (count, 2)) * (1 - size)
    boxes = np.concatenate([corner, corner + size], axis=1)
    boxes[::2] = boxes[::2][:, [0, 3, 2, 1]]
    crops = tf.image.crop_and_resize(part.pixels[chosen].astype(np.float32), boxes, np.arange(count), (SIDE, SIDE))
    values = np.asarray(crops)
    mean = values.mean((1, 2, 3), keepdims=True)
    gain = random.uniform(0.8, 1.2, (count, 1, 1, 1)) * random.uniform(0.93, 1.07, (count, 1, 1, 3))
    values = np.clip((values - mean) * gain + mean + random.uniform(-25, 25, (count, 1, 1, 1)), 0, 255)
    return values.astype(np.float32), np.eye(classes, dtype=np.float32)[part.labels[chosen]]


def predict(model: Any, pixels: Pixels) -> Labels:
    answers: Labels = np.asarray(model.predict_on_batch(pixels.astype(np.float32))).argmax(axis=1)
    return answers


class Attacker:
    """The attacks on one network; images in and out are levels, results are rounded to 8 bits."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.slope = tf.function(self._slope, jit_compile=True, autograph=False)
        self.descend = tf.function(self._descend, jit_compile=True, autograph=False)

    def _slope(self, levels: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(levels)
            logits = self.model(levels, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.sign(tape.gradient(loss, levels))

    def bim(self, part: Part, eps: int, steps: int, size: float, through: Defence | None = None) -> Pixels:
        """`steps` steps of `size` levels within eps; one step of eps is FGSM. `through`: the defence it sees (BPDA)."""
        clean = part.pixels.astype(np.float32)
        levels = clean
        low, high = np.maximum(clean - eps, 0), np.minimum(clean + eps, 255)
        for _ in range(steps):
            seen = levels if through is None else through(rounded(levels)).astype(np.float32)
            levels = np.clip(levels + size * self.slope(seen, part.labels).numpy(), low, high)
        return rounded(levels)

    def _descend(self, picture: tf.Tensor, clean: tf.Tensor, others: tf.Tensor, confidence: tf.Tensor) -> Any:
        """The gradient of |d|^2 + CW_WEIGHT * max(margin, -confidence), |d|^2 and the margin, for pictures of 0..1.

        `others` is 0 for the class of an image and 1 for every other.
        """
        with tf.GradientTape() as tape:
            tape.watch(picture)
            logits = self.model(picture * 255, training=False)
            margin = tf.reduce_sum(logits * (1 - others), axis=1) - tf.reduce_max(logits - 1e4 * (1 - others), axis=1)
            distance = tf.reduce_sum(tf.square(picture - clean), axis=(1, 2, 3))
            loss = tf.reduce_sum(distance + CW_WEIGHT * tf.maximum(margin, -confidence))
        return tape.gradient(loss, picture), distance, margin

    def carlini_wagner(self, part: Part, confidence: float) -> Pixels:
        """Of all pictures on the way whose margin is there, the nearest; else the one of the smallest margin."""
        clean = part.pixels.astype(np.float32) / 255
        others = (1 - np.eye(self.model.output_shape[-1])[part.labels]).astype(np.float32)
        best, nearest = clean.copy(), np.full(len(clean), np.inf)
        found, smallest = np.zeros(len(clean), bool), np.full(len(clean), np.inf)
        picture, first, second = clean, np.zeros_like(clean), np.zeros_like(clean)  # the last two: Adam's moments
        for step in range(1, CW_STEPS + 1):
            answer = self.descend(picture, clean, others, np.float32(confidence))
            gradient, distance, margin = (each.numpy() for each in answer)
            there = margin <= -0.99 * confidence - 1e-6
            better = np.where(there, distance < nearest, ~found & (margin < smallest))
            best[better] = picture[better]
            nearest, smallest = np.where(there & better, distance, nearest), np.minimum(margin, smallest)
            found |= there
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            change = CW_RATE * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            picture = np.clip(picture - change, 0, 1)
        return rounded(best * 255)


def rounded(levels: Levels) -> Pixels:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def attacks(attacker: Attacker, part: Part) -> dict[str, Pixels]:
    """The clean photographs and every attack on them."""
    made = {"clean": part.pixels}
    for eps in STRENGTHS:
        made[f"FGSM {eps}"] = attacker.bim(part, eps, 1, eps)
    for eps in STRENGTHS:
        made[f"BIM {eps}"] = attacker.bim(part, eps, BIM_STEPS, eps / 5)
    for confidence in CONFIDENCES:
        made[f"C&W {confidence:g}"] = attacker.carlini_wagner(part, confidence)
    return made


def through_jpeg(tables: Quantisation, subsampling: str = "4:2:0") -> Defence:
    settings = jpeg.Settings(subsampling=subsampling, optimize=False, progressive=False)

    def defence(pixels: Pixels) -> Pixels:
        files = (jpeg.encode(Image.fromarray(each), tables, settings) for each in pixels)
        return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])

    return defence


def distilled(pixels: Pixels) -> Pixels:
    table = FeatureDistillation().steps()
    return np.stack([np.asarray(distil(Image.fromarray(each), table)) for each in pixels])


def defences() -> dict[str, Defence]:
    third_party = FeatureDistillation(step=41, spared_step=1, spared=ZIGZAG, bands=15).steps()
    return {
        NONE: lambda pixels: pixels,
        **{f"JPEG {quality}": through_jpeg(jpeg.quantisation("annexk", quality)) for quality in (75, 50, 25)},
        ONE_PASS: distilled,
        "FD JPEG 50": through_jpeg(jpeg.quantisation(FEATURE_DISTILLATION, 50)),
        "FD 1/41": through_jpeg(Quantisation(third_party, third_party), "4:4:4"),
    }


def first_passes() -> dict[str, Defence]:
    return {"distil": distilled, "FD JPEG": through_jpeg(jpeg.quantisation(FEATURE_DISTILLATION, 50), "4:4:4")}


def report(attacker: Attacker, test: Part) -> None:
    rows: dict[str, Correct] = {}

    def correct(pixels: Pixels) -> NDArray[np.bool_]:
        return np.asarray(predict(attacker.model, pixels) == test.labels)

    made = attacks(attacker, test)
    for name, defence in defences().items():
        rows[name] = {attack: correct(defence(pixels)) for attack, pixels in made.items()}
    print_distortion(made, test)
    for name, first_pass in first_passes().items():
        made = attacks(attacker, Part(first_pass(test.pixels), test.labels))
        rows[ALONE + name] = {attack: correct(pixels) for attack, pixels in made.items()}
        rows[TWO_PASS + name] = {attack: correct(distilled(pixels)) for attack, pixels in made.items()}
    rows[ADAPTIVE] = {"clean": rows[ONE_PASS]["clean"]} | {
        f"BIM {eps}": correct(distilled(attacker.bim(test, eps, BIM_STEPS, eps / 5, distilled))) for eps in STRENGTHS
    }
    columns = list(made)
    for block in (("clean", "C&W"), ("FGSM",), ("BIM",)):
        print_block(rows, [column for column in columns if column.startswith(block)])
    print_losses(rows)
    clean = float(rows[NONE]["clean"].mean())
    print(f"\n{verdict(ONE_PASS, rows[NONE], rows[ONE_PASS], clean)}")
    for name in first_passes():
        print(verdict(TWO_PASS + name, rows[ALONE + name], rows[TWO_PASS + name], clean))
    print(
        "All rows but one are about attackers who do not know of the defence; against one who does, none of this is a "
        f"promise: see {ADAPTIVE!r}."
    )


def print_distortion(made: Mapping[str, Pixels], test: Part) -> None:
    """What the attacks add, rounding included: mean L2 norm for pictures of 0..1, and where in the DCT it is.

    Noise has 25 % of its energy in the spared bands and 2 % in the DC. Where there is more, it is where the picture
    itself is strong, its coefficients are seldom near the middle of a bin, and rounding does not take it away.
    """
    spared = np.array(FeatureDistillation().steps()) == FeatureDistillation().spared_step
    print(f"\n{'distortion':<28}{'mean L2':>20}{'in spared bands, %':>20}{'in the DC, %':>20}")
    for attack in (attack for attack in made if attack != "clean"):
        change = made[attack].astype(np.float64) - test.pixels
        norm = np.sqrt(np.square(change / 255).sum(axis=(1, 2, 3))).mean()
        planes = change.transpose(0, 3, 1, 2).reshape(-1, SIDE)  # one below the other: SIDE is a multiple of 8
        energy = np.square(blocks(planes) @ basis().T).sum(axis=(0, 1))
        low, constant = 100 * energy[spared].sum() / energy.sum(), 100 * energy[0] / energy.sum()
        print(f"{attack:<28}{norm:>20.2f}{low:>20.0f}{constant:>20.0f}")


def print_block(rows: Mapping[str, Correct], columns: list[str]) -> None:
    print(f"\n{'accuracy in %':<28}" + "".join(f"{column:>20}" for column in columns))
    for name, row in rows.items():
        shares = (wilson(row[column]) if column in row else None for column in columns)
        cells = (f"{100 * s.mean:.1f} ({100 * s.low:.0f} to {100 * s.high:.0f})" if s else "-" for s in shares)
        if any(column in row for column in columns):
            print(f"{name:<28}" + "".join(f"{cell:>20}" for cell in cells))


def print_losses(rows: Mapping[str, Correct]) -> None:
    """What each defence costs on clean photographs, paired: each image with the defence and without."""
    print("\nbenign loss in points")
    for name, row in rows.items():
        if name not in (NONE, ADAPTIVE):
            lost = sums(rows[NONE]["clean"].astype(float) - row["clean"]).interval()
            assert lost is not None
            print(f"{name:<28}{100 * lost.mean:>8.1f} ({100 * lost.low:.1f} to {100 * lost.high:.1f})")


def sums(values: NDArray[Any]) -> WeightedSums:
    total = WeightedSums()
    for value in values:
        total.add(float(value), 1.0)
    return total


def wilson(correct: NDArray[np.bool_]) -> Interval:
    share = sums(correct).share_interval()
    assert share is not None
    return share


def verdict(name: str, plain: Correct, defended: Correct, clean: float) -> str:
    """The abstract's claim beside what was measured.

    A network that does not know 90 % of the clean images cannot do so with a defence. So the claim is read as 90 % of
    its clean accuracy, at every attack that leaves it 20 % of that or less.
    """
    hard = [attack for attack, correct in plain.items() if correct.mean() <= CLAIMED_ATTACKED * clean]
    kept = {attack: defended[attack].mean() / clean for attack in hard}
    reached = [attack for attack in hard if kept[attack] >= CLAIMED_DEFENDED]
    loss = clean - defended["clean"].mean()
    fulfilled = bool(hard) and reached == hard and loss <= CLAIMED_LOSS
    span = f"; over all of them it keeps {min(kept.values()):.0%} to {max(kept.values()):.0%}" if hard else ""
    return (
        f"The paper's claim, from about 20 % to about 90 % at a loss of at most 1 point, is "
        f"{'reached' if fulfilled else 'not reached'} here by {name!r}: of {len(hard)} attacks that leave at most 20 % "
        f"of the clean accuracy it restores 90 % of that at {len(reached)} ({', '.join(reached) or 'none'}){span}, "
        f"and it costs {100 * loss:.1f} points on clean images."
    )


if __name__ == "__main__":
    main()
