"""The CombineFn of statistics that know how to merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Optional

import apache_beam as beam


class Merge(beam.CombineFn):
    """Adds elements up in an object whose `merge` takes another of its kind.

    Args:
      make: an empty one.
      add: adds an element to one; None where the elements are of its kind themselves.
    """

    def __init__(self, make: Callable[[], Any], add: Optional[Callable[[Any, Any], None]] = None) -> None:
        self._make = make
        self._add = add

    def create_accumulator(self) -> Any:
        return self._make()

    def add_input(self, accumulator: Any, element: Any) -> Any:
        if self._add is None:
            accumulator.merge(element)
        else:
            self._add(accumulator, element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        merged = self._make()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator
