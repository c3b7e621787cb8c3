"""`adacompress demo`: the real pipeline over photographs that ship inside scikit-image and scikit-learn."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from beam_adacompress import report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.pipelines import compress
from beam_adacompress.pipelines.options import CommandLine, JobOptions, Parser, adder, some_of
from beam_adacompress.pipelines.results import tell
from beam_adacompress.records import COMPRESSED
from beam_adacompress.transforms import files
from beam_adacompress.transforms.runs import RunFolder, read_rows

# Package, folder inside it, photographs.
PHOTOGRAPHS: Mapping[tuple[str, str], Sequence[str]] = {
    ("sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
    ("skimage", "data"): (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "hubble_deep_field.jpg",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
}


class _DemoOptions:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        adder(parser)(
            "--output",
            metavar="FOLDER",
            help="for the photographs and the run (not given: a new temporary one)",
        )


LINE = CommandLine(
    "adacompress demo",
    "Shrink real photographs and show what came of it.",
    (_DemoOptions, some_of(JobOptions, ("overwrite", "max_failures")), *compress.OPTIONS[1:]),
)
LINES = {"": LINE}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress demo ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the `demo` extra is not installed, or the run failed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    LINE.parse(arguments)
    own = Parser(prog=LINE.prog)
    _DemoOptions._add_argparse_args(own)
    given, rest = own.parse_known_args(arguments)
    base = Path(given.output or tempfile.mkdtemp(prefix="adacompress-demo-"))
    originals, output = base / "originals", base / "compressed"
    originals.mkdir(parents=True, exist_ok=True)
    for photograph in _photographs():
        shutil.copyfile(photograph, originals / photograph.name)
    status = compress.run(["--input", str(originals), "--output", str(output), *rest])
    rows = _manifest(RunFolder(str(output)))
    tell(images=rows)
    print()
    print(table(rows))
    return status


def table(rows: Sequence[ManifestRow]) -> str:
    """The manifest for people: image, quality, before, after, saved."""
    lines = [f"{'image':<24} {'quality':>7} {'before':>10} {'after':>10} {'saved':>7}"]
    for row in rows:
        quality = str(row.quality) if row.status == COMPRESSED else row.status
        before = report.megabytes(row.bytes_in or 0)
        after = report.megabytes(row.bytes_out or 0) if row.is_written else "-"
        saved = f"{100 * (1 - row.size_ratio):.1f} %" if row.is_written else "-"
        lines.append(f"{row.key:<24} {quality:>7} {before:>10} {after:>10} {saved:>7}")
    return "\n".join(lines)


def _photographs() -> list[Path]:
    found = []
    for (package, folder), names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise AdaCompressError(f"the demo needs the photographs in {package}: pip install 'beam-adacompress[demo]'")
        found += [Path(spec.origin).parent / folder / name for name in names]
    if missing := [str(path) for path in found if not path.is_file()]:
        raise AdaCompressError(f"the demo's photographs are not where they should be: {', '.join(missing)}")
    return found


def _manifest(folder: RunFolder) -> list[ManifestRow]:
    parts = sorted(part.path for part in files.listing(folder.manifest))
    return [row for part in parts for row in read_rows(part)]
