"""`adacompress policy show`: what a policy is, what it promises and what else it could promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Optional

from beam_adacompress.pipelines.options import Parser, UsageError, absolute
from beam_adacompress.pipelines.train import TARGETS, said_of_promise
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.policies import DEFAULT, Serving
from beam_adacompress.transforms import files

_WIDTH = 12  # of the first column


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress policy ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the policy is missing, damaged or of an unknown version.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print("usage: adacompress policy show PATH [--json]; --help after show says more")
        return 0
    if arguments[0] != "show":
        raise UsageError(f"unknown {arguments[0]!r}; adacompress policy knows show")
    parser = Parser(prog="adacompress policy show", description="Show what a policy is, and what it promises.")
    parser.add_argument("path", help=f"the folder of a policy, or {DEFAULT}: the one that comes with this package")
    parser.add_argument("--json", action="store_true", help="print the policy's description as it is")
    given = parser.parse_args(arguments[1:])
    try:
        path = Serving(given.path if given.path == DEFAULT else absolute(given.path)).path
    except ValueError as error:
        raise UsageError(str(error)) from error
    loaded, version = artefacts.load(path, files.read)
    if given.json:
        description = json.loads(files.read(files.join(path, artefacts.DESCRIPTION)))
        print(json.dumps({"version": version, **description}, indent=1))
        return 0
    print("\n".join(shown(loaded, version)))
    return 0


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
        looks.append(f"what {sight.lookahead} says of it and of {len(sight.candidates)} encodings")
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
