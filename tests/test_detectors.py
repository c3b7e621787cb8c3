"""The drift detectors, each by hand and as all have to behave."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_adacompress.drift import DETECTORS, Level, Rates, Seen, make
from beam_adacompress.errors import AdaCompressError

LEVEL = Level(0.97, 0.5)
RATES = Rates(0.05, 0.25, 1.0)
QUICK = {"e-detector": {"false_alarms": 100}, "adacompress": {}, "page-hinkley": {"threshold": 3.0}, "adwin": {}}


def detector(name="e-detector", level=LEVEL.agreement, **options):
    return make(name, Level(level, 0.5), RATES, options)


def feed(made, agreements, weight=1.0):
    for agreement in agreements:
        made.update(Seen(agreement, agreement - 0.4, weight))
    return made


def drawn(share, seed, weights=(1.0,)):
    """Scores without end, of which a share agrees."""
    source = random.Random(seed)
    while True:
        agreement = int(source.random() < share)
        yield Seen(agreement, agreement - 0.4, source.choice(weights))


def alarm(made, scores):
    """Scores up to the first alarm, that one included."""
    for count, seen in enumerate(scores, 1):
        made.update(seen)
        if made.verdict().state == "retrain":
            return count
    return None


def wealth(made):
    return statistics.fmean(made.state()["wealth"])


# What all of them have to do.


@pytest.mark.parametrize("name", DETECTORS)
def test_a_drop_is_found_and_stays_found(name):
    made = feed(detector(name, **QUICK[name]), [1] * 200)
    assert made.verdict().state == "inference"
    feed(made, [0] * 100)
    assert made.verdict()[::2] == ("retrain", 1.0)
    before = made.verdict()
    assert made.verdict() == before
    assert feed(made, [1] * 500).verdict().state == "retrain"


@pytest.mark.parametrize("name", DETECTORS)
def test_nothing_is_found_where_all_agree(name):
    made = feed(detector(name), [1] * 500)
    assert made.verdict().state == "inference"
    assert made.verdict().sample_rate == (0.2 if name == "adacompress" else 0.05)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("scores", [0, 1, 9, 10, 11, 300, 420])
def test_a_restored_detector_goes_on_as_the_first(name, scores):
    history = [seen.agreement for seen in itertools.islice(drawn(0.97, 3), 300)] + [0, 1] * 100
    made = feed(detector(name, **QUICK[name]), history[:scores])
    restored = detector(name, **QUICK[name])
    restored.restore(json.loads(json.dumps(made.state())))
    assert (restored.verdict(), restored.evidence) == (made.verdict(), made.evidence)
    for agreement in history[scores:]:
        feed(made, [agreement])
        feed(restored, [agreement])
        assert restored.verdict() == made.verdict()
    assert made.verdict().state == "retrain"


@pytest.mark.parametrize("name", DETECTORS)
def test_a_state_of_something_else_is_refused(name):
    with pytest.raises((KeyError, TypeError, ValueError)):
        detector(name).restore({"of": "another release"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("oracle", {}, "^detector must be one of e-detector, adacompress, page-hinkley, adwin, got 'oracle'$"),
        (
            "e-detector",
            {"n": 1},
            "^the detector e-detector has no option 'n', but false_alarms, suspicion$",
        ),
        ("e-detector", {"false_alarms": 99}, "^false_alarms must be at least 100 scores, got 99$"),
        ("e-detector", {"suspicion": 1.0}, r"^suspicion must be above 0 and below 1, got 1\.0$"),
        ("e-detector", {"level": 1.0}, "has no option 'level'"),
        ("adacompress", {"window": 0}, "^window must be at least 1 score, got 0$"),
        ("adacompress", {"threshold": 1.5}, r"^threshold must be from 0 to 1, or 'memory', got 1\.5$"),
        ("adacompress", {"threshold": "best"}, "^threshold must be from 0 to 1, or 'memory', got 'best'$"),
        ("page-hinkley", {"mode": "up"}, "^the detector page-hinkley has no option 'mode', but min_instances, delta"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, LEVEL, RATES, options)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_that_nothing_can_fall_below_or_keep(level):
    with pytest.raises(ValueError, match=rf"^level must be above 0 and below 1, got {level}$"):
        detector(level=level)


# The e-detector.


def test_the_e_detector_by_hand():
    # Bets b = 1/2, ..., 1/64 have the mean 63/384 and the mean square 0.055542. A disagreement at the level 0.9 is
    # worth 1 + 9 b, an agreement 1 - b: M = 1 + 9 * 63/384, then the mean of (2 + 9 b) (1 - b) = 2 + 7 b - 9 b^2.
    made = feed(detector(level=0.9, false_alarms=1000), [0])
    assert wealth(made) == pytest.approx(2.4765625)
    feed(made, [1])
    assert wealth(made) == pytest.approx(2.648560, abs=1e-6)
    assert made.evidence == pytest.approx(0.1410, abs=1e-4)  # log 2.64856 / log 1000
    assert made.verdict() == (
        "inference",
        "the evidence against an agreement of 0.9 is 2.649, below 100",
        0.05,
    )


def test_the_e_detector_suspects_before_it_is_sure():
    made = detector(level=0.9, false_alarms=1000)
    said = [feed(made, [0]).verdict() for _ in range(5)]
    # All disagreeing, M is 2.48, 10.9, 47.2, 223 (above 1000 ** (2 / 3) = 100) and 1132: sums of powers of 1 + 9 b.
    assert [each.state for each in said] == ["inference", "inference", "inference", "estimate", "retrain"]
    assert [each.sample_rate for each in said] == [0.05, 0.05, 0.05, 0.25, 1.0]
    assert said[3].reason == "the evidence against an agreement of 0.9 is 223.4, above 100: look closer"
    assert said[4].reason == "the evidence against an agreement of 0.9 is 1132, and 1000 is enough"
    assert made.evidence == 1.0
    assert detector().evidence == 0.0


def test_scores_of_images_that_are_scored_more_often_count_less():
    # After a score of weight 4, one of weight 1 is worth a quarter of the stakes.
    made = feed(feed(detector(level=0.9), [0], weight=4.0), [0], weight=1.0)
    bets = [0.5**k for k in range(1, 7)]
    assert wealth(made) == pytest.approx(statistics.fmean((2 + 9 * b) * (1 + 9 * b / 4) for b in bets))
    # A weight above all before it counts as the largest one of those.
    larger = feed(feed(detector(level=0.9), [0], weight=1.0), [0], weight=50.0)
    assert wealth(larger) == pytest.approx(wealth(feed(detector(level=0.9), [0, 0])))


def test_a_higher_sample_rate_does_not_blunt_it():
    # Suspicion raises the rate from 5 to 20 %: the weights of all scores fall from 20 to 5 together.
    history = [seen.agreement for seen in itertools.islice(drawn(0.97, 1), 100)]
    raised, alike = feed(detector(), history, weight=20.0), feed(detector(), history, weight=5.0)
    assert raised.verdict() == alike.verdict()
    feed(raised, [1] * 32, weight=5.0)
    feed(alike, [1] * 32, weight=5.0)
    for made in (raised, alike):
        made.restore({**made.state(), "wealth": [1.0] * 6})
        feed(made, [0, 0, 1, 0], weight=5.0)
    assert wealth(raised) == pytest.approx(wealth(alike))


@given(
    history=st.lists(st.tuples(st.integers(0, 1), st.floats(1.0, 1000.0)), max_size=60),
    level=st.floats(0.05, 0.99),
    weight=st.floats(1.0, 1000.0),
)
@settings(deadline=None, max_examples=100)
def test_at_the_level_the_evidence_grows_by_one_a_score_whatever_came_before(history, level, weight):
    # The guarantee itself: M less the number of scores is a martingale where agreement is at the level, so the expected
    # number of scores up to M >= N is at least N.
    after = {}
    for agreement in (0, 1):
        made = detector(level=level, false_alarms=10**300)
        for before, before_weight in history:
            feed(made, [before], before_weight)
        now = wealth(made)
        after[agreement] = wealth(feed(made, [agreement], weight))
    assert after[1] >= 0
    assert (1 - level) * after[0] + level * after[1] == pytest.approx(now + 1, rel=1e-9)


@pytest.mark.parametrize(("level", "weights"), [(0.97, (1.0,)), (0.9, (1.0, 4.0, 20.0))])
def test_false_alarms_are_as_rare_as_stated(level, weights):
    runs = [alarm(detector(level=level, false_alarms=200), drawn(level, seed, weights)) for seed in range(150)]
    assert statistics.fmean(runs) >= 200
    # Nor so rare that the detector would sleep.
    assert statistics.fmean(runs) <= 1500


@pytest.mark.parametrize(
    ("false_alarms", "dropped", "delay"), [(10_000, 0.9, 130), (10_000, 0.85, 65), (1000, 0.9, 75), (1000, 0.93, 150)]
)
def test_drops_are_found_soon(false_alarms, dropped, delay):
    # The likelihood ratio of the true drop, which nothing beats, takes 95, 47, 52 and 101 scores on average.
    delays = []
    for seed in range(120):
        made = detector(false_alarms=false_alarms)
        if alarm(made, itertools.islice(drawn(0.97, seed), 150)) is None:
            delays.append(alarm(made, drawn(dropped, 1000 + seed)))
    assert len(delays) > 90
    assert statistics.fmean(delays) <= delay


# AdaCompress's rule.


def rates_after(made, agreements):
    return [feed(made, [agreement]).verdict().sample_rate for agreement in agreements]


def test_adacompress_by_hand():
    # The mean of the last two before each score: none, 1, 1, 1, 0.5, 0.5, 1.
    made = detector("adacompress", window=2, threshold=0.0)
    assert rates_after(made, [1, 1, 1, 0, 1, 1, 1]) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.95, 0.95, 0.2])


def test_adacompress_moves_the_rate_by_three_times_the_fall():
    # One of ten disagrees: the mean falls by 0.1 once, and rises again once that one has left the window.
    made = detector("adacompress")
    assert rates_after(made, [1] * 12 + [0] + [1] * 12)[12:] == pytest.approx([0.2] + [0.5] * 10 + [0.2] * 2)


def test_adacompress_says_retrain_one_score_late_and_not_before_its_window_is_full():
    states = []
    made = detector("adacompress", window=2)
    for agreement in (0, 0, 1, 1):
        states.append(feed(made, [agreement]).verdict().state)
    assert states == ["inference", "inference", "retrain", "retrain"]
    assert made.verdict().reason == (
        "a mean of 2 scores: it fell below the threshold, which is 0.8; "
        "the mean agreement of the scores before the last one is 0.5"
    )
    assert made.evidence is None


def test_adacompress_against_its_memory():
    made = detector("adacompress", window=2, threshold="memory")
    feed(made, [1, 0, 0])
    assert (made.threshold, made.verdict().state) == (0.5, "inference")  # a mean of 0.5 is not below 0.5
    assert feed(made, [1]).verdict().state == "retrain"  # the mean before it was 0
    assert made.threshold == 0.5


@pytest.mark.parametrize(
    ("agreements", "rewards", "recovered"),
    [([1, 1], [0.6, 0.4], True), ([1, 1], [0.5, 0.4], False), ([1, 0, 1], [0.9, 0.9, 0.9], False), ([], [], False)],
)
def test_when_adacompress_ends_a_retraining(agreements, rewards, recovered):
    made = detector("adacompress", window=2)
    for agreement, reward in zip(agreements, rewards):
        made.update(Seen(agreement, reward, 1.0))
    assert made.recovered is recovered


# River's.


@pytest.mark.parametrize("name", ["page-hinkley", "adwin"])
def test_a_rise_is_no_drift(name):
    made = detector(name, **QUICK[name])
    assert feed(made, [1, 0, 1] * 100 + [1] * 500).verdict().state == "inference"


def test_options_are_rivers():
    scores = [seen.agreement for seen in itertools.islice(drawn(0.97, 5), 400)] + [0, 1, 1, 1] * 30
    assert feed(detector("page-hinkley", threshold=50.0), scores).verdict().state == "inference"
    assert feed(detector("page-hinkley"), scores).verdict() == (
        "retrain",
        "page-hinkley found that agreement fell",
        1.0,
    )
    assert feed(detector("adwin", clock=500), [1] * 200 + [0] * 100).verdict().state == "inference"


def test_the_state_of_another_of_rivers_detectors_is_refused():
    with pytest.raises(ValueError, match=r"^the state is of PageHinkley, and not of adwin$"):
        detector("adwin").restore(detector("page-hinkley").state())


@pytest.mark.parametrize("name", ["page-hinkley", "adwin"])
def test_without_river(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(AdaCompressError, match=rf"^the detector {name} needs river: pip install 'beam-adacompress\["):
        detector(name)
