"""What a command came to, for programs: `--json` prints one object in the place of the text.

Commands print their text as ever, and `tell` the facts behind it; without `--json` nobody listens.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import enum
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

FORMAT = "adacompress.result"
VERSION = 1

_facts: contextvars.ContextVar[Optional[dict[str, Any]]] = contextvars.ContextVar("facts", default=None)


class Listening:
    """What a command said while `listening`.

    Attributes:
      facts: by name, see `tell`.
      printed: the text for people.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.printed = io.StringIO()


@contextlib.contextmanager
def listening() -> Iterator[Listening]:
    """Keeps what is told and printed to stdout in the block, and shows none of it."""
    heard = Listening()
    token = _facts.set(heard.facts)
    try:
        with contextlib.redirect_stdout(heard.printed):
            yield heard
    finally:
        _facts.reset(token)


def tell(**facts: Any) -> None:
    """Adds facts to the result; a name that is told again takes the later value.

    Args:
      facts: numbers, text, lists, mappings, rows or dataclasses.
    """
    if (heard := _facts.get()) is not None:
        heard.update(facts)


def result(command: str, status: int, heard: Listening, error: Optional[str] = None) -> str:
    """The object, as text.

    Args:
      command: its words, e.g. `tables fit`.
      status: with which it ends.
      heard: what it said.
      error: the sentence of what went wrong; None where nothing did.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "command": command,
        "exit_status": int(status),
        **({} if error is None else {"error": {"message": error}}),
        **heard.facts,
        "text": heard.printed.getvalue().splitlines(),
    }
    return json.dumps(plain(content), indent=1, allow_nan=False, default=str)


def plain(value: Any) -> Any:
    """The same as JSON has it: rows and dataclasses are objects, and numbers that are none are null."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(each) for each in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):  # of NumPy
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
