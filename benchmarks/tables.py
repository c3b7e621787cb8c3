"""Bytes that each family of quantisation tables needs for a given agreement, relative to the standard tables.

    python benchmarks/tables.py --images ../shared/data/images/imagenet --models ../shared/data/models/*_quant.tflite
    python benchmarks/tables.py ... --families annexk robidoux mine.json --count 300 --rows rows.jsonl

Each image is compressed with every family at every quality of a grid; each network says what it sees, before and after.
For a target of agreement a family needs the bytes at which its curve of mean bytes against agreement (made monotone)
reaches it, between two qualities by linear interpolation. Ratios are to the standard family `annexk` of the same
network and coding, with 95 % intervals from a bootstrap over images. Plain and optimised progressive coding have the
same pixels, so their agreement is measured once. `--rows` keeps what was measured; with it, a run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from throughput import CORES, files_below

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import BackendError, Query, backend
from beam_adacompress.errors import ImageError

QUALITIES = (5, 8, 12, 16, 20, 25, 30, 38, 48, 60, 75, 88, 95)
TARGETS = (0.95, 0.97, 0.99)
STANDARD = "annexk"
CODINGS = {"plain": jpeg.Settings(optimize=False, progressive=False), "optimised progressive": jpeg.Settings()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="LiteRT classifiers")
    parser.add_argument("--families", nargs="+", default=list(jpeg.FAMILIES), help="names, or fitted families' files")
    parser.add_argument("--count", type=int, help="images, evenly taken from the folder; all if not given")
    parser.add_argument("--top", type=int, default=reward.TOP, help="labels among which the reference's has to be")
    parser.add_argument("--rows", type=Path, help="file of what was measured")
    parser.add_argument("--samples", type=int, default=500, help="of the bootstrap")
    options = parser.parse_args()
    images = files_below(options.images)
    if options.count:
        images = [images[index * len(images) // options.count] for index in range(options.count)]
    measured = list(measure(images, options.families, options.models, options.top, options.rows))
    print(f"{len(measured)} images of {options.images.name}, agreement within the top {options.top}")
    for position, model in enumerate(options.models):
        print(f"\n{model.name}")
        report(measured, options.families, position, options.samples)


def measure(images: list[Path], families: list[str], models: list[Path], top: int, rows: Path | None) -> Iterator[dict]:
    known = {}
    if rows is not None and rows.exists():
        known = {row["image"]: row for row in map(json.loads, rows.read_text().splitlines())}
    settings = [families, [str(model) for model in models], top]
    todo = [path for path in images if known.get(str(path), {}).get("settings") != settings]
    pool = multiprocessing.Pool(CORES, initializer=Worker.load, initargs=(models, families, top))
    with pool, open(rows if rows is not None else os.devnull, "a") as file:
        for row in pool.imap_unordered(Worker.measure, todo):
            known[row["image"]] = row
            file.write(json.dumps(row | {"settings": settings}) + "\n")
            file.flush()
    yield from (row for path in images if (row := known[str(path)])["sizes"])


class Worker:
    """One process: its networks, and what it measures of an image."""

    @classmethod
    def load(cls, models: list[Path], families: list[str], top: int) -> None:
        cls.networks = [backend(f"litert:{model}") for model in models]
        for network in cls.networks:
            network.open()
        cls.families, cls.top = families, top

    @classmethod
    def measure(cls, path: Path) -> dict:
        """Sizes (family, quality, bytes plain, bytes optimised progressive) and agreement of each network."""
        data = path.read_bytes()
        try:
            pixels = jpeg.open_image(data).pixels()
        except ImageError:
            return {"image": str(path), "sizes": [], "agreed": []}
        references = [network.label([Query(data)], 60.0)[0] for network in cls.networks]
        if any(isinstance(reference, BackendError) or not reference for reference in references):
            return {"image": str(path), "sizes": [], "agreed": []}
        sizes, agreed = [], []
        for family in cls.families:
            for quality in QUALITIES:
                tables = jpeg.quantisation(family, quality)
                files = [jpeg.encode(pixels, tables, settings) for settings in CODINGS.values()]
                sizes.append([family, quality, *map(len, files)])
                answers = [network.label([Query(files[0])], 60.0)[0] for network in cls.networks]
                agreed.append([reward.agreement(r, a, cls.top) for r, a in zip(references, answers)])
        return {"image": str(path), "sizes": sizes, "agreed": agreed}


def report(measured: list[dict], families: list[str], network: int, samples: int) -> None:
    """For each coding and target, the bytes of each family relative to the standard's."""
    random = np.random.default_rng(0)
    agreed = np.array([[each[network] for each in row["agreed"]] for row in measured], np.float64)
    draws = [random.integers(0, len(measured), len(measured)) for _ in range(samples)]
    for coding, column in zip(CODINGS, (2, 3)):
        sizes = np.array([[each[column] for each in row["sizes"]] for row in measured], np.float64)
        print(f"  {coding:<24}" + "".join(f"{target:>26}" for target in TARGETS))
        standard = _of_family(families.index(STANDARD))
        for index, family in enumerate(families):
            own = _of_family(index)
            cells = []
            for target in TARGETS:
                ratios = [
                    bytes_needed(sizes[drawn, own].mean(0), agreed[drawn, own].mean(0), target)
                    / bytes_needed(sizes[drawn, standard].mean(0), agreed[drawn, standard].mean(0), target)
                    for drawn in (np.arange(len(measured)), *draws)
                ]
                low, high = np.nanquantile(ratios[1:], (0.025, 0.975))
                cells.append(f"{ratios[0]:.3f} ({low:.3f} to {high:.3f})")
            print(f"  {Path(family).stem:<24}" + "".join(f"{cell:>26}" for cell in cells))


def _of_family(index: int) -> slice:
    return slice(index * len(QUALITIES), (index + 1) * len(QUALITIES))


def bytes_needed(sizes: np.ndarray, agreement: np.ndarray, target: float) -> float:
    """Mean bytes at which the curve reaches a target; not a number where it does not."""
    order = np.argsort(sizes)
    sizes, reached = sizes[order], np.maximum.accumulate(agreement[order])
    above = np.flatnonzero(reached >= target)
    if not len(above):
        return float("nan")
    index = above[0]
    if index == 0 or reached[index] == reached[index - 1]:
        return float(sizes[index])
    share = (target - reached[index - 1]) / (reached[index] - reached[index - 1])
    return float(sizes[index - 1] + share * (sizes[index] - sizes[index - 1]))


if __name__ == "__main__":
    main()
