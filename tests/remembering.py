"""Small pipelines for two thirds of the price: what Beam works out anew each time that it is asked is remembered."""

from __future__ import annotations

import copy
import types
import weakref
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, Optional

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

Arguments = tuple[list[str], list[Any]]


def remember() -> None:
    """For the rest of this process. The same comes of it: an answer depends on nothing but the question."""
    PipelineOptions.__init__ = parsed_once(PipelineOptions.__init__)
    core.get_function_args_defaults = inspected_once(core.get_function_args_defaults)


def parsed_once(initialise: Callable[..., None]) -> Callable[..., None]:
    """Beam makes a parser of command lines, and parses all flags, for each look at the options of a pipeline."""
    parsed: dict[tuple[type, tuple[str, ...]], Namespace] = {}

    def __init__(self: Any, flags: Optional[Sequence[str]] = None, **kwargs: Any) -> None:  # noqa: N807
        if not isinstance(flags, (list, tuple)):
            initialise(self, flags, **kwargs)
            return
        question = type(self), tuple(flags)
        if question not in parsed:
            initialise(self, flags, **kwargs)
            parsed[question] = copy.deepcopy(self._visible_options)
            return
        self._flags = flags
        self._visible_options = copy.deepcopy(parsed[question])
        self._all_options = kwargs
        for name in self._visible_option_list():
            kwargs.setdefault(name, getattr(self._visible_options, name))

    return __init__


def inspected_once(inspect: Callable[[Any], Arguments]) -> Callable[[Any], Arguments]:
    """Beam looks at the signatures of all methods of a DoFn several times for each use of it."""
    inspected: dict[type, weakref.WeakKeyDictionary[Any, Arguments]] = {
        kind: weakref.WeakKeyDictionary() for kind in (types.FunctionType, types.MethodType)
    }

    def get_function_args_defaults(f: Any) -> Arguments:
        if type(f) not in inspected:
            return inspect(f)
        known, function = inspected[type(f)], getattr(f, "__func__", f)
        if function not in known:
            known[function] = inspect(f)
        names, defaults = known[function]
        return list(names), list(defaults)

    return get_function_args_defaults
