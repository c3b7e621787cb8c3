from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_adacompress.errors import ImageError
from beam_adacompress.naming import Plan, alone, check_key, output_name, plan


@pytest.mark.parametrize("key", ["a.jpg", "a/b c/#%?.png", "ümläut/日本語.jpg", "a..b/...c", ".hidden", "x" * 300])
def test_safe_keys(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/./b", "a/", ".", "..", "a\x00b", "bad\udcff.jpg"]
)
def test_a_key_may_not_lead_out_of_the_output(key):
    with pytest.raises(ImageError) as failed:
        check_key(key)
    assert failed.value.reason == "bad-key"


def test_names():
    assert output_name("a/b.png", renamed=True) == "a/b.png.jpg"
    assert output_name("a/b.jpg", renamed=False) == "a/b.jpg"


def test_a_name_that_another_may_take_steps_aside():
    keys = sorted(["a.png", "a.png.jpg", "a.png.jpg.jpg", "b.jpg", "a", "a-", "a.jpg"])
    assert [planned.key for planned in plan(keys) if planned.steps_aside] == ["a.jpg", "a.png.jpg", "a.png.jpg.jpg"]


def test_a_folder_or_a_long_name_forbids_renaming():
    keys = ["a.png", "a.png.jpg/z.jpg", "b.png", "n" * 251, "n" * 252, "x.jpg/y"]
    assert [planned.key for planned in plan(keys) if not planned.may_rename] == ["a.png", "n" * 252]


names = st.text("ab./", min_size=1, max_size=4).map(lambda name: name + ".jpg" * (len(name) % 3))


@given(st.lists(names, unique=True), st.randoms(use_true_random=False))
def test_names_never_collide(keys, random):
    planned = list(plan(sorted(keys)))
    assert [each.key for each in planned] == sorted(keys)
    assert {each.key for each in planned if each.steps_aside} == {
        key for key in keys if key.endswith(".jpg") and key[:-4] in keys
    }
    results = [
        output_name(each.key, each.steps_aside or (each.may_rename and random.random() < 0.5)) for each in planned
    ]
    assert len(set(results)) == len(results)


@pytest.mark.parametrize(
    ("key", "steps_aside", "may_rename"),
    [
        ("a.jpg", False, True),
        ("A.PNG", False, True),
        ("a.png.jpg", True, True),
        ("a.jpg.jpg", True, True),
        ("a.2024.jpg", False, True),
        ("a", False, False),
        ("a.2024", False, False),
        ("b.png/a.jpg", False, True),
        ("n" * 247 + ".png", False, True),
        ("n" * 248 + ".png", False, False),
    ],
)
def test_a_name_whose_neighbours_are_not_known(key, steps_aside, may_rename):
    assert alone(key) == Plan(key, steps_aside, may_rename)


names_alone = st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from([".jpg", ".png", ".2024"]), max_size=4))


@given(
    st.lists(names_alone.map(lambda parts: parts[0] + "".join(parts[1])), unique=True),
    st.randoms(use_true_random=False),
)
def test_names_alone_never_collide(keys, random):
    planned = [alone(key) for key in keys]
    results = [
        output_name(each.key, each.steps_aside or (each.may_rename and random.random() < 0.5)) for each in planned
    ]
    assert len(set(results)) == len(results)
