from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from backends import Sizes, Texture
from conftest import IN_PROCESS, encoded, picture, said_beside_progress

from beam_adacompress import jpeg
from beam_adacompress.backends import registry
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import cli, train, train_job
from beam_adacompress.pipelines.asking import Asking
from beam_adacompress.pipelines.train_job import TrainJob, configurations
from beam_adacompress.policy import artefact, judging, learned, training
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.artefact import Baseline
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.fit_agreement import Training
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import CALIBRATE, TEST, TRAIN, VALIDATE, part_of
from beam_adacompress.policy.policies import Serving
from beam_adacompress.policy.training import Learning, beside_fixed, by_content, copies_of, parts_of
from beam_adacompress.records import Choice
from beam_adacompress.trials import NO_ANSWER, Trial

IMAGES = 60
SPACE = action_space(["annexk", "deepn"], [10, 40])


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "texture", f"{Texture.__module__}:Texture")
    monkeypatch.setitem(registry.BACKENDS, "sizes", f"{Sizes.__module__}:Sizes")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """One small network in the place of five: how well it learns is tested elsewhere."""
    monkeypatch.setattr(training, "Training", functools.partial(Training, members=1, epochs=8, batch=64, rate=0.02))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """For tests in which it does not matter who was asked first."""
    return f"--cache={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(IMAGES):
        image = picture(48 + 4 * (seed % 5), 48, seed=seed)
        (folder / f"{seed:02d}.jpg").write_bytes(encoded(image))
    return folder


def trained(photographs, output, *options, backend="texture"):
    arguments = ["--input", str(photographs), "--output", str(output), "--qualities=5,20,60", "--tables=annexk,deepn"]
    return cli.main(["train", *arguments, f"--backend={backend}", *IN_PROCESS, *options])


def calls(asked):
    return len(asked.read_text().splitlines())


def test_a_policy_from_a_folder_of_images(keras, photographs, tmp_path, capsys):
    asked = tmp_path / "asked"
    output = tmp_path / "policy"
    options = ["--agreement=0.7", "--confidence=0.8"]
    assert trained(photographs, output, *options, backend=f"texture?path={asked}") == 0
    said = capsys.readouterr().out
    loaded, version = artefact.load(str(output))
    assert [family.name for family in loaded.space.families] == ["annexk", "deepn"]
    assert loaded.space.qualities == (5, 20, 60)
    assert loaded.backends == (("texture", "1"),)
    assert loaded.encoder == {"subsampling": "4:2:0", "optimize": True, "progressive": True, "align": True}
    assert loaded.data["images"] == IMAGES
    assert set(loaded.versions) >= {"beam-adacompress", "keras"}
    assert loaded.promise.holds
    assert loaded.agent.price == loaded.settings[loaded.promise.setting]
    assert len(loaded.agent.recollection) == sum(int(count) for count in said_counts(said)[:2])
    made = calls(asked)
    assert IMAGES * 6 < made <= IMAGES * (1 + 6), (
        "a reference and six actions; what comes to the same bytes is asked once"
    )
    assert f"60 images, 60 different ones: {counts_of(photographs)}" in said
    assert f"{made} calls, {420 - made} of 420 answers from the cache, {made / 1000:.4f} USD" in said
    assert "promised: an agreement of 0.7 with a confidence of 0.8; it is" in said
    assert f"on {loaded.baseline.images} test images: agreement {loaded.baseline.agreement:.3f}" in said
    assert "the standard tables" in said
    assert f"the policy {version} is in {output}" in said
    assert f"adacompress compress --policy {output} ..." in said
    assert sorted(path.name for path in output.iterdir()) == ["job.toml", "policy.json", "weights.npz"]

    policy = Serving(str(output)).load()
    choice = policy.choose(np.zeros(len(NAMES), np.float32), "a")
    assert isinstance(choice, Choice)
    assert choice.policy_version == version

    again = tmp_path / "again"
    assert trained(photographs, again, *options, "--json", backend=f"texture?path={asked}") == 0
    result = json.loads(capsys.readouterr().out)
    assert calls(asked) == made, "every answer was in the cache"
    assert "0 calls, 420 of 420 answers from the cache, 0.00 USD" in result["text"]
    assert (result["calls"], result["cost_usd"], result["failures"]) == (0, 0.0, [])
    assert (result["policy"]["version"], result["policy"]["images"]) == (version, IMAGES)
    assert (result["policy"]["promise"]["target"], result["policy"]["promise"]["confidence"]) == (0.7, 0.8)
    assert (again / "weights.npz").read_bytes() == (output / "weights.npz").read_bytes()
    assert (again / "policy.json").read_bytes() == (output / "policy.json").read_bytes()


def parts(photographs, seed=0):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photographs.iterdir()]
    return [part_of(digest, str(seed)) for digest in digests]


def counts_of(photographs):
    found = parts(photographs)
    return ", ".join(f"{found.count(part)} to {part}" for part in (TRAIN, VALIDATE, CALIBRATE, TEST))


def said_counts(said):
    line = next(line for line in said.splitlines() if " different ones" in line)
    return [part.split()[0] for part in line.partition(": ")[2].split(", ")]


def test_a_policy_that_is_there_is_refused_before_anything_is_asked(photographs, tmp_path, capsys):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    asked = tmp_path / "asked"
    assert trained(photographs, tmp_path / "policy", backend=f"texture?path={asked}") == 1
    assert "holds a policy already: choose another --output, or --overwrite it" in capsys.readouterr().err
    assert not asked.exists()


def test_overwriting_two_backends_and_a_promise_that_cannot_hold(keras, photographs, cache, tmp_path, capsys):
    (tmp_path / "policy.json").write_text("{}")
    assert trained(photographs, tmp_path, cache, "--overwrite", "--backend=sizes?limit=1500") == 0
    said = capsys.readouterr().out
    loaded, _ = artefact.load(str(tmp_path))
    assert loaded.backends == (("sizes", "limit=1500"), ("texture", "1"))
    assert not loaded.promise.holds
    assert loaded.agent.price is None
    images = parts(photographs).count(CALIBRATE)
    assert (
        f"not promised: an agreement of 0.97 with a confidence of 0.95: {images} calibration images cannot show it, "
        "at least 99 are needed, a fifth of all images; so every image is left as it is"
    ) in said
    assert loaded.baseline == Baseline(parts(photographs).count(TEST), 1.0, 1.0)
    assert "standard tables" not in said, "a policy that does nothing has no rival"


def test_the_published_agent(keras, photographs, tmp_path, capsys):
    arguments = ["--input", str(photographs), "--output", str(tmp_path / "policy"), "--backend=texture"]
    arguments += ["--agent=dqn", "--steps=140", f"--logs={tmp_path / 'logs'}"]
    assert cli.main(["train", *arguments, *IN_PROCESS]) == 0
    said = capsys.readouterr().out
    loaded, version = artefact.load(str(tmp_path / "policy"))
    assert version.startswith("dqn-")
    assert loaded.space.qualities == tuple(range(5, 100, 10))
    assert loaded.settings == (0.0,)
    assert "so nothing is promised" in said
    assert "the bytes of the fixed quality of the standard tables" in said
    assert f"curves of learning: tensorboard --logdir {tmp_path / 'logs'}" in said
    written = {path.parent.relative_to(tmp_path / "logs") for path in (tmp_path / "logs").rglob("events.out.tfevents*")}
    assert {str(each) for each in written} == {".", "validation", "policy"}
    choice = Serving(str(tmp_path / "policy")).load().choose(np.zeros(len(NAMES), np.float32), "a")
    assert choice.tables == "annexk"


def test_a_spent_budget_is_said_and_the_same_command_goes_on(keras, photographs, tmp_path, capsys):
    asked = tmp_path / "asked"
    backend = f"texture?path={asked}"
    assert trained(photographs, tmp_path / "policy", "--max-calls=100", backend=backend) == 1
    said = capsys.readouterr().err
    assert "adacompress: nothing was learned: " in said
    assert "the same command with higher limits goes on from there" in said
    assert not (tmp_path / "policy" / "policy.json").exists()
    assert 0 < calls(asked) <= 100
    assert trained(photographs, tmp_path / "policy", backend=backend) == 0
    assert calls(asked) <= IMAGES * 7, "no answer was paid twice"


def test_failures_are_counted(keras, photographs, cache, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in photographs.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "copy.jpg").write_bytes((photographs / "00.jpg").read_bytes())
    (mixed / "broken.jpg").write_bytes(encoded(picture())[:300])
    assert trained(mixed, tmp_path / "policy", cache, "--max-failures=0.01") == 3
    said = capsys.readouterr()
    assert "62 images, 60 different ones: " in said.out
    assert "failed: 1 images (truncated 1), e.g. broken.jpg: " in said.out
    assert "1.61% of the images failed, more than --max-failures 0.01" in said.err
    assert artefact.load(str(tmp_path / "policy"))[0].data["images"] == 60


def test_nothing_to_learn_from(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no image")
    assert trained(tmp_path / "in", tmp_path / "policy") == 1
    (said,) = said_beside_progress(capsys.readouterr().err)
    assert "texture has no answer for any image in" in said


def test_too_few_images(corpus, tmp_path, capsys):
    (corpus / "a" / "0.jpg").rename(tmp_path / "0.jpg")
    assert trained(tmp_path / "0.jpg", tmp_path / "policy") == 1
    said = capsys.readouterr().err
    assert "1 different images with an answer to everything are too few to learn from (" in said
    assert said.count("\n") == 1


def test_without_keras_nothing_is_asked(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras", None)
    asked = tmp_path / "asked"
    assert trained(photographs, tmp_path / "policy", backend=f"texture?path={asked}") == 1
    assert "training needs keras: pip install 'beam-adacompress[train]'" in capsys.readouterr().err
    assert not asked.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--agent=ppo"], "argument --agent: invalid choice: 'ppo'"),
        (["--agreement=1"], "agreement must be above 0 and below 1, got 1.0"),
        (["--confidence=0"], "confidence must be above 0 and below 1, got 0.0"),
        (["--seed=-1"], "seed must be from 0 to"),
        (["--seed=9999999999"], "seed must be from 0 to 2**31 - 1, got 9999999999"),
        (["--steps=500"], "steps is of the agent dqn, and the agent is agreement"),
        (["--agent=dqn", "--steps=5"], "steps must be at least 130, before which nothing is learned, got 5"),
        (["--agent=dqn", "--tables=deepn"], "tables is of the agent agreement: dqn has the published actions"),
        (["--agent=dqn", "--qualities=5"], "qualities is of the agent agreement"),
        (["--tables=x"], "unknown quantisation tables 'x'; known: annexk"),
        (["--tables=annexk,annexk"], "two families of tables are called annexk"),
        (["--qualities=a"], "qualities must be whole numbers like 10,20,40, got 'a'"),
        (["--qualities=40,10"], "qualities must ascend from 1 to 100 at most, got (40, 10)"),
        (["--lookahead=litert:x.tflite", "--lookahead-families=-1"], "lookahead_families must be at least 0, got -1"),
        (["--lookahead-families=0"], "lookahead_families is about a lookahead: give lookahead=NETWORK too"),
        (["--lookahead=texture"], "lookahead is a network in the worker, such as litert:small.tflite, got 'texture'"),
        (["--embedding=texture"], "embedding is a network in the worker"),
        (["--backend=texture"], "the backend texture is given twice"),
        (["--backend=replay:x.jsonl"], "replay knows images by their quality, which is one of the standard tables"),
        (["--backend=oracle"], "unknown name 'oracle'"),
        (["--top=0"], "top must be at least 1, got 0"),
        (["--max-failures=2"], "max_failures must be a share from 0 to 1"),
        (["--max-calls=-1"], "max_calls must be at least 0, got -1"),
        (["--max-pixels=0"], "max_pixels must be at least 1, got 0"),
        (["--quality=5"], "unknown option --quality: did you mean --qualities?"),
        (["--runner=DataflowRunner"], "Dataflow's workers do not reach /out: give --output gs://"),
        (["--template_location=gs://a/b"], "training goes by what its jobs come to, so it cannot be a template"),
    ],
)
def test_wrong_usage(options, message, capsys):
    assert cli.main(["train", "--input=/in", "--output=/out", "--backend=texture", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_beam_can_parse_the_options_of_all_commands_together():
    for command in cli.COMMANDS.values():
        __import__(command.module)
    assert PipelineOptions(["--agreement=0.9", "--seed=3"]).get_all_options()["agreement"] == 0.9


def test_what_is_tried():
    job = TrainJob("/in", "/out", ["texture"])
    assert sorted(train_job.FAMILIES) == sorted(set(jpeg.FAMILIES) - {"robidoux", "feature-distillation"})
    assert len(job.space()) == len(train_job.FAMILIES) * 11
    space = dataclasses.replace(job, tables=["annexk", "deepn"]).space()
    found = configurations(space)
    assert len(found) == len(space.distinct()[0])
    assert [each.quality for each in found[:11]] == list(space.qualities)
    assert {each.quality for each in found[11:]} == {None}, "replies are recorded for standard tables alone"
    assert TrainJob("/in", "/out", ["replay:x.jsonl"], tables=["annexk"]).space().families[0].name == "annexk"
    ahead = TrainJob("/in", "/out", ["texture"], lookahead="litert:small.tflite").sight(space)
    assert ahead.candidates == tuple(
        jpeg.quantisation(family, quality) for family in ("annexk", "deepn") for quality in (5, 11)
    )
    few = TrainJob("/in", "/out", ["texture"], qualities=[30], lookahead="litert:small.tflite")
    candidates = few.sight(few.space()).candidates
    assert len(candidates) == 5
    assert candidates[0] == jpeg.quantisation("annexk", 30)
    one = TrainJob("/in", "/out", ["texture"], lookahead="litert:small.tflite", lookahead_families=1).sight(space)
    assert one.candidates == ahead.candidates[:2]
    none = TrainJob("/in", "/out", ["texture"], lookahead="litert:small.tflite", lookahead_families=0).sight(space)
    assert (none.lookahead, none.candidates) == ("litert:small.tflite", ())
    assert TrainJob("/in", "/out", ["texture"], asking=Asking(cache="/c")).transform(space, Sight()).cache == "/c"


def trial(key, sha256=None, backend="x", ranks=(1, 1, 1, 1), sizes=(100, 200, 90, 180), features=None):
    seen = np.zeros(len(NAMES)) if features is None else features
    sizes = list(sizes)
    return Trial(key, sha256 or key, backend, "1", 8, 8, 1000, 400, seen, sizes, list(ranks), [1.0] * 4, 5, [])


def test_images_are_told_apart_by_content():
    trials = [trial("b", "s"), trial("a", "s", sizes=(1, 2, 3, 4)), trial("a", "s", backend="y"), trial("c", "t")]
    found = by_content(trials)
    assert [(each.key, each.backend, each.sizes[0]) for each in found] == [
        ("s", "x", 1),
        ("s", "y", 100),
        ("t", "x", 100),
    ]
    trials = [trial(f"{index:02d}", sha256=f"{index % 20}") for index in range(40)]
    trials[3] = trials[3]._replace(ranks=[1, NO_ANSWER, 1, 1])
    for seed in (0, 1):
        parts = parts_of(trials, range(4), 5, seed)
        assert parts.images == 19
        assert [set(part.keys) for part in parts] == [
            {f"{index}" for index in range(20) if index != 3 and part_of(f"{index}", str(seed)) == part}
            for part in (TRAIN, VALIDATE, CALIBRATE, TEST)
        ]


def many(count=400, seed=0):
    """Images of which the last feature says whether the coarser quality agrees."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        features = np.zeros(len(NAMES))
        features[NAMES.index("log2_pixels")], features[NAMES.index("log2_bits_per_pixel")] = 6, np.log2(125)  # 1000 B
        features[-1] = random.choice([-1, 1]) * random.uniform(0.5, 1.5)
        coarse = 1 if features[-1] > 0 else 0
        made.append(trial(f"{index:03d}", ranks=(coarse, 1, coarse, 1), features=features))
    return made


@pytest.mark.heavy
def test_what_can_be_known_of_an_image_is_learned_and_pays(keras):
    how = Learning(agreement=0.9)
    found, parts = training.train(many(), SPACE, range(4), Sight(), {}, how)
    assert found.promise.holds
    test = parts.test
    action = judging.acted(found.agent, test)
    easy = test.agreement[:, 0] == 1
    assert np.isin(action[easy], (0, 2)).mean() > 0.8
    assert np.isin(action[~easy], (1, 3, learned.ORIGINAL_ACTION)).mean() > 0.8
    came = judging.judged(test, action)
    assert found.baseline.agreement == pytest.approx(came.agreement.mean())
    assert found.baseline.size_ratio == pytest.approx((came.sizes / 1000).mean())
    row = beside_fixed(found, test)
    assert row.against[0].ratio.high < 1
    assert "the policy takes fewer" in list(train._said_of_worth(training.Trained(found, parts)))[-1]

    # Where the standard tables are as good by themselves, choosing cannot win.
    same = [each._replace(ranks=[1, 1, 1, 1], sizes=[90, 200, 90, 200]) for each in many()]
    again = training.train(same, SPACE, range(4), Sight(), {}, how)
    said = list(train._said_of_worth(again))
    assert said[-1].startswith("1.000 (1.000 to 1.000) of the bytes of the fixed quality of the standard tables")
    assert said[-1].endswith("the policy does not surely win")


def test_without_the_standard_tables_there_is_nothing_to_compare_with(keras):
    space = action_space(["deepn", "robidoux"], [10, 40])
    made = training.train(many(), space, range(4), Sight(), {}, Learning(agreement=0.9))
    assert beside_fixed(*made._replace(parts=made.parts.test)) is None
    assert list(train._said_of_worth(made))[-1].startswith("the standard tables were not tried")


def test_every_backend_has_a_say(keras):
    one = many(200)
    other = [each._replace(backend="y", ranks=[0, 1, 0, 1]) for each in one]
    found, parts = training.train([*one, *other], SPACE, range(4), Sight(), {}, Learning(agreement=0.9))
    assert found.backends == (("x", "1"), ("y", "1"))
    assert parts.images == 200
    assert parts.test.agreement[:, 0].sum() == 0
    assert found.baseline.agreement > 0.9


def test_a_policy_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train.artefacts, "save", full)
    job = TrainJob("/in", str(tmp_path / "policy"), ["texture"])
    with pytest.raises(AdaCompressError, match="policy cannot be written: No space left on device"):
        train._save(job, training.Trained(None, None))


def test_learning_is_checked():
    with pytest.raises(ValueError, match="agent must be one of agreement, dqn, got 'x'"):
        Learning(agent="x")
    with pytest.raises(AdaCompressError, match="are too few to learn from \\(0 to train"):
        training.train([], SPACE, range(4), Sight(), {}, Learning())


def test_copies_train_with_the_images_that_train_and_are_in_no_part():
    originals = [trial(f"{index:02d}") for index in range(40)]
    copies = [each._replace(sha256=f"copy of {each.key}", parent=each.key) for each in originals]
    for seed in (0, 1):
        parts = parts_of([*originals, *copies], range(4), 5, seed)
        assert parts.images == 40
        found = copies_of([*originals, *copies], range(4), 5, seed)
        assert set(found.keys) == {f"copy of {key}" for key in parts.train.keys}
    assert copies_of(originals, range(4), 5, 0) is None


def test_augment(photographs, tmp_path, cache, capsys, keras):
    assert trained(photographs, tmp_path / "out", "--augment=2", cache) == 0
    saved, _ = artefact.load(str(tmp_path / "out"))
    train = sum(part_of(hashlib.sha256(path.read_bytes()).hexdigest(), "0") == TRAIN for path in photographs.iterdir())
    assert (saved.data["images"], saved.data["copies"]) == (IMAGES, 2 * train)
    assert f"{IMAGES} different ones: {train} to train" in (said := capsys.readouterr().out)
    assert f"and {2 * train} copies of those that train" in said


def test_what_goes_by_names_has_no_copies():
    with pytest.raises(ValueError, match="replay knows images by their names, and their copies have none"):
        TrainJob("in", "out", ["replay:a.jsonl"], tables=["annexk"], augment=1)
    with pytest.raises(ValueError, match="augment must be at least 0 copies, got -1"):
        TrainJob("in", "out", ["texture"], augment=-1)
