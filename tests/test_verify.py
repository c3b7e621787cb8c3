from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_adacompress.policy.verify import cheapest


def looked(start, agreeing, margin=0):
    """What is found, and the order in which actions were asked about; `agreeing` is e.g. `..xx`."""
    asked = []

    def agrees(index):
        asked.append(index)
        return agreeing[index] == "x"

    return cheapest(start, len(agreeing), agrees, margin), asked


@pytest.mark.parametrize(
    ("start", "agreeing", "found", "asked"),
    [
        (5, "...xxxxx", 3, [5, 4, 2, 3]),
        (5, "......xx", 6, [5, 6]),
        (3, ".......x", 7, [3, 4, 6, 7]),
        (5, ".......x.", None, [5, 6, 8]),
        (5, "xxxxxxxx", 0, [5, 4, 2, 0]),
        (1, "xxxxxxxx", 0, [1, 0]),
        (0, "........", None, [0, 1, 3, 7]),
        (2, ".xxxxxxx", 1, [2, 1, 0]),
        (7, "......xx", 6, [7, 6, 4, 5]),
        (0, "x", 0, [0]),
        (0, ".", None, [0]),
    ],
)
def test_the_way_to_the_cheapest(start, agreeing, found, asked):
    assert looked(start, agreeing) == (found, asked)


@given(st.integers(1, 14), st.data())
def test_where_agreement_grows_the_cheapest_is_found(count, data):
    first = data.draw(st.integers(0, count))
    start = data.draw(st.integers(0, count - 1))
    found, asked = looked(start, "." * first + "x" * (count - first))
    assert found == (first if first < count else None)
    assert len(asked) == len(set(asked)) <= 2 + 2 * count.bit_length()


@given(st.text(".x", min_size=1, max_size=12), st.data())
def test_what_is_found_agrees_with_its_margin(agreeing, data):
    start = data.draw(st.integers(0, len(agreeing) - 1))
    margin = data.draw(st.integers(0, 3))
    found, asked = looked(start, agreeing, margin)
    assert len(asked) == len(set(asked))
    if found is None:  # then the last one that was asked about, or one within its margin, does not agree
        assert agreeing[-1] == "." or "." in agreeing[-1 - margin :]
        return
    assert set(agreeing[found : found + margin + 1]) == {"x"}


def test_a_margin_asks_that_finer_steps_agree_too():
    assert looked(0, "x.xxxx")[0] == 0
    assert looked(0, "x.xxxx", margin=1)[0] == 2
    assert looked(5, "...xxx", margin=2)[0] == 3
