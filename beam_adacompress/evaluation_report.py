"""An evaluation in words: a table for a terminal, and verdicts; see report for the page."""

from __future__ import annotations

import textwrap
from typing import NamedTuple, Optional

from beam_adacompress import words
from beam_adacompress.estimates import Interval
from beam_adacompress.evaluation import JITTER, ORACLE, POLICY, VERIFIED, Evaluation, Row

FEW_IMAGES = 200
_FEW_DISAGREEMENTS = 5
_WIDTH = 108  # of the text, characters

# Heading in two lines, width.
_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("", "", 17),
    ("agreement", "(low to high)", 22),
    ("", "strict", 6),
    ("bytes /", "original", 8),
    ("bytes /", "qual. 75", 8),
    ("", "reward", 6),
    ("bytes / fixed quality's", "of the same agreement", 23),
    ("", "calls", 5),
)

DEFINITIONS = (
    (
        "agreement",
        "share of the images whose compressed form still gets the original's best label, among the first five",
    ),
    ("strict", "the same with the compressed image's best label alone"),
    ("bytes / original", "all compressed bytes / all bytes of the originals"),
    (
        "bytes / quality 75",
        "all compressed bytes / all bytes of the same images at quality 75, AdaCompress's reference",
    ),
    ("reward", "agreement less the mean of the images' size ratios to their originals"),
    ("reward to quality 75", "agreement less the mean of the images' size ratios to quality 75, as AdaCompress has it"),
    (
        "bytes / fixed quality's of the same agreement",
        "bytes relative to those at which the curve reaches the strategy's own agreement, between two qualities by "
        "interpolation; below its smallest quality, relative to that one",
    ),
    ("calls", "of the backend, per image, while choosing"),
    (
        "low to high",
        "95 % intervals: Wilson's for shares, else the percentiles of a paired bootstrap, which draws the same images "
        "for everything; 0 at the low end means that in some draws the curve does not reach the agreement at all",
    ),
)


class Verdict(NamedTuple):
    """What the numbers say about one strategy."""

    text: str
    good: Optional[bool]  # None where nothing is to be won


def verdicts(evaluation: Evaluation) -> list[Verdict]:
    """Sentences about the strategies, in their order, and about the ceiling."""
    found: list[Verdict] = []
    for row in evaluation.strategies:
        if row.kind in (POLICY, VERIFIED):
            found.append(_against_fixed(row, evaluation))
        if row.kind == ORACLE:
            found.append(Verdict(_oracle(row), None))
        if row.promised is not None:
            found.append(_promise(row, row.promised))
    if evaluation.jitter is not None:
        found.append(
            Verdict(
                f"The ceiling: the backend agrees with itself on {words.shares(evaluation.jitter.agreement)} of the "
                "images when the original is merely saved again at a higher quality.",
                None,
            )
        )
    return found


def warnings(evaluation: Evaluation) -> list[str]:
    """Sentences about what the numbers cannot bear."""
    found = []
    if evaluation.images < FEW_IMAGES:
        found.append(
            f"Only {_images(evaluation.images)}: with fewer than {FEW_IMAGES} the intervals are wide, and the means "
            "alone say little."
        )
    few = [row for row in evaluation.strategies if row.kind == POLICY and row.disagreements < _FEW_DISAGREEMENTS]
    if few:
        found.append(
            f"Fewer than {_FEW_DISAGREEMENTS} images disagree for {'; '.join(row.name for row in few)}: which fixed "
            "quality has the same agreement then hangs on single images, more than the intervals show."
        )
    return found


def about_images(evaluation: Evaluation) -> str:
    """On what all numbers are."""
    return f"All numbers are on {_images(evaluation.images)} that no policy saw, neither to train nor to calibrate."


def text(evaluation: Evaluation) -> str:
    """A table for a terminal, under 110 columns, with what it says in words below."""
    lines = [about_images(evaluation), ""]
    for heads in ([above for above, _, _ in _COLUMNS], [below for _, below, _ in _COLUMNS]):
        lines.append("  ".join(head.rjust(column[2]) for head, column in zip(heads, _COLUMNS)).rstrip())
    for row in rows_of(evaluation):
        lines += _lines(row)
    for curve in evaluation.curves:
        lines += ["", *textwrap.wrap(curve.name, _WIDTH)]
        for row in curve.points:
            lines += _lines(row._replace(name=f"  {row.name}"))
    lines.append("")
    for sentence in [*(verdict.text for verdict in verdicts(evaluation)), *warnings(evaluation)]:
        lines += textwrap.wrap(sentence, _WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _against_fixed(row: Row, evaluation: Evaluation) -> Verdict:
    """Whether it beats the plain fixed quality: only where the whole interval is below 1."""
    ratio = row.against[0].ratio
    smallest = min(evaluation.curves[0].points, key=lambda point: point.total_ratio.mean)
    calls = "" if row.calls is None else f", with {row.calls.mean:.1f} calls of the backend per image"
    if row.agreement.mean < smallest.agreement.mean:
        return Verdict(
            f"{row.name} does not beat the fixed quality: it agrees on {words.share(row.agreement.mean)} of the "
            f"images, fewer than the smallest fixed quality here ({words.share(smallest.agreement.mean)}).",
            False,
        )
    if not ratio.mean:
        reaches = (
            f"{row.name} agrees on {words.share(row.agreement.mean)} of the images, and no fixed quality here does"
        )
        if ratio.high < 1:
            return Verdict(f"{reaches}: it beats the fixed quality{calls}.", True)
        return Verdict(
            f"{reaches}, but that is not sure: it does not beat the fixed quality, since the interval of its bytes "
            f"against it reaches up to {ratio.high:.2f}, which is not below 1.",
            False,
        )
    takes = f"for the same agreement it takes {relative(ratio)} of its bytes"
    if ratio.high < 1:
        return Verdict(f"{row.name} beats the fixed quality: {takes}{calls}.", True)
    why = "which is more" if ratio.low > 1 else "an interval that is not below 1"
    return Verdict(f"{row.name} does not beat the fixed quality: {takes}, {why}.", False)


def _oracle(row: Row) -> str:
    return (
        f"{row.name} takes {row.total_ratio_75.mean:.3f} of the bytes at quality 75. It knows the backend's answers: "
        "a bound, not a policy."
    )


def _promise(row: Row, promised: float) -> Verdict:
    had = f"it promised an agreement of {promised:g} and has {words.shares(row.agreement)} here"
    if row.agreement.mean >= promised:
        few = "" if row.agreement.low >= promised else ", too few images to be sure"
        return Verdict(f"{row.name} keeps its promise: {had}{few}.", True)
    if row.agreement.high >= promised:
        return Verdict(f"{row.name} falls short of its promise, though by no more than chance explains: {had}.", None)
    return Verdict(f"{row.name} breaks its promise: {had}.", False)


def rows_of(evaluation: Evaluation) -> list[Row]:
    """The strategies, and the ceiling below them."""
    ceiling = [] if evaluation.jitter is None else [evaluation.jitter]
    return [*evaluation.strategies, *ceiling]


def _lines(row: Row) -> list[str]:
    """A row of the table; a name that does not fit stands in lines of its own."""
    cells = [
        words.shares(row.agreement),
        words.share(row.strict.mean),
        f"{row.total_ratio.mean:.3f}",
        f"{row.total_ratio_75.mean:.3f}",
        f"{row.reward.mean:.3f}",
        "" if row.kind == JITTER else relative(row.against[0].ratio),
        "" if row.calls is None else f"{row.calls.mean:.1f}",
    ]
    width = _COLUMNS[0][2]
    fits = len(row.name) <= width
    above = [] if fits else textwrap.wrap(row.name, _WIDTH)
    numbers = "  ".join(cell.rjust(column[2]) for cell, column in zip(cells, _COLUMNS[1:]))
    return [*above, f"{(row.name if fits else '').ljust(width)}  {numbers}".rstrip()]


def relative(ratio: Interval) -> str:
    """A ratio to a curve, e.g. `0.83 (0.79 to 0.88)`; 0 is a curve that does not reach the agreement."""
    if not ratio.mean:
        return f"not reached (to {ratio.high:.2f})" if ratio.high else "not reached"
    return f"{ratio.mean:.2f} ({f'{ratio.low:.2f}' if ratio.low else '0'} to {ratio.high:.2f})"


def _images(count: int) -> str:
    return f"{count:,} test image" if count == 1 else f"{count:,} test images"
