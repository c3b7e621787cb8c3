"""RetrainAgent in someone's batch job; that training comes to something is tested elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.yaml.yaml_provider import InlineProvider
from apache_beam.yaml.yaml_transform import YamlTransform
from test_drift import score
from test_loop import estimate
from test_policies import saved

from beam_adacompress import DriftEstimate, EstimateDrift, Label, RetrainAgent, Retrained, Score
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.policies import Serving
from beam_adacompress.policy.retraining import Outcome
from beam_adacompress.scores import from_parquet
from beam_adacompress.transforms import files, publishing, replacing
from beam_adacompress.transforms.publishing import MEMORY


class Trainer:
    """Stands in for training: the candidate is another policy for other scores; remembers what it was given.

    Attributes:
      said: what comes of it, one after the other; the last one for good: True to publish, False not to, None for no
        candidate, or an exception.
    """

    def __init__(self) -> None:
        self.said = [True]
        self.given = []

    def __call__(self, incumbent, version, recent, old, how):
        self.given.append((version, [row.key for row in recent], sorted(row.key for row in old), how))
        said = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        if isinstance(said, BaseException):
            raise said
        if said is None:
            return Outcome(None, False, "score more images", len(recent))
        digest = hashlib.sha256(repr(sorted(row.key for row in recent)).encode()).hexdigest()
        candidate = dataclasses.replace(incumbent, data={"images": len(recent), "sha256": digest, "parent": version})
        reason = "it is better" if said else "it is not better"
        return Outcome(candidate, said, reason, len(recent), 0.9, 0.97, 0.4, 0.3)


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(replacing, "retrain", trainer)
    return trainer


@pytest.fixture
def policy(tmp_path):
    """The folder of the incumbent, not published."""
    return saved(tmp_path / "policy")


@pytest.fixture
def first(policy):
    """Its version."""
    return Serving(policy).load().version


@pytest.fixture
def root(tmp_path, policy):
    """A folder of published policies with the incumbent in it."""
    publishing.publish_folder(str(tmp_path / "root"), policy, None)
    return str(tmp_path / "root")


def scores(version, start=0, count=5, name="image ", **changes):
    return [score(f"{name}{at}", 1, float(at), version, **changes) for at in range(start, start + count)]


def told(state, version):
    return estimate(state, version)


LEFT = []  # rows and windows of the pipeline that ran last


def leave(row, window=beam.DoFn.WindowParam):
    LEFT.append((row, window))


def batch(agent, rows, estimates, kind=Score):
    """The rows of a batch job."""
    LEFT.clear()
    with TestPipeline(runner="FnApiRunner") as p:
        found = {
            "scores": p | "Scores" >> beam.Create(list(rows)).with_output_types(kind),
            "estimates": p | "Estimates" >> beam.Create(list(estimates)).with_output_types(DriftEstimate),
        } | dataclasses.replace(agent)  # Beam takes one for one pipeline
        assert found.element_type is Retrained
        _ = found | beam.Map(leave)
    assert all(isinstance(window, GlobalWindow) for _, window in LEFT)
    return [row for row, _ in LEFT]


def in_service(root):
    return publishing.latest(root).version


def memory_of(root, version):
    path = files.join(publishing.folder_of(root, version), MEMORY)
    return from_parquet(files.read(path), path)


# Batch.


def test_published(trainer, policy, root, first):
    agent = RetrainAgent(policy=policy, publish=root, agreement=0.95, confidence=0.8, seed=7, recent=3)
    (row,) = batch(agent, scores(first, 10)[::-1], [told("retrain", first)])
    new = in_service(root)
    assert row == Retrained("published", "it is better", first, new, 3, 0.9, 0.97, 0.4, 0.3)
    assert publishing.latest(root).previous == first
    assert artefacts.load(publishing.resolve(root))[0].data["parent"] == first
    ((version, recent, old, how),) = trainer.given
    assert (version, recent, old) == (first, ["image 12", "image 13", "image 14"], ["image 10", "image 11"])
    assert (how.agreement, how.confidence, how.seed) == (0.95, 0.8, 7)


@pytest.mark.parametrize("states", [[], ["inference"], ["inference", "estimate"]])
def test_where_nothing_has_drifted_nothing_is_trained(trainer, policy, root, first, states):
    agent = RetrainAgent(policy=policy, publish=root)
    assert batch(agent, scores(first), [told(state, first) for state in states]) == []
    assert trainer.given == []
    (row,) = batch(dataclasses.replace(agent, always=True), scores(first), [told(state, first) for state in states])
    assert (row.status, row.candidate) == ("published", in_service(root))


@pytest.mark.parametrize("always", [False, True])
def test_without_scores_there_is_no_row(trainer, policy, root, first, always):
    assert batch(RetrainAgent(policy=policy, publish=root, always=always), [], [told("retrain", first)]) == []


@pytest.mark.parametrize(
    ("said", "reason", "has_candidate"), [(None, "score more images", False), (False, "it is not better", True)]
)
def test_kept(trainer, policy, root, first, said, reason, has_candidate):
    trainer.said = [said]
    (row,) = batch(RetrainAgent(policy=policy, publish=root), scores(first), [told("retrain", first)])
    assert row[:3] == ("kept", reason, first)
    assert (row.candidate is not None, row.candidate_agreement) == (has_candidate, 0.97 if has_candidate else None)
    assert row.scores == 5
    assert in_service(root) == first
    assert [version.version for version in publishing.versions(root)] == [first]


def test_where_nothing_is_published_yet_the_incumbent_is_first(trainer, tmp_path, policy, first):
    root = str(tmp_path / "new")
    (row,) = batch(RetrainAgent(policy=policy, publish=root), scores(first), [told("retrain", first)])
    assert (row.status, row.incumbent) == ("published", first)
    assert publishing.latest(root)[:2] == (row.candidate, first)
    assert publishing.rollback(root) == first
    assert artefacts.load(publishing.resolve(root))[1] == first


def test_without_a_folder_to_publish_in_it_only_says_what_it_would_do(trainer, policy, root, first):
    for named in (policy, root):
        (row,) = batch(RetrainAgent(policy=named), scores(first), [told("retrain", first)])
        assert row[:3] == ("kept", "it is better; it is not published, since no folder for that is given", first)
        assert row.candidate is not None
    assert in_service(root) == first
    assert len(publishing.versions(root)) == 1


def test_scores_of_another_policy_only_teach(trainer, policy, root, first):
    mixed = [*scores("agreement-before", 0, 2, "old "), *scores(first, 2, 3), *scores("fixed-35", 5, 1, "fixed ")]
    batch(RetrainAgent(policy=policy, publish=root, always=True), mixed, [])
    ((_, recent, old, _),) = trainer.given
    assert recent == ["image 2", "image 3", "image 4"]
    assert old == ["fixed 5", "old 0", "old 1"]


def test_scores_of_other_policies_alone(trainer, policy, root, first):
    rows = [*scores("fixed-35"), *scores("agreement-before", name="old ")]
    (row,) = batch(RetrainAgent(policy=policy, publish=root, always=True), rows, [])
    assert row.reason == (
        f"{first} is in service, and the scores are of agreement-before, fixed-35: score what {first} chose"
    )
    assert (row.status, row.incumbent, row.candidate, row.scores) == ("kept", first, None, 0)
    assert trainer.given == []


def test_another_version_has_drifted(trainer, policy, root, first):
    rows = [*scores(first), *scores("agreement-before", name="old ")]
    (row,) = batch(RetrainAgent(policy=policy, publish=root), rows, [told("retrain", "agreement-before")])
    assert row[:2] == ("kept", f"{first} is in service, and it is agreement-before that has drifted")
    assert trainer.given == []


@pytest.mark.parametrize("asked", [{}, {"agreement": 0.999}, {"confidence": 0.999999}])
def test_a_policy_that_leaves_all_images_alone_is_trained_again(trainer, policy, root, first, asked):
    rows = batch(RetrainAgent(policy=policy, publish=root, **asked), scores(first), [told("inference", first)])
    assert [row.status for row in rows] == (["published"] if asked else [])


def test_a_version_remembers_what_it_was_trained_on(trainer, policy, root, first, monkeypatch):
    labelled = [row._replace(reference_labels=[Label("secret", 1.0)]) for row in scores(first, 0, 4)]
    agent = RetrainAgent(policy=policy, publish=root, always=True, recent=2)
    batch(agent, labelled, [])
    second = in_service(root)
    assert memory_of(root, second) == [row._replace(reference_labels=[]) for row in labelled]
    monkeypatch.setattr(replacing, "REMEMBERED", 5)
    batch(agent, scores(second, 10, 3), [])
    assert trainer.given[1][:3] == (
        second,
        ["image 11", "image 12"],
        ["image 0", "image 1", "image 10", "image 2", "image 3"],
    )
    third = in_service(root)
    assert [row.key for row in memory_of(root, third)] == ["image 10", "image 11", "image 12", "image 2", "image 3"]


def test_the_same_scores_in_any_order_make_the_same_version(trainer, policy, root, first, tmp_path):
    agent = RetrainAgent(policy=policy, publish=root, always=True, recent=3)
    twice = [*scores(first), *scores("agreement-before", 2)]  # some at the same times
    batch(agent, twice, [])
    other = str(tmp_path / "other")
    batch(dataclasses.replace(agent, publish=other), twice[::-1], [])
    assert in_service(other) == in_service(root)
    assert memory_of(other, in_service(other)) == memory_of(root, in_service(root))


def test_what_was_published_from_these_scores_is_not_trained_again(trainer, policy, root, first):
    agent = RetrainAgent(policy=policy, publish=root, recent=3)
    rows, estimates = scores(first), [told("retrain", first)]
    (once,) = batch(agent, rows, estimates)
    (again,) = batch(agent, rows, estimates)
    assert again[:4] == ("published", "it has learned from these scores already, and is in service", *once[2:4])
    assert again.scores == 0
    assert len(trainer.given) == 1
    (later,) = batch(agent, [*rows, *scores(first, 5, 1)], estimates)  # a score that it has not learned from
    assert later.reason == f"{once.candidate} is in service, and it is {first} that has drifted"


def test_rows_with_more_fields_and_in_windows(trainer, policy, root, first):
    fields = [*Score.__annotations__.items(), ("shard", int)]
    LEFT.clear()
    with TestPipeline(runner="FnApiRunner") as p:
        given = p | beam.Create([TimestampedValue(row, row.time) for row in scores(first)])
        more = given | beam.Map(lambda row: beam.Row(**row._asdict(), shard=3)).with_output_types(
            RowTypeConstraint.from_fields(fields)
        )
        windowed = more | beam.WindowInto(FixedWindows(2))
        _ = (
            {
                "scores": windowed,
                "estimates": windowed | EstimateDrift(policy=root, options={"false_alarms": 100}),
            }
            | RetrainAgent(policy=policy, publish=root, always=True)
            | beam.Map(leave)
        )
    assert [row.status for row, _ in LEFT] == ["published"]  # once, and not for each window
    assert trainer.given[0][1] == [f"image {at}" for at in range(5)]
    assert [type(row) for row in memory_of(root, in_service(root))] == [Score] * 5


def test_few_of_many_scores_cross_the_shuffle(trainer, policy, root, first, monkeypatch):
    agent = RetrainAgent(policy=policy, publish=root, always=True, recent=3, most=4)
    batch(agent, scores(first, 0, 3000), [])
    ((_, recent, old, _),) = trainer.given
    assert (recent, old) == (["image 2997", "image 2998", "image 2999"], ["image 2996"])


def test_what_comes_of_it_is_counted(trainer, policy, root, first):
    trainer.said = [ValueError("out of memory")]
    p = TestPipeline(runner="FnApiRunner")
    _ = {
        "scores": p | "Scores" >> beam.Create(scores(first)).with_output_types(Score),
        "estimates": p | "Estimates" >> beam.Create([]).with_output_types(DriftEstimate),
    } | RetrainAgent(policy=policy, publish=root, always=True)
    counters = p.run().metrics().query(MetricsFilter().with_namespace("adacompress.RetrainAgent"))["counters"]
    assert {each.key.metric.name: each.committed for each in counters} == {"failed": 1}


def test_in_beam_yaml(trainer, policy, root, first):
    providers = {"RetrainAgent": [InlineProvider({"RetrainAgent": RetrainAgent})]}
    spec = {
        "type": "composite",
        "input": {"scores": "scores", "estimates": "estimates"},
        "transforms": [
            {
                "type": "RetrainAgent",
                "input": {"scores": "scores", "estimates": "estimates"},
                "config": {"policy": policy, "publish": root, "recent": 4},
            }
        ],
        "output": "RetrainAgent",
    }
    LEFT.clear()
    with TestPipeline(runner="FnApiRunner") as p:
        rows = {
            "scores": p | "Scores" >> beam.Create(scores(first)).with_output_types(Score),
            "estimates": p | "Estimates" >> beam.Create([told("retrain", first)]).with_output_types(DriftEstimate),
        }
        _ = rows | YamlTransform(json.dumps(spec), providers=providers) | beam.Map(leave)
    assert [row.status for row, _ in LEFT] == ["published"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ""}, "^policy must be a folder, or default, and is empty$"),
        ({"publish": ""}, "^publish must be a folder, and is empty$"),
        ({"agreement": 1.5}, r"^agreement must be above 0 and below 1, got 1\.5$"),
        ({"confidence": 0}, "^confidence must be above 0 and below 1, got 0$"),
        ({"seed": -1}, "^seed must be at least 0, got -1$"),
        ({"recent": 0}, r"^recent must be from 1 to most \(20000\), got 0$"),
        ({"most": 100}, r"^recent must be from 1 to most \(100\), got 400$"),
        ({"gather": 0}, "^gather must be at least 1 score, got 0$"),
        ({"explore": 1}, "^explore must be at least 0 and below 1, got 1$"),
        ({"retrain_rate": 0.0}, r"^the rate for retrain must be above 0 and at most 1, got 0\.0$"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrainAgent(**{"policy": "default", **arguments})


def test_wrong_inputs():
    p = beam.Pipeline()
    rows = p | "Scores" >> beam.Create([]).with_output_types(Score)
    estimates = p | "Estimates" >> beam.Create([]).with_output_types(DriftEstimate)
    less = rows | beam.Select("key", "choice", "time")
    agent = RetrainAgent(policy="default")
    for index, (given, message) in enumerate(
        [
            (rows, "^RetrainAgent takes a mapping of two PCollections, scores and estimates, but got PCollection$"),
            ({"scores": rows}, r"^RetrainAgent takes a mapping of .*, but got \['scores'\]$"),
            ({"scores": less, "estimates": estimates}, "^RetrainAgent needs the field features of scores, but its inp"),
            ({"scores": estimates, "estimates": estimates}, r"^RetrainAgent \(scores\) takes rows with the fields key"),
            ({"scores": rows, "estimates": rows}, r"^RetrainAgent \(estimates\) takes rows with the fields key: str"),
        ]
    ):
        with pytest.raises(TypeError, match=message):
            _ = given | f"{index}" >> agent
