"""Options in a file: `--config job.toml` reads them, and a run writes those that it was given beside its results.

A key is the name of an option, with dashes or underscores; Beam's are options like ours. Keys that stand above all
tables are for whatever command reads the file; those in a table, `[compress]` or `[tables.fit]`, for that one alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import tomli_w

from beam_adacompress.arguments import near
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines.options import (
    CommandLine,
    Parser,
    UsageError,
    absolute,
    beam_parser,
    knows_all,
    spellings,
)
from beam_adacompress.transforms import files
from beam_adacompress.version import versions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "job.toml"
FORMAT = "adacompress.job"
VERSION = 1

FOLDER, PATH, FILE = "FOLDER", "PATH", "FILE"  # metavars of options that are paths

# They are about one moment, and not about what comes of the job.
_NOT_RECORDED = {"overwrite", "dry_run"}

# Names of options, of Beam's for stores and runners too, and of parameters in URIs, that may hold a secret.
_SECRET = re.compile(r"secret|password|passwd|token|credential|connection_string|access_key|api_?key|signature", re.I)
_SECRET_IN_URI = re.compile(r"//[^/?#@\s]*:[^/?#@\s]*@|[?&;](?P<name>[\w.-]+)=")


def arguments(line: CommandLine, path: str, argv: Sequence[str]) -> list[str]:
    """A command line with the options of a file before those that it has; what it names is taken from it alone.

    Args:
      line: what the command takes.
      path: of the file, on any filesystem that Beam knows.
      argv: the command line.

    Raises:
      AdaCompressError: the file cannot be read.
      UsageError: it is no TOML, or holds what is no option, or no value of one.
    """
    settings = _settings(line, path)
    ours, beams = line.parser(), beam_parser(line.prog, bool(line.epilog))
    values = {each.name: each.value for each in given_options(line, argv)}
    runner = values.get("runner", settings.get("runner"))
    found: list[str] = []
    for key, value in settings.items():
        action = _action(ours, beams, key)
        if action is None and knows_all(runner):
            hint = near(f"--{key}", spellings(ours, beams)) or f"see {line.prog} --help"
            raise UsageError(f"{path}: {key} is no option of {line.prog}: {hint.replace('--', '', 1)}")
        if (key.replace("-", "_") if action is None else _name(action)) not in values:
            found += _flags(f"{path}: {key}", key, value, action)
    return [*found, *argv]


def without_switches(line: CommandLine, argv: Sequence[str]) -> list[str]:
    """A command line with `--switch=true` as `--switch`, and without `--switch=false`."""
    kinds = {name: action for action in line.parser()._actions for name in action.option_strings}
    found = []
    for argument in argv:
        name, has_value, value = argument.partition("=")
        if has_value and name in kinds and kinds[name].nargs == 0:
            if value.lower() not in ("true", "false"):
                raise UsageError(f"{name} is on or off, so it takes true or false, got {value!r}")
            found += [name] if value.lower() == "true" else []
        else:
            found.append(argument)
    return found


class Given(NamedTuple):
    """An option of a command line."""

    name: str  # as in a file, with `_`
    value: Any  # True for a switch; Beam's as they were written
    is_path: bool = False


def given_options(line: CommandLine, argv: Sequence[str]) -> list[Given]:
    """The options that a command line has, in the order of the command's help, Beam's last; arguments are left out.

    Raises:
      UsageError: a value is malformed.
    """
    ours, beams = line.parser(), beam_parser(line.prog, bool(line.epilog))
    for action in ours._actions:
        action.default, action.required = argparse.SUPPRESS, False
    # Of a switch that is written `--switch=false` it matters, too, that it is there.
    named = {argument.partition("=")[0] for argument in argv}
    values, rest = ours.parse_known_args(without_switches(line, argv))
    found = []
    for action in ours._actions:
        if action.nargs == 0 and named & set(action.option_strings):
            found.append(Given(_name(action), hasattr(values, action.dest)))
        elif action.option_strings and hasattr(values, action.dest):
            found.append(Given(_name(action), getattr(values, action.dest), action.metavar in (FOLDER, PATH, FILE)))
    raw = Parser(prog=line.prog, add_help=False)
    for action in beams._actions:
        kind: dict[str, Any] = {"action": "store_const", "const": True} if action.nargs == 0 else {"action": "append"}
        raw.add_argument(*action.option_strings, dest=_name(action), default=argparse.SUPPRESS, **kind)
    theirs, unknown = raw.parse_known_args(rest)
    for name, each in vars(theirs).items():
        action = beams._option_string_actions[f"--{name}"]
        found.append(Given(name, each[-1] if type(action) is argparse._StoreAction and each is not True else each))
    for flag in unknown:  # of a runner that has options of its own
        name, has_value, text = flag.partition("=")
        if name.startswith("--"):
            found.append(Given(name[2:].replace("-", "_"), text if has_value else True))
    return found


class Record(NamedTuple):
    """A command line, for the file that repeats it."""

    line: CommandLine
    argv: Sequence[str]

    def text(self, **instead: Any) -> str:
        """The content of the file.

        Args:
          instead: values that take the place of those that were given.
        """
        given = [each for each in given_options(self.line, self.argv) if each.name not in _NOT_RECORDED]
        secret = [each.name for each in given if _is_secret(each)]
        kept = {each.name: _recorded(each) for each in given if each.value is not False and each.name not in secret}
        kept |= {name: value for name, value in instead.items() if name in kept}
        return "\n".join(self._lines(kept, secret))

    def write(self, output: str, scratch: str, **instead: Any) -> None:
        """Writes it into the folder of a run; arguments as for `files.write` and `text`.

        Raises:
          AdaCompressError: that cannot be written.
        """
        self.save(files.join(output, NAME), scratch, **instead)

    def save(self, path: str, scratch: str, **instead: Any) -> None:
        """The same under any name."""
        try:
            files.write(path, self.text(**instead).encode(), scratch, "application/toml")
        except OSError as error:
            raise AdaCompressError(f"{path} cannot be written: {error.strerror or error}") from error

    def _lines(self, kept: Mapping[str, Any], secret: Sequence[str]) -> Iterator[str]:
        command = " ".join(self.line.words)
        software = ", ".join(f"{name} {version}" for name, version in versions().items())
        yield f"# Repeat it elsewhere: adacompress {command} --config {NAME} --output ANOTHER"
        yield f"# It was made with {software},"
        yield f"# in {shlex.quote(os.getcwd())}, where what is no absolute path begins."
        yield f'format = "{FORMAT}"'
        yield f"format_version = {VERSION}"
        yield ""
        yield f"[{'.'.join(self.line.words)}]"
        for name, value in kept.items():
            yield tomli_w.dumps({name.replace("_", "-"): value}).rstrip("\n")
        for name in secret:
            yield f"# {name.replace('_', '-')} may hold a secret and is not written down: give it on the command line"
        yield ""
        yield "# Left as they are, by default:"
        for action in self.line.parser()._actions:
            name = _name(action)
            is_told = name in (*kept, *secret, *_NOT_RECORDED) or action.default == argparse.SUPPRESS
            if action.option_strings and not is_told:
                default = False if action.nargs == 0 else action.default
                value = "" if default is None else tomli_w.dumps({"x": default}).partition("= ")[2].rstrip("\n")
                yield f"# {name.replace('_', '-')} = {value}".rstrip()
        yield ""


def _settings(line: CommandLine, path: str) -> dict[str, Any]:
    """The keys of a file that are for a command."""
    try:
        content = tomllib.loads(files.read(path).decode())
    except OSError as error:
        raise AdaCompressError(f"the options {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    if (form := content.pop("format", FORMAT)) != FORMAT or content.pop("format_version", VERSION) != VERSION:
        raise UsageError(
            f"{path} is no job that this release knows (format {form!r}): it reads {FORMAT}, version {VERSION}"
        )
    own = content
    for word in line.words:
        own = own.get(word, {}) if isinstance(own.get(word, {}), dict) else {}
    shared = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key for key, value in content.items() if isinstance(value, dict)}
    if not shared and not own:
        raise UsageError(
            f"{path} has no options for {line.prog}: it needs a table [{'.'.join(line.words)}]"
            + (f", and has {', '.join(f'[{table}]' for table in sorted(tables))}" if tables else "")
        )
    merged = {**shared, **own}
    names = [key.replace("-", "_") for key in merged]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path}: {twice[0]} is there twice, with - and with _")
    return merged


def _flags(where: str, key: str, value: Any, action: Optional[argparse.Action]) -> list[str]:
    """An option of a file as a command line has it."""
    flag = f"--{key}" if action is None else action.option_strings[0]
    is_switch = action is not None and action.nargs == 0
    if is_switch and not isinstance(value, bool):
        raise UsageError(f"{where} must be true or false, got {value!r}")
    if isinstance(value, bool) and (is_switch or action is None):
        return [flag] if value else []
    several = value if isinstance(value, list) else [value]
    if isinstance(value, list) and type(action) is argparse._StoreAction:
        raise UsageError(f"{where} takes one value, got the list {value!r}")
    for each in several:
        if not isinstance(each, (str, int, float)):
            raise UsageError(f"{where} must be text, a number or true or false, got {each!r}")
    return [f"{flag}={each}" for each in several]


def _action(ours: argparse.ArgumentParser, beams: argparse.ArgumentParser, key: str) -> Optional[argparse.Action]:
    """The option that a key stands for: --dry-run is ours and --dry_run Beam's, else either spelling will do."""
    for spelling in (f"--{key}", f"--{key.replace('_', '-')}", f"--{key.replace('-', '_')}"):
        for parser in (ours, beams):
            action = parser._option_string_actions.get(spelling)
            if action is not None and action.default != argparse.SUPPRESS:  # as that of --help and --config is
                return action
    return None


def _name(action: argparse.Action) -> str:
    return (action.option_strings or [action.dest])[-1].lstrip("-").replace("-", "_")


def _recorded(given: Given) -> Any:
    if isinstance(given.value, (list, tuple)):
        return [_recorded(given._replace(value=each)) for each in given.value]
    return absolute(given.value) if given.is_path and given.value != "default" else given.value


def _is_secret(given: Given) -> bool:
    if _SECRET.search(given.name):
        return True
    values = given.value if isinstance(given.value, (list, tuple)) else [given.value]
    found = [match for each in values for match in _SECRET_IN_URI.finditer(str(each))]
    return any(match["name"] is None or _SECRET.search(match["name"]) for match in found)
