from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_adacompress.records import Choice
from beam_adacompress.sampling import Sampler, action_of, action_rates, draw

KEYS = [f"{index}.jpg" for index in range(20_000)]


def choice(quality: int, propensity: float = 1.0) -> Choice:
    return Choice("annexk", quality, "p", propensity, None)


def test_draws_are_fixed_and_uniform():
    assert draw("a.jpg", "") == pytest.approx(draw("a.jpg", ""), abs=0)
    assert draw("a.jpg", "") != draw("a.jpg", "other")
    draws = [draw(key, "salt") for key in KEYS]
    assert 0 <= min(draws) < 0.001
    assert 0.999 < max(draws) < 1
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.01)


def test_a_known_draw():
    # The same on every machine and in every release: a stored sample can be drawn again.
    assert draw("a.jpg", "salt") == 0.9183654949387375


def test_a_name_that_is_no_unicode_can_be_drawn():
    assert 0 <= draw("\udcff.jpg", "") < 1


def test_the_rate_is_kept():
    sampler = Sampler(rate=0.1)
    assert sum(sampler.samples(key, choice(35)) for key in KEYS) == pytest.approx(2000, abs=150)
    assert not any(Sampler(rate=0).samples(key, choice(35)) for key in KEYS)
    assert all(Sampler(rate=1).samples(key, choice(35)) for key in KEYS)


def test_a_higher_rate_samples_the_same_images_and_more():
    few = {key for key in KEYS if Sampler(rate=0.05).samples(key, choice(35))}
    many = {key for key in KEYS if Sampler(rate=0.2).samples(key, choice(35))}
    assert few < many


def test_salts_sample_independently():
    one = {key for key in KEYS if Sampler(rate=0.1, salt="1").samples(key, choice(35))}
    two = {key for key in KEYS if Sampler(rate=0.1, salt="2").samples(key, choice(35))}
    assert len(one & two) == pytest.approx(200, abs=60)


def test_rare_actions_keep_their_share():
    # 1000 sampled: 20 % each for the two rare ones, the rest for the frequent one.
    assert action_rates({"a": 9400, "b": 500, "c": 100}, 0.1, 0.2) == pytest.approx(
        {"a": 700 / 9400, "b": 200 / 500, "c": 1.0}
    )


def test_without_a_minimum_every_action_has_the_same_rate():
    assert action_rates({"a": 9400, "b": 500}, 0.1, 0.0) == pytest.approx({"a": 0.1, "b": 0.1})


def test_more_actions_than_shares_are_sampled_alike():
    assert action_rates({"a": 800, "b": 100, "c": 100}, 0.06, 0.5) == pytest.approx({"a": 0.025, "b": 0.2, "c": 0.2})


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 10_000), max_size=12),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_rates_hold_the_size_of_the_sample_and_the_shares(images, rate, min_share):
    rates = action_rates(images, rate, min_share)
    expected = {action: rates[action] * images[action] for action in images}
    wanted = rate * sum(images.values())
    assert all(0 <= one <= 1 for one in rates.values())
    assert sum(expected.values()) == pytest.approx(wanted, abs=1e-6 + 1e-9 * wanted)
    floor = wanted * min(min_share, 1 / max(1, len(images)))
    assert all(expected[a] >= min(images[a], floor) * (1 - 1e-9) - 1e-9 for a in images)


def test_each_action_keeps_its_share_of_a_real_sample():
    choices = {key: choice(95 if index % 100 == 0 else 15) for index, key in enumerate(KEYS)}
    shares = {"annexk-15": 0.99, "annexk-95": 0.01}
    sampler = Sampler(rate=0.05, min_action_share=0.1, action_shares=shares)
    sampled = [action_of(chosen) for key, chosen in choices.items() if sampler.samples(key, chosen)]
    assert len(sampled) == pytest.approx(1000, abs=100)
    assert sampled.count("annexk-95") == pytest.approx(100, abs=25)
    assert sampler.probability(choice(95)) == pytest.approx(0.5)
    assert sampler.probability(choice(15)) == pytest.approx(900 / 19_800)


def test_where_shares_are_unknown_rare_exploration_is_sampled_more_often():
    sampler = Sampler(rate=0.1, min_action_share=0.02)
    assert sampler.probability(choice(35, propensity=0.9)) == pytest.approx(0.1)
    assert sampler.probability(choice(35, propensity=0.005)) == pytest.approx(0.4)
    assert sampler.probability(choice(35, propensity=0.0001)) == 1.0
    assert Sampler(rate=0.0).probability(choice(35, propensity=0.0001)) == 0.0


def test_an_action_that_is_not_listed_is_sampled_like_the_rarest():
    sampler = Sampler(rate=0.1, min_action_share=0.1, action_shares={"annexk-15": 0.98, "annexk-95": 0.02})
    assert sampler.probability(choice(55)) == sampler.probability(choice(95)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.5}, "sample_rate must be from 0 to 1, got 1.5"),
        ({"rate": float("nan")}, "sample_rate must be from 0 to 1, got nan"),
        ({"min_action_share": -0.1}, "min_action_share must be from 0 to 1, got -0.1"),
        ({"action_shares": {"a": -1.0}}, "action_shares must not be negative, got {'a': -1.0}"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**arguments)
