"""ChooseQuality with `verify`, and `adacompress compress --verify`."""

from __future__ import annotations

import re

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from backends import CAT, DOG, Counting, Scripted, Sizes
from conftest import encoded, manifest_rows, picture
from PIL import Image, ImageCms

from beam_adacompress import (
    Choice,
    ChooseQuality,
    ChosenImage,
    CompressJPEG,
    EncodedImage,
    ScoreWithBackend,
    jpeg,
)
from beam_adacompress.backends import BackendError, registry
from beam_adacompress.backends.contract import REFUSED
from beam_adacompress.policy.verify import LADDER

PICTURE = picture(320, 240)
IMAGE = encoded(PICTURE)
QUALITIES = sorted({*LADDER, 35})
DEFAULT = jpeg.Settings()


def sizes(settings=DEFAULT):
    shown = jpeg.open_picture(jpeg.open_image(IMAGE))
    return {each: len(shown.encode(jpeg.quantisation("annexk", each), settings)) for each in QUALITIES}


def chosen(transform, *images):
    """Qualities, tables and verifiers by key, and reasons of failures, as assertions on a pipeline."""
    rows = [EncodedImage(str(index), data) for index, data in enumerate(images)]
    with TestPipeline() as p:
        outputs = p | beam.Create(rows).with_output_types(EncodedImage) | transform
        yield outputs


def check(transform, expected, failures=(), images=(IMAGE,)):
    for outputs in chosen(transform, *images):
        found = outputs.images | beam.Map(lambda row: (row.key, *row.choice[:3], *row.choice[4:]))
        assert_that(found, equal_to(expected), label="chosen")
        failed = outputs.failures | "F" >> beam.Map(lambda row: (row.key, row.stage, row.reason))
        assert_that(failed, equal_to(list(failures)), label="failed")


def test_the_cheapest_that_agrees_is_chosen():
    # Sizes sees `large` in the original, and in whatever has as many bytes as its limit. (From 34 on, this picture's
    # files do not always grow with quality.)
    for quality in (5, 15, 26):
        backend = Sizes(limit=sizes()[quality])
        check(
            ChooseQuality(35, verify=backend),
            [("0", "annexk", quality, "fixed-35-verified", 1.0, f"sizes limit={backend.limit}")],
        )


def test_what_is_verified_is_what_the_encoder_writes():
    plain = jpeg.Settings(optimize=False, progressive=False)
    backend = Sizes(limit=sizes(settings=plain)[20])
    encoder = {"optimize": False, "progressive": False}
    for outputs in chosen(ChooseQuality(35, verify=backend, encoder=encoder), IMAGE):
        compressed = outputs.images | CompressJPEG(**encoder)
        found = compressed.images | beam.Map(lambda row: (row.choice.quality, len(row.compressed) >= backend.limit))
        assert_that(found, equal_to([(20, True)]))


def test_what_is_verified_is_the_very_file(tmp_path):
    # With its comment and metadata: a score of it needs no further call.
    asked = tmp_path / "asked"
    backend = Counting(path=str(asked))
    cache = str(tmp_path / "cache")
    profiled = encoded(PICTURE, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for outputs in chosen(ChooseQuality(35, verify=backend, cache=cache), profiled):
        scored = (outputs.images | CompressJPEG()).images | ScoreWithBackend(backend, 1.0, cache=cache)
        assert_that(scored.usage | beam.Map(lambda usage: (usage.calls, usage.cache_hits)), equal_to([(0, 2)]))
    assert len(asked.read_text().splitlines()) == 5  # the original, 35 (here index 7), 26, 15 and 5


def test_calls_are_counted():
    p = TestPipeline()
    _ = p | beam.Create([EncodedImage("a", IMAGE)]) | ChooseQuality(35, verify=Sizes(limit=sizes()[34]))
    metrics = p.run().metrics().query(MetricsFilter().with_namespace("adacompress.ChooseQuality"))
    counted = {counter.key.metric.name: counter.committed for counter in metrics["counters"]}
    assert (counted["images_in"], counted["images_out"]) == (1, 1)
    assert (counted["calls"], counted["cost_microdollars"]) == (5, 5000)  # the original, 35, 34, 20 and 26


def test_all_backends_have_to_agree():
    at = sizes()
    several = [Sizes(limit=at[quality]) for quality in (11, 26, 8)]
    names = ", ".join(f"sizes limit={backend.limit}" for backend in several)
    check(ChooseQuality(35, verify=several), [("0", "annexk", 26, "fixed-35-verified", 1.0, names)])


def test_where_nothing_agrees_the_image_is_left_as_it_is():
    backend = Scripted(lambda images, number: [CAT if image.quality is None else DOG for image in images])
    for outputs in chosen(ChooseQuality(35, verify=backend, encoder={"min_saving": 0.0}), IMAGE):
        compressed = outputs.images | CompressJPEG(min_saving=0.0)
        found = compressed.images | beam.Map(lambda row: (*row.choice[:2], row.status, row.reason, row.compressed))
        assert_that(found, equal_to([("original", 100, "kept", "chosen", IMAGE)]))


def test_a_margin_asks_that_finer_qualities_agree():
    # Agreement comes and goes: 20 agrees, 26 does not, from 34 on all do.
    backend = Scripted(lambda images, number: [CAT if _comes_and_goes(image.quality) else DOG for image in images])
    check(ChooseQuality(20, verify=backend), [("0", "annexk", 20, "fixed-20-verified", 1.0, "scripted 1")])
    check(
        ChooseQuality(20, verify=backend, verify_margin=1),
        [("0", "annexk", 34, "fixed-20-verified", 1.0, "scripted 1")],
    )


def _comes_and_goes(quality):
    return quality is None or quality == 20 or quality >= 34


def test_the_top_label_has_to_be_among_the_best():
    backend = Scripted(
        lambda images, number: [CAT if image.quality is None or image.quality > 30 else CAT[::-1] for image in images]
    )
    check(ChooseQuality(35, verify=backend), [("0", "annexk", 5, "fixed-35-verified", 1.0, "scripted 1")])
    check(ChooseQuality(35, verify=backend, top=1), [("0", "annexk", 34, "fixed-35-verified", 1.0, "scripted 1")])


def test_failures_are_rows_and_nothing_else_is_lost():
    def answer(images, number):
        return [BackendError(REFUSED, "not this") if image.key == "1" else CAT for image in images]

    check(
        ChooseQuality(35, verify=Scripted(answer)),
        [(key, "annexk", 5, "fixed-35-verified", 1.0, "scripted 1") for key in ("0", "4")],
        [("1", "ChooseQuality", REFUSED), ("2", "ChooseQuality", "truncated"), ("3", "ChooseQuality", "not-an-image")],
        images=[IMAGE, encoded(picture(seed=1)), IMAGE[:900], b"text", encoded(picture(320, 240, seed=4))],
    )
    check(
        ChooseQuality(35, verify=Scripted(lambda images, number: [()] * len(images))),
        [],
        [("0", "ChooseQuality", "no-reference")],
    )


def test_what_will_be_kept_is_not_asked_about():
    backend = Scripted()
    transparent = encoded(picture(mode="RGBA"), "PNG")
    check(ChooseQuality(35, verify=backend), [("0", "annexk", 35, "fixed-35", None, None)], images=[transparent])


def test_what_no_jpeg_can_hold_is_kept():
    backend = Scripted()
    wide = encoded(Image.new("RGB", (66_000, 8)), "PNG")  # no JPEG has so many columns
    check(ChooseQuality(35, verify=backend), [("0", "annexk", 35, "fixed-35", None, None)], images=[wide])


def test_what_would_not_get_smaller_is_not_asked_about():
    small = jpeg.open_picture(jpeg.open_image(IMAGE)).encode(jpeg.quantisation("annexk", 5), DEFAULT)
    backend = Scripted(lambda images, number: [CAT if image.quality is None else DOG for image in images])
    for outputs in chosen(ChooseQuality(75, verify=backend), small):
        compressed = outputs.images | CompressJPEG()
        found = compressed.images | beam.Map(lambda row: (row.choice.tables, row.status, row.reason))
        assert_that(found, equal_to([("annexk", "kept", "saving-below-minimum")]))


def test_other_tables_take_back_what_was_verified_of_the_chosen_ones():
    original = Choice("original", 100, "v", 1.0, 1.0, "x 1")
    rows = [ChosenImage("a", IMAGE, original), ChosenImage("b", IMAGE, original._replace(tables="annexk", quality=30))]
    with TestPipeline() as p:
        compressed = p | beam.Create(rows) | CompressJPEG(tables="robidoux")
        found = compressed.images | beam.Map(lambda row: (row.status, row.choice.tables, *row.choice[4:]))
        assert_that(found, equal_to([("kept", "original", 1.0, "x 1"), ("compressed", "robidoux", None, None)]))


def test_windows_and_timestamps_stay():
    def at(index):
        return TimestampedValue(EncodedImage(str(index), IMAGE), 100 * index)

    stream = TestStream(coder=coders.registry.get_coder(EncodedImage)).add_elements([at(0), at(1), at(2)])
    options = PipelineOptions(["--streaming"], allow_unsafe_triggers=True)
    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        arriving = (
            p
            | stream.advance_watermark_to_infinity()
            | beam.Map(lambda row: row).with_output_types(EncodedImage)
            | beam.WindowInto(FixedWindows(100))
        )
        outputs = arriving | ChooseQuality(35, verify=Sizes(limit=1))
        stamped = outputs.images | beam.Map(
            lambda row, at=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam: (row.key, int(at), int(window.end))
        )
        assert_that(stamped, equal_to([("0", 0, 100), ("1", 100, 200), ("2", 200, 300)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"verify": "oracle"}, "unknown name 'oracle'"),
        ({"verify_margin": 1}, "verify_margin is about verifying: give verify=BACKEND too"),
        ({"verify": "baidu", "verify_margin": -1}, "verify_margin must be at least 0, got -1"),
        ({"verify": "baidu", "top": 0}, "top must be at least 1, got 0"),
        ({"verify": ["baidu", "facepp"], "max_calls": 3, "cache": "/c"}, "max_calls is for one backend to verify with"),
        ({"max_calls": 3}, "max_calls is for one backend to verify with, and 0 are given"),
        ({"verify": "baidu", "max_calls": 3}, "max_calls is kept in files that all workers share"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChooseQuality(**arguments)


@pytest.fixture
def named(monkeypatch):
    """`sizes` as a backend's name."""
    monkeypatch.setitem(registry.BACKENDS, "sizes", f"{Sizes.__module__}:Sizes")


def test_the_command_verifies(corpus, compress, tmp_path, named, capsys):
    (corpus / "large.jpg").write_bytes(IMAGE)
    limit = sizes()[20]
    assert compress(corpus, tmp_path / "out", "--verify", f"sizes?limit={limit}") == 0
    rows = manifest_rows(tmp_path / "out")
    assert (rows["large.jpg"].quality, rows["large.jpg"].verified_by) == (20, f"sizes limit={limit}")
    assert rows["large.jpg"].expected_agreement == 1.0
    assert {row.status for row in rows.values()} == {"compressed"}
    said = capsys.readouterr().out
    calls, images = map(
        float, re.search(r"verified with sizes\?limit=\d+: (\d+) calls, ([\d.]+) an image", said).groups()
    )
    assert images == pytest.approx(calls / len(rows), abs=0.06)
    assert 2 <= images <= 7
    assert compress(corpus, tmp_path / "out", "--verify", f"sizes?limit={limit + 1}") == 1
    assert "holds a run with other options (verify was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--verify-margin=2"], "verify_margin is about verifying: give verify=BACKEND too"),
        (["--verify=baidu", "--sample-rate=0.5"], "sample_rate is about scoring: give score_with=BACKEND too"),
        (["--verify=baidu", "--score-with=facepp", "--max-calls=3"], "max_calls is for one backend: verify first"),
        (["--top=3"], "top is about scoring: give score_with=BACKEND too"),
    ],
)
def test_wrong_usage(corpus, compress, options, message, capsys):
    assert compress(corpus, "/nowhere", *options) == 2
    assert message in capsys.readouterr().err
