"""Images as they arrive: new files of a folder that is watched, or messages that tell of new objects.

    WatchImages:    folder ─▶ list every so many seconds ─▶ a file not seen before ─┬▶ ImageFile ─▶ ReadFiles ─▶ ...
    ReceiveImages:  Pub/Sub ─▶ message ─▶ LocateImages ─▶ where the new object is ──┘

Names alone arrive; an image is read where it is used. Counters stand in the namespaces `adacompress.WatchImages` and
`adacompress.LocateImages`:

| metric | counts |
|---|---|
| images_out | images that arrived |
| finished | of the files, those that an earlier job did |
| ignored | messages of other things than new images: of deleted ones, say, or of the job's own results |
| failed | names that cannot be keys, messages that say nothing of an image |
| listings_failed | times that the folder could not be listed |
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Optional, Union

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp.pubsub import ReadFromPubSub
from apache_beam.io.watch import PollFn, PollResult, Watch, after_total_of, never
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_adacompress import naming
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.transforms import files, metrics
from beam_adacompress.transforms.files import FoundFile
from beam_adacompress.transforms.notify import ABOUT
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs
from beam_adacompress.transforms.pull import PullMessages
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.transforms.sources import ImageFile, LocatedFailure, find_images, image_file, input_root, key_of

POLL = 10.0  # seconds between two listings
SETTLE = 1.0  # seconds for which a file on a disk has to stay as it is, or half of it would be read
LATENESS = 600.0  # seconds

_LOGGER = logging.getLogger(__name__)
_NEW = "OBJECT_FINALIZE"  # event of a notification: an object is there, or another one in its place


@dataclasses.dataclass
class WatchImages(SeveralOutputs):
    """Gives each file of a folder once, as an `ImageFile`, when it is there first; one that is replaced once more.

    A file is known by its path, size and time of modification. Files that are there when the job starts are new as
    well, but for those that an earlier job with the same output did: their results are there, and not older than they
    are. The second output holds `LocatedFailure` rows: files whose names cannot be keys.

    Rows have the time of the listing that found them, so none is ever late. What was seen is kept in the job's state,
    24 bytes for each file; for buckets with millions of objects take notifications, see `ReceiveImages`.

    Args:
      pattern: a folder or prefix (everything below it), a glob, or one file, on any filesystem that Beam knows.
      folder: of the job, below which nothing is listed: it may lie inside the input.
      root: folder that the keys are relative to; None for the one that is watched.
      poll: seconds between two listings.
      only_new: leave out what was last modified before the job started.
      stop_after: seconds from the first listing on, after which there is no further one; None for never.
      spread: send the names through a shuffle, so that all workers get some. (FnApiRunner would hold them back until
        the last one has come.)

    Raises:
      ValueError: an argument is out of range, or the root is not above what is watched.
    """

    pattern: str
    folder: RunFolder
    root: Optional[str] = None
    poll: float = POLL
    only_new: bool = False
    stop_after: Optional[float] = None
    spread: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("poll", "stop_after"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 seconds, got {value}")
        if self.root is not None and not files.join(self.pattern, "").startswith(files.join(self.root, "")):
            raise ValueError(f"the root {self.root} is not above the input {self.pattern}")

    def _root(self) -> str:
        if self.root is not None:
            return self.root
        exists = not files.is_local(self.pattern) or os.path.lexists(self.pattern)
        return input_root(self.pattern) if exists or files.has_wildcard(self.pattern) else self.pattern

    def expand(self, pbegin: beam.pvalue.PBegin) -> ImagesAndFailures:
        ends = never() if self.stop_after is None else after_total_of(self.stop_after)
        listing = _List(self.folder.output, self.poll, self.only_new)
        found = (
            pbegin
            | "Input" >> beam.Create([self.pattern])
            | "Start" >> beam.Map(_with_time).with_output_types(tuple[str, float])
            | "Watch" >> Watch(listing, self.poll, ends)
        )
        if self.spread:
            found = found | "Spread" >> beam.Reshuffle()
        outputs = found | "Locate" >> (
            beam.ParDo(_LocateFound(self._root(), self.folder))
            .with_output_types(ImageFile, **{FAILURES: LocatedFailure})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


def _with_time(pattern: str) -> tuple[str, float]:
    return pattern, time.time()


class _List(PollFn):
    """Lists the files, as JSON, since names may be no text."""

    def __init__(self, exclude: str, every: float, only_new: bool) -> None:
        self._exclude = exclude
        self._every = every
        self._only_new = only_new
        self._next: Optional[float] = None
        self._failed = metrics.counter("WatchImages", "listings_failed")

    def default_output_coder(self) -> StrUtf8Coder:
        return StrUtf8Coder()

    def __call__(self, element: tuple[str, float]) -> PollResult[str]:
        self._wait()
        pattern, started = element
        now = time.time()
        try:
            found = list(find_images(pattern, self._exclude))
        except Exception as error:  # every store has errors of its own, and most of them pass
            self._failed.inc()
            _LOGGER.warning("the next listing may find more: %s", error)
            found = []
        new = [file for file in found if self._is_new(file, started, now)]
        stamp = Timestamp.of(now)
        return PollResult.incomplete([json.dumps(file) for file in new], stamp).with_watermark(stamp)

    def _wait(self) -> None:
        """FnApiRunner does not wait between two listings."""
        if self._next is not None:
            time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + self._every

    def _is_new(self, file: FoundFile, started: float, now: float) -> bool:
        settles = files.is_local(file.path) and 0 <= now - file.modified < SETTLE
        return not settles and not (self._only_new and file.modified < started)


class _LocateFound(beam.DoFn):
    def __init__(self, root: str, folder: RunFolder) -> None:
        self._root = root
        self._folder = folder
        self._out, self._finished, self._failed = (
            metrics.counter("WatchImages", name) for name in ("images_out", "finished", "failed")
        )

    def process(self, element: tuple[tuple[str, float], str]) -> Iterator[Any]:
        (_, started), encoded = element
        file = FoundFile(*json.loads(encoded))
        located = image_file(file, naming.alone(key_of(file.path, self._root)), "WatchImages")
        if isinstance(located, LocatedFailure):
            self._failed.inc()
            yield beam.pvalue.TaggedOutput(FAILURES, located)
        elif is_finished(located, self._folder, started):
            self._finished.inc()
        else:
            self._out.inc()
            yield located


def is_finished(file: ImageFile, folder: RunFolder, before: float) -> bool:
    """Whether the result of a file was there before a time, and is not older than the file.

    Args:
      file: that was found.
      folder: of the results.
      before: seconds since the epoch.
    """
    renamed = [naming.output_name(file.key, renamed=True)] if file.steps_aside or file.may_rename else []
    for name in renamed if file.steps_aside else [file.key, *renamed]:
        with contextlib.suppress(OSError):  # of a name that is too long, say: writing to it will tell
            if (result := files.status(folder.image(name))) is not None:
                return file.modified <= result.modified < before
    return False


@dataclasses.dataclass
class ReceiveImages(SeveralOutputs):
    """Takes messages about new images from a Pub/Sub subscription, see `LocateImages`.

    On Dataflow messages are taken off the subscription when what is fused with their reading has been done, so when
    their images are written; likewise with `pull`. The local BundleBasedDirectRunner takes them off before.

    Args:
      subscription: `projects/PROJECT/subscriptions/NAME`.
      pull: with a reader of our own, see `pull.PullMessages`, on runners that have none.
      stop_after: seconds after which that one pulls no more; None for never.
      others: as for LocateImages.

    Raises:
      ValueError: an argument is out of range.
    """

    subscription: str
    exclude: str
    root: Optional[str] = None
    allowed_lateness: float = LATENESS
    pull: bool = False
    stop_after: Optional[float] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ReadFromPubSub(subscription=self.subscription)  # checks its name
        self._read()
        self._locate()

    def _read(self) -> Union[ReadFromPubSub, PullMessages]:
        if self.pull:
            return PullMessages(self.subscription, self.stop_after)
        if self.stop_after is not None:
            raise ValueError(f"stop_after needs pull: Beam's own reader does not end after {self.stop_after} seconds")
        return ReadFromPubSub(subscription=self.subscription, with_attributes=True)

    def _locate(self) -> LocateImages:
        return LocateImages(self.exclude, self.root, self.allowed_lateness)

    def expand(self, pbegin: beam.pvalue.PBegin) -> ImagesAndFailures:
        messages = pbegin | "Read" >> self._read()
        located: ImagesAndFailures = messages | "Locate" >> self._locate()
        return located


@dataclasses.dataclass
class LocateImages(SeveralOutputs):
    """Says of each message of Pub/Sub where its image is, as an `ImageFile`.

    A message is a notification of Cloud Storage (attributes `eventType`, `bucketId` and `objectId`), or its body is the
    path of one image, `gs://...` or absolute. Notifications of other events than OBJECT_FINALIZE are ignored, and so is
    whatever lies in the job's own output, and what jobs tell, see `notify`. The second output holds `LocatedFailure`
    rows: messages that say nothing of an image, and images whose names cannot be keys. A message that comes twice is an
    image that is done twice, with the same name.

    Rows keep the time of publishing, but where they come later than windows wait for them, they get the earliest time
    that windows still wait for. So none is dropped for being late.

    Args:
      exclude: the job's output.
      root: folder that the keys are relative to; None for keys of bucket and object, or of the whole path.
      allowed_lateness: seconds for which windows wait after their end.

    Raises:
      ValueError: it is negative.
    """

    exclude: str
    root: Optional[str] = None
    allowed_lateness: float = LATENESS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.allowed_lateness >= 0:
            raise ValueError(f"allowed_lateness must be at least 0 seconds, got {self.allowed_lateness}")

    def expand(self, messages: beam.PCollection[Any]) -> ImagesAndFailures:
        outputs = messages | "Locate" >> (
            beam.ParDo(_LocateTold(self.exclude, self.root, self.allowed_lateness))
            .with_output_types(ImageFile, **{FAILURES: LocatedFailure})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(outputs.images, outputs.failures)


class _LocateTold(beam.DoFn):
    def __init__(self, exclude: str, root: Optional[str], lateness: float) -> None:
        self._exclude = files.join(exclude, "")
        self._root = root
        self._lateness = lateness
        self._out, self._ignored, self._failed = (
            metrics.counter("LocateImages", name) for name in ("images_out", "ignored", "failed")
        )

    def process(self, message: Any, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        # A backlog is older than windows wait where the watermark is the time of day, as in BundleBasedDirectRunner.
        stamp = max(timestamp, Timestamp.of(time.time() - self._lateness))
        located = self._located(message)
        if located is None:
            self._ignored.inc()
        elif isinstance(located, LocatedFailure):
            self._failed.inc()
            yield beam.pvalue.TaggedOutput(FAILURES, TimestampedValue(located, stamp))
        else:
            self._out.inc()
            yield TimestampedValue(located, stamp)

    def _located(self, message: Any) -> Optional[Union[ImageFile, LocatedFailure]]:
        key = f"message {message.message_id}"
        try:
            path = path_of(message.attributes or {}, message.data or b"")
            if path is None or path.startswith(self._exclude):
                return None
            key = key_below(path, self._root)
        except ImageError as error:
            return LocatedFailure(key, 0, 0, None, "LocateImages", error.reason, error.message)
        try:
            found = files.status(path)
        except OSError:
            found = None  # reading it will say what is wrong
        return image_file(found or FoundFile(path, 0, 0.0), naming.alone(key), "LocateImages")


def require_pubsub() -> None:
    """Raises AdaCompressError where the client of Pub/Sub is not installed."""
    try:
        import google.cloud.pubsub  # noqa: F401
    except ImportError as error:
        raise AdaCompressError("Pub/Sub needs google-cloud-pubsub: pip install 'beam-adacompress[gcp]'") from error


def path_of(attributes: Mapping[str, str], data: bytes) -> Optional[str]:
    """Where the image is that a message tells of.

    Args:
      attributes: of the message.
      data: its body.

    Returns:
      Its path; None where the message tells of another event.

    Raises:
      ImageError: `bad-message`: it tells of none.
    """
    if ABOUT in attributes:  # else each would be a bad message, and that be told in turn
        return None
    if "eventType" in attributes:
        if attributes["eventType"] != _NEW:
            return None
        if attributes.get("bucketId") and attributes.get("objectId"):
            return f"gs://{attributes['bucketId']}/{attributes['objectId']}"
        raise ImageError("bad-message", "the notification lacks bucketId or objectId")
    path = data.decode("utf-8", "backslashreplace").strip()
    if re.fullmatch(r"[^\n]+", path) and (FileSystems.get_scheme(path) is not None or os.path.isabs(path)):
        return path
    raise ImageError("bad-message", f"it is neither a notification nor the path of an image: {path[:100]!r}")


def key_below(path: str, root: Optional[str]) -> str:
    """The key of an image.

    Args:
      path: where it is.
      root: folder that the key is relative to; None for all of the path but its scheme.

    Raises:
      ImageError: `bad-key`: the image is not below the root.
    """
    if root is None:
        return path.partition("://")[2] or key_of(path, os.path.abspath(os.sep))
    if not path.startswith(files.join(root, "")):
        raise ImageError("bad-key", f"{path} is not below the root {root}")
    return key_of(path, root)
