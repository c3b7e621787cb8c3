"""Arguments: of the types that they are said to be, or an error that names the one that is not."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import numbers
import types
from collections.abc import Iterable
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

_KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
    type(None): (type(None), "none"),
}
_UNIONS = (Union, types.UnionType)


def near(name: str, names: Iterable[str]) -> Optional[str]:
    """A question after the nearest of some names; None where none is near."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {found[0]}?" if found else None


def check_types(made: Any) -> None:
    """Checks the fields of a dataclass, a transform or settings, against their annotations.

    Args:
      made: an instance.

    Raises:
      TypeError: names the field, what it has to be, and what it is.
    """
    for name, kind in _fields_of(type(made)):  # type: ignore[arg-type]  # a class is hashable
        check_type(type(made).__name__, name, getattr(made, name), kind)


def check_type(owner: str, name: str, value: Any, kind: Any) -> None:
    """Checks one argument against its annotation.

    Args:
      owner: whose argument it is, for the message.
      name: of the argument.
      value: what was given.
      kind: the annotation, as a type.

    Raises:
      TypeError: names the argument, what it has to be, and what it is.
    """
    if not _is(value, kind):
        raise TypeError(f"{owner}: {name} must be {_described(kind)}, got {value!r}")


@functools.cache
def _fields_of(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) in _UNIONS:
        return any(_is(value, one) for one in get_args(kind))
    if kind in _KINDS:
        return isinstance(value, _KINDS[kind][0]) and (kind is bool or not isinstance(value, bool))
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is collections.abc.Callable:
        return callable(value)
    if not isinstance(value, origin):
        return False
    if issubclass(origin, collections.abc.Mapping) and inner:
        return all(_is(key, inner[0]) and _is(each, inner[1]) for key, each in value.items())
    if origin is collections.abc.Sequence:
        return not isinstance(value, str) and all(_is(each, *inner) for each in value)
    return True


def _described(kind: Any) -> str:
    if get_origin(kind) in _UNIONS:
        *others, last = [_described(one) for one in get_args(kind)]
        return f"{', '.join(others)} or {last}"
    if kind in _KINDS:
        return _KINDS[kind][1]
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is collections.abc.Callable:
        return "a function"
    if origin is collections.abc.Sequence:
        return f"a list of {_described(*inner)}"
    if issubclass(origin, collections.abc.Mapping):
        return "a mapping"
    return f"a {origin.__name__}"
