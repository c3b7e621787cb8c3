"""Backends by name: `google-vision`, `litert:model.tflite?labels=labels.txt`, `record:replies.jsonl+baidu`."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from typing import Any, Union
from urllib.parse import unquote_plus

from beam_adacompress.arguments import near
from beam_adacompress.backends.contract import Backend

# A new backend is one file and one line here.
BACKENDS: Mapping[str, str] = {
    "google-vision": "beam_adacompress.backends.google_vision:GoogleVision",
    "rekognition": "beam_adacompress.backends.rekognition:Rekognition",
    "facepp": "beam_adacompress.backends.facepp:FacePlusPlus",
    "baidu": "beam_adacompress.backends.baidu:Baidu",
    "litert": "beam_adacompress.backends.litert:LiteRT",
    "keras": "beam_adacompress.backends.keras:Keras",
    "dct": "beam_adacompress.backends.dct:DCT",
    "replay": "beam_adacompress.backends.replay:Replay",
    "record": "beam_adacompress.backends.replay:Record",
}

_BOOLEANS = {"true": True, "false": False}


def backend(uri: str) -> Backend:
    """The backend that a URI names; nothing is opened or connected.

    Args:
      uri: `NAME`, `NAME:PATH`, either with `?parameter=value&parameter=value`.

    Raises:
      ValueError: the name, a parameter or its value is not known; the message lists what is.
    """
    head, _, query = uri.partition("?")
    name, _, path = head.partition(":")
    if name == "record":  # what it records has a query of its own
        path, query = uri[len("record:") :], ""
    if name not in BACKENDS:
        hint = near(name, BACKENDS)
        known = ", ".join(sorted(BACKENDS))
        raise ValueError(f"backend {uri!r}: unknown name {name!r}{f': {hint}' if hint else ''}; known: {known}")
    module, _, attribute = BACKENDS[name].partition(":")
    made: Any = getattr(importlib.import_module(module), attribute)
    if made.takes_path != bool(path):
        raise ValueError(
            f"backend {uri!r}: {name} takes {'a path, as in ' + name + ':PATH' if made.takes_path else 'no path'}"
        )
    given = _parameters(uri, query, _fields(made))
    named: Backend = made(path, **given) if path else made(**given)
    return named


def _fields(made: type[Backend]) -> dict[str, Any]:
    """The parameters that a URI may give, with their types."""
    hints = typing.get_type_hints(made)
    fields = [field.name for field in dataclasses.fields(made) if field.init]
    return {name: hints[name] for name in (fields[1:] if made.takes_path else fields)}


def _parameters(uri: str, query: str, known: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parameter in query.split("&") if query else ():
        name, has_value, text = (unquote_plus(part) for part in parameter.partition("="))
        if not has_value:
            raise ValueError(f"backend {uri!r}: {parameter!r} has no value; write {name}=VALUE")
        if name not in known:
            raise ValueError(f"backend {uri!r}: unknown parameter {name!r}; known: {', '.join(known) or 'none'}")
        kind = _plain(known[name])
        try:
            found[name] = _BOOLEANS[text] if kind is bool else kind(text)
        except (ValueError, KeyError) as error:
            raise ValueError(f"backend {uri!r}: {name}={text} is no {kind.__name__}") from error
    return found


def _plain(kind: Any) -> Any:
    """The type without its Optional."""
    if typing.get_origin(kind) is Union:
        return next(option for option in typing.get_args(kind) if option is not type(None))
    return kind
