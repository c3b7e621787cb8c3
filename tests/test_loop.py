"""When a policy is trained again, and what other stages are advised until then; and which scores are the latest."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_drift import score

from beam_adacompress import DriftEstimate
from beam_adacompress.drift.contract import Rates
from beam_adacompress.drift.loop import Advice, Loop, Pace
from beam_adacompress.scores import MostRecent, score_of

PACE = Pace(gather=3, explore=0.5, usual_explore=0.02, rates=Rates(0.05, 0.2, 1.0))


def estimate(state, version="v1", key="", rate=None):
    rate = PACE.rates._asdict()[state] if rate is None else rate
    return DriftEstimate(
        key, 0.0, 60.0, 9, 9, 0.9, 0.8, 1.0, 0.5, 0.4, 0.6, 0.95, 0.5, version, "e-detector", state, "why", rate
    )


def scores(*keys, version="v1", **changes):
    return [score(key, 1, float(at), version, **changes) for at, key in enumerate(keys)]


def alarmed(pace=PACE):
    loop = Loop(pace)
    loop.told(estimate("retrain"))
    return loop


GATHERING = Advice("retrain", 1.0, 0.5, "v1")


def test_in_the_beginning_nothing_is_known():
    loop = Loop(PACE)
    assert (loop.advice, loop.alarm, loop.due) == (None, None, False)
    loop.scored(scores("a", "b", "c"))
    assert not loop.due


def test_while_all_is_well():
    loop = Loop(PACE)
    loop.told(estimate("inference"))
    assert loop.advice == Advice("inference", 0.05, 0.02, "v1")
    loop.told(estimate("estimate"))
    assert loop.advice == Advice("estimate", 0.2, 0.02, "v1")
    loop.told(estimate("inference"))
    assert loop.advice == Advice("inference", 0.05, 0.02, "v1")


def test_a_rate_of_the_detectors_own():  # as AdaCompress's, which recommends 0.2 to 0.95 in this state
    loop = Loop(PACE)
    loop.told(estimate("inference", rate=0.7))
    assert loop.advice == Advice("inference", 0.7, 0.02, "v1")
    loop.told(estimate("inference", rate=0.05))
    assert loop.advice == Advice("inference", 0.05, 0.02, "v1")


def test_after_an_alarm_scores_are_gathered():
    loop = Loop(PACE)
    loop.told(estimate("inference"))
    loop.scored(scores("before", "too", "and this one"))
    loop.told(estimate("retrain"))
    assert (loop.advice, loop.alarm, loop.wanted, loop.due) == (GATHERING, "v1", 3, False)
    loop.scored(scores("a", "b"))
    assert not loop.due
    loop.scored(scores("c"))
    assert loop.due


def test_only_new_scores_of_that_version_count_and_each_image_once():
    loop = alarmed()
    loop.scored(scores("a", "b", "a"))
    loop.scored(scores("a", "b"))  # a pane that is repeated
    loop.scored(scores("c", "d", version="v0"))
    loop.scored(scores("e", status="skipped"))
    assert not loop.due
    loop.scored(scores("c"))
    assert loop.due


def test_an_alarm_stands_until_another_version_is_in_service():
    loop = alarmed()
    loop.scored(scores("a", "b"))
    for late in ("inference", "estimate", "retrain"):  # of a window before it, or of another key
        loop.told(estimate(late, key="camera 2"))
        loop.told(estimate(late))
        assert loop.advice == GATHERING
    loop.scored(scores("c"))
    assert loop.due
    loop.told(estimate("inference", "v2"))  # another job has published
    assert (loop.advice, loop.alarm, loop.due) == (Advice("inference", 0.05, 0.02, "v2"), None, False)


def test_published():
    loop = alarmed()
    loop.scored(scores("a", "b", "c"))
    loop.serves("v1")  # as it is
    assert loop.due
    loop.serves("v2")
    assert (loop.advice, loop.alarm, loop.due) == (Advice("inference", 0.05, 0.02, "v2"), None, False)
    loop.scored(scores("d", "e", "f"))  # of workers that have not taken it up yet
    loop.told(estimate("retrain", "v2"))
    assert not loop.due
    loop.scored(scores("d", "e", "f", version="v2"))
    assert loop.due


def test_after_training_for_nothing_twice_as_many_are_gathered():
    loop = alarmed()
    for wanted in (3, 6, 12):
        loop.scored(scores(*map(str, range(wanted - 1))))
        assert (loop.wanted, loop.due) == (wanted, False)
        loop.scored(scores("one more"))
        assert loop.due
        loop.kept()
        assert not loop.due
        assert loop.advice == Advice("estimate", 0.2, 0.02, "v1")
    loop.serves("v2")
    assert loop.wanted == 3


def test_a_version_that_leaves_all_images_alone_has_to_be_replaced_too():
    loop = Loop(PACE)
    loop.serves("v2", leaves_all=True)
    assert (loop.advice, loop.alarm, loop.wanted) == (Advice("retrain", 1.0, 0.5, "v2"), "v2", 3)
    loop.told(estimate("inference", "v2"))
    loop.serves("v2", leaves_all=True)
    assert (loop.advice, loop.wanted) == (Advice("retrain", 1.0, 0.5, "v2"), 3)
    loop.kept()
    assert (loop.advice, loop.wanted) == (Advice("estimate", 0.2, 0.5, "v2"), 6)
    assert Loop.restored(loop.state(), PACE).advice == loop.advice
    loop.serves("v3")
    assert (loop.alarm, loop.wanted) == (None, 3)


def test_several_keys():
    loop = Loop(PACE)
    loop.told(estimate("estimate", key="a"))
    loop.told(estimate("inference", key="b", rate=0.4))
    assert loop.advice == Advice("estimate", 0.4, 0.02, "v1")
    loop.told(estimate("inference", key="a"))
    assert loop.advice == Advice("inference", 0.4, 0.02, "v1")
    loop.told(estimate("inference", key="b"))
    assert loop.advice == Advice("inference", 0.05, 0.02, "v1")
    loop.told(estimate("retrain", key="a"))
    loop.told(estimate("inference", key="b"))
    assert loop.advice == GATHERING


EVENTS = st.one_of(
    st.builds(
        lambda *told: ("told", estimate(*told)), st.sampled_from(PACE.rates._fields), st.sampled_from(["v1", "v2"])
    ),
    st.builds(lambda keys: ("scored", scores(*keys)), st.lists(st.sampled_from("abcde"))),
    st.just(("kept",)),
    st.just(("serves", "v2")),
)


@given(st.lists(EVENTS), st.lists(EVENTS))
def test_it_goes_on_from_its_state(before, after):
    loop = Loop(PACE)
    for name, *arguments in before:
        getattr(loop, name)(*arguments)
    copy = Loop.restored(json.loads(json.dumps(loop.state())), PACE)
    for name, *arguments in after:
        for each in (loop, copy):
            getattr(each, name)(*arguments)
        assert (copy.advice, copy.due, copy.alarm, copy.wanted) == (loop.advice, loop.due, loop.alarm, loop.wanted)
    assert copy.state() == loop.state()


@pytest.mark.parametrize("state", [{}, {"version": "v1"}, [], {**Loop(PACE).state(), "gathered": None}])
def test_what_is_no_state(state):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Loop.restored(state, PACE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gather": 0}, "^gather must be at least 1 score, got 0$"),
        ({"explore": 1.0}, r"^explore must be at least 0 and below 1, got 1\.0$"),
        ({"usual_explore": -0.1}, r"^usual_explore must be at least 0 and below 1, got -0\.1$"),
        ({"rates": Rates(estimate=0.0)}, r"^the rate for estimate must be above 0 and at most 1, got 0\.0$"),
    ],
)
def test_wrong_paces(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pace(**arguments)


# The latest scores.


def latest(rows, most):
    found = MostRecent(most)
    for row in rows:
        found.add(row)
    return found


def in_brief(found):
    return [(row.key, row.choice.policy_version, row.time) for row in found.ordered()]


def test_the_latest_scores_from_the_oldest_to_the_newest():
    rows = [score("c", time=3.0), score("a", time=1.0), score("b", time=2.0), score("a", time=0.5, version="b")]
    assert in_brief(latest(rows, 3)) == [("a", "a", 1.0), ("b", "a", 2.0), ("c", "a", 3.0)]
    assert in_brief(latest(rows, 9))[0] == ("a", "b", 0.5)


def test_of_an_image_the_latest_score_is_kept():
    rows = [score("a", 0, 5.0), score("a", 1, 9.0), score("a", 0, 7.0), score("b", 1, 6.0)]
    found = latest(rows, 9).ordered()
    assert [(row.key, row.agreement) for row in found] == [("b", 1), ("a", 1)]


ROWS = st.lists(
    st.builds(score, st.sampled_from("abcdefgh"), st.just(1), st.integers(0, 9).map(float), st.sampled_from(["v", "w"]))
)


@given(ROWS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_neither_order_nor_grouping_matter(rows, most, shuffle):
    by_image = {}
    for row in sorted(rows, key=lambda row: row.time):
        by_image[row.key, row.choice.policy_version] = row
    expected = sorted((row.time, key, version) for (key, version), row in by_image.items())[-most:]
    shuffle.shuffle(rows)
    at = shuffle.randint(0, len(rows))
    merged = latest(rows[:at], most)
    merged.merge(latest(rows[at:], most))
    for found in (latest(rows, most), merged):
        assert [(row.time, row.key, row.choice.policy_version) for row in found.ordered()] == expected


def test_what_is_held_is_bounded():
    found = latest([score(str(index), time=random.random()) for index in range(1000)], 10)
    assert len(found._rows) < 20


def test_the_score_in_a_row_with_more_fields():
    import apache_beam as beam

    row = score("a")
    assert score_of(beam.Row(shard=3, **row._asdict())) == row
