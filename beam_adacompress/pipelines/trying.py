"""The Beam job that asks backends about images under several configurations, for commands that need all its answers.

Create (names) ─▶ SpreadImages (shuffle) ─▶ ReadFiles ─▶ (AddCopies) ─▶ TryConfigurations ─▶ KeepRows
                                                                    (back in the command) trials ◀─┘
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.backends import backend as backend_of
from beam_adacompress.backends import contract
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.progress import Progress, Scoring
from beam_adacompress.records import ImageFailure, Usage
from beam_adacompress.transforms import files
from beam_adacompress.transforms.augment import AddCopies
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.score_sinks import Tick
from beam_adacompress.transforms.sources import ImageFile, ReadFiles, SpreadImages
from beam_adacompress.transforms.trials import KeepRows, TryConfigurations, kept_rows, read_trials
from beam_adacompress.trials import NO_ANSWER, Trial


class TrialLists(NamedTuple):
    """What became of the images."""

    trials: list[Trial]  # in the order of keys and backends
    failures: list[ImageFailure]  # of reading an image, or of asking one backend about it


def try_images(
    images: Sequence[ImageFile],
    transform: TryConfigurations,
    scratch: str,
    options: PipelineOptions,
    flags: Sequence[str],
    shows_progress: bool = False,
    copies: Optional[AddCopies] = None,
) -> TrialLists:
    """Runs the job and waits for it.

    Args:
      images: what to look at.
      transform: what to try.
      scratch: a folder of this job alone; deleted before and after.
      options, flags: of the Beam job.
      shows_progress: whether to say on stderr how far it is, where the job runs on this machine.
      copies: to add of the images; None for none.

    Raises:
      AdaCompressError: the job failed, or was only written as a template.
    """
    files.delete([scratch])
    runner, is_local = local.choose_runner(options, flags)
    pipeline = beam.Pipeline(runner, options)
    read = (
        pipeline
        | "Images" >> beam.Create(list(images)).with_output_types(ImageFile)
        | "SpreadImages" >> SpreadImages()
        | "ReadImages" >> ReadFiles()
    )
    tried = (read.images if copies is None else read.images | "AddCopies" >> copies) | "TryConfigurations" >> transform
    _ = tried.trials | "KeepTrials" >> KeepRows(files.join(scratch, "trials"))
    for stage, rows in (("Read", read.failures), ("Try", tried.failures)):
        _ = (
            rows
            | f"{stage}Failures" >> beam.Map(lambda row: ImageFailure(row.key, row.stage, row.reason, row.error))
            | f"Keep{stage}Failures" >> KeepRows(files.join(scratch, "failures"))
        )
    watching: AbstractContextManager[Any] = contextlib.nullcontext()
    if shows_progress and is_local and files.is_local(scratch):
        folder = RunFolder(scratch)
        _ = tried.trials | "Usage" >> beam.Map(_usage, prices_of(transform)).with_output_types(Usage) | Tick(folder)
        # With copies it is only known in the end how many there are: about half of the images have some.
        total = len(images) * len(transform.backends) if copies is None else None
        watching = Progress(Scoring(folder, total), sys.stderr.isatty())
    if not local.run_to_end(pipeline, options, watching):
        raise AdaCompressError("this command goes by what its jobs come to, so it cannot be made a template")
    failures = sorted({ImageFailure(*values) for values in kept_rows(files.join(scratch, "failures"))})
    found = TrialLists(read_trials(files.join(scratch, "trials")), failures)
    files.delete([scratch])
    return found


def prices_of(transform: TryConfigurations) -> dict[str, float]:
    """USD for a call, by the name of the backend; networks in the worker cost nothing."""
    uris = [each for each in transform.backends if isinstance(each, str)]
    made = {uri: backend_of(uri) for uri in uris}
    return {uri: 0.0 if each.terms_need_open else each.terms.price for uri, each in made.items()}


def _usage(trial: Trial, prices: Mapping[str, float]) -> Usage:
    cost = trial.calls * prices.get(trial.backend, 0.0)
    return Usage(trial.key, trial.calls, retries=0, cache_hits=0, throttled=0.0, cost=cost)


def check_answered(found: TrialLists, backends: Sequence[str], where: str, nothing: str, cache: str) -> None:
    """Stops a command that has nothing to go by.

    Args:
      found: what became of the images.
      backends: that were asked.
      where: the images, e.g. `any image in photos/`.
      nothing: what did not come about, e.g. `nothing was learned`.
      cache: where answers are kept.

    Raises:
      AdaCompressError: a limit was reached, or a backend has answered nothing.
    """
    for failed in found.failures:
        if failed.reason in contract.FINAL:
            raise AdaCompressError(
                f"{nothing}: {failed.error}; the answers so far are in {cache}, and the same command with higher "
                "limits goes on from there"
            )
    for uri in backends:
        if not any(trial.backend == uri and set(trial.ranks) != {NO_ANSWER} for trial in found.trials):
            reasons = f" ({_counted(found.failures)})" if found.failures else ""
            raise AdaCompressError(f"{uri} has no answer for {where}{reasons}: {nothing}")


def said_of_failures(failures: Sequence[ImageFailure]) -> Iterator[str]:
    """How many images failed, why, and one of them, for people; nothing where none did."""
    if failures:
        count = len({failed.key for failed in failures})
        first = min(failures)
        yield f"failed: {count} images ({_counted(failures)}), e.g. {first.key}: {first.error}"


def _counted(failures: Sequence[ImageFailure]) -> str:
    counts = collections.Counter(failed.reason for failed in failures)
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
