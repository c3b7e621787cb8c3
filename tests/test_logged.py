from __future__ import annotations

import math
import random

import numpy as np
import pytest
import scenery
from scenery import FEATURES, SPACE, policy, score

from beam_adacompress.jpeg.tables import ORIGINAL, Family
from beam_adacompress.policy import features
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.logged import logged
from beam_adacompress.records import NO_REFERENCE, SKIPPED

INCUMBENT = policy(calibrated=10)


def chosen(**changes):
    """The choice of a score, with changes."""
    return {"choice": score().choice._replace(**changes)}


def test_scores_as_arrays():
    found = logged(
        [
            score("b", quality=90, propensity=0.25, sampling_probability=0.1, agreement=0, size_ratio=0.5, time=7.0),
            score("a", tables="robidoux", quality=10),
            score("c", tables=ORIGINAL, quality=100, size_ratio=1.0),
        ],
        INCUMBENT,
    )
    assert found.keys == ("a", "b", "c")
    assert found.action.tolist() == [4, 3, 8]
    assert found.propensity.tolist() == [0.5, 0.25, 0.5]
    assert found.stands_for.tolist() == [1, 10, 1]
    assert found.agreement.tolist() == [1, 0, 1]
    assert found.ratio.tolist() == [0.2, 0.5, 1]
    assert found.time.tolist() == [1, 7, 1]
    assert found.features.shape == (3, FEATURES)
    assert (found.actions, found.backends, found.said()) == (8, (("litert:one.tflite", "1"),), "")
    assert found.taken.action.tolist() == [4, 3, 8]


def test_what_can_be_learned_from_was_encoded_again():
    rows = [score("a", size_ratio=0.25), score("b", size_ratio=1.0), score("c", ORIGINAL, 100, size_ratio=1.0)]
    found = logged(rows, INCUMBENT)
    learned_from = found.learnable()
    assert learned_from.keys == ("a",)
    bytes_in = features.source_bytes(np.array([score().features]))
    rows = learned_from.logged()
    assert (rows.action.tolist(), rows.propensity.tolist(), rows.agreement.tolist()) == ([1], [0.5], [1])
    assert rows.size == pytest.approx(0.25 * bytes_in)
    assert rows.bytes_75 == pytest.approx(bytes_in)
    with pytest.raises(AssertionError, match="learn from `learnable` rows"):
        found.logged()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": NO_REFERENCE, "agreement": None}, "have no answer to compare"),
        ({"status": SKIPPED, "agreement": None}, "have no answer to compare"),
        ({"features": []}, "have no features that this policy looks at"),
        ({"features": [0.0] * (FEATURES + 1)}, "have no features that this policy looks at"),
        (chosen(verified_by="litert:one.tflite 1"), "were verified before they were chosen"),
        (chosen(quality=35), "have an action that this policy does not know"),
        (chosen(tables="deepn"), "have an action that this policy does not know"),
        ({"features": [math.nan] * FEATURES}, "have numbers that cannot be"),
        ({"propensity": 0.0}, "have numbers that cannot be"),
        ({"propensity": 1.5}, "have numbers that cannot be"),
        ({"sampling_probability": 0.0}, "have numbers that cannot be"),
        ({"agreement": None}, "have numbers that cannot be"),
        ({"size_ratio": math.inf}, "have numbers that cannot be"),
        ({"size_ratio": 0.0}, "have numbers that cannot be"),
        ({"time": math.nan}, "have numbers that cannot be"),
    ],
)
def test_what_cannot_be_used_is_counted(changes, reason):
    found = logged([score("a"), score("b")._replace(**changes), score("c")], INCUMBENT)
    assert found.keys == ("a", "c")
    assert found.left_out == {reason: 1}
    assert found.said() == f"1 {reason}"


def test_why_scores_are_left_out_is_said_together():
    found = logged([score("a", features=[]), score("b", features=[]), score("c", status=SKIPPED)], INCUMBENT)
    assert (len(found), found.features.shape) == (0, (0, FEATURES))
    assert found.said() == "1 have no answer to compare, 2 have no features that this policy looks at"


def test_an_image_counts_once_for_each_version():
    later = score("a", agreement=0, time=2.0)
    other = score("a", time=3.0)._replace(**chosen(policy_version="another"))
    found = logged([later, other, score("a")], INCUMBENT)
    assert found.keys == ("a", "a")
    assert found.time.tolist() == [1, 3]
    assert found.left_out == {"are there twice": 1}


def test_the_order_of_scores_does_not_matter():
    rows = [*scenery.scores(policy(), 30, 0), score("a"), score("a", time=2.0)]
    first = logged(rows, INCUMBENT)
    random.Random(3).shuffle(rows)
    again = logged(rows, INCUMBENT)
    assert first.keys == again.keys
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.time, again.time)


def test_tables_of_a_policys_own_are_known_by_their_file():
    own = Family("mine", SPACE.families[0].luma[::-1], SPACE.families[0].chroma)
    incumbent = policy(calibrated=10, space=ActionSpace((SPACE.families[0], own), SPACE.qualities))
    there = incumbent.references("gs://bucket/policies/versions/one")[1]
    here = incumbent.references("/tmp/elsewhere")[1]
    assert there != here
    found = logged([score("a", there, 10), score("b", here, 90), score("c", "mine", 10)], incumbent)
    assert found.action.tolist() == [4, 7]
    assert found.left_out == {"have an action that this policy does not know": 1}


def test_all_rows_of_an_image_are_in_one_part():
    rows = scenery.scores(policy(), 300, 0)
    old = [row._replace(choice=row.choice._replace(policy_version="old")) for row in rows[:100]]
    found = logged(rows + old, INCUMBENT)
    parts = found.parts(3, "0")
    counts = np.bincount(parts)
    assert counts.sum() == 400
    assert counts.min() > 100
    of_key = {}
    for key, part in zip(found.keys, parts):
        of_key.setdefault(key, set()).add(int(part))
    assert {len(several) for several in of_key.values()} == {1}
    assert not np.array_equal(parts, found.parts(3, "1"))


def test_rows_are_taken_by_whether_or_where_they_are():
    found = logged([score("a", time=1.0), score("b", time=2.0), score("c", time=3.0)], INCUMBENT)
    assert found.take(np.array([True, False, True])).keys == ("a", "c")
    swapped = found.take(np.array([2, 0]))
    assert (swapped.keys, swapped.time.tolist(), swapped.features.shape) == (("c", "a"), [3, 1], (2, FEATURES))
