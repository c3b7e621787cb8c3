"""What TensorBoard shows, read back with TensorBoard's own reader and compared with what learning itself knows."""

from __future__ import annotations

import functools
import io
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from beam_adacompress import plots_of_learning
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.event_log import EventLog
from beam_adacompress.plots_of_learning import Point
from beam_adacompress.policy import learned, training
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.agreement import Predicted
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.fit_agreement import Training
from beam_adacompress.policy.fit_dqn import DQN, Progress
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import Outcomes
from beam_adacompress.policy.training import Learning, policy_of
from beam_adacompress.policy.watching import PICTURE, Watching

SPACE = action_space(["annexk", "deepn"], [10, 40])


@pytest.fixture(scope="module")
def accumulator():
    return pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")


def outcomes(*rows: tuple[list[float], list[float]]) -> Outcomes:
    """Images of 1000 bytes, by the bytes of each action and whether it agrees."""
    sizes, agreement = (np.array([row[at] for row in rows], float) for at in (0, 1))
    count = len(rows)
    return Outcomes(
        keys=tuple(f"{index}" for index in range(count)),
        features=np.zeros((count, 3)),
        sizes=sizes,
        agreement=agreement,
        strict=agreement,
        bytes_in=np.full(count, 1000.0),
        bytes_75=np.full(count, 500.0),
    )


TWO = outcomes(([100, 400, 200, 990], [1, 1, 1, 1]), ([100, 400, 200, 300], [0, 1, 0, 1]))


class Guess(NamedTuple):
    """A model that says the same of every image."""

    agreement: list[float]

    def predict(self, features: np.ndarray) -> Predicted:
        each = np.ones((len(features), 1), np.float32)
        return Predicted(each * np.float32(self.agreement), each * np.float32([100, 400, 200, 300]))


class Step(NamedTuple):
    """As fit_agreement.Epoch."""

    member: int
    epoch: int
    loss: float
    validation_loss: float
    model: Guess


def test_numbers_and_pictures_are_read_back(accumulator, tmp_path):
    png = plots_of_learning.picture("t", [Point("", 0.9, 0.1)], [])
    with EventLog(str(tmp_path)) as log:
        log.scalars(1, wall_time=12.0, loss=0.5, nothing=None)
        log.scalars(2, loss=0.25)
        log.picture(2, "plot", png)
    events = accumulator(str(tmp_path)).Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Scalars("loss")[0].wall_time == 12
    assert events.Tags()["scalars"] == ["loss"]
    (shown,) = events.Images("plot")
    assert (shown.step, shown.encoded_image_string) == (2, png)
    assert (shown.width, shown.height) == Image.open(io.BytesIO(png)).size == (640, 420)


def test_where_nothing_is_written_nothing_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with EventLog(None) as log:
        log.scalars(1, loss=1.0)
        log.picture(1, "plot", b"")
    with pytest.raises(AdaCompressError, match=r"need tensorboard: pip install 'beam-adacompress\[train\]'"):
        EventLog(str(tmp_path))


def test_logs_that_cannot_be_written(tmp_path):
    with pytest.raises(AdaCompressError, match=r"which gs://b/logs cannot: give a local folder"):
        EventLog("gs://b/logs")
    (tmp_path / "file").write_text("")
    with pytest.raises(AdaCompressError, match=r"file/logs cannot be written: Not a directory"):
        EventLog(str(tmp_path / "file" / "logs")).scalars(1, loss=1.0)


def test_an_epoch_by_hand(accumulator, tmp_path):
    watching = Watching(str(tmp_path), TWO, SPACE, [0.0, 10.0])
    # Rewards 0.8 - 0.1, 0.95 - 0.4, 0.85 - 0.2, 0.9 - 0.3: the first action is taken, which agrees once.
    watching.of_epoch(Step(0, 1, 0.7, 0.6, Guess([0.8, 0.95, 0.85, 0.9])))
    # 0.2 - 0.1, 0.95 - 0.4, 0.3 - 0.2, 0.9 - 0.3: the last one, which is not worth it for the first image.
    watching.of_epoch(Step(0, 2, 0.5, 0.4, Guess([0.2, 0.95, 0.3, 0.9])))
    watching.of_epoch(Step(1, 1, 0.9, 0.8, Guess([0.8, 0.95, 0.85, 0.9])))
    watching.close()
    events = accumulator(str(tmp_path / "member-0")).Reload()
    values = {tag: [each.value for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert values == {
        "loss": pytest.approx([0.7, 0.5]),
        "validation_loss": pytest.approx([0.6, 0.4]),
        "agreement": [0.5, 1],
        "size_ratio": pytest.approx([0.1, 0.65]),
        "reward": pytest.approx([0.4, 0.35]),
    }
    assert [each.step for each in events.Images(PICTURE)] == [1, 2]
    assert len(list(tmp_path.glob("member-0/*"))) == 1, "TensorBoard reads one file of a run after the other"
    assert [each.value for each in accumulator(str(tmp_path / "member-1")).Reload().Scalars("loss")] == [
        pytest.approx(0.9)
    ]


def test_what_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots_of_learning, "picture", lambda *given: drawn.append(given) or b"\0" * 24)
    watching = Watching(str(tmp_path), TWO, SPACE, [0.0, 0.0003, 10.0])
    watching.of_epoch(Step(2, 7, 0.7, 0.6, Guess([0.8, 0.95, 0.85, 0.9])))
    ((title, policy, fixed),) = drawn
    assert title == "network 3, epoch 7"
    # With a byte for nothing the original is best; then 0.95 - 0.12; and then nothing counts but bytes.
    assert policy == [("", 1.0, 1.0), ("", 1.0, 0.4), ("", 0.5, 0.1)]
    assert fixed == [("10", 0.5, 0.1), ("40", 1.0, 0.4)]


class Net(NamedTuple):
    """AdaCompress's network, with the same Q values for every image."""

    q: list[float]

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.tile(np.float32(self.q), (len(features), 1))


def test_the_published_agent_by_hand(accumulator, tmp_path):
    watching = Watching(str(tmp_path), TWO, SPACE, ())
    for step in (195, 200):
        watching.of_progress(Progress(step, 400, 0.5, 0.1, 0.0, 0.0, 0.0, Net([0.1, 0.9, 0.2, 0.3])))
    watching.close()
    events = accumulator(str(tmp_path / "validation")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("agreement")] == [(195, 1), (200, 1)]
    assert [each.value for each in events.Scalars("reward")] == pytest.approx([0.6, 0.6])
    assert [each.step for each in events.Images(PICTURE)] == [200]


def many(count: int, seed: int) -> Outcomes:
    """Images that are easy, or need the finer quality, as one feature says."""
    random = np.random.default_rng(seed)
    easy = random.integers(0, 2, count).astype(float)
    found = outcomes(*(([100, 300, 120, 310], [each, 1, each, 1]) for each in easy))
    features = np.column_stack([easy, random.normal(size=(count, len(NAMES) - 1))])
    return Outcomes(**{**vars(found), "features": features})


def parts() -> training.Parts:
    return training.Parts(*(many(count, seed) for seed, count in enumerate((60, 30, 60, 30))))


def test_training_beside_its_own_record(keras, accumulator, tmp_path, monkeypatch):
    told, dealt, watched = [], parts(), Watching.of_epoch
    monkeypatch.setattr(training, "Training", functools.partial(Training, members=1, epochs=3))
    monkeypatch.setattr(Watching, "of_epoch", lambda self, epoch: (told.append(epoch), watched(self, epoch))[1])
    monkeypatch.setattr(learned, "source_bytes", lambda features: np.full(len(features), 1000.0))
    made, unwatched = (
        policy_of(dealt, SPACE, Sight(), [("x", "1")], {}, Learning(agreement=0.8, logs=logs)).agent
        for logs in (str(tmp_path), None)
    )
    assert [(epoch.member, epoch.epoch) for epoch in told] == [(0, 1), (0, 2), (0, 3)] * 2
    events, own = accumulator(str(tmp_path / "member-0")).Reload(), told[:3]
    for tag in ("loss", "validation_loss"):
        assert [each.value for each in events.Scalars(tag)] == pytest.approx([getattr(each, tag) for each in own])
    assert [each.step for each in events.Images(PICTURE)] == [1, 2, 3]
    assert own[2].loss < own[0].loss
    assert isinstance(made, AgreementAgent)
    events = accumulator(str(tmp_path / "policy")).Reload()
    taken = made.act(dealt.validate.features.astype(np.float32)).argmax(axis=1)
    kept, rows = taken == 4, np.arange(30)
    agreement = np.where(kept, 1, dealt.validate.agreement[rows, taken % 4]).mean()
    ratio = np.where(kept, 1, dealt.validate.sizes[rows, taken % 4] / 1000).mean()
    assert [each.value for each in events.Scalars("agreement")] == pytest.approx([agreement])
    assert [each.value for each in events.Scalars("size_ratio")] == pytest.approx([ratio])

    assert unwatched.price == made.price, "logs change nothing of what is learned"
    for name, array in made.arrays().items():
        assert np.array_equal(array, unwatched.arrays()[name]), name


def test_the_published_agent_beside_its_own_record(keras, accumulator, tmp_path, monkeypatch):
    told = []
    watched = Watching.of_progress
    monkeypatch.setattr(Watching, "of_progress", lambda self, each: (told.append(each), watched(self, each))[1])
    monkeypatch.setattr(training, "DQN", functools.partial(DQN, warm_up=20))
    how = Learning("dqn", 0.8, steps=140, logs=str(tmp_path))
    assert isinstance(policy_of(parts(), SPACE, Sight(), [("x", "1")], {}, how).agent, DQNAgent)
    events = accumulator(str(tmp_path)).Reload()
    assert [each.value for each in events.Scalars("loss")] == pytest.approx([each.loss for each in told])
    assert [each.step for each in events.Scalars("loss")] == [each.step for each in told] == list(range(25, 145, 5))
    validation = accumulator(str(tmp_path / "validation")).Reload()
    assert [each.step for each in validation.Scalars("reward")] == [each.step for each in told]
    final = accumulator(str(tmp_path / "policy")).Reload()
    assert final.Scalars("reward")[0].value == validation.Scalars("reward")[-1].value
