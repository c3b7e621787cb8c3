"""The page of a report: one self-contained HTML file, whatever it is about.

Content ─▶ what each section says (here) ─▶ templates/report.html
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Optional, Union

import jinja2

from beam_adacompress import evaluation_report, summary, words
from beam_adacompress.estimates import Interval
from beam_adacompress.folders import Sizes
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import COMPRESSED, FAILED, KEPT
from beam_adacompress.report import over_time, rates
from beam_adacompress.report.content import CompressRun, Content, EvaluationRun, ScoredRun
from beam_adacompress.report.gallery import Gallery, Picture
from beam_adacompress.report.scored import KEYS, Seen
from beam_adacompress.summary import RunStats

_FOLDERS = 12  # that are shown
_CLASSES = 15
_FAMILIES = 12
_BARS = 34  # of a histogram; where there are more qualities, neighbours share one

# Kind of example in summary.EXAMPLES, heading, and how many are shown at the most.
_GALLERIES = (
    (summary.SAVINGS, "Largest savings", 6),
    (summary.SAMPLE, "A random sample of the compressed images", 6),
    (KEPT, "Kept as they were", 3),
)
_DISAGREEMENTS = 9


class Bar(NamedTuple):
    """One bar of a histogram."""

    label: str
    images: int
    share: float  # of the highest bar, 0..1
    said: str


class Failures(NamedTuple):
    """Images that failed for one reason."""

    reason: str
    images: int
    shown: Sequence[tuple[str, str]]  # key and error


class Album(NamedTuple):
    """A part of the gallery."""

    title: str
    pictures: Sequence[Picture]


def render(content: Content) -> str:
    """The page, with the sections for which there is something to show.

    Plots need matplotlib; where it is not installed, the page says so in their place, and has the numbers.
    """
    seen: dict[str, dict[str, Seen]] = {run.name: {} for run in content.compressed}
    for run in content.scored:
        seen.setdefault(run.of, {}).update(run.tally.seen)
    gallery = Gallery()
    return _template().render(
        content=content,
        title=_title(content),
        lead=list(_lead(content)),
        sized=len(content.compressed) > 1 or any(set(run.stats.folders.sizes) - {""} for run in content.compressed),
        compressed=[_compressed(run) for run in content.compressed],
        rates=rates.sections(content),
        over_time=over_time.section(content),
        losses=[_losses(run) for run in content.scored],
        albums=[*_worst(content.scored, gallery), *_albums(content.compressed, gallery, seen)],
        gallery=gallery,
        unscored=[(run, [Failures(*each) for each in run.tally.unscored()]) for run in content.scored],
        costs=[cost for run in content.scored if (cost := _cost(run))],
        about=list(_about(content)),
        definitions=evaluation_report.DEFINITIONS if content.evaluated else (),
        most_failed=summary.EXAMPLES[FAILED],
        most_unscored=KEYS,
    )


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("beam_adacompress"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        megabytes=words.megabytes,
        dollars=words.dollars,
        count=words.count,
        percent=words.percent,
        share=words.share,
        shares=words.shares,
        number=words.number,
        moment=words.moment,
        duration=words.duration,
        relative=evaluation_report.relative,
    )
    return environment.get_template("report.html")


def _title(content: Content) -> str:
    before, after = (sum(getattr(run.stats, name) for run in content.compressed) for name in ("bytes_in", "bytes_out"))
    if before:
        return f"{words.percent(1 - after / before)} of the bytes saved" if after < before else "Nothing was saved"
    if content.compressed:
        return "No image was written"
    if content.scored and (agreement := _agreement(content.scored)) is not None:
        return f"The backend agrees on {words.percent(agreement.mean)} of the images"
    if content.evaluated:
        return "What choosing per image is worth"
    return "Published policies" if content.policies else "Nothing was scored"


def _lead(content: Content) -> Iterator[str]:
    """The totals in words."""
    if content.compressed:
        yield _totals(content.compressed)
    if content.scored:
        yield from _scored(content.scored)
    if content.evaluated and not content.compressed:
        yield "Every way to choose the compression of an image, beside one fixed quality for all of them."
    for history in content.policies:
        if latest := next((each for each in history.versions if each.is_latest), None):
            yield f"{words.count(len(history.versions), 'policy version')}; {latest.version} is in use."


def _totals(runs: Sequence[CompressRun]) -> str:
    statuses = {status: sum(run.stats.statuses[status] for run in runs) for status in (COMPRESSED, KEPT, FAILED)}
    before, after = (sum(getattr(run.stats, name) for run in runs) for name in ("bytes_in", "bytes_out"))
    total = sum(statuses.values())
    told = [f"{statuses[COMPRESSED]:,} of {words.count(total)} compressed"]
    if statuses[KEPT]:
        told.append(f"{statuses[KEPT]:,} kept as they were")
    if statuses[FAILED]:
        told.append(f"{statuses[FAILED]:,} failed")
    became = f"{words.megabytes(before)} became {words.megabytes(after)}: " if before else ""
    return f"{became}{', '.join(told)}."


def _agreement(runs: Sequence[ScoredRun]) -> Optional[Interval]:
    """Over the scores of all runs."""
    sums = [run.tally.stats.total.agreement for run in runs]
    whole = type(sums[0])()
    for each in sums:
        whole.merge(each)
    return whole.share_interval()


def _scored(runs: Sequence[ScoredRun]) -> Iterator[str]:
    agreement = _agreement(runs)
    images = sum(run.tally.stats.total.agreement.n for run in runs)
    backends = sorted({name for run in runs for name in _backends(run)})
    if agreement is not None:
        yield (
            f"{', '.join(backends)} still sees in the result what it sees in the original on "
            f"{words.percent(agreement.mean)} of them ({words.percent(agreement.low)} to "
            f"{words.percent(agreement.high)} with 95 % confidence, from {words.count(images, 'score')})."
        )
    else:
        yield "No image was scored, so nothing is known of the agreement."


def _compressed(run: CompressRun) -> dict[str, Any]:
    stats = run.stats
    folders = list(stats.folders.largest(_FOLDERS))
    return {
        "run": run,
        "folders": folders,
        "more_folders": _rest(stats, folders),
        "total": Sizes(stats.images, stats.failed, stats.bytes_in, stats.bytes_out),
        "folder_scale": max((sizes.bytes_in for _, sizes in folders), default=0) or 1,
        "median": summary.quantile(stats.ratios, 0.5) if stats.ratios else None,
        "qualities": _qualities(stats),
        "families": _bars(dict(stats.tables.most_common(_FAMILIES)), "with {}"),
        "policies": stats.policies.most_common(6),
        "ratios": _ratios(stats),
        "failures": _failures(stats),
        "kept": sorted(
            ((reason, n) for (status, reason), n in stats.reasons.items() if status == KEPT),
            key=lambda each: (-each[1], each[0]),
        ),
    }


def _rest(stats: RunStats, shown: Sequence[tuple[str, Sizes]]) -> Optional[tuple[int, Sizes]]:
    """The folders that are not shown, together."""
    more = len(stats.folders.sizes) - len(shown)
    if not more:
        return None
    rest = [-sum(values) for values in zip(*(sizes for _, sizes in shown))]
    return more, Sizes(*rest).plus(Sizes(stats.images, stats.failed, stats.bytes_in, stats.bytes_out))


def _bars(counts: Mapping[str, int], form: str) -> list[Bar]:
    highest = max(counts.values(), default=0) or 1
    return [
        Bar(label, count, count / highest, f"{words.count(count)} {form.format(label)}")
        for label, count in counts.items()
    ]


def _qualities(stats: RunStats) -> list[Bar]:
    """A bar for each quality from the lowest to the highest one; where they are many, for a few each."""
    if not stats.qualities:
        return []
    lowest, highest = min(stats.qualities), max(stats.qualities)
    width = math.ceil((highest - lowest + 1) / _BARS)
    counts: dict[str, int] = {}
    for start in range(lowest, highest + 1, width):
        end = min(highest, start + width - 1)
        label = str(start) if start == end else f"{start}–{end}"
        counts[label] = sum(stats.qualities[quality] for quality in range(start, end + 1))
    return _bars(counts, "at quality {}")


def _ratios(stats: RunStats) -> list[Bar]:
    counts = summary.ratio_bars(stats.ratios)
    step = 100 // len(counts)
    return _bars({f"{step * index}–{step * (index + 1)} %": n for index, n in enumerate(counts)}, "at {} of their size")


def _failures(stats: RunStats) -> list[Failures]:
    rows = sorted(stats.shown(FAILED), key=lambda row: (str(row.reason), row.key))
    examples = {
        reason: [(row.key, row.error or "") for row in group]
        for reason, group in itertools.groupby(rows, key=lambda row: row.reason)
    }
    counts = {reason: n for (status, reason), n in stats.reasons.items() if status == FAILED}
    return [
        Failures(reason, counts[reason], examples.get(reason, []))
        for reason in sorted(counts, key=lambda r: (-counts[r], r))
    ]


def _losses(run: ScoredRun) -> dict[str, Any]:
    tally = run.tally
    losses = tally.losses(_CLASSES)
    return {
        "run": run,
        "losses": losses,
        "scale": max((each.disagreements for each in losses), default=0) or 1,
        "classes": len(tally.classes),
        "untouched": sum(sums.wx > sums.w - 1e-9 for sums in tally.classes.values()),
        "beyond": tally.beyond,
    }


def _worst(runs: Sequence[ScoredRun], gallery: Gallery) -> Iterator[Album]:
    for run in runs:
        worst = run.tally.worst()
        rows = [run.rows.get(said.key) or _unknown(said) for said in worst]
        seen = {said.key: said for said in worst}
        pictures = list(gallery.pictures(run.of, rows, run.pair, seen, _DISAGREEMENTS))
        if pictures:
            yield Album(_named("Worst disagreements", run.name, len(runs)), pictures)


def _albums(runs: Sequence[CompressRun], gallery: Gallery, seen: Mapping[str, Mapping[str, Seen]]) -> Iterator[Album]:
    for run in runs:
        for kind, title, most in _GALLERIES:
            pictures = list(gallery.pictures(run.name, run.stats.shown(kind), run.pair, seen[run.name], most))
            if pictures:
                yield Album(_named(title, run.name, len(runs)), pictures)


def _unknown(said: Seen) -> ManifestRow:
    """A row that stands for one that is gone."""
    nothing = ManifestRow(*[None] * len(ManifestRow._fields))  # type: ignore[arg-type]
    return nothing._replace(key=said.key, status=COMPRESSED, quality=said.choice.quality, tables=said.choice.tables)


def _named(title: str, run: str, runs: int) -> str:
    return f"{title}, {run}" if runs > 1 else title


def _backends(run: ScoredRun) -> list[str]:
    """Whom was asked, e.g. `litert mobilenet_v2`: the kind, and its file where the run tells it."""
    kinds = sorted({name for name, _ in run.tally.stats.backends})
    path = str((run.summary or {}).get("options", {}).get("backend", "")).partition("?")[0].partition(":")[2]
    return [f"{kinds[0]} {PurePosixPath(path).stem}"] if len(kinds) == 1 and path else kinds


def _cost(run: ScoredRun) -> dict[str, Any]:
    """What was spent: by the summary, which counts calls that came to nothing, too, else by the scores."""
    usage = (run.summary or {}).get("usage", {})
    cost = usage.get("cost_usd", run.tally.stats.cost)
    scores = run.tally.stats.sampled
    return {
        "name": run.name,
        "usage": usage,
        "cost": cost,
        "scores": scores,
        "each": cost / scores if scores else None,
        "backends": _backends(run),
    }


def _about(content: Content) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Name, options and versions of each run that tells them."""
    runs: list[Union[CompressRun, ScoredRun]] = [*content.compressed, *content.scored]
    for run in runs:
        if run.summary is not None:
            yield run.name, run.summary.get("options", {}), run.summary.get("versions", {})
    for evaluated in content.evaluated:
        options, versions = _flat(evaluated)
        yield evaluated.name, options, versions


def _flat(run: EvaluationRun) -> tuple[dict[str, str], Mapping[str, Any]]:
    """For people: one line for each policy and backend, and nothing of what was not asked for."""
    lines: dict[str, str] = {}
    for name, value in run.about.items():
        if name in ("backends", "policies"):
            kind = {"backends": "backend", "policies": "policy"}[name]
            lines |= {f"{kind} {each}": _pairs(its) for each, its in value.items()}
        elif value is not None and name != "versions":
            lines[name] = _pairs(value) if isinstance(value, dict) else str(value)
    return lines, run.about.get("versions", {})


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
