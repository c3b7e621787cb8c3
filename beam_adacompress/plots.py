"""The plot of bytes against agreement. matplotlib is imported where it draws, and never through its global state.

Evaluation, scored runs ─▶ Plane (lines and marks, in words too) ─▶ draw ─▶ PNG, or the SVG of a report
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.estimates import Interval
from beam_adacompress.evaluation import ORACLE, VERIFIED, Evaluation, Row

RUN = "run"  # a kind of mark: where a scored run stands

_DPI = 150
INK = "#1c2430"
SOFT = "#56606e"
GRID = "#e4e7ea"
RULE = "#b6bcc4"

# Okabe and Ito's colours, which colour-blind people tell apart; shapes differ too, for print in grey.
CURVE_COLOURS = ("#1c2430", "#7d8590", "#a6761d")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_MARKERS = ("o", "s", "^", "v", "P", "X", "p", "h", "<")  # nine shapes in five colours: 45 strategies
_SHAPES = {ORACLE: ("*", 13), VERIFIED: ("D", 8), RUN: ("H", 13)}
CEILING = "#e69f00"

_AGREEMENT_TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_RATIO_TICKS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)

_LEAST_TICKS = 3
_TICK_WIDTH = 0.55  # inches of a figure, with its margins

TO_75, TO_ORIGINAL = "total_ratio_75", "mean_ratio"  # fields of evaluation.Row: what bytes are relative to
_RELATIVE_TO = {TO_75: "mean bytes / mean bytes at quality 75", TO_ORIGINAL: "mean of bytes / bytes of the original"}
_IN_WORDS = {TO_75: "of the bytes at quality 75", TO_ORIGINAL: "of the original's bytes"}


class Mark(NamedTuple):
    """One way to choose."""

    name: str
    kind: str  # as in evaluation, or RUN
    ratio: Interval  # of bytes
    agreement: Interval


class Line(NamedTuple):
    """The same at several qualities."""

    name: str
    marks: tuple[Mark, ...]


class Plane(NamedTuple):
    """What is drawn."""

    title: str
    about: str  # one line below it
    images: int  # that the finest agreement is told from
    ratio: str  # TO_75 or TO_ORIGINAL
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    ceiling: Optional[Mark] = None

    def said(self) -> list[str]:
        """Every point in words, in the order in which they are drawn."""
        named = [(f"{line.name} {mark.name}", mark) for line in self.lines for mark in line.marks]
        named += [(mark.name, mark) for mark in self.marks]
        return [f"{name}: {_words(mark)} {_IN_WORDS[self.ratio]}" for name, mark in named]


class Canvas(NamedTuple):
    """Where it is drawn."""

    width: float  # inches
    height: float
    text: float = 9.0  # points
    legend_below: bool = False


_PNG = Canvas(10.5, 6.2)


def _words(mark: Mark) -> str:
    """A point in words."""
    agreement, ratio = (f"{each.mean:.3f} ({each.low:.3f} to {each.high:.3f})" for each in (mark.agreement, mark.ratio))
    return f"agreement {agreement}, {ratio}"


def plane_of(evaluation: Evaluation, title: str, ratio: str = TO_75, runs: Sequence[Mark] = ()) -> Plane:
    """What there is to draw of one backend's evaluation.

    Args:
      evaluation: of one backend.
      title: above the plot.
      ratio: what bytes are relative to.
      runs: where scored runs stand; relative to their originals.
    """
    return Plane(
        title,
        f"{evaluation.images:,} test images that no policy saw; bars and bands: 95 % intervals; numbers: qualities",
        evaluation.images,
        ratio,
        tuple(Line(curve.name, tuple(_mark(row, ratio) for row in curve.points)) for curve in evaluation.curves),
        (*(_mark(row, ratio) for row in evaluation.strategies), *runs),
        None if evaluation.jitter is None else _mark(evaluation.jitter, ratio),
    )


def _mark(row: Row, ratio: str) -> Mark:
    return Mark(row.name, row.kind, getattr(row, ratio), row.agreement)


def rate_agreement(evaluation: Evaluation, title: str) -> bytes:
    """Bytes against agreement: the curves as lines, the strategies as markers with intervals, as a PNG.

    Args:
      evaluation: of one backend.
      title: above the plot.

    Raises:
      AdaCompressError: matplotlib is not installed.
    """
    figure = new_figure(_PNG, "white")
    draw(figure, plane_of(evaluation, title), _PNG)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # the same numbers are the same bytes
    return buffer.getvalue()


def new_figure(canvas: Canvas, colour: str) -> Any:
    """An empty figure, which no global state of matplotlib's knows.

    Raises:
      AdaCompressError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AdaCompressError("plots need matplotlib: pip install 'beam-adacompress[report]'") from error
    figure = Figure(figsize=(canvas.width, canvas.height), dpi=_DPI, facecolor=colour, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw(figure: Any, plane: Plane, canvas: Canvas) -> None:
    """Draws a plane; points are named `mark-0`, `mark-1`, ... in the order of `Plane.said`.

    The scale of agreement is that of the disagreements' logarithm, -log10(1 - agreement), which opens up where 98 %
    and 99 % differ by half; it ends at half an image, where agreement on every image is drawn.
    """
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    scale = _Scale(plane.images)
    _frame(axes, plane, scale, canvas)
    names = _names()
    if plane.ceiling is not None:
        _ceiling(axes, plane.ceiling, scale)
    for index, line in enumerate(plane.lines):
        _line(axes, line, scale, CURVE_COLOURS[index % len(CURVE_COLOURS)], names, canvas, first=index == 0)
    for index, mark in enumerate(plane.marks):
        _point(axes, mark, scale, index, next(names))
    figure.legend(
        loc="outside lower left" if canvas.legend_below else "outside right upper",
        frameon=False,
        fontsize=canvas.text,
        labelcolor=INK,
        handlelength=2.2,
        labelspacing=0.5 if canvas.legend_below else 0.9,
    )


def _names() -> Iterator[str]:
    number = 0
    while True:
        yield f"mark-{number}"
        number += 1


class _Scale:
    """Where an agreement is drawn.

    Args:
      images: of the test.
    """

    def __init__(self, images: int) -> None:
        self.top = float(np.log10(2 * images))

    def __call__(self, agreement: float) -> float:
        return self.top if agreement >= 1 else min(self.top, float(-np.log10(1 - agreement)))

    def bars(self, interval: Interval) -> NDArray[np.float64]:
        """Lengths of an error bar below and above, `(2, 1)`."""
        low, middle, high = (self(each) for each in (interval.low, interval.mean, interval.high))
        return _lengths(low, middle, high)


def _lengths(low: float, middle: float, high: float) -> NDArray[np.float64]:
    """Of an error bar; rounding makes none of them negative."""
    return np.array([[max(0.0, middle - low)], [max(0.0, high - middle)]])


def _frame(axes: Any, plane: Plane, scale: _Scale, canvas: Canvas) -> None:
    marks = [*plane.marks, *(mark for line in plane.lines for mark in line.marks)]
    least = 0.5 * min(mark.ratio.mean for mark in marks)  # a logarithm has no place for the interval of few images
    lowest = min(max(mark.ratio.low, least) for mark in marks)
    highest, bottom = max(mark.ratio.high for mark in marks), min(scale(mark.agreement.mean) for mark in marks)
    axes.set_xscale("log")
    axes.set_xlim(lowest / 1.12, highest * 1.12)
    axes.set_ylim(max(0.0, bottom - 0.12), scale.top + 0.12)
    left, right = axes.get_xlim()
    _ticks(axes.xaxis, _ratio_ticks(left, right, canvas))
    low = axes.get_ylim()[0]
    levels = [(scale(each), f"{each:g}") for each in _AGREEMENT_TICKS if low <= scale(each) < scale.top - 0.12]
    _ticks(axes.yaxis, [*levels, (scale.top, "1.0")])
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=canvas.text)
    if plane.ratio == TO_75 and left < 1 < right:
        axes.axvline(1, color=RULE, linewidth=1, zorder=1)
        axes.annotate(
            "quality 75",
            (1, low),
            (-3, 4),
            textcoords="offset points",
            rotation=90,
            ha="right",
            fontsize=canvas.text - 1,
            color=SOFT,
        )
    narrow = canvas.legend_below
    below = _RELATIVE_TO[plane.ratio]
    axes.set_xlabel(below if narrow else f"← fewer bytes · {below} (log scale)", color=INK, fontsize=canvas.text + 1)
    axes.set_ylabel("agreement (log scale of what disagrees)", color=INK, fontsize=canvas.text + 1)
    if not plane.title:  # the page says it
        return
    axes.set_title(f"{plain(plane.title, 80)}\n", loc="left", color=INK, fontsize=12.5, fontweight="bold")
    axes.text(0, 1.012, plane.about, transform=axes.transAxes, fontsize=canvas.text, color=SOFT)


def _ratio_ticks(left: float, right: float, canvas: Canvas) -> list[tuple[float, str]]:
    """Round ratios between two, as many as there is room for; where there are hardly any, others."""
    inside = [each for each in _RATIO_TICKS if left <= each <= right]
    if len(inside) < _LEAST_TICKS:
        inside = [float(f"{each:.2g}") for each in np.geomspace(left * 1.02, right / 1.02, 4)]
    gap = np.log(right / left) * _TICK_WIDTH / canvas.width
    kept: list[float] = []
    for each in inside:
        if not kept or np.log(each / kept[-1]) >= gap:
            kept.append(each)
    return [(each, f"{each:g}") for each in kept]


def _ticks(axis: Any, places: Sequence[tuple[float, str]]) -> None:
    axis.set_ticks([place for place, _ in places], labels=[label for _, label in places])
    axis.set_ticks([], minor=True)


def _ceiling(axes: Any, mark: Mark, scale: _Scale) -> None:
    agreement = mark.agreement
    axes.axhspan(scale(agreement.low), scale(agreement.high), color=CEILING, alpha=0.12, linewidth=0, zorder=1)
    axes.axhline(
        scale(agreement.mean),
        color=CEILING,
        linestyle=(0, (6, 4)),
        linewidth=1.4,
        label=plain(f"ceiling: {mark.name}"),
        zorder=2,
    )


def _line(axes: Any, line: Line, scale: _Scale, colour: str, names: Iterator[str], canvas: Canvas, first: bool) -> None:
    x, y = [mark.ratio.mean for mark in line.marks], [scale(mark.agreement.mean) for mark in line.marks]
    order = np.argsort(x, kind="stable")
    sorted_x = np.array(x)[order]
    axes.plot(
        sorted_x,
        np.array(y)[order],
        color=colour,
        linewidth=1.8,
        marker=".",
        markersize=6,
        linestyle="-" if first else "--",
        zorder=3,
        label=plain(line.name),
    )
    for left, top in zip(x, y):
        axes.plot([left], [top], color=colour, marker=".", markersize=6, gid=next(names), zorder=3)
    if first:
        low, high = ([scale(getattr(mark.agreement, end)) for mark in line.marks] for end in ("low", "high"))
        axes.fill_between(sorted_x, np.array(low)[order], np.array(high)[order], color=colour, alpha=0.07, linewidth=0)
    last: Optional[tuple[float, float]] = None
    places = axes.transData.transform(np.column_stack([x, y]))
    for index in order:
        place = places[index]
        if last is not None and np.hypot(place[0] - last[0], place[1] - last[1]) < 0.022 * canvas.text * _DPI:
            continue
        last = tuple(place)
        axes.annotate(
            line.marks[index].name,
            (x[index], y[index]),
            (6, -10) if first else (-6, 5),
            textcoords="offset points",
            ha="left" if first else "right",
            fontsize=canvas.text - 1.5,
            color=colour,
            parse_math=False,
            zorder=3,
        )


def _point(axes: Any, mark: Mark, scale: _Scale, index: int, name: str) -> None:
    ratio = mark.ratio
    shape, size = _SHAPES.get(mark.kind, (_MARKERS[index % len(_MARKERS)], 8))
    drawn = axes.errorbar(
        [ratio.mean],
        [scale(mark.agreement.mean)],
        xerr=_lengths(ratio.low, ratio.mean, ratio.high),
        yerr=scale.bars(mark.agreement),
        color=COLOURS[index % len(COLOURS)],
        marker=shape,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linestyle="none",
        elinewidth=1.3,
        label=plain(mark.name),
        zorder=5 if mark.kind == RUN else 4,
    )
    drawn.lines[0].set_gid(name)


def plain(name: str, width: int = 30) -> str:
    """A name as a label: nothing of it is mathematics, and a long one takes several lines."""
    lines = textwrap.wrap(name, width) or [name]
    return "\n".join(lines).replace("$", r"\$")
