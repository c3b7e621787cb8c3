"""Agreement and reward: pure arithmetic over what a backend said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

from beam_adacompress.records import NO_REFERENCE, SCORED, SKIPPED, Label

TOP = 5

COUNT = "count"
SKIP = "skip"
ERRORS = (COUNT, SKIP)  # what an empty answer for the compressed image is


def agreement(reference: Sequence[Label], compressed: Sequence[Label], top: int = TOP) -> int:
    """Whether a backend still sees in the compressed image what it sees first in the reference.

    1 if the best label of the reference is among the `top` best of the compressed image, else 0; 0 too where the
    backend sees nothing any more. With `top=1` that is strict agreement. (AdaCompress, arXiv 1909.08148, with the
    whole list that the service returns; its published runs leave images without an answer out.)

    Args:
      reference: ranked labels, best first; not empty.
      compressed: ranked labels, best first.
      top: how many of them count.
    """
    assert reference, "a reference without labels has nothing to agree with"
    return int(reference[0].name in [label.name for label in compressed[:top]])


def fidelity(reference: Sequence[Label], compressed: Sequence[Label]) -> float:
    """How alike two answers are, scores included: the Bhattacharyya coefficient of the scores p and q,

        sum over shared labels of sqrt(p q) / sqrt(sum p * sum q)

    1 for the same labels with the same scores, 0 where nothing is shared. It moves smoothly where agreement jumps, so
    a search learns more from each answer.

    Args:
      reference, compressed: labels with scores, 0..1.
    """
    p, q = ({label.name: label.score for label in reversed(labels)} for labels in (reference, compressed))
    total = math.sqrt(sum(p.values()) * sum(q.values()))
    shared = sum(math.sqrt(score * q.get(name, 0.0)) for name, score in p.items())
    return min(1.0, shared / total) if total > 0 else 0.0


def reward(agreed: float, size_ratio: float) -> float:
    """What AdaCompress's agent maximises, r = agreement - size ratio (arXiv 1909.08148).

    At most 1. The published ratio is to the image at quality 75; here it is to the reference, the original bytes.
    """
    return agreed - size_ratio


class Judgement(NamedTuple):
    """What two answers for one image come to; fields as in `records.Score`."""

    status: str
    agreement: Optional[int] = None
    strict_agreement: Optional[int] = None
    reward: Optional[float] = None


def judge(
    reference: Sequence[Label], compressed: Sequence[Label], size_ratio: float, top: int = TOP, errors: str = COUNT
) -> Judgement:
    """Agreement, strict agreement and reward, or why there are none.

    Args:
      reference: ranked labels, best first; without any there is nothing to agree with, and that is `no-reference`.
      compressed: ranked labels, best first.
      size_ratio: compressed bytes / reference bytes.
      top: how many compressed labels count for agreement.
      errors: with `count`, a compressed image without labels disagrees; with `skip` it is left out, as AdaCompress's
        published runs do, which lifts the agreement of a service that often sees nothing.
    """
    if not reference:
        return Judgement(NO_REFERENCE)
    if not compressed and errors == SKIP:
        return Judgement(SKIPPED)
    agreed = agreement(reference, compressed, top)
    return Judgement(SCORED, agreed, agreement(reference, compressed, 1), reward(agreed, size_ratio))
