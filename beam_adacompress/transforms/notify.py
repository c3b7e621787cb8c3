"""Telling others over Pub/Sub what a job that serves has written, after it has been written.

    CommitRows ─▶ Fragment (a name) ─▶ shuffle ─▶ its rows ─▶ a message each ─▶ topic

What is behind the shuffle only sees fragments whose bundle is done, so whose images are there. Each message is JSON
with the attribute `adacompress`, which says of what it is: `image` (a row of the manifest), `estimate` or `retrained`.
What a runner does again may be told again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage, WriteToPubSub

from beam_adacompress.transforms import files
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.sinks import Fragment

ABOUT = "adacompress"  # attribute of every message


@dataclasses.dataclass
class NotifyImages(beam.PTransform):
    """Publishes a message for each row in the fragments: the ManifestRow as JSON, and where the image is.

    Args:
      topic: `projects/PROJECT/topics/NAME`.
      folder: that the fragments and the images are in.

    Raises:
      ValueError: that is no topic.
    """

    topic: str
    folder: RunFolder

    def __post_init__(self) -> None:
        super().__init__()
        WriteToPubSub(self.topic)

    def expand(self, fragments: beam.PCollection[Fragment]) -> Any:
        return (
            fragments
            | "WhenDone" >> beam.Reshuffle()
            | "Tell" >> beam.ParDo(_TellRows(self.folder)).with_output_types(PubsubMessage)
            | "Publish" >> WriteToPubSub(self.topic, with_attributes=True)
        )


class _TellRows(beam.DoFn):
    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def process(self, fragment: Fragment) -> Iterator[PubsubMessage]:
        for row in read_rows(fragment.path):
            path = None if row.output is None else self._folder.image(row.output)
            # A row is written before its image; where that could not be written, a row that says so follows.
            if path is None or ((found := files.status(path)) is not None and found.size == row.bytes_out):
                yield message("image", {**row._asdict(), "path": path}, row.status)


@dataclasses.dataclass
class NotifyEach(beam.PTransform):
    """Publishes a message for each NamedTuple, as JSON.

    Args:
      topic: as for NotifyImages.
      about: what they are.
      status: the field that is an attribute as well, for filters of subscriptions.
    """

    topic: str
    about: str
    status: str

    def __post_init__(self) -> None:
        super().__init__()
        WriteToPubSub(self.topic)

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        return (
            rows
            | "Tell" >> beam.Map(_told, self.about, self.status).with_output_types(PubsubMessage)
            | "Publish" >> WriteToPubSub(self.topic, with_attributes=True)
        )


def _told(row: Any, about: str, status: str) -> PubsubMessage:
    return message(about, row._asdict(), getattr(row, status))


def message(about: str, content: Mapping[str, Any], status: str) -> PubsubMessage:
    """A message of a job that serves.

    Args:
      about: what it tells of.
      content: its body.
      status: an attribute, for filters of subscriptions.
    """
    return PubsubMessage(json.dumps(content).encode(), {ABOUT: about, "status": status})
