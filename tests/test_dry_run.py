"""`adacompress compress --dry-run`: what it predicts beside what the run then comes to, and that it writes nothing."""

from __future__ import annotations

import collections
import dataclasses
import json

import apache_beam as beam
import numpy as np
import pytest
import shards
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from backends import Texture
from conftest import IN_PROCESS, encoded, files_of, manifest_rows, picture

from beam_adacompress.backends import Terms, registry
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.compress_job import CompressJob
from beam_adacompress.pipelines.dry_run import DryRun, rehearse
from beam_adacompress.pipelines.score_job import Scoring
from beam_adacompress.records import Score
from beam_adacompress.scores import from_parquet
from beam_adacompress.transforms.rehearsal import Sample, TryImages, draw_sample

IMAGES = 60
OPTIONS = PipelineOptions(IN_PROCESS)


class Nearby(Texture):
    """Texture as a network in the worker."""

    @property
    def terms(self) -> Terms:
        return Terms("nearby", "1", is_local=True)


def photographs() -> dict[str, bytes]:
    """Images of every kind and size: most are compressed, some are kept, and some fail."""
    random = np.random.default_rng(5)
    found = {}
    for index in range(IMAGES):
        width, height = (int(each) for each in random.integers(40, 200, 2))
        name, image = f"{'ab'[index % 2]}/{index:02d}", picture(width, height, seed=index)
        if index % 10 == 3:
            found[f"{name}.jpg"] = encoded(image)[:700]
        elif index % 10 == 6:
            found[f"{name}.png"] = encoded(image.convert("RGBA"), "PNG")
        elif index % 10 == 9:
            found[f"{name}.png"] = encoded(image, "PNG")
        else:
            found[f"{name}.jpg"] = encoded(image, quality=int(random.integers(40, 98)))
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A corpus, and the run over it."""
    folder = tmp_path_factory.mktemp("dry")
    for name, data in photographs().items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    arguments = ["--input", str(folder / "in"), "--output", str(folder / "out"), "--quality=35", *IN_PROCESS]
    assert cli.main(["compress", *arguments]) == 0
    return folder


@pytest.fixture
def nearby(monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "nearby", f"{Nearby.__module__}:Nearby")


def summary(folder):
    return json.loads((folder / "out" / "summary.json").read_text())


def job(folder, **changes):
    return CompressJob(**{"input": str(folder / "in"), "output": str(folder / "out"), "quality": 35, **changes})


def beside(found, folder):
    """What was predicted, and what the run came to, by name."""
    content = summary(folder)
    images, size = content["images"], content["bytes"]
    return {
        "images": (found.images, images["total"]),
        **{name: (getattr(found, name), images[name]) for name in ("compressed", "kept", "failed")},
        "bytes_in": (found.bytes_in, size["in"]),
        "bytes_out": (found.bytes_out, size["out"]),
        "saved": (found.saved, size["saved"]),
        "bytes_failed": (found.bytes_failed, size["failed"]),
        "size_ratio": (found.size_ratio, content["size_ratio"]["total"]),
    }


def missed(compared):
    """Those whose interval does not hold what the run came to."""
    return {name: pair for name, pair in compared.items() if not pair[0].low <= pair[1] <= pair[0].high}


def test_the_run_comes_to_what_was_predicted(done):
    found = rehearse(job(done, seed=2), DryRun(30), OPTIONS)
    assert (found.sample, found.seed, found.exact) == (30, 2, False)
    compared = beside(found, done)
    assert missed(compared) == {}
    assert all(interval.low < interval.high for name, (interval, _) in compared.items() if name != "images")
    assert found.bytes_out.high - found.bytes_out.low < found.bytes_out.mean, "it says something"


def test_a_sample_of_all_images_is_exact(done):
    found = rehearse(job(done), DryRun(IMAGES), OPTIONS)
    assert found.exact
    for name, (interval, came) in beside(found, done).items():
        assert interval == pytest.approx((came, came, came)), name
    content = summary(done)
    assert {str(quality): count for quality, count in found.qualities.items()} == content["qualities"]
    assert found.reasons == content["reasons"]
    assert found.cpu.low < found.cpu.mean < found.cpu.high
    assert found.agreement is found.promised is None


def test_another_seed_draws_others_and_a_larger_sample_holds_a_smaller_one(done):
    corpus = job(done).corpus
    few, again, more, others = (
        {file.key for file in draw_sample(corpus, "/out", count, seed).files}
        for count, seed in ((10, 4), (10, 4), (20, 4), (10, 5))
    )
    assert few == again < more
    assert few != others
    assert len(few) == len(others) == 10


@pytest.mark.parametrize("kind", shards.KINDS, ids=lambda kind: kind.format)
def test_shards(kind, tmp_path, compress):
    in_shards(kind, tmp_path / "in", 2)
    (tmp_path / "in" / f"torn{kind.suffix}").write_bytes(b"no shard")
    assert compress(tmp_path / "in", tmp_path / "out", f"--format={kind.format}") == 0
    exact = rehearse(job(tmp_path, format=kind.format), DryRun(1000), OPTIONS)
    assert exact.exact
    for name, (interval, came) in beside(exact, tmp_path).items():
        assert interval == pytest.approx((came, came, came)), name


def in_shards(kind, folder, count):
    images = [(name.replace("/", "-"), data) for name, data in photographs().items()]
    for number in range(count):
        shards.make(kind, folder / f"{number:02d}{kind.suffix}", dict(images[number::count]))


def test_some_shards_stand_for_all(tmp_path):
    in_shards(shards.KINDS[0], tmp_path / "in", 20)
    wanted = job(tmp_path, format="tfrecord", seed=1)
    sample = draw_sample(wanted.corpus, "/out", 30, 1)
    assert (sample.units, len(sample.drawn), len(sample.records)) == (20, 16, 16)
    assert {(unit.images, len(unit.keys)) for unit in sample.drawn} == {(3, 2)}
    exact, found = (rehearse(wanted, DryRun(count), OPTIONS) for count in (1000, 30))
    assert (exact.exact, found.exact, found.sample) == (True, False, 32)
    names = ("images", "compressed", "kept", "failed", "bytes_in", "bytes_out", "saved", "size_ratio")
    assert missed({name: (getattr(found, name), getattr(exact, name).mean) for name in names}) == {}
    assert found.images.low < 60 < found.images.high


def test_a_list(done, tmp_path, compress):
    names = [*sorted(photographs())[:20], "gone.jpg"]
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{done / 'in' / name}\n" for name in names))
    assert compress(tmp_path / "list.csv", tmp_path / "out") == 0
    wanted = job(tmp_path, input=str(tmp_path / "list.csv"))
    for name, (interval, came) in beside(rehearse(wanted, DryRun(100), OPTIONS), tmp_path).items():
        assert interval == pytest.approx((came, came, came)), name
    compared = beside(rehearse(wanted, DryRun(10), OPTIONS), tmp_path)
    assert missed(compared) == {}
    assert compared["bytes_in"][0].low < compared["bytes_in"][0].high, "sizes are not known before they are read"


def test_it_writes_nothing_and_calls_no_service(done, tmp_path, vision, compress, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    before = files_of(tmp_path), files_of(done)
    flags = ["--dry-run", "--sample=20", "--quality=35", f"--score-with={vision.uri}", "--max-cost=9"]
    assert compress(done / "in", tmp_path / "out", *flags) == 0
    assert compress(done / "in", tmp_path / "out", *flags, f"--verify={vision.uri}") == 2, "a limit is of one backend"
    assert compress(done / "in", tmp_path / "out", *flags[:3], f"--verify={vision.uri}", "--max-cost=9") == 0
    assert compress(done / "in", done / "out", "--dry-run", "--sample=5", "--overwrite") == 0
    assert (files_of(tmp_path), files_of(done)) == before
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "user-cache").exists()
    assert not vision.server.requests
    said = capsys.readouterr().out
    assert said.count("dry run: 20 of 60 images tried (seed 0); nothing was written") == 2
    assert "of facepp at 0.5 USD: " in said
    assert "at most so many calls, retries not counted: the cache may have answers; no paid call was made" in said
    assert "bytes and time are those of the proposals, which a paid backend would verify" in said


def test_calls_of_scoring_are_those_that_are_made(corpus, compress, tmp_path, vision):
    wanted = CompressJob(
        str(corpus), str(tmp_path / "out"), 35, score_with=vision.uri, scoring=Scoring(sample_rate=0.5)
    )
    (calls,) = rehearse(wanted, DryRun(), OPTIONS).calls
    assert not vision.server.requests
    assert compress(corpus, tmp_path / "out", f"--score-with={vision.uri}", "--sample-rate=0.5") == 0
    made = sum(vision.asked.values())
    assert 0 < made < 12
    assert calls.calls == (made, made, made)
    assert calls.cost == (made / 2, made / 2, made / 2)


def test_agreement_is_measured_by_a_local_backend(done, nearby, tmp_path, capsys):
    scoring = Scoring(sample_rate=1.0, top=1)
    wanted = job(done, output=str(tmp_path / "out"), score_with="nearby", scoring=scoring, quality=15)
    found = rehearse(wanted, DryRun(IMAGES), OPTIONS)
    arguments = ["--input", str(done / "in"), "--output", str(tmp_path / "out"), "--quality=15", *IN_PROCESS]
    arguments += ["--score-with=nearby", "--sample-rate=1", "--top=1"]
    assert cli.main(["compress", *arguments]) == 0
    (part,) = (tmp_path / "out" / "score" / "scores").glob("*.parquet")
    scores: list[Score] = from_parquet(part.read_bytes(), str(part))
    agreed = [score.agreement for score in scores]
    assert 0 < sum(agreed) < len(agreed) == found.agreed_on
    assert found.agreement == pytest.approx((np.mean(agreed),) * 3)
    written = [row for row in manifest_rows(tmp_path / "out").values() if row.status != "failed"]
    calls = sum(1 if row.status == "kept" else 2 for row in written)
    assert found.calls[0].calls == (calls, calls, calls)


def test_a_local_backend_verifies_the_sample(done, nearby, tmp_path, compress):
    asked = tmp_path / "asked"
    uri = f"nearby?path={asked}"
    found = rehearse(job(done, verify=[uri], scoring=Scoring(top=1)), DryRun(IMAGES), OPTIONS)
    calls = len(asked.read_text().splitlines())
    (verifying,) = found.calls
    assert verifying.calls == (calls, calls, calls)
    assert (verifying.what, verifying.price, verifying.measured) == ("verify", 0.0, True)
    assert calls > 2 * IMAGES
    assert compress(done / "in", tmp_path / "out", f"--verify={uri}", "--top=1") == 0
    for name, (interval, came) in beside(found, tmp_path).items():
        assert interval == pytest.approx((came, came, came)), name
    qualities = collections.Counter(row.quality for row in manifest_rows(tmp_path / "out").values() if row.quality)
    assert len(qualities) > 2


def test_the_promise_of_the_policy(corpus, compress, tmp_path, capsys):
    assert compress(corpus, tmp_path / "out", "--dry-run", "--policy=default") == 0
    assert "agreement promised: at least 0.97 with a confidence of 0.95, by 872 calibration images of the policy " in (
        capsys.readouterr().out
    )
    assert compress(corpus, tmp_path / "out", "--dry-run", "--policy=default", "--agreement=0.9999") == 0
    said = capsys.readouterr()
    assert "so every image is left as it is" in said.err
    assert "in the sample: chosen 6" in said.out
    assert "agreement: not known" in said.out


def test_a_recording_backend_records_nothing(corpus, tmp_path, nearby):
    target = tmp_path / "replies.jsonl"
    wanted = CompressJob(str(corpus), str(tmp_path / "out"), 35, score_with=f"record:{target}+nearby")
    assert rehearse(wanted, DryRun(), OPTIONS).agreed_on == 6
    assert not target.exists()


def test_hours_of_the_workers_that_the_options_ask_for(corpus, compress, tmp_path, capsys):
    flags = ["--runner=DataflowRunner", "--machine_type=n2-standard-8", "--max_num_workers=5", "--worker-price=0.4"]
    arguments = ["--input", str(corpus), "--output", "gs://b/out", "--quality=35", "--dry-run", *flags]
    assert cli.main(["compress", *arguments, "--direct_num_workers=1"]) == 0
    said = capsys.readouterr().out
    assert "on Dataflow, if a vCPU there is as fast as a core here:" in said
    assert "8 vCPUs of n2-standard-8 + 5 workers x 180 s start-up / 3,600 = 0.25" in said
    assert " x 0.4 USD = 0.10" in said


def test_a_folder_of_broken_names_and_one_image(compress, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded(picture()))
    with open(str(tmp_path / "in").encode() + b"/bad\xff.jpg", "wb") as file:
        file.write(encoded(picture()))
    assert compress(tmp_path / "in", tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "in the sample: bad-key 1" in said
    assert "CPU time: not known; a larger --sample measures it" in said


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--dry-run", "--sample=1"], 2, "sample must be at least 2 images, whose difference is needed, got 1"),
        (["--dry-run", "--worker-price=-1"], 2, "worker_price must be a number of USD from 0, got -1.0"),
        (["--sample=5"], 2, "sample is about predicting a run: give dry_run too"),
        (["--worker-price=5"], 2, "worker_price is about predicting a run: give dry_run too"),
        (["--dry_run=True"], 2, "--dry_run is DataflowRunner's, and a local run would go on; --dry-run is ours"),
        (["--dry-run", "--input=/nowhere"], 1, "the input /nowhere does not exist"),
        (["--dry-run", "--verify=litert:/nowhere.tflite"], 1, "/nowhere.tflite cannot be read"),
        (["--dry-run", "--policy=/nowhere"], 1, "/nowhere"),
    ],
)
def test_wrong_usage(corpus, compress, tmp_path, capsys, options, status, message):
    assert compress(corpus, tmp_path / "out", *options) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["files", "list", "tfrecord"])
def test_image_bytes_never_cross_a_shuffle(form):
    shuffled = []

    class Shuffles(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, (beam.GroupByKey, beam.Flatten)):
                shuffled.extend(pcoll.element_type for pcoll in node.inputs)

    wanted = CompressJob("/in.csv", "/out", format=form)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | TryImages(wanted.corpus, Sample(0, 0.0, []), wanted.choose_quality(), wanted.compress_jpeg())
    pipeline.visit(Shuffles())
    described = [str(kind) for kind in shuffled]
    assert len(described) >= 5
    assert not [kind for kind in described if "bytes" in kind or "SourceImage" in kind or "CompressedImage" in kind]


def test_from_python_it_fails_as_the_run_would(corpus, tmp_path):
    wanted = CompressJob(str(corpus), str(tmp_path / "out"), policy="/nowhere")
    with pytest.raises(AdaCompressError, match="/nowhere"):
        rehearse(wanted, DryRun(), OPTIONS)
    assert dataclasses.asdict(DryRun()) == {"sample": 500, "worker_price": None}
