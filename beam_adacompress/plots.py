"""Plots as PNG files. matplotlib is imported where it draws, and never through its global state."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.estimates import Interval
from beam_adacompress.evaluation import ORACLE, VERIFIED, CurveRows, Evaluation, Row

_DPI = 150
_INK = "#1c2430"
_SOFT = "#56606e"

# Okabe and Ito's colours, which colour-blind people tell apart; shapes differ too, for print in grey.
_CURVE_COLOURS = ("#1c2430", "#7d8590", "#a6761d")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_MARKERS = ("o", "s", "^", "v", "P", "X", "p", "h", "<")  # nine shapes in five colours: 45 strategies
_CEILING = "#e69f00"

_AGREEMENT_TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_RATIO_TICKS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)


def rate_agreement(evaluation: Evaluation, title: str) -> bytes:
    """Bytes against agreement: the curves as lines, the strategies as markers with intervals, as a PNG.

    The scale of agreement is that of the disagreements' logarithm, -log10(1 - agreement), which opens up where 98 %
    and 99 % differ by half; it ends at half an image, where agreement on every image is drawn.

    Args:
      evaluation: of one backend.
      title: above the plot.

    Raises:
      AdaCompressError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AdaCompressError("plots need matplotlib: pip install 'beam-adacompress[train]'") from error
    figure = Figure(figsize=(10.5, 6.2), dpi=_DPI, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scale = _Scale(evaluation.images)
    _frame(axes, evaluation, scale, title)
    if evaluation.jitter is not None:
        _ceiling(axes, evaluation.jitter, scale)
    for index, curve in enumerate(evaluation.curves):
        _curve(axes, curve, scale, _CURVE_COLOURS[index % len(_CURVE_COLOURS)], first=index == 0)
    for index, row in enumerate(evaluation.strategies):
        _strategy(axes, row, scale, index)
    figure.legend(
        loc="outside right upper", frameon=False, fontsize=9, labelcolor=_INK, handlelength=2.2, labelspacing=0.9
    )
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # the same numbers are the same bytes
    return buffer.getvalue()


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
        return np.array([[middle - low], [high - middle]])


def _frame(axes: Any, evaluation: Evaluation, scale: _Scale, title: str) -> None:
    rows = [*evaluation.strategies, *(row for curve in evaluation.curves for row in curve.points)]
    lowest, bottom = min(row.total_ratio_75.low for row in rows), min(scale(row.agreement.mean) for row in rows)
    highest = max(row.total_ratio_75.high for row in rows)
    axes.set_xscale("log")
    axes.set_xlim(lowest / 1.12, highest * 1.12)
    axes.set_ylim(max(0.0, bottom - 0.12), scale.top + 0.12)
    left, right = axes.get_xlim()
    _ticks(axes.xaxis, [(each, f"{each:g}") for each in _RATIO_TICKS if left <= each <= right])
    low = axes.get_ylim()[0]
    levels = [(scale(each), f"{each:g}") for each in _AGREEMENT_TICKS if low <= scale(each) < scale.top - 0.12]
    _ticks(axes.yaxis, [*levels, (scale.top, "1.0")])
    axes.grid(color="#e4e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_SOFT, labelsize=9)
    if left < 1 < right:
        axes.axvline(1, color="#b6bcc4", linewidth=1, zorder=1)
        axes.annotate(
            "quality 75",
            (1, low),
            (-3, 4),
            textcoords="offset points",
            rotation=90,
            ha="right",
            fontsize=8,
            color=_SOFT,
        )
    axes.set_xlabel(
        "← fewer bytes          mean bytes / mean bytes at quality 75  (log scale)", color=_INK, fontsize=10
    )
    axes.set_ylabel("agreement  (log scale of what disagrees)", color=_INK, fontsize=10)
    axes.set_title(f"{_plain(title, 80)}\n", loc="left", color=_INK, fontsize=12.5, fontweight="bold")
    axes.text(
        0,
        1.012,
        f"{evaluation.images:,} test images that no policy saw; bars and bands: 95 % intervals; numbers: qualities",
        transform=axes.transAxes,
        fontsize=9,
        color=_SOFT,
    )


def _ticks(axis: Any, places: Sequence[tuple[float, str]]) -> None:
    axis.set_ticks([place for place, _ in places], labels=[label for _, label in places])
    axis.set_ticks([], minor=True)


def _ceiling(axes: Any, row: Row, scale: _Scale) -> None:
    axes.axhspan(scale(row.agreement.low), scale(row.agreement.high), color=_CEILING, alpha=0.12, linewidth=0, zorder=1)
    axes.axhline(
        scale(row.agreement.mean),
        color=_CEILING,
        linestyle=(0, (6, 4)),
        linewidth=1.4,
        label=_plain(f"ceiling: {row.name}"),
        zorder=2,
    )


def _curve(axes: Any, curve: CurveRows, scale: _Scale, colour: str, first: bool) -> None:
    points = sorted(curve.points, key=lambda row: row.total_ratio_75.mean)
    x = [row.total_ratio_75.mean for row in points]
    y = [scale(row.agreement.mean) for row in points]
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.8,
        marker=".",
        markersize=6,
        linestyle="-" if first else "--",
        zorder=3,
        label=_plain(curve.name),
    )
    if first:
        low, high = ([scale(getattr(row.agreement, end)) for row in points] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.07, linewidth=0, zorder=1)
    last: Optional[tuple[float, float]] = None
    for row, place in zip(points, axes.transData.transform(np.column_stack([x, y]))):
        if last is not None and np.hypot(place[0] - last[0], place[1] - last[1]) < 0.2 * _DPI:
            continue
        last = tuple(place)
        axes.annotate(
            row.name,
            (row.total_ratio_75.mean, scale(row.agreement.mean)),
            (6, -10) if first else (-6, 5),
            textcoords="offset points",
            ha="left" if first else "right",
            fontsize=7.5,
            color=colour,
            parse_math=False,
            zorder=3,
        )


def _strategy(axes: Any, row: Row, scale: _Scale, index: int) -> None:
    ratio = row.total_ratio_75
    colour = _COLOURS[index % len(_COLOURS)]
    marker = {ORACLE: "*", VERIFIED: "D"}.get(row.kind, _MARKERS[index % len(_MARKERS)])
    axes.errorbar(
        [ratio.mean],
        [scale(row.agreement.mean)],
        xerr=np.array([[ratio.mean - ratio.low], [ratio.high - ratio.mean]]),
        yerr=scale.bars(row.agreement),
        color=colour,
        marker=marker,
        markersize=13 if row.kind == ORACLE else 8,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linestyle="none",
        elinewidth=1.3,
        label=_plain(row.name),
        zorder=4,
    )


def _plain(name: str, width: int = 30) -> str:
    """A name as a label: nothing of it is mathematics, and a long one takes several lines."""
    lines = textwrap.wrap(name, width) or [name]
    return "\n".join(lines).replace("$", r"\$")
