"""From the folder of a compress run to pairs of images: what the run read, and what it wrote.

    folder ─▶ parts of the manifest ─▶ rows ─▶ sample ─▶ StoredImages (names) ─▶ shuffle ─▶ ReadPairs ─▶ StoredPair
                                         └▶ images by action ─▶ (side input)

The sample is drawn from the manifest, so that images nobody looks at are not read, and so that the share of each
action is known.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam

from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.formats import ShardFormat
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import Choice
from beam_adacompress.sampling import Sampler, action_of
from beam_adacompress.transforms import files
from beam_adacompress.transforms.metrics import StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.shard_sinks import read_pairs, record_of
from beam_adacompress.transforms.shards import ShardedFolder


class StoredImage(NamedTuple):
    """A sampled image of a run."""

    key: str
    choice: Choice
    reference: str  # path, of the shard where it is in one
    compressed: str  # path
    record: Optional[str]  # its name in a shard; None for a file of its own
    sha256_in: str
    sha256_out: str
    width: int  # pixels
    height: int
    sampling_probability: float
    shard: int  # part of the manifest


class StoredImages(NamedTuple):
    """What is read together: one image, or all sampled ones of a shard."""

    images: Sequence[StoredImage]


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

    images: beam.PCollection[StoredImages]
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
        found = folder.parts()
    except OSError as error:
        raise AdaCompressError(f"cannot read the run {folder.output}: {error.strerror or error}") from error
    if not found:
        raise AdaCompressError(f"{folder.output} holds no manifest: give the output of a finished adacompress compress")
    yield from (ManifestPart(int(path[: -len(".parquet")].rpartition("-")[2]), path) for path in found)


def stored_image(row: ManifestRow, folder: RunFolder, root: str, sampler: Sampler, shard: int) -> Optional[StoredImage]:
    """The image of a row, if it is sampled."""
    if not row.is_written or not sampler.samples(row.key, choice := choice_of(row)):
        return None
    sharded = isinstance(folder, ShardedFolder)
    return StoredImage(
        key=row.key,
        choice=choice,
        reference=files.join(root, str(row.output) if sharded else row.key),
        compressed=folder.image(str(row.output)),
        record=record_of(row) if sharded else None,
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
                StoredImages
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

    def process(self, part: ManifestPart, counts: Mapping[str, int]) -> Iterator[StoredImages]:
        sampler = dataclasses.replace(self._sampler, action_shares=dict(counts))
        rows = read_rows(part.path)
        found = (stored_image(row, self._folder, self._root, sampler, part.shard) for row in rows)
        images = [image for image in found if image is not None]
        if isinstance(self._folder, ShardedFolder):  # whose parts are of one shard each
            if images:
                yield StoredImages(images)
        else:
            yield from (StoredImages([image]) for image in images)


@dataclasses.dataclass
class ReadPairs(SeveralOutputs):
    """Reads each of `StoredImages` into a `StoredPair`.

    The second output holds `PairFailure` rows for files that are gone, cannot be read, or are not those that the
    manifest tells of: a score of other bytes would be a wrong one.

    Args:
      format: of the shards; None where each image is a file.
    """

    format: Optional[ShardFormat] = None

    def expand(self, images: beam.PCollection[StoredImages]) -> ImagesAndFailures:
        outputs = images | "Read" >> (
            beam.ParDo(_ReadPairs(self.format))
            .with_output_types(StoredPair, **{FAILURES: PairFailure})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _ReadPairs(beam.DoFn):
    STAGE = "ReadPairs"

    def __init__(self, form: Optional[ShardFormat]) -> None:
        self._format = form
        self._metrics = StageMetrics(self.STAGE)

    def process(self, stored: StoredImages) -> Iterator[Any]:
        if self._format is None:
            for image in stored.images:
                try:
                    yield self._pair(image, _read("original", image.reference), _read("result", image.compressed))
                except ImageError as error:
                    yield self._failure(image, error)
        else:
            yield from self._of_shard(self._format, stored.images)

    def _of_shard(self, form: ShardFormat, images: Sequence[StoredImage]) -> Iterator[Any]:
        left = {str(image.record): image for image in images}
        why = ImageError("changed", "it is not in its shard any more: compress it again")
        try:
            for name, data, compressed in read_pairs(form, images[0].reference, images[0].compressed, list(left)):
                image = left.pop(name)
                try:
                    yield self._pair(image, data, compressed)
                except ImageError as error:
                    yield self._failure(image, error)
        except ImageError as error:
            why = error
        except OSError as error:
            why = ImageError("unreadable", f"reading its shard failed: {error.strerror or error}")
        for image in left.values():
            yield self._failure(image, why)

    def _pair(self, image: StoredImage, data: bytes, compressed: bytes) -> StoredPair:
        _check("original", image.reference, data, image.sha256_in)
        _check("result", image.compressed, compressed, image.sha256_out)
        self._metrics.took(len(data) + len(compressed))
        return StoredPair(
            image.key,
            data,
            image.choice,
            compressed,
            image.width,
            image.height,
            image.sampling_probability,
            image.shard,
        )

    def _failure(self, image: StoredImage, error: ImageError) -> beam.pvalue.TaggedOutput:
        self._metrics.failed()
        failed = PairFailure(image.key, image.shard, self.STAGE, error.reason, error.message)
        return beam.pvalue.TaggedOutput(FAILURES, failed)


def _read(which: str, path: str) -> bytes:
    try:
        return files.read(path)
    except OSError as error:
        raise ImageError("unreadable", f"reading the {which} {path} failed: {error.strerror or error}") from error


def _check(which: str, path: str, data: bytes, sha256: str) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ImageError("changed", f"the {which} {path} is not the file that the manifest tells of: compress it again")
