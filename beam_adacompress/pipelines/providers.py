"""`adacompress providers`: where the listing of the transforms for Beam YAML is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import beam_adacompress
from beam_adacompress.pipelines.options import Parser

PROVIDERS = Path(beam_adacompress.__file__).parent / "providers.yaml"


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress providers ARGV` and returns its exit status."""
    parser = Parser(
        prog="adacompress providers",
        description="Print the path of providers.yaml, for `include` under `providers` in a Beam YAML pipeline.",
    )
    parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    print(PROVIDERS)
    return 0
