"""The section about bytes and agreement: evaluations with their curves, and where scored runs stand beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from beam_adacompress import evaluation_report, plots, words
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.estimates import Interval
from beam_adacompress.evaluation import FIXED, Evaluation
from beam_adacompress.plots import RUN, TO_75, TO_ORIGINAL, Line, Mark, Plane
from beam_adacompress.report import figures
from beam_adacompress.report.content import Content, ScoredRun
from beam_adacompress.report.figures import Figure
from beam_adacompress.scores import Sums

_LEAST = 5  # scores of an action that is shown
_MOST_ACTIONS = 120


class Section(NamedTuple):
    """One plot and what belongs to it."""

    title: str
    sentences: Sequence[str]
    figure: Optional[Figure]
    problem: str  # why there is no figure
    plane: Plane
    evaluation: Optional[Evaluation]  # whose table is shown
    rows: Sequence[Any]
    verdicts: Sequence[Any]
    warnings: Sequence[str]


def sections(content: Content) -> list[Section]:
    """One for each backend of an evaluation, and one for the runs that no evaluation's backend has scored."""
    found: list[Section] = []
    alone = list(content.scored)
    for run in content.evaluated:
        for name, evaluation in run.evaluations.items():
            backend = run.about.get("backends", {}).get(name, {})
            here = [each for each in content.scored if _is_of(each, backend)]
            alone = [each for each in alone if each not in here]
            found.append(_of_evaluation(name, evaluation, here, len(found)))
    found += [section for each in alone if (section := _of_run(each, len(found))) is not None]
    return found


def _is_of(run: ScoredRun, backend: Mapping[str, Any]) -> bool:
    """Whether a backend that evaluated scored a run: the same kind and version."""
    kind = str(backend.get("uri", "")).partition("?")[0].partition(":")[0]
    return (kind, backend.get("version")) in run.tally.stats.backends


def _of_evaluation(title: str, evaluation: Evaluation, runs: Sequence[ScoredRun], number: int) -> Section:
    named = _names([run.name for run in runs])
    marks = [mark for name, run in zip(named, runs) if (mark := _mark(name, RUN, run.tally.stats.total)) is not None]
    plane = plots.plane_of(evaluation, title, TO_ORIGINAL if marks else TO_75, marks)
    sentences = [evaluation_report.about_images(evaluation)]
    if marks:
        sentences.append(
            f"{'; '.join(_stands(mark) for mark in marks)}. Those are the run's own images, others than the "
            "evaluation's, so compare them with care."
        )
    return Section(
        title,
        sentences,
        *_figure(plane, number),
        plane,
        evaluation,
        evaluation_report.rows_of(evaluation),
        evaluation_report.verdicts(evaluation),
        evaluation_report.warnings(evaluation),
    )


def _of_run(run: ScoredRun, number: int) -> Optional[Section]:
    stats = run.tally.stats
    mark = _mark("this run", RUN, stats.total)
    if mark is None:
        return None
    families: dict[str, list[tuple[int, Mark]]] = {}
    most = sorted(stats.actions, key=lambda action: (-stats.actions[action].agreement.n, action))[:_MOST_ACTIONS]
    for action in most:
        family, _, quality = action.rpartition("-")
        point = _mark(quality, FIXED, stats.actions[action])
        if point is not None and stats.actions[action].agreement.n >= _LEAST:
            families.setdefault(family, []).append((int(quality), point))
    lines = tuple(
        Line(f"tables {family}, by the quality chosen", tuple(point for _, point in sorted(points, key=_quality)))
        for family, points in sorted(families.items())
    )
    plane = Plane(run.name, "", max(1, stats.total.agreement.n), TO_ORIGINAL, lines, (mark,))
    sentences = [
        f"{_stands(mark)}.",
        "A line joins the images for which each quality was chosen, which are not the same images; what one fixed "
        "quality for all of them would come to, and the oracle, are known to adacompress evaluate: give its folder, "
        "too, and both are drawn here.",
    ]
    return Section(f"Scored images, {run.name}", sentences, *_figure(plane, number), plane, None, (), (), ())


def _names(paths: Sequence[str]) -> list[str]:
    """Names of runs beside each other: the ends of their paths."""
    return ["this run"] if len(paths) == 1 else [f"run {'/'.join(path.rsplit('/', 2)[-2:])}" for path in paths]


def _quality(point: tuple[int, Mark]) -> int:
    return point[0]


def _stands(mark: Mark) -> str:
    return (
        f"{mark.name} stands at an agreement of {words.shares(mark.agreement)} and "
        f"{words.number(mark.ratio)} of the originals' bytes"
    )


def _mark(name: str, kind: str, sums: Sums) -> Optional[Mark]:
    agreement, mean = sums.agreement.share_interval(), sums.size_ratio.mean
    if agreement is None or mean is None:
        return None
    return Mark(name, kind, sums.size_ratio.interval() or Interval(mean, mean, mean), agreement)


def _figure(plane: Plane, number: int) -> tuple[Optional[Figure], str]:
    try:
        return figures.rate_agreement(plane, f"rates-{number}"), ""
    except AdaCompressError as error:
        return None, str(error)
