"""What a Dataflow flex template starts: one of the commands, with options as templates have them.

A template passes every parameter as `--name=value`, switches too: `--overwrite=true`. Several values have `,` between.
A scheduler launches a template with the same values each time, so `{today}` and `{yesterday}` stand for a day in UTC.
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Optional

from beam_adacompress.pipelines import cli, local
from beam_adacompress.pipelines.options import Parser


def main(command: str, argv: Optional[Sequence[str]] = None) -> int:
    """Runs a command, and returns its exit status.

    Args:
      command: `compress` or `retrain`.
      argv: what the template passes; None for this process's own.
    """
    os.environ[local.LAUNCHED_VARIABLE] = "1"
    parser = options_of(command)
    given = dated(sys.argv[1:] if argv is None else argv, datetime.datetime.now(datetime.timezone.utc).date())
    return cli.main([command, *arguments(parser, given)])


def dated(given: Sequence[str], today: datetime.date) -> list[str]:
    """The parameters with days, as YYYY-MM-DD, in the place of `{today}` and `{yesterday}`."""
    yesterday = today - datetime.timedelta(days=1)
    return [each.replace("{today}", str(today)).replace("{yesterday}", str(yesterday)) for each in given]


def options_of(command: str) -> Parser:
    """The options of a command."""
    parser = Parser(prog=f"adacompress {command}", add_help=False)
    for group in importlib.import_module(cli.COMMANDS[command].module).OPTIONS:
        group._add_argparse_args(parser)
    return parser


def arguments(parser: Parser, given: Sequence[str]) -> list[str]:
    """The parameters of a template as a command line has them."""
    kinds = {name: action for action in parser._actions for name in action.option_strings}
    found: list[str] = []
    for argument in given:
        name, has_value, value = argument.partition("=")
        action = kinds.get(name)
        if action is None or not has_value:
            found.append(argument)
        elif action.nargs == 0:
            found += [name] if value.lower() == "true" else []
        elif type(action).__name__ == "_AppendAction":
            found += [f"{name}={each}" for each in value.split(",")]
        else:
            found.append(argument)
    return found
