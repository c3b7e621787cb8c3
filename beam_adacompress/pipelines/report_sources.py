"""Where the runs of a report are: folders of every kind, read a few rows at a time.

DIR ─▶ kind_of ─▶ CompressRun, ScoredRun, EvaluationRun, PolicyHistory ─▶ report.Content
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, Optional

from beam_adacompress import manifest, report, scores, summary, words
from beam_adacompress.drift.estimate import is_explored, observe
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.evaluation import from_json
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.pipelines.report_drift import Observed, watch
from beam_adacompress.records import KEPT, SCORED, DriftEstimate, Retrained
from beam_adacompress.report import CompressRun, EvaluationRun, PolicyHistory, PublishedVersion, ScoredRun, ScoreTally
from beam_adacompress.summary import RunStats
from beam_adacompress.transforms import files, publishing, sinks
from beam_adacompress.transforms.corpus import Corpus, corpus_of
from beam_adacompress.transforms.runs import VERSION, RunFolder
from beam_adacompress.transforms.score_sinks import ScoreFolder
from beam_adacompress.transforms.serve_sinks import ServeFolder

COMPRESS, SCORE, SERVE = RunFolder.FORMAT, ScoreFolder.FORMAT, ServeFolder.FORMAT
BESIDE = "score"  # where compress --score-with puts its scores, in its own output
EVALUATION, POLICIES = "adacompress.evaluation", "adacompress.latest"

_SUMMARIES = {
    COMPRESS: ("adacompress.summary", summary.VERSION),
    SCORE: ("adacompress.score-summary", scores.SUMMARY_VERSION),
}
_HELP = "give the output of adacompress compress, score, serve or evaluate, or a folder of published policies"


class Source(NamedTuple):
    """A folder, and what it is."""

    path: str
    kind: str
    options: Mapping[str, Any]  # of the run, as far as they are recorded


def source_of(path: str) -> Source:
    """What a folder is.

    Raises:
      AdaCompressError: it holds nothing that a report could be about, or something of an unknown version.
    """
    try:
        return _found(path)
    except OSError as error:
        raise AdaCompressError(f"{path} cannot be read: {error.strerror or error}") from error


def _found(path: str) -> Source:
    folder = RunFolder(path)
    if (record := _json(folder.run)) is not None:
        kind = record.get("format")
        if kind not in (COMPRESS, SCORE, SERVE):
            raise AdaCompressError(f"{path} holds a run of a kind without a report ({kind}): {_HELP}")
        _check_version(folder.run, record, VERSION)
        return Source(path, kind, _mapping(folder.run, record, "options"))
    if files.exists(files.join(path, "evaluation.json")):
        return Source(path, EVALUATION, {})
    if publishing.latest(path) is not None:
        return Source(path, POLICIES, {})
    if (content := _json(folder.summary)) is not None:  # a copy without what only a run that goes on needs
        for kind, (form, _) in _SUMMARIES.items():
            if content.get("format") == form:
                return Source(path, kind, _mapping(folder.summary, content, "options"))
    if files.exists(files.join(path, "policy.json")):
        raise AdaCompressError(f"{path} is one policy, and a report is about runs: see adacompress policy show {path}")
    what = "is empty, or not there" if next(iter(files.listing(path)), None) is None else "holds no run of adacompress"
    raise AdaCompressError(f"{path} {what}: {_HELP}")


def _json(path: str) -> Optional[dict[str, Any]]:
    if not files.exists(path):
        return None
    try:
        content = json.loads(files.read(path))
    except ValueError as error:
        raise AdaCompressError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise AdaCompressError(f"{path} is damaged: it holds no object")
    return content


def _mapping(path: str, content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    if not isinstance(found, dict):
        raise AdaCompressError(f"{path} is damaged: it has no {name}")
    return found


def _check_version(path: str, content: Mapping[str, Any], version: int) -> None:
    if content.get("format_version") != version:
        raise AdaCompressError(
            f"{path} has version {content.get('format_version')}, and this is adacompress for version {version}: "
            "use the release that wrote it"
        )


def _summary(source: Source) -> Optional[dict[str, Any]]:
    """The content of summary.json; None where the run has none, since it is not finished or serves."""
    path = RunFolder(source.path).summary
    content = _json(path)
    if content is None:
        return None
    form, version = _SUMMARIES[source.kind]
    if content.get("format") != form:
        raise AdaCompressError(f"{path} is damaged: its format is {content.get('format')!r}, and not {form!r}")
    _check_version(path, content, version)
    return content


def compressed(source: Source, originals: Optional[str]) -> CompressRun:
    """A run of compress, or what a job that serves has written so far.

    Args:
      source: its folder.
      originals: folder that the keys are relative to; None for where the run found them.

    Raises:
      AdaCompressError: it cannot be read, or holds something of an unknown version.
    """
    content = None if source.kind == SERVE else _summary(source)
    stats = RunStats(int(source.options.get("seed") or 0))
    note = ""
    with _reading(source.path):
        if content is not None:
            for path in RunFolder(source.path).parts():
                with files.opened(path) as file:
                    for row in manifest.read_rows(file, path):
                        stats.add(row)
            if stats.images != content["images"]["total"]:
                note = (
                    f"summary.json tells of {words.count(content['images']['total'])}, and the manifest of "
                    f"{words.count(stats.images)}: parts of it are missing."
                )
        else:
            for row in _latest_rows(source):
                stats.add(row)
            note = (
                "A job that serves: what it has written so far."
                if source.kind == SERVE
                else "This run is not finished: it is shown as far as it has come. Run its adacompress compress again, "
                "it goes on."
            )
    return CompressRun(source.path, stats, _pair(source, originals), content, note)


def _latest_rows(source: Source) -> Iterator[ManifestRow]:
    """Of several rows for one key the one in the last file by name; a digest of each key is kept in memory."""
    folder = RunFolder(source.path)
    place = folder.manifest if source.kind == SERVE else folder.rows
    paths = sorted((each.path for each in files.listing(place) if each.path.endswith(".jsonl")), reverse=True)
    known: set[int] = set()
    for path in paths:
        for row in reversed(manifest.from_lines(files.read(path), path)):
            if (digest := hash(row.key)) not in known:
                known.add(digest)
                yield row
    if source.kind != SERVE:
        for path in folder.parts():
            with files.opened(path) as file:
                yield from (row for row in manifest.read_rows(file, path) if hash(row.key) not in known)


def _corpus(source: Source) -> Optional[Corpus]:
    try:
        return corpus_of(source.options)
    except (KeyError, TypeError, ValueError):
        return None


def _pair(source: Source, originals: Optional[str]) -> report.Pair:
    """What gives the bytes of an original and its result."""
    corpus = _corpus(source)
    if corpus is None:
        return functools.partial(sinks.before_and_after, RunFolder(source.path), originals) if originals else _gone
    try:
        return corpus.pair(corpus.folder(source.path), originals)
    except AdaCompressError:  # a list of URIs that is gone
        return _gone


def _gone(row: ManifestRow) -> None:
    """There is no knowing where the images are."""


def shown_keys(run: CompressRun) -> set[str]:
    """Keys of images that may come into the gallery."""
    return {row.key for kind in (summary.SAVINGS, summary.SAMPLE, KEPT) for row in run.stats.shown(kind)}


def scored(source: Source, wanted: Collection[str], originals: Optional[str]) -> ScoredRun:
    """A run of score, or what a job that serves has scored so far.

    Args:
      source: its folder.
      wanted: keys whose labels are wanted.
      originals: as for `compressed`.

    Raises:
      AdaCompressError: as `compressed`.
    """
    tally = ScoreTally(wanted)
    observed = Observed()
    folder = ServeFolder(source.path)
    content = None if source.kind == SERVE else _summary(source)
    with _reading(source.path):
        for path in _parquet_below(folder.scores):
            with files.opened(path) as file:
                for row in scores.read_rows(file, path):
                    tally.add(row)
                    if row.status == SCORED and not is_explored(row):
                        observed.add(observe(row))
        for path in _parquet_below(folder.failures):
            with files.opened(path) as file:
                for batch in scores.FAILURES.batches(file, path):
                    for failed in batch.to_pylist():
                        tally.add_failure(failed["key"], failed["reason"], failed["error"])
        estimates = [DriftEstimate(**each) for each in _lines(files.join(folder.drift, "estimates"))]
    for each in estimates:
        tally.timeline.add_state(each.start, each.end, each.state)
    level = estimates[-1].level if estimates else None
    of = source
    if source.kind == SCORE:
        of = _scored_run(source) or source
        if (policy := of.options.get("policy")) is not None:
            level = watch(str(policy), observed, tally.timeline)
    note = (
        ""
        if content is not None or source.kind == SERVE
        else ("This run is not finished, so only what is there is shown: run its adacompress score again.")
    )
    worst = {each.key for each in tally.worst()}
    rows = {} if of is source and source.kind == SCORE else _rows_of(of, worst)
    pair = _gone if of is source and source.kind == SCORE else _pair(of, originals)
    return ScoredRun(source.path, tally, pair, rows, content, level, note, of.path)


def _scored_run(source: Source) -> Optional[Source]:
    """The compress run that a score run is of: the one that it lies in, which may have moved, or the one it was given.

    None where that is gone.
    """
    around, _, name = source.path.rpartition("/")
    for path in ([around] if name == BESIDE else []) + [str(source.options.get("input") or "")]:
        with contextlib.suppress(AdaCompressError):
            if path and (found := source_of(path)).kind == COMPRESS:
                return found
    return None


def _rows_of(source: Source, keys: Collection[str]) -> dict[str, ManifestRow]:
    """Rows of a manifest by key."""
    if not keys:
        return {}
    if source.kind == SERVE:
        return {row.key: row for row in _latest_rows(source) if row.key in keys}
    found: dict[str, ManifestRow] = {}
    with _reading(source.path):
        for path in RunFolder(source.path).parts():
            with files.opened(path) as file:
                found |= {row.key: row for row in manifest.find_rows(file, path, keys)}
    return found


def _parquet_below(folder: str) -> list[str]:
    return sorted(file.path for file in files.listing(folder) if file.path.endswith(".parquet"))


def _lines(folder: str) -> Iterator[dict[str, Any]]:
    """The objects of small files of JSON lines, in the order of the files' names."""
    for path in sorted(file.path for file in files.listing(folder) if file.path.endswith(".jsonl")):
        try:
            yield from (json.loads(line) for line in files.read(path).splitlines() if line)
        except ValueError as error:
            raise AdaCompressError(f"{path} is damaged: {error}") from error


def evaluated(source: Source) -> EvaluationRun:
    """An evaluation.

    Raises:
      AdaCompressError: as `compressed`.
    """
    path = files.join(source.path, "evaluation.json")
    with _reading(source.path):
        evaluations, about = from_json(files.read(path), path)
    return EvaluationRun(evaluations, about, source.path)


def published(source: Source) -> PolicyHistory:
    """Published policies.

    Raises:
      AdaCompressError: they cannot be read.
    """
    return PolicyHistory(source.path, [_version(each) for each in publishing.versions(source.path)])


def _version(found: publishing.Version) -> PublishedVersion:
    promise, baseline = found.promise, found.baseline
    said = "its description is damaged"
    if promise is not None:
        what = f"agreement {promise.target:g} with confidence {promise.confidence:g}"
        said = what if promise.holds else f"nothing: it could not show an {what}"
    measured = "–"
    if baseline is not None:
        measured = (
            f"agreement {words.share(baseline.agreement)}, size ratio {baseline.size_ratio:.3f}, on "
            f"{words.count(baseline.images)}"
        )
    return PublishedVersion(found.version, found.published, found.is_latest, said, measured)


def learned_from(source: Source) -> Optional[ScoredRun]:
    """The scores that the policy in use was trained again on; None where it was not.

    Raises:
      AdaCompressError: they cannot be read.
    """
    pointer = publishing.latest(source.path)
    assert pointer is not None, source
    path = files.join(publishing.folder_of(source.path, pointer.version), publishing.MEMORY)
    tally = ScoreTally()
    with _reading(source.path):
        if not files.exists(path):
            return None
        with files.opened(path) as file:
            for row in scores.read_rows(file, path):
                tally.add(row)
    note = f"The scores are those that {pointer.version} learned from; give the runs that made them for all of them."
    return ScoredRun(source.path, tally, _gone, note=note)


def retrained(source: Source) -> PolicyHistory:
    """What came of training again in a job that serves.

    Raises:
      AdaCompressError: it cannot be read.
    """
    with _reading(source.path):
        found = [Retrained(**each) for each in _lines(files.join(ServeFolder(source.path).drift, "retrained"))]
    return PolicyHistory(source.path, retrained=found)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turns what a filesystem reports, and content of another shape, into a sentence of ours."""
    try:
        yield
    except OSError as error:
        raise AdaCompressError(f"the run {path} cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise AdaCompressError(f"the run {path} is damaged: {error!r}") from error
