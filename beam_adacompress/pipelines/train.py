"""`adacompress train`: a policy for the backends that will see the images.

list_images ─▶ try_images (a Beam job: every action on every image and its copies, see trying) ─▶ train
                                                                                   OUTPUT/policy.json ◀─┘

What a backend says is kept in the cache, so a training that was stopped goes on, and another one over the same images
asks only about what is new.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines.asking import AskingOptions, BackendOptions, asking_of, check_limits, check_reachable
from beam_adacompress.pipelines.job_file import Record
from beam_adacompress.pipelines.mistakes import check_apart, check_models, no_images
from beam_adacompress.pipelines.options import CommandLine, JobOptions, UsageError, absolute, check_failures
from beam_adacompress.pipelines.policy_options import PromiseOptions
from beam_adacompress.pipelines.results import tell
from beam_adacompress.pipelines.train_job import TrainJob, TrainOptions, job_of
from beam_adacompress.pipelines.trying import check_answered, prices_of, said_of_failures, try_images
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.calibration import Calibration, Promise, images_needed
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.training import Trained, beside_fixed, require_keras, train
from beam_adacompress.records import ImageFailure
from beam_adacompress.transforms import files
from beam_adacompress.transforms.sources import ImageFile, LocatedFailure, list_images
from beam_adacompress.trials import Trial

LINE = CommandLine(
    "adacompress train",
    "Learn, for the backends that will see the images, how to compress each of them.",
    (JobOptions, BackendOptions, TrainOptions, PromiseOptions, AskingOptions),
    ("--input", "--output", "--backend"),
)
LINES = {"": LINE}

TARGETS = (0.9, 0.95, 0.97, 0.99)  # agreements that people ask for


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress train ARGV` and returns its exit status.

    Raises:
      AdaCompressError: the job cannot run, failed, or has too little to learn from.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    values, rest = LINE.parse(given)
    for name in ("input", "output", "logs", "cache"):
        values[name] = values[name] and absolute(values[name])
    options = PipelineOptions(rest)
    FileSystems.set_options(options)
    try:
        job = job_of(values, asking_of(values))
        space = job.space()
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    check_limits(job.asking, job.cache, options)
    check_reachable("training", options, output=job.output, cache=job.cache, input=job.input)
    check_apart(job.input, job.output)
    check_models(options, job.backend)
    require_keras()
    if not job.overwrite and files.status(job.policy) is not None:
        raise AdaCompressError(f"{job.output} holds a policy already: choose another --output, or --overwrite it")

    sight = job.sight(space)
    sight = dataclasses.replace(sight, versions=sight.open(files.read).versions)
    images, failures = _listed(job)
    transform = job.transform(space, sight)
    copies = job.copies() if job.augment else None
    found = try_images(images, transform, job.work, options, rest, shows_progress=True, copies=copies)
    failures += found.failures
    check_answered(found, job.backend, f"any image in {job.input}", "nothing was learned", job.cache)
    _, columns = space.distinct()
    if job.logs is not None:
        print(f"watch it learn: tensorboard --logdir {job.logs}", file=sys.stderr, flush=True)
    trained = train(found.trials, space, columns.tolist(), sight, job.encoder(), job.learning())
    version = _save(job, trained)
    Record(LINE, given).write(job.output, job.work)
    files.delete([job.work])

    prices = prices_of(transform)
    cost = sum(trial.calls * prices[trial.backend] for trial in found.trials)
    calls = sum(trial.calls for trial in found.trials)
    tell(output=job.output, policy=about(trained.artefact, version), calls=calls, cost_usd=cost, failures=failures)
    for line in (
        _said_of_images(len(images), found.trials, trained),
        *said_of_failures(failures),
        _said_of_calls(found.trials, cost),
        *said_of_promise(trained.artefact.promise, trained.artefact.calibration, trained.artefact.agent.kind),
        *_said_of_worth(trained),
    ):
        print(line)
    if job.logs is not None:
        print(f"curves of learning: tensorboard --logdir {job.logs}")
    else:
        print("curves of learning: train with --logs FOLDER, then tensorboard --logdir FOLDER")
    print(f"the policy {version} is in {job.output}")
    print(f"use it with: adacompress compress --policy {job.output} ...")
    failed = {failed.key for failed in failures}
    check_failures(len(failed), max(1, len(images)), job.max_failures)
    return 0


def _listed(job: TrainJob) -> tuple[list[ImageFile], list[ImageFailure]]:
    """The images, and files whose names cannot be keys.

    Raises:
      AdaCompressError: there are none.
    """
    images: list[ImageFile] = []
    failures: list[ImageFailure] = []
    for found in list_images(job.input, exclude=job.output):
        if isinstance(found, LocatedFailure):
            failures.append(ImageFailure(found.key, found.stage, found.reason, found.error))
        else:
            images.append(found)
    if not images and not failures:
        raise no_images(job.input)
    return images, failures


def _save(job: TrainJob, trained: Trained) -> str:
    """Writes the policy; an earlier one is not there any more while it does.

    Raises:
      AdaCompressError: it cannot be written.
    """
    try:
        files.delete([job.policy])
        return artefacts.save(trained.artefact, _writer(job))
    except OSError as error:
        raise AdaCompressError(f"the policy {job.output} cannot be written: {error.strerror or error}") from error
    finally:
        files.delete([job.work])


def _writer(job: TrainJob) -> Callable[[str, bytes], None]:
    def write(name: str, data: bytes) -> None:
        media_type = "application/json" if name.endswith(".json") else "application/octet-stream"
        files.write(files.join(job.output, name), data, job.work, media_type)

    return write


def _said_of_images(images: int, trials: Sequence[Trial], trained: Trained) -> str:
    different = len({trial.sha256 for trial in trials if trial.parent is None})
    unanswered = different - trained.parts.images
    left_out = f", {unanswered} of them without all answers and left out" if unanswered else ""
    count = trained.artefact.data["copies"]
    copies = f", and {count} copies of those that train" if count else ""
    return f"{images} images, {different} different ones{left_out}: {trained.parts.said()}{copies}"


def _said_of_calls(trials: Sequence[Trial], cost: float) -> str:
    calls = sum(trial.calls for trial in trials)
    wanted = sum(1 + len(trial.ranks) for trial in trials)
    known = sum(max(0, 1 + len(trial.ranks) - trial.calls) for trial in trials)
    return f"{calls} calls, {known} of {wanted} answers from the cache, {report.dollars(cost)}"


def about(artefact: PolicyArtefact, version: str) -> dict[str, Any]:
    """What there is to know of a policy, for programs."""
    return {
        "version": version,
        "agent": artefact.agent.kind,
        "backends": [{"name": name, "version": its} for name, its in artefact.backends],
        "promise": artefact.promise,
        "baseline": artefact.baseline,
        "images": artefact.data["images"],
    }


def said_of_promise(promise: Promise, calibration: Calibration, kind: str) -> Iterator[str]:
    """What a policy promises, or why it does not, for people."""
    what = f"an agreement of {promise.target:g} with a confidence of {promise.confidence:g}"
    if promise.agreement is not None:
        yield f"promised: {what}; it is {promise.agreement:.3f} on {promise.images} calibration images"
        return
    consequence = "nothing is promised" if kind == DQNAgent.kind else "every image is left as it is"
    least = images_needed(promise.target, promise.confidence)
    if promise.images < least:
        why = f"{promise.images} calibration images cannot show it, at least {least} are needed, a fifth of all images"
    else:
        why = f"{promise.images} calibration images do not show it"
    yield f"not promised: {what}: {why}; so {consequence}"
    able = [target for target in TARGETS if calibration.promise(target, promise.confidence).holds]
    if able and max(able) < promise.target:
        yield f"it could promise {max(able):g}: give --agreement {max(able):g}"


def _said_of_worth(trained: Trained) -> Iterator[str]:
    artefact, test = trained.artefact, trained.parts.test
    baseline = artefact.baseline
    if baseline is None:
        yield "there are no test images: what the policy is worth is not known"
        return
    yield (
        f"on {baseline.images} test images: agreement {baseline.agreement:.3f}, size ratio {baseline.size_ratio:.3f}, "
        f"reward {baseline.reward:.3f}"
    )
    if isinstance(artefact.agent, AgreementAgent) and artefact.agent.price is None:
        return  # it leaves every image as it is
    row = beside_fixed(artefact, test)
    if row is None:
        yield "the standard tables were not tried, so there is no fixed quality to compare it with"
        return
    ratio = row.against[0].ratio
    beside = "the fixed quality of the standard tables with the same agreement on them"
    if not ratio.mean:
        yield "no quality of the standard tables that was tried reaches that agreement on them"
        return
    if ratio.high < 1:
        verdict = "the policy takes fewer"
    elif ratio.low > 1:
        verdict = "the policy does not win, it takes more"
    else:
        verdict = "the policy does not surely win"
    yield f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the bytes of {beside}: {verdict}"
