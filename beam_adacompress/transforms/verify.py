"""Verified choice: from a policy's proposal to the cheapest quality at which backends really agree.

    image ─▶ decode ─▶ encode at a quality ─▶ ask ─▶ agrees? cheaper : finer ─▶ ... ─▶ Choice
                 ▲                                            │
                 └────────────────────────────────────────────┘  see policy.verify

Images wait for their answers side by side; each leaves with the timestamp and in the window that it came in.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import BackendError, Labels, Query, contract
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Answered
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg.codec import encode_file, is_worth_it, obstacle_of
from beam_adacompress.jpeg.tables import ORIGINAL, quantisation
from beam_adacompress.policy.verify import LADDER, cheapest
from beam_adacompress.records import NO_REFERENCE, Choice, Usage
from beam_adacompress.transforms import files, rows
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.metrics import CallMetrics, StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, failure_row
from beam_adacompress.transforms.side_by_side import SideBySide

STAGE = "ChooseQuality"
_AT_ONCE = 16  # images, where a backend is remote
_PIXEL_BYTES = 256 * 1024 * 1024  # of pixels, in each worker process


class VerifyChoice(SideBySide):
    """Replaces a choice by the cheapest one of its table family at which all backends agree.

    Args:
      choice: the proposal.
      connections: to the backends.
      margin: how many of the next finer qualities have to agree as well.
      top: labels of the compressed image among which the reference's best one has to be.
      settings: of the encoder that will compress the image.
      chosen, failed: shapes of the outputs' rows.
    """

    def __init__(
        self,
        choice: Choice,
        connections: Sequence[Connection],
        margin: int,
        top: int,
        settings: jpeg.Settings,
        chosen: rows.Shape,
        failed: rows.Shape,
    ) -> None:
        self._choice = choice
        self._connections = connections
        self._margin = margin
        self._top = top
        self._settings = settings
        self._chosen = chosen
        self._failed = failed
        self._version = f"{choice.policy_version}-verified"
        self._qualities = tuple(sorted({*LADDER, choice.quality}))
        self._metrics = StageMetrics(STAGE)
        self._calls = CallMetrics(STAGE)

    def setup(self) -> None:
        self._clients = [connection.client() for connection in self._connections]
        self._names = ", ".join(f"{client.terms.name} {client.terms.version}" for client in self._clients)
        local = all(client.terms.is_local for client in self._clients)
        asked_for = max(connection.manners.concurrency or 0 for connection in self._connections)
        self._at_once = 1 if local else asked_for or _AT_ONCE
        self._threads = ThreadPoolExecutor(self._at_once)
        self._room = _Room(_PIXEL_BYTES)

    def process(
        self,
        row: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        verified = self._threads.submit(self._verify, row)
        yield from self.wait_for(row, verified, len(row.data), timestamp, window, 2 * self._at_once)

    def teardown(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def outputs(self, row: Any, result: _Verified) -> Iterator[tuple[Optional[str], Any]]:
        choice, answered = result
        for client, each in answered:
            cost = each.calls * client.terms.price
            self._calls.used(Usage(row.key, each.calls, each.retries, each.from_cache, each.throttled, cost))
            self._calls.throttled(client.take_throttled())
        if isinstance(choice, Choice):
            self._metrics.chose(choice.quality)
            self._metrics.gave(len(row.data))
            yield None, self._chosen.make(row, choice=choice)
            return
        if choice.reason == contract.CREDENTIALS:
            raise AdaCompressError(choice.message) from choice  # no image will be verified before that is mended
        self._metrics.failed()
        yield FAILURES, failure_row(self._failed, row, STAGE, choice)

    def _verify(self, row: Any) -> _Verified:
        """In a thread of its own, where Beam does not count."""
        asked: list[tuple[Client, Answered]] = []
        try:
            opened = jpeg.open_image(row.data, self._settings.max_pixels)
            if obstacle_of(opened, self._settings):
                return _Verified(self._choice, asked)  # it will be kept
            with self._room.of(4 * opened.width * opened.height):
                return _Verified(self._cheapest(_OneImage(row, opened, self._version, self._settings), asked), asked)
        except (ImageError, BackendError) as error:
            return _Verified(error, asked)

    def _cheapest(self, image: _OneImage, asked: list[tuple[Client, Answered]]) -> Choice:
        def labels(client: Client, query: Query) -> Labels:
            asked.append((client, client.ask(query).result()))
            answer = asked[-1][1].answer
            if isinstance(answer, BackendError):
                raise answer
            return answer

        references = []
        for client in self._clients:
            if (error := client.terms.too_many_pixels(image.opened.width, image.opened.height)) is not None:
                raise error
            references.append(labels(client, image.original))
            if not references[-1]:
                name = client.terms.name
                raise BackendError(NO_REFERENCE, f"{name} sees nothing in the original: there is nothing to verify")

        def agrees(index: int) -> bool:
            query = image.at(self._choice.tables, self._qualities[index])
            return query is None or all(
                reward.agreement(reference, labels(client, query), self._top)
                for client, reference in zip(self._clients, references)
            )

        start = self._qualities.index(self._choice.quality)
        found = cheapest(start, len(self._qualities), agrees, self._margin)
        if found is None:
            return Choice(ORIGINAL, 100, self._version, 1.0, 1.0, self._names)
        return Choice(self._choice.tables, self._qualities[found], self._version, 1.0, 1.0, self._names)


class _Verified(NamedTuple):
    choice: Union[Choice, ImageError, BackendError]
    answered: Sequence[tuple[Client, Answered]]


class _OneImage:
    """An image, and the files that would be made of it."""

    def __init__(self, row: Any, opened: jpeg.Source, version: str, settings: jpeg.Settings) -> None:
        self.opened = opened
        self.original = Query(row.data, row.key)
        self._pixels = opened.pixels()
        self._version = version
        self._settings = settings

    def at(self, tables: str, quality: int) -> Optional[Query]:
        """The file of a quality; None where the original is kept, since it would not be smaller."""
        steps = quantisation(tables, quality, files.read)
        encoded = encode_file(self.opened, self._pixels, steps, self._version, self._settings)
        if not is_worth_it(len(encoded), len(self.original.data), self._settings):
            return None
        return Query(encoded, self.original.key, quality)


class _Room:
    """Memory for pixels that several threads share; an image that needs more than all of it gets it alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
