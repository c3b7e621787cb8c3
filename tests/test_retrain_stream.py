"""RetrainAgent in a streaming job: alarm, gathering, training, publishing, and what other stages are advised."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from test_loop import estimate
from test_policies import saved
from test_retrain_agent import LEFT, in_service, leave, scores, told
from test_retrain_agent import first as first  # fixtures
from test_retrain_agent import policy as policy
from test_retrain_agent import root as root
from test_retrain_agent import trainer as trainer

from beam_adacompress import DriftEstimate, RetrainAgent, Score
from beam_adacompress.drift.loop import Advice
from beam_adacompress.policy.policies import Serving
from beam_adacompress.scores import MostRecent, from_parquet
from beam_adacompress.transforms import control, publishing
from beam_adacompress.transforms.retrain import _WhenDue


@pytest.fixture
def agent(policy, root):
    """Of a job that gathers five scores."""
    return RetrainAgent(policy=policy, publish=root, gather=5, recent=3, usual_explore=0.02)


ALARM = Advice("retrain", 1.0, 0.5, "")
AGAIN = Advice("estimate", 0.2, 0.02, "")
USUAL = Advice("inference", 0.05, 0.02, "")


def advised(root):
    return control.read_control(root)


SEEN = []  # what was advised when each element of the pipeline that ran last passed
THEN = {}  # what happens when the estimate with a key passes


def passes(item, root):
    if isinstance(item, DriftEstimate) and item.key in THEN:
        THEN[item.key]()
    SEEN.append(advised(root))
    return item


def streamed(agent, *elements, then=None, windows=None):
    """The rows of a streaming job.

    Args:
      agent: to run.
      elements: lists of scores, estimates, and numbers up to which the watermark moves.
      then: what happens when the estimate with a key passes.
      windows: of the scores.
    """
    LEFT.clear()
    SEEN.clear()
    THEN.clear()
    THEN.update(then or {})
    stream = TestStream(coder=coders.FastPrimitivesCoder()).advance_watermark_to(0)
    for each in elements:
        if isinstance(each, (int, float)):
            stream.advance_watermark_to(each)
        else:
            rows = each if isinstance(each, list) else [each]
            stream.add_elements([TimestampedValue(row, getattr(row, "time", getattr(row, "start", 0))) for row in rows])
    options = PipelineOptions(["--streaming"])
    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        arriving = p | stream.advance_watermark_to_infinity()
        noted = arriving | "Pass" >> beam.Map(passes, agent.publish)
        of_kind = {
            name: noted
            | f"Is{name}" >> beam.Filter(lambda row, kind: isinstance(row, kind), kind)
            | f"Type{name}" >> beam.Map(lambda row: row).with_output_types(kind)
            for name, kind in (("scores", Score), ("estimates", DriftEstimate))
        }
        windows = windows or beam.WindowInto(FixedWindows(10), allowed_lateness=1000)
        of_kind["scores"] = of_kind["scores"] | "Windows" >> windows
        of_kind["estimates"] = of_kind["estimates"] | beam.WindowInto(FixedWindows(10), allowed_lateness=1000)
        _ = of_kind | agent | beam.Map(leave)
    return [row for row, _ in LEFT]


def at(time, state, version, key=""):
    return estimate(state, version, key)._replace(start=float(time), end=float(time + 10))


def test_a_stream_from_alarm_to_publishing(agent, trainer, root, first, monkeypatch):
    write, written = control.write_control, []
    monkeypatch.setattr(control, "write_control", lambda root, advice: (written.append(advice), write(root, advice)))
    rows = streamed(
        agent,
        *[scores(first, 0, 4), at(0, "inference", first), 10],
        *[at(10, "retrain", first), 20],
        *[scores(first, 20, 3), at(20, "retrain", first), 30],
        *[scores(first, 30, 4), 40],
        at(40, "retrain", first),
    )
    second = in_service(root)
    assert [row[:4] for row in rows] == [("published", "it is better", first, second)]
    assert trainer.given[0][:3] == (
        first,
        [f"image {time}" for time in (22, *range(30, 34))],  # as many as were gathered
        ["image 0", "image 1", "image 2", "image 20", "image 21", "image 3"],
    )
    usual = USUAL._replace(policy_version=first)
    assert written == [usual, ALARM._replace(policy_version=first), USUAL._replace(policy_version=second)]
    assert SEEN[0] is None
    assert usual in SEEN


def test_after_a_try_for_nothing_more_are_gathered(agent, trainer, root, first):
    trainer.said = [False, True]
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 10, 5), 20, at(20, "retrain", first), 30],
        *[scores(first, 30, 9), 40, at(40, "retrain", first), 50, scores(first, 50, 1), 60],
    )
    assert [row.status for row in rows] == ["kept", "published"]
    assert AGAIN._replace(policy_version=first) in SEEN
    assert len(trainer.given[1][1]) == 10
    assert advised(root) == USUAL._replace(policy_version=in_service(root))


def test_a_stream_does_not_stay_with_a_policy_that_leaves_all_images_alone(agent, trainer, root, first):
    rows = streamed(
        dataclasses.replace(agent, agreement=0.999),
        *[at(0, "inference", first), 10, scores(first, 10, 4), 20, at(20, "inference", first), 30],
        *[scores(first, 30, 1), 40],
    )
    second = in_service(root)
    assert [row[:4] for row in rows] == [("published", "it is better", first, second)]
    assert SEEN[-1] == ALARM._replace(policy_version=first)
    assert advised(root) == ALARM._replace(policy_version=second)  # which cannot promise that either


def test_estimates_of_a_version_that_is_not_in_service_mean_nothing(agent, trainer, root, first):
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 10, 5), 20],
        *[at(20, "retrain", first), at(20, "estimate", first, "late"), 30, scores(first, 30, 9), 40],
        *[at(40, "retrain", "agreement-of-long-ago"), 50, scores("agreement-of-long-ago", 50, 9), 60],
    )
    assert [row.status for row in rows] == ["published"]
    assert advised(root) == USUAL._replace(policy_version=in_service(root))


def test_after_a_rollback_the_version_before_is_watched_again(agent, trainer, root, first):
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 10, 5), 20],
        *[at(20, "inference", first, "put back"), 30, at(30, "retrain", first), 40, scores(first, 40, 5), 50],
        then={"put back": lambda: publishing.rollback(root)},
    )
    assert [(row.status, row.incumbent) for row in rows] == [("published", first)] * 2
    assert rows[0].candidate != rows[1].candidate == in_service(root)


def test_where_another_publishes_meanwhile_all_begins_anew(agent, trainer, root, first, tmp_path):
    other = saved(tmp_path / "other", promise=0.9)
    theirs = Serving(other).load().version
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, at(10, "retrain", first, "now"), scores(first, 10, 5), 20],
        *[at(20, "retrain", theirs), 30, scores(theirs, 30, 5), 40],
        then={"now": lambda: publishing.publish_folder(root, other, publishing.latest(root))},
    )
    assert [(row.status, row.incumbent) for row in rows] == [("kept", theirs), ("published", theirs)]
    assert rows[0].reason == f"{theirs} is in service, and it is {first} that has drifted"
    assert SEEN[-10] == ALARM._replace(policy_version=first)
    assert SEEN[-6] == USUAL._replace(policy_version=theirs)  # before there is an estimate of it


def test_a_failed_training_is_tried_again_with_the_next_scores(agent, trainer, root, first):
    trainer.said = [RuntimeError("no room"), True]
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 10, 5), 20, at(20, "retrain", first), 30],
        *[scores(first, 30, 1), 40],
    )
    assert [(row.status, row.reason) for row in rows] == [
        ("failed", "training failed: RuntimeError: no room"),
        ("published", "it is better"),
    ]
    assert SEEN[-1] == ALARM._replace(policy_version=first)
    assert len(trainer.given) == 2  # and not once more for the estimate in between


class Cell:
    """State of a key, in memory."""

    def __init__(self):
        self.held = []

    def read(self):
        return self.held

    def add(self, part):
        self.held.append(part)

    def clear(self):
        self.held.clear()


class Single(Cell):
    def read(self):
        return self.held[-1] if self.held else None

    write = Cell.add


def test_all_of_it_in_one_bundle(agent, trainer, root, first):
    train, states = _WhenDue(agent._replacing(), agent._pace(), agent.most), (Cell(), Single())
    latest = MostRecent(9)
    for row in scores(first, 10, 5):
        latest.add(row)
    train.start_bundle()
    elements = [at(0, "retrain", first), latest, at(20, "retrain", first, "late")]
    rows = [row for each in elements for row in train.process((0, each), *states)]
    assert [row.status for row in rows] == ["published"]
    assert advised(root) == USUAL._replace(policy_version=in_service(root))


def test_a_state_of_another_release_is_not_gone_on_from(agent, trainer, root, first):
    train, parts, kept = _WhenDue(agent._replacing(), agent._pace(), agent.most), Cell(), Single()
    parts.add(b"in another form")
    kept.write('{"loops": 3}')
    latest = MostRecent(9)
    for row in scores(first, 10, 5):
        latest.add(row)
    train.start_bundle()
    rows = [row for each in (at(0, "retrain", first), latest) for row in train.process((0, each), parts, kept)]
    assert [row.status for row in rows] == ["published"]
    assert len(trainer.given[0][1]) == 5


def test_windows_in_any_order_and_scores_that_come_late_or_twice(agent, trainer, root, first):
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 40, 2), 50],
        *[scores(first, 20, 2), at(0, "inference", first)],  # late
        *[scores(first, 40, 2), scores(first, 20, 2)],  # once more
        at(60, "retrain", first),
        *[scores(first, 60, 1), 70],
    )
    assert [row.status for row in rows] == ["published"]
    assert trainer.given[0][1:3] == ([f"image {time}" for time in (20, 21, 40, 41, 60)], [])


def test_panes_that_repeat_a_window(agent, trainer, root, first):
    twice = beam.WindowInto(
        FixedWindows(100),
        trigger=trigger.Repeatedly(trigger.AfterCount(2)),
        accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
    )
    rows = streamed(
        agent,
        *[at(0, "retrain", first), 10, scores(first, 10, 2), scores(first, 12, 2), 14],
        *[scores(first, 14, 2), 100],
        windows=twice,
    )
    assert [row.status for row in rows] == ["published"]
    assert trainer.given[0][1] == [f"image {time}" for time in range(11, 16)]


def test_what_is_kept_between_windows_is_bounded(agent, trainer, root, first, monkeypatch):
    held = []
    original = _WhenDue._trimmed

    def noting(self, rows, count):
        found = original(self, rows, count)
        held.append((found, sum(len(from_parquet(part, "")) for part in rows.read())))
        return found

    monkeypatch.setattr(_WhenDue, "_trimmed", noting)
    elements = [each for time in range(0, 200, 10) for each in (scores(first, time, 4), time + 10)]
    rows = streamed(
        dataclasses.replace(agent, most=5), *elements, at(200, "retrain", first), 210, scores(first, 210, 5), 220
    )
    assert [row.status for row in rows] == ["published"]
    assert trainer.given[0][1:3] == ([f"image {time}" for time in range(210, 215)], [])
    assert len(held) == 21
    assert all(said == there <= 10 for said, there in held)
    assert max(there for _, there in held) > 5


def test_the_state_is_kept_by_a_portable_runner(agent, trainer, root, first):
    rows = [TimestampedValue(each, each.time) for each in scores(first, 0, 30)]
    with TestPipeline(runner="FnApiRunner", options=PipelineOptions(["--streaming"])) as p:
        given = p | "Scores" >> beam.Create(rows) | beam.Map(lambda row: row).with_output_types(Score)
        estimates = p | "Estimates" >> beam.Create([told("retrain", first)]).with_output_types(DriftEstimate)
        _ = {"scores": given | beam.WindowInto(FixedWindows(1)), "estimates": estimates} | agent
    # Whichever of them came first: it was told, and, where enough scores came after, it has trained.
    expected = USUAL if trainer.given else ALARM
    assert advised(root) == expected._replace(policy_version=in_service(root))


def test_a_streaming_job_does_not_train_whatever_the_estimates_say():
    p = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    rows = p | "Scores" >> beam.Create([]).with_output_types(Score)
    estimates = p | "Estimates" >> beam.Create([]).with_output_types(DriftEstimate)
    with pytest.raises(ValueError, match=r"^always is for jobs that end: a streaming one trains when an estimate says"):
        _ = {"scores": rows, "estimates": estimates} | RetrainAgent(policy="default", always=True)
