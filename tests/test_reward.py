from __future__ import annotations

import pytest

from beam_adacompress.records import Label
from beam_adacompress.reward import Judgement, agreement, judge


def labels(*names: str) -> tuple[Label, ...]:
    return tuple(Label(name, 0.9 - 0.1 * index) for index, name in enumerate(names))


@pytest.mark.parametrize(
    ("reference", "compressed", "top", "agreed"),
    [
        ("a", "abcde", 5, 1),
        ("a", "bcdea", 5, 1),
        ("a", "bcdefa", 5, 0),
        ("a", "bcdefa", 6, 1),
        ("ab", "ba", 1, 0),  # only the reference's best label counts
        ("ab", "ab", 1, 1),
        ("a", "", 5, 0),
    ],
)
def test_agreement(reference, compressed, top, agreed):
    assert agreement(labels(*reference), labels(*compressed), top) == agreed


def test_a_judgement_by_hand():
    assert judge(labels("a", "b"), labels("b", "a"), 0.3) == Judgement("scored", 1, 0, 0.7)
    assert judge(labels("a"), labels("x"), 1.25) == Judgement("scored", 0, 0, -1.25)
    assert judge(labels("a"), labels("x", "a"), 0.5, top=1) == Judgement("scored", 0, 0, -0.5)


def test_a_reference_without_labels_is_its_own_category():
    assert judge((), labels("a"), 0.3) == Judgement("no-reference")
    assert judge((), (), 0.3, errors="skip") == Judgement("no-reference")


def test_nothing_seen_any_more_is_a_disagreement_unless_skipped():
    assert judge(labels("a"), (), 0.25) == Judgement("scored", 0, 0, -0.25)
    assert judge(labels("a"), (), 0.25, errors="skip") == Judgement("skipped")
