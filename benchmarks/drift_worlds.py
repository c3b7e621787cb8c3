"""The scenes of `drift.py`, and the policies that drift in them."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from judgements import FAMILIES, SAVING, answers
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.stats import t

from beam_adacompress.drift import Level, Rates, make
from beam_adacompress.drift.contract import RETRAIN, Seen
from beam_adacompress.pipelines.train_job import TrainJob
from beam_adacompress.policy import judging
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import Outcomes, outcomes
from beam_adacompress.policy.training import Learning, Parts, policy_of
from beam_adacompress.sampling import draw

NIGHTS = (0.33, 0.67, 1.0)  # how dark


class Scene(NamedTuple):
    """Images of one kind, as they would be written."""

    stream: Outcomes
    aside: Outcomes


class World(NamedTuple):
    """What a network says of all scenes, and the policy that was trained for it."""

    network: str
    scenes: Mapping[str, Scene]
    policy: PolicyArtefact


def darkened(data: bytes, level: float, name: str) -> bytes:
    """A photograph as a camera would take it with less light: 0 is day, 1 is night."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    light = (np.asarray(image, np.float32) / 255) ** (1 + 1.5 * level) * (1 - 0.5 * level)
    random = np.random.default_rng((zlib.crc32(name.encode()), round(1000 * level)))
    noisy = light + random.normal(0, 0.05 * level, light.shape)
    buffer = io.BytesIO()
    Image.fromarray((np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def table(folder: Path, model: Path) -> tuple[Outcomes, list[str]]:
    """A network's answers for the images of a folder, and their names."""
    job = TrainJob(str(folder), "unused", [f"litert:{model}"], tables=FAMILIES)
    trials, _ = answers([folder], job)
    names = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in folder.rglob("*") if path.is_file()}
    found = outcomes(trials, job.space().distinct()[1])
    return found, [names[key] for key in found.keys]


def world(images: Path, nights: Path, model: Path, confidence: float) -> World:
    """Asks a network about everything, and trains its policy."""
    day, names = table(images / "imagenet", model)
    drawn = np.array([draw(name, "drift") for name in names])

    def between(raw: Outcomes, low: float, high: float, at: NDArray[np.float64]) -> Outcomes:
        return raw.take(np.flatnonzero((at >= low) & (at < high)))

    def seen(raw: Outcomes) -> Outcomes:
        return judging.written(raw, SAVING)

    aside = seen(between(day, 0.85, 1, drawn))
    parts = Parts(
        between(day, 0, 0.35, drawn), between(day, 0.35, 0.4, drawn), seen(between(day, 0.4, 0.6, drawn)), aside
    )
    space = TrainJob(str(images), "unused", [f"litert:{model}"], tables=FAMILIES).space()
    policy = policy_of(parts, space, Sight(), {(f"litert:{model}", "")}, {}, Learning(confidence=confidence))
    scenes = {"imagenet": Scene(seen(between(day, 0.6, 0.85, drawn)), aside)}
    for folder in (images / "clothing", *(nights / f"{level}" for level in NIGHTS)):
        raw, names = table(folder, model)
        drawn = np.array([draw(name, "drift") for name in names])
        scenes[folder.name] = Scene(seen(between(raw, 0, 0.6, drawn)), seen(between(raw, 0.6, 1, drawn)))
    return World(model.stem, scenes, policy)


class Outcome(NamedTuple):
    """What a policy comes to on some images, `(images,)` each."""

    agreement: NDArray[np.float64]  # 0 or 1
    ratio: NDArray[np.float64]  # bytes / bytes of the original


def outcome(artefact: PolicyArtefact, images: Outcomes) -> Outcome:
    came = judging.judged(images, judging.acted(artefact.agent, images))
    return Outcome(came.agreement, came.sizes / images.bytes_in)


def scores(kinds: Sequence[tuple[Outcome, int]], random: np.random.Generator) -> Iterator[Seen]:
    """A stream: so many scores of each kind, one after the other."""
    for kind, count in kinds:
        for index in random.integers(0, len(kind.agreement), count):
            agreement = int(kind.agreement[index])
            yield Seen(agreement, agreement - float(kind.ratio[index]), 1.0)


class Noticed(NamedTuple):
    """What a detector made of one stream."""

    false: int  # alarms before the change
    delay: float  # scores from the change to the alarm; not a number where there was none


def noticed(name: str, options: Mapping[str, float], level: Level, stream: Iterator[Seen], change: int) -> Noticed:
    """Runs a detector; it begins anew after each false alarm."""
    detector, false = make(name, level, Rates(), options), 0
    for index, seen in enumerate(stream):
        detector.update(seen)
        if detector.verdict().state == RETRAIN:
            if index >= change:
                return Noticed(false, index - change + 1)
            detector, false = make(name, level, Rates(), options), false + 1
    return Noticed(false, float("nan"))


def interval(values: Sequence[float] | NDArray[np.float64]) -> str:
    """The mean, with its 95 % interval."""
    found = np.asarray(values, np.float64)
    if not len(found):
        return "never"
    if len(found) < 2:
        return f"{found.mean():.3g}"
    half = t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return f"{found.mean():.3g} ({found.mean() - half:.3g} to {found.mean() + half:.3g})"
