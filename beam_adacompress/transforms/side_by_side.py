"""Rows that wait for their answers side by side, and leave in the order, with the timestamp and in the window of their
coming."""

from __future__ import annotations

import abc
import collections
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

_BYTES_UNDER_WAY = 64 * 1024 * 1024  # of image files


class _UnderWay(NamedTuple):
    row: Any
    future: Future[Any]
    size: int  # bytes
    timestamp: Any
    window: Any


class SideBySide(beam.DoFn, abc.ABC):
    """Base of DoFns whose `process` starts something for a row and calls `wait_for` with it."""

    @abc.abstractmethod
    def outputs(self, row: Any, result: Any) -> Iterator[tuple[Optional[str], Any]]:
        """What a row comes to: tags, None for the main output, and values."""

    def start_bundle(self) -> None:
        self._under_way: collections.deque[_UnderWay] = collections.deque()
        self._bytes = 0

    def wait_for(
        self, row: Any, future: Future[Any], size: int, timestamp: Any, window: Any, at_once: int
    ) -> Iterator[Any]:
        """Lets a row wait, and gives the outputs of those that need not, or must not, wait any longer.

        Args:
          row: an element.
          future: of its result.
          size: bytes that the row holds.
          timestamp, window: of the row.
          at_once: rows that may wait.
        """
        self._under_way.append(_UnderWay(row, future, size, timestamp, window))
        self._bytes += size
        while self._under_way and (
            self._under_way[0].future.done() or len(self._under_way) > at_once or self._bytes > _BYTES_UNDER_WAY
        ):
            yield from self._finish_first()

    def finish_bundle(self) -> Iterator[Any]:
        while self._under_way:
            yield from self._finish_first()

    def _finish_first(self) -> Iterator[Any]:
        first = self._under_way.popleft()
        self._bytes -= first.size
        for tag, output in self.outputs(first.row, first.future.result()):
            value = WindowedValue(output, first.timestamp, (first.window,))
            yield value if tag is None else beam.pvalue.TaggedOutput(tag, value)
