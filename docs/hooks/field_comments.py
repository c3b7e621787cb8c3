"""A griffe extension: comments and docstrings as this package writes them, for the API reference.

The comment behind a field of a row is its documentation; arguments that share a sentence (`a, b: ...`) have it each.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

import griffe


def comment_of(lines: list[str], node: ast.AnnAssign) -> str:
    """What the comment behind a field, or the comments above it, say; empty for none.

    Args:
      lines: of the module.
      node: the field.
    """
    assert node.end_lineno is not None
    behind = lines[node.end_lineno - 1][node.end_col_offset or 0 :].strip()
    if behind.startswith("#"):
        return behind[1:].strip()
    inside = [line.strip()[1:].strip() for line in lines[node.lineno : node.end_lineno] if line.strip().startswith("#")]
    above = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip()[1:].strip())
    # Of a field in brackets, the comment is on a line within.
    within = [line.partition("# ")[2].strip() for line in lines[node.lineno - 1 : node.end_lineno] if "# " in line]
    return " ".join(above or inside or within)


_SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class FieldComments(griffe.Extension):
    """Takes the comment of a field where it has no docstring, and gives each of several arguments their sentence."""

    def on_instance(self, *, node: Any, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it finds."""
        if obj.docstring is not None and obj.kind is not griffe.Kind.ATTRIBUTE:
            head, arguments, rest = obj.docstring.value.partition("Args:\n")
            inside, raises, after = rest.partition("Raises:\n")
            obj.docstring.value = head + arguments + _SHARED.sub(_each, inside) + raises + after

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called by griffe for each attribute that it finds."""
        if attr.docstring is not None or not isinstance(node, ast.AnnAssign) or not isinstance(attr.filepath, Path):
            return
        if comment := comment_of(_lines(attr.filepath), node):
            attr.docstring = griffe.Docstring(comment[:1].upper() + comment[1:], parent=attr)


def _each(shared: re.Match[str]) -> str:
    return "\n".join(f"{shared[1]}{name}: {shared[3]}" for name in shared[2].split(", "))


@functools.cache
def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
