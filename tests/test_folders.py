from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beam_adacompress.folders import Folders, Sizes

ONE = Sizes(1, 0, 10, 4)
KEYS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map("/".join), max_size=40)


def collected(keys, most=5):
    folders = Folders(most)
    for key in keys:
        folders.add(key, ONE)
    return folders


def test_sizes_add_up_by_folder():
    folders = collected(["a/1.jpg", "a/2.jpg", "3.jpg", "a/b/4.jpg"])
    assert folders.sizes == {"a": Sizes(2, 0, 20, 8), "": ONE, "a/b": ONE}
    assert [name for name, _ in folders.largest(2)] == ["a", ""]


def test_the_deepest_level_goes_where_there_are_too_many():
    folders = collected(["x/a/1", "x/b/1", "x/c/1", "y/a/1", "y/b/1", "y/c/1", "z/1"])
    assert folders.sizes == {"x": Sizes(3, 0, 30, 12), "y": Sizes(3, 0, 30, 12), "z": ONE}
    assert collected([f"{index}/1" for index in range(6)]).sizes == {"": Sizes(6, 0, 60, 24)}


@given(KEYS, st.integers(0, 40), st.randoms(use_true_random=False))
def test_the_order_and_the_grouping_do_not_matter(keys, cut, random):
    shuffled = random.sample(keys, len(keys))
    merged = collected(shuffled[cut:])
    merged.merge(collected(shuffled[:cut]))
    assert merged == collected(keys)
