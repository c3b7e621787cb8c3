"""From the folder of a compress run to pairs of images: what the run read, and what it wrote.

    folder ─▶ parts of the manifest ─▶ rows ─▶ sample ─▶ StoredImage (names) ─▶ shuffle ─▶ ReadPairs ─▶ StoredPair
                                         └▶ images by action ─▶ (side input)

The sample is drawn from the manifest, so that images nobody looks at are not read, and so that the share of each
action is known.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Optional

import apache_beam as beam

from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import Choice
from beam_adacompress.sampling import Sampler, action_of
from beam_adacompress.transforms import files
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs
from beam_adacompress.transforms.runs import RunFolder, read_rows


class StoredImage(NamedTuple):
    """A sampled image of a run."""

    key: str
    choice: Choice
    reference: str  # path
    compressed: str  # path
    sha256_in: str
    sha256_out: str
    width: int  # pixels
    height: int
    sampling_probability: float
    shard: int  # part of the manifest


class StoredPair(NamedTuple):
    """A sampled image of a run, read: what ScoreWithBackend takes."""

    key: str
    data: bytes
    choice: Choice
    compressed: bytes
    width: int
    height: int
    sampling_probability: float
    shard: int


class PairFailure(NamedTuple):
    """A sampled image that cannot be scored."""

    key: str
    shard: int
    stage: str
    reason: str
    error: str


class ManifestPart(NamedTuple):
    """One part of a manifest."""

    shard: int
    path: str


class SampledAndCounts(NamedTuple):
    """What SampleRun returns."""

    images: beam.PCollection[StoredImage]
    counts: beam.PCollection[tuple[str, int]]  # images of the run by action


def choice_of(row: ManifestRow) -> Choice:
    """The choice that a row of a written image tells of."""
    assert row.tables is not None, row
    assert row.quality is not None, row
    assert row.policy_version is not None, row
    assert row.propensity is not None, row
    return Choice(row.tables, row.quality, row.policy_version, row.propensity, row.expected_agreement, row.verified_by)


def manifest_parts(folder: RunFolder) -> Iterator[ManifestPart]:
    """The parts of a run's manifest.

    Raises:
      AdaCompressError: there are none, or they cannot be listed.
    """
    try:
        found = sorted(found.path for found in files.listing(folder.manifest) if folder.is_part(found.path))
    except OSError as error:
        raise AdaCompressError(f"cannot read the run {folder.output}: {error.strerror or error}") from error
    if not found:
        raise AdaCompressError(f"{folder.output} holds no manifest: give the output of a finished adacompress compress")
    yield from (ManifestPart(int(path[: -len(".parquet")].rpartition("-")[2]), path) for path in found)


def stored_image(row: ManifestRow, folder: RunFolder, root: str, sampler: Sampler, shard: int) -> Optional[StoredImage]:
    """The image of a row, if it is sampled."""
    if not row.is_written or not sampler.samples(row.key, choice := choice_of(row)):
        return None
    return StoredImage(
        key=row.key,
        choice=choice,
        reference=files.join(root, row.key),
        compressed=folder.image(str(row.output)),
        sha256_in=str(row.sha256_in),
        sha256_out=str(row.sha256_out),
        width=row.width or 0,
        height=row.height or 0,
        sampling_probability=sampler.probability(choice),
        shard=shard,
    )


@dataclasses.dataclass
class SampleRun(SeveralOutputs):
    """Samples the written images of a run, and counts them by action.

    Takes anything, once, when the run is there; its value does not matter.

    Args:
      folder: of the run.
      root: folder that the keys are relative to, with the originals.
      sampler: its `action_shares` are set from the manifest.
    """

    folder: RunFolder
    root: str
    sampler: Sampler

    def expand(self, ready: beam.PCollection[Any]) -> SampledAndCounts:
        parts = (
            ready
            | "Parts"
            >> beam.FlatMap(lambda _, folder: manifest_parts(folder), self.folder).with_output_types(ManifestPart)
            | "SpreadParts" >> beam.Reshuffle()
        )
        counts = (
            parts
            | "Actions" >> beam.FlatMap(_actions).with_output_types(str)
            | "Count" >> beam.combiners.Count.PerElement()
        )
        images = (
            parts
            | "Sample"
            >> beam.ParDo(_Sample(self.folder, self.root, self.sampler), beam.pvalue.AsDict(counts)).with_output_types(
                StoredImage
            )
            | "SpreadImages" >> beam.Reshuffle()
        )
        return SampledAndCounts(images, counts)


def _actions(part: ManifestPart) -> Iterator[str]:
    return (action_of(choice_of(row)) for row in read_rows(part.path) if row.is_written)


class _Sample(beam.DoFn):
    def __init__(self, folder: RunFolder, root: str, sampler: Sampler) -> None:
        self._folder = folder
        self._root = root
        self._sampler = sampler

    def process(self, part: ManifestPart, counts: Mapping[str, int]) -> Iterator[StoredImage]:
        sampler = dataclasses.replace(self._sampler, action_shares=dict(counts))
        for row in read_rows(part.path):
            if (image := stored_image(row, self._folder, self._root, sampler, part.shard)) is not None:
                yield image


@dataclasses.dataclass
class ReadPairs(SeveralOutputs):
    """Reads each `StoredImage` into a `StoredPair`.

    The second output holds `PairFailure` rows for files that are gone, cannot be read, or are not those that the
    manifest tells of: a score of other bytes would be a wrong one.
    """

    def expand(self, images: beam.PCollection[StoredImage]) -> ImagesAndFailures:
        outputs = images | "Read" >> (
            beam.ParDo(_ReadPair())
            .with_output_types(StoredPair, **{FAILURES: PairFailure})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _ReadPair(beam.DoFn):
    STAGE = "ReadPairs"

    def __init__(self) -> None:
        self._metrics = StageMetrics(self.STAGE)

    def process(self, image: StoredImage) -> Iterator[Any]:
        try:
            data = _read("original", image.reference, image.sha256_in)
            compressed = _read("result", image.compressed, image.sha256_out)
        except ImageError as error:
            self._metrics.failed()
            failed = PairFailure(image.key, image.shard, self.STAGE, error.reason, error.message)
            yield beam.pvalue.TaggedOutput(FAILURES, failed)
            return
        self._metrics.took(len(data) + len(compressed))
        yield StoredPair(
            image.key,
            data,
            image.choice,
            compressed,
            image.width,
            image.height,
            image.sampling_probability,
            image.shard,
        )


def _read(which: str, path: str, sha256: str) -> bytes:
    try:
        data = files.read(path)
    except OSError as error:
        raise ImageError("unreadable", f"reading the {which} {path} failed: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ImageError("changed", f"the {which} {path} is not the file that the manifest tells of: compress it again")
    return data
