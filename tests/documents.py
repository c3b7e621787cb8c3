"""Runs the code blocks of a page, as its reader would: in their order, in one folder and one session.

Python runs as it is. Of a console block, commands of `adacompress` run in this process where what they need is here,
and are parsed by the commands' own parsers otherwise; those of other tools are compared with the checkout as far as
that goes. A text block below another block is what that prints, apart from its numbers; `...` stands for anything.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Optional

import apache_beam as beam
import pytest
from conftest import IN_PROCESS
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser

from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.options import check_beam_options

CHECKOUT = Path(__file__).parent.parent
DOCS = CHECKOUT / "docs"
HOOKS = DOCS / "hooks"

# Tools that are not here, whose commands nobody can try.
ELSEWHERE = {"gcloud", "docker", "kubectl", "bq", "for", "done", "REPO=us-central1-docker.pkg.dev/PROJECT/adacompress"}
LANGUAGES = ("python", "console", "bash", "text")
NEEDS_OTHERS = re.compile(
    r"gs://|projects/|google-vision|--runner=(?!FnApiRunner)|adacompress (serve|expansion-service)"
)


@contextlib.contextmanager
def hooks() -> Any:
    """The modules of docs/hooks, which are in no package."""
    sys.path.insert(0, str(HOOKS))
    try:
        yield
    finally:
        sys.path.remove(str(HOOKS))


with hooks():
    import blocks as blocks
    import found as found


class Session:
    """What a reader has in front of them.

    Args:
      runs: whether a command of adacompress is run, or only parsed.
    """

    def __init__(self, runs: Callable[[str], bool] = lambda command: False) -> None:
        self._runs = runs
        self.ran: list[str] = []
        self.printed: Optional[str] = None  # by the last block; None for one that did not run
        self.names: dict[str, Any] = {}
        self._last: dict[str, str] = {}  # what the last block of a language printed

    def last(self, language: str) -> str:
        """What the last block of a language printed."""
        return self._last[language]

    def read(self, page: Path, until: str = "", languages: Iterable[str] = LANGUAGES) -> Session:
        """Runs the blocks of a page that are of these languages, up to a heading."""
        text = page.read_text()
        end = text.index(until) if until else len(text)
        parsers = [CodeBlockParser(language, functools.partial(self._run, language)) for language in languages]
        for example in Document.parse(str(page), *parsers).examples():
            if example.start < end:
                example.evaluate()
        return self

    def _run(self, language: str, example: Any) -> None:
        if language == "text":
            if self.printed is not None:
                assert like(example.parsed, self.printed), (
                    f"{example.path}:{example.line} shows other output:\n{self.printed}"
                )
            return
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            if language == "python":
                code = compile("\n" * example.line + example.parsed, example.path, "exec")
                exec(code, self.names)
                ran = True
            else:
                tried = [self._command(command) for command in commands(example.parsed)]
                ran = all(tried)
        self.printed = out.getvalue() if ran else None
        self._last[language] = out.getvalue()

    def _command(self, command: str) -> bool:
        """Runs or checks a command; says whether it ran."""
        command, _, comment = command.partition(" # ")
        status = re.search(r"exit status (\d+)", comment)
        command = re.split(r" \| | > ", command)[0].strip()  # what other tools do with the output is theirs
        words = shlex.split(command)
        if words[0] == "adacompress":
            if self._runs(command) and not NEEDS_OTHERS.search(command):
                local = [] if words[1] == "policy" or words[1:3] == ["tables", "show"] else IN_PROCESS
                assert cli.main([*words[1:], *local]) == (int(status[1]) if status else 0), command
                self.ran.append(command)
                return True
            check(words[1:])
        elif words[0] == "pip":
            wanted = [extra for word in words for part in re.findall(r"\[(.+)\]", word) for extra in part.split(",")]
            setup = (CHECKOUT / "setup.py").read_text()
            assert all(f'"{extra}": ' in setup for extra in wanted), command
        elif words[0] == "python":
            names = [word for word in words if word.endswith((".py", ".yaml"))] or ["pyproject.toml"]
            paths = [CHECKOUT / name.partition("=")[2] if "=" in name else CHECKOUT / name for name in names]
            assert all(path.exists() for path in paths), command
            options = [word.partition("=")[0] for word in words if word.startswith("--") and paths[0].suffix == ".py"]
            assert all(f'"{option}"' in paths[0].read_text() for option in options), command
        else:
            assert words[0] in {*ELSEWHERE, "pytest", "mkdocs", "daily.py", "tensorboard"}, (
                f"nothing is known of {words[0]}: {command}"
            )
        return False


def commands(block: str) -> list[str]:
    """The commands of a console block: lines that end with a backslash go on, as do quotes."""
    found: list[str] = []
    waiting = ""
    for line in block.splitlines():
        waiting += line.rstrip("\\") if line.endswith("\\") else line
        if line.endswith("\\") or not waiting.strip():
            continue
        try:
            shlex.split(waiting)
        except ValueError:  # a quote is open
            waiting += "\n"
            continue
        found += [part.strip() for part in waiting.split(" && ")]
        waiting = ""
    assert not waiting, f"the last command does not end: {waiting}"
    return [command for command in found if not command.startswith("#")]


def check(arguments: Iterable[str]) -> None:
    """Parses a command line of adacompress as the command would.

    Raises:
      UsageError: an option is unknown, missing or malformed.
    """
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # what every command takes
    for name in ("--json", "--debug"):
        common.add_argument(name, action="store_true")
    for name in ("--config", "--write-config"):
        common.add_argument(name)
    _, words = common.parse_known_args(list(arguments))
    command = next(each for each in blocks.commands() if list(each) == words[: len(each)])
    parser = blocks.parser_of(*command)
    _, rest = parser.parse_known_args(words[len(command) :])
    check_beam_options(rest, parser)


def like(expected: str, printed: str) -> bool:
    """Whether they are the same apart from their numbers, spaces, and what `...` stands for."""

    def plain(text: str) -> str:
        text = re.sub(r"-[0-9a-f]{10}\b", "-VERSION", text)
        return " ".join(re.sub(r"\d[\d.,]*( [kM]?B\b)?", "0", text).split())

    pattern = ".*?".join(re.escape(part) for part in plain(expected).split("..."))
    return re.search(rf"(?:^|(?<=\s)){pattern}(?:$|(?=\s))", plain(printed)) is not None


def local_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines that name no runner take the one that starts fastest."""
    monkeypatch.setattr(beam, "Pipeline", functools.partial(beam.Pipeline, runner="FnApiRunner"))
