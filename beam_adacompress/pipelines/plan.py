"""What a score run would take: `adacompress score --dry-run`."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from beam_adacompress import backends, report, sampling
from beam_adacompress.pipelines.score_job import ScoreJob, corpus_of_run
from beam_adacompress.transforms import files
from beam_adacompress.transforms.pairs import choice_of, manifest_parts, stored_image
from beam_adacompress.transforms.replies import ReplyCache
from beam_adacompress.transforms.runs import read_rows


class Plan(NamedTuple):
    """What scoring a run would take."""

    images: int  # of the run, written ones
    sampled: int
    calls: int  # at most, without retries
    cached: int  # answers that are there already
    cost: float  # USD
    terms: backends.Terms


def plan(job: ScoreJob) -> Plan:
    """Counts calls and their cost; calls nothing.

    Raises:
      AdaCompressError: the run, or a local backend's model, cannot be read.
    """
    corpus = corpus_of_run(job)
    folder, root = corpus.folder(job.input), job.originals or corpus.root
    backend = backends.backend(job.backend)
    if backend.terms_need_open:
        backend.open(files.read)
    terms = backend.terms
    cache = ReplyCache(job.cache, terms)
    counts: dict[str, int] = {}
    for part in manifest_parts(folder):
        for row in read_rows(part.path):
            if row.is_written:
                action = sampling.action_of(choice_of(row))
                counts[action] = counts.get(action, 0) + 1
    sampler = dataclasses.replace(job.scoring.sampler(), action_shares=counts)
    sampled = 0
    asked: set[str] = set()
    cached: set[str] = set()
    for part in manifest_parts(folder):
        for row in read_rows(part.path):
            image = stored_image(row, folder, root, sampler, part.shard)
            if image is not None:
                sampled += 1
                for digest in (image.sha256_in, image.sha256_out):
                    known = terms.cacheable and cache.has(digest)
                    (cached if known else asked).add(digest)
    calls = len(asked) if terms.cacheable else 2 * sampled
    allowed = terms.most_calls(job.scoring.max_calls, job.scoring.max_cost)
    calls = calls if allowed is None else min(calls, allowed)
    return Plan(sum(counts.values()), sampled, calls, len(cached), calls * terms.price, terms)


def described(planned: Plan) -> str:
    """The plan in words."""
    terms = planned.terms
    share = planned.sampled / planned.images if planned.images else 0.0
    return (
        f"{planned.sampled} of {planned.images} images ({share:.1%}) would be scored with {terms.name}: at most "
        f"{planned.calls} calls, retries not counted ({planned.cached} answers are in the cache), "
        f"{report.dollars(planned.cost)} at {terms.price:g} USD a call; no call was made"
    )
