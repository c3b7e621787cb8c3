"""How time and memory of one job grow with the images, and what a million images take.

    python benchmarks/scale.py --grow 25000 50000 100000 200000
    python benchmarks/scale.py --photographs ../shared/data/images
    python benchmarks/scale.py --names 4000000

The first compresses so many small images in one job each, by one quality, and prints time per image and peak memory
beside those of the smallest job. The second compresses photographs by the policy that comes with the package, and by
one quality, and prints what a million such take: CPU seconds, bytes read, written and shuffled, and requests to a
bucket. Start-up is what a run over a single image takes, and is left out of both. The third lists so many names that
are made up, as the one worker does that lists the input.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from throughput import command, files_below, link

from beam_adacompress.transforms import files, sources
from beam_adacompress.transforms.sinks import FLUSH_IMAGES
from beam_adacompress.transforms.sources import SHARD_SIZE, ImageFile, _Pack, list_images

DISTINCT = 500
MILLION = 1_000_000
LISTED = 1000  # objects that one request to list tells of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grow", type=int, nargs="+", metavar="IMAGES", help="sizes of jobs, ascending")
    parser.add_argument("--photographs", type=Path, help="a folder of them")
    parser.add_argument("--names", type=int, nargs="+", metavar="IMAGES", help="how many to list")
    parser.add_argument("--scratch", type=Path, help="where to work; its filesystem is part of what is measured")
    options = parser.parse_args()
    for count in options.names or ():
        list_names(count)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        if options.grow:
            grow(Path(name), options.grow)
        if options.photographs:
            per_million(Path(name), options.photographs)


def grow(scratch: Path, sizes: list[int]) -> None:
    made = [save(scratch / "made" / f"{index:03d}.jpg", small(index)) for index in range(DISTINCT)]
    link(made[:1], scratch / "in1")
    startup = Run(command(scratch / "in1", scratch / "out1"), "--quality=35")
    first = None
    for size in sizes:
        link([made[index % DISTINCT] for index in range(size)], scratch / f"in{size}")
        run = Run(command(scratch / f"in{size}", scratch / f"out{size}"), "--quality=35")
        seconds = (run.wall - startup.wall) / size
        first = first or (seconds, run.memory)
        print(
            f"{size} images: {run.wall:.0f} s, {1000 * seconds:.3f} ms an image ({seconds / first[0]:.2f} of the "
            f"smallest job's), peak {run.memory / 1e6:.0f} MB over all processes ({run.memory / first[1]:.2f})",
            flush=True,
        )


def per_million(scratch: Path, photographs: Path) -> None:
    found = files_below(photographs)
    link(found, scratch / "photographs")
    link(found[:1], scratch / "one")
    listed = [file for file in list_images(str(scratch / "photographs")) if isinstance(file, ImageFile)]
    read = sum(file.bytes_in for file in listed)
    shuffled = sum(map(len, packets(listed))) / len(listed)
    for name, flags in (("by the policy", []), ("by one quality", ["--quality=35"])):
        one, out = scratch / f"one {name}", scratch / f"out {name}"
        startup = Run(command(scratch / "one", one), *flags)
        run = Run(command(scratch / "photographs", out), *flags)
        written = sum(path.stat().st_size for path in (out / "images").rglob("*") if path.is_file())
        manifest = sum(path.stat().st_size for path in (out / "manifest").iterdir())
        images = json.loads((out / "summary.json").read_text())["images"]["total"]
        share = MILLION / images
        print(
            f"{name}, a million of {images} photographs ({read / images / 1e3:.0f} kB, "
            f"{pixels(found) / 1e6:.2f} megapixels):\n"
            f"  CPU          {(run.cpu - startup.cpu) * share:.0f} s\n"
            f"  read         {read * share / 1e9:.1f} GB\n"
            f"  written      {written * share / 1e9:.1f} GB of images, {manifest * share / 1e6:.0f} MB of manifest\n"
            f"  shuffled     {shuffled * MILLION / 1e6:.0f} MB of names, packed "
            f"({shuffled * MILLION / (read * share):.4%} of what is read)\n"
            f"  requests     {MILLION // LISTED} to list, {MILLION} to read, {MILLION} to write images, "
            f"at least {2 * MILLION // FLUSH_IMAGES} for rows, {MILLION // SHARD_SIZE} for the manifest",
            flush=True,
        )


def list_names(count: int) -> None:
    names = (f"gs://bucket/photos/{index // 10000:05d}/{index:010d}.jpg" for index in range(count))
    sources.files.find = lambda pattern, exclude=None: (files.FoundFile(name, 50_000, 1e9) for name in names)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    shuffled = sum(map(len, packets(list_images("gs://bucket/photos"))))
    cpu = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"{count} names: {1e6 * cpu / count:.1f} us of CPU, {memory / count:.0f} bytes of memory and "
        f"{shuffled / count:.0f} bytes shuffled for each",
        flush=True,
    )


class Run:
    """One run of a command.

    Attributes:
      wall: seconds.
      cpu: seconds, of it and its workers.
      memory: bytes, peak of the proportional set size over all of its processes.
    """

    def __init__(self, arguments: list[str], *more: str) -> None:
        start = time.perf_counter()
        process = psutil.Popen([*arguments, *more], stdout=-3, stderr=-3)
        self.memory = 0
        used: dict[int, float] = {}
        while process.poll() is None:
            sizes = []
            for member in (process, *children(process)):
                try:
                    sizes.append(member.memory_full_info().pss)
                    times = member.cpu_times()
                except psutil.Error:
                    continue
                used[member.pid] = times.user + times.system
            self.memory = max(self.memory, sum(sizes))
            time.sleep(0.2)
        self.wall = time.perf_counter() - start
        self.cpu = sum(used.values())
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)} ended with status {process.returncode}")


def children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def packets(found: Iterable[ImageFile]) -> Iterator[str]:
    """The names of images as they cross the shuffle."""
    pack = _Pack()
    pack.start_bundle()
    for file in found:
        yield from pack.process(file)
    yield from (packet.value for packet in pack.finish_bundle())


def pixels(found: list[Path]) -> float:
    """Mean over the images."""
    sizes = []
    for path in found:
        try:
            with Image.open(path) as image:
                sizes.append(image.width * image.height)
        except OSError:
            continue
    return float(np.mean(sizes))


def small(seed: int) -> bytes:
    """An image of 96 x 64 pixels, of some 3 kB."""
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 256, (8, 12, 3), np.uint8)).resize((96, 64), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    main()
