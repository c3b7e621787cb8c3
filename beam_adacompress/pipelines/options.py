"""Command-line options of the jobs, beside those of Beam."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.arguments import near
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines.exits import Exit, listed
from beam_adacompress.transforms import files

# Runners whose options Python knows in full; a job server may take others.
_LOCAL_RUNNERS = {None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner"}
_RUNNERS_WITH_KNOWN_OPTIONS = {*_LOCAL_RUNNERS, "DataflowRunner"}

OF_JOBS = "Every Beam pipeline option works as well, e.g. --runner=DataflowRunner --project=P --region=R."
OF_FILESYSTEMS = "Beam's options for filesystems work as well, e.g. --impersonate_service_account=ACCOUNT."


class UsageError(AdaCompressError):
    """The command line is wrong."""

    exit_status = Exit.USAGE


class TooManyFailuresError(AdaCompressError):
    """The job is done, but more images failed than the caller allows."""

    exit_status = Exit.TOO_MANY_FAILURES


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
            metavar="PATH",
            help="images: a folder or prefix (everything below it), a glob, or one file; for score the output of a "
            "compress run; gs://... works as well",
        )
        add(
            "--output",
            metavar="PATH",
            help="the folder for what the job makes: summary.json, report.html, images/, scores/, ...; for tables fit "
            "the file of the family, NAME.json",
        )
        add("--overwrite", action="store_true", help="discard what an earlier run left in the output")
        add(
            "--max-failures",
            type=float,
            metavar="SHARE",
            help=f"exit with status {Exit.TOO_MANY_FAILURES.value} if a larger share of the images failed, e.g. 0.01 "
            "(not given: any share is right)",
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


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows an option in one spelling, and its default where it has one."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = super()._fill_text
        return "\n\n".join(part if "\n" in part else filled(part, width, indent) for part in text.split("\n\n"))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = [name for name in action.option_strings if "_" not in name]
        value = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return f"{', '.join(names)}{value}"

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        if action.nargs == 0 or action.default in (None, ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError, takes no abbreviations, and knows both spellings of an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


class _OfTheCommand(argparse.Action):
    """An option that the command has taken from its line before the rest of it is parsed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(f"{self.option_strings[0]} is for the adacompress command, not for a command's run()")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds to a parser what every command takes."""
    group = parser.add_argument_group("options of every command")

    def add(name: str, nargs: Optional[int], help_text: str) -> None:
        group.add_argument(
            *both_spellings(name),
            action=_OfTheCommand,
            nargs=nargs,
            metavar="FILE",
            default=argparse.SUPPRESS,
            help=help_text,
        )

    add("--json", 0, "print one JSON object with the result, or with the error, in the place of text")
    add("--config", None, "options in TOML, e.g. the job.toml of an earlier run; the command line wins over it")
    add("--write-config", None, "write the options of this command line to a file for --config, and run nothing")
    add("--debug", 0, "log everything, and show the whole traceback of an error")


class CommandLine(NamedTuple):
    """What a command takes."""

    prog: str  # e.g. `adacompress tables fit`
    description: str
    groups: Sequence[Any]  # classes of options
    required: Sequence[str] = ()  # options that must be given, e.g. `--input`
    epilog: str = OF_JOBS

    @property
    def words(self) -> Sequence[str]:
        """The command without its program, e.g. `("tables", "fit")`."""
        return self.prog.split()[1:]

    def parser(self) -> Parser:
        """Knows the options of the command, not those of Beam."""
        statuses = "\n".join(("Exit status:", *(f"  {line}" for line in listed())))
        parser = Parser(
            prog=self.prog, description=self.description, epilog="\n\n".join(filter(None, (self.epilog, statuses)))
        )
        for group in self.groups:
            group._add_argparse_args(parser)
        add_common(parser)
        return parser

    def parse(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Parses a command line.

        Returns:
          The values of the command's options by name, and what is left: Beam's options.

        Raises:
          UsageError: an option is unknown, missing or malformed.
        """
        parser = self.parser()
        given, rest = parser.parse_known_args(list(argv))
        check_beam_options(rest, parser, of_beam=bool(self.epilog))
        values = vars(given)
        for option in self.required:
            if not values[option[2:].replace("-", "_")]:
                raise UsageError(f"{option} is missing; see {self.prog} --help")
        return values, rest


def adder(parser: argparse.ArgumentParser) -> Callable[..., None]:
    """`parser.add_argument` for both spellings of an option."""

    def add(name: str, **kwargs: Any) -> None:
        parser.add_argument(*both_spellings(name), **kwargs)

    return add


def some_of(group: Any, names: Collection[str]) -> type[Any]:
    """Some of the options of another command.

    Args:
      group: that has them.
      names: of those that are meant.
    """

    class Some:
        @classmethod
        def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
            all_of_them = argparse.ArgumentParser(add_help=False)
            group._add_argparse_args(all_of_them)
            for action in all_of_them._actions:
                if action.dest in names:
                    parser._add_action(action)

    return Some


def absolute(path: str) -> str:
    """The path without links on the way, so that an input in the output is found out."""
    if not files.is_local(path):
        return path.rstrip("/")
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def parse(
    prog: str, description: str, groups: Sequence[Any], required: Sequence[str], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Parses a job's command line; arguments as for CommandLine, result and errors as of `CommandLine.parse`."""
    return CommandLine(prog, description, groups, required).parse(argv)


def one_of(command: str, known: Mapping[str, Any], name: str) -> Any:
    """What the second word of a command stands for.

    Raises:
      UsageError: nothing.
    """
    if name not in known:
        hint = near(name, known)
        known_ones = ", ".join(known)
        raise UsageError(f"unknown {name!r}{f': {hint}' if hint else ''}; adacompress {command} knows {known_ones}")
    return known[name]


def both_spellings(name: str) -> tuple[str, ...]:
    """`--min-saving`, and `--min_saving` as Beam spells its own options."""
    return (name, name[:2] + name[2:].replace("-", "_")) if "-" in name[2:] else (name,)


def beam_parser(prog: str, known: bool = True) -> Parser:
    """A parser for all of Beam's options, but for those that are ours.

    Args:
      prog: for messages.
      known: whether it knows any; one that does not is for commands that run no pipeline.
    """
    parser = Parser(prog=prog, add_help=False, conflict_handler="resolve")
    for options in _option_classes(PipelineOptions) if known else ():
        # Of our own classes only those of this command count: another's options would be taken and do nothing.
        if not options.__module__.startswith("beam_adacompress."):
            options._add_argparse_args(parser)
    return parser


def check_beam_options(rest: Sequence[str], ours: argparse.ArgumentParser, of_beam: bool = True) -> None:
    """Refuses options that neither we nor Beam know; Beam itself would only drop them.

    Args:
      rest: of the command line.
      ours: knows the options that are ours.
      of_beam: whether the command takes those of Beam.

    Raises:
      UsageError: names the option, and the nearest one that exists.
    """
    known = beam_parser(ours.prog, of_beam)
    parsed, unknown = known.parse_known_args(list(rest))
    runner = getattr(parsed, "runner", None)
    if any(option.split("=")[0] == "--dry_run" for option in rest) and runner in _LOCAL_RUNNERS:
        other = "--dry-run is ours" if "--dry-run" in ours._option_string_actions else f"see {ours.prog} --help"
        raise UsageError(f"--dry_run is DataflowRunner's, and a local run would go on; {other}")
    if not unknown or not knows_all(runner):
        return
    name = unknown[0].split("=")[0]
    hint = near(name, spellings(ours, known)) or f"see {ours.prog} --help"
    raise UsageError(
        f"unknown option {name}: {hint}" if name.startswith("-") else f"unexpected argument {name}: {hint}"
    )


def knows_all(runner: Optional[str]) -> bool:
    """Whether Python knows all options of a runner."""
    return runner in _RUNNERS_WITH_KNOWN_OPTIONS


def spellings(ours: argparse.ArgumentParser, of_beam: argparse.ArgumentParser) -> list[str]:
    """The options that there are: ours as we spell them, and those of Beam that are not ours."""
    own = {spelling.replace("_", "-"): None for spelling in ours._option_string_actions}
    return [*own, *(name for name in of_beam._option_string_actions if name.replace("_", "-") not in own)]


def _option_classes(base: type[Any]) -> list[type[Any]]:
    found: list[type[Any]] = []
    for options in base.__subclasses__():
        if "_add_argparse_args" in vars(options):
            found.append(options)
        found += _option_classes(options)
    return found
