"""What the drift stage keeps of scores, and which of them it shows to a detector."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import saved

from beam_adacompress import AdaCompressError, Choice, DriftEstimate, Score
from beam_adacompress.drift import Level, Rates
from beam_adacompress.drift import watch as watching
from beam_adacompress.drift.estimate import Observation, Window, is_explored, level_of, observe
from beam_adacompress.drift.watch import AGAIN, REMEMBERED, Watch, Watching
from beam_adacompress.policy import artefact
from beam_adacompress.policy.artefact import Baseline
from beam_adacompress.policy.calibration import Promise

LEVELS = {"a": Level(0.9, 0.5), "b": Level(0.8, 0.3), "c": Level(0.7, 0.1)}
HOW = Watching("e-detector", {}, Rates())


def score(key="k", agreement=1, time=0.0, version="a", sampling=1.0, propensity=1.0, status="scored", ratio=0.4):
    choice = Choice("annexk", 35, version, propensity, None)
    reward = None if agreement is None else agreement - ratio
    labels = (status, [], [], agreement, agreement, ratio, reward)
    return Score(key, choice, [], propensity, sampling, *labels, "backend", "1", None, 0.0, time)


def seen(*scores):
    """Observations in their order."""
    window = Window()
    for each in scores:
        window.add(observe(each))
    return window.ordered()


def run(version, start, count, agreement=1):
    """Observations of a policy, one a second."""
    return seen(*(score(f"{version}{at}", agreement, float(at), version) for at in range(start, start + count)))


def watch(how=HOW, levels=LEVELS):
    return Watch(how, levels.get)


# What is kept of a score.


def test_what_is_kept_of_a_score():
    kept = observe(score("x.jpg", 0, 7.5, "v", sampling=0.05, propensity=0.8, ratio=0.25))
    assert kept == Observation(7.5, kept.digest, "v", 0, -0.25, pytest.approx(25.0))
    assert kept.seen == (0, -0.25, pytest.approx(25.0))
    assert len(kept.digest) == 8


def test_an_image_is_another_one_under_another_policy():
    digests = [observe(score(*names)).digest for names in (("k",), ("k", 0, 9.0), ("l",), ("k", 1, 0.0, "b"))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert observe(score("\udcff.jpg")).digest != observe(score(".jpg")).digest  # a file name that is no UTF-8


@pytest.mark.parametrize(("propensity", "explored"), [(1.0, False), (0.5, False), (0.49, True), (0.01, True)])
def test_what_is_served_has_the_larger_propensity(propensity, explored):
    assert is_explored(score(propensity=propensity)) is explored


# Windows.


def test_an_image_counts_once_under_a_policy():
    window = Window()
    for each in (score("k", 1, 5.0), score("k", 0, 9.0), score("k", 1, 7.0), score("k", 1, 8.0, "b")):
        window.add(observe(each))
    assert [each[:4:3] for each in window.ordered()] == [(8.0, 1), (9.0, 0)]


def test_observations_are_in_the_order_of_time():
    assert [each.time for each in seen(score("x", 1, 3.0), score("y", 1, 1.0), score("z", 1, 2.0))] == [1.0, 2.0, 3.0]


OBSERVATIONS = st.lists(
    st.builds(
        Observation,
        time=st.integers(0, 8).map(float),
        digest=st.integers(0, 9).map(lambda digest: bytes([digest])),
        version=st.just("a"),
        agreement=st.integers(0, 1),
        reward=st.just(0.5),
        weight=st.just(1.0),
    ),
    max_size=40,
)


@given(observations=OBSERVATIONS, parts=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None)
def test_windows_merge_in_any_order(observations, parts, seed):
    latest: dict[bytes, Observation] = {}
    for each in sorted(observations):
        latest[each.digest] = each
    mixed = observations.copy()
    random.Random(seed).shuffle(mixed)
    windows = [Window(3) for _ in range(parts)]
    for index, each in enumerate(mixed):
        windows[index % parts].add(each)
    merged = Window(3)
    for each in windows:
        assert len(each.latest) < 6
        merged.merge(each)
    assert merged.ordered() == sorted(latest.values())[-3:]


# Levels.


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Promises 0.97."""
    return artefact.load(saved(tmp_path_factory.mktemp("policy")))[0]


def unkept(policy, baseline):
    return dataclasses.replace(policy, promise=Promise(0.97, 0.95, 10, None, None), baseline=baseline)


def test_the_level_is_what_is_promised(policy):
    assert level_of(policy) == (0.97, 0.0)
    assert level_of(dataclasses.replace(policy, baseline=Baseline(50, 0.99, 0.25))) == (0.97, 0.74)


def test_without_a_promise_the_level_is_what_the_baseline_shows(policy):
    # Wilson's interval of 8 of 10 begins at 0.4902, see test_estimates.
    assert level_of(unkept(policy, Baseline(10, 0.8, 0.3))) == (pytest.approx(0.4902, abs=1e-4), 0.5)


@pytest.mark.parametrize("baseline", [None, Baseline(0, 0.0, 0.0), Baseline(10, 0.0, 0.5)])
def test_a_policy_that_says_nothing(policy, baseline):
    message = "^the policy neither promises an agreement nor has a baseline to fall below: give the level that it has"
    with pytest.raises(AdaCompressError, match=message):
        level_of(unkept(policy, baseline))


# Watching.


def test_an_estimate_by_hand():
    # Three agreeing scores of weight 1 and a disagreeing one of weight 2: 3 / 5; rewards of 0.6 and -0.4: 0.2.
    scores = [score(f"{at}", 1, float(at)) for at in (3, 4, 5)]
    found = watch().take("cam", (0.0, 10.0), seen(*scores, score("x", 0, 6.0, sampling=0.5)))
    assert isinstance(found, DriftEstimate)
    assert found[:5] == ("cam", 0.0, 10.0, 4, 4)
    assert (found.agreement, found.reward) == (pytest.approx(0.6), pytest.approx(0.2))
    # Wilson for 0.6 of (1 + 1 + 1 + 2)^2 / 7 = 3.571 images: centre 0.5482, half-width 0.3564.
    assert (found.agreement_low, found.agreement_high) == pytest.approx((0.1917, 0.9046), abs=1e-4)
    # Standard error: sqrt((3 * 0.4^2 + 4 * 0.6^2) * 4 / 3) / 5 = 0.32.
    assert (found.reward_low, found.reward_high) == pytest.approx((0.2 - 0.6272, 0.2 + 0.6272), abs=1e-4)
    assert found[11:15] == (0.9, 0.5, "a", "e-detector")
    assert (found.state, found.sample_rate) == ("inference", 0.05)
    assert found.reason.startswith("the evidence against an agreement of 0.9 is ")


def test_without_a_window_an_estimate_is_of_the_time_of_its_scores():
    assert watch().take("", None, run("a", 5, 3))[1:3] == (5.0, 7.0)


def test_one_score_has_no_interval_of_reward():
    found = watch().take("", None, run("a", 5, 1))
    assert (found.n, found.reward, found.reward_low, found.reward_high) == (1, 0.6, None, None)


def test_a_detector_goes_on_from_window_to_window():
    watched = watch()
    found = [watched.take("", (start, start + 5.0), run("a", start, 5, agreement=0)) for start in (0, 5, 10)]
    assert [(each.n, each.total) for each in found] == [(5, 5), (5, 10), (5, 15)]
    assert [each.state for each in found] == ["estimate", "retrain", "retrain"]
    assert found[2].sample_rate == 1.0


def test_a_score_that_comes_again_in_a_later_window_counts_once():
    watched = watch()
    watched.take("", (0.0, 5.0), run("a", 0, 5))
    again = watched.take("", (5.0, 10.0), seen(*(score(f"a{at}", 0, 5.0 + at) for at in range(3)), score("n", 1, 9.0)))
    assert (again.n, again.total, again.agreement) == (1, 6, 1.0)
    nothing = watched.take("", (10.0, 15.0), run("a", 0, 5))
    assert (nothing.n, nothing.total, nothing.agreement, nothing.reward_low) == (0, 6, None, None)
    assert nothing.state == again.state


def test_so_many_scores_are_known_again(monkeypatch):
    assert REMEMBERED == 4096
    monkeypatch.setattr(watching, "REMEMBERED", 3)
    watched = watch()
    watched.take("", None, run("a", 0, 4))
    assert watched.take("", None, run("a", 1, 3)).n == 0
    assert watched.take("", None, run("a", 0, 1)).n == 1


def test_a_late_window_counts():
    watched = watch()
    watched.take("", (10.0, 20.0), run("a", 10, 5))
    late = watched.take("", (0.0, 10.0), run("a", 0, 5, agreement=0))
    assert (late.n, late.total, late.agreement, late.state) == (5, 10, 0.0, "estimate")


def test_a_new_policy_gets_a_new_detector_and_its_own_level():
    watched = watch()
    assert watched.take("", None, run("a", 0, 30, agreement=0)).state == "retrain"
    found = watched.take("", None, run("a", 30, 5, agreement=0) + run("b", 35, 3))
    assert (found.policy_version, found.state, found.n, found.total) == ("b", "inference", 3, 3)
    assert (found.level, found.baseline_reward, found.agreement) == (0.8, 0.3, 1.0)


def test_scores_of_a_former_policy_are_not_counted():
    watched = watch()
    watched.take("", None, run("a", 0, 10))
    watched.take("", None, run("b", 10, 5))
    # The workers have not all taken up the new one.
    mixed = seen(*(score(f"{at}", at % 2, float(at), "ab"[at % 2]) for at in range(20, 60)))
    found = watched.take("", None, mixed)
    assert (found.policy_version, found.n, found.total, found.agreement) == ("b", 20, 25, 1.0)
    late = watched.take("", (0.0, 10.0), run("a", 100, AGAIN - 1, agreement=0))
    assert (late.policy_version, late.n, late.total, late.agreement) == ("b", 0, 25, None)


def test_a_policy_that_was_put_back_is_watched_anew():
    watched = watch()
    watched.take("", None, run("a", 0, 10))
    watched.take("", None, run("b", 10, 5))
    watched.take("", None, run("a", 15, AGAIN - 1))
    found = watched.take("", None, run("a", 50, 4))
    assert (found.policy_version, found.n, found.total, found.level) == ("a", 4, 4, 0.9)
    found = watched.take("", None, run("b", 60, 3))
    assert (found.policy_version, found.n) == ("a", 0)


def test_scores_of_a_new_policy_between_stragglers_interrupt_them():
    watched = watch()
    watched.take("", None, run("a", 0, 10))
    for start in (10, 40, 70):
        found = watched.take("", None, run("b", start, 1) + run("a", start + 1, AGAIN - 1))
        assert found.policy_version == "b"


def test_an_older_policy_that_was_not_seen_before_is_not_taken_for_a_new_one():
    watched = watch()
    watched.take("", (10.0, 20.0), run("b", 10, 5))
    watched.take("", (0.0, 10.0), run("b", 2, 1))
    late = watched.take("", (0.0, 10.0), run("a", 5, 5))
    assert (late.policy_version, late.n, late.total) == ("b", 0, 6)


def test_policies_without_a_level_are_not_watched():
    watched = watch()
    assert watched.take("", None, run("fixed-35", 0, 5)) is None
    found = watched.take("", None, run("a", 5, 2) + run("fixed-35", 7, 50))
    assert (found.policy_version, found.n) == ("a", 2)


# Its state.


def resumed(watched, how=HOW, levels=LEVELS):
    return Watch.restored(watched.state(), how, levels.get)


@pytest.mark.parametrize(
    "how", [HOW, Watching("adacompress", {"window": 3}, Rates()), Watching("page-hinkley", {}, Rates())]
)
def test_a_restored_watch_goes_on_as_the_first(how):
    steps = [
        run("a", 0, 12),
        run("a", 6, 12, agreement=0),  # half of them known
        run("b", 20, 5),
        run("a", 30, AGAIN - 1),
        run("b", 60, 2, agreement=0),
        run("a", 70, AGAIN + 3),
        run("c", 200, 4),
    ]
    straight, interrupted = watch(how), resumed(watch(how), how)
    for step in steps:
        found = straight.take("k", None, step)
        assert interrupted.take("k", None, step) == found
        interrupted = resumed(interrupted, how)
    assert (found.policy_version, found.total) == ("c", 4)


def test_a_state_is_small():
    watched = watch()
    watched.take("", None, run("a", 0, 6000))
    assert len(watched.state()) < 50_000


@pytest.mark.parametrize(
    ("how", "levels"),
    [
        (Watching("adacompress", {}, Rates()), LEVELS),
        (Watching("e-detector", {"false_alarms": 5000}, Rates()), LEVELS),
        (HOW, {"a": Level(0.95, 0.5)}),
    ],
)
def test_a_job_that_was_updated_begins_with_a_new_detector(how, levels):
    watched = watch()
    watched.take("", None, run("a", 0, 30, agreement=0))
    found = resumed(watched, how, levels).take("", None, run("a", 25, 10))
    assert (found.n, found.total, found.state) == (5, 5, "inference")
    assert (found.detector, found.level) == (how.detector, levels["a"].agreement)


def test_a_detector_state_of_another_release_is_given_up():
    watched = watch()
    watched.take("", None, run("a", 0, 30, agreement=0))
    content = json.loads(watched.state())
    content["watched"]["detector"] = {"wealth": [1.0], "weights": []}
    found = Watch.restored(json.dumps(content), HOW, LEVELS.get).take("", None, run("a", 30, 2))
    assert (found.total, found.state) == (2, "inference")


def test_a_policy_that_was_deleted_keeps_its_level():
    watched = watch()
    watched.take("", None, run("a", 0, 3))
    found = resumed(watched, levels={}).take("", None, run("a", 3, 2))
    assert (found.total, found.level) == (5, 0.9)
