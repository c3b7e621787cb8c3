from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from scenery import ALONE, FEATURES, SETTINGS, TARGET, VERSION, comes_to, model, policy, score, scores

from beam_adacompress.policy import retraining
from beam_adacompress.policy.artefact import save
from beam_adacompress.policy.calibration import Calibration, Promise
from beam_adacompress.policy.dqn import DQNAgent, QNetwork
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.offpolicy import Estimate
from beam_adacompress.policy.retraining import Retraining, retrain


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")


@pytest.fixture(scope="module")
def incumbent():
    return policy()


def saved(artefact):
    """What a policy is as files."""
    files = {}
    save(artefact, files.__setitem__)
    return files


@pytest.fixture(scope="module")
def harder(keras, incumbent):
    """What comes of a scenery in which the incumbent agrees on 88 % of the images, and had promised 95 %."""
    before = saved(incumbent)
    outcome = retrain(incumbent, VERSION, scores(incumbent, 400, 1, harder=1.5))
    assert saved(incumbent) == before, "the incumbent is left as it is"
    return outcome


def test_a_broken_promise_is_mended(harder, incumbent):
    agreement, ratio = comes_to(incumbent, 1.5)
    assert (agreement, ratio) == (pytest.approx(0.882, abs=0.001), pytest.approx(0.476, abs=0.001))
    assert harder.publish
    assert harder.scores == 400
    assert harder.reason.startswith("the incumbent breaks its promise of 0.95: the incumbent stands at 0.8")
    assert harder.incumbent_agreement == pytest.approx(agreement, abs=0.04)
    assert harder.incumbent_size_ratio == pytest.approx(ratio, abs=0.03)
    now, bytes_now = comes_to(harder.candidate, 1.5)
    assert now >= TARGET
    assert bytes_now < 0.9
    assert harder.candidate_agreement == pytest.approx(now, abs=0.02)
    assert harder.candidate_size_ratio == pytest.approx(bytes_now, abs=0.03)


def test_what_a_candidate_says_of_itself(harder, incumbent):
    candidate = harder.candidate
    assert candidate.promise.target == TARGET
    assert candidate.promise.holds
    assert candidate.calibration.promise(TARGET, candidate.promise.confidence) == candidate.promise
    assert candidate.agent.price == candidate.settings[candidate.promise.setting]
    assert candidate.settings == incumbent.settings
    assert candidate.baseline.images == 400
    assert candidate.baseline.agreement == harder.candidate_agreement
    assert candidate.baseline.size_ratio == harder.candidate_size_ratio
    said = dict(candidate.data)
    fingerprint = said.pop("sha256")
    assert said == {"images": 400, "seed": 0, "parent": VERSION, "confidence": 0.95}
    assert len(fingerprint) == 64
    assert {"keras", "beam-adacompress"} <= set(candidate.versions)
    assert candidate.backends == (("litert:one.tflite", "1"),)


@pytest.mark.heavy
def test_the_same_scores_in_any_order_give_the_same_policy(harder, incumbent):
    rows = scores(incumbent, 400, 1, harder=1.5)
    random.Random(0).shuffle(rows)
    again = retrain(incumbent, VERSION, rows, old=rows[:50])  # which are there already
    assert saved(again.candidate) == saved(harder.candidate)
    assert again._replace(candidate=None) == harder._replace(candidate=None)


@pytest.mark.heavy
def test_where_nothing_has_changed_the_incumbent_serves_on(keras, incumbent):
    old = [row._replace(key=f"old {row.key}") for row in scores(incumbent, 200, 7)]
    outcome = retrain(incumbent, VERSION, scores(incumbent, 300, 3), old)
    assert not outcome.publish
    assert outcome.reason.startswith("the candidate is not surely better, its reward is higher by ")
    assert "the incumbent stands at 0.9" in outcome.reason
    assert (outcome.scores, outcome.candidate.data["images"], outcome.candidate.baseline.images) == (500, 500, 300)


@pytest.mark.heavy
def test_a_policy_that_is_too_cautious_is_replaced(keras):
    agent = AgreementAgent(2, 4, model(), SETTINGS[5])
    cautious = policy(agent=agent, promise=Promise(TARGET, 0.95, 100, 1.0, 5))
    outcome = retrain(cautious, VERSION, scores(cautious, 400, 2, harder=-1.5))
    assert outcome.publish
    assert outcome.reason.startswith("the candidate is better, its reward is higher by 0.")
    before, after = comes_to(cautious, -1.5), comes_to(outcome.candidate, -1.5)
    assert after[0] >= TARGET
    assert after[1] < before[1] - 0.1


@pytest.mark.heavy
def test_without_exploring_it_says_what_it_does_not_know(keras, incumbent):
    outcome = retrain(incumbent, VERSION, scores(incumbent, 300, 4, harder=1.5, explore=0.0))
    assert "; nothing was explored, so of the candidate's decisions " in outcome.reason
    assert outcome.reason.endswith("% are only predicted")
    assert outcome.candidate.calibration.images < 300
    assert comes_to(outcome.candidate, 1.5)[0] > comes_to(incumbent, 1.5)[0]


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        (
            [score(f"a {index}") for index in range(99)] + [score("b", features=[]), score("c", features=[])],
            Retraining(),
            "99 of the 99 scores that can be used are of images that were encoded again, and 100 are needed; "
            "2 have no features that this policy looks at: score more images",
        ),
        (
            [score(f"a {index}", "original", 100, size_ratio=1.0) for index in range(200)],
            Retraining(least=10),
            "0 of the 200 scores that can be used are of images that were encoded again, and 10 are needed: score more",
        ),
        (
            [score("a"), score("b", backend="baidu")],
            Retraining(),
            r"the scores are of several backends \(baidu, litert:one.tflite\): give those of one",
        ),
        ([], Retraining(), "0 of the 0 scores that can be used"),
        (
            [score(f"a {index}", features=[]) for index in range(200)],
            Retraining(),
            "200 have no features that this policy looks at: score with the policy that chose",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_said(incumbent, rows, how, message):
    outcome = retrain(incumbent, VERSION, rows, how=how)
    assert (outcome.candidate, outcome.publish, outcome.candidate_agreement) == (None, False, None)
    with pytest.raises(ValueError, match=message):
        raise ValueError(outcome.reason)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agreement": 1.0}, "agreement must be above 0 and below 1, got 1.0"),
        ({"confidence": 0.0}, "confidence must be above 0 and below 1, got 0.0"),
        ({"least_confidence": 1.0}, "least_confidence must be above 0 and below 1, got 1.0"),
        ({"least": 0}, "least must be at least 1, got 0"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"old": -1.0}, "old must be at least 0, got -1.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**31}, r"seed must be from 0 to 2\*\*31 - 1, got 2147483648"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Retraining(**changes)


def estimate(mean, rows, half=0):
    """Of a mean that as many plain rows would have; with all noise in one half of the rows."""
    noise = np.zeros(1000)
    noise[half::2] = np.sqrt(2 * mean * (1 - mean) * 1000 / rows)
    return Estimate(np.full(1000, float(mean)), noise, np.ones(1000), float(rows))


def standings(*settings, half=0):
    """Of agreement, the rows that it is of, and the size ratio."""
    known = np.zeros(1000)
    return [
        retraining._Standing(estimate(mean, rows, half), Estimate(np.full(1000, ratio), known, known + 1, 1000.0))
        for mean, rows, ratio in settings
    ]


@pytest.mark.parametrize(
    ("images", "bound", "confidence", "expected"),
    [
        (100, 0.9705, 0.95, 0),  # 0.9705 ** 100 is 0.0501: none of 100 show hardly as much
        (100, 0.95, 0.95, 2),  # P(X <= 1) is 0.037, P(X <= 2) is 0.118
        (100, 1.0, 0.95, 0),
        (10, 0.0, 0.95, 10),
        (0, 0.9, 0.95, 0),
    ],
)
def test_the_fewest_disagreements_that_show_no_more_than_a_bound(images, bound, confidence, expected):
    assert retraining._disagreements(images, bound, confidence) == expected


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_a_calibration_promises_what_the_estimates_do_or_less(confidence):
    settings = [estimate(*each) for each in ((0.9999, 400), (0.998, 150), (0.99, 300), (0.97, 220), (0.9, 120))]
    found = retraining._calibration(settings, 0.96, confidence)
    for target in (0.8, 0.9, 0.95, 0.96, 0.97, 0.98):
        for level in (confidence, 0.95):
            shown = [each.share_bound(level) >= target for each in settings]
            boldest = shown.index(False) - 1 if False in shown else len(shown) - 1
            promised = found.promise(target, level).setting
            assert (-1 if promised is None else promised) <= boldest
    assert found.promise(0.9, confidence).setting >= 2


def test_confidence_is_lowered_where_there_are_too_few_scores():
    served = Promise(0.97, 0.95, 1000, 0.99, 3)
    calibration, promise = retraining._promised(standings((1, 50, 1.0), (0.9999, 50, 0.5)), served, Retraining())
    assert (promise.setting, promise.confidence, calibration.images) == (1, 0.7, 50)  # 0.97 ** 50 is 0.22
    _, promise = retraining._promised(
        standings((1, 50, 1.0), (0.9999, 50, 0.5)), served, Retraining(least_confidence=0.9)
    )
    assert (promise.holds, promise.confidence) == (False, 0.95)


def test_confidence_is_lowered_where_it_would_leave_nearly_all_as_it_is():
    served = Promise(0.95, 0.95, 1000, 0.99, 3)
    settings = [(1, 300, 1.0), (0.9999, 100, 0.9), (0.97, 100, 0.4)]
    _, promise = retraining._promised(standings(*settings), served, Retraining())
    assert (promise.setting, promise.confidence) == (2, 0.7)
    _, promise = retraining._promised(standings(*settings[:2], (0.97, 100, 0.85)), served, Retraining())
    assert (promise.setting, promise.confidence) == (1, 0.95)


def test_what_was_asked_for_takes_the_place_of_the_incumbents_promise(incumbent):
    assert retraining._served(incumbent, Retraining()) == incumbent.promise
    bolder = retraining._served(incumbent, Retraining(agreement=0.9))
    assert bolder == incumbent.calibration.promise(0.9, 0.95)
    assert bolder.setting > incumbent.promise.setting
    assert retraining._served(incumbent, Retraining(confidence=0.5)) == incumbent.calibration.promise(TARGET, 0.5)


def test_a_confidence_that_had_to_be_lowered_is_asked_for_again():
    promise = Promise(TARGET, 0.7, 50, 0.99, 4)
    before = policy(calibrated=100, promise=promise, data={"images": 1, "confidence": 0.9})
    assert retraining._served(before, Retraining()) == dataclasses.replace(promise, confidence=0.9)
    asked = retraining._served(before, Retraining(agreement=0.9))
    assert asked == dataclasses.replace(before.calibration.promise(0.9, 0.7), confidence=0.9)


def judged(observed, current, candidate, setting=1, confidence=0.95):
    """Whether a candidate is published, where 0.95 was promised. Agreement, rows and size ratio of each."""
    served = Promise(0.95, 0.95, 1000, 0.99, 3)
    promise = dataclasses.replace(served, setting=setting, confidence=confidence)
    tried = retraining._Tried(AgreementAgent(1, 1), [], standings(current)[0], estimate(*observed))
    return retraining._judged(tried, standings(candidate, half=1)[0], served, promise)


def test_who_is_published():
    kept = judged((0.96, 400), (0.96, 400, 0.4), (0.97, 400, 0.4))
    assert kept[0] is False
    assert kept[1].startswith(
        "the candidate is not surely better, its reward is higher by 0.010 (-0.015 to 0.035): the incumbent stands at "
        "0.960 (0.936 to 0.975) with 0.400 of the bytes, the candidate at 0.970 (0.948 to 0.983) with 0.400"
    )
    better = judged((0.96, 400), (0.96, 400, 0.4), (0.96, 400, 0.3))
    assert better[0] is True
    assert better[1].startswith("the candidate is better, its reward is higher by 0.100 (")
    broken = judged((0.9, 400), (0.9, 400, 0.4), (0.97, 400, 0.8), confidence=0.7)
    assert broken[0] is True
    assert broken[1].startswith("the incumbent breaks its promise of 0.95: the incumbent stands at 0.900 (")
    assert broken[1].endswith(", promised with a confidence of 0.7")
    neither = judged((0.9, 400), (0.9, 400, 0.4), (0.89, 400, 0.1), setting=None)
    assert neither[0] is False
    assert neither[1].startswith("the candidate does not keep the promise of 0.95 either: ")
    assert neither[1].endswith(", and can promise nothing")


def test_a_candidate_that_can_promise_nothing_leaves_all_as_it_is():
    alone = estimate(1, 10)
    tried = retraining._Tried(AgreementAgent(1, 1), standings((0.5, 10, 0.1)), *standings((1, 10, 1.0)), alone)
    standing = retraining._of_promise(tried, Promise(0.97, 0.95, 10, None, None))
    assert (standing.agreement.mean, standing.ratio.mean, standing.reward.mean) == (1, 1, 0)
    of_dqn = retraining._of_promise(tried._replace(agent=DQNAgent()), Promise(0.97, 0.95, 10, None, None))
    assert of_dqn is tried.settings[0]


def published(always=0):
    """AdaCompress's agent, which always takes one action."""
    shapes = {"w1": (FEATURES, 8), "w2": (8, 8), "w3": (8, 8), "w4": (8, ALONE)}
    random_weights = np.random.default_rng(0)
    arrays = {name: random_weights.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {f"b{layer}": np.zeros(8, np.float32) for layer in (1, 2, 3)}
    arrays["b4"] = np.eye(ALONE, dtype=np.float32)[always]
    network = QNetwork(np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32), **arrays)
    how = DQN(hidden=(8, 8, 8), discount=0.0, rate=0.01, batch=64, warm_up=40)
    return policy(
        agent=DQNAgent(network, ALONE, how=how),
        settings=(0.0,),
        calibration=Calibration(100, (40,)),
        promise=Promise(TARGET, 0.95, 100, None, None),
    )


@pytest.mark.heavy
def test_adacompress_agent_goes_on_from_its_weights(keras, incumbent):
    before = published()
    rows = scores(incumbent, 400, 5)
    outcome = retrain(before, "dqn-incumbent", rows, old=[row._replace(key=f"old {row.key}") for row in rows])
    assert outcome.publish
    assert outcome.candidate_agreement - outcome.candidate_size_ratio > 0.05 + (
        outcome.incumbent_agreement - outcome.incumbent_size_ratio
    )
    assert outcome.scores == 400  # its memory is empty at the beginning
    agent = outcome.candidate.agent
    assert isinstance(agent, DQNAgent)
    assert np.array_equal(agent.network.mean, before.agent.network.mean)
    assert 0 < np.abs(agent.network.w1 - before.agent.network.w1).max() < 1
    assert len(outcome.candidate.calibration.disagreements) == 1
    assert saved(retrain(before, "dqn-incumbent", rows[::-1]).candidate) == saved(outcome.candidate)


def test_adacompress_agent_needs_steps_to_learn(keras, incumbent):
    slow = published()
    slow.agent._how = dataclasses.replace(slow.agent.how, warm_up=300)
    outcome = retrain(slow, "dqn-incumbent", scores(incumbent, 300, 5))
    assert outcome.candidate is None
    assert "scores are left to learn from, and AdaCompress's agent learns nothing before the 305th" in outcome.reason


@pytest.mark.heavy
def test_where_no_score_tells_of_an_action_nothing_is_known(keras):
    rows = [score(f"a {index}", quality=90, agreement=index % 2) for index in range(300)]
    outcome = retrain(published(), "dqn-incumbent", rows)
    assert outcome.candidate is None
    assert outcome.reason.startswith("no score is of an action that the ")
