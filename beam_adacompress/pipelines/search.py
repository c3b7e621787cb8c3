"""`adacompress tables fit --method search`: tables for a backend that only answers.

    standard tables ─▶ their curve on the images ─▶ rounds of proposals ─▶ the best few at several sizes ─▶ the best
                                                     └ all on a third of the images, the better third on the others
    the best and the standard tables ─▶ on images that the search did not see ─▶ what they are worth

Every step is a Beam job over the images whose answers are kept in the search's folder, OUTPUT without .json and with
.search, under a digest of what was asked; all in between depends on those answers and the seed alone. So a search that
was stopped repeats its steps from the folder and goes on, and so does one that is given more rounds (with --overwrite,
which then replaces the family alone).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import jpeg
from beam_adacompress.backends import contract
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.search import (
    STARTING,
    Curve,
    Parameters,
    Told,
    levelled,
    mean_bytes,
    proposals,
    require_optuna,
)
from beam_adacompress.jpeg.tables import ANNEXK, SUFFIX, Family, family, quantisation
from beam_adacompress.pipelines import local
from beam_adacompress.pipelines.search_job import (
    A_ROUND,
    ADVANCE,
    FEWEST,
    FINALISTS,
    JUDGING,
    LEVELLING,
    NEARBY,
    QUALITIES,
    Fit,
    Search,
    SearchFolder,
)
from beam_adacompress.pipelines.trying import try_images
from beam_adacompress.rates import Floats, ratio_of_bytes
from beam_adacompress.sampling import draw
from beam_adacompress.transforms import files
from beam_adacompress.transforms.sources import ImageFile, list_images
from beam_adacompress.transforms.trials import TryConfigurations
from beam_adacompress.trials import FORMAT, NO_ANSWER, Configuration, Trial
from beam_adacompress.version import versions


def search(job: Fit, wanted: Search, options: PipelineOptions, flags: Sequence[str]) -> Family:
    """Searches a family.

    Args:
      job: where the images are and where the family goes.
      wanted: how to search.
      options, flags: of the Beam jobs.

    Raises:
      AdaCompressError: there are too few images, the budget is spent, or a job failed.
    """
    with ThreadPoolExecutor(local.cores()) as threads:
        return _Searching(job, wanted, options, flags, threads).run()


class _Judged(NamedTuple):
    """A proposal, and what is known of it."""

    parameters: Parameters
    tables: Family
    value: float  # fidelity that it gains over the standard tables at the same bytes
    on_all: bool  # whether all images say so, or the first third alone

    @property
    def rank(self) -> tuple[bool, float]:
        return self.on_all, self.value


class _Seen(NamedTuple):
    """What a step came to; images without an answer are left out."""

    keys: list[str]
    sizes: Floats  # bytes, `(images, configurations)`
    fidelity: Floats
    agreement: Floats  # 0 or 1


class _Searching:
    def __init__(
        self, job: Fit, wanted: Search, options: PipelineOptions, flags: Sequence[str], threads: ThreadPoolExecutor
    ) -> None:
        self._job = job
        self._wanted = wanted
        self._options = options
        self._flags = flags
        self._threads = threads
        self._folder = SearchFolder(job.output.removesuffix(SUFFIX) + ".search")
        self._calls = 0

    def run(self) -> Family:
        identity = {
            "input": self._job.input,
            "settings": dataclasses.asdict(self._job.settings),
            "seed": self._job.seed,
            **{name: getattr(self._wanted, name) for name in ("backend", "agreement", "top", "images")},
        }
        if self._wanted.rounds * A_ROUND > STARTING:
            require_optuna()
        mine, others = self._parts()
        mine_already = self._folder.earlier_options() == identity  # then overwriting is about the family alone
        self._folder.prepare(identity, versions(), self._job.overwrite and not mine_already)
        self._ledger = self._ledger_of()
        standard = self._step("standard", [quantisation(ANNEXK, quality) for quality in QUALITIES], mine)
        if len(standard.keys) < FEWEST // 2:
            raise AdaCompressError(
                f"{self._wanted.backend} has answers for {len(standard.keys)} of {len(mine)} images in "
                f"{self._job.input}: too few to search with"
            )
        self._curve = Curve(standard.sizes.T, standard.fidelity.T)
        self._columns = {key: index for index, key in enumerate(standard.keys)}
        self._files = [file for file in mine if file.key in self._columns]
        self._pixels = [jpeg.open_image(files.read(file.path)).pixels() for file in self._files[:LEVELLING]]
        at = self._operating_point(standard)
        self._quality = QUALITIES[at]
        self._nearby = QUALITIES[at - NEARBY : at + NEARBY + 1]
        operating = quantisation(ANNEXK, self._quality)
        self._bytes = mean_bytes(operating, self._pixels, self._job.settings, self._threads)
        judged: list[_Judged] = []
        for number in range(self._wanted.rounds):
            judged += self._round(number, judged)
            best = max(judged, key=lambda each: each.rank)
            _say(
                f"round {number + 1} of {self._wanted.rounds}: {self._calls} calls, fidelity {best.value:+.4f} beside "
                "the standard tables' at the same bytes"
            )
        return self._worth(self._final(sorted(judged, key=lambda each: each.rank)[-FINALISTS:]), others)

    def _parts(self) -> tuple[list[ImageFile], list[ImageFile]]:
        """The images to search with, and those to see what the result is worth; drawn by their keys."""
        listed = list_images(self._job.input, exclude=self._folder.output)
        found = [file for file in listed if isinstance(file, ImageFile) and file.path != self._job.output]
        found.sort(key=lambda file: draw(file.key, f"search {self._job.seed}"))
        chosen = found[: self._wanted.images]
        if len(chosen) < FEWEST:
            raise AdaCompressError(f"{self._job.input} holds {len(chosen)} images: a search needs at least {FEWEST}")
        others = chosen[JUDGING - 1 :: JUDGING]
        return [file for file in chosen if file not in others], others

    def _operating_point(self, standard: _Seen) -> int:
        """The point of the curve just below the one at which the standard tables reach the agreement."""
        reached = np.flatnonzero(np.maximum.accumulate(standard.agreement.mean(axis=0)) >= self._wanted.agreement)
        index = int(reached[0]) if len(reached) else len(QUALITIES) - 1
        return min(max(index - 1, NEARBY), len(QUALITIES) - 1 - NEARBY)

    def _round(self, number: int, judged: Sequence[_Judged]) -> list[_Judged]:
        """Proposals on a third of the images, and the better of them on the others too."""
        quality, wanted = self._quality, self._bytes
        shapes = proposals([Told(each.parameters, each.value) for each in judged], A_ROUND, self._job.seed)
        made = [
            levelled(shape, self._job.name, quality, wanted, self._pixels, self._job.settings, self._threads)
            for shape in shapes
        ]
        third = -(-len(self._files) // 3)
        name = f"round-{number:03d}"
        first = self._step(name, [tables.at(quality) for tables in made], self._files[:third])
        new = [
            _Judged(shape, tables, self._value([first], [[index]]), False)
            for index, (shape, tables) in enumerate(zip(shapes, made))
        ]
        better = sorted(range(len(new)), key=lambda index: new[index].value)[-ADVANCE:]
        more = self._step(f"{name}-all", [made[index].at(quality) for index in better], self._files[third:])
        for column, index in enumerate(better):
            value = self._value([first, more], [[index], [column]])
            new[index] = new[index]._replace(value=value, on_all=True)
        return new

    def _final(self, finalists: Sequence[_Judged]) -> _Judged:
        """The finalist that gains most over several sizes."""
        seen = self._step(
            f"final-{self._wanted.rounds}",
            [each.tables.at(quality) for each in finalists for quality in self._nearby],
            self._files,
        )
        width = len(self._nearby)
        values = [
            self._value([seen], [list(range(index * width, (index + 1) * width))]) for index in range(len(finalists))
        ]
        return finalists[int(np.argmax(values))]

    def _value(self, seen: Sequence[_Seen], columns: Sequence[Sequence[int]]) -> float:
        """What configurations gain over the standard tables, by the columns in which each part has them."""
        images = [self._columns[key] for part in seen for key in part.keys]
        if not images:
            return 0.0
        gains = []
        for several in zip(*columns):
            sizes = np.concatenate([part.sizes[:, column] for part, column in zip(seen, several)])
            fidelity = np.concatenate([part.fidelity[:, column] for part, column in zip(seen, several)])
            gains.append(self._curve.value(sizes, fidelity, images))
        return float(np.mean(gains))

    def _worth(self, chosen: _Judged, others: Sequence[ImageFile]) -> Family:
        """The family, with what it comes to on images that the search did not see."""
        tables = [each.at(quality) for each in (chosen.tables, family(ANNEXK)) for quality in self._nearby]
        seen = self._step(f"worth-{self._wanted.rounds}", tables, others)
        if not seen.keys:
            raise AdaCompressError(
                f"{self._wanted.backend} has no answers for the images that are to show what the tables are worth"
            )
        own, standard = slice(0, len(self._nearby)), slice(len(self._nearby), None)
        target = min(self._wanted.agreement, float(seen.agreement[:, standard].mean(axis=0).max()))
        ratio = ratio_of_bytes(
            (seen.sizes[:, own], seen.sizes[:, standard]),
            (seen.agreement[:, own], seen.agreement[:, standard]),
            target,
            seed=self._job.seed,
        )
        finite = {name: value if math.isfinite(value) else None for name, value in ratio._asdict().items()}
        worth = {"images": len(seen.keys), "agreement": target, "bytes_ratio": finite}
        origin = {
            "method": "search, after arXiv 2003.02874",
            "backend": self._wanted.name,
            "backend_version": self._backend_version,
            "agreement": self._wanted.agreement,
            "top": self._wanted.top,
            "seed": self._job.seed,
            "images": len(self._files),
            "parameters": {name: round(value, 4) for name, value in chosen.parameters.items()},
            "calls": self._calls,
            "validation": worth,
        }
        return dataclasses.replace(chosen.tables, origin=origin)

    def _step(self, name: str, tables: Sequence[jpeg.Quantisation], images: Sequence[ImageFile]) -> _Seen:
        """Asks the backend about images under tables, or reads what it said before."""
        unique = list(dict.fromkeys(tables))
        question = json.dumps([unique, [[file.key, file.bytes_in] for file in images]])
        path = self._folder.step(f"{name}-{hashlib.sha256(question.encode()).hexdigest()[:12]}")
        if files.status(path) is not None:
            trials = [Trial(**row) for row in FORMAT.from_parquet(files.read(path), path).to_pylist()]
        else:
            trials = self._asked(name, [Configuration(each, None) for each in unique], images)
            self._folder.write(path, FORMAT.to_parquet(FORMAT.table(trials)))
        self._calls += sum(trial.calls for trial in trials)
        self._backend_version = trials[0].backend_version if trials else ""
        order = {file.key: index for index, file in enumerate(images)}
        answered = sorted((each for each in trials if NO_ANSWER not in each.ranks), key=lambda each: order[each.key])
        columns = [unique.index(each) for each in tables]
        shape = len(answered), len(unique)
        agreed = np.array([each.agreement(self._wanted.top) for each in answered], np.float64).reshape(shape)
        return _Seen(
            [each.key for each in answered],
            np.array([each.sizes for each in answered], np.float64).reshape(shape)[:, columns],
            np.array([each.fidelity for each in answered], np.float64).reshape(shape)[:, columns],
            agreed[:, columns],
        )

    def _asked(self, name: str, configurations: Sequence[Configuration], images: Sequence[ImageFile]) -> list[Trial]:
        asking = self._wanted.asking
        transform = TryConfigurations(
            [self._wanted.backend],
            configurations,
            self._job.settings,
            manners=asking.manners(),
            cache=asking.folder(self._job.output),
            keep=False,
            max_calls=asking.max_calls,
            max_cost=asking.max_cost,
            calls_per_second=asking.calls_per_second,
            job=self._ledger,
        )
        scratch = files.join(self._folder.work, name)
        trials, failures = try_images(images, transform, scratch, self._options, self._flags)
        for failed in failures:
            if failed.reason in contract.FINAL:
                raise AdaCompressError(
                    f"the search stopped at its step {name}: {failed.error}; what it knows is in "
                    f"{self._folder.output}, and the same command with higher limits goes on from there"
                )
        return trials

    def _ledger_of(self) -> str:
        """The name under which all jobs of this search share their limits, however often it is stopped."""
        path = files.join(self._folder.steps, "ledger.txt")
        if files.status(path) is None:
            self._folder.write(path, uuid.uuid4().hex.encode(), "text/plain")
        return files.read(path).decode()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
