"""The parts of the pages that are made of the code and of the benchmarks' results.

    <!-- block: NAME -->  ...  <!-- end: NAME -->

stand around each in README.md and docs/. `python docs/hooks/blocks.py` writes them, a test compares them, and mkdocs
makes them anew.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import field_comments
import found
import pyarrow as pa

from beam_adacompress import manifest, records, scores
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.options import Parser
from beam_adacompress.transforms.metrics import METRICS

CHECKOUT = Path(__file__).parent.parent.parent

_BLOCK = re.compile(r"(<!-- block: (\S+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
_SUBCOMMANDS = re.compile(r"adacompress (\w+) ([a-z|]+)")


def filled(text: str) -> str:
    """A page with its blocks made anew.

    Raises:
      KeyError: it has a block that is not known.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]]().strip()}\n\n{block[3]}", text)


def pages() -> Iterator[Path]:
    """The pages that may have blocks."""
    yield CHECKOUT / "README.md"
    yield from sorted((CHECKOUT / "docs").rglob("*.md"))


class _Captured(BaseException):
    """Carries the parser of a command away from where it would print its help."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser


def parser_of(*command: str) -> Parser:
    """The parser of a command, e.g. `parser_of("policy", "list")`."""

    def capture(parser: Parser, file: Any = None) -> None:
        raise _Captured(parser)

    module = importlib.import_module(cli.COMMANDS[command[0]].module)
    with mock.patch.object(argparse.ArgumentParser, "print_help", capture), contextlib.redirect_stdout(io.StringIO()):
        try:
            module.run([*command[1:], "--help"])
        except _Captured as captured:
            return captured.parser
    raise LookupError(f"adacompress {' '.join(command)} has no options of its own")


def commands() -> list[tuple[str, ...]]:
    """All commands, those of `policy` and `tables` one by one."""
    all_of_them: list[tuple[str, ...]] = []
    for name in sorted(cli.COMMANDS):
        try:
            parser_of(name)
            all_of_them.append((name,))
        except LookupError:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                importlib.import_module(cli.COMMANDS[name].module).run(["--help"])
            usage = printed.getvalue()
            more = [part for own, parts in _SUBCOMMANDS.findall(usage) if own == name for part in parts.split("|")]
            all_of_them += [(name, part) for part in dict.fromkeys(more)]
    return all_of_them


def options() -> str:
    """Every option of every command."""
    parts = []
    for command in commands():
        parser = parser_of(*command)
        parts += [f"## adacompress {' '.join(command)}", "", _sentence(parser.description or ""), ""]
        rows = [_option(action) for action in parser._actions if action.dest != "help"]
        parts += [*found.table(["option", "value", "default", "what"], rows), ""]
    return "\n".join(parts)


def _option(action: argparse.Action) -> list[str]:
    name = f"`{action.option_strings[0]}`" if action.option_strings else f"`{(action.metavar or action.dest)}`"
    if action.nargs == 0:
        value = ""
    elif action.choices is not None:
        value = ", ".join(f"`{choice}`" for choice in action.choices)
    else:
        kind = {int: "int", float: "float"}.get(action.type, "text")  # type: ignore[call-overload]
        value = f"{action.metavar} ({kind})" if isinstance(action.metavar, str) and action.option_strings else kind
    if type(action).__name__ == "_AppendAction":
        value += ", several times"
    silent = action.nargs == 0 or action.default in (None, "", (), [], argparse.SUPPRESS)
    return [name, value, "" if silent else f"`{action.default}`", _sentence(str(action.help or "") % vars(action))]


def _sentence(text: str) -> str:
    """Text as Markdown takes it: names in capitals and angle brackets are no HTML."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")


def meanings(row: type) -> dict[str, str]:
    """What the comments of a row's fields say, with their units."""
    source = inspect.getsource(row)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef), row
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    lines = source.splitlines()
    return {str(getattr(node.target, "id", "")): field_comments.comment_of(lines, node) for node in fields}


def _columns(columns: Iterable[pa.Field], *rows: type) -> str:
    said = {name: text for row in rows for name, text in meanings(row).items()}
    table = [
        [
            f"`{column.name}`",
            f"`{_type(column.type)}`",
            "" if column.nullable else "never null",
            _null(said[column.name]),
        ]
        for column in columns
    ]
    return "\n".join(found.table(["column", "type", "", "what, and its unit"], table))


def _null(text: str) -> str:
    """Parquet has no None."""
    return re.sub(r"\bNone\b", "null", text)


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return ", ".join(f"{field.name} {_type(field.type)}" for field in kind)
    return str(kind)


def _fields(row: Any) -> str:
    said = meanings(row)
    types = row.__annotations__
    return "\n".join(
        found.table(
            ["field", "type", "what, and its unit"],
            [[f"`{name}`", _named(types[name]), said[name]] for name in row._fields],
        )
    )


def _named(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    text = re.sub(r"(typing|collections\.abc|beam_adacompress\.records)\.", "", text)
    return "`" + re.sub(r"^Optional\[(.*)\]$", r"\1 or None", text) + "`"


def metrics() -> str:
    """Every metric."""
    rows = [
        [f"`{each.name}`", each.kind, each.unit, each.meaning, ", ".join(f"`{stage}`" for stage in each.stages)]
        for each in METRICS
    ]
    return "\n".join(found.table(["metric", "kind", "unit", "counts", "of"], rows))


BLOCKS: Mapping[str, Callable[[], str]] = {
    "options": options,
    "metrics": metrics,
    "manifest": lambda: _columns(manifest.FORMAT.columns, manifest.ManifestRow),
    "scores": lambda: _columns(scores.FORMAT.columns, records.Choice, records.Score),
    "score-failures": lambda: _columns(scores.FAILURES.columns, records.ImageFailure),
    "drift-estimates": lambda: _fields(records.DriftEstimate),
    "retrained": lambda: _fields(records.Retrained),
    "usage": lambda: _fields(records.Usage),
    **found.BLOCKS,
}


def main() -> int:
    """Writes all blocks; says which pages have changed."""
    for page in pages():
        before = page.read_text()
        after = filled(before)
        if before != after:
            page.write_text(after)
            print(f"written: {page.relative_to(CHECKOUT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
