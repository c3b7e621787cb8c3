"""Quantisation-table families: each maps a quality to a luminance and a chrominance table.

A family is data: a small JSON file, one of those that come with this package or one that was fitted (`adacompress
tables fit`), named by its path. It holds the steps at quality 50, which may be real numbers; other qualities scale
them.

Tables are 64 steps in natural (row-major) order: index 8 * v + u for vertical frequency v and horizontal
frequency u. Steps are 1..255, so that every baseline decoder reads the files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, Optional

from beam_adacompress.arguments import near
from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.errors import AdaCompressError

ANNEXK = "annexk"  # ITU-T T.81, Annex K, tables K.1 and K.2: the standard's, made for eyes
ROBIDOUX = "robidoux"  # N. Robidoux's, from ImageMagick's forum and MozJPEG, one for all components
DEEPN = "deepn"  # DeepN-JPEG (arXiv 1803.05788), fitted to photographs
FEATURE_DISTILLATION = "feature-distillation"  # arXiv 1803.05787, the authors' steps 25 and 30
# Searched for one network each (`adacompress tables fit --method search`), on half of a set of photographs or two.
MOBILENET_V1_SMALL = "mobilenet-v1-small"  # width 0.25, 128 pixels
MOBILENET_V1 = "mobilenet-v1"  # width 0.75, 192 pixels
MOBILENET_V2 = "mobilenet-v2"  # width 1, 224 pixels
ORIGINAL = "original"  # in the place of a family: the image is left as it is
FAMILIES = (
    ANNEXK,
    ROBIDOUX,
    DEEPN,
    FEATURE_DISTILLATION,
    MOBILENET_V1_SMALL,
    MOBILENET_V1,
    MOBILENET_V2,
)
# What policies choose from where nothing else is said: unlike each other, and none worse than another everywhere.
LEARNABLE = (ANNEXK, DEEPN, MOBILENET_V1_SMALL, MOBILENET_V1, MOBILENET_V2)

VERSION = 1
SUFFIX = ".json"

NEAREST = 0.5
LEAST_ROUNDING = 0.2

Table = tuple[int, ...]  # 64 steps, 1..255


class Quantisation(NamedTuple):
    """The tables of one JPEG; both chrominance components share one."""

    luma: Table
    chroma: Table
    rounding: float = NEAREST  # a quotient's magnitude + this, cut off, is the AC coefficient: below 0.5 a dead zone


@dataclasses.dataclass(frozen=True)
class Family:
    """A table for each quality.

    Args:
      name: for people.
      luma, chroma: 64 steps each at quality 50, in natural order, above 0.
      origin: how they came about: a text and numbers, JSON-able.
      rounding: of AC coefficients, 0.2..0.5: a quotient's magnitude plus this, cut off. 0.5 is to the nearest; less
        makes zeros of what is just above half a step, a dead zone.

    Raises:
      ValueError: these are no 64 positive steps, or rounding is out of range.
    """

    name: str
    luma: tuple[float, ...]
    chroma: tuple[float, ...]
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rounding: float = NEAREST

    def __post_init__(self) -> None:
        if not LEAST_ROUNDING <= self.rounding <= NEAREST:
            raise ValueError(f"rounding must be from {LEAST_ROUNDING} to {NEAREST}, got {self.rounding}")
        for component in ("luma", "chroma"):
            steps = getattr(self, component)
            if len(steps) != 64 or not all(isinstance(step, (int, float)) and 0 < step < math.inf for step in steps):
                raise ValueError(f"{component} must hold 64 steps above 0, got {len(steps)} numbers")

    def at(self, quality: int) -> Quantisation:
        """The tables at a quality, 1..100."""
        return Quantisation(scale(self.luma, quality), scale(self.chroma, quality), self.rounding)

    def to_json(self) -> bytes:
        """The content of a family's file, rows of eight steps."""
        lines = [
            '"format": "adacompress.tables"',
            f'"format_version": {VERSION}',
            f'"name": {json.dumps(self.name)}',
            '"scaling": "ijg"',
            *([] if self.rounding == NEAREST else [f'"rounding": {json.dumps(self.rounding)}']),
            *(f'"{component}": [\n{_rows(getattr(self, component))}\n ]' for component in ("luma", "chroma")),
            f'"origin": {json.dumps(dict(self.origin))}',
        ]
        return ("{\n " + ",\n ".join(lines) + "\n}\n").encode()


def _rows(steps: Sequence[float]) -> str:
    return ",\n".join(f"  {json.dumps(list(steps[row : row + 8]))}" for row in range(0, 64, 8))


def from_json(data: bytes, path: str) -> Family:
    """Reads what `Family.to_json` wrote.

    Raises:
      AdaCompressError: it is no family, or one of an unknown version; `path` is for the message.
    """
    try:
        content = json.loads(data)
        version = content["format_version"] if content["format"] == "adacompress.tables" else "none"
        if version == VERSION:
            luma, chroma = (tuple(step for row in content[name] for step in row) for name in ("luma", "chroma"))
            return Family(
                str(content["name"]), luma, chroma, content.get("origin", {}), content.get("rounding", NEAREST)
            )
    except (ValueError, KeyError, TypeError) as error:
        raise AdaCompressError(f"{path} holds no family of quantisation tables: {error}") from error
    raise AdaCompressError(
        f"{path} has tables version {version}, and this is adacompress for version {VERSION}: "
        "use the release that wrote it, or fit the tables again"
    )


def scale(table: Sequence[float], quality: int) -> Table:
    """Scales a quality-50 table as the Independent JPEG Group's libjpeg does.

    With s = 5000 / q below 50 and 200 - 2 q from there on (integer division), each step becomes
    clip((step * s + 50) / 100, 1, 255).
    """
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(255, max(1, int((step * factor + 50) // 100))) for step in table)


@functools.lru_cache(maxsize=1024)
def aligned(table: Table, before: bytes) -> Table:
    """Steps for coefficients that were quantised before: those less than twice as coarse are the steps of then.

    A coefficient that is a whole multiple of s costs fewest bits by s, and loses nothing; finer steps say the same in
    more bits. A step between s and 2 s saves few bits of it, since what is not zero stays so, and moves nearly all of
    what s had kept exactly (Bauschke et al., "Recompression of JPEG images by requantization", IEEE Transactions on
    Image Processing 12(7), 2003). From 2 s on, s itself becomes zero, which is what coarse steps are for.

    Args:
      table: the steps that are asked for.
      before: those of then, 64 native 16-bit integers; above 255 they are not taken.
    """
    return tuple(
        then if step < 2 * then <= 510 else step for step, then in zip(table, struct.unpack("64H", before), strict=True)
    )


def check_action(family: str, quality: int) -> None:
    """Checks what can be checked without reading a file.

    Raises:
      TypeError: quality is not an integer.
      ValueError: quality is not in 1..100, or the family is neither known nor the path of a JSON file.
    """
    if not isinstance(quality, int) or isinstance(quality, bool):
        raise TypeError(f"quality must be an integer from 1 to 100, got {quality!r}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}")
    base, _ = parsed(family)
    if base not in FAMILIES and not base.endswith(SUFFIX):
        known = ", ".join(FAMILIES)
        hint = f": {hint}" if (hint := near(base, FAMILIES)) else ""
        raise ValueError(
            f"unknown quantisation tables {family!r}{hint}; known: {known}, or the path of a .json file, each with "
            "@ROUNDING behind it or not"
        )


def parsed(reference: str) -> tuple[str, Optional[float]]:
    """The parts of `FAMILY@ROUNDING`; None for the family's own rounding.

    Raises:
      ValueError: the rounding is out of range.
    """
    base, at, rounding = reference.rpartition("@")
    if not at or not re.fullmatch(r"[0-9.]+", rounding):
        return reference, None
    try:
        value = float(rounding)
    except ValueError:
        value = math.nan
    if not LEAST_ROUNDING <= value <= NEAREST:
        raise ValueError(f"{reference}: rounding must be from {LEAST_ROUNDING} to {NEAREST}, got {rounding}")
    return base, value


def family(reference: str, read: Read = read_local) -> Family:
    """A family by its name, or by the path of its file; `@0.4` behind it gives it that rounding, and the longer name.

    Raises:
      AdaCompressError: the file cannot be read, or holds no family.
      ValueError: the rounding is out of range.
    """
    base, rounding = parsed(reference)
    if rounding is not None:
        found = family(base, read)
        return dataclasses.replace(found, name=f"{found.name}@{rounding:g}", rounding=rounding)
    if reference in FAMILIES:
        file = resources.files("beam_adacompress.jpeg") / "families" / (reference + SUFFIX)
        return from_json(file.read_bytes(), str(file))
    try:
        return from_json(read(reference), reference)
    except OSError as error:
        raise AdaCompressError(f"the tables {reference} cannot be read: {error.strerror or error}") from error


def quantisation(reference: str, quality: int, read: Read = read_local) -> Quantisation:
    """The tables of a family at a quality; a file is read once in a process.

    Args:
      reference: a family's name, or the path of its file.
      quality: 1..100.
      read: gives the bytes of a file at any path that the job understands.

    Raises:
      TypeError, ValueError: as `check_action`.
      AdaCompressError: as `family`.
    """
    return _computed(reference, quality, read)


@functools.lru_cache(maxsize=1024, typed=True)  # typed: True is no quality, 1 is
def _computed(reference: str, quality: int, read: Read) -> Quantisation:
    check_action(reference, quality)
    return _family(reference, read).at(quality)


_family = functools.lru_cache(maxsize=64)(family)
