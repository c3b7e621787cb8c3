"""Command-line options of the jobs, beside those of Beam."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from typing import Any, Optional

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms import files

# Runners whose options Python knows in full; a job server may take others.
_LOCAL_RUNNERS = {None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner"}
_RUNNERS_WITH_KNOWN_OPTIONS = {*_LOCAL_RUNNERS, "DataflowRunner"}


TOO_MANY_FAILURES = 3  # exit status


class UsageError(AdaCompressError):
    """The command line is wrong."""


class TooManyFailuresError(AdaCompressError):
    """The job is done, but more images failed than the caller allows."""

    exit_status = TOO_MANY_FAILURES


def check_failures(failed: int, images: int, allowed: Optional[float]) -> None:
    """Raises TooManyFailuresError if a larger share of the images failed than is allowed; None allows any."""
    if allowed is not None and failed > allowed * images:
        raise TooManyFailuresError(f"{failed / images:.2%} of the images failed, more than --max-failures {allowed}")


def check_shared(max_failures: Optional[float], seed: int = 0) -> None:
    """Raises ValueError for an option that every job has and that is out of range."""
    if max_failures is not None and not 0 <= max_failures <= 1:
        raise ValueError(f"max_failures must be a share from 0 to 1, got {max_failures}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")


class JobOptions(PipelineOptions):
    """What every job has. Beam parses the options of all loaded jobs together, so each is declared once."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--input",
            help="images: a folder or prefix (everything below it), a glob, or one file; for score the output of a "
            "compress run; gs://... works as well",
        )
        add("--output", help="the folder for what the job makes: summary.json, report.html, images/, scores/, ...")
        add("--overwrite", action="store_true", help="discard what an earlier run left in the output")
        add(
            "--max-failures",
            type=float,
            metavar="SHARE",
            help=f"exit with status {TOO_MANY_FAILURES} if a larger share of the images failed, e.g. 0.01",
        )


class PlanOptions(PipelineOptions):
    """A dry run. Beam has a --dry_run of its own, which builds a Dataflow job without running it."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run",
            dest="plan_only",
            action="store_true",
            help="say what the command would come to, in calls and what they cost, for compress from a sample of the "
            "images also in bytes, failures and time; make no paid call, and write nothing",
        )


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError, takes no abbreviations, and knows both spellings of an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def adder(parser: argparse.ArgumentParser) -> Callable[..., None]:
    """`parser.add_argument` for both spellings of an option."""

    def add(name: str, **kwargs: Any) -> None:
        parser.add_argument(*both_spellings(name), **kwargs)

    return add


def absolute(path: str) -> str:
    """The path without links on the way, so that an input in the output is found out."""
    if not files.is_local(path):
        return path.rstrip("/")
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def parse(
    prog: str, description: str, groups: Sequence[type[PipelineOptions]], required: Sequence[str], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Parses a job's command line.

    Args:
      prog: the command, for help and messages.
      description: for help.
      groups: the option classes of the job.
      required: options that must be given, e.g. `--input`.
      argv: the command line.

    Returns:
      The values of the groups' options by name, and what is left: Beam's options.

    Raises:
      UsageError: an option is unknown, missing or malformed.
    """
    parser = Parser(
        prog=prog,
        description=description,
        epilog="Every Beam pipeline option works as well, e.g. --runner=DataflowRunner --project=P --region=R.",
    )
    for group in groups:
        group._add_argparse_args(parser)
    given, rest = parser.parse_known_args(list(argv))
    check_beam_options(rest, parser)
    values = vars(given)
    for option in required:
        if not values[option[2:].replace("-", "_")]:
            raise UsageError(f"{option} is missing; see {prog} --help")
    return values, rest


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
        # Of our own classes only those of this command count: another's options would be taken and do nothing.
        if not options.__module__.startswith("beam_adacompress."):
            options._add_argparse_args(known)
    parsed, unknown = known.parse_known_args(list(rest))
    if any(option.split("=")[0] == "--dry_run" for option in rest) and parsed.runner in _LOCAL_RUNNERS:
        hint = "--dry-run is ours" if "--dry-run" in ours._option_string_actions else f"see {ours.prog} --help"
        raise UsageError(f"--dry_run is DataflowRunner's, and a local run would go on; {hint}")
    if not unknown or parsed.runner not in _RUNNERS_WITH_KNOWN_OPTIONS:
        return
    name = unknown[0].split("=")[0]
    own = {spelling.replace("_", "-"): None for spelling in ours._option_string_actions}
    names = [*own, *(name for name in known._option_string_actions if name.replace("_", "-") not in own)]
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
