"""ScoreWithBackend alone in someone's pipeline."""

import dataclasses
import pathlib
import time
import typing
from collections.abc import Sequence

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import window
from backends import CAT, Counting, unavailable

from beam_adacompress import (
    AdaCompressError,
    Backend,
    BackendError,
    Choice,
    ChosenImage,
    CompressedImage,
    ImageFailure,
    Label,
    Query,
    Score,
    ScoreWithBackend,
    Terms,
    Usage,
)
from beam_adacompress.backends import Answer, contract

DOG = (Label("dog", 0.75), Label("cat", 0.25))
FOX = (Label("fox", 1.0),)


@dataclasses.dataclass
class Says(Backend):
    """Answers with what the bytes say: `cat`, `dog`, `nothing`, or the reason of an error."""

    price: float = 0.5
    max_batch: int = 4
    max_pixels: typing.Optional[int] = None

    @property
    def terms(self) -> Terms:
        return Terms("says", "7", max_batch=self.max_batch, price=self.price, max_pixels=self.max_pixels)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        known = {b"cat": CAT, b"dog": DOG, b"fox": FOX, b"nothing": ()}
        words = [image.data.split()[0] for image in images]
        return [known.get(word, BackendError(word.decode(), "as told", retryable=False)) for word in words]


def row(key: str, data: bytes = b"cat 1", compressed: bytes = b"cat", quality: int = 35, **changes) -> CompressedImage:
    choice = Choice("annexk", quality, "test", changes.pop("propensity", 1.0), None)
    made = CompressedImage(key, data, choice, compressed, "compressed", None, "image/jpeg", False, 10, 20, None, 0.1)
    return made._replace(**changes)


def pipeline() -> TestPipeline:
    return TestPipeline(runner="FnApiRunner")


def rows_of(p, *rows, kind=CompressedImage):
    return p | beam.Create(list(rows)).with_output_types(kind)


def counters(result) -> dict[str, int]:
    found = result.metrics().query()["counters"]
    return {c.key.metric.name: c.committed for c in found if c.key.metric.namespace == "adacompress.ScoreWithBackend"}


def test_a_score_says_it_all():
    before = time.time()
    with pipeline() as p:
        scores, failures, usage = rows_of(p, row("a", b"cat 567890", b"dog 5")) | ScoreWithBackend(Says(), 1.0)

        def check(found):
            (score,) = found
            assert isinstance(score, Score)
            assert 0 <= score.latency < 5
            assert before <= score.time <= time.time()
            assert score._replace(latency=None, time=0.0) == Score(
                key="a",
                choice=Choice("annexk", 35, "test", 1.0, None),
                features=[],
                propensity=1.0,
                sampling_probability=1.0,
                status="scored",
                reference_labels=list(CAT),
                compressed_labels=list(DOG),
                agreement=1,
                strict_agreement=0,
                size_ratio=0.5,
                reward=0.5,
                backend="says",
                backend_version="7",
                latency=None,
                cost=1.0,
                time=0.0,
            )

        assert_that(scores, check)
        assert_that(failures, equal_to([]), label="no failures")
        assert_that(usage, equal_to([Usage("a", 2, 0, 0, 0.0, 1.0)]), label="usage")
    assert (scores.element_type, failures.element_type, usage.element_type) == (Score, ImageFailure, Usage)


def test_statuses():
    with pipeline() as p:
        found = rows_of(
            p,
            row("agrees", b"cat 1", b"cat 2"),
            row("strays", b"dog 3", b"cat 4"),
            row("lost", b"dog 9", b"fox"),
            row("unseen", b"cat 5", b"nothing"),
            row("blank", b"nothing 6", b"cat 7"),
            row("kept", b"dog 8", b"dog 8"),
        ) | ScoreWithBackend(Says(), 1.0)
        assert_that(
            found.scores | beam.Map(lambda s: (s.key, s.status, s.agreement, s.strict_agreement, s.cost)),
            equal_to(
                [
                    ("agrees", "scored", 1, 1, 1.0),
                    ("strays", "scored", 0, 0, 1.0),
                    ("lost", "scored", 0, 0, 1.0),
                    ("unseen", "scored", 0, 0, 1.0),
                    ("blank", "no-reference", None, None, 0.5),  # nothing to compare a second answer with
                    ("kept", "scored", 1, 1, 0.5),  # the same bytes are asked for once
                ]
            ),
        )


def test_skipping_what_shows_nothing_as_the_published_runs_do():
    with pipeline() as p:
        found = rows_of(p, row("a", b"cat 1", b"nothing")) | ScoreWithBackend(Says(), 1.0, errors="skip")
        assert_that(
            found.scores | beam.Map(lambda s: (s.status, s.agreement, s.reward)), equal_to([("skipped", None, None)])
        )


@pytest.mark.parametrize(("top", "agreed"), [(1, 0), (2, 1)])
def test_top_sets_the_strictness(top, agreed):
    with pipeline() as p:
        found = rows_of(p, row("a", b"cat 1", b"dog")) | ScoreWithBackend(Says(), 1.0, top=top)
        assert_that(found.scores | beam.Map(lambda s: s.agreement), equal_to([agreed]))


def test_failures_are_rows_and_no_neighbour_is_lost():
    with pipeline() as p:
        found = rows_of(
            p,
            row("0", b"cat 0"),
            row("1", b"bad-image 1"),
            row("2", b"cat 2"),
            row("3", b"cat 3", b"refused"),
            row("4", b"dog 4"),
        ) | ScoreWithBackend(Says(), 1.0)
        assert_that(found.scores | beam.Map(lambda s: s.key), equal_to(["0", "2", "4"]))
        assert_that(
            found.failures,
            equal_to(
                [
                    ImageFailure("1", "ScoreWithBackend", "bad-image", "as told"),
                    ImageFailure("3", "ScoreWithBackend", "refused", "as told"),
                ]
            ),
            label="failures",
        )
        assert_that(found.usage | "K" >> beam.Map(lambda u: u.key), equal_to(["0", "1", "2", "3", "4"]), label="usage")


def test_an_image_with_too_many_pixels_is_not_sent():
    with pipeline() as p:
        found = rows_of(p, row("a", width=30, height=40)) | ScoreWithBackend(Says(max_pixels=1000), 1.0)
        message = "the image has 1200 pixels, and says takes at most 1000; scale it down"
        assert_that(found.failures, equal_to([ImageFailure("a", "ScoreWithBackend", contract.TOO_LARGE, message)]))


def test_wrong_credentials_end_the_job_in_one_sentence():
    with pytest.raises(Exception, match="as told"), pipeline() as p:
        _ = rows_of(p, row("a", b"credentials")) | ScoreWithBackend(Says(), 1.0)


def test_the_sample_does_not_depend_on_how_the_work_is_spread(tmp_path):
    rows = [row(f"{index}.jpg", b"cat %d" % index) for index in range(500)]

    def sampled(name, rows, **options) -> set[str]:
        folder = tmp_path / name
        folder.mkdir()
        with pipeline() as p:
            found = rows_of(p, *rows) | ScoreWithBackend(Says(), 0.2, **options)
            _ = found.scores | beam.Map(lambda score: (folder / score.key).touch())
        return {path.name for path in folder.iterdir()}

    once = sampled("once", rows)
    assert len(once) == pytest.approx(100, abs=35)
    assert sampled("half, backwards", rows[:249:-1]) == {key for key in once if int(key[:-4]) >= 250}
    assert sampled("salted", rows, salt="x") != once


def test_sampling_probabilities_stand_in_the_scores():
    rare = row("rare", quality=95, propensity=0.01)
    options = {"sample_rate": 0.5, "min_action_share": 0.02, "salt": "s"}
    with pipeline() as p:
        found = rows_of(p, rare, *(row(f"{i}", b"cat %d" % i) for i in range(20))) | ScoreWithBackend(Says(), **options)
        assert_that(
            found.scores
            | beam.Map(lambda s: (s.choice.quality, s.propensity, s.sampling_probability))
            | beam.Distinct(),
            equal_to([(35, 1.0, 0.5), (95, 0.01, 1.0)]),
        )


class Shot(typing.NamedTuple):
    camera: int
    key: str
    data: bytes
    choice: Choice
    compressed: bytes
    features: Sequence[float]
    sampling_probability: float


coders.registry.register_coder(Shot, coders.RowCoder)


def test_other_fields_are_carried_along_and_features_and_sampling_are_used():
    choice = Choice("annexk", 35, "test", 1.0, None)
    shots = [
        Shot(7, "a", b"cat 1", choice, b"cat", [0.5, 2.0], 0.25),
        Shot(8, "b", b"refused", choice, b"cat", [], 0.25),
    ]
    with pipeline() as p:
        found = rows_of(p, *shots, kind=Shot) | ScoreWithBackend(Says(), 1.0)
        assert_that(
            found.scores | beam.Map(lambda s: (s.camera, s.key, list(s.features), s.sampling_probability, s.agreement)),
            equal_to([(7, "a", [0.5, 2.0], 0.25, 1)]),
        )
        assert_that(
            found.failures | "F" >> beam.Map(lambda f: (f.camera, f.key, f.reason)),
            equal_to([(8, "b", "refused")]),
            label="failures",
        )
        assert "data" not in dict(found.scores.element_type._fields)
        assert "data" not in dict(found.failures.element_type._fields)


def test_rows_survive_their_coder():
    choice = Choice("annexk", 35, "p", 0.5, 0.97)
    score = Score("k", choice, [1.5], 0.5, 0.1, "scored", list(CAT), [], 0, 0, 0.5, -0.5, "b", "v", None, 0.1, 1.0)
    for one in (CAT[0], score, Usage("k", 2, 1, 0, 0.5, 0.001)):
        coder = coders.registry.get_coder(type(one))
        assert isinstance(coder, coders.RowCoder)
        assert coder.decode(coder.encode(one)) == one


def test_in_a_streaming_pipeline_timestamps_and_windows_stay():
    stream = (
        TestStream(coder=coders.registry.get_coder(CompressedImage), output_tags=None)
        .advance_watermark_to(0)
        .add_elements([window.TimestampedValue(row("a"), 5), window.TimestampedValue(row("b", b"dog 1"), 7)])
        .advance_watermark_to(20)
        .add_elements([window.TimestampedValue(row("bad", b"refused"), 25)])
        .advance_watermark_to_infinity()
    )
    options = PipelineOptions(allow_unsafe_triggers=True)
    options.view_as(StandardOptions).streaming = True

    class Where(beam.DoFn):
        def process(self, one, when=beam.DoFn.TimestampParam, where=beam.DoFn.WindowParam):
            yield one.key, int(when), int(where.end)

    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        arriving = p | stream | beam.Map(lambda one: one).with_output_types(CompressedImage)
        found = arriving | beam.WindowInto(window.FixedWindows(10)) | ScoreWithBackend(Says(), 1.0)
        assert_that(found.scores | beam.ParDo(Where()), equal_to([("a", 5, 10), ("b", 7, 10)]), label="scores")
        assert_that(found.failures | "F" >> beam.ParDo(Where()), equal_to([("bad", 25, 30)]), label="failures")


def test_sliding_windows_pay_once(tmp_path):
    log = tmp_path / "calls"
    log.touch()
    with pipeline() as p:
        arriving = (
            p
            | beam.Create([window.TimestampedValue(row("a"), 5)]).with_output_types(window.TimestampedValue)
            | beam.Map(lambda one: one).with_output_types(CompressedImage)
            | beam.WindowInto(window.SlidingWindows(10, 5))
        )
        found = arriving | ScoreWithBackend(Counting(str(log)), 1.0)
        assert_that(found.scores | beam.Map(lambda s: s.key), equal_to(["a", "a"]))
    assert len(log.read_text().splitlines()) == 2


def test_every_call_is_counted(tmp_path):
    p = pipeline()
    options = {"cache": str(tmp_path), "calls_per_second": 4, "pause": 0.0}
    _ = rows_of(p, *(row(str(i), b"cat %d" % i) for i in range(4)), row("bad", b"refused")) | ScoreWithBackend(
        Says(price=0.25), 1.0, **options
    )
    counted = counters(p.run())
    assert (counted["images_in"], counted["sampled"], counted["images_out"], counted["failed"]) == (5, 5, 4, 1)
    # The four equal results are one call; the refused one is sent alone again if it was in a batch.
    assert counted["cache_hits"] == 3
    assert counted["calls"] - counted["retries"] == 6
    assert counted["cost_microdollars"] == 250_000 * counted["calls"]
    assert counted["cumulativeThrottlingSeconds"] >= 1


def test_a_second_job_pays_nothing(tmp_path):
    for calls in (2, 0):
        p = pipeline()
        _ = rows_of(p, row("a")) | ScoreWithBackend(Says(), 1.0, cache=str(tmp_path))
        assert counters(p.run())["calls"] == calls


@pytest.mark.parametrize(("limit", "calls"), [({"max_calls": 7}, 7), ({"max_cost": 3.0}, 6), ({"max_calls": 0}, 0)])
def test_no_call_above_the_limits(tmp_path, limit, calls):
    log = tmp_path / "calls"
    log.touch()
    with pipeline() as p:
        found = rows_of(p, *(row(str(i), b"cat %d" % i, b"r %d" % i) for i in range(10))) | ScoreWithBackend(
            Counting(str(log), price=0.5), 1.0, cache=str(tmp_path / "cache"), **limit
        )
        assert_that(found.failures | beam.Map(lambda f: f.reason) | beam.Distinct(), equal_to([contract.BUDGET]))
        everything = (
            found.scores | "S" >> beam.Map(lambda s: s.key),
            found.failures | "F" >> beam.Map(lambda f: f.key),
        )
        assert_that(everything | beam.Flatten(), equal_to([str(i) for i in range(10)]), label="nothing is lost")
    assert len(log.read_text().splitlines()) == calls


@pytest.mark.heavy
def test_the_limit_holds_across_worker_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent))
    log = tmp_path / "calls"
    log.touch()
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    with beam.Pipeline("FnApiRunner", PipelineOptions(flags)) as p:
        _ = rows_of(p, *(row(str(i), b"cat %d" % i, b"r %d" % i) for i in range(60))) | ScoreWithBackend(
            Counting(str(log)), 1.0, cache=str(tmp_path / "cache"), max_calls=50, calls_per_second=100
        )
    calls = sorted(float(line.split()[0]) for line in log.read_text().splitlines())
    assert len(calls) == 50
    assert calls[-1] - calls[0] >= 0.45


@dataclasses.dataclass
class Flaky(Counting):
    """Every image is unavailable the first time, in whichever process."""

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        (image,) = images
        known = pathlib.Path(self.path).read_text()
        super().label(images, timeout)
        return [CAT if f" {image.key} {image.quality}\n" in known else unavailable()]


def test_retries_lose_nothing_and_count_as_calls(tmp_path):
    log = tmp_path / "calls"
    log.touch()
    with pipeline() as p:
        found = rows_of(p, *(row(str(i), b"cat %d" % i, b"r %d" % i) for i in range(10))) | ScoreWithBackend(
            Flaky(str(log), price=0.5), 1.0, pause=0.01
        )
        assert_that(
            found.scores | beam.Map(lambda s: (s.status, s.cost)) | beam.Distinct(), equal_to([("scored", 2.0)])
        )
        assert_that(
            found.usage | "U" >> beam.Map(lambda u: (u.calls, u.retries)) | "D" >> beam.Distinct(),
            equal_to([(4, 2)]),
            label="usage",
        )
    assert len(log.read_text().splitlines()) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "vision"}, "unknown name 'vision'"),
        ({"sample_rate": 2}, "sample_rate must be from 0 to 1, got 2"),
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"errors": "ignore"}, "errors must be one of count, skip, got 'ignore'"),
        ({"max_calls": -1, "cache": "c"}, "max_calls must be at least 0, got -1"),
        ({"max_cost": float("nan"), "cache": "c"}, "max_cost must be at least 0 USD, got nan"),
        ({"calls_per_second": 0, "cache": "c"}, "calls_per_second must be above 0, got 0"),
        ({"timeout": -1}, "timeout must be a number of seconds above 0, got -1"),
        ({"max_calls": 10}, "max_calls is kept in files that all workers share: give cache=FOLDER too"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScoreWithBackend(**{"backend": Says(), **arguments})


def test_limits_that_cannot_be_kept_are_refused_at_once():
    with pytest.raises(AdaCompressError, match="only local disks and gs:// can create a file for just one"):
        ScoreWithBackend(Says(), max_calls=10, cache="s3://bucket/cache")


def test_rows_without_a_result_are_refused_when_the_pipeline_is_built():
    p = beam.Pipeline(runner="FnApiRunner")
    chosen = rows_of(p, ChosenImage("a", b"", Choice("annexk", 35, "t", 1.0, None)), kind=ChosenImage)
    with pytest.raises(
        TypeError, match=r"ScoreWithBackend takes rows with the fields .* compressed: bytes, but its input"
    ):
        _ = chosen | ScoreWithBackend(Says())
