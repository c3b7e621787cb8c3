"""A policy as files: what it is in JSON, its weights as plain arrays; no pickle, no TensorFlow.

POLICY/tables/*.json   families of quantisation tables that do not come with this package
POLICY/weights.npz
POLICY/policy.json     written last; names the weights by their sha256, so a policy is whole or not there
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Optional

import numpy as np

from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg import tables
from beam_adacompress.policy import actions, features
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.agent import Agent
from beam_adacompress.policy.calibration import Calibration, Promise
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight, sight_from_json

FORMAT = "adacompress.policy"
VERSION = 1
DESCRIPTION = "policy.json"
WEIGHTS = "weights.npz"
AGENTS: Mapping[str, type[Agent]] = {agent.kind: agent for agent in (AgreementAgent, DQNAgent)}

Write = Callable[[str, bytes], None]  # puts a file below the policy's folder, whole or not at all


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What the policy came to on images that neither trained nor calibrated it: what drift is measured against.

    Args:
      images: that say so.
      agreement: mean, 0..1.
      size_ratio: mean of compressed bytes / reference bytes.
    """

    images: int
    agreement: float
    size_ratio: float

    @property
    def reward(self) -> float:
        """Agreement less size ratio."""
        return self.agreement - self.size_ratio


@dataclasses.dataclass(frozen=True)
class PolicyArtefact:
    """A policy and where it comes from.

    Args:
      space: what it chooses from.
      agent: what it knows.
      sight: what it looks at.
      settings: of its boldness, from the most cautious one: prices of a byte, see `policy.learned`; a single one for
        an agent that has none.
      calibration: of the settings.
      promise: what it was trained to promise.
      backends: name and version of each, which all had to agree.
      encoder: the arguments of `jpeg.Settings` with which outcomes were measured.
      top: labels of the compressed image among which the reference's best one had to be.
      baseline: None where no image was left to measure it on.
      data: fingerprint of the images: how many, and a sha256 over their own.
      versions: of the software.
    """

    space: ActionSpace
    agent: Agent
    sight: Sight
    settings: tuple[float, ...]
    calibration: Calibration
    promise: Promise
    backends: tuple[tuple[str, str], ...]
    encoder: Mapping[str, Any]
    top: int
    baseline: Optional[Baseline]
    data: Mapping[str, Any]
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.agent.actions != len(self.space):
            raise ValueError(f"the agent knows {self.agent.actions} actions, and there are {len(self.space)}")
        self.sight.check(self.agent.looks_at)
        if (counted := len(self.calibration.disagreements)) != len(self.settings):
            raise ValueError(f"there are {len(self.settings)} settings, and {counted} were calibrated")

    def references(self, path: str) -> list[str]:
        """What names each family of the space to an encoder: its name, or the path of its file in the policy."""
        return [each.name if _comes_along(each) else f"{path.rstrip('/')}/{_file_of(each)}" for each in self.families]

    @property
    def families(self) -> tuple[tables.Family, ...]:
        return self.space.families


def _comes_along(family: tables.Family) -> bool:
    """Whether a family comes with this package, as it is."""
    if family.name not in tables.FAMILIES:
        return False
    ours = tables.family(family.name)
    return (ours.luma, ours.chroma) == (family.luma, family.chroma)


def _file_of(family: tables.Family) -> str:
    digest = hashlib.sha256(family.to_json()).hexdigest()[:8]
    return f"tables/{re.sub('[^A-Za-z0-9_.-]', '_', family.name)}-{digest}{tables.SUFFIX}"


def version_of(kind: str, description: bytes) -> str:
    """What names a policy in manifests: the beginning of a digest of all that it is."""
    return f"{kind}-{hashlib.sha256(description).hexdigest()[:10]}"


def save(artefact: PolicyArtefact, write: Write) -> str:
    """Writes a policy.

    Args:
      artefact: the policy.
      write: of a file by its name.

    Returns:
      Its version.
    """
    weights = _packed(artefact.agent.arrays())
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "kind": artefact.agent.kind,
        "agent": artefact.agent.settings(),
        "actions": artefact.space.to_json(),
        "features": {"version": features.VERSION, "count": len(features.NAMES), **artefact.sight.to_json()},
        "settings": list(artefact.settings),
        "calibration": dataclasses.asdict(artefact.calibration),
        "promise": dataclasses.asdict(artefact.promise),
        "backends": [{"name": name, "version": version} for name, version in artefact.backends],
        "reference": "original",
        "encoder": dict(artefact.encoder),
        "top": artefact.top,
        "baseline": None if artefact.baseline is None else dataclasses.asdict(artefact.baseline),
        "data": dict(artefact.data),
        "versions": dict(artefact.versions),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    description = json.dumps(content, indent=1).encode()
    for family in artefact.families:
        if not _comes_along(family):
            write(_file_of(family), family.to_json())
    write(WEIGHTS, weights)
    write(DESCRIPTION, description)
    return version_of(artefact.agent.kind, description)


def load(path: str, read: Read = read_local) -> tuple[PolicyArtefact, str]:
    """Reads what `save` wrote.

    Args:
      path: the policy's folder.
      read: gives the bytes of a file at any path that the job understands.

    Returns:
      The policy and its version.

    Raises:
      AdaCompressError: it is missing, damaged, of an unknown version, or looks at features that this release has not.
    """
    folder = path.rstrip("/")
    description = _read(f"{folder}/{DESCRIPTION}", read)
    try:
        content = json.loads(description)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdaCompressError(f"{folder} holds no policy: {DESCRIPTION} is damaged ({error})") from error
    if version != VERSION:
        raise AdaCompressError(
            f"the policy {folder} has version {version}, and this is adacompress for version {VERSION}: "
            "use the release that wrote it, or train it again"
        )
    try:
        if content["features"]["version"] != features.VERSION:
            raise AdaCompressError(
                f"the policy {folder} looks at features of version {content['features']['version']}, and this release "
                f"computes version {features.VERSION}: use the release that wrote it, or train it again"
            )
        weights = _read(f"{folder}/{content['weights']['file']}", read)
        if hashlib.sha256(weights).hexdigest() != content["weights"]["sha256"]:
            raise ValueError("the weights are not those that it names")
        return _artefact(content, _unpacked(weights), folder), version_of(content["kind"], description)
    except (ValueError, KeyError, TypeError) as error:
        raise AdaCompressError(f"the policy {folder} is damaged: {error}") from error


def _artefact(content: Mapping[str, Any], arrays: Mapping[str, Any], path: str) -> PolicyArtefact:
    baseline, calibration = content["baseline"], content["calibration"]
    if content["kind"] not in AGENTS:
        raise AdaCompressError(f"the policy {path} is of the unknown kind {content['kind']!r}: use a newer release")
    return PolicyArtefact(
        space=actions.from_json(content["actions"], path),
        agent=AGENTS[content["kind"]].restored(arrays, content["agent"]),
        sight=sight_from_json(content["features"]),
        settings=tuple(float(each) for each in content["settings"]),
        calibration=Calibration(int(calibration["images"]), tuple(map(int, calibration["disagreements"]))),
        promise=Promise(**content["promise"]),
        backends=tuple((each["name"], each["version"]) for each in content["backends"]),
        encoder=content["encoder"],
        top=int(content["top"]),
        baseline=None if baseline is None else Baseline(**baseline),
        data=content["data"],
        versions=content["versions"],
    )


def _read(path: str, read: Read) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise AdaCompressError(f"the policy's file {path} cannot be read: {error.strerror or error}") from error


def _packed(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The same arrays as the same bytes, whenever they are packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in sorted(arrays.items()):
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entry.getvalue())
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"the weights cannot be read: {error}") from error
