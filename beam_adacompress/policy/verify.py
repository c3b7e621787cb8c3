"""Verified choice: the cheapest of a ladder of actions at which the backend really agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

LADDER = (5, 8, 11, 15, 20, 26, 34, 45, 60, 75, 90)  # qualities; each takes about a quarter more bytes than the last


def cheapest(start: int, count: int, agrees: Callable[[int], bool], margin: int = 0) -> Optional[int]:
    """Looks for the cheapest action that agrees, near a proposal first.

    Gallops away from the proposal, down while actions agree and up while they do not, with steps of 1, 2, 4, ...,
    and halves what lies between the two sides. Agreement does not always grow with quality: what is found agrees, and
    the action below it does not, but a cheaper one further down may.

        down from 5, agreeing:      5 4 2        then 3, between 2 (disagrees) and 4
        up from 5, disagreeing:     5 6 8        then 7, between 6 (disagrees) and 8

    Args:
      start: index of the proposal, 0..count - 1.
      count: of actions, in ascending order of bytes.
      agrees: asks the backend about the action with an index; asked once for each.
      margin: how many of the next actions, as far as there are so many, have to agree as well.

    Returns:
      Its index; None where not even the last one agrees.
    """
    assert 0 <= start < count, (start, count)
    known: dict[int, bool] = {}

    def agrees_at(index: int) -> bool:
        if index not in known:
            known[index] = agrees(index)
        return known[index]

    def holds(index: int) -> bool:
        return all(agrees_at(each) for each in range(index, min(index + margin + 1, count)))

    step = 1
    if holds(start):
        low, high = start - 1, start
        while low >= 0 and holds(low):
            low, high = low - 2 * step, low
            step *= 2
        if low < 0 and high > 0 and not holds(0):
            low = 0
        elif low < 0:
            return 0
    else:
        low, high = start, start + 1
        while high < count and not holds(high):
            low, high = high, high + 2 * step
            step *= 2
        if high >= count:
            if low == count - 1 or not holds(count - 1):
                return None
            high = count - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
