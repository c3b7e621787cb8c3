"""Published policies: versions that never change, and a small file that says which of them is in use.

    ROOT/versions/VERSION/   a policy as policy.artefact writes it, policy.json last; beside it what came along
    ROOT/LATEST              {"version": ..., "previous": ..., "published": ...}, moved last, in one step
    ROOT/_adacompress/       files that are not whole yet

Who follows LATEST finds a whole policy, whenever a publisher is stopped. Of several publishers that saw the same LATEST
one moves it and the others get a LostRaceError: on gs:// the write is conditional on the object's generation, on local
disks (not on Windows) publishers take turns. Other filesystems have no conditional writes: there LATEST is read,
compared and written, so let one job publish to such a folder.
"""

import contextlib
import difflib
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Optional

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.artefact import Baseline, PolicyArtefact
from beam_adacompress.policy.calibration import Promise
from beam_adacompress.policy.policies import DEFAULT, Serving
from beam_adacompress.transforms import files
from beam_adacompress.transforms.documents import Kind, scratch
from beam_adacompress.transforms.files import FoundFile

MEMORY = "scores.parquet"  # beside a version's own files: the scores that it learned from, for the one after it

_LATEST = Kind("LATEST", "latest", 1, "delete it, and publish one of the versions beside it again")


class LostRaceError(AdaCompressError):
    """Another publisher moved LATEST first."""


class Pointer(NamedTuple):
    """What LATEST says."""

    version: str  # in use
    previous: Optional[str]  # that was in use before it; None for the first one
    published: float  # when it came in use, seconds since the epoch
    token: str  # tells this LATEST from any later one: the object's generation on gs://, elsewhere a digest


class Version(NamedTuple):
    """A version that is there."""

    version: str
    published: Optional[float]  # when it was written, seconds since the epoch; None where the filesystem does not know
    is_latest: bool
    promise: Optional[Promise]  # None where its description is damaged
    baseline: Optional[Baseline]  # None where no image was left to measure it on


def latest(root: str) -> Optional[Pointer]:
    """Which version is in use.

    Args:
      root: the folder of the published policies.

    Returns:
      None where nothing is published.

    Raises:
      AdaCompressError: LATEST cannot be read, is damaged, or is of an unknown version.
    """
    return _LATEST.read(root, _pointer)


def _pointer(content: Mapping[str, Any], token: str) -> Pointer:
    version, previous = content["version"], content["previous"]
    for name in (version, version if previous is None else previous):
        if re.fullmatch(r"\w[\w.-]*", name) is None:
            raise ValueError(f"{name!r} is no version")
    return Pointer(version, previous, float(content["published"]), token)


def folder_of(root: str, version: str) -> str:
    """The folder of a published version."""
    return files.join(root, "versions", version)


def resolve(path: str) -> str:
    """The folder of the policy itself, where a path is that of published policies: of the version that is in use.

    Args:
      path: the folder of a policy or of published ones, or `default`.

    Returns:
      The version's folder; the path as it is where it has a policy or nothing at all.

    Raises:
      AdaCompressError: it cannot be read, or its LATEST is damaged.
    """
    if path == DEFAULT or _has_policy(path):
        return path
    pointer = latest(path)
    return path if pointer is None else folder_of(path, pointer.version)


def publish(root: str, artefact: PolicyArtefact, expected: Optional[Pointer], extra: Mapping[str, bytes] = {}) -> str:
    """Publishes a policy: writes its version, then moves LATEST to it. Publishing what is in use does nothing.

    Args:
      root: the folder of the published policies.
      artefact: the policy.
      expected: what LATEST said when the policy was made; None: nothing was published.
      extra: further files for the version's folder, by name; where the version is there already, it keeps its own.

    Returns:
      The version.

    Raises:
      LostRaceError: LATEST says something else by now.
      AdaCompressError: something cannot be read or written; LATEST is as it was.
    """
    contents: dict[str, bytes] = {}
    version = artefacts.save(artefact, contents.__setitem__)
    _publish(root, version, {**extra, **contents}, expected)
    return version


def publish_folder(root: str, policy: str, expected: Optional[Pointer]) -> str:
    """Publishes the policy of a folder, byte for byte, with the scores that it learned from, if they are there.

    Args:
      policy: the folder of a policy, or of published ones, or `default`.
      root, expected: as for `publish`.

    Raises:
      AdaCompressError: as `publish`, or there is no policy in the folder.
    """
    folder = Serving(resolve(policy)).path.rstrip("/")
    contents: dict[str, bytes] = {}

    def read(path: str) -> bytes:
        data = contents[path.removeprefix(f"{folder}/")] = files.read(path)
        return data

    loaded, version = artefacts.load(folder, read)
    families: dict[str, bytes] = {}
    artefacts.save(loaded, families.__setitem__)
    memory = files.join(folder, MEMORY)
    with _meaning(f"{memory} cannot be read"):
        extra = {MEMORY: files.read(memory)} if files.exists(memory) else {}
    # Its own bytes go before those that it would be saved as: other software may pack weights differently.
    _publish(root, version, {**extra, **families, **contents}, expected)
    return version


def _publish(root: str, version: str, contents: Mapping[str, bytes], expected: Optional[Pointer]) -> None:
    if _has_policy(root):
        raise AdaCompressError(f"{root} is a policy itself, which would hide what is published there: choose another")
    found = latest(root)
    if found is not None and found.version == version:
        return
    if (found and found.token) != (expected and expected.token):
        raise _lost(root, version, expected, found)
    folder = folder_of(root, version)
    if _has_policy(folder):
        _check(root, version)
    else:
        with _meaning(f"the policy {version} cannot be published to {root}"):
            for name in sorted(contents, key=lambda name: name == artefacts.DESCRIPTION):
                media_type = "application/json" if name.endswith(".json") else "application/octet-stream"
                files.write(files.join(folder, name), contents[name], scratch(root), media_type)
    _move(root, version, expected)


def _move(root: str, version: str, expected: Optional[Pointer]) -> None:
    """Moves LATEST, if it is still what it is expected to be."""
    fields = {"version": version, "previous": expected and expected.version, "published": time.time()}
    path, content = _LATEST.path(root), _LATEST.encoded(fields)
    with _meaning(f"{path} cannot be moved to {version}"):
        moved = files.replace(path, content, expected and expected.token, scratch(root), "application/json")
    if moved:
        return
    # Perhaps by this very write, where its answer was lost and it was sent once more.
    found = latest(root)
    if found is None or found.version != version:
        raise _lost(root, version, expected, found)


def _lost(root: str, version: str, expected: Optional[Pointer], found: Optional[Pointer]) -> LostRaceError:
    theirs = "nothing" if found is None else found.version
    before = "nothing" if expected is None else expected.version
    return LostRaceError(
        f"{version} is not in use: another publisher put {theirs} in the place of {before} as the latest of {root} "
        "first; compare the two and publish again"
    )


def rollback(root: str, to: Optional[str] = None) -> str:
    """Moves LATEST back to the version before, or to any other one.

    Args:
      root: the folder of the published policies.
      to: the version; None for the one that was in use before this one, so that twice leads back to this one.

    Returns:
      The version that is in use now.

    Raises:
      LostRaceError: another publisher moves LATEST at the same time.
      AdaCompressError: there is no such version or nothing to go back to, it is damaged, or LATEST cannot be moved.
    """
    found = latest(root)
    if found is None:
        raise AdaCompressError(f"nothing is published in {root}: there is nothing to go back to")
    version = found.previous if to is None else to
    if version is None:
        raise AdaCompressError(f"{found.version} is the first policy in {root}: there is nothing to go back to")
    if version == found.version:
        return version
    if not _has_policy(folder_of(root, version)):
        known = sorted(name for name, _ in _described(root))
        near = difflib.get_close_matches(version, known) or known
        raise AdaCompressError(f"{root} has no version {version}: it has {', '.join(near) or 'none'}")
    _check(root, version)
    _move(root, version, found)
    return version


def versions(root: str) -> list[Version]:
    """The versions that are there, the newest one first.

    Raises:
      AdaCompressError: they cannot be listed or read.
    """
    found = latest(root)
    with _meaning(f"what is published in {root} cannot be read"):
        rows = [_version(name, file, found is not None and found.version == name) for name, file in _described(root)]
    return sorted(rows, key=lambda row: (row.published or 0.0, row.version), reverse=True)


def _version(name: str, file: FoundFile, is_latest: bool) -> Version:
    """One version, from its description alone: weights can be large."""
    try:
        content = json.loads(files.read(file.path))
        promise = Promise(**content["promise"])
        baseline = None if content["baseline"] is None else Baseline(**content["baseline"])
    except (ValueError, KeyError, TypeError):
        promise, baseline = None, None
    return Version(name, file.modified or None, is_latest, promise, baseline)


def _described(root: str) -> Iterator[tuple[str, FoundFile]]:
    """The versions that are whole, and their descriptions."""
    with _meaning(f"what is published in {root} cannot be listed"):
        for file in files.listing(files.join(root, "versions")):
            version, _, name = file.path.removeprefix(files.join(root, "versions", "")).partition("/")
            if name == artefacts.DESCRIPTION:
                yield version, file


def _check(root: str, version: str) -> None:
    """Raises AdaCompressError where a version that is there cannot be used."""
    folder = folder_of(root, version)
    _, found = artefacts.load(folder, files.read)
    if found != version:
        raise AdaCompressError(
            f"{folder} holds the policy {found}, and versions never change: delete that folder and publish again"
        )


def _has_policy(path: str) -> bool:
    with _meaning(f"the folder {path} cannot be read"):
        return files.exists(files.join(path, artefacts.DESCRIPTION))


@contextlib.contextmanager
def _meaning(what: str) -> Iterator[None]:
    """Turns what a filesystem reports into a sentence of ours."""
    try:
        yield
    except OSError as error:
        raise AdaCompressError(f"{what}: {error.strerror or error}") from error
