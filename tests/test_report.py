from __future__ import annotations

import re
import sys

import pages
import pytest
from conftest import encoded, picture
from test_manifest import FAILED, ROW

from beam_adacompress import report, summary, words
from beam_adacompress.records import Choice, Label, Score
from beam_adacompress.report import figures, timeline
from beam_adacompress.report import page as page_module
from beam_adacompress.report.gallery import GONE, Gallery
from beam_adacompress.report.scored import ScoreTally

LATE = 1_700_000_000.0  # seconds since the epoch


def page(rows, pair, scored=()):
    stats = summary.collect(rows)
    content = summary.summarise(stats, {"quality": 35}, {}, 1.0)
    text = report.render(report.Content([report.CompressRun("out", stats, pair, content)], scored))
    return text, pages.checked(text)


def nothing(row):
    return None


def score(key="a.jpg", agreement=1, name="cat", time=LATE, version="v1", compressed=0.8, quality=35, **values):
    given = {
        "key": key,
        "choice": Choice("annexk", quality, version, 1.0, None),
        "features": (),
        "propensity": 1.0,
        "sampling_probability": 0.5,
        "status": "scored",
        "reference_labels": [Label(name, 0.9)],
        "compressed_labels": [Label(name if agreement else "dog", compressed)],
        "agreement": agreement,
        "strict_agreement": agreement,
        "size_ratio": 0.25,
        "reward": agreement - 0.25,
        "backend": "texture",
        "backend_version": "1",
        "latency": None,
        "cost": 0.001,
        "time": time,
    }
    return Score(**{**given, **values})


def tally_of(rows, wanted=()):
    tally = ScoreTally(wanted)
    for row in rows:
        tally.add(row)
    return tally


def scored_run(scores, wanted=(), **values):
    return report.ScoredRun("out/score", tally_of(scores, wanted), nothing, of="out", **values)


def test_it_is_self_contained_and_shows_both_sides():
    before, after = encoded(picture()), encoded(picture(), quality=20)
    text, tags = page([ROW, FAILED], lambda row: (before, after))
    images = [attributes for tag, attributes in tags if tag == "img"]
    # Once, though it is both in the sample and among the largest savings.
    assert [image["alt"] for image in images] == ["a/ü #1.jpg, compressed", "a/ü #1.jpg, original"]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    (button,) = [attributes for tag, attributes in tags if tag == "button"]
    assert (button["aria-pressed"], button["aria-label"]) == ("false", "Show the original of a/ü #1.jpg")
    assert "75.0 % of the bytes saved" in text
    assert "1.0 kB became 250 bytes: 1 of 2 images compressed, 1 failed." in text
    assert "no &#34;picture&#34;" in text


def test_names_cannot_smuggle_markup():
    evil = "<script>alert(1)</script>"
    text, _ = page(
        [ROW._replace(key=f"{evil}/{evil}.jpg", tables=evil, policy_version=evil), FAILED._replace(reason=evil)],
        lambda row: (encoded(picture()), encoded(picture())),
        [scored_run([score(f"{evil}/{evil}.jpg", 0, evil, version=evil, backend=evil)])],
    )
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") > 8


def test_large_and_odd_originals_are_shown_scaled_down():
    large = encoded(picture(1600, 1200), "TIFF")
    text, tags = page([ROW], lambda row: (large, encoded(picture(1600, 1200), quality=20)))
    assert "shown scaled down" in text
    assert {(each["width"], each["height"]) for tag, each in tags if tag == "img"} == {("512", "384")}
    assert len(text) < 600_000


def test_a_kept_image_is_one_picture():
    kept = ROW._replace(status="kept", reason="alpha")
    _, tags = page([kept], lambda row: (encoded(picture(mode="RGBA"), "PNG"), b"not looked at"))
    assert len([tag for tag, _ in tags if tag == "img"]) == 1
    assert "button" not in [tag for tag, _ in tags]


@pytest.mark.parametrize(
    ("pair", "said"), [(nothing, GONE), (lambda row: (b"damaged", b"damaged"), "It cannot be shown: ")]
)
def test_originals_that_are_gone_or_unreadable_are_said(pair, said):
    text, tags = page([ROW], pair)
    assert not [tag for tag, _ in tags if tag == "img"]
    assert said in text
    assert "<b>a/ü #1.jpg</b>" in text


def test_pictures_stop_at_the_budget():
    data = encoded(picture())
    gallery = Gallery(budget=3 * len(data))  # of base64, so for one pair
    rows = [ROW._replace(key=str(index)) for index in range(3)]
    found = list(gallery.pictures("run", rows, lambda row: (data, data), {}, 3))
    assert [each.row.key for each in found] == ["0"]
    assert gallery.left_out == 2
    assert [each.row.key for each in gallery.pictures("run", [*rows, ROW], nothing, {}, 3)] == ["a/ü #1.jpg"]


def test_sizes_are_shown_by_folder_and_the_smaller_ones_together():
    rows = [ROW._replace(key=f"{index:02d}/x.jpg", bytes_in=1000 * (index + 1)) for index in range(14)]
    text, _ = page(rows, nothing)
    table = re.search("<table.*?</table>", text, re.DOTALL)[0]
    names = re.findall(r'class="name">\s*([^<]+?)\s*<', table)
    assert names == [*(f"{index:02d}" for index in range(13, 1, -1)), "2 smaller folders"]
    assert table.count("14.0 kB") == 1
    smaller = table[table.index("2 smaller") :]
    assert "3.0 kB" in smaller
    assert "500 bytes" in smaller


def test_choices_are_counted_by_quality_and_family():
    rows = [
        ROW._replace(key=str(n), quality=quality, tables=t)
        for n, (quality, t) in enumerate([(30, "a"), (32, "b"), (32, "a")])
    ]
    _, tags = page(rows, nothing)
    said = [each["aria-label"] for tag, each in tags if each.get("class") == "mark"]
    assert said[:3] == ["1 image at quality 30", "0 images at quality 31", "2 images at quality 32"]
    assert said[3 + 5] == "3 images at 25–30 % of their size"
    tabbed = [each["tabindex"] for tag, each in tags if each.get("class") == "mark"]
    assert tabbed == ["0", "-1", "-1", "0", *["-1"] * 19]


def test_many_qualities_share_bars():
    stats = summary.collect(ROW._replace(key=str(quality), quality=quality) for quality in range(1, 101))
    bars = page_module._qualities(stats)
    assert [bar.label for bar in bars[:2]] == ["1–3", "4–6"]
    assert (bars[-1].label, bars[-1].images) == ("100", 1)
    assert sum(bar.images for bar in bars) == 100


def test_scores_are_told_in_words_with_both_labels_and_what_they_cost():
    rows = [score("a/ü #1.jpg", 0, "tabby"), *(score(str(index)) for index in range(9))]
    run = scored_run(rows, ["a/ü #1.jpg"], rows={ROW.key: ROW})
    text, _ = page([ROW], lambda row: (encoded(picture()), encoded(picture())), [run])
    assert "texture still sees in the result what it sees in the original on 90.0 % of them (" in text
    assert "tabby <span" in text
    assert "dog <span" in text
    assert "Worst disagreements" in text
    assert "<dd>0.0100 USD</dd>" in text
    assert "<dd>0.0010 USD</dd>" in text
    assert "1 class of 2 lost none." in text
    assert "Every sampled image has an answer." in text


def test_a_disagreement_whose_manifest_is_gone_is_shown_by_what_its_score_says():
    text = report.render(report.Content(scored=[scored_run([score("lost.jpg", 0)])]))
    pages.checked(text)
    assert "The backend agrees on 0 % of the images" in text
    assert "<b>lost.jpg</b>" in text
    assert "25.0 % of it" in text
    assert GONE in text


def test_the_worst_disagreements_are_those_that_lost_the_most():
    rows = [
        *(score(f"{index}.jpg", 0, reference_labels=[Label("cat", 0.5 + index / 100)]) for index in range(20)),
        score(
            "half.jpg", 0, reference_labels=[Label("cat", 0.99)], compressed_labels=[Label("a", 1), Label("cat", 0.8)]
        ),
        score("19.jpg", 0, reference_labels=[Label("cat", 0.69)]),  # scored twice
    ]
    worst = [each.key for each in tally_of(rows).worst()]
    assert worst == [f"{index}.jpg" for index in range(19, 7, -1)]


def test_classes_that_lost_most_come_first():
    rows = [
        *(score(f"a{index}", 0, "few") for index in range(2)),
        *(score(f"b{index}", index % 2, "many") for index in range(10)),
        *(score(f"c{index}", 1, "none") for index in range(3)),
    ]
    losses = tally_of(rows).losses(9)
    assert [(each.name, each.images, each.disagreements) for each in losses] == [("many", 10, 10.0), ("few", 2, 4.0)]
    assert losses[0].agreement.mean == 0.5


def test_failures_are_bounded_for_each_reason():
    tally = ScoreTally()
    for index in range(50):
        tally.add_failure(str(index), "timeout", "it took too long")
    tally.add_failure("x", "refused", "no")
    ((reason, n, shown), other) = tally.unscored()
    assert (reason, n, len(shown), shown[0]) == ("timeout", 50, 20, ("0", "it took too long"))
    assert other == ("refused", 1, [("x", "no")])


def test_a_run_without_an_evaluation_has_its_actions_in_the_plot():
    rows = [score(f"{q}-{n}", int(n > 0), quality=q) for q in (20, 30) for n in range(6)] + [score("x", quality=90)]
    _, tags = page([ROW], nothing, [scored_run(rows)])
    svgs = [each["id"] for tag, each in tags if tag == "svg"]
    assert svgs == ["rates-0-wide", "rates-0-narrow"]
    said = [each["aria-label"] for tag, each in tags if each.get("class") == "mark" and tag == "g"]
    assert len(said) == 6  # two qualities with at least five scores, and the run, on both
    assert said[0].startswith("tables annexk, by the quality chosen 20: agreement 0.833 (0.")
    assert said[2].startswith("this run: agreement 0.846 (")


def test_without_matplotlib_the_page_says_so_and_has_the_numbers(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    rows = [score(str(index), time=LATE + 60 * index) for index in range(60)]
    text, tags = page([ROW], nothing, [scored_run(rows)])
    assert "svg" not in [tag for tag, _ in tags]
    assert text.count("plots need matplotlib: pip install &#39;beam-adacompress[report]&#39;") == 2
    assert "this run: agreement 1.000 (" in text
    assert "<td>2023-11-14 22:13 UTC</td>" in text


def test_scores_over_time_with_states_and_versions():
    rows = [score(str(index), time=LATE + 100 * index, version="v1" if index < 50 else "v2") for index in range(100)]
    run = scored_run(rows, level=0.97)
    run.tally.timeline.add_state(LATE, LATE + 4000, "inference")
    run.tally.timeline.add_state(LATE + 4000, LATE + 5000, "retrain")
    text, tags = page([ROW], nothing, [run])
    assert [each["id"] for tag, each in tags if tag == "svg"][-1] == "time-narrow"
    assert "level to keep, 0.97" in text
    assert ">drift</text>" in text
    assert "<li>v1<br>" in text
    assert "<li>v2<br>" in text
    assert "Bands are where the drift detector asks" in text
    said = [each["aria-label"] for tag, each in tags if tag == "g" and "reward" in each.get("aria-label", "")]
    assert said[0] == ("reward 0.750 (0.750 to 0.750), 20 scores of v1, 2023-11-14 22:13 UTC to 2023-11-14 22:45 UTC")


@pytest.mark.parametrize(
    ("key", "value", "own"),
    [
        ("style", "font: 10px 'DejaVu Sans', sans-serif; fill: #1c2430", "font-size: 10px; fill: var(--ink)"),
        (
            "style",
            "font-size: 10px; font-family: 'DejaVu Sans', 'Arial'; fill: #ffffff",
            "font-size: 10px; fill: var(--card)",
        ),
        ("clip-path", "url(#p1)", "url(#n-p1)"),
        ("{http://www.w3.org/1999/xlink}href", "#m1", "#n-m1"),
        ("id", "axes_1", "n-axes_1"),
    ],
)
def test_figures_take_the_fonts_and_colours_of_the_page(key, value, own):
    assert figures._own(key, value, "n") == own


def test_what_was_scored_at_once_has_no_course():
    text, _ = page([ROW], nothing, [scored_run([score("x"), score("y")])])
    assert "2 scores, all made around 2023-11-14 22:13 UTC" in text


def test_policies_and_what_came_of_training_again():
    versions = [
        report.PublishedVersion("v2", LATE, True, "agreement 0.97", "–"),
        report.PublishedVersion("v1", None, False, "nothing", "–"),
    ]
    text = report.render(report.Content(policies=[report.PolicyHistory("policies", versions)]))
    pages.checked(text)
    assert "2 policy versions; v2 is in use." in text
    assert '<b class="good">in use</b>' in text
    assert "There are no scores with these policies." in text


def test_nothing_at_all_is_a_page_too():
    text, _ = page([], nothing)
    assert "No image was written" in text
    assert "No image failed." in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_345_678, "2.3 MB"), (5e12, "5.0 TB")]
)
def test_megabytes(size, text):
    assert report.megabytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "99.9 %"), (0.0001, "0.1 %"), (0.5, "50.0 %"), (-0.1, "-10.0 %")],
)
def test_percent_is_all_or_nothing_only_where_it_is(value, text):
    assert words.percent(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (600, "10 min"), (18_000, "5.0 hours"), (200_000, "2.3 days")]
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


def test_time_is_bounded_and_in_any_order_the_same():
    rows = [(LATE + 7.0 * ((index * 37) % 3000), f"v{index % 2}") for index in range(3000)]
    whole, back, part = timeline.Timeline(), timeline.Timeline(), timeline.Timeline()
    for index, (time, version) in enumerate(rows):
        whole.add(time, version, index % 3 > 0, 0.5, 1.0)
        (back if index < 1000 else part).add(time, version, index % 3 > 0, 0.5, 1.0)
        whole.add_state(time, time + 1, "inference")
        back.add_state(time, time + 1, "inference")
    back.merge(part)
    assert len(whole.bins) <= timeline.MOST_BINS
    assert len(whole.states) <= timeline.MOST_BINS
    assert back.windows() == whole.windows()
    assert back.spans() == whole.spans()
    assert sum(window.scores for window in whole.windows()) == 3000
    assert len(whole.windows()) <= timeline.MOST_WINDOWS + 2
    assert min(window.scores for window in whole.windows()) >= timeline.LEAST
    assert whole.first_seen() == {"v0": LATE, "v1": LATE + 7.0}


def test_the_worst_state_of_a_while_is_what_stands():
    line = timeline.Timeline()
    for start, state in ((0.0, "inference"), (0.5, "retrain"), (10.0, "estimate"), (20.0, "estimate")):
        line.add_state(start, start + 1, state)
    assert line.spans() == [(0.0, 1.5, "retrain"), (10.0, 21.0, "estimate")]
