"""The `adacompress` command: from its line to what runs it, and from what goes wrong to a sentence and an exit status.

What every command takes, --json, --config, --write-config and --debug, is taken from the line here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn, Optional

from beam_adacompress import AdaCompressError
from beam_adacompress.arguments import near
from beam_adacompress.pipelines import exits, job_file, local, results
from beam_adacompress.pipelines.credentials import check_credentials
from beam_adacompress.pipelines.exits import Exit
from beam_adacompress.pipelines.options import CommandLine, Parser, UsageError, absolute
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
    "completion": Command(
        "beam_adacompress.pipelines.completion", "print a script that completes this command in a shell"
    ),
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

_HELP = {"-h", "--help"}

_REMOTE_ERROR = re.compile(r"AdaCompressError: (.*?)(?: \[while running|$)", re.MULTILINE)


def entry_point() -> NoReturn:
    """The installed command."""
    status = main()
    with contextlib.suppress(BrokenPipeError):  # as in `main`
        sys.stdout.flush()
    sys.stderr.flush()
    # The worker threads of native libraries now and then abort a process that tears the interpreter down.
    os._exit(status)


class Common(NamedTuple):
    """What every command takes."""

    json: bool
    config: Optional[str]
    write_config: Optional[str]
    debug: bool


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one command and turns what goes wrong into one sentence and an exit status."""
    try:
        common, arguments = _taken(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        print(f"adacompress: {error}", file=sys.stderr)
        return Exit.USAGE
    if common.debug:
        local.show_logs()
    else:
        local.quiet_logs()
    wrong: Optional[BaseException] = None
    listening: AbstractContextManager[Any] = contextlib.nullcontext()
    if common.json and not _HELP & set(arguments):
        listening = results.listening()
    with listening as heard:
        try:
            status = _dispatch(common, arguments)
        except (KeyboardInterrupt, Exception) as error:
            wrong, status = error, _status(error)
    if isinstance(wrong, BrokenPipeError) and not _is_read():
        wrong, status = None, Exit.DONE
    if heard is not None:
        sentence = None if wrong is None else _sentence(wrong)
        with contextlib.suppress(BrokenPipeError):  # nobody reads it any more
            print(results.result(" ".join(_words(arguments)), status, heard, sentence), flush=True)
    if wrong is not None:
        if common.debug:
            traceback.print_exception(wrong)
        line_end = "\n" if status == Exit.INTERRUPTED else ""  # of the terminal's ^C
        print(f"{line_end}adacompress: {_sentence(wrong)}", file=sys.stderr, flush=True)
    if status == Exit.INTERRUPTED:
        os._exit(status)  # the runner would wait for its workers, which end by themselves
    return status


def _is_read() -> bool:
    """Whether somebody still reads what is printed, as far as can be told; `head` ends when it has read enough."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return True  # it is no file of the system's, such as a test's
    if not hasattr(select, "poll"):
        return True  # Windows
    watched = select.poll()
    watched.register(descriptor, 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))


def _taken(arguments: list[str]) -> tuple[Common, list[str]]:
    """What every command takes, and the rest of the line."""
    parser = Parser(prog="adacompress", add_help=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--config")
    parser.add_argument("--write-config", "--write_config")
    given, rest = parser.parse_known_args(arguments)
    return Common(**vars(given)), rest


def _dispatch(common: Common, arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_help())
        return Exit.DONE
    if name == "--version":
        results.tell(versions=versions())
        print(", ".join(f"{software} {version}" for software, version in versions().items()))
        return Exit.DONE
    if name not in COMMANDS:
        hint = near(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}{f': {hint}' if hint else ''}; known: {', '.join(COMMANDS)}")
    run, lines = of_command(name)
    words = _words(arguments)
    rest = arguments[len(words) :]
    line = lines.get(" ".join(words[1:]))
    if line is None or _HELP & set(rest):
        return run(arguments[1:])
    rest = job_file.without_switches(line, rest)
    if common.config is not None:
        check_credentials([*rest, common.config])
        rest = job_file.arguments(line, common.config, rest)
    if common.write_config is not None:
        line.parse(rest)
        path = absolute(common.write_config)
        job_file.Record(line, rest).save(path, f"{path}.partial")
        results.tell(config=path)
        print(f"the options are in {path}: adacompress {' '.join(words)} --config {path}")
        return Exit.DONE
    check_credentials(rest)
    return run([*words[1:], *rest])


def of_command(name: str) -> tuple[Callable[[Sequence[str]], int], Mapping[str, CommandLine]]:
    """What runs a command, and what it takes, by the word after it; `""` where there is none."""
    module = importlib.import_module(COMMANDS[name].module)
    return module.run, getattr(module, "LINES", {})


def _words(arguments: Sequence[str]) -> list[str]:
    """Those that name the command, e.g. `tables fit`."""
    name = "".join(arguments[:1])
    several = len(arguments) > 1 and name in COMMANDS and arguments[1] in of_command(name)[1]
    return list(arguments[: 2 if several else 1])


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
        "  --version            versions of this package and of what its results depend on",
        "  --json               print one JSON object with the result, or with the error, in the place of text",
        "  --config FILE        options in TOML, e.g. the job.toml of an earlier run; the command line wins over it",
        "  --write-config FILE  write the options of this command line to a file for --config, and run nothing",
        "  --debug              log everything, and show the whole traceback of an error",
        "  --help               after a command: its options",
        "",
        "exit status:",
        *(f"  {line}" for line in exits.listed()),
    ]
    return "\n".join(lines)


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    return int(getattr(error, "exit_status", Exit.FAILED))


def _sentence(error: BaseException) -> str:
    """The message of an error, also of one that comes from a worker as the text of its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on where it stopped"
    if isinstance(error, AdaCompressError):
        return str(error).partition(" [while running")[0]
    if ours := _REMOTE_ERROR.findall(str(error)):
        return str(ours[-1])
    for text, sentence in _RUNNER_ERRORS.items():
        if text in str(error):
            return sentence
    last = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return f"the job failed: {last.strip()} (--debug shows all of it)"
