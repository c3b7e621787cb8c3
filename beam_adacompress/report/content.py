"""What a report is about: runs of every kind, as far as they are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from beam_adacompress.evaluation import Evaluation
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import Retrained
from beam_adacompress.report.gallery import Pair
from beam_adacompress.report.scored import ScoreTally
from beam_adacompress.summary import RunStats


@dataclasses.dataclass(frozen=True)
class CompressRun:
    """Images that were compressed.

    Args:
      name: of the run, for people: its folder.
      stats: over its manifest.
      pair: gives the bytes of an original and its result; None where one of them is gone.
      summary: content of its summary.json; None where there is none.
      note: a sentence about what is not as it should be, e.g. that it is not finished.
    """

    name: str
    stats: RunStats
    pair: Pair
    summary: Optional[Mapping[str, Any]] = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """Images that a backend was asked about.

    Args:
      name: of the run, for people: its folder.
      tally: of its scores.
      pair: as for CompressRun.
      rows: of the manifest, for the worst disagreements, as far as they are known, by key.
      summary: content of its summary.json; None where there is none.
      level: agreement that has to be kept; None where that is not known.
      note: as for CompressRun.
      of: name of the run whose images were scored; empty where that is not known.
    """

    name: str
    tally: ScoreTally
    pair: Pair
    rows: Mapping[str, ManifestRow] = dataclasses.field(default_factory=dict)
    summary: Optional[Mapping[str, Any]] = None
    level: Optional[float] = None
    note: str = ""
    of: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluationRun:
    """An evaluation.

    Args:
      evaluations: by the backend's name.
      about: what it was asked for, see evaluation.to_json.
      name: of the run, for people: its folder.
    """

    evaluations: Mapping[str, Evaluation]
    about: Mapping[str, Any]
    name: str = ""


class PublishedVersion(NamedTuple):
    """A policy version that was published."""

    version: str
    published: Optional[float]  # seconds since the epoch; None where that is not known
    is_latest: bool
    promise: str  # in words
    baseline: str


@dataclasses.dataclass(frozen=True)
class PolicyHistory:
    """Published policies, or what came of training some again.

    Args:
      name: of the run, for people: its folder.
      versions: the newest one first.
      retrained: what came of each try, the first one first.
    """

    name: str
    versions: Sequence[PublishedVersion] = ()
    retrained: Sequence[Retrained] = ()


@dataclasses.dataclass(frozen=True)
class Content:
    """All that a report shows; what is empty has no place in it."""

    compressed: Sequence[CompressRun] = ()
    scored: Sequence[ScoredRun] = ()
    evaluated: Sequence[EvaluationRun] = ()
    policies: Sequence[PolicyHistory] = ()
