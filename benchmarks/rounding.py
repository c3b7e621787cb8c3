"""What a dead zone is worth: bytes for an agreement with AC coefficients rounded to the nearest and towards zero.

    python benchmarks/rounding.py --images PHOTOGRAPHS --models NETWORKS.tflite...

Every image is compressed by the native core (optimised progressive, 4:2:0) with each family at each rounding and eleven
qualities, and each network is asked what it sees, before and after. Agreement is within the top 5, the reference is the
original. Printed are the bytes that one fixed quality needs for an agreement, relative to the same family rounded to
the nearest on the same images, with 95 % intervals from a paired bootstrap; and the mean bytes of the oracle, the
smallest file of each image that agrees, with that rounding alone and over all of them.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import Query, backend
from beam_adacompress.jpeg import native
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.rates import bytes_needed, ratio_of_bytes
from beam_adacompress.sampling import draw

ROUNDINGS = (0.5, 0.45, 0.4, 0.35, 0.3)
FAMILIES = ("annexk", "mobilenet-v2")
TARGETS = (0.97, 0.99)

Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="*.tflite classifiers")
    parser.add_argument("--count", type=int, default=250, help="images")
    options = parser.parse_args()
    native.require("this benchmark")
    files = sorted((path for path in options.images.iterdir()), key=lambda path: draw(path.name, "rounding"))
    for model in options.models:
        with multiprocessing.Pool(os.cpu_count()) as pool:
            found = pool.map(functools.partial(tried, str(model)), files[: options.count], chunksize=4)
        report(model.stem, [each for each in found if each is not None])


@functools.lru_cache(maxsize=1)
def opened(model: str):
    network = backend(f"litert:{model}")
    network.open()
    return network


def tried(model: str, path: Path) -> tuple[Floats, Floats, int] | None:
    """Bytes and agreement by family, rounding and quality, and the original's bytes; None for what is left alone."""
    data = path.read_bytes()
    shown = jpeg.open_picture(jpeg.open_image(data))
    network = opened(model)
    (reference,) = network.label([Query(data, "")], timeout=60.0)
    if not reference or shown.engine != native.NATIVE:
        return None
    shape = (len(FAMILIES), len(ROUNDINGS), len(LADDER))
    sizes, agreed = np.zeros(shape), np.zeros(shape)
    for index in np.ndindex(shape):
        tables = jpeg.quantisation(f"{FAMILIES[index[0]]}@{ROUNDINGS[index[1]]}", LADDER[index[2]])
        file = shown.encode(tables, jpeg.Settings(align=False))
        (answer,) = network.label([Query(file, "")], timeout=60.0)
        sizes[index], agreed[index] = len(file), reward.agreement(reference, answer)
    return sizes, agreed, len(data)


def report(name: str, found: Sequence[tuple[Floats, Floats, int]]) -> None:
    sizes, agreed = (np.stack([each[part] for each in found]) for part in (0, 1))
    originals = np.array([each[2] for each in found], np.float64)
    print(f"\n{name}, {len(found)} images, agreement within the top {reward.TOP}")
    for family, title in enumerate(FAMILIES):
        oracles = [oracle(sizes[:, family, each], agreed[:, family, each], originals) for each in range(len(ROUNDINGS))]
        print(f"  {title:<22}" + "".join(f"{'bytes at ' + str(target):>26}" for target in TARGETS) + f"{'oracle':>10}")
        for index, rounding in enumerate(ROUNDINGS):
            cells = []
            for target in TARGETS:
                pair = (sizes[:, family, index], sizes[:, family, 0]), (agreed[:, family, index], agreed[:, family, 0])
                if np.isnan(bytes_needed(pair[0][0].mean(0), pair[1][0].mean(0), target)):
                    cells.append("not reached")
                else:
                    ratio = ratio_of_bytes(*pair, target)
                    cells.append(f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
            print(f"  rounding {rounding:<13}" + "".join(f"{cell:>26}" for cell in cells)
                  + f"{oracles[index].mean() / oracles[0].mean():>10.3f}")  # fmt: skip
        every = oracle(sizes[:, family].reshape(len(found), -1), agreed[:, family].reshape(len(found), -1), originals)
        print(f"  {'all of them':<22}{'':>26}{'':>26}{every.mean() / oracles[0].mean():>10.3f}")


def oracle(sizes: Floats, agreed: Floats, originals: Floats) -> Floats:
    """The smallest file of each image that agrees, or its original."""
    return np.minimum(np.where(agreed > 0, sizes, np.inf).min(axis=1), originals)


if __name__ == "__main__":
    main()
