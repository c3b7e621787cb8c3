"""Figures of a report: drawn by matplotlib as SVG that stands in the page, so that it takes the page's colours.

Each figure is drawn twice, for a wide and for a narrow screen, and the page shows the one that fits. Its points can be
reached by pointer and keyboard, and say what they are.
"""

from __future__ import annotations

import datetime
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional
from xml.etree import ElementTree

from beam_adacompress import plots, words
from beam_adacompress.drift.contract import ESTIMATE, RETRAIN
from beam_adacompress.estimates import Interval
from beam_adacompress.plots import Canvas, Plane
from beam_adacompress.report.timeline import Span, Window

# Drawn at 72 points an inch, so a point is about a pixel of the page.
_WIDE, _NARROW = Canvas(13.0, 6.4, 11.5), Canvas(4.7, 6.0, 10.5, legend_below=True)

# What the page calls the colours that plots draw in; see report.css.
_THEME = {
    plots.INK: "var(--ink)",
    plots.SOFT: "var(--soft)",
    plots.GRID: "var(--line)",
    plots.RULE: "var(--soft)",
    plots.CEILING: "var(--warm)",
    "#ffffff": "var(--card)",
    **{colour: f"var(--curve-{index})" for index, colour in enumerate(plots.CURVE_COLOURS) if index},
    **{colour: f"var(--mark-{index})" for index, colour in enumerate(plots.COLOURS)},
}
_STATES = {ESTIMATE: (plots.CEILING, "more is scored: there may be drift"), RETRAIN: (plots.COLOURS[1], "drift")}
_REACH = 11  # radius of what a pointer finds a point by, about pixels


class Figure(NamedTuple):
    """A figure, ready for the page."""

    wide: str  # <svg> elements
    narrow: str


class Event(NamedTuple):
    """Something at a moment, e.g. that a policy version came into use."""

    time: float  # seconds since the epoch
    name: str


def rate_agreement(plane: Plane, name: str) -> Figure:
    """Bytes against agreement.

    Args:
      plane: what is drawn.
      name: that no other figure of the page has; letters, digits and hyphens.

    Raises:
      AdaCompressError: matplotlib is not installed.
    """
    bare = plane._replace(title="")
    return _both(lambda figure, canvas: plots.draw(figure, bare, canvas), plane.said(), name, "bytes against agreement")


def over_time(
    windows: Sequence[Window], spans: Sequence[Span], events: Sequence[Event], level: Optional[float], name: str
) -> Figure:
    """Agreement and reward over time, with their intervals; states as bands, events as lines.

    Args:
      windows: in the order of time; not empty.
      spans: in which the loop was in one state.
      events: that are marked.
      level: of agreement that has to be kept; None where there is none.
      name: as for `rate_agreement`.

    Raises:
      AdaCompressError: matplotlib is not installed.
    """
    said = [
        f"{what} {words.number(getattr(each, what))}, {words.count(each.scores, 'score')} of {each.version}, "
        f"{words.moment(each.start)} to {words.moment(each.end)}"
        for what in ("agreement", "reward")
        for each in windows
    ]

    def draw(figure: Any, canvas: Canvas) -> None:
        _draw_over_time(figure, canvas, windows, spans, events, level)

    return _both(draw, said, name, "agreement and reward over time")


def _both(draw: Callable[[Any, Canvas], None], said: Sequence[str], name: str, label: str) -> Figure:
    drawn = []
    for canvas, kind in ((_WIDE, "wide"), (_NARROW, "narrow")):
        figure = plots.new_figure(canvas, "none")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # glyphs that matplotlib's own font lacks: the browser's has them
            draw(figure, canvas)
            drawn.append(_inline(_svg(figure), f"{name}-{kind}", said, label))
    return Figure(*drawn)


def _svg(figure: Any) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # Text as text, and names that the same drawing gives again; there is no other way to say so than for a moment here.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "adacompress"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _inline(svg: bytes, name: str, said: Sequence[str], label: str) -> str:
    """An <svg> for the page: its names are its own, its colours the page's, its points say what they are."""
    root = ElementTree.fromstring(svg)  # noqa: S314 (matplotlib's own)
    for parent in root.iter():
        for child in [each for each in parent if each.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    points = {f"mark-{number}": text for number, text in enumerate(said)}
    first = True
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        given, element.attrib = element.attrib, {}
        for key, value in given.items():
            element.attrib[key.rpartition("}")[2]] = _own(key, value, name)
        if given.get("id") in points:
            _make_point(element, points[given["id"]], first)
            first = False
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"id": name, "role": "group", "aria-label": f"Plot of {label}; arrow keys go from point to point"}
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode")


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return f"#{name}-{value[1:]}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key == "style":
        value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)  # as matplotlib before 3.10 has it
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = re.sub(r"#[0-9a-f]{6}", lambda found: _THEME.get(found[0], found[0]), value)
    return value


def _make_point(element: ElementTree.Element, text: str, first: bool) -> None:
    element.attrib |= {"class": "mark", "role": "img", "aria-label": text, "tabindex": "0" if first else "-1"}
    place = next(each for each in element.iter() if each.tag.endswith("use"))
    middle = {"cx": place.attrib["x"], "cy": place.attrib["y"], "r": str(_REACH)}
    ElementTree.SubElement(element, "circle", {**middle, "class": "reach"})


def _draw_over_time(
    figure: Any,
    canvas: Canvas,
    windows: Sequence[Window],
    spans: Sequence[Span],
    events: Sequence[Event],
    level: Optional[float],
) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (above, below):
        axes.set_facecolor("none")
        axes.grid(color=plots.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(plots.SOFT)
        axes.tick_params(colors=plots.SOFT, labelsize=canvas.text)
        _bands(axes, spans)
        for event in events:
            axes.axvline(_time(event.time), color=plots.SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
    number = _series(above, windows, [each.agreement for each in windows], plots.COLOURS[0], 0)
    _series(below, windows, [each.reward for each in windows], plots.COLOURS[2], number)
    if level is not None:
        above.axhline(
            level, color=plots.CEILING, linewidth=1.4, linestyle=(0, (6, 4)), label=f"level to keep, {level:g}"
        )
    above.set_ylabel("agreement", color=plots.INK, fontsize=canvas.text + 1)
    below.set_ylabel("reward", color=plots.INK, fontsize=canvas.text + 1)
    for number, event in enumerate(events, 1):
        above.annotate(
            str(number),
            (_time(event.time), 1.0),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=canvas.text - 1,
            color=plots.SOFT,
        )
    _dates(below, canvas)
    handles, labels = above.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=1 if canvas.legend_below else 3,
            frameon=False,
            fontsize=canvas.text,
            labelcolor=plots.INK,
        )


def _bands(axes: Any, spans: Sequence[Span]) -> None:
    named: set[str] = set()
    for span in spans:
        if span.state in _STATES:
            colour, label = _STATES[span.state]
            axes.axvspan(
                _time(span.start),
                _time(span.end),
                color=colour,
                alpha=0.16,
                linewidth=0,
                zorder=1,
                label=None if span.state in named else label,
            )
            named.add(span.state)


def _series(axes: Any, windows: Sequence[Window], values: Sequence[Interval], colour: str, number: int) -> int:
    """Draws a line for each policy version; returns the number of the next point."""
    versions = list(dict.fromkeys(each.version for each in windows))
    for version in versions:
        own = [index for index, each in enumerate(windows) if each.version == version]
        times = [_time((windows[index].start + windows[index].end) / 2) for index in own]
        axes.plot(times, [values[index].mean for index in own], color=colour, linewidth=1.6, zorder=3)
        low, high = ([getattr(values[index], end) for index in own] for end in ("low", "high"))
        axes.fill_between(times, low, high, color=colour, alpha=0.14, linewidth=0, zorder=2)
    for index, each in enumerate(windows):
        value = values[index]
        time = _time((each.start + each.end) / 2)
        axes.plot([time, time], [value.low, value.high], color=colour, linewidth=1, alpha=0.6, zorder=3)
        axes.plot([time], [value.mean], color=colour, marker="o", markersize=5, gid=f"mark-{number + index}", zorder=4)
    return number + len(windows)


def _dates(axes: Any, canvas: Canvas) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=4 if canvas.legend_below else 9)
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.get_offset_text().set(color=plots.SOFT, fontsize=canvas.text - 1)
    axes.set_xlabel("time of scoring, UTC", color=plots.INK, fontsize=canvas.text + 1, loc="left")


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
