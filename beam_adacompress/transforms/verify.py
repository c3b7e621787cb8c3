"""Verified choice: from a policy's proposal to the cheapest quality at which backends really agree.

    image ─▶ decode ─▶ encode at a quality ─▶ ask ─▶ agrees? cheaper : finer ─▶ ... ─▶ Choice
                 ▲                                            │
                 └────────────────────────────────────────────┘  see policy.verify

Images wait for their answers side by side; each leaves with the timestamp and in the window that it came in.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import BackendError, Labels, Query, contract
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Answered
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg.tables import ORIGINAL, quantisation
from beam_adacompress.policy.verify import LADDER, cheapest
from beam_adacompress.records import NO_REFERENCE, Choice, Usage
from beam_adacompress.transforms import files, rows
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.metrics import CallMetrics, StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, failure_row

STAGE = "ChooseQuality"
_AT_ONCE = 16  # images, where a backend is remote
_BYTES_UNDER_WAY = 64 * 1024 * 1024


class _UnderWay(NamedTuple):
    row: Any
    chosen: Future[Choice]
    timestamp: Any
    window: Any


class VerifyChoice(beam.DoFn):
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
        self._qualities = tuple(sorted({*LADDER, choice.quality}))
        self._metrics = StageMetrics(STAGE)
        self._calls = CallMetrics(STAGE)

    def setup(self) -> None:
        self._clients = [connection.client() for connection in self._connections]
        self._names = ", ".join(f"{client.terms.name} {client.terms.version}" for client in self._clients)
        local = all(client.terms.is_local for client in self._clients)
        self._threads = ThreadPoolExecutor(1 if local else _AT_ONCE)

    def start_bundle(self) -> None:
        self._under_way: collections.deque[_UnderWay] = collections.deque()
        self._bytes = 0

    def process(
        self,
        row: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        self._under_way.append(_UnderWay(row, self._threads.submit(self._choose, row), timestamp, window))
        self._bytes += len(row.data)
        while self._under_way and (
            self._under_way[0].chosen.done() or len(self._under_way) > 2 * _AT_ONCE or self._bytes > _BYTES_UNDER_WAY
        ):
            yield self._finish_first()

    def finish_bundle(self) -> Iterator[Any]:
        while self._under_way:
            yield self._finish_first()

    def teardown(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finish_first(self) -> Any:
        first = self._under_way.popleft()
        self._bytes -= len(first.row.data)
        output: Any
        try:
            choice = first.chosen.result()
        except (ImageError, BackendError) as error:
            if error.reason == contract.CREDENTIALS:
                raise AdaCompressError(error.message) from error  # no image will be verified before that is mended
            self._metrics.failed()
            output = failure_row(self._failed, first.row, STAGE, error)
            return beam.pvalue.TaggedOutput(FAILURES, WindowedValue(output, first.timestamp, (first.window,)))
        self._metrics.chose(choice.quality)
        self._metrics.gave(len(first.row.data))
        output = self._chosen.make(first.row, choice=choice)
        return WindowedValue(output, first.timestamp, (first.window,))

    def _choose(self, row: Any) -> Choice:
        opened = jpeg.open_image(row.data, self._settings.max_pixels)
        if opened.obstacle and not (self._settings.flatten and opened.flattens):
            return self._choice  # it will be kept
        search = _OneImage(row, opened.pixels(), self._clients, self._choice.tables, self._top, self._settings)
        try:
            start = self._qualities.index(self._choice.quality)
            found = cheapest(
                start, len(self._qualities), lambda index: search.agrees(self._qualities[index]), self._margin
            )
        finally:
            self._count(row.key, search.answered)
        version = f"{self._choice.policy_version}-verified"
        if found is None:
            return Choice(ORIGINAL, 100, version, 1.0, 1.0, self._names)
        return Choice(self._choice.tables, self._qualities[found], version, 1.0, 1.0, self._names)

    def _count(self, key: str, answered: Sequence[tuple[Client, Answered]]) -> None:
        for client, each in answered:
            cost = each.calls * client.terms.price
            self._calls.used(Usage(key, each.calls, each.retries, each.from_cache, each.throttled, cost))
            self._calls.throttled(client.take_throttled())


class _OneImage:
    """What backends say of one image."""

    def __init__(
        self, row: Any, pixels: Any, clients: Sequence[Client], tables: str, top: int, settings: jpeg.Settings
    ) -> None:
        self._row = row
        self._pixels = pixels
        self._clients = clients
        self._tables = tables
        self._top = top
        self._settings = settings
        self.answered: list[tuple[Client, Answered]] = []
        self._references: list[Labels] = []
        for client in clients:
            labels = self._labels(client, Query(row.data, row.key))
            if not labels:
                name = client.terms.name
                raise BackendError(NO_REFERENCE, f"{name} sees nothing in the original: there is nothing to verify")
            self._references.append(labels)

    def agrees(self, quality: int) -> bool:
        """Whether all backends see at a quality what they see in the original; where it does not pay, it is kept."""
        encoded = jpeg.encode(self._pixels, quantisation(self._tables, quality, files.read), self._settings)
        if len(encoded) > (1 - self._settings.min_saving) * len(self._row.data):
            return True
        query = Query(encoded, self._row.key, quality)
        return all(
            reward.agreement(reference, self._labels(client, query), self._top)
            for client, reference in zip(self._clients, self._references)
        )

    def _labels(self, client: Client, query: Query) -> Labels:
        answered = client.ask(query).result()
        self.answered.append((client, answered))
        if isinstance(answered.answer, BackendError):
            raise answered.answer
        return answered.answer
