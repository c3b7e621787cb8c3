from __future__ import annotations

import json
import sys

import numpy as np
import pages
import pytest

from beam_adacompress import evaluation_report, plots, report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.estimates import Interval
from beam_adacompress.evaluation import (
    JITTER,
    NOT_REACHED,
    ORACLE,
    POLICY,
    VERIFIED,
    Curve,
    Strategy,
    draws,
    evaluate,
    from_json,
    resampled,
    sums_needed,
    to_json,
)
from beam_adacompress.rates import bytes_needed

# Four images: 200, 200, 400 and 400 bytes; half of that at quality 75.
BYTES_75 = np.array([100.0, 100, 200, 200])
BYTES_IN = 2 * BYTES_75


def strategy(name, sizes, agreement, kind=POLICY, **more):
    agreement = np.array(agreement, float)
    return Strategy(name, kind, np.array(sizes, float), agreement, agreement * [0, *[1] * (len(agreement) - 1)], **more)


PLAIN = Curve(
    "fixed quality, plain",
    (10, 50),
    np.array([[20.0, 50], [20, 50], [40, 100], [40, 100]]),  # 120 and 300 bytes
    np.array([[1.0, 1], [0, 1], [0, 1], [0, 0]]),
    np.array([[1.0, 1], [0, 0], [0, 0], [0, 0]]),
)
HALF = PLAIN._replace(name="fixed quality, half", sizes=PLAIN.sizes / 2)
GOOD = strategy("good", [20, 60, 100, 40], [1, 1, 1, 0], promised=0.7)
BETWEEN = strategy("between", [20, 20, 100, 40], [1, 0, 1, 0], calls=np.array([1.0, 2, 3, 4]))
BEYOND = strategy("beyond", [20, 60, 100, 100], [1, 1, 1, 1], ORACLE)
ITSELF = strategy("itself", [150, 150, 300, 300], [1, 1, 1, 0], JITTER)


def tiny():
    return evaluate([GOOD, BETWEEN, BEYOND], [PLAIN, HALF], BYTES_IN, BYTES_75, ITSELF, samples=200)


def table(images=400, seed=2):
    """A curve of ten qualities, on which an image needs a number of bytes of its own."""
    random = np.random.default_rng(seed)
    bytes_75 = np.round(random.lognormal(10, 0.5, images))
    sizes = np.round(bytes_75[:, None] * np.linspace(0.1, 1, 10))
    need = random.lognormal(np.log(0.2), 0.5, (images, 1)) * bytes_75[:, None]
    noise = random.uniform(size=sizes.shape) < 0.97
    agreement = ((sizes >= need) & noise).astype(float)
    curve = Curve("fixed quality, plain", range(10, 110, 10), sizes, agreement, agreement)
    return curve, 2 * bytes_75, bytes_75


def column(curve, choice, name="chosen", kind=POLICY, **more):
    rows = np.arange(len(curve.sizes))
    agreement = curve.agreement[rows, choice]
    return Strategy(name, kind, curve.sizes[rows, choice], agreement, agreement, **more)


def test_the_numbers_of_four_images():
    good, between, _ = tiny().strategies
    assert good.agreement == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)  # Wilson's, 3 of 4
    assert good.strict.mean == 0.5
    assert good.disagreements == 1
    assert good.total_ratio.mean == pytest.approx(220 / 1200)
    assert good.mean_ratio.mean == pytest.approx((0.1 + 0.3 + 0.25 + 0.1) / 4)
    assert good.total_ratio_75.mean == pytest.approx(220 / 600)
    assert good.mean_ratio_75.mean == pytest.approx(0.375)
    assert good.reward.mean == pytest.approx(0.75 - 0.1875)
    assert good.reward_75.mean == pytest.approx(0.75 - 0.375)
    assert (good.calls, good.promised) == (None, 0.7)
    assert between.calls.mean == 2.5
    assert between.calls.low < 2.5 < between.calls.high


def test_bytes_against_a_curve_at_the_same_agreement():
    good, between, _ = tiny().strategies
    assert [(each.curve, each.ratio.mean) for each in good.against] == [
        ("fixed quality, plain", pytest.approx(220 / 300)),
        ("fixed quality, half", pytest.approx(220 / 150)),
    ]
    # Half of the images agree, midway between the points: 120 + (300 - 120) / 2 bytes.
    assert between.against[0].ratio.mean == pytest.approx(180 / 210)


def test_an_agreement_that_the_curve_does_not_reach():
    beyond = tiny().strategies[2].against[0]
    assert beyond.ratio.mean == beyond.ratio.low == 0
    # It does wherever the last image is not drawn: in (3/4)^4 = 0.32 of the samples.
    assert beyond.unreached == pytest.approx(1 - 0.316, abs=0.1)
    assert beyond.ratio.high > 0.5


def test_the_points_and_the_ceiling_are_rows_too():
    found = tiny()
    assert [(curve.name, [row.name for row in curve.points]) for curve in found.curves] == [
        ("fixed quality, plain", ["10", "50"]),
        ("fixed quality, half", ["10", "50"]),
    ]
    assert [row.agreement.mean for row in found.curves[0].points] == [0.25, 0.75]
    assert found.curves[1].points[0].against[0].ratio == (0.5, 0.5, 0.5)
    assert (found.jitter.name, found.jitter.total_ratio_75.mean) == ("itself", 1.5)
    assert (found.images, found.samples, found.seed) == (4, 200, 0)
    assert evaluate([GOOD], [PLAIN], BYTES_IN, BYTES_75, samples=10).jitter is None


def test_a_strategy_that_is_a_point_of_the_curve_takes_the_same_bytes():
    curve, bytes_in, bytes_75 = table()
    found = evaluate([column(curve, 4)], [curve], bytes_in, bytes_75)
    ratio = found.strategies[0].against[0].ratio
    assert ratio.mean == 1
    assert ratio.low <= 1 <= ratio.high
    assert found.strategies[0]._replace(name="50", kind="fixed") == found.curves[0].points[4]


def test_a_paired_bootstrap_cancels_what_is_common():
    curve, bytes_in, bytes_75 = table()
    other = curve._replace(name="a fifth less", sizes=0.8 * curve.sizes)
    point = evaluate([], [curve, other], bytes_in, bytes_75).curves[1].points[1]
    assert point.against[0].ratio == pytest.approx((0.8, 0.8, 0.8))
    assert point.against[1].ratio == (1, 1, 1)
    assert point.total_ratio == pytest.approx((0.8 * 0.2 / 2,) * 3, rel=1e-4)  # rounded to bytes, nothing else varies


def test_intervals_are_those_of_a_plain_loop():
    curve, bytes_in, bytes_75 = table(images=60)
    chosen = column(curve, np.arange(60) % 10)
    row = evaluate([chosen], [curve], bytes_in, bytes_75, samples=150, seed=7).strategies[0]
    totals, rewards, ratios = [], [], []
    for counts in np.concatenate(list(draws(60, 150, 7))).astype(int):
        drawn = np.repeat(np.arange(60), counts)
        totals.append(chosen.sizes[drawn].sum() / bytes_in[drawn].sum())
        rewards.append(np.mean(chosen.agreement[drawn] - chosen.sizes[drawn] / bytes_in[drawn]))
        needed = bytes_needed(
            curve.sizes[drawn].mean(axis=0), curve.agreement[drawn].mean(axis=0), chosen.agreement[drawn].mean()
        )
        ratios.append(chosen.sizes[drawn].mean() / needed)
    for interval, values in (
        (row.total_ratio, totals),
        (row.reward, rewards),
        (row.against[0].ratio, ratios),
    ):
        assert interval[1:] == pytest.approx(np.quantile(values, (0.025, 0.975), method="nearest"))
        assert interval.low < interval.mean < interval.high


def test_sums_do_not_depend_on_how_the_draws_are_sliced(monkeypatch):
    columns = np.random.default_rng(0).integers(1, 1000, (50, 3)).astype(float)
    whole = resampled(columns, 40, seed=3)
    monkeypatch.setattr("beam_adacompress.evaluation._CHUNK", 50 * 7)
    assert [len(counts) for counts in draws(50, 40, 3)] == [7] * 5 + [5]
    assert np.array_equal(resampled(columns, 40, seed=3), whole)
    assert np.array_equal(whole[0], columns.sum(axis=0))
    assert not np.array_equal(resampled(columns, 40, seed=4), whole)


def test_bytes_needed_by_many_at_once_are_those_of_one_at_a_time():
    random = np.random.default_rng(5)
    sizes, agreement = random.uniform(1, 100, (30, 6)), random.integers(0, 11, (30, 6)) / 10
    targets = random.integers(0, 12, (30, 8)) / 10
    one_by_one = [[bytes_needed(s, a, each) for each in t] for s, a, t in zip(sizes, agreement, targets)]
    found = sums_needed(sizes, agreement, targets)
    assert np.isnan(found).any()
    np.testing.assert_allclose(found, one_by_one)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="got 0 images and 1 curves"):
        evaluate([], [PLAIN], np.array([]), np.array([]))
    with pytest.raises(ValueError, match="got 4 images and 0 curves"):
        evaluate([GOOD], [], BYTES_IN, BYTES_75)


def test_json_and_back():
    about = {"seed": 3, "policy": "agreement-0123"}
    data = to_json({"a": tiny(), "b": tiny()}, about)
    assert from_json(data, "e.json") == ({"a": tiny(), "b": tiny()}, about)
    content = json.loads(data, parse_constant=lambda name: pytest.fail(name))
    assert (content["format"], content["format_version"]) == ("adacompress.evaluation", 1)
    against = content["backends"]["a"]["strategies"][2]["against"][0]
    assert against["ratio"]["mean"] is None
    assert against["reason"] == NOT_REACHED == "the curve does not reach it"
    assert content["backends"]["a"]["curves"][1]["points"][0]["against"][0]["reason"] is None


def test_numbers_that_json_does_not_know_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": tiny()}, {"price": float("nan")})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "e.json holds no evaluation: "),
        ("[]", "e.json holds no evaluation: "),
        ('{"format": "other"}', "e.json holds no evaluation: its format is 'other'"),
        (
            '{"format": "adacompress.evaluation", "format_version": 2}',
            "the evaluation e.json has version 2, and this is adacompress for version 1: "
            "use the release that wrote it, or evaluate again",
        ),
        ('{"format": "adacompress.evaluation", "format_version": 1}', "e.json is damaged: KeyError('backends')"),
        (
            '{"format": "adacompress.evaluation", "format_version": 1, "about": {}, "backends": {"a": 3}}',
            "the evaluation e.json is damaged: TypeError",
        ),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(AdaCompressError) as raised:
        from_json(data, "e.json")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def several():
    """What a policy can come to, on 400 images."""
    curve, bytes_in, bytes_75 = table()
    first = np.where(curve.agreement.any(axis=1), curve.agreement.argmax(axis=1), 9)
    poor = np.random.default_rng(1).integers(0, 10, len(first))
    strategies = [
        column(curve, np.where(poor, np.minimum(first + 1, 9), 0), "a policy with a rather long name", promised=0.85),
        column(curve, poor, "poor", promised=0.99),
        column(curve, first, "verified", VERIFIED, calls=np.full(400, 3.0)),
        column(curve, first, "oracle", ORACLE),
        column(curve, 6, "the same", promised=0.93),
        Strategy("tiny", POLICY, np.ones(400), np.zeros(400), np.zeros(400)),
    ]
    return evaluate(strategies, [curve], bytes_in, bytes_75, samples=300)


def test_verdicts_say_who_does_not_beat_the_fixed_quality():
    found = several()
    words = " ".join(evaluation_report.text(found).split())
    verdicts = {verdict.text.partition(":")[0]: verdict for verdict in evaluation_report.verdicts(found)}
    assert verdicts["poor does not beat the fixed quality"].good is False
    assert ", which is more." in verdicts["poor does not beat the fixed quality"].text
    assert verdicts["the same does not beat the fixed quality"].good is False
    assert "1.00 (1.00 to " in verdicts["the same does not beat the fixed quality"].text
    assert verdicts["tiny does not beat the fixed quality"].text.endswith(
        "it agrees on 0.000 of the images, fewer than the smallest fixed quality here (0.090)."
    )
    assert verdicts["poor breaks its promise"].good is False
    assert verdicts["a policy with a rather long name keeps its promise"].good is True
    assert all(verdict.text in words for verdict in verdicts.values())
    assert "a bound, not a policy" in words
    assert "All numbers are on 400 test images that no policy saw, neither to train nor to calibrate." in words
    assert "Only" not in words


def test_verdicts_say_who_beats_it():
    found = several()
    texts = [verdict.text for verdict in evaluation_report.verdicts(found) if verdict.good]
    assert (
        "verified agrees on 1.000 of the images, and no fixed quality here does: it beats the fixed quality, "
        "with 3.0 calls of the backend per image."
    ) in texts
    assert "a policy with a rather long name beats the fixed quality: for the same agreement it takes " in texts[0]


@pytest.mark.parametrize(
    ("agreed", "promised", "text", "good"),
    [
        (96, 0.95, "p keeps its promise: it promised an agreement of 0.95 and has 0.960 (0.902 to 0.984) here, ", True),
        (100, 0.95, "p keeps its promise: it promised an agreement of 0.95 and has 1.000 (0.963 to 1.000) here.", True),
        (93, 0.95, "p falls short of its promise, though by no more than chance explains: ", None),
        (80, 0.95, "p breaks its promise: ", False),
    ],
)
def test_promises(agreed, promised, text, good):
    agreement = (np.arange(100) < agreed).astype(float)
    kept = Strategy("p", "other", np.ones(100), agreement, agreement, promised=promised)
    curve = Curve("fixed", (1,), np.ones((100, 1)), agreement[:, None], agreement[:, None])
    found = evaluate([kept], [curve], np.full(100, 9.0), np.full(100, 3.0), samples=20)
    (verdict,) = evaluation_report.verdicts(found)
    assert verdict.text.startswith(text)
    assert verdict.good is good


def test_an_agreement_out_of_reach_that_is_not_sure_is_no_victory():
    # Three of four images: that the curve misses one is chance in a third of the samples, and it costs more bytes.
    policy = strategy("lucky", [200, 200, 200, 200], [1, 1, 1, 1])
    found = evaluate([policy], [PLAIN], BYTES_IN, BYTES_75, samples=200)
    (verdict,) = evaluation_report.verdicts(found)
    assert verdict.text.startswith("lucky agrees on 1.000 of the images, and no fixed quality here does, but that is")
    assert "it does not beat the fixed quality" in verdict.text
    assert verdict.good is False


def test_few_images_and_few_disagreements_are_said():
    few, single = evaluation_report.warnings(tiny())
    assert few == "Only 4 test images: with fewer than 200 the intervals are wide, and the means alone say little."
    assert single.startswith("Fewer than 5 images disagree for good; between: ")
    assert evaluation_report.warnings(several()) == []


def test_the_table_is_aligned_and_fits_a_terminal():
    lines = evaluation_report.text(several()).splitlines()
    assert max(map(len, lines)) < 110
    assert " ".join(lines[3].split()) == "(low to high) strict original qual. 75 reward of the same agreement calls"
    same = next(line for line in lines if line.startswith("the same"))
    assert same.index(")") == lines[3].index(")")
    assert lines[4] == "a policy with a rather long name"
    assert lines[5].startswith(" " * 19 + "0.897 (0.864 to 0.924)   0.897")
    assert next(line for line in lines if line.startswith("verified")).endswith("not reached    3.0")


def test_only_all_of_the_images_are_shown_as_one():
    agreement = (np.arange(4000) > 0).astype(float)
    almost = Strategy("almost", POLICY, np.ones(4000), agreement, agreement)
    curve = Curve("fixed", (1,), np.ones((4000, 1)), np.ones((4000, 1)), np.ones((4000, 1)))
    found = evaluate([almost], [curve], np.full(4000, 9.0), np.full(4000, 3.0), samples=20)
    lines = evaluation_report.text(found).splitlines()
    assert next(line for line in lines if line.startswith("almost")).split()[1] == "0.999"
    assert next(line for line in lines if line.startswith("  1 ")).split()[1:5] == ["1.000", "(0.999", "to", "1.000)"]


def test_the_page_is_whole_self_contained_and_escapes_names():
    evil = "<script>alert(1)</script> $x_$"
    found = evaluate([GOOD._replace(name=evil), BETWEEN, BEYOND], [PLAIN._replace(name=evil), HALF], BYTES_IN, BYTES_75)
    about = {"input": evil, "backends": {"b": {"uri": "texture", "version": "1"}}}
    page = report.render(report.Content(evaluated=[report.EvaluationRun({evil: found, "b": several()}, about)]))
    tags = pages.checked(page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert len([tag for tag, _ in tags if tag == "svg"]) == 4  # wide and narrow ones of both backends
    for verdict in evaluation_report.verdicts(several()):
        assert verdict.text in page.replace("&#39;", "'")
    assert [tag for tag, attributes in tags if attributes.get("class") == "warn"] == ["li", "li"]
    assert all(meaning in page.replace("&#39;", "'") for _, meaning in evaluation_report.DEFINITIONS)
    assert "<td>backend b</td><td>uri texture, version 1</td>" in page


def test_a_plot_is_a_png_and_the_same_numbers_are_the_same_bytes():
    data = plots.rate_agreement(several(), "a title with $ and _")
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 10_000
    assert data == plots.rate_agreement(several(), "a title with $ and _")
    assert data != plots.rate_agreement(several(), "another title")


def test_the_scale_opens_up_towards_one_and_ends_at_half_an_image():
    scale = plots._Scale(500)
    assert [scale(each) for each in (0.0, 0.9, 0.99, 0.998)] == pytest.approx([0, 1, 2, -np.log10(0.002)])
    assert scale(1.0) == scale(1 - 1e-12) == pytest.approx(3)
    assert scale.bars(Interval(0.99, 0.9, 1.0)).ravel() == pytest.approx([1, 1])


def test_one_image_can_be_drawn():
    point = Curve("fixed", (1,), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    found = evaluate([], [point], np.array([9.0]), np.array([3.0]), samples=10)
    assert plots.rate_agreement(found, "one").startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AdaCompressError, match=r"pip install 'beam-adacompress\[report\]'"):
        plots.rate_agreement(tiny(), "no")
