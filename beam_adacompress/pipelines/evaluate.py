"""`adacompress evaluate`: what policies are worth on images that they never saw, beside the fixed quality.

test_images ─▶ try_images (a Beam job: everything that anyone may choose, on every image, see trying)
                   └▶ judged (each backend: curves, oracles, policies, verified choice) ─▶ evaluation.json, report.html
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import evaluation_report, jpeg, plots, report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.evaluation import POLICY, Curve, Evaluation, Strategy, evaluate, to_json
from beam_adacompress.pipelines.asking import AskingOptions, BackendOptions, asking_of, check_limits, check_reachable
from beam_adacompress.pipelines.evaluate_job import (
    ALL,
    Contender,
    EvaluateJob,
    EvaluateOptions,
    Grid,
    grid,
    is_test,
    job_of,
    names_of,
    test_images,
)
from beam_adacompress.pipelines.job_file import Record
from beam_adacompress.pipelines.mistakes import check_apart, check_models, unheard
from beam_adacompress.pipelines.options import CommandLine, JobOptions, UsageError, absolute, check_failures
from beam_adacompress.pipelines.policy_options import PolicyOptions, PromiseOptions
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.train_job import kind_of
from beam_adacompress.pipelines.trying import TrialLists, check_answered, prices_of, said_of_failures, try_images
from beam_adacompress.policy import judging
from beam_adacompress.policy.judging import Searched
from beam_adacompress.policy.learned import ORIGINAL_ACTION, AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import Outcomes, outcomes
from beam_adacompress.policy.training import by_content
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.records import ImageFailure
from beam_adacompress.transforms import files
from beam_adacompress.transforms.sources import ImageFile
from beam_adacompress.trials import Trial
from beam_adacompress.version import versions

LINE = CommandLine(
    "adacompress evaluate",
    "Judge policies on images that they never saw, beside the fixed quality and all that there is to be had.",
    (JobOptions, BackendOptions, PolicyOptions, EvaluateOptions, PromiseOptions, AskingOptions),
    ("--input", "--output", "--backend"),
)
LINES = {"": LINE}


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress evaluate ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, failed, or has nothing to judge by.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    values, rest = LINE.parse(given)
    for name in ("input", "output", "cache"):
        values[name] = values[name] and absolute(values[name])
    options = PipelineOptions(rest)
    FileSystems.set_options(options)
    try:
        job = job_of(values, asking_of(values))
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    check_limits(job.asking, job.cache, options)
    check_reachable("an evaluation", options, output=job.output, cache=job.cache, input=job.input)
    check_apart(job.input, job.output)
    check_models(options, job.backend)
    if importlib.util.find_spec("matplotlib") is None:
        raise AdaCompressError("plots need matplotlib: pip install 'beam-adacompress[report]'")
    if not job.overwrite and files.status(job.json) is not None:
        raise AdaCompressError(f"{job.output} holds an evaluation already: choose another --output, or --overwrite it")

    contenders = job.contenders()
    for each in contenders:
        each.policy.artefact.sight.open(files.read)
    images = test_images(job, contenders)
    tried = grid([each.policy.artefact.space for each in contenders], contenders[0].settings)
    seen = _seen(job, contenders, tried, images, options, rest)
    answered = TrialLists(seen.trials, seen.failures)
    check_answered(answered, job.backend, f"any test image in {job.input}", "nothing was evaluated", job.cache)
    found = judged(job, contenders, tried, seen)
    about = _about(job, contenders, seen.trials, found)
    _write(job, found, about)
    Record(LINE, given).write(job.output, job.work)
    files.delete([job.work])
    tell(
        output=job.output,
        evaluation=json.loads(to_json(found, about)),
        calls=seen.calls,
        cost_usd=seen.cost,
        failures=seen.failures,
    )

    for each in contenders:
        if (warning := each.policy.warning()) is not None:
            print(f"warning: {warning}", file=sys.stderr)
        judges = {(kind_of(trial.backend), trial.backend_version) for trial in seen.trials}
        if (warning := unheard(each.policy, judges)) is not None:
            print(f"warning: {warning}", file=sys.stderr)
    for name, evaluation in found.items():
        print(f"{name}: {about['backends'][name]['uri']}")
        print(evaluation_report.text(evaluation))
    print("\n".join(_said(job, images, seen, found)))
    failed = {failed.key for failed in seen.failures}
    check_failures(len(failed), max(1, len(images)), job.max_failures)
    return 0


class Seen(NamedTuple):
    """What became of the images."""

    trials: list[Trial]  # one for each content and backend, with the sha256 in the place of the key
    features: Mapping[Sight, Mapping[str, Sequence[float]]]  # by sha256
    failures: list[ImageFailure]
    calls: int
    cost: float  # USD


def _seen(
    job: EvaluateJob,
    contenders: Sequence[Contender],
    tried: Grid,
    images: Sequence[ImageFile],
    options: PipelineOptions,
    flags: Sequence[str],
) -> Seen:
    """Asks the backends about everything, once; for each other sight a second look at the images, without questions."""
    settings = contenders[0].settings
    first, *others = dict.fromkeys(each.policy.artefact.sight for each in contenders)
    transform = job.transform(tried.configurations, settings, first, LADDER)
    found = try_images(images, transform, job.work, options, flags, shows_progress=True)
    calls, prices = sum(trial.calls for trial in found.trials), prices_of(transform)
    cost = sum(trial.calls * prices[trial.backend] for trial in found.trials)
    features = {first: {trial.sha256: trial.features for trial in found.trials}}
    failures = list(found.failures)
    for sight in others:
        again = try_images(images, job.transform((), settings, sight), job.work, options, flags)
        features[sight] = {trial.sha256: trial.features for trial in again.trials}
        failures += again.failures
    seeds = [] if job.split == ALL else [each.seed for each in contenders]
    trials = [
        trial
        for trial in by_content(found.trials)
        # Whatever the file held when it was listed.
        if is_test(trial.sha256, seeds) and all(trial.sha256 in each for each in features.values())
    ]
    return Seen(trials, features, sorted(set(failures)), calls, cost)


def judged(job: EvaluateJob, contenders: Sequence[Contender], tried: Grid, seen: Seen) -> dict[str, Evaluation]:
    """Every way to choose, judged by each backend; all on the images that all of them have answered in full.

    Returns:
      By the backend's short name.

    Raises:
      AdaCompressError: there is no such image.
    """
    everything = range(len(tried.configurations))
    joint = outcomes(seen.trials, everything, job.top)
    if not joint.keys:
        raise AdaCompressError(
            f"no test image in {job.input} has an answer to everything: see with adacompress score what goes wrong"
        )
    kept, own = set(joint.keys), dict[str, list[Trial]]()
    for trial in sorted(seen.trials, key=lambda each: each.key):
        if trial.key in kept:
            own.setdefault(trial.backend, []).append(trial)
    settings = contenders[0].settings
    raw = {uri: outcomes(trials, everything, job.top) for uri, trials in own.items()}
    tables = {uri: judging.written(table, settings.min_saving) for uri, table in raw.items()}
    names = dict(zip(job.backend, names_of(job.backend)))
    voters = {f"by {names[uri]}": tables[uri] for uri in job.backend}
    if len(job.backend) > 1:
        voters["by all"] = judging.written(joint, settings.min_saving)
    chosen = _chosen(contenders, tried, seen, voters)
    found = {}
    for uri in job.backend:
        table = tables[uri]
        found[names[uri]] = evaluate(
            [
                *_oracles(table, tried),
                *_policies(job, contenders, tried, seen, table, own[uri][0]),
                *_verified(contenders, tried, table, chosen, f"by {names[uri]}"),
            ],
            _curves(raw[uri], table, tried, settings, own[uri]),
            table.bytes_in,
            table.bytes_75,
            judging.jitter(raw[uri], tried.jitter),
            job.samples,
        )
    return found


def _curves(
    raw: Outcomes, table: Outcomes, tried: Grid, settings: jpeg.Settings, trials: Sequence[Trial]
) -> list[Curve]:
    """The fixed qualities: of a bare loop over Pillow, and as the policies' encoder writes them.

    The bytes of the bare loop are Pillow's. What backends see in its files is taken from the encoder's at the same
    tables, whose pixels are the same, or, with the native core, the same but for rounding, see
    benchmarks/results/codec.txt.
    """
    how = [word for word, has in (("optimised", settings.optimize), ("progressive", settings.progressive)) if has]
    written = judging.curve(f"fixed quality, {' '.join(how) or 'as written'}", LADDER, table, tried.ladder)
    if not tried.bare:
        return [written]
    bare = judging.curve("", LADDER, raw, tried.bare)
    sizes = np.array([trial.plain for trial in trials], np.float64)
    return [judging.plain(bare, "fixed quality, Pillow's defaults", sizes), written]


def _oracles(table: Outcomes, tried: Grid) -> Iterator[Strategy]:
    yield judging.oracle("oracle, standard tables", _columns(table, tried.ladder))
    if tried.actions != sorted(tried.ladder):
        yield judging.oracle("oracle, all actions", _columns(table, tried.actions))


def _policies(
    job: EvaluateJob,
    contenders: Sequence[Contender],
    tried: Grid,
    seen: Seen,
    table: Outcomes,
    judge: Trial,
) -> Iterator[Strategy]:
    """Each policy as it serves; `judge` is any trial of the backend that judges.

    A promise is one of agreement with the backends that the policy was calibrated with, and counts for them alone.
    """
    for each, columns in zip(contenders, tried.spaces):
        artefact, promise = each.policy.artefact, each.policy.promise
        own = _as_seen_by(each, seen, table, columns)
        action = judging.acted(artefact.agent, own)
        if each.policy.leaves_all:
            action = np.full_like(action, ORIGINAL_ACTION)
        heard = {(kind_of(name), version) for name, version in artefact.backends}
        counts = promise.holds and artefact.top == job.top and (kind_of(judge.backend), judge.backend_version) in heard
        promised = promise.target if counts else None
        yield Strategy(each.name, POLICY, *judging.judged(own, action), promised=promised)


def _chosen(
    contenders: Sequence[Contender], tried: Grid, seen: Seen, voters: Mapping[str, Outcomes]
) -> dict[tuple[int, str], Searched]:
    """What verified choice comes to with each policy that can guide it, by its index, and with each who is asked."""
    found = {}
    for index, (each, columns) in enumerate(zip(contenders, tried.spaces)):
        agent = each.policy.artefact.agent
        if isinstance(agent, AgreementAgent) and agent.recollection is not None:
            for voter, table in voters.items():
                own = _as_seen_by(each, seen, table, columns)
                found[index, voter] = judging.searched(agent, own, len(each.policy.artefact.families))
    return found


def _verified(
    contenders: Sequence[Contender],
    tried: Grid,
    table: Outcomes,
    chosen: Mapping[tuple[int, str], Searched],
    here: str,
) -> Iterator[Strategy]:
    """Verified choice, judged here: with this backend asked, with all of them, and with others that alone were."""
    several = len({index for index, _ in chosen}) > 1
    for (index, voter), choice in chosen.items():
        name = "verified" if voter == here else f"verified {voter}"
        if several:
            name += f", {contenders[index].name}"
        own = _columns(table, tried.spaces[index])
        yield judging.verified(name, own, choice, asked=voter in (here, "by all"))


def _columns(table: Outcomes, columns: Sequence[int]) -> Outcomes:
    """The table of some actions."""
    taken = list(columns)
    return dataclasses.replace(
        table, sizes=table.sizes[:, taken], agreement=table.agreement[:, taken], strict=table.strict[:, taken]
    )


def _as_seen_by(contender: Contender, seen: Seen, table: Outcomes, columns: Sequence[int]) -> Outcomes:
    """The table of a policy's actions, with what it looks at."""
    features = seen.features[contender.policy.artefact.sight]
    looked_at = np.array([features[key] for key in table.keys], np.float64)
    return dataclasses.replace(_columns(table, columns), features=looked_at)


def _about(
    job: EvaluateJob, contenders: Sequence[Contender], trials: Sequence[Trial], found: Mapping[str, Evaluation]
) -> dict[str, Any]:
    version = {trial.backend: trial.backend_version for trial in trials}
    return {
        "input": job.input,
        "backends": {
            name: {"uri": uri, "version": version[uri]} for name, uri in zip(names_of(job.backend), job.backend)
        },
        "policies": {
            each.name: {"folder": each.folder, "version": each.policy.version, "seed": each.seed} for each in contenders
        },
        "agreement": job.agreement,
        "confidence": job.confidence,
        "top": job.top,
        "split": job.split,
        "seed": job.seed,
        "images": next(iter(found.values())).images,
        "encoder": {field: getattr(contenders[0].settings, field) for field in contenders[0].policy.artefact.encoder},
        "versions": versions(),
    }


def _write(job: EvaluateJob, found: Mapping[str, Evaluation], about: Mapping[str, Any]) -> None:
    """Writes the files, evaluation.json last; those of an earlier evaluation are gone before.

    Raises:
      AdaCompressError: they cannot be written.
    """
    try:
        files.delete([file.path for file in files.listing(job.output) if job.is_ours(file.path)])
        for name, evaluation in found.items():
            files.write(job.plot(name), plots.rate_agreement(evaluation, name), job.work, "image/png")
        page = report.render(report.Content(evaluated=[report.EvaluationRun(found, about, job.output)])).encode()
        files.write(job.report, page, job.work, "text/html; charset=utf-8")
        files.write(job.json, to_json(found, about).encode(), job.work, "application/json")
    except OSError as error:
        raise AdaCompressError(f"the evaluation {job.output} cannot be written: {error.strerror or error}") from error
    finally:
        files.delete([job.work])


def _said(job: EvaluateJob, images: Sequence[ImageFile], seen: Seen, found: Mapping[str, Evaluation]) -> Iterator[str]:
    """How it went, and where everything is."""
    evaluated = next(iter(found.values())).images
    yield f"{evaluated} of {len(images)} images evaluated, {seen.calls} calls, {report.dollars(seen.cost)}"
    yield from said_of_failures(seen.failures)
    yield from (job.json, job.report, *map(job.plot, found))
