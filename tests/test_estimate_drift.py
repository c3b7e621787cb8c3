"""EstimateDrift in someone's pipeline, batch and streaming."""

import json
import logging
import typing
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows, TimestampedValue
from apache_beam.yaml.yaml_provider import InlineProvider
from apache_beam.yaml.yaml_transform import YamlTransform
from test_drift import score
from test_policies import saved

from beam_adacompress import Choice, DriftEstimate, EstimateDrift, Retrained, Score
from beam_adacompress.policy import artefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms import publishing
from beam_adacompress.transforms.drift import is_bounded


def estimates(p, scores, drift, kind=Score):
    return p | beam.Create(list(scores)).with_output_types(kind) | drift


def scores_of(version, start, count, agreement=1, name=""):
    """One a second."""
    return [score(f"{name}{version}{at}", agreement, float(at), version) for at in range(start, start + count)]


def in_brief(row):
    return row.key, int(row.start), int(row.end), row.n, row.total, row.agreement, row.state


def batch(scores, drift, expected, brief=in_brief, **options):
    with TestPipeline(runner="FnApiRunner") as p:
        found = estimates(p, scores, drift, **options)
        assert found.element_type is DriftEstimate
        assert_that(found | beam.Map(brief), equal_to(expected))


def counters(result) -> dict[str, int]:
    found = result.metrics().query()["counters"]
    return {c.key.metric.name: c.committed for c in found if c.key.metric.namespace == "adacompress.EstimateDrift"}


# Batch.


def test_one_row_for_all_scores():
    mixed = [*scores_of("v", 0, 8), *scores_of("v", 8, 2, agreement=0)]
    with TestPipeline(runner="FnApiRunner") as p:
        found = estimates(p, mixed[::-1], EstimateDrift(level=0.75, baseline_reward=0.5))

        def check(rows):
            (row,) = rows
            assert isinstance(row, DriftEstimate)
            assert row[:6] == ("", 0.0, 9.0, 10, 10, pytest.approx(0.8))
            assert (row.agreement_low, row.agreement_high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
            assert row.reward == pytest.approx(0.4)
            assert row[11:15] == (0.75, 0.5, "v", "e-detector")
            assert (row.state, row.sample_rate) == ("inference", 0.05)

        assert_that(found, check)


def test_without_scores_there_is_no_row():
    batch([], EstimateDrift(level=0.9), [])


def test_only_what_is_served_and_answered_counts():
    rows = [
        score("a", 1, 1.0),
        score("b", None, 2.0, status="no-reference"),
        score("c", None, 3.0, status="skipped"),
        score("d", 0, 4.0, propensity=0.02),
        score("a", 1, 5.0),  # once more
    ]
    p = TestPipeline(runner="FnApiRunner")
    found = estimates(p, rows, EstimateDrift(level=0.9))
    assert_that(found | beam.Map(in_brief), equal_to([("", 5, 5, 1, 1, 1.0, "inference")]))
    assert counters(p.run()) == {"scores_in": 5, "not_scored": 2, "explored": 1, "estimates_out": 1, "retrain": 0}


def test_the_detector_sees_the_scores_in_the_order_of_time():
    # Read in time, agreement fell; the other way round AdaCompress's window would end on agreeing scores.
    falling = [*scores_of("v", 100, 30), *scores_of("v", 200, 12, agreement=0)]
    drift = EstimateDrift(level=0.9, detector="adacompress", options={"threshold": "memory"})
    for rows in (falling[::-1], falling[1::2] + falling[::2]):
        batch(rows, drift, [("", 100, 211, 42, 42, 30 / 42, "retrain")])
    rising = [row._replace(time=-row.time) for row in falling]
    batch(rising, drift, [("", -211, -100, 42, 42, 30 / 42, "inference")])


class Shot(typing.NamedTuple):
    camera: typing.Optional[int]
    key: str
    choice: Choice
    sampling_probability: float
    status: str
    agreement: typing.Optional[int]
    reward: typing.Optional[float]
    time: float


coders.registry.register_coder(Shot, coders.RowCoder)


def shot(camera, key, agreement, time):
    return Shot(camera, key, Choice("annexk", 35, "v", 1.0, None), 1.0, "scored", agreement, 0.5, time)


SHOTS = [shot(1, "a", 1, 1.0), shot(2, "a", 0, 2.0), shot(1, "b", 1, 3.0), shot(None, "c", 1, 4.0)]


@pytest.mark.parametrize("by", ["camera", lambda row: row.camera])
def test_each_camera_for_itself(by):
    expected = [
        ("1", 1, 3, 2, 2, 1.0, "inference"),
        ("2", 2, 2, 1, 1, 0.0, "inference"),
        ("None", 4, 4, 1, 1, 1.0, "inference"),
    ]
    batch(SHOTS, EstimateDrift(level=0.9, by=by), expected, kind=Shot)


def test_rows_recommend_the_rates_that_they_are_given():
    rates = {"sample_rate": 0.01, "estimate_rate": 0.5, "retrain_rate": 0.75}
    for count, expected in ((1, ("inference", 0.01)), (4, ("estimate", 0.5)), (20, ("retrain", 0.75))):
        drift = EstimateDrift(level=0.9, options={"false_alarms": 1000}, **rates)
        batch(scores_of("v", 0, count, agreement=0), drift, [expected], lambda row: (row.state, row.sample_rate))


def test_windows_of_a_bounded_input_by_the_scores_own_time():
    # Rows of a table have all the same timestamp.
    rows = [*scores_of("v", 0, 4), *scores_of("v", 10, 6, agreement=0), *scores_of("v", 20, 2)]
    where = beam.Map(lambda row, window=beam.DoFn.WindowParam: (int(window.start), *in_brief(row)))
    expected = [
        (0, "", 0, 10, 4, 4, 1.0, "inference"),
        (10, "", 10, 20, 6, 10, 0.0, "retrain"),
        (20, "", 20, 30, 2, 12, 1.0, "retrain"),
    ]
    for order in (rows, rows[::-1]):
        with TestPipeline(runner="FnApiRunner") as p:
            found = estimates(p, order, EstimateDrift(level=0.9, window=10.0, options={"false_alarms": 1000}))
            assert_that(found | where, equal_to(expected))


def test_batches_in_windows_stay_in_them():
    with TestPipeline(runner="FnApiRunner") as p:
        stamped = p | beam.Create([TimestampedValue(score(str(at), 1, 0.0), at) for at in (1, 2, 11)])
        windows = stamped | beam.Map(lambda row: row).with_output_types(Score) | beam.WindowInto(FixedWindows(10))
        assert is_bounded(windows)
        found = windows | EstimateDrift(level=0.9)
        brief = beam.Map(lambda row, at=beam.DoFn.TimestampParam: (int(row.start), row.n, row.total, round(float(at))))
        assert_that(found | brief, equal_to([(0, 2, 2, 10), (10, 1, 3, 20)]))


# Policies.


def unsure(policy):
    """Another policy, which promises 0.9 at most."""
    found = Calibration(400, (20, 25, 28, 60))
    return artefact.PolicyArtefact(**{**vars(policy), "calibration": found, "promise": found.promise(0.9, 0.9)})


def versions(row):
    return row.policy_version, row.n, row.level, row.baseline_reward


def test_a_policy_gives_the_level_and_its_own_scores_count(tmp_path, caplog):
    folder = saved(tmp_path)
    _, version = artefact.load(folder)
    rows = [*scores_of("fixed-35", 0, 30, agreement=0), *scores_of(version, 30, 3), *scores_of("other", 40, 1)]
    with caplog.at_level(logging.WARNING, "beam_adacompress.transforms.drift"):
        batch(rows, EstimateDrift(policy=folder), [(version, 3, 0.97, 0.0)], versions)
    assert f"scores of the policy fixed-35 are not counted: {folder} has none to watch" in caplog.text
    batch(rows[:30], EstimateDrift(policy=folder), [])


def test_the_policy_of_the_package():
    version = Serving().load().version
    batch(scores_of(version, 0, 3), EstimateDrift(policy="default"), [version], lambda row: row.policy_version)


def test_published_policies_have_each_their_level(tmp_path):
    (tmp_path / "first").mkdir()
    first, old = artefact.load(saved(tmp_path / "first"))
    root = str(tmp_path / "published")
    assert publishing.publish(root, first, None) == old
    new = publishing.publish(root, unsure(first), publishing.latest(root))
    before = scores_of(old, 0, 50, agreement=0)
    drift = EstimateDrift(policy=root)
    batch(before, drift, [(old, 50, 0.97, 0.0)], versions)
    during = [*scores_of(new, 50, 5), *scores_of(old, 52, 5, agreement=0), *scores_of("../first", 60, 5)]
    batch([*before, *during], drift, [(new, 5, 0.9, 0.0, "inference")], lambda row: (*versions(row), row.state))


def test_a_folder_without_a_policy(tmp_path):
    with (
        pytest.raises(Exception, match=rf"the policy's file {tmp_path}/policy\.json cannot be read"),
        TestPipeline(runner="FnApiRunner") as p,
    ):
        estimates(p, scores_of("v", 0, 1), EstimateDrift(policy=str(tmp_path)))


# Streaming.


def streaming(steps, drift, expected, lateness=0, windows=None):
    """A stream of scores, whose timestamps are their times; steps are scores, or times to which the watermark moves."""
    stream = TestStream(coder=coders.registry.get_coder(Score)).advance_watermark_to(0)
    for step in steps:
        if isinstance(step, Sequence):
            stream.add_elements([TimestampedValue(each, each.time) for each in step])
        else:
            stream.advance_watermark_to(step)
    options = PipelineOptions(["--streaming"], allow_unsafe_triggers=True)
    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        arriving = p | stream.advance_watermark_to_infinity()
        typed = arriving | beam.Map(lambda row: row).with_output_types(Score)
        assert not is_bounded(typed)
        if drift.window is None:
            typed = typed | (windows or beam.WindowInto(FixedWindows(10), allowed_lateness=lateness))
        found = typed | drift
        brief = beam.Map(
            lambda row, at=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam: (
                *in_brief(row),
                row.start == window.start and row.end == window.end and window.start <= at < window.end,
            )
        )
        assert_that(found | brief, equal_to([(*row, True) for row in expected]))


QUICK = {"false_alarms": 1000}


def test_a_row_for_each_window_and_one_detector_for_all():
    streaming(
        [scores_of("v", 0, 3), 10, scores_of("v", 10, 6, agreement=0), 20, scores_of("v", 20, 2), 30],
        EstimateDrift(level=0.9, options=QUICK),
        [
            ("", 0, 10, 3, 3, 1.0, "inference"),
            ("", 10, 20, 6, 9, 0.0, "retrain"),
            ("", 20, 30, 2, 11, 1.0, "retrain"),
        ],
    )


def test_windows_of_ones_own():
    streaming(
        [scores_of("v", 0, 3), 10, scores_of("v", 10, 3), 20],
        EstimateDrift(level=0.9, window=5.0),
        [("", 0, 5, 3, 3, 1.0, "inference"), ("", 10, 15, 3, 6, 1.0, "inference")],
    )


def test_keys_have_each_their_detector():
    good, bad = scores_of("v", 0, 6, name="good/"), scores_of("v", 0, 6, agreement=0, name="bad/")
    later = [row._replace(key=f"{row.key}x", time=row.time + 10) for row in (good[0], bad[0])]
    streaming(
        [[*good, *bad], 10, later, 20],
        EstimateDrift(level=0.9, by=lambda row: row.key.split("/")[0], options=QUICK),
        [
            ("good", 0, 10, 6, 6, 1.0, "inference"),
            ("bad", 0, 10, 6, 6, 0.0, "retrain"),
            ("good", 10, 20, 1, 7, 1.0, "inference"),
            ("bad", 10, 20, 1, 7, 0.0, "retrain"),
        ],
    )


def test_late_and_repeated_scores_count_once():
    streaming(
        [
            scores_of("v", 10, 3),
            20,
            scores_of("v", 0, 2, agreement=0),  # a window that comes late
            [row._replace(time=25.0) for row in scores_of("v", 10, 2, agreement=0)],  # repeated in a later window
            scores_of("v", 26, 1),
            30,
        ],
        EstimateDrift(level=0.9),
        [
            ("", 10, 20, 3, 3, 1.0, "inference"),
            ("", 0, 10, 2, 5, 0.0, "inference"),
            ("", 20, 30, 1, 6, 1.0, "inference"),
        ],
        lateness=100,
    )


@pytest.mark.parametrize("mode", [trigger.AccumulationMode.ACCUMULATING, trigger.AccumulationMode.DISCARDING])
def test_panes_of_one_window_count_their_scores_once(mode):
    by_two = beam.WindowInto(
        FixedWindows(10), trigger=trigger.Repeatedly(trigger.AfterCount(2)), accumulation_mode=mode
    )
    streaming(
        [scores_of("v", 0, 2), scores_of("v", 2, 2, agreement=0), 10],
        EstimateDrift(level=0.9),
        [("", 0, 10, 2, 2, 1.0, "inference"), ("", 0, 10, 2, 4, 0.0, "inference")],
        windows=by_two,
    )


def test_a_new_policy_in_a_stream(tmp_path):
    (tmp_path / "first").mkdir()
    first, old = artefact.load(saved(tmp_path / "first"))
    root = str(tmp_path / "published")
    publishing.publish(root, first, None)
    new = publishing.publish(root, unsure(first), publishing.latest(root))
    streaming(
        [
            scores_of(old, 0, 9, agreement=0),
            10,
            [*scores_of(old, 10, 2, agreement=0), *scores_of(new, 12, 3), *scores_of(old, 15, 2, agreement=0)],
            20,
            scores_of(old, 20, 3, agreement=0),
            30,
            # With the five stragglers after the new one's last, the fifteenth of these is the twentieth in a row.
            [score(f"back{at}", 1, 30 + at / 10, old) for at in range(21)],
            40,
        ],
        EstimateDrift(policy=root, options=QUICK),
        [
            ("", 0, 10, 9, 9, 0.0, "retrain"),
            ("", 10, 20, 3, 3, 1.0, "inference"),
            ("", 20, 30, 0, 3, None, "inference"),
            ("", 30, 40, 7, 7, 1.0, "inference"),
        ],
    )


def test_the_state_is_kept_by_a_portable_runner():
    rows = [TimestampedValue(each, each.time) for each in (*scores_of("v", 0, 3), *scores_of("v", 10, 2, name="later"))]
    with TestPipeline(runner="FnApiRunner", options=PipelineOptions(["--streaming"])) as p:
        stamped = p | beam.Create(rows) | beam.Map(lambda row: row).with_output_types(Score)
        found = stamped | EstimateDrift(level=0.9, window=10.0)

        def check(rows):
            assert sorted((row.start, row.n) for row in rows) == [(0.0, 3), (10.0, 2)]
            assert max(row.total for row in rows) == 5

        assert_that(found, check)


def test_a_stream_in_one_window_by_its_panes():
    stream = TestStream(coder=coders.registry.get_coder(Score)).advance_watermark_to(0)
    for start in (0, 10):
        stream.add_elements(scores_of("v", start, 3))
    options = PipelineOptions(["--streaming"], allow_unsafe_triggers=True)
    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        arriving = p | stream.advance_watermark_to_infinity()
        panes = arriving | beam.Map(lambda row: row).with_output_types(Score)
        panes = panes | beam.WindowInto(
            beam.transforms.window.GlobalWindows(),
            trigger=trigger.Repeatedly(trigger.AfterCount(3)),
            accumulation_mode=trigger.AccumulationMode.DISCARDING,
        )
        found = panes | EstimateDrift(level=0.9)
        expected = [("", 0, 2, 3, 3, 1.0, "inference"), ("", 10, 12, 3, 6, 1.0, "inference")]
        assert_that(found | beam.Map(in_brief), equal_to(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "^give either policy or level, which say what has to be kept; neither is given$"),
        ({"policy": "p", "level": 0.9}, "^give either policy or level, which say what has to be kept; both are given$"),
        ({"policy": ""}, "^policy must be a folder, or default, and is empty$"),
        ({"policy": "p", "baseline_reward": 0.5}, "^baseline_reward goes with level: a policy has its own$"),
        ({"level": 1.0}, r"^level must be above 0 and below 1, got 1\.0$"),
        ({"level": 0.9, "sample_rate": 0.0}, r"^sample_rate must be above 0 and at most 1, got 0\.0$"),
        ({"level": 0.9, "retrain_rate": 1.5}, r"^retrain_rate must be above 0 and at most 1, got 1\.5$"),
        ({"level": 0.9, "window": 0.0}, r"^window must be above 0 seconds, got 0\.0$"),
        ({"level": 0.9, "detector": "oracle"}, "^detector must be one of e-detector, adacompress, page-hinkley, adwin"),
        ({"level": 0.9, "options": {"window": 3}}, "^the detector e-detector has no option 'window'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EstimateDrift(**arguments)


@pytest.mark.parametrize(("windows", "name"), [(SlidingWindows(10, 5), "SlidingWindows"), (Sessions(10), "Sessions")])
def test_windows_that_overlap_or_grow(windows, name):
    scores = beam.Pipeline() | beam.Create(scores_of("v", 0, 1)).with_output_types(Score) | beam.WindowInto(windows)
    with pytest.raises(ValueError, match=rf"^EstimateDrift takes scores in fixed windows .* these are in {name}: put"):
        _ = scores | EstimateDrift(level=0.9)


def test_a_stream_that_never_ends_a_window():
    p = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    scores = p | beam.Create(scores_of("v", 0, 1)).with_output_types(Score)
    with pytest.raises(ValueError, match=r"^EstimateDrift would wait for the end of an input that has none: put"):
        _ = scores | EstimateDrift(level=0.9)


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (EstimateDrift(level=0.9, by="camera"), "^EstimateDrift needs the field camera, but its input has key, choice"),
        (EstimateDrift(level=0.9), "^EstimateDrift takes rows with the fields key: str, choice: Choice"),
    ],
)
def test_missing_fields(drift, message):
    kind = Score if drift.by else Choice
    scores = beam.Pipeline() | beam.Create([]).with_output_types(kind)
    with pytest.raises(TypeError, match=message):
        _ = scores | drift


def test_rows_without_an_agreement():
    rows = beam.Pipeline() | beam.Create([]).with_output_types(Score)
    less = rows | beam.Select("key", "choice", "sampling_probability", "status", "time", "reward")
    with pytest.raises(TypeError, match=r"^EstimateDrift needs the field agreement, but its input has key, choice"):
        _ = less | EstimateDrift(level=0.9)


# Rows.


def test_rows_survive_their_coder():
    estimate = DriftEstimate("", 0.0, 1.0, 0, 5, *[None] * 6, 0.97, 0.5, "v", "adwin", "retrain", "why", 1.0)
    full = estimate._replace(agreement=0.9, agreement_low=0.8, agreement_high=1.0, reward=-0.5)
    kept = Retrained("kept", "no better", "v", None, 10, 0.9, None, 0.4, None)
    for one in (estimate, full, kept, kept._replace(candidate="w", candidate_agreement=0.95)):
        coder = coders.registry.get_coder(type(one))
        assert isinstance(coder, coders.RowCoder)
        assert coder.decode(coder.encode(one)) == one


def test_in_beam_yaml(tmp_path: Path):
    provider = InlineProvider({"EstimateDrift": EstimateDrift})
    spec = {"type": "EstimateDrift", "config": {"level": 0.9, "detector": "adacompress", "options": {"window": 2}}}
    with TestPipeline(runner="FnApiRunner") as p:
        scores = p | beam.Create(scores_of("v", 0, 5)).with_output_types(Score)
        found = scores | YamlTransform(json.dumps(spec), providers={"EstimateDrift": [provider]})
        assert_that(found | beam.Map(lambda row: (row.n, row.detector)), equal_to([(5, "adacompress")]))
