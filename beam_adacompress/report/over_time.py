"""The section about time: agreement and reward of all scores, what state the loop was in, and which policy chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from beam_adacompress.drift.contract import INFERENCE
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Retrained
from beam_adacompress.report import figures
from beam_adacompress.report.content import Content, PolicyHistory
from beam_adacompress.report.figures import Event, Figure
from beam_adacompress.report.timeline import Span, Timeline, Window

_MOST_EVENTS = 12


class Section(NamedTuple):
    """What is shown."""

    figure: Optional[Figure]
    problem: str  # why there is no figure
    windows: Sequence[Window]
    states: str  # of the loop, in words
    events: Sequence[Event]
    more_events: int  # that are left out
    level: Optional[float]
    policies: Sequence[PolicyHistory]
    retrained: Sequence[Retrained]


def section(content: Content) -> Optional[Section]:
    """None where nothing is known of time."""
    whole = Timeline()
    for run in content.scored:
        whole.merge(run.tally.timeline)
    windows, spans = whole.windows(), whole.spans()
    times = dict(whole.first_seen())
    retrained = [each for history in content.policies for each in history.retrained]
    for history in content.policies:
        for version in history.versions:
            if version.published is not None:
                times[version.version] = min(version.published, times.get(version.version, version.published))
    events = [Event(time, version) for version, time in sorted(times.items(), key=lambda item: (item[1], item[0]))]
    if not windows and not content.policies:
        return None
    levels = {run.level for run in content.scored} - {None}
    level = levels.pop() if len(levels) == 1 else None
    shown = events[-_MOST_EVENTS:]
    figure, problem = None, ""
    if len(windows) > 1:
        try:
            figure = figures.over_time(windows, spans, shown, level, "time")
        except AdaCompressError as error:
            problem = str(error)
    more = len(events) - len(shown)
    return Section(figure, problem, windows, _states(spans), shown, more, level, content.policies, retrained)


def _states(spans: Sequence[Span]) -> str:
    """What the bands are; where there are none, what that means."""
    if not spans:
        return "Nothing is known of drift: the policy that chose, or what it has to keep, is not at hand."
    if all(span.state == INFERENCE for span in spans):
        return "There is no sign of drift."
    return "Bands are where the drift detector asks for more scores, or says that the policy has drifted."
