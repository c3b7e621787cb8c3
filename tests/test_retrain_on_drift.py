"""`adacompress compress --retrain-on-drift`, from a folder of images to the policy of the next run."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import runpy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import scenery
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from conftest import IN_PROCESS, encoded, manifest_rows, picture
from test_policies import saved
from test_retrain_agent import LEFT, in_service, leave, memory_of
from test_retrain_agent import trainer as trainer  # a fixture

from beam_adacompress import EncodedImage, Label
from beam_adacompress.backends import Answer, Backend, Query, Terms, registry
from beam_adacompress.pipelines import cli, local
from beam_adacompress.policy import artefact as artefacts
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms import files, publishing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CHECKOUT = Path(__file__).parent.parent


@dataclasses.dataclass
class Picky(Backend):
    """Sees the same in an image at quality 90 and above, and below it in some images only."""

    share: float = 0.4

    @property
    def terms(self) -> Terms:
        return Terms("picky", str(self.share), is_local=True)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        return [(Label("itself" if self._sees(image) else "something", 1.0),) for image in images]

    def _sees(self, image: Query) -> bool:
        luck = int(hashlib.sha256(image.key.encode()).hexdigest()[:8], 16) / 2**32
        return image.quality is None or image.quality >= 90 or luck < self.share


@pytest.fixture(autouse=True)
def picky(monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "picky", f"{Picky.__module__}:Picky")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(240):
        (folder / f"{seed:03d}.jpg").write_bytes(encoded(picture(160 + 4 * (seed % 5), 120, seed=seed)))
    return folder


@pytest.fixture
def root(tmp_path):
    """Published policies; the one in service mostly takes qualities below 90, and promises an agreement of 0.95."""
    publishing.publish(str(tmp_path / "root"), scenery.policy(), None)
    return str(tmp_path / "root")


def compress(source, output, *options):
    common = ["--input", str(source), "--output", str(output)]
    if any(option.startswith("--score-with") for option in options):
        common.append("--sample-rate=1")
    return cli.main(["compress", *common, *options, *IN_PROCESS])


def chose(output):
    return {row.policy_version for row in manifest_rows(output).values()}


@pytest.mark.heavy
def test_a_policy_that_has_drifted_is_replaced(photographs, root, tmp_path, capsys):
    pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")
    first = in_service(root)
    loop = [f"--policy={root}", "--explore=0.5", "--score-with=picky", "--retrain-on-drift", "--seed=1"]
    assert compress(photographs, tmp_path / "today", *loop) == 0
    second = in_service(root)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"chosen by the policy {first}, which promises an agreement of 0.95 ")
    assert f" scores of {first}: agreement 0." in lines[-2]
    assert ", and the level to keep is 0.95: retrain, the evidence against an agreement of 0.95 is " in lines[-2]
    assert lines[-1].startswith(
        f"published: {second} takes the place of {first}: the incumbent breaks its promise of 0.95: "
    )
    loaded, _ = artefacts.load(publishing.resolve(root), files.read)
    assert loaded.backends == (("picky", "0.4"),)
    assert (loaded.data["parent"], loaded.data["seed"], loaded.data["images"]) == (first, 1, 240)
    assert {row.key for row in memory_of(root, second)} == {path.name for path in photographs.iterdir()}
    assert cli.main(["policy", "list", root]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(line[0], line[-1] == "latest") for line in listed] == [(second, True), (first, False)]
    assert compress(photographs, tmp_path / "tomorrow", f"--policy={root}") == 0
    assert (chose(tmp_path / "today"), chose(tmp_path / "tomorrow")) == ({first}, {second})


@pytest.fixture
def loop(root):
    """Options of a run in which the backend disagrees with everything."""
    return [f"--policy={root}", "--score-with=picky?share=0", "--retrain-on-drift"]


def test_where_the_policy_is_published_the_next_one_goes(corpus, tmp_path, root, loop, trainer, capsys):
    first = in_service(root)
    options = ["--agreement=0.9", "--confidence=0.8", "--seed=4", "--recent=5", "--false-alarms=100"]
    assert compress(corpus, tmp_path / "out", *loop, *options) == 0
    second = in_service(root)
    assert capsys.readouterr().out.splitlines()[-1] == (f"published: {second} takes the place of {first}: it is better")
    ((version, recent, old, how),) = trainer.given
    assert (version, len(recent), len(old)) == (first, 5, 1)
    assert (how.agreement, how.confidence, how.seed) == (0.9, 0.8, 4)
    assert {len(row.features) for row in memory_of(root, second)} == {scenery.FEATURES}
    # All of it lies where it lies without retraining, and says nothing of it.
    assert [path.name for path in (tmp_path / "out" / "_adacompress").iterdir()] == ["run.json"]
    for name in ("summary.json", "score/summary.json", "_adacompress/run.json"):
        assert not {"publish", "retraining", "detector"} & set(
            json.loads((tmp_path / "out" / name).read_text())["options"]
        )


def test_another_place_to_publish_in(corpus, tmp_path, root, loop, trainer):
    first, other = in_service(root), tmp_path / "other"
    assert compress(corpus, tmp_path / "out", *loop, f"--publish={other}") == 0
    assert in_service(root) == first
    assert publishing.latest(str(other)).previous == first


def test_where_it_has_not_drifted(corpus, tmp_path, root, loop, trainer, capsys):
    first = in_service(root)
    assert compress(corpus, tmp_path / "out", *loop, "--score-with=picky?share=1") == 0
    said = capsys.readouterr().out.splitlines()
    assert f"6 scores of {first}: agreement 1.000 " in said[-2]
    assert said[-1] == "not trained again: no estimate asks for it"
    assert (trainer.given, in_service(root)) == ([], first)


def test_a_policy_that_is_not_published(corpus, tmp_path, trainer, capsys):
    options = [f"--policy={saved(tmp_path / 'policy', promise=0.8)}", "--score-with=picky", "--retrain-on-drift"]
    assert compress(corpus, tmp_path / "out", *options) == 0
    assert "not trained again" in capsys.readouterr().out


def test_a_training_that_fails_leaves_the_run_as_it_is(corpus, tmp_path, root, loop, trainer, capsys):
    trainer.said = [MemoryError("no room")]
    first = in_service(root)
    assert compress(corpus, tmp_path / "out", *loop) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        "adacompress: the policy was not trained again: training failed: MemoryError: no room"
    )
    assert f"report: {tmp_path / 'out' / 'report.html'}" in said.out
    assert len(manifest_rows(tmp_path / "out")) == 6
    assert in_service(root) == first
    trainer.said = [True]
    assert compress(corpus, tmp_path / "out", *loop) == 0  # nothing is paid for twice
    assert "0 calls, of them 0 retries, " in capsys.readouterr().out
    assert publishing.latest(root).previous == first


def test_a_version_that_would_not_take_its_place(corpus, tmp_path, root, capsys):
    default, first = Serving().load().version, in_service(root)
    assert compress(corpus, tmp_path / "out", "--score-with=picky", "--retrain-on-drift", f"--publish={root}") == 1
    assert capsys.readouterr().err == (
        f"adacompress: {first} is in service in {root}, and this run would go by {default}: give --policy {root}\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retrain-on-drift"], "retrain_on_drift goes by scores: give score_with=BACKEND too"),
        (["--retrain_on_drift"], "retrain_on_drift goes by scores: give score_with=BACKEND too"),
        (["--publish=a"], "publish is about retraining: give retrain_on_drift too"),
        (["--detector=adwin"], "detector is about retraining: give retrain_on_drift too"),
        (["--false-alarms=500"], "false_alarms is about retraining: give retrain_on_drift too"),
        (["--recent=500"], "recent is about retraining: give retrain_on_drift too"),
        (
            ["--retrain-on-drift", "--score-with=picky", "--quality=35"],
            "trains the policy that chooses: give no quality",
        ),
        (["--retrain-on-drift", "--score-with=picky", "--tables=annexk"], "give no quality, tables or verify"),
        (["--retrain-on-drift", "--score-with=picky", "--verify=picky"], "give no quality, tables or verify"),
        (["--retrain-on-drift", "--score-with=picky", "--recent=0"], "recent must be from 1 to most (20000), got 0"),
        (["--retrain-on-drift", "--score-with=picky", "--explore=0.6"], "explore must be at most 0.5 where drift is "),
        (["--retrain-on-drift", "--score-with=picky", "--publish="], "publish must be a folder, and is empty"),
        (
            ["--retrain-on-drift", "--score-with=picky", "--detector=adwin", "--false-alarms=500"],
            "the detector adwin has no option 'false_alarms'",
        ),
    ],
)
def test_wrong_usage_is_one_sentence(corpus, tmp_path, options, message, capsys):
    assert compress(corpus, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--publish=policies"], "/policies: give --publish gs://..."),
        (["--template_location=gs://b/t"], "retraining goes by what its jobs come to, so it cannot be a template"),
    ],
)
def test_on_dataflow(options, message, capsys):
    arguments = ["--input=gs://photos/in", "--output=gs://photos/out", "--score-with=picky", "--retrain-on-drift"]
    assert cli.main(["compress", *arguments, *options, "--runner=DataflowRunner"]) == 2
    assert message in capsys.readouterr().err


def test_without_keras(corpus, tmp_path, root, loop, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "keras" else find_spec(name))
    assert compress(corpus, tmp_path / "out", *loop) == 1
    assert capsys.readouterr().err == "adacompress: training needs keras: pip install 'beam-adacompress[train]'\n"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def daily(monkeypatch):
    """The example; what it does not say how to run is run in this process."""
    monkeypatch.setattr(local, "cores", lambda: 1)
    return runpy.run_path(str(CHECKOUT / "examples" / "daily.py"))["main"]


def test_a_scheduled_job(corpus, tmp_path, root, daily, trainer, capsys):
    photos, small, first = tmp_path / "photos", tmp_path / "small", in_service(root)
    for day in ("2025-03-30", "2025-03-31"):
        shutil.copytree(corpus, photos / day)
    common = [f"--photos={photos}", f"--out={small}", "--backend=picky?share=0", "--sample-rate=1"]
    assert daily([*common, f"--policies={root}", "--day=2025-03-30"]) == 0
    second = in_service(root)
    assert publishing.latest(root).previous == first
    assert (small / "2025-03-30" / "images" / "2025-03-30" / "a" / "0.jpg").exists()
    assert daily([*common, f"--policies={root}", "--day=2025-03-30"]) == 0  # once more
    assert capsys.readouterr().out.endswith(": it has learned from these scores already, and is in service\n")
    assert daily([*common, f"--policies={root}", "--day=2025-03-31"]) == 0
    assert (chose(small / "2025-03-30"), chose(small / "2025-03-31")) == ({first}, {second})
    assert [version for version, *_ in trainer.given] == [first, second]
    assert set(trainer.given[1][2]) == {f"2025-03-30/{'ab'[index % 2]}/{index}.jpg" for index in range(6)}
    fresh = tmp_path / "fresh"
    assert daily([*common, f"--policies={fresh}", "--day=2025-04-01"]) == 1  # a day without images
    assert in_service(str(fresh)) == Serving().load().version


def test_the_loop_in_a_pipeline(corpus, root, trainer):
    (code,) = re.findall(
        "```python\n(.*?)```", (CHECKOUT / "docs" / "how-to" / "close-the-loop.md").read_text(), re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(code, names)
    LEFT.clear()
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create([EncodedImage(path.name, path.read_bytes()) for path in corpus.rglob("*.jpg")])
        written, retrained = names["loop"](images, root, Picky(share=0), 1.0)
        assert_that(written | beam.Map(lambda row: row.key), equal_to([path.name for path in corpus.rglob("*.jpg")]))
        _ = retrained | "Leave" >> beam.Map(leave)
    ((row, _),) = LEFT
    assert (row.status, row.candidate) == ("published", in_service(root))
