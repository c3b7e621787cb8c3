"""ReadImages and WriteImages: the corpus of a pipeline of one's own, in any of the formats.

ReadImages ─▶ SourceImage ─▶ ChooseQuality ─▶ CompressJPEG ─▶ WriteImages ─▶ images, manifest, summary, report
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
import uuid
import zlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Optional

import apache_beam as beam

from beam_adacompress import naming
from beam_adacompress.records import Choice, CompressedImage
from beam_adacompress.transforms import rows, sinks
from beam_adacompress.transforms.corpus import FILES, Corpus
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.shards import ListShards, ShardedFolder
from beam_adacompress.transforms.sources import MAX_BYTES
from beam_adacompress.version import versions

_NEEDED = {"key": str, "data": bytes, "choice": Choice, "compressed": bytes, "status": str}


@dataclasses.dataclass
class ReadImages(SeveralOutputs):
    """Reads the images of a corpus.

    Gives `SourceImage` rows, whose `key` and `data` are what the other transforms take, and whose other fields are what
    WriteImages knows their places by. The second output, `failures`, holds rows with `key`, `stage`, `reason` and
    `error`: images that cannot be read, records without an image, and shards that cannot be read to their end.

    Files and lists are spread over the workers image by image, shards one by one: have a few times as many shards as
    workers. A shard is never in memory as a whole.

    Args:
      input: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      format: `files` (an image each), `tfrecord` (of tf.train.Example), `parquet`, `webdataset` (tar), or `list` (a CSV
        or Parquet file with URIs); None for what the name of the input ends like, else `files`.
      image_field: the feature of an Example (by default `image/encoded`); the column of a Parquet file or a list, and
        the extensions of images in a tar, such as `jpg;png` (by default those that are there).
      max_bytes: larger images are failures.
      exclude: a folder below which nothing is read.

    Raises:
      ValueError: an argument is out of range.
    """

    input: str
    format: Optional[str] = None
    image_field: Optional[str] = None
    max_bytes: int = MAX_BYTES
    exclude: Optional[str] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._corpus = Corpus(self.input, self.format, self.image_field, self.max_bytes)

    def expand(self, pbegin: beam.pvalue.PBegin) -> ImagesAndFailures:
        read = pbegin | "Read" >> self._corpus.reading(self.exclude)
        return ImagesAndFailures(read.images, read.failures)


@dataclasses.dataclass
class WriteImages(SeveralOutputs):
    """Writes results as `adacompress compress` does: images, manifest, summary and report.

    Takes rows of CompressJPEG, or `{"images": such rows, "failures": rows with key, reason and error}`; gives the path
    of `summary.json`, once, when all is written. Rows that ReadImages read keep their places: files their names, images
    in shards their shards, which are written with the results in the places of the originals and everything else as it
    was. Other rows get files named by their keys. For batch pipelines; what is in the output is written over.

    Args:
      output: a folder, on any filesystem that Beam knows.
      input, format, image_field, max_bytes: as given to ReadImages. Shards and lists need them; for other rows they
        only show the report where the originals are.
      manifest_parts: so many parts of the manifest are made of rows that ReadImages did not read; one for each million.
      seed: of the images that the report shows.

    Raises:
      ValueError: an argument is out of range.
      TypeError: the rows are not what it takes.
    """

    output: str
    input: Optional[str] = None
    format: Optional[str] = None
    image_field: Optional[str] = None
    max_bytes: int = MAX_BYTES
    manifest_parts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.manifest_parts < 1:
            raise ValueError(f"manifest_parts must be at least 1, got {self.manifest_parts}")
        if self.input is None and self.format not in (None, FILES):
            raise ValueError(f"format is {self.format!r}, and input is not given: give the same as to ReadImages")
        # Without an input nobody knows where the originals are, and the report finds none.
        where, form = (self.output, FILES) if self.input is None else (self.input, self.format)
        self._corpus = Corpus(where, form, self.image_field, self.max_bytes)

    def expand(self, results: Any) -> beam.PCollection[str]:
        parts = results if isinstance(results, Mapping) else {"images": results}
        if "images" not in parts or set(parts) - {"images", FAILURES}:
            raise TypeError(f"WriteImages takes rows, or images and failures, but got {', '.join(map(str, parts))}")
        fields = rows.fields_of(parts["images"], "WriteImages", _NEEDED)
        self._check(parts["images"], fields)
        folder, attempt = self._corpus.folder(self.output), uuid.uuid4().hex
        placed = functools.partial(_compressed, self.manifest_parts)
        fragments = [parts["images"] | "CommitImages" >> self._corpus.commit(folder, attempt, placed)]
        if FAILURES in parts:
            failed = functools.partial(_failed, self.manifest_parts)
            fragments.append(parts[FAILURES] | "CommitFailures" >> self._corpus.commit(folder, attempt, failed))
        shards = None
        if self._corpus.is_sharded:
            assert isinstance(folder, ShardedFolder)
            shards = (parts["images"].pipeline | "ListShards" >> ListShards(str(self.input), self.output)).shards
        merged = self._corpus.merge(fragments | "Rows" >> beam.Flatten(), shards, folder, self.seed)
        options = {"input": self.input, "seed": self.seed, **self._corpus.options()}
        finished = merged | "FinishRun" >> self._corpus.finish(folder, options, versions(), time.time())
        return finished | "Record" >> beam.Map(_record, folder, options, versions()).with_output_types(str)

    def _check(self, images: beam.PCollection[Any], fields: rows.Fields) -> None:
        if not images.is_bounded:
            raise ValueError(
                "WriteImages writes a manifest at the end, and these images have none: see adacompress serve"
            )
        if self._corpus.is_sharded and "within" not in fields:
            raise TypeError(
                f"WriteImages(format={self._corpus.kind!r}) takes rows that ReadImages read, but its input has "
                f"no field within, only {', '.join(fields)}"
            )


def _record(summary: str, folder: RunFolder, options: Mapping[str, Any], software: Mapping[str, str]) -> str:
    """Makes the output one that `adacompress score` takes."""
    folder.record(options, software)
    return summary


def _compressed(manifest_parts: int, row: Any) -> sinks.Outcome:
    if hasattr(row, "within"):
        return sinks.compressed_outcome(row)
    plan = naming.alone(row.key)
    known = {name: getattr(row, name) for name in CompressedImage._fields}
    return sinks.compressed_outcome(
        SimpleNamespace(
            **known,
            bytes_in=len(row.data),
            sha256_in=hashlib.sha256(row.data).hexdigest(),
            steps_aside=plan.steps_aside,
            may_rename=plan.may_rename,
            shard=_part(row.key, manifest_parts),
            within=None,
        )
    )


def _failed(manifest_parts: int, row: Any) -> sinks.Outcome:
    shard = getattr(row, "shard", None)
    return sinks.failed_outcome(
        SimpleNamespace(
            key=row.key,
            reason=row.reason,
            error=row.error,
            bytes_in=getattr(row, "bytes_in", None),
            sha256_in=getattr(row, "sha256_in", None),
            shard=_part(row.key, manifest_parts) if shard is None else shard,
        )
    )


def _part(key: str, manifest_parts: int) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogateescape")) % manifest_parts
