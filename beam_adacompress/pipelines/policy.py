"""`adacompress policy`: what a policy is and what it promises, and which of the published ones is in use."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.pipelines.options import OF_FILESYSTEMS, CommandLine, UsageError, absolute, adder, one_of
from beam_adacompress.pipelines.policy_options import located
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.train import TARGETS, said_of_promise
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.policies import DEFAULT, Serving
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.publishing import Pointer, Version

_WIDTH = 12  # of the first column

USAGE = """usage: adacompress policy show POLICY
       adacompress policy list ROOT
       adacompress policy publish POLICY ROOT
       adacompress policy rollback ROOT [--to VERSION]
--help after one of them says more"""


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress policy ARGV` and returns its exit status.

    Raises:
      AdaCompressError: a policy is missing, damaged or of an unknown version, or cannot be published.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(USAGE)
        return 0
    one_of("policy", _COMMANDS, arguments[0])(arguments[1:])
    return 0


def _show(argv: Sequence[str]) -> None:
    path = located(_parsed("show", argv)["policy"])
    policy = publishing.resolve(path)
    folder = Serving(policy).path
    loaded, version = artefacts.load(folder, files.read)
    description = json.loads(files.read(files.join(folder, artefacts.DESCRIPTION)))
    tell(policy={"version": version, "folder": policy, **description})
    if policy != path:
        print(_line("published", f"the latest of {path}"))
    print("\n".join(shown(loaded, version)))


def _list(argv: Sequence[str]) -> None:
    root = absolute(_parsed("list", argv)["root"])
    found = publishing.versions(root)
    tell(root=root, versions=[_fields(version) for version in found])
    if found:
        print("\n".join(_table([_TITLES, *map(_row, found)])))
    else:
        print(f"nothing is published in {root}: adacompress policy publish POLICY {root}")


def _publish(argv: Sequence[str]) -> None:
    given = _parsed("publish", argv)
    root = absolute(given["root"])
    before = publishing.latest(root)
    _say(root, before, publishing.publish_folder(root, located(given["policy"]), before))


def _rollback(argv: Sequence[str]) -> None:
    given = _parsed("rollback", argv)
    root = absolute(given["root"])
    before = publishing.latest(root)
    _say(root, before, publishing.rollback(root, given["to"]))


_COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "show": _show,
    "list": _list,
    "publish": _publish,
    "rollback": _rollback,
}


class _OfPolicy:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "policy",
            help=f"the folder of a policy, or of published ones, or {DEFAULT}: the one that comes with this package",
        )


class _OfRoot:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("root", help="the folder of the published policies")


class _OfRollback:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        adder(parser)("--to", metavar="VERSION", help="which one (not given: the one that was in use before)")


def _command_line(name: str, description: str, *groups: Any) -> CommandLine:
    return CommandLine(f"adacompress policy {name}", description, groups, epilog=OF_FILESYSTEMS)


LINES = {
    "show": _command_line("show", "Show what a policy is, and what it promises.", _OfPolicy),
    "list": _command_line("list", "List the published policies, the newest one first.", _OfRoot),
    "publish": _command_line("publish", "Publish a policy: jobs that follow ROOT take it up.", _OfPolicy, _OfRoot),
    "rollback": _command_line("rollback", "Go back to a policy that was published before.", _OfRoot, _OfRollback),
}


def _parsed(name: str, argv: Sequence[str]) -> Mapping[str, Any]:
    """Parses a command line, and lets filesystems know the options of Beam in it."""
    line = LINES[name]
    given, rest = line.parse(argv)
    for argument, value in given.items():
        if value == "":
            raise UsageError(f"{argument} is empty; see {line.prog} --help")
    FileSystems.set_options(PipelineOptions(rest))
    return given


def _say(root: str, before: Optional[Pointer], version: str) -> None:
    tell(root=root, version=version, before=before and before.version)
    if before is not None and before.version == version:
        print(f"{version} is the latest of {root} already")
        return
    print(f"{version} is the latest of {root} now")
    if before is not None:
        print(f"back to {before.version}: adacompress policy rollback {root}")


_TITLES = ("version", "published (UTC)", "promise", "agreement", "size ratio", "")


def _row(found: Version) -> Sequence[str]:
    """A version in the list, for people."""
    when, promise, baseline = "-", "damaged", ("-", "-")
    if found.published is not None:
        when = datetime.datetime.fromtimestamp(found.published, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    if found.promise is not None:
        promise = f"{found.promise.target:g}" if found.promise.holds else "none"
    if found.baseline is not None:
        baseline = (f"{found.baseline.agreement:.3f}", f"{found.baseline.size_ratio:.3f}")
    return found.version, when, promise, *baseline, "latest" if found.is_latest else ""


def _fields(found: Version) -> Mapping[str, Any]:
    """The same for programs."""
    measured = {"promise": found.promise, "baseline": found.baseline}
    return {
        "version": found.version,
        "published": found.published,
        "latest": found.is_latest,
        **{name: value and dataclasses.asdict(value) for name, value in measured.items()},
    }


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip()


def shown(loaded: PolicyArtefact, version: str) -> Iterator[str]:
    """What a policy is, for people."""
    space, sight, baseline = loaded.space, loaded.sight, loaded.baseline
    yield _line("policy", f"{version}, an agent of the kind {loaded.agent.kind}")
    for name, its_version in loaded.backends:
        yield _line("backend", f"{name}, version {its_version}")
    yield _line("agreement", f"the original's label is among the best {loaded.top} of the result, for all backends")
    names = ", ".join(family.name for family in space.families)
    qualities = ", ".join(map(str, space.qualities))
    yield _line("actions", f"{len(space)}: the tables {names} at the qualities {qualities}")
    yield _line("encoder", ", ".join(f"{name} {value}" for name, value in loaded.encoder.items()))
    looks = [f"{len(NAMES)} features of the image"]
    if sight.lookahead is not None:
        encodings = f" and of {len(sight.candidates)} encodings" if sight.candidates else ""
        looks.append(f"what {sight.lookahead} says of it{encodings}")
    if sight.embedding is not None:
        looks.append(f"what {sight.embedding} makes of it")
    yield _line("looks at", f"{', '.join(looks)}; {loaded.agent.looks_at} numbers in all")
    for sentence in said_of_promise(loaded.promise, loaded.calibration, loaded.agent.kind):
        yield _line("promise", sentence.removeprefix("promised: "))
    for target in TARGETS:
        promise = loaded.calibration.promise(target, loaded.promise.confidence)
        could = "no" if promise.agreement is None else f"yes, with {promise.agreement:.3f} on calibration images"
        yield _line(f"{target:g}?", could)
    if baseline is None:
        yield _line("on test", "no image was left to test it on")
    else:
        yield _line(
            "on test",
            f"agreement {baseline.agreement:.3f}, size ratio {baseline.size_ratio:.3f}, reward {baseline.reward:.3f} "
            f"on {baseline.images} images",
        )
    yield _line("trained on", f"{loaded.data['images']} images, those to calibrate and to test with included")
    yield _line("made with", ", ".join(f"{software} {its}" for software, its in loaded.versions.items()))


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"
