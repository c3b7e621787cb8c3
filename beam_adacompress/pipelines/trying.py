"""The Beam job that asks backends about images under several configurations, for commands that need all its answers.

Create (names) ─▶ SpreadImages (shuffle) ─▶ ReadImages ─▶ TryConfigurations ─▶ KeepRows ─▶ (back in the command) trials
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import local
from beam_adacompress.records import ImageFailure
from beam_adacompress.transforms import files
from beam_adacompress.transforms.sources import ImageFile, ReadImages, SpreadImages
from beam_adacompress.transforms.trials import KeepRows, TryConfigurations, kept_rows, read_trials
from beam_adacompress.trials import Trial


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
) -> TrialLists:
    """Runs the job and waits for it.

    Args:
      images: what to look at.
      transform: what to try.
      scratch: a folder of this job alone; deleted before and after.
      options, flags: of the Beam job.

    Raises:
      AdaCompressError: the job failed, or was only written as a template.
    """
    files.delete([scratch])
    runner, _ = local.choose_runner(options, flags)
    pipeline = beam.Pipeline(runner, options)
    read = (
        pipeline
        | "Images" >> beam.Create(list(images)).with_output_types(ImageFile)
        | "SpreadImages" >> SpreadImages()
        | "ReadImages" >> ReadImages()
    )
    tried = read.images | "TryConfigurations" >> transform
    _ = tried.trials | "KeepTrials" >> KeepRows(files.join(scratch, "trials"))
    for stage, rows in (("Read", read.failures), ("Try", tried.failures)):
        _ = (
            rows
            | f"{stage}Failures" >> beam.Map(lambda row: ImageFailure(row.key, row.stage, row.reason, row.error))
            | f"Keep{stage}Failures" >> KeepRows(files.join(scratch, "failures"))
        )
    if not local.run_to_end(pipeline, options, contextlib.nullcontext()):
        raise AdaCompressError("this command goes by what its jobs come to, so it cannot be made a template")
    failures = sorted({ImageFailure(*values) for values in kept_rows(files.join(scratch, "failures"))})
    found = TrialLists(read_trials(files.join(scratch, "trials")), failures)
    files.delete([scratch])
    return found
