"""`adacompress providers`: where the listing of the transforms for Beam YAML is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import beam_adacompress
from beam_adacompress.pipelines.options import CommandLine
from beam_adacompress.pipelines.results import tell

PROVIDERS = Path(beam_adacompress.__file__).parent / "providers.yaml"

LINE = CommandLine(
    "adacompress providers",
    "Print the path of providers.yaml, for `include` under `providers` in a Beam YAML pipeline.",
    (),
    epilog="",
)
LINES = {"": LINE}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress providers ARGV` and returns its exit status."""
    LINE.parse(sys.argv[1:] if argv is None else argv)
    tell(providers=str(PROVIDERS))
    print(PROVIDERS)
    return 0
