"""The `adacompress` command.

Exit status: 0 done, 1 the job failed, 2 wrong usage, 3 more failed images than --max-failures allows,
130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, Optional

from beam_adacompress import AdaCompressError
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.options import UsageError
from beam_adacompress.version import versions


class Command(NamedTuple):
    """One command: the module that runs it, and a line of help."""

    module: str
    help: str


COMMANDS: Mapping[str, Command] = {
    "compress": Command("beam_adacompress.pipelines.compress", "shrink a folder or bucket of images"),
    "score": Command("beam_adacompress.pipelines.score", "ask a backend about a sample of what was shrunk"),
    "tables": Command("beam_adacompress.pipelines.tables", "fit quantisation tables to images, or show them"),
    "demo": Command("beam_adacompress.pipelines.demo", "shrink photographs that come with scikit-image and -learn"),
    "train": Command("beam_adacompress.pipelines.train", "learn a policy for a backend"),
    "policy": Command("beam_adacompress.pipelines.policy", "show, list, publish and roll back policies"),
    "retrain": Command("beam_adacompress.pipelines.retrain", "train a policy again from scores"),
    "serve": Command("beam_adacompress.pipelines.serve", "shrink images as they arrive, and train again on drift"),
    "providers": Command("beam_adacompress.pipelines.providers", "say where providers.yaml is, for Beam YAML"),
    "expansion-service": Command("beam_adacompress.pipelines.expansion", "serve the transforms to other languages"),
    "report": Command("beam_adacompress.pipelines.report", "one page about a run, or about several"),
    "evaluate": Command("beam_adacompress.pipelines.evaluate", "judge policies on images that they never saw"),
}

# What runners say in words of their own.
_RUNNER_ERRORS: Mapping[str, str] = {
    "Channel closed prematurely": (
        "a worker process was killed, perhaps for want of memory: run the same command again, it goes on where it "
        "stopped, and with --direct_num_workers=1 it needs the least memory"
    ),
}

_REMOTE_ERROR = re.compile(r"AdaCompressError: (.*?)(?: \[while running|$)", re.MULTILINE)


def entry_point() -> NoReturn:
    """The installed command."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The worker threads of native libraries now and then abort a process that tears the interpreter down.
    os._exit(status)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one command and turns what goes wrong into one sentence and an exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if debug:
        local.show_logs()
    else:
        local.quiet_logs()
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("\nadacompress: interrupted; the same command goes on where it stopped", file=sys.stderr, flush=True)
        os._exit(130)  # the runner would wait for its workers, which end by themselves
    except Exception as error:
        if debug:
            raise
        print(f"adacompress: {_sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else getattr(error, "exit_status", 1)


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(", ".join(f"{software} {version}" for software, version in versions().items()))
        return 0
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}; known: {', '.join(COMMANDS)}")
    return int(importlib.import_module(COMMANDS[name].module).run(arguments[1:]))


def _help() -> str:
    lines = [
        "usage: adacompress COMMAND [OPTIONS]",
        "",
        "Make image corpora smaller for the machines that look at them, with Apache Beam.",
        "",
        "commands:",
        *(f"  {name:<17} {command.help}" for name, command in COMMANDS.items()),
        "",
        "options:",
        "  --version  versions of this package and of what its results depend on",
        "  --debug    log everything, and show the whole traceback of an error",
        "  --help     after a command: its options",
    ]
    return "\n".join(lines)


def _sentence(error: Exception) -> str:
    """The message of an error, also of one that comes from a worker as the text of its traceback."""
    if isinstance(error, AdaCompressError):
        return str(error).partition(" [while running")[0]
    if ours := _REMOTE_ERROR.findall(str(error)):
        return str(ours[-1])
    for text, sentence in _RUNNER_ERRORS.items():
        if text in str(error):
            return sentence
    last = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return f"the job failed: {last.strip()} (--debug shows all of it)"
