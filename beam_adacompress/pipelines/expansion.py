"""`adacompress expansion-service`: the transforms for pipelines in Java, Go and other languages.

It is Beam's own expansion service. By name it expands the public transforms alone, `beam_adacompress.ChooseQuality`
and so on. That is no protection against those who can reach it: a request may carry pickled Python instead of a name,
and Beam runs that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

from apache_beam.runners.portability import expansion_service_main
from apache_beam.transforms.fully_qualified_named_transform import FullyQualifiedNamedTransform

from beam_adacompress.pipelines.options import CommandLine, UsageError, adder
from beam_adacompress.transforms.beam_yaml import TRANSFORMS

EXPOSED = frozenset(f"beam_adacompress.{name}" for name in TRANSFORMS)


class _ExpansionOptions:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add("--port", type=int, metavar="PORT", help="to listen on")
        add("--serve-loopback-worker", action="store_true", help="run their workers in this process too; for tests")


LINE = CommandLine(
    "adacompress expansion-service",
    "Serve the transforms to pipelines in other languages, on all interfaces of this machine. Whoever can reach it can "
    "run code here, as with Beam's own: keep it behind a firewall.",
    (_ExpansionOptions,),
    epilog="Beam's options for its expansion service work as well.",
)
LINES = {"": LINE}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress expansion-service ARGV` until it is stopped, and returns its exit status."""
    given, rest = LINE.parser().parse_known_args(list(sys.argv[1:] if argv is None else argv))
    if given.port is None:
        raise UsageError(f"--port is missing; see {LINE.prog} --help")
    only_ours()
    loopback = ["--serve_loopback_worker"] if given.serve_loopback_worker else []
    expansion_service_main.main(
        [f"--port={given.port}", "--fully_qualified_name_glob=beam_adacompress.*", *loopback, *rest]
    )
    return 0


def only_ours() -> None:
    """Lets this process expand no names but those of the public transforms.

    Beam's own filter is a glob whose `*` matches dots too, so that attributes of attributes of what is imported
    somewhere could be called through it.
    """

    def check(_: Any, name: str) -> None:
        if name not in EXPOSED:
            raise ValueError(f"{name} is not one of the transforms that are served: {', '.join(sorted(EXPOSED))}")

    FullyQualifiedNamedTransform._check_allowed = classmethod(check)
