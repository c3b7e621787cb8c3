"""Command-line options of the jobs, beside those of Beam."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.errors import AdaCompressError

# Runners whose options Python knows in full; a job server may take others.
_RUNNERS_WITH_KNOWN_OPTIONS = {None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "DataflowRunner"}


class UsageError(AdaCompressError):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError, takes no abbreviations, and knows both spellings of an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def both_spellings(name: str) -> tuple[str, ...]:
    """`--min-saving`, and `--min_saving` as Beam spells its own options."""
    return (name, name[:2] + name[2:].replace("-", "_")) if "-" in name[2:] else (name,)


def check_beam_options(rest: Sequence[str], ours: argparse.ArgumentParser) -> None:
    """Refuses options that neither we nor Beam know; Beam itself would only drop them.

    Raises:
      UsageError: names the option, and the nearest one that exists.
    """
    known = Parser(prog=ours.prog, add_help=False, conflict_handler="resolve")
    for options in _option_classes(PipelineOptions):
        options._add_argparse_args(known)
    parsed, unknown = known.parse_known_args(list(rest))
    if not unknown or parsed.runner not in _RUNNERS_WITH_KNOWN_OPTIONS:
        return
    name = unknown[0].split("=")[0]
    names = [*ours._option_string_actions, *known._option_string_actions]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"see {ours.prog} --help"
    raise UsageError(
        f"unknown option {name}: {hint}" if name.startswith("-") else f"unexpected argument {name}: {hint}"
    )


def _option_classes(base: type[Any]) -> list[type[Any]]:
    found: list[type[Any]] = []
    for options in base.__subclasses__():
        if "_add_argparse_args" in vars(options):
            found.append(options)
        found += _option_classes(options)
    return found
