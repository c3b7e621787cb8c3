"""Images per second and peak memory of `adacompress compress`, beside a bare multiprocessing + Pillow loop.

    python benchmarks/throughput.py --images ../shared/data/images --copies 5 --pairs 5
    python benchmarks/throughput.py --images ../shared/data/images --memory 2000 20000

The two take turns over the same files with the same encoder settings, qualities and number of processes, each into
a fresh folder. Start-up is what a run over a single image takes; it is measured beside every pair. Ratios are ours
to the bare loop's, above 1 where ours is faster. Nothing is deleted before the end, since deleting slows the
creation of files for a while on some filesystems.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image

QUALITY = 35
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--copies", type=int, default=5, help="how often each is linked into the input")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs=2, metavar=("FEW", "MANY"), help="measure peak memory instead")
    parser.add_argument("--scratch", type=Path, help="where to work; its filesystem is part of what is measured")
    parser.add_argument("--bare", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_loop(*options.bare)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        if options.memory:
            memory(options.images, scratch, *options.memory)
        else:
            throughput(options.images, scratch, options.copies, options.pairs)


def throughput(images: Path, scratch: Path, copies: int, pairs: int) -> None:
    photographs = files_below(images)
    link(photographs * copies, scratch / "in")
    link(photographs[:1], scratch / "one")
    count = len(photographs) * copies
    print(f"{count} images, {CORES} cores, quality {QUALITY}, optimised progressive, 4:2:0; {pairs} pairs")
    included, excluded, startups, busy = [], [], [], []
    for pair in range(pairs):
        bare_total, bare_inner = bare(scratch / "in", scratch / f"bare{pair}")
        startup, _ = ours(scratch / "one", scratch / f"one{pair}")
        total, cpu = ours(scratch / "in", scratch / f"ours{pair}")
        startups.append(startup)
        included.append(bare_total / total)
        excluded.append(bare_inner / (total - startup))
        busy.append(cpu / (CORES * total))
        print(
            f"pair {pair + 1}: bare {count / bare_inner:.0f} images/s, ours {count / (total - startup):.0f} images/s, "
            f"start-up {startup:.2f} s; ratio {excluded[-1]:.3f} without start-ups, {included[-1]:.3f} with them"
        )
    print(f"ratio without start-ups: {spread(excluded)}")
    print(f"ratio with start-ups:    {spread(included)}")
    print(f"start-up in seconds:     {spread(startups)}")
    print(f"cores busy, start-up included: median {statistics.median(busy):.0%}")


def spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def memory(images: Path, scratch: Path, few: int, many: int) -> None:
    photographs = files_below(images)
    peaks = []
    for count in (few, many):
        link([photographs[i % len(photographs)] for i in range(count)], scratch / f"in{count}")
        total, largest = peak_memory(command(scratch / f"in{count}", scratch / f"out{count}"))
        peaks.append(total)
        print(
            f"{count} images: peak {total / 1e6:.0f} MB over all processes (shared pages counted once), "
            f"{largest / 1e6:.0f} MB in the largest"
        )
    print(f"ratio: {peaks[1] / peaks[0]:.3f}")


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def link(photographs: list[Path], folder: Path) -> None:
    for index, photograph in enumerate(photographs):
        target = folder / f"{index // 1000:03d}" / f"{index:06d}{photograph.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(photograph.resolve())


def command(source: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "beam_adacompress", "compress", "--input", str(source), "--output", str(output)]


def ours(source: Path, output: Path) -> tuple[float, float]:
    """Wall time of the whole command, and CPU time of it and its workers, in seconds."""
    before = os.times()
    start = time.perf_counter()
    subprocess.run([*command(source, output), "--quality", str(QUALITY)], check=True, capture_output=True)
    wall = time.perf_counter() - start
    after = os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def bare(source: Path, output: Path) -> tuple[float, float]:
    """Wall time of the whole command and of its loop alone, in seconds."""
    start = time.perf_counter()
    loop = subprocess.run(
        [sys.executable, __file__, "--images", str(source), "--bare", str(source), str(output)],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, float(loop.stdout)


def bare_loop(source: Path, output: Path) -> None:
    names = [str(path.relative_to(source)) for path in files_below(source)]
    with multiprocessing.Pool(CORES, initializer=os.chdir, initargs=(str(source),)) as pool:
        pool.map(time.sleep, [0.05] * CORES)  # all processes are up
        start = time.perf_counter()
        for _ in pool.imap_unordered(Bare(str(output)), names, chunksize=16):
            pass
        print(time.perf_counter() - start)


class Bare:
    """Decode, encode, write: nothing else."""

    def __init__(self, output: str) -> None:
        self.output = output

    def __call__(self, name: str) -> None:
        image = Image.open(name)
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        target = os.path.join(self.output, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        image.save(target, "JPEG", quality=QUALITY, optimize=True, progressive=True)


def peak_memory(arguments: list[str]) -> tuple[int, int]:
    """Peak of the proportional set size, in bytes: summed over the process tree, and of its largest process."""
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    total = largest = 0
    while process.poll() is None:
        sizes = []
        for member in [process, *process.children(recursive=True)]:
            try:
                sizes.append(member.memory_full_info().pss)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        total, largest = max(total, sum(sizes)), max([largest, *sizes])
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with status {process.returncode}")
    return total, largest


if __name__ == "__main__":
    main()
