"""`adacompress compress --dry-run`: what a run would come to, from a sample, with nothing written.

draw_sample ─▶ TryImages (a Beam job on this machine, whatever the run's runner) ─▶ Tried rows ─▶ predict ─▶ printed
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)

from beam_adacompress import backends
from beam_adacompress.backends import Backend, Terms
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.compress_job import CompressJob
from beam_adacompress.pipelines.options import adder
from beam_adacompress.pipelines.results import tell
from beam_adacompress.policy.policies import Policy
from beam_adacompress.prediction import MACHINE, Asked, Machines, Prediction, Promised, Scored, Tried, predict
from beam_adacompress.prediction_text import said
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.choose import ChooseQuality
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.rehearsal import Counted, TryImages, draw_sample
from beam_adacompress.transforms.trials import KeepRows, kept_rows

SAMPLE = 500  # images


@dataclasses.dataclass(frozen=True)
class DryRun:
    """How to predict a run; the fields are options of `adacompress compress --dry-run`.

    Args:
      sample: images to try.
      worker_price: USD for one worker of Dataflow and hour; None where it is not known.

    Raises:
      ValueError: a number is out of range.
    """

    sample: int = SAMPLE
    worker_price: Optional[float] = None

    def __post_init__(self) -> None:
        if self.sample < 2:
            raise ValueError(f"sample must be at least 2 images, whose difference is needed, got {self.sample}")
        Machines(1, price=self.worker_price)


class DryRunOptions(PipelineOptions):
    """The fields of DryRun as pipeline options; `--dry-run` itself is in options.PlanOptions."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--sample",
            type=int,
            metavar="IMAGES",
            help=f"with --dry-run: how many images to try (not given: {SAMPLE}); --seed says which",
        )
        add(
            "--worker-price",
            type=float,
            metavar="USD",
            help="with --dry-run: price of one worker of Dataflow for an hour, its memory and disk included (not "
            "given: no cost of workers is told)",
        )


def dry_run_of(values: dict[str, Any]) -> Optional[DryRun]:
    """Takes the options of a dry run out of those of the command; None where it is none.

    Raises:
      ValueError: one is out of range, or given without --dry-run.
    """
    wanted = values.pop("plan_only")
    own = {field.name: values.pop(field.name) for field in dataclasses.fields(DryRun)}
    given = {name: value for name, value in own.items() if value is not None}
    if wanted:
        return DryRun(**given)
    if given:
        raise ValueError(f"{next(iter(given))} is about predicting a run: give dry_run too")
    return None


def rehearse(job: CompressJob, how: DryRun, options: PipelineOptions, flags: Sequence[str] = ()) -> Prediction:
    """Predicts a run; reads a sample of the images, asks local backends alone, and writes nothing.

    What an earlier run has done in the output already is predicted as if it were not there.

    Args:
      job: the run; paths are absolute.
      how: to predict it.
      options, flags: of Beam, and the command line behind them: what would run it, and how many workers try the sample.

    Raises:
      AdaCompressError: the images cannot be listed, or something that the run needs cannot be loaded.
    """
    FileSystems.set_options(options)
    if job.policy is not None:
        job = dataclasses.replace(job, policy=publishing.resolve(job.policy))
    machines = _machines(options, how)
    here = _on_this_machine(options)
    runner, _ = local.choose_runner(here, flags)
    machines = dataclasses.replace(machines, here=here.view_as(DirectOptions).direct_num_workers or 1)
    sample = draw_sample(job.corpus, job.output, how.sample, job.seed)
    verifying = [_met(uri) for uri in job.verify]
    scoring = None if job.score_with is None else _met(job.score_with)
    scratch = tempfile.mkdtemp(prefix="adacompress-dry-run-")  # of what the workers find out, and no image
    try:
        pipeline = beam.Pipeline(runner, here)
        tried = pipeline | "TryImages" >> TryImages(
            job.corpus,
            sample,
            _choosing(job, verifying),
            job.compress_jpeg(),
            Connection(scoring.backend, job.scoring.manners())
            if scoring is not None and scoring.terms.is_local
            else None,
            job.scoring.top,
            job.scoring.errors,
        )
        _ = tried | "KeepTried" >> KeepRows(scratch)
        pipeline.run().wait_until_finish()
        found = {row.key: row for row in (Tried(*values) for values in kept_rows(scratch))}
    finally:
        files.delete([scratch])
    ask = functools.partial(_asked, job)
    return predict(
        sample.survey(found),
        job.seed,
        machines,
        _promised(job.loaded, bool(job.verify)),
        None if scoring is None else Scored(ask(scoring.terms), job.scoring.sampler()),
        [ask(each.terms) for each in verifying],
    )


def run(job: CompressJob, how: DryRun, options: PipelineOptions, flags: Sequence[str]) -> int:
    """Prints what a run would come to, and returns the exit status; arguments and errors as for `rehearse`."""
    policy = job.loaded
    if policy is not None and (warning := policy.warning(job.settings())) is not None:
        print(warning, file=sys.stderr)
    predicted = rehearse(job, how, options, flags)
    tell(plan=predicted)
    for line in said(predicted):
        print(line)
    return 0


def _machines(options: PipelineOptions, how: DryRun) -> Machines:
    workers = options.view_as(WorkerOptions)
    return Machines(
        here=1,
        dataflow=options.view_as(StandardOptions).runner == "DataflowRunner",
        machine_type=workers.machine_type or MACHINE,
        workers=workers.max_num_workers or workers.num_workers or 1,
        price=how.worker_price,
    )


def _on_this_machine(options: PipelineOptions) -> PipelineOptions:
    """Options with which the sample is tried here, whatever would run the job."""
    runner = options.view_as(StandardOptions).runner
    is_local = runner in (None, "FnApiRunner", "DirectRunner")
    here = copy.deepcopy(options)
    here.view_as(StandardOptions).runner = runner if is_local else None
    here.view_as(SetupOptions).setup_file = None
    here.view_as(GoogleCloudOptions).template_location = None
    here.view_as(TestOptions).dry_run = False
    return here


class _Met(NamedTuple):
    """A backend that is not opened, so that workers get it, and what it states about itself."""

    backend: Backend
    terms: Terms


def _met(uri: str) -> _Met:
    if uri.startswith("record:"):  # a dry run records nothing
        uri = uri.partition(".jsonl+")[2]
    asked = backends.backend(uri)
    if asked.terms_need_open:
        asked.open(files.read)
    return _Met(backends.backend(uri), asked.terms)


def _asked(job: CompressJob, terms: Terms) -> Asked:
    return Asked(terms.name, terms.price, terms.is_local, terms.most_calls(job.scoring.max_calls, job.scoring.max_cost))


def _choosing(job: CompressJob, verifying: Sequence[_Met]) -> ChooseQuality:
    """What chooses in the sample: without cache and limits, and verified where that calls nobody."""
    asks = bool(verifying) and all(each.terms.is_local for each in verifying)
    return dataclasses.replace(
        job.choose_quality(),
        verify=[Counted(each.backend) for each in verifying] if asks else (),
        verify_margin=job.verify_margin if asks else 0,
        cache=None,
        max_calls=None,
        max_cost=None,
        calls_per_second=None,
    )


def _promised(policy: Optional[Policy], verified: bool) -> Optional[Promised]:
    if policy is None or verified or not policy.promise.holds:
        return None
    promise = policy.promise
    return Promised(policy.version, promise.target, promise.confidence, promise.images)
