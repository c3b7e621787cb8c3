"""A small picture of where learning is: size ratio against agreement."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from beam_adacompress.errors import AdaCompressError

_DPI = 100
_RATIO_TICKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_INK, _SOFT, _POLICY, _SERVED = "#1c2430", "#7d8590", "#0072b2", "#d55e00"


class Point(NamedTuple):
    """What one setting, or one fixed quality, comes to."""

    name: str  # empty, or the quality
    agreement: float  # 0..1
    size_ratio: float


def picture(title: str, policy: Sequence[Point], fixed: Sequence[Point], served: Optional[Point] = None) -> bytes:
    """The picture, as a PNG.

    Args:
      title: above it.
      policy: what is being learned, at each of its settings.
      fixed: fixed qualities of the standard tables.
      served: where the policy is served.

    Raises:
      AdaCompressError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AdaCompressError("plots need matplotlib: pip install 'beam-adacompress[train]'") from error
    figure = Figure(figsize=(6.4, 4.2), dpi=_DPI, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if fixed:
        _line(axes, fixed, _SOFT, "a fixed quality")
        for point in fixed:
            axes.annotate(
                point.name,
                (point.size_ratio, point.agreement),
                (3, -10),
                textcoords="offset points",
                fontsize=7,
                color=_SOFT,
            )
    if policy:
        _line(axes, policy, _POLICY, "the policy, by price of a byte" if len(policy) > 1 else "the policy")
    if served is not None:
        axes.plot([served.size_ratio], [served.agreement], "D", color=_SERVED, markersize=8, label="as it is served")
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.xaxis.set_ticks([each for each in _RATIO_TICKS if left <= each <= right], minor=False)
    axes.xaxis.set_ticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("← fewer bytes      size ratio, mean over the images that validate", color=_INK, fontsize=9)
    axes.set_ylabel("agreement", color=_INK, fontsize=9)
    axes.set_title(title, loc="left", color=_INK, fontsize=10)
    axes.grid(color="#e4e7ea", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # the same numbers are the same bytes
    return buffer.getvalue()


def _line(axes: Any, points: Sequence[Point], colour: str, label: str) -> None:
    along = sorted(points, key=lambda point: point.size_ratio)
    axes.plot(
        [point.size_ratio for point in along],
        [point.agreement for point in along],
        ".-",
        color=colour,
        linewidth=1.4,
        markersize=6,
        label=label,
    )
