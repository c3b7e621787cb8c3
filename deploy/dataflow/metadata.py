"""Writes the metadata of the flex templates from the options of the commands: python deploy/dataflow/metadata.py."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from beam_adacompress import backends
from beam_adacompress.pipelines import cli, template

HERE = Path(__file__).parent

COMMANDS = {
    "compress": "Shrink the images of a bucket for the machines that look at them; optionally score a sample of them.",
    "retrain": "Train a policy again from the scores of what it chose, and publish it if it is better.",
}

# What a command by itself can do without, and a template cannot: workers do not reach the launcher's disk.
_REQUIRED = {"retrain": {"--publish"}}

# A launcher does not wait for the job, so it has no exit status to give; nobody reads what it prints, and its disk is
# gone when it ends.
_LEFT_OUT = {"--max-failures", "--dry-run", "--sample", "--worker-price", "--logs"}

_DAYS = "{today} and {yesterday} in a value stand for those days in UTC, as YYYY-MM-DD."

_BACKEND = f"({'|'.join(backends.BACKENDS)})([:?].+)?"

# What Dataflow's workers reach is in buckets.
_FOLDERS = {
    "input": ("TEXT", "^gs://.+$"),  # may be a glob
    "output": ("GCS_WRITE_FOLDER", "^gs://.+$"),
    "scores": ("TEXT", "^gs://[^,]+(,gs://[^,]+)*$"),
    "publish": ("GCS_WRITE_FOLDER", "^gs://.+$"),
    "cache": ("GCS_WRITE_FOLDER", "^gs://.+$"),
    "policy": ("TEXT", "^(default|gs://.+)$"),
    "score_with": ("TEXT", f"^{_BACKEND}$"),
    "verify": ("TEXT", f"^{_BACKEND}$"),
}
_NUMBERS = {int: "^-?[0-9]+$", float: r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]+)?$"}


def metadata(command: str) -> dict[str, Any]:
    """The content of a template's metadata file."""
    required = {*importlib.import_module(cli.COMMANDS[command].module).REQUIRED, *_REQUIRED.get(command, ())}
    actions = [each for each in template.options_of(command)._actions if not _LEFT_OUT & set(each.option_strings)]
    return {
        "name": f"beam-adacompress {command}",
        "description": f"{COMMANDS[command]} {_DAYS}",
        "parameters": [parameter(action, required & set(action.option_strings)) for action in actions],
    }


def parameter(action: argparse.Action, required: set[str]) -> dict[str, Any]:
    """One option as a parameter."""
    name = action.option_strings[-1][2:].replace("-", "_")
    described = {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": " ".join(str(action.help).split()),
        "isOptional": not required,
    }
    if action.nargs == 0:
        return {**described, "paramType": "BOOLEAN", "regexes": ["^(true|false)$"], "defaultValue": "false"}
    if action.choices is not None:
        kind, pattern = "ENUM", f"^({'|'.join(map(str, action.choices))})$"
        described["enumOptions"] = [{"value": str(choice)} for choice in action.choices]
    elif action.type in _NUMBERS:
        kind, pattern = "NUMBER", _NUMBERS[action.type]
    else:
        kind, pattern = _FOLDERS.get(name, ("TEXT", "^.+$"))
    if action.default not in (None, "", ()):
        described["defaultValue"] = str(action.default)
    return {**described, "paramType": kind, "regexes": [pattern]}


def path_of(command: str) -> Path:
    """Where the metadata of a template is."""
    return HERE / f"{command}.metadata.json"


def content_of(command: str) -> str:
    """The text of that file."""
    return json.dumps(metadata(command), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in COMMANDS:
        path_of(each).write_text(content_of(each))
