"""A sample of a corpus, read, chosen and compressed as a run would do it, with nothing written.

    draw_sample (names) ─▶ shuffle ─▶ read ─▶ ChooseQuality ─▶ CompressJPEG ─▶ (ask a local backend) ─▶ Tried

Files and lists are drawn image by image. Of shards some are drawn, and read once to count and to draw from their
images, and once more for those images.
"""

import dataclasses
import heapq
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam

from beam_adacompress import naming, reward
from beam_adacompress.backends import Backend, BackendError, Query
from beam_adacompress.backends.contract import Answer
from beam_adacompress.backends.manners import Answered
from beam_adacompress.backends.pairs import ask_pair
from beam_adacompress.errors import ImageError
from beam_adacompress.formats import ShardFormat
from beam_adacompress.prediction import Tried
from beam_adacompress.records import FAILED
from beam_adacompress.sampling import draw
from beam_adacompress.survey import Survey, Unit
from beam_adacompress.transforms import files, sinks
from beam_adacompress.transforms.choose import ChooseQuality
from beam_adacompress.transforms.compress import CompressJPEG
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.corpus import LIST, Corpus
from beam_adacompress.transforms.outputs import FAILURES, SeveralOutputs
from beam_adacompress.transforms.shards import Shard, image_of, list_shards
from beam_adacompress.transforms.sources import (
    ImageFile,
    LocatedFailure,
    ReadFiles,
    SourceImage,
    SpreadImages,
    list_images,
)
from beam_adacompress.transforms.uri_lists import StatFiles, list_uris

LEAST_SHARDS = 16  # that are drawn, if there are so many: images of one are often alike


class Drawn(NamedTuple):
    """One unit of the sample, and the images that were drawn of it."""

    size: float  # as for survey.Unit
    images: int
    keys: Sequence[str]
    failed: Sequence[Tried] = ()  # images that are failures before they are read


class Records(NamedTuple):
    """The images that were drawn of a shard."""

    shard: Shard
    names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample of a corpus.

    Args:
      units: files or shards of the corpus.
      size: of all of them, bytes as listed; their number where sizes are not known.
      drawn: the units that were drawn.
      files: to try, where each is a unit.
      records: to try, where shards are the units.
    """

    units: int
    size: float
    drawn: Sequence[Drawn]
    files: Sequence[ImageFile] = ()
    records: Sequence[Records] = ()

    def survey(self, tried: Mapping[str, Tried]) -> Survey:
        """What came of it, by key."""
        units = [
            Unit(each.size, each.images, [*each.failed, *(tried[key] for key in each.keys)]) for each in self.drawn
        ]
        return Survey(self.units, self.size, units)


def draw_sample(corpus: Corpus, exclude: str, count: int, seed: int) -> Sample:
    """Draws images: those whose keys have the lowest hashes, so a larger sample holds a smaller one.

    Args:
      corpus: to draw from.
      exclude: a folder below which nothing is listed.
      count: images to draw, all if there are not so many.
      seed: another one draws others.

    Raises:
      AdaCompressError: the corpus cannot be listed.
    """
    salt = f"dry run {seed}"
    form = corpus.shard_format()
    if form is not None:
        return _of_shards(list(list_shards(corpus.input, exclude, [])), form, count, salt)
    if corpus.kind == LIST:
        return _of_files(list(list_uris(corpus.input, corpus.image_field)), count, salt, sized=False)
    return _of_files(list(list_images(corpus.input, exclude)), count, salt)


def _of_files(listed: Sequence[Union[ImageFile, LocatedFailure]], count: int, salt: str, sized: bool = True) -> Sample:
    taken = heapq.nsmallest(count, listed, key=lambda each: draw(each.key, salt))
    units = [
        Drawn(size, 1, (), [_failed(each.key, each.bytes_in, each.reason)])
        if isinstance(each, LocatedFailure)
        else Drawn(size, 1, [each.key])
        for each, size in ((each, float(each.bytes_in) if sized else 1.0) for each in taken)
    ]
    return Sample(
        units=len(listed),
        size=float(sum(each.bytes_in for each in listed) if sized else len(listed)),
        drawn=units,
        files=[each for each in taken if isinstance(each, ImageFile)],
    )


def _of_shards(listed: Sequence[Union[Shard, LocatedFailure]], form: ShardFormat, count: int, salt: str) -> Sample:
    """Draws shards until they hold enough images, and of each as large a share of its images."""
    sizes = [float(each.size if isinstance(each, Shard) else each.bytes_in) for each in listed]
    found: list[tuple[float, Optional[Shard], list[str], list[Tried]]] = []
    for index in sorted(range(len(listed)), key=lambda index: draw(listed[index].key, salt)):
        if len(found) >= LEAST_SHARDS and sum(len(names) for _, _, names, _ in found) >= count:
            break
        each = listed[index]
        if isinstance(each, LocatedFailure):
            found.append((sizes[index], None, [], [_failed(each.key, each.bytes_in, each.reason)]))
            continue
        names, why = _names(each, form)
        failed = [] if why is None else [_failed(each.key, each.size, why)]
        found.append((sizes[index], each, names, failed))
    images = sum(len(names) for _, _, names, _ in found)
    share = min(1.0, count / images) if images else 1.0
    units, records = [], []
    for size, shard, names, failed in found:
        number = min(len(names), max(2, round(share * len(names))))
        key = "" if shard is None else shard.key
        taken = heapq.nsmallest(number, names, key=lambda name: draw(f"{key}/{name}", salt))
        units.append(Drawn(size, len(names) + len(failed), [f"{key}/{name}" for name in taken], failed))
        if shard is not None and taken:
            records.append(Records(shard, taken))
    return Sample(len(listed), sum(sizes), units, records=records)


def _names(shard: Shard, form: ShardFormat) -> tuple[list[str], Optional[str]]:
    """The images of a shard; none, and the reason, where it cannot be read to its end, which makes all of it fail."""
    try:
        with files.opened(shard.path) as source:
            return [record.name for record in form.records(source)], None
    except ImageError as error:
        return [], error.reason
    except OSError:
        return [], "unreadable"


def _failed(key: str, size: int, reason: str, cpu: Optional[float] = None, calls: int = 0) -> Tried:
    return Tried(key, FAILED, reason, None, None, size, 0, cpu, calls, None, None)


class _Clock:
    """CPU time and calls of this process since the image before; there is one for each process."""

    def __init__(self) -> None:
        self._since = 0.0
        self._is_warm = False
        self._calls = 0

    def begin(self) -> None:
        """The next image pays for what is loaded once."""
        self._is_warm = False

    def start(self) -> None:
        self._since = time.process_time()

    def skip(self, seconds: float) -> None:
        """Takes out what a run would not do."""
        self._since += seconds

    def called(self, images: int) -> None:
        self._calls += images

    def calls(self) -> int:
        """Calls since the last time; where images wait side by side, some may be those of another one."""
        calls, self._calls = self._calls, 0
        return calls

    def lap(self) -> Optional[float]:
        """CPU seconds since the last one; None for the first image."""
        now = time.process_time()
        seconds, self._since = now - self._since, now
        was_warm, self._is_warm = self._is_warm, True
        return seconds if was_warm else None


_CLOCK = _Clock()


@dataclasses.dataclass
class Counted(Backend):
    """A backend whose calls are counted for the image that is tried.

    Args:
      backend: that is asked.
    """

    backend: Backend

    @property
    def concurrent(self) -> bool:  # type: ignore[override]
        return self.backend.concurrent

    @property
    def terms(self) -> Any:
        return self.backend.terms

    @property
    def terms_need_open(self) -> bool:
        return self.backend.terms_need_open

    def open(self, read: Any = files.read) -> None:
        self.backend.open(read)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        _CLOCK.called(len(images))
        return self.backend.label(images, timeout)


@dataclasses.dataclass
class TryImages(SeveralOutputs):
    """Tries a sample, and gives a Tried row for each of its images.

    Args:
      corpus: that it is of.
      sample: to try.
      choose, compress: as the run has them; what they ask is asked, so let it be local.
      ask: a local backend that is asked about each image and its result; None for none.
      top, errors: as for ScoreWithBackend.
    """

    corpus: Corpus
    sample: Sample
    choose: ChooseQuality
    compress: CompressJPEG
    ask: Optional[Connection] = None
    top: int = reward.TOP
    errors: str = reward.COUNT

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[Tried]:
        images, *failures = self._records(pbegin) if self.corpus.is_sharded else self._files(pbegin)
        chosen = images | "ChooseQuality" >> self.choose
        compressed = chosen.images | "CompressJPEG" >> self.compress
        measure = beam.ParDo(_Measure(self.ask, self.top, self.errors)).with_output_types(Tried)
        tried = [compressed.images | "Measure" >> measure]
        for index, failed in enumerate((*failures, chosen.failures, compressed.failures)):
            tried.append(failed | f"MeasureFailure{index}" >> beam.ParDo(_MeasureFailure()).with_output_types(Tried))
        return tried | "Tried" >> beam.Flatten()

    def _files(self, pbegin: beam.pvalue.PBegin) -> Iterator[beam.PCollection[Any]]:
        listed = pbegin | "Sample" >> beam.Create(list(self.sample.files)).with_output_types(ImageFile)
        listed = listed | "SpreadImages" >> SpreadImages()
        failures = []
        if self.corpus.kind == LIST:
            found = listed | "StatFiles" >> StatFiles()
            listed = found.images
            failures.append(found.failures)
        started = listed | "StartClock" >> beam.ParDo(_Start()).with_output_types(ImageFile)
        read = started | "ReadFiles" >> ReadFiles(self.corpus.max_bytes)
        yield from (read.images, read.failures, *failures)

    def _records(self, pbegin: beam.pvalue.PBegin) -> Iterator[beam.PCollection[Any]]:
        form = self.corpus.shard_format()
        assert form is not None, self.corpus
        packed = [json.dumps(each) for each in self.sample.records]
        read = (
            pbegin
            | "Sample" >> beam.Create(packed).with_output_types(str)
            | "SpreadShards" >> beam.Reshuffle()
            | "StartClock" >> beam.ParDo(_Start()).with_output_types(str)
            | "ReadRecords"
            >> beam.ParDo(_ReadRecords(form))
            .with_output_types(SourceImage, **{FAILURES: LocatedFailure})
            .with_outputs(FAILURES, main="images")
        )
        yield from (read.images, read.failures)


class _Start(beam.DoFn):
    def setup(self) -> None:
        _CLOCK.begin()

    def start_bundle(self) -> None:
        _CLOCK.start()

    def process(self, element: Any) -> Iterator[Any]:
        yield element


class _ReadRecords(beam.DoFn):
    """Reads some images of a shard; passing over the others is not counted."""

    def __init__(self, form: ShardFormat) -> None:
        self._format = form

    def process(self, packed: str) -> Iterator[Any]:
        fields, names = json.loads(packed)
        shard, left = Shard(*fields), set(names)
        began = time.thread_time()
        try:
            with files.opened(shard.path) as source:
                for record in self._format.records(source):
                    if record.name not in left:
                        continue
                    left.discard(record.name)
                    _CLOCK.skip(time.thread_time() - began)
                    image = image_of(shard, record)
                    yield beam.pvalue.TaggedOutput(FAILURES, image) if isinstance(image, LocatedFailure) else image
                    began = time.thread_time()
                    if not left:
                        return
        except (ImageError, OSError):  # it has changed since it was counted
            pass
        for name in left:
            failed = LocatedFailure(f"{shard.key}/{name}", 0, shard.number, None, "ReadImages", "unreadable", "")
            yield beam.pvalue.TaggedOutput(FAILURES, failed)


class _Measure(beam.DoFn):
    """What a run would write of an image, and what a backend says of it."""

    def __init__(self, ask: Optional[Connection], top: int, errors: str) -> None:
        self._ask = ask
        self._top = top
        self._errors = errors

    def setup(self) -> None:
        self._client = None if self._ask is None else self._ask.client()

    def process(self, row: Any) -> Iterator[Tried]:
        outcome = sinks.compressed_outcome(row)
        described = outcome.row
        calls, cpu = _CLOCK.calls(), _CLOCK.lap()
        try:
            naming.check_key(str(described.output))
        except ImageError as error:
            yield _failed(row.key, row.bytes_in, error.reason, cpu, calls)
            return
        agreement = self._agreement(row, outcome.data or b"")
        scoring_cpu = None if self._client is None else _CLOCK.lap()
        yield Tried(
            key=row.key,
            status=described.status,
            reason=described.reason,
            tables=described.tables,
            quality=described.quality,
            bytes_in=row.bytes_in,
            bytes_out=described.bytes_out or 0,
            cpu=cpu,
            calls=calls,
            agreement=agreement,
            scoring_cpu=scoring_cpu,
        )

    def _agreement(self, row: Any, result: bytes) -> Optional[int]:
        if self._client is None or self._client.terms.too_many_pixels(row.width, row.height) is not None:
            return None
        quality = None if result == row.data else row.choice.quality
        reference, compressed = ask_pair(
            self._client, Query(row.data, row.key, None), Query(result, row.key, quality)
        ).result()
        labels = _labels(reference), _labels(compressed)
        if labels[0] is None or (compressed is not None and labels[1] is None):
            return None
        ratio = len(result) / len(row.data)
        return reward.judge(labels[0], labels[1] or (), ratio, self._top, self._errors).agreement


def _labels(answered: Optional[Answered]) -> Any:
    return None if answered is None or isinstance(answered.answer, BackendError) else answered.answer


class _MeasureFailure(beam.DoFn):
    def process(self, row: Any) -> Iterator[Tried]:
        yield _failed(row.key, row.bytes_in, row.reason, _CLOCK.lap(), _CLOCK.calls())
