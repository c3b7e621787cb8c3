"""A corpus: images in any of the formats, and how a pipeline reads them and writes their results.

files, list:  names ─▶ shuffle ─▶ ReadFiles ─▶ SourceImage ... CommitRows ─▶ rows, images ─▶ MergeManifest ─┐
shards:       names ─▶ shuffle ─▶ ReadShards ─▶ SourceImage ... CommitRows ─▶ rows, packs ─▶ RewriteShards ─┴▶ FinishRun
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam

from beam_adacompress.formats import FORMATS, ShardFormat, format_of, shard_format
from beam_adacompress.summary import RunStats
from beam_adacompress.transforms import sinks
from beam_adacompress.transforms.outputs import SeveralOutputs
from beam_adacompress.transforms.runners import check_runner
from beam_adacompress.transforms.runs import RunFolder, SkipFinished
from beam_adacompress.transforms.shard_sinks import RewriteShards, before_and_after
from beam_adacompress.transforms.shards import ListShards, ReadShards, Shard, ShardedFolder
from beam_adacompress.transforms.sources import MAX_BYTES, ListImages, ReadFiles, SpreadImages, find_images, input_root
from beam_adacompress.transforms.uri_lists import ListUris, StatFiles, read_uris, root_of, write_list

FILES = "files"
LIST = "list"


class Reading(NamedTuple):
    """What `Corpus.reading` gives."""

    images: beam.PCollection[Any]  # SourceImage
    failures: beam.PCollection[Any]  # LocatedFailure
    fragments: Sequence[beam.PCollection[Any]]  # rows of an earlier attempt
    shards: Optional[beam.PCollection[Shard]]


class Look(NamedTuple):
    """What `Corpus.look` finds."""

    files: int
    hint: Optional[str]  # one sentence, where the format may not be what was meant


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Images in one of the formats.

    Args:
      input: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      format: one of FORMATS; None for what the name of the input ends like, see `formats.format_of`.
      image_field: where the format has fields: the one with the image. The feature of a TFRecord (image/encoded), the
        column of a Parquet file or a list (None: the one that is there), the extensions of a tar's members (None: all
        of images).
      max_bytes: larger images are failures.

    Raises:
      ValueError: the format is not known, has no fields, or max_bytes is below 1.
    """

    input: str
    format: Optional[str] = None
    image_field: Optional[str] = None
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.kind == FILES and self.image_field is not None:
            raise ValueError(
                f"image_field is {self.image_field!r}, but {self.input} is read as files, which have no fields"
            )
        ReadFiles(self.max_bytes)
        if self.is_sharded:
            self.shard_format()

    @property
    def kind(self) -> str:
        """The format."""
        return self.format or format_of(self.input)

    @property
    def is_sharded(self) -> bool:
        """Whether a file holds many images."""
        return self.kind not in (FILES, LIST)

    def shard_format(self) -> Optional[ShardFormat]:
        """Of the shards; None where there are none."""
        return shard_format(self.kind, self.image_field, self.max_bytes) if self.is_sharded else None

    def options(self) -> dict[str, Any]:
        """What distinguishes it from a folder of files, for the record."""
        return {} if self.kind == FILES else {"format": self.kind, "image_field": self.image_field}

    @functools.cached_property
    def root(self) -> str:
        """The folder that the keys are relative to.

        Raises:
          AdaCompressError: a list cannot be read.
        """
        return root_of(read_uris(self.input, self.image_field)[1]) if self.kind == LIST else input_root(self.input)

    def look(self, exclude: Optional[str], up_to: Optional[int]) -> Look:
        """Counts the input's files, or only as many as asked for.

        Raises:
          AdaCompressError: they cannot be listed.
        """
        if self.kind == LIST:
            return Look(len(set(read_uris(self.input, self.image_field)[1])), None)
        count, hint = 0, None
        for file in itertools.islice(find_images(self.input, exclude), up_to):
            count += 1
            if count == 1 and self.kind == FILES and (form := format_of(file.path)) not in (FILES, LIST):
                hint = f"{file.path} is taken for one image; if it holds many: --format {form}"
        return Look(count, hint)

    def folder(self, output: str) -> RunFolder:
        """The folder of a run over it."""
        return ShardedFolder(output) if self.is_sharded else RunFolder(output)

    def reading(
        self,
        exclude: Optional[str] = None,
        folder: Optional[RunFolder] = None,
        attempt: str = "",
        resume: bool = False,
    ) -> beam.PTransform:
        """The transform that reads its images, which gives a Reading.

        Args:
          exclude: a folder below which nothing is read.
          folder: of the run that they are read for; None for none.
          attempt: as for CommitRows.
          resume: whether the folder holds rows of an earlier attempt, whose images are left out.
        """
        return _Read(self, exclude, folder, attempt, resume)

    def commit(self, folder: RunFolder, attempt: str, outcome: Callable[[Any], sinks.Outcome]) -> beam.PTransform:
        """The transform that writes results of its images, see CommitRows."""
        return sinks.CommitRows(folder, attempt, outcome, packed=self.is_sharded)

    def merge(
        self,
        fragments: beam.PCollection[sinks.Fragment],
        shards: Optional[beam.PCollection[Shard]],
        folder: RunFolder,
        seed: int,
    ) -> beam.PCollection[RunStats]:
        """Adds to a pipeline what makes manifest and shards of the rows of all images."""
        form = self.shard_format()
        if form is None:
            return fragments | "MergeManifest" >> sinks.MergeManifest(folder, seed)
        assert isinstance(folder, ShardedFolder), folder
        return {"shards": shards, "fragments": fragments} | "RewriteShards" >> RewriteShards(folder, form, seed)

    def finish(
        self, folder: RunFolder, options: Mapping[str, Any], versions: Mapping[str, str], started: float
    ) -> sinks.FinishRun:
        """The transform that ends a run over it; arguments as for FinishRun."""
        also = functools.partial(write_list, folder, self.input, self.image_field) if self.kind == LIST else None
        return sinks.FinishRun(folder, self.pair(folder), options, versions, started, also)

    def pair(self, folder: RunFolder, root: Optional[str] = None) -> sinks.Pair:
        """What gives the original and the result of a row of the manifest, for a report.

        Args:
          folder: of the run.
          root: folder that the keys are relative to, if it is another one by now.

        Raises:
          AdaCompressError: a list cannot be read.
        """
        form, root = self.shard_format(), root or self.root
        if form is None:
            return functools.partial(sinks.before_and_after, folder, root)
        return functools.partial(before_and_after, folder, root, form)


@dataclasses.dataclass
class _Read(SeveralOutputs):
    corpus: Corpus
    exclude: Optional[str]
    folder: Optional[RunFolder]
    attempt: str
    resume: bool

    def expand(self, pbegin: beam.pvalue.PBegin) -> Reading:
        check_runner(pbegin.pipeline)
        form = self.corpus.shard_format()
        return self._files(pbegin) if form is None else self._shards(pbegin, form)

    def _shards(self, pbegin: beam.pvalue.PBegin, form: ShardFormat) -> Reading:
        folder = self.folder
        assert folder is None or isinstance(folder, ShardedFolder), folder
        listed = pbegin | "ListShards" >> ListShards(self.corpus.input, self.exclude, folder)
        spread = listed.shards | "SpreadShards" >> beam.Reshuffle()
        read = spread | "ReadShards" >> ReadShards(form, folder if self.resume else None)
        failures = (listed.failures, read.failures) | "Unread" >> beam.Flatten()
        return Reading(read.images, failures, [read.fragments], listed.shards)

    def _files(self, pbegin: beam.pvalue.PBegin) -> Reading:
        unread = []
        if self.corpus.kind == LIST:
            listed = pbegin | "ListImages" >> ListUris(self.corpus.input, self.corpus.image_field)
            found = listed.images | "SpreadUris" >> SpreadImages() | "StatFiles" >> StatFiles()
            todo = found.images
            unread.append(found.failures)
        else:
            found = listed = pbegin | "ListImages" >> ListImages(self.corpus.input, self.exclude)
            todo = found.images if self.resume else found.images | "SpreadImages" >> SpreadImages()
        fragments = []
        if self.resume:
            assert self.folder is not None
            todo, finished = found.images | "SkipFinished" >> SkipFinished(self.folder)
            commit = sinks.CommitRows(self.folder, self.attempt, sinks.finished_outcome)
            fragments.append(finished | "CommitFinished" >> commit)
        read = todo | "ReadFiles" >> ReadFiles(self.corpus.max_bytes)
        failures = [*unread, listed.failures, read.failures] | "Unread" >> beam.Flatten()
        return Reading(read.images, failures, fragments, None)


def corpus_of(options: Mapping[str, Any]) -> Corpus:
    """The corpus that a run was over.

    Args:
      options: of the run, see RunFolder.earlier_options.
    """
    return Corpus(options["input"], options.get("format", FILES), options.get("image_field"))
