"""`adacompress completion`: a script that completes the command in a shell, which shtab makes of the commands' options.

The script is static, so completing costs nothing; a new release wants a new one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

import shtab

from beam_adacompress import backends, jpeg
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.job_file import FILE, FOLDER, PATH
from beam_adacompress.pipelines.options import OF_JOBS, CommandLine, add_common

SHELLS = ("bash", "zsh", "fish")

# Of Beam's options, which are hundreds, those that a command line here has most often.
RUNNERS = ("DirectRunner", "FnApiRunner", "PrismRunner", "DataflowRunner", "FlinkRunner", "PortableRunner")
_OF_BEAM = {
    "--runner": "what runs the job; not given: this machine",
    "--direct_num_workers": "worker processes on this machine",
    "--project": "of Google Cloud",
    "--region": "of Dataflow's workers",
    "--temp_location": "a folder in a bucket for what Dataflow needs meanwhile",
    "--staging_location": "a folder in a bucket for what Dataflow's workers load",
    "--setup_file": "what Dataflow's workers install",
    "--service_account_email": "that Dataflow's workers are",
    "--max_num_workers": "that Dataflow starts at most",
}


class _CompletionOptions:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=SHELLS, help="that the script is for")


LINE = CommandLine(
    "adacompress completion",
    "Print a script that completes commands, options and their values; docs/command-line.md says where to put it.",
    (_CompletionOptions,),
    epilog="",
)
LINES = {"": LINE}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress completion ARGV` and returns its exit status."""
    given, _ = LINE.parse(sys.argv[1:] if argv is None else argv)
    print(script(given["shell"]))
    return 0


def script(shell: str) -> str:
    """The script for one of SHELLS."""
    return str(shtab.complete(whole_parser(), shell=shell))


def whole_parser() -> argparse.ArgumentParser:
    """One parser for all commands, whose options say what their values can be."""
    parser = argparse.ArgumentParser(prog="adacompress")
    parser.add_argument("--version", action="store_true", help="versions of this package and of what it depends on")
    add_common(parser)
    _complete_values(parser)
    commands = parser.add_subparsers(dest="command")
    for name, command in cli.COMMANDS.items():
        _, lines = cli.of_command(name)
        if "" in lines:
            _add(commands, name, command.help, lines[""])
            continue
        several = commands.add_parser(name, help=command.help).add_subparsers(dest="action")
        for word, line in lines.items():
            _add(several, word, line.description, line)
    return parser


def _add(commands: Any, name: str, help_text: str, line: CommandLine) -> None:
    parser = commands.add_parser(name, help=help_text, parents=[line.parser()], add_help=False)
    if line.epilog == OF_JOBS:
        for option, its_help in _OF_BEAM.items():
            parser.add_argument(option, help=its_help, choices=RUNNERS if option == "--runner" else None)
    _complete_values(parser)


def _complete_values(parser: argparse.ArgumentParser) -> None:
    """Leaves one spelling of each option, and says what completes its value; the parser parses nothing any more."""
    for action in parser._actions:
        action.option_strings = [name for name in action.option_strings if "_" not in name] or action.option_strings
        if action.metavar == "BACKEND":
            action.choices = tuple(backends.BACKENDS)
        elif action.dest in ("tables", "family"):
            action.choices = tuple(jpeg.FAMILIES)
        elif action.metavar == FOLDER or action.dest in ("policy", "root"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in (PATH, FILE) and action.nargs != 0:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
