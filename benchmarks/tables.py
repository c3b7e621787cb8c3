"""Bytes that each family of quantisation tables needs for a given agreement, relative to the standard tables.

    python benchmarks/tables.py fit --images PHOTOGRAPHS --models NETWORKS.tflite...
    python benchmarks/tables.py report --images PHOTOGRAPHS... --models NETWORKS.tflite...

`fit` makes families from one half of a folder's images (a hash of the name decides), with `adacompress tables fit`:
DeepN-JPEG's tables, and for each network those of a search. `report` compresses images of the other half with every
family at every quality of a grid and asks each network what it sees, before and after. Answers are kept in the cache,
so that a report that was stopped goes on.

For a target of agreement a family needs the bytes at which its curve of mean bytes against agreement (made monotone)
reaches it, between two qualities by linear interpolation. Ratios are to the standard family `annexk` of the same
network and coding, with 95 % intervals from a bootstrap over images. Plain and optimised progressive coding have the
same pixels, so their agreement is measured once.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from throughput import CORES

from beam_adacompress import jpeg, reward
from beam_adacompress.estimates import Interval
from beam_adacompress.pipelines import cli, local
from beam_adacompress.pipelines.asking import default_cache
from beam_adacompress.pipelines.trying import try_images
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.rates import bytes_needed, ratio_of_bytes
from beam_adacompress.sampling import draw
from beam_adacompress.transforms.sources import ImageFile, list_images
from beam_adacompress.transforms.trials import TryConfigurations
from beam_adacompress.trials import NO_ANSWER, Configuration, Trial

FAMILIES = Path(__file__).parent / "families"  # of `fit`
QUALITIES = LADDER[1:]
TARGETS = (0.95, 0.97, 0.99)
STANDARD = "annexk"
PLAIN = jpeg.Settings(optimize=False, progressive=False)
CLAIM = 3.5  # arXiv 1803.05788, abstract
DEEPN = str(FAMILIES / "deepn-fitted.json")
FINEST = "quality 100"
GOAL = 0.88  # of the standard tables' bytes, at an agreement of 0.97


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fit", "report"))
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="LiteRT classifiers")
    parser.add_argument("--count", type=int, default=300, help="images of each folder that are reported on at most")
    parser.add_argument("--rounds", type=int, default=8, help="of a search")
    parser.add_argument("--top", type=int, default=reward.TOP, help="labels among which the reference's has to be")
    options = parser.parse_args()
    if options.action == "fit":
        fit(options.images, options.models, options.rounds)
        return
    for folder in options.images:
        report(folder, options.models, options.count, options.top)


def halves(folder: Path) -> tuple[list[ImageFile], list[ImageFile]]:
    """Images to fit to, and images to report on, which no family here has seen."""
    images = [file for file in list_images(str(folder)) if isinstance(file, ImageFile)]
    drawn = {file.key: draw(file.key, "benchmark") for file in images}
    return [file for file in images if drawn[file.key] < 0.5], [file for file in images if drawn[file.key] >= 0.5]


def fit(folders: Sequence[Path], models: Sequence[Path], rounds: int) -> None:
    FAMILIES.mkdir(exist_ok=True)
    suffix = "" if len(folders) == 1 else f"-{len(folders)}-sets"
    with tempfile.TemporaryDirectory() as scratch:
        count = 0
        for folder in folders:
            for file in halves(folder)[0]:
                link = Path(scratch, "images", folder.name, file.key)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(file.path).resolve())
                count += 1
        command = ["tables", "fit", f"--input={scratch}/images", "--overwrite"]
        if len(folders) == 1:
            assert cli.main([*command, f"--output={DEEPN}", "--method=deepn"]) == 0
        for model in models:
            output = Path(scratch, f"searched-{name_of(model)}{suffix}.json")
            search = ["--method=search", f"--backend=litert:{model}", f"--search-images={count}", f"--rounds={rounds}"]
            assert cli.main([*command, f"--output={output}", *search]) == 0
            (FAMILIES / output.name).write_bytes(output.read_bytes())


def name_of(model: Path) -> str:
    return model.stem.removesuffix("_quant")


def searched(model: Path) -> list[str]:
    """The families that were searched for a network."""
    return sorted(str(found) for found in FAMILIES.glob(f"searched-{name_of(model)}*.json"))


def report(folder: Path, models: Sequence[Path], count: int, top: int) -> None:
    images = sorted(halves(folder)[1], key=lambda file: draw(file.key, "report"))[:count]
    common = [*jpeg.FAMILIES, DEEPN]
    plain = plain_sizes(images, [*common, *(name for model in models for name in searched(model))])
    for model in models:
        families = [*common, *searched(model)]
        measured = tried(images, families, f"litert:{model}")
        print(f"\n{model.stem}, {len(measured)} images of {folder.name}, agreement within the top {top}")
        agreed = np.array([trial.agreement(top) for trial in measured], np.float64)
        by_family = {name: agreed[:, _columns(index)] for index, name in enumerate(families)}
        sizes = np.array([trial.sizes for trial in measured], np.float64)
        progressive = {name: sizes[:, _columns(index)] for index, name in enumerate(families)}
        table("plain", {name: np.array([plain[name][trial.key] for trial in measured]) for name in families}, by_family)
        ratios = table("optimised progressive", progressive, by_family)
        best = min(ratios, key=lambda name: ratios[name][TARGETS.index(0.97)].mean)
        ratio = ratios[best][TARGETS.index(0.97)].mean
        verdict = "at most" if ratio <= GOAL else "more than"
        print(f"  best at 0.97: {Path(best).stem} with {ratio:.3f} of the standard tables' bytes, {verdict} {GOAL}")
        claim(plain, by_family, [trial.key for trial in measured])


def claim(plain: dict[str, dict[str, list[int]]], agreed: dict[str, np.ndarray], keys: Sequence[str]) -> None:
    """Prints how far DeepN-JPEG's claim goes."""
    finest = np.mean([plain[FINEST][key] for key in keys])
    said = []
    for name, what in ((DEEPN, "its fitted tables"), (STANDARD, "the standard tables")):
        sizes = np.mean([plain[name][key] for key in keys], axis=0)
        times = finest / bytes_needed(sizes, agreed[name].mean(axis=0), 0.99)
        said.append(f"{what} take {times:.1f} times fewer" if np.isfinite(times) else f"{what} do not reach that")
    print(
        f"  DeepN-JPEG's claim: {CLAIM} times fewer bytes than quality 100 without loss. "
        f"At an agreement of 0.99\n  {said[0]}, and {said[1]}"
    )


def tried(images: Sequence[ImageFile], families: Sequence[str], backend: str) -> list[Trial]:
    """Trials with all qualities of all families; families that share tables share the answer."""
    tables = [jpeg.quantisation(name, quality) for name in families for quality in QUALITIES]
    unique = list(dict.fromkeys(tables))
    transform = TryConfigurations(
        [backend], [Configuration(each, None, align=False) for each in unique], cache=default_cache(".")
    )
    local.quiet_logs()
    with tempfile.TemporaryDirectory() as scratch:
        found = try_images(images, transform, scratch, PipelineOptions([]), [])
    columns = [unique.index(each) for each in tables]
    return [
        trial._replace(
            sizes=[trial.sizes[column] for column in columns], ranks=[trial.ranks[column] for column in columns]
        )
        for trial in found.trials
        if NO_ANSWER not in trial.ranks
    ]


def plain_sizes(images: Sequence[ImageFile], families: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Bytes without optimised Huffman tables and in one scan, by family and image, at each quality; also of FINEST."""
    with multiprocessing.Pool(CORES) as pool:
        found = pool.map(functools.partial(_plain_sizes, families), [Path(file.path) for file in images], chunksize=4)
    names = [*families, FINEST]
    return {name: {file.key: sizes[index] for file, sizes in zip(images, found)} for index, name in enumerate(names)}


def _plain_sizes(families: Sequence[str], path: Path) -> list[list[int]]:
    pixels = jpeg.open_image(path.read_bytes()).pixels()

    def size(name: str, quality: int) -> int:
        return len(jpeg.encode(pixels, jpeg.quantisation(name, quality), PLAIN))

    return [*([size(name, quality) for quality in QUALITIES] for name in families), [size(STANDARD, 100)]]


def table(coding: str, sizes: dict[str, np.ndarray], agreed: dict[str, np.ndarray]) -> dict[str, list[Interval]]:
    """Prints, and gives, the ratios of each family at each target."""
    ratios = {
        name: [
            ratio_of_bytes(
                (sizes[name].astype(np.float64), sizes[STANDARD].astype(np.float64)),
                (agreed[name], agreed[STANDARD]),
                target,
            )
            for target in TARGETS
        ]
        for name in sizes
    }
    print(f"  {coding:<38}" + "".join(f"{target:>26}" for target in TARGETS))
    for name, cells in ratios.items():
        texts = [f"{cell.mean:.3f} ({cell.low:.3f} to {cell.high:.3f})" for cell in cells]
        print(f"  {Path(name).stem:<38}" + "".join(f"{text:>26}" for text in texts))
    return ratios


def _columns(index: int) -> slice:
    return slice(index * len(QUALITIES), (index + 1) * len(QUALITIES))


if __name__ == "__main__":
    main()
