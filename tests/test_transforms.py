"""ChooseQuality and CompressJPEG alone in someone's pipeline."""

import dataclasses
import typing

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import window
from conftest import decoded, encoded, picture

from beam_adacompress import (
    Choice,
    ChooseQuality,
    ChosenImage,
    CompressedImage,
    CompressJPEG,
    EncodedImage,
    ImageFailure,
)

FIXED_35 = Choice("annexk", 35, "fixed-35", 1.0, None)


class Shot(typing.NamedTuple):
    camera: int
    key: str
    data: bytes
    taken: typing.Optional[str]


coders.registry.register_coder(Shot, coders.RowCoder)


def pipeline() -> TestPipeline:
    return TestPipeline(runner="FnApiRunner")


def images(p, *rows, kind=EncodedImage):
    return p | beam.Create(list(rows)).with_output_types(kind)


def test_choose_quality_adds_the_choice():
    image = EncodedImage("a", b"anything")
    with pipeline() as p:
        chosen, failures = images(p, image) | ChooseQuality(quality=35)
        assert_that(chosen, equal_to([ChosenImage("a", b"anything", FIXED_35)]))
        assert_that(failures, equal_to([]), label="no failures")
    assert chosen.element_type == ChosenImage
    assert failures.element_type == ImageFailure


def test_compress_jpeg_gives_the_pair():
    data = encoded(picture())
    with pipeline() as p:
        compressed, _ = images(p, ChosenImage("a", data, FIXED_35), kind=ChosenImage) | CompressJPEG()

        def check(rows):
            (row,) = rows
            assert isinstance(row, CompressedImage)
            assert (row.key, row.data, row.choice, row.status) == ("a", data, FIXED_35, "compressed")
            assert len(row.compressed) < len(data)
            assert decoded(row.compressed).size == (row.width, row.height) == (96, 64)
            assert row.seconds > 0

        assert_that(compressed, check)
    assert compressed.element_type == CompressedImage


def test_failures_are_rows_and_nothing_else_is_lost():
    good = [EncodedImage(str(index), encoded(picture(seed=index))) for index in range(4)]
    bad = [EncodedImage("torn", good[0].data[:900]), EncodedImage("text", b"hello"), EncodedImage("empty", b"")]
    with pipeline() as p:
        chosen, _ = images(p, *good[:2], *bad, *good[2:]) | ChooseQuality(35)
        compressed, failures = chosen | CompressJPEG()
        assert_that(compressed | beam.Map(lambda row: row.key), equal_to(["0", "1", "2", "3"]), label="good")
        assert_that(
            failures,
            equal_to(
                [
                    ImageFailure("torn", "CompressJPEG", "truncated", "decoding failed: Premature end of JPEG file"),
                    ImageFailure(
                        "text", "CompressJPEG", "not-an-image", "the content is no image format that can be read"
                    ),
                    ImageFailure("empty", "CompressJPEG", "empty", "the file has no bytes"),
                ]
            ),
            label="bad",
        )


@pytest.mark.parametrize("rows", ["NamedTuple", "beam.Row", "across a shuffle"])
def test_other_fields_are_carried_along(rows):
    shots = [Shot(7, "a", encoded(picture()), "2024-05-01"), Shot(8, "b", b"no image", None)]
    with pipeline() as p:
        source = images(p, *shots, kind=Shot)
        if rows == "beam.Row":
            source |= beam.Select("camera", "key", "data", "taken")
        chosen, _ = source | ChooseQuality(quality=35)
        if rows == "across a shuffle":
            chosen |= beam.Reshuffle()
        compressed, failures = chosen | CompressJPEG()
        assert_that(
            compressed | beam.Map(lambda r: (r.camera, r.key, r.taken, r.choice.quality, r.status, r.data)),
            equal_to([(7, "a", "2024-05-01", 35, "compressed", shots[0].data)]),
            label="compressed",
        )
        assert_that(
            failures | "F" >> beam.Map(lambda r: (r.camera, r.key, r.taken, r.stage, r.reason)),
            equal_to([(8, "b", None, "CompressJPEG", "not-an-image")]),
            label="failed",
        )


@dataclasses.dataclass(frozen=True)
class Frozen:
    key: str
    data: bytes
    camera: int


def test_a_frozen_dataclass_is_a_row_too():
    with pipeline() as p:
        chosen, _ = images(p, Frozen("a", b"x", 7), kind=Frozen) | ChooseQuality(35)
        assert_that(chosen | beam.Map(lambda r: (r.key, r.camera, r.choice.quality)), equal_to([("a", 7, 35)]))


def test_rows_of_every_kind_survive_their_coder():
    rows = [
        FIXED_35,
        EncodedImage("k", b"\x00\xff"),
        ChosenImage("k", b"d", FIXED_35._replace(expected_agreement=0.97)),
        CompressedImage("k", b"d", FIXED_35, b"c", "kept", "alpha", "image/png", False, 1, 2, None, 0.5),
        ImageFailure("ü", "s", "r", "e"),
    ]
    for row in rows:
        coder = coders.registry.get_coder(type(row))
        assert isinstance(coder, coders.RowCoder)
        assert coder.decode(coder.encode(row)) == row


def test_in_a_streaming_pipeline():
    first, second = encoded(picture(seed=1)), encoded(picture(seed=2))
    stream = (
        TestStream(coder=coders.registry.get_coder(EncodedImage), output_tags=None)
        .advance_watermark_to(0)
        .add_elements([window.TimestampedValue(EncodedImage("a", first), 5)])
        .advance_watermark_to(20)
        .add_elements(
            [
                window.TimestampedValue(EncodedImage("torn", second[:900]), 25),
                window.TimestampedValue(EncodedImage("b", second), 26),
            ]
        )
        .advance_watermark_to_infinity()
    )
    options = PipelineOptions(allow_unsafe_triggers=True)
    options.view_as(StandardOptions).streaming = True

    class KeyAndWindow(beam.DoFn):
        def process(self, row, when=beam.DoFn.WindowParam):
            yield row.key, int(when.end)

    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        arriving = (
            p
            | stream
            | beam.Map(lambda row: row).with_output_types(EncodedImage)
            | beam.WindowInto(window.FixedWindows(10))
        )
        chosen, _ = arriving | ChooseQuality(35)
        compressed, failures = chosen | CompressJPEG()
        assert_that(compressed | beam.ParDo(KeyAndWindow()), equal_to([("a", 10), ("b", 30)]), label="windows")
        assert_that(failures | "F" >> beam.ParDo(KeyAndWindow()), equal_to([("torn", 30)]), label="failures")


def test_every_stage_counts():
    good, kept = encoded(picture()), encoded(picture(mode="RGBA"), "PNG")
    p = pipeline()
    chosen, _ = images(p, EncodedImage("a", good), EncodedImage("b", kept), EncodedImage("c", b"text")) | ChooseQuality(
        quality=42
    )
    _ = chosen | CompressJPEG()
    result = p.run()
    result.wait_until_finish()
    metrics = result.metrics().query()
    counters = {
        (c.key.metric.namespace.removeprefix("adacompress."), c.key.metric.name): c.committed
        for c in metrics["counters"]
        if c.key.metric.namespace.startswith("adacompress.")
    }
    size = len(good) + len(kept) + len(b"text")
    assert counters["ChooseQuality", "images_in"] == counters["ChooseQuality", "images_out"] == 3
    assert counters["ChooseQuality", "bytes_in"] == size
    assert counters["CompressJPEG", "images_in"] == 3
    assert counters["CompressJPEG", "images_out"] == 2
    assert counters["CompressJPEG", "bytes_in"] == size
    assert len(kept) < counters["CompressJPEG", "bytes_out"] < size
    assert counters["CompressJPEG", "kept"] == 1
    assert counters["CompressJPEG", "failed"] == 1
    distributions = {d.key.metric.name: d.committed for d in metrics["distributions"]}
    assert (distributions["quality"].min, distributions["quality"].max, distributions["quality"].count) == (42, 42, 3)
    assert distributions["milliseconds"].count == 2


@pytest.mark.parametrize(
    ("source", "transform", "message"),
    [
        (
            lambda p: p | beam.Create([1]).with_output_types(int),
            ChooseQuality(35),
            r"ChooseQuality takes rows with the fields key: str, data: bytes, but the type of its input's elements is "
            r"<class 'int'>; state it, e.g. with .with_output_types\(EncodedImage\)",
        ),
        (
            lambda p: images(p, EncodedImage("a", b""), kind=typing.Any),
            ChooseQuality(35),
            "type of its input's elements is Any",
        ),
        (
            lambda p: p | beam.Create([1]) | beam.Select(key=lambda _: "a", blob=lambda _: b""),
            ChooseQuality(35),
            "ChooseQuality takes rows with the fields key: str, data: bytes, but its input has key, blob",
        ),
        (
            lambda p: images(p, EncodedImage("a", b"")),
            CompressJPEG(),
            "CompressJPEG takes rows with the fields key: str, data: bytes, choice: Choice, but its input has",
        ),
        (
            lambda p: images(p, ChosenImage("a", b"", FIXED_35), kind=ChosenImage),
            ChooseQuality(35),
            "ChooseQuality sets the field choice, which its input has already; rename or drop that",
        ),
    ],
)
def test_wrong_input_is_refused_when_the_pipeline_is_built(source, transform, message):
    p = beam.Pipeline(runner="FnApiRunner")
    with pytest.raises(TypeError, match=message):
        _ = source(p) | transform


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChooseQuality(quality=0), "quality must be from 1 to 100, got 0"),
        (lambda: ChooseQuality(tables="x"), "unknown quantisation tables 'x'"),
        (lambda: CompressJPEG(min_saving=2), "min_saving must be at least 0 and below 1, got 2"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
