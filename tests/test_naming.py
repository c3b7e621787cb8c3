from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_adacompress.errors import ImageError
from beam_adacompress.naming import check_key, output_name, taken_names


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
    assert [key for key, aside in taken_names(keys) if aside] == ["a.jpg", "a.png.jpg", "a.png.jpg.jpg"]


@given(
    st.lists(st.text("ab./", min_size=1, max_size=4).map(lambda name: name + ".jpg" * (len(name) % 3)), unique=True),
    st.randoms(use_true_random=False),
)
def test_names_never_collide(keys, random):
    marked = list(taken_names(sorted(keys)))
    assert [key for key, _ in marked] == sorted(keys)
    assert {key for key, aside in marked if aside} == {key for key in keys if key.endswith(".jpg") and key[:-4] in keys}
    names = [output_name(key, aside or random.random() < 0.5) for key, aside in marked]
    assert len(set(names)) == len(names)
