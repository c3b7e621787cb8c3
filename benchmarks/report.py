"""What a report about a large run takes to make, and how large it is.

    python benchmarks/report.py --images 1000000 --scores 100000

Makes up the manifest of a run over so many images in 1,000 folders, and scores of some of them, with photographs'
stand-ins for those that the report may show; writes the report with `adacompress report`, and prints its time, the
peak memory of the process and the size of the page; and, with chromium and playwright, how long the page takes to open.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from beam_adacompress import manifest, scores, summary
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import Choice, Label, Score
from beam_adacompress.transforms.sources import SHARD_SIZE
from beam_adacompress.version import versions

FOLDERS = 1000
PAST = 1_700_000_000.0  # seconds since the epoch
TABLES = ("annexk", "mobilenet-v1", "mobilenet-v2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--scores", type=int, default=100_000)
    parser.add_argument("--scratch", type=Path, help="where to work")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        run = Path(name) / "run"
        make(run, Path(name) / "originals", options.images, options.scores)
        start = time.monotonic()
        command = [sys.executable, "-m", "beam_adacompress", "report", str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
        page = run / "report.html"
        text = page.read_text()
        print(
            f"{options.images} images, {options.scores} scores: {seconds:.0f} s, {peak:.0f} MB of memory at most, a "
            f"page of {page.stat().st_size / 1e6:.2f} MB with {text.count('<img ')} pictures"
        )
        opened(page)


def make(run: Path, originals: Path, images: int, scored: int) -> None:
    """A run, as `adacompress compress --score-with` leaves it."""
    random = np.random.default_rng(0)
    stats = summary.RunStats()
    every = max(1, images // max(1, scored))
    lost: set[str] = set()  # images that disagree
    for part, start in enumerate(range(0, images, SHARD_SIZE)):
        rows = list(manifest_rows(random, start, min(images, start + SHARD_SIZE)))
        for row in rows:
            stats.add(row)
        write(run / "manifest" / f"part-{part:05d}.parquet", manifest.to_parquet(manifest.to_table(rows)))
        some = [score_of(random, row, PAST + start + index) for index, row in enumerate(rows) if row.is_written]
        lost |= {each.key for each in some[::every] if not each.agreement and len(lost) < 2000}
        write(run / "score" / "scores" / f"part-{part:05d}.parquet", scores.to_parquet(some[::every]))
    options = {"input": str(originals), "seed": 0}
    record(run, "adacompress.run", options)
    record(run / "score", "adacompress.score-run", {"input": str(run), "backend": "litert:model.tflite"})
    write(run / "summary.json", json.dumps(summary.summarise(stats, options, versions(), 3600.0)).encode())
    # What may be shown is there, and takes many bytes.
    before, after = photograph(random, 95), photograph(random, 60)
    shown = {row.key for kind in (summary.SAVINGS, summary.SAMPLE, "kept") for row in stats.shown(kind)}
    for key in shown | lost:
        write(originals / key, before)
        write(run / "images" / key, after)


def manifest_rows(random: np.random.Generator, start: int, end: int) -> Iterator[ManifestRow]:
    sizes, ratios = random.lognormal(11.5, 0.6, end - start), random.beta(3, 7, end - start)
    qualities, fates = random.integers(5, 90, end - start), random.random(end - start)
    for index in range(start, end):
        size, fate = int(sizes[index - start]) + 1, fates[index - start]
        key = f"class-{index % FOLDERS:04d}/{index:07d}.jpg"
        if fate < 0.002:
            nothing = ManifestRow(*[None] * len(ManifestRow._fields))
            yield nothing._replace(
                key=key, status="failed", reason="truncated", error="it ends too soon", bytes_in=size
            )
            continue
        kept = fate < 0.05
        after = size if kept else max(1, int(size * ratios[index - start]))
        yield ManifestRow(
            key=key,
            status="kept" if kept else "compressed",
            reason="saving-below-minimum" if kept else None,
            output=key,
            quality=int(qualities[index - start]),
            tables=TABLES[index % 3],
            subsampling=None if kept else "4:2:0",
            width=500,
            height=375,
            bytes_in=size,
            bytes_out=after,
            sha256_in=f"{index:064x}",
            sha256_out=f"{index:064x}",
            policy_version="agreement-0123456789",
            propensity=1.0,
            expected_agreement=0.98,
            error=None,
            seconds=0.01,
        )


def score_of(random: np.random.Generator, row: ManifestRow, moment: float) -> Score:
    agreed = int(random.random() < 0.97)
    name = f"class {int(random.integers(0, 1000))}"
    return Score(
        key=row.key,
        choice=Choice(str(row.tables), row.quality or 0, str(row.policy_version), 1.0, 0.98),
        features=[0.0] * 60,
        propensity=1.0,
        sampling_probability=0.1,
        status="scored",
        reference_labels=[Label(name, float(random.random()))],
        compressed_labels=[Label(name if agreed else "another", 0.5)],
        agreement=agreed,
        strict_agreement=agreed,
        size_ratio=row.size_ratio,
        reward=agreed - row.size_ratio,
        backend="litert",
        backend_version="0123456789ab",
        latency=0.1,
        cost=0.0015,
        time=moment,
    )


def photograph(random: np.random.Generator, quality: int) -> bytes:
    """Noise in blocks, which takes about as many bytes as a detailed photograph."""
    blocks = random.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def record(run: Path, form: str, options: dict[str, object]) -> None:
    content = {"format": form, "format_version": 1, "options": options, "versions": versions()}
    write(run / "_adacompress" / "run.json", json.dumps(content).encode())


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def opened(page: Path) -> None:
    """Prints how long the page takes to open."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("how long it takes to open is not known: there is no chromium, or no playwright")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        load = tab.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
        browser.close()
    print(f"opened in {load / 1000:.2f} s")


if __name__ == "__main__":
    main()
