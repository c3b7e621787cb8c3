"""What the native core costs beside Pillow's decode + encode, and whether its files are as good.

    python benchmarks/codec.py --images PHOTOGRAPHS [--models FOLDER]

In one process, image by image and turn by turn, in CPU time; medians over images of the ratios to a bare loop in which
Pillow decodes, and encodes with plain Huffman tables, which is what people run today. Twice: of the files as they are,
and of the same saved again by Pillow at quality 85 in 4:2:0. Targets are behind the numbers.

- Huffman decoding: the coefficients are read, and nothing else.
- transcode: coefficients, and a file at quality 35 of the standard tables in 4:2:0.
- choose + transcode: the header, what the policy sees, what it chooses, and the file, as in a fused stage. The bare
  loop encodes at the quality whose files are nearest in size.
- read_dct: dequantised planes in float32.

Then, at quality 35, the native core's files beside Pillow's with the same tables: bytes, PSNR to the decoded original,
and with --models how often networks (LiteRT) still see their first label of the original among the first five.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import Query, backend
from beam_adacompress.estimates import wilson
from beam_adacompress.jpeg import decoded, native
from beam_adacompress.policy.policies import DEFAULT, Onlooker, Serving, onlooker

QUALITIES = (5, 8, 11, 15, 20, 26, 34, 45, 60, 75, 90)
PLAIN = jpeg.Settings(optimize=False, progressive=False, align=False, min_saving=0.0)
OPTIMISED = jpeg.Settings(optimize=True, progressive=False, align=False, min_saving=0.0)
PROGRESSIVE = jpeg.Settings(align=False, min_saving=0.0)
TABLES = jpeg.quantisation("annexk", 35)
WANTED = {
    "transcode, plain": (0.70, 0.50),
    "choose + transcode, plain": (0.75, 0.58),
    "choose + transcode, optimised": (1.00, 0.75),
    "read_dct": (0.60, 0.60),
}

Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=150, help="images to time")
    parser.add_argument("--turns", type=int, default=7, help="of each image; the fastest counts")
    parser.add_argument("--models", type=Path, help="a folder of *.tflite classifiers")
    options = parser.parse_args()
    native.require("this benchmark")
    files = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    looker = onlooker(Serving(DEFAULT))
    print(f"{options.images.name}, {native.engine()}, CPU time, one process, ratios to Pillow's decode + plain encode")
    for column, name in enumerate(("as they are", "saved at quality 85, 4:2:0")):
        found: dict[str, list[float]] = {}
        for path in files[: options.count]:
            data = path.read_bytes() if column == 0 else saved_again(path.read_bytes())
            for what, ratio in ratios(data, looker, options.turns).items():
                found.setdefault(what, []).append(ratio)
        print(f"\n{name}:")
        for what, measured in found.items():
            wanted = WANTED[what][column] if what in WANTED else None
            print(f"  {what:<32} {statistics.median(measured):.3f}{verdict(statistics.median(measured), wanted)}"
                  f" ({len(measured)} images)")  # fmt: skip
    compare(files)
    scans(files[: options.count])
    for model in sorted(options.models.glob("*.tflite")) if options.models else ():
        if "embedding" not in model.name:
            agree(files, model)


def saved_again(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def ratios(data: bytes, looker: Onlooker, turns: int) -> dict[str, float]:
    """Of one image; nothing for one that the native core or the policy leaves alone."""
    opened = jpeg.open_image(data)
    picture = jpeg.open_picture(opened)
    choice = looker.policy.choose(looker.look(opened, picture), "image")
    if picture.engine != native.NATIVE or choice.tables == "original":
        return {}
    size = len(jpeg.compress(data, choice.tables, choice.quality, choice.policy_version, PLAIN).data)
    sizes = {each: len(bare(data, each)) for each in QUALITIES}
    nearest = min(sizes, key=lambda each: abs(sizes[each] - size))

    def choose(settings: jpeg.Settings) -> None:
        source = jpeg.open_image(data)
        shown = jpeg.open_picture(source, settings)
        chosen = looker.policy.choose(looker.look(source, shown), "image")
        decoded.keep(source, shown, settings)
        jpeg.compress(data, chosen.tables, chosen.quality, chosen.policy_version, settings)

    seconds = measured(
        {
            "bare 35": lambda: bare(data, 35),
            "bare nearest": lambda: bare(data, nearest),
            "Huffman decoding": lambda: native.open_coded(data),
            "transcode, plain": lambda: jpeg.open_picture(opened, PLAIN).encode(TABLES, PLAIN),
            "transcode, optimised": lambda: jpeg.open_picture(opened, OPTIMISED).encode(TABLES, OPTIMISED),
            "choose + transcode, plain": lambda: choose(PLAIN),
            "choose + transcode, optimised": lambda: choose(OPTIMISED),
            "choose + transcode, progressive": lambda: choose(PROGRESSIVE),
            "read_dct": lambda: jpeg.read_dct(data),
        },
        turns,
    )
    return {
        what: took / seconds["bare nearest" if what.startswith("choose") else "bare 35"]
        for what, took in seconds.items()
        if not what.startswith("bare")
    }


def bare(data: bytes, quality: int) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def measured(work: dict[str, Work], turns: int) -> dict[str, float]:
    """The least CPU seconds of each, turn by turn; each turn begins with another one, since what was done before
    decides which code is in the caches."""
    least = dict.fromkeys(work, float("inf"))
    names = list(work)
    for turn in range(turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            work[name]()
            least[name] = min(least[name], time.process_time() - start)
    return least


def verdict(ratio: float, wanted: float | None) -> str:
    if wanted is None:
        return ""
    return f", at most {wanted:.2f}, as asked for" if ratio <= wanted else f", MORE than the {wanted:.2f} asked for"


def both(data: bytes, settings: jpeg.Settings) -> tuple[jpeg.Source, bytes, bytes] | None:
    """The same image by the native core and by Pillow; None where the core does not take it."""
    opened = jpeg.open_image(data)
    shown = jpeg.open_picture(opened)
    if shown.engine != native.NATIVE:
        return None
    return opened, shown.encode(TABLES, settings), by_pillow(opened.pixels(), TABLES, settings)


def by_pillow(pixels: Image.Image, tables: jpeg.Quantisation, settings: jpeg.Settings) -> bytes:
    return jpeg.encode(pixels, tables, dataclasses.replace(settings, engine=native.PILLOW))


def compare(files: Iterable[Path]) -> None:
    sizes: dict[str, list[float]] = {"optimised, one scan": [], "optimised progressive": []}
    differences = []
    for path in files:
        data = path.read_bytes()
        for coding, settings in zip(sizes, (OPTIMISED, PROGRESSIVE)):
            if (pair := both(data, settings)) is not None:
                opened, ours, theirs = pair
                sizes[coding].append(len(ours) / len(theirs))
        if pair is None:
            continue
        original = np.asarray(opened.pixels().convert("RGB"), np.float64)
        noise = [np.mean((pixels_of(each) - original) ** 2) for each in (ours, theirs)]
        if min(noise) > 0:  # a file of these very tables comes out as it was
            differences.append(10 * np.log10(noise[1] / noise[0]))
    print(f"\nnative beside Pillow, quality 35, {len(differences)} images:")
    for coding, found in sizes.items():
        print(f"  bytes, {coding:<22} {np.mean(found):.4f} of Pillow's, {within(np.mean(found) - 1, 0.01)}")
    print(f"  PSNR {np.mean(differences):+.3f} dB, {within(abs(np.mean(differences)), 0.05)}; "
          f"from {min(differences):+.2f} to {max(differences):+.2f}")  # fmt: skip


def scans(files: Iterable[Path]) -> None:
    """Optimised progressive files of the same tables: the core's scans beside libjpeg's, at several qualities."""
    shown = [jpeg.open_image(path.read_bytes()) for path in files]
    pairs = [(jpeg.open_picture(each), each.pixels()) for each in shown]
    for quality in (5, 8, 15, 35, 75):
        tables = jpeg.quantisation("annexk", quality)
        found = [
            len(picture.encode(tables, PROGRESSIVE)) / len(by_pillow(pixels, tables, PROGRESSIVE))
            for picture, pixels in pairs
            if picture.engine == native.NATIVE
        ]
        print(f"  bytes, optimised progressive, quality {quality:<3} {np.mean(found):.3f} of Pillow's")


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)


def within(difference: float, wanted: float) -> str:
    return f"at most {wanted} away, as asked for" if difference <= wanted else f"MORE than {wanted} away"


def agree(files: Sequence[Path], model: Path) -> None:
    network = backend(f"litert:{model}")
    network.open()
    kept = np.zeros(2, int)
    count = 0
    for path in files:
        data = path.read_bytes()
        if (pair := both(data, PROGRESSIVE)) is None:
            continue
        reference, *answers = network.label([Query(data, ""), Query(pair[1], ""), Query(pair[2], "")], timeout=60.0)
        kept += [reward.agreement(reference, answer) for answer in answers]
        count += 1
    shown = [
        f"{rate:.3f} ({low:.3f} to {high:.3f})"
        for rate, (low, high) in ((each / count, wilson(each / count, count, 1.96)) for each in kept)
    ]
    print(f"  {model.stem}: agreement native {shown[0]}, Pillow {shown[1]}")


if __name__ == "__main__":
    main()
