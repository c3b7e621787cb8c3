from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_manifest import FAILED, ROW

from beam_adacompress import summary

KEPT = ROW._replace(key="k", status="kept", reason="alpha", bytes_in=100, bytes_out=100)

ROWS = st.builds(
    lambda key, template, size: template._replace(
        key=key, **({} if template is FAILED else {"bytes_in": 1000, "bytes_out": size})
    ),
    st.text("abcdef", min_size=1, max_size=3),
    st.sampled_from([ROW, KEPT, FAILED]),
    st.integers(1, 1000),
)


def test_counts():
    content = summary.summarise(summary.collect([ROW, KEPT, FAILED]), {"quality": 35}, {"python": "3"}, 1.5)
    assert content["images"] == {"total": 3, "compressed": 1, "kept": 1, "failed": 1}
    assert content["bytes"] == {"in": 1100, "out": 350, "saved": 750, "failed": 0}
    assert content["size_ratio"]["total"] == 350 / 1100
    assert content["size_ratio"]["mean"] == (0.25 + 1.0) / 2
    assert content["size_ratio"]["quantiles"] == {"0.05": 0.25, "0.25": 0.25, "0.5": 0.25, "0.75": 1.0, "0.95": 1.0}
    assert content["qualities"] == {"35": 1}
    assert content["reasons"] == {"kept": {"alpha": 1}, "failed": {"corrupt": 1}}
    assert (content["wall_seconds"], content["options"]) == (1.5, {"quality": 35})


def test_nothing_written():
    content = summary.summarise(summary.collect([FAILED]), {}, {}, 0)
    assert content["size_ratio"] == {"total": None, "mean": None, "quantiles": {}}


def test_quantile_by_hand():
    histogram = {100: 1, 200: 1, 300: 2}
    assert [summary.quantile(histogram, share) for share in (0.25, 0.26, 0.5, 0.51, 1.0)] == [0.1, 0.2, 0.2, 0.3, 0.3]
    with pytest.raises(ValueError, match="no images"):
        summary.quantile({}, 0.5)


@given(st.lists(ROWS, unique_by=lambda row: row.key), st.integers(0, 100))
def test_merging_parts_is_counting_the_whole(rows, cut):
    whole = summary.collect(sorted(rows), seed=7)
    merged = summary.collect(rows[cut:][::-1], seed=7)
    merged.merge(summary.collect(rows[:cut], seed=7))
    merged.seconds = whole.seconds  # sums of floats differ in their last bits
    assert merged == whole


def test_examples_are_bounded():
    rows = [ROW._replace(key=str(index), bytes_out=index + 1) for index in range(500)]
    stats = summary.collect(rows)
    assert [row.bytes_out for row in stats.shown(summary.SAVINGS)] == [1, 2, 3, 4, 5, 6]
    assert len(stats.shown(summary.SAMPLE)) == 12


def test_the_sample_depends_on_the_seed():
    rows = [ROW._replace(key=str(index)) for index in range(500)]
    first, again, other = (summary.collect(rows, seed).shown(summary.SAMPLE) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_ratio_bars():
    assert summary.ratio_bars({0: 1, 49: 1, 50: 1, 999: 1, 1000: 1}, bars=20) == [2, 1, *[0] * 17, 2]
