"""What networks say of photographs under every action, as a table for each network; several benchmarks share them.

Every image is compressed with every action (five table families at eleven qualities, optimised progressive, 4:2:0), and
with the standard tables as they are. Answers are kept in the cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray

from beam_adacompress import jpeg
from beam_adacompress.pipelines.asking import default_cache
from beam_adacompress.pipelines.train_job import SHOWN_FAMILIES, TrainJob
from beam_adacompress.pipelines.trying import try_images
from beam_adacompress.policy import judging
from beam_adacompress.policy.outcomes import Outcomes, outcomes
from beam_adacompress.policy.training import by_content
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.sampling import draw
from beam_adacompress.transforms.augment import AddCopies
from beam_adacompress.transforms.sources import ImageFile, list_images
from beam_adacompress.trials import NO_ANSWER, Configuration, Trial

FAMILIES = ("annexk", "deepn", "mobilenet-v1-small", "mobilenet-v1", "mobilenet-v2")
SEARCHED_ON = ("imagenet", "bsds500")  # folders, of whose first halves (318 and 138 images) families were searched
SAVING = jpeg.Settings.min_saving


class Table(NamedTuple):
    """What one network says of all images."""

    raw: Outcomes
    plain: NDArray[np.float64]  # bytes of a bare loop, `(images, qualities)`
    plain_agreement: NDArray[np.float64]  # with its tables as they are, likewise
    folder: NDArray[np.str_]  # of each image
    half: NDArray[np.bool_]  # whether it is of the second half of its folder
    fold: NDArray[np.intp]
    copies: Optional[Outcomes]  # to train with
    parents: NDArray[np.str_]  # keys of the images that they are copies of

    @property
    def held(self) -> NDArray[np.bool_]:
        """Whether an image is one of those that no table family was searched on, see their files' `origin`."""
        return self.half | ~np.isin(self.folder, SEARCHED_ON)

    @property
    def written(self) -> Outcomes:
        return judging.written(self.raw, SAVING)

    def columns(self, image: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bytes and agreement of the plain fixed qualities."""
        return self.plain[image], self.plain_agreement[image]


class Place(NamedTuple):
    """Where an image is from."""

    folder: str
    half: bool  # whether it is of the second half, on which no table family was searched


def answers(folders: Sequence[Path], job: TrainJob) -> tuple[list[Trial], dict[str, Place]]:
    """What the job's backends say of all images of some folders, and of copies; and where each content is from."""
    copies = AddCopies(job.augment, None) if job.augment else None
    transform = job.transform(space := job.space(), job.sight(space))
    transform.cache, transform.plain = default_cache("."), LADDER
    transform.configurations = [
        *transform.configurations,
        *(Configuration(jpeg.quantisation(FAMILIES[0], quality), quality, align=False) for quality in LADDER),
    ]
    trials: list[Trial] = []
    places: dict[str, Place] = {}
    for folder in folders:
        images = [file for file in list_images(str(folder)) if isinstance(file, ImageFile)]
        with tempfile.TemporaryDirectory() as scratch:
            found = try_images(images, transform, scratch, PipelineOptions([]), [], copies=copies).trials
        for trial in found:
            half = draw(trial.key, "benchmark") >= 0.5  # as benchmarks/tables.py halves
            before = places.get(trial.sha256, Place(folder.name, True))
            places[trial.sha256] = before._replace(half=before.half and half)
        trials += found
    return [each for each in by_content(trials) if NO_ANSWER not in each.ranks], places


def table(
    folders: Sequence[Path],
    model: Path,
    lookahead: Optional[Path],
    folds: int,
    augment: int = 0,
    align: bool = True,
    agent: str = "agreement",
    families: int = SHOWN_FAMILIES,
) -> Table:
    """All that there is to know of a network's answers, with features, and those of a stand-in if one is given.

    Args:
      folders, model, lookahead: photographs, the network, and the stand-in.
      folds: to deal images out to.
      augment: copies of each.
      align: whether files keep the steps of their images.
      agent: whose actions are tried.
      families: that the stand-in is shown; with 0 it sees the original alone.
    """
    uri = None if lookahead is None else f"litert:{lookahead}"
    job = TrainJob(
        str(folders[0]),
        "unused",
        [f"litert:{model}"],
        agent=agent,
        augment=augment,
        tables=FAMILIES if agent == "agreement" else None,
        lookahead=uri,
        lookahead_families=families,
        align=align,
    )
    trials, places = answers(folders, job)
    tried, columns = job.space().distinct()
    originals = [trial for trial in trials if trial.parent is None]
    raw, bare = (outcomes(originals, each) for each in (columns, range(len(tried), len(tried) + len(LADDER))))
    parents = {trial.key: trial.parent for trial in trials if trial.parent is not None}
    copies = outcomes([trial for trial in trials if trial.parent is not None], columns) if parents else None
    plain = {trial.key: trial.plain for trial in trials}
    return Table(
        raw,
        np.array([plain[key] for key in raw.keys], np.float64),
        bare.agreement,
        np.array([places[key].folder for key in raw.keys]),
        np.array([places[key].half for key in raw.keys]),
        np.array([int(draw(key, "fold") * folds) for key in raw.keys]),
        copies,
        np.array([parents[key] for key in copies.keys] if copies is not None else [], np.str_),
    )
