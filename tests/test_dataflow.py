"""The jobs that Dataflow would get, built without it: what crosses a shuffle, and what the workers are given."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders.row_coder import RowCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2, schema_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer
from conftest import IN_PROCESS, encoded, manifest_rows, picture
from gcs import emulated
from shards import KINDS, make

from beam_adacompress import scores
from beam_adacompress.pipelines import cli
from beam_adacompress.transforms import sources

CHECKOUT = Path(__file__).parent.parent
PACKAGED = ["beam_adacompress", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "pyproject.toml"]

FLAGS = [
    "--runner=DataflowRunner",
    "--dry_run=True",
    "--project=our-project",
    "--region=us-central1",
    "--temp_location=gs://photos/tmp",
    "--staging_location=gs://photos/staging",
]

# Coders that say what they encode; of rows, the kinds of their fields.
CLEAR = {"StrUtf8Coder", "VarIntCoder", "FloatCoder", "STRING", "DOUBLE", "INT64", "BOOLEAN"}

# Coders that do not, and what they encode where they are allowed, by the end of the stage's name.
PICKLES = {"FastPrimitivesCoder", "DeterministicFastPrimitivesCoderV2"}
PICKLED = {
    "SkipFinished/Join/CoGroupByKeyImpl/GroupByKey": "ImageFile, or a row of the manifest",
    "MergeManifest/Count/CombinePerKey/GroupByKey": "RunStats: counts and a few rows of the manifest",
    "RewriteShards/Count/CombinePerKey/GroupByKey": "RunStats",
    "RewriteShards/Gather/CoGroupByKeyImpl/GroupByKey": "Shard, or the path of a file with rows",
    "SampleRun/Count/CombinePerKey(CountCombineFn)/GroupByKey": "a number",
    "SampleRun/Sample, side input python_side_input0": "the number of images by action",
    "WriteScores/Usage/CombinePerKey/GroupByKey": "no key, and rows",
    "WriteScores/Usage/InjectDefault, side input python_side_input0": "ScoreStats: counts and sums",
    "WriteScores/Images/CombinePerKey/GroupByKey": "no key, and (str, int)",
    "WriteScores/Images/InjectDefault, side input python_side_input0": "ScoreStats",
    "WriteScores/Merge/CombinePerKey/GroupByKey": "ScoreStats",
    "WriteScores/Merge/InjectDefault, side input python_side_input0": "ScoreStats",
    "MeasureBands/AddUp/CombinePerKey/GroupByKey": "BandStats: sums of coefficients",
    "MeasureBands/AddUp/InjectDefault, side input python_side_input0": "BandStats",
    "EstimateDrift/AddUp/GroupByKey": "Observation: agreement and reward of an image",
    "EstimateDrift/Gather": "Window: sums of them",
    "EstimateDrift/Watch, state": "Window",
    "RetrainAgent/Latest/CombinePerKey/GroupByKey": "no key, and Score",
    "RetrainAgent/Retrain, side input python_side_input0": "names of policies",
    "RetrainAgent/Retrain, state": "Score, or DriftEstimate",
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("storage")) as bucket:
        yield bucket


@pytest.fixture
def build(storage, monkeypatch):
    """Runs a command, and gives the job that it would have sent."""
    jobs = []
    real = DataflowRunner.run_pipeline

    def run_pipeline(runner, *args):
        result = real(runner, *args)
        jobs.append(runner.job)
        return result

    monkeypatch.setattr(DataflowRunner, "run_pipeline", run_pipeline)

    def run(*argv, status=0, flags=FLAGS):
        assert cli.main([*argv, *flags]) == status
        (job,) = jobs
        return job.proto_pipeline

    return run


def kinds_of(kind):
    """The types that a field's type is made of: an atomic type's name, or the URN of a logical one."""
    which = kind.WhichOneof("type_info")
    inner = getattr(kind, which)
    if which == "row_type":
        for field in inner.schema.fields:
            yield from kinds_of(field.type)
    elif which == "map_type":
        yield from kinds_of(inner.key_type)
        yield from kinds_of(inner.value_type)
    elif which in ("array_type", "iterable_type"):
        yield from kinds_of(inner.element_type)
    else:
        yield inner.urn if which == "logical_type" else schema_pb2.AtomicType.Name(inner)


def coders_of(coder):
    """The names of the coders that a coder is made of; a row's are the types of its fields."""
    parts = list(coder._get_component_coders())
    if isinstance(coder, RowCoder):
        for field in coder.schema.fields:
            yield from kinds_of(field.type)
    elif parts:
        if type(parts[-1]).__name__ == "PaneInfoCoder":
            parts = parts[:1]  # Reshuffle adds the time and the pane
        for part in parts:
            yield from coders_of(part)
    else:
        yield type(coder).__name__


def crossings(proto):
    """The names of the coders of all that Dataflow shuffles, keeps as state or hands to workers, by stage."""
    components = proto.components
    context = PipelineContext(components)
    found = {}

    def add(stage, collection):
        coder = context.coders[components.pcollections[collection].coder_id]
        found[stage] = set(coders_of(coder))

    for transform in components.transforms.values():
        if transform.spec.urn == "beam:transform:group_by_key:v1":
            add(transform.unique_name, *transform.inputs.values())
        elif transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            is_stateful = payload.state_specs or payload.timer_family_specs
            for tag, collection in transform.inputs.items():
                if tag in payload.side_inputs:
                    add(f"{transform.unique_name}, side input {tag}", collection)
                elif is_stateful:
                    add(f"{transform.unique_name}, state", collection)
    return found


# beam.Create of what is known when the job is built, names of images, is encoded already.
CREATED = "MaybeReshuffle/Reshuffle/ReshufflePerKey/GroupByKey"


def unclear(found):
    """What may be the bytes of images, by stage."""
    left = {}
    for stage, coders in found.items():
        allowed = PICKLES if stage.endswith(tuple(PICKLED)) else {"BytesCoder"} if stage.endswith(CREATED) else set()
        if coders - CLEAR - allowed:
            left[stage] = coders - CLEAR - allowed
    return left


@pytest.fixture(scope="module")
def finished(storage):
    """Where in the bucket there are a corpus `in` and a compress run of it, `out`: workers reach no disk of ours."""
    for folder, count in (("in", 6), ("many", 36)):
        for number in range(count):
            blob = storage.blob(f"finished/{folder}/{number}.jpg")
            blob.upload_from_string(encoded(picture(seed=number), quality=90))
    storage.blob("finished/list.csv").upload_from_string("uri\n" + "".join(f"in/{number}.jpg\n" for number in range(6)))
    paths = ["--input=gs://photos/finished/in", "--output=gs://photos/finished/out"]
    assert cli.main(["compress", *paths, "--quality=35", *IN_PROCESS]) == 0
    assert len(list(storage.list_blobs(prefix="finished/out/images/"))) == 6
    return "gs://photos/finished"


VISION = "google-vision"
LEARNING = [f"--score-with={VISION}", "--publish=gs://photos/policies", "--explore=0.1"]
SEARCHED = ["--output=gs://photos/s.json", "--method=search"]
JOBS = {
    "compress": ["compress", "--input=IN/in", "--output=gs://photos/a"],
    "compress shards": ["compress", "--input=IN/in", "--format=parquet", "--output=gs://photos/b"],
    "compress a list": ["compress", "--input=IN/list.csv", "--output=gs://photos/c"],
    "compress and score": ["compress", "--input=IN/in", "--output=gs://photos/d", f"--score-with={VISION}"],
    "compress and verify": ["compress", "--input=IN/in", "--output=gs://photos/k", f"--verify={VISION}"],
    "compress and retrain": ["compress", "--input=IN/in", "--output=gs://photos/l", *LEARNING, "--retrain-on-drift"],
    "score": ["score", "--input=IN/out", "--output=gs://photos/e", f"--backend={VISION}"],
    "serve": ["serve", "--subscription=projects/our-project/subscriptions/new", "--output=gs://photos/f"],
    "serve and retrain": ["serve", "--input=gs://photos/new", "--output=gs://photos/m", *LEARNING],
    "tables fit": ["tables", "fit", "--input=IN/in", "--output=gs://photos/t.json"],
    "tables search": ["tables", "fit", "--input=IN/many", *SEARCHED, f"--backend={VISION}"],
    "retrain": ["retrain", "--scores=gs://photos/scores", "--publish=gs://photos/policies"],
    "train": ["train", "--input=IN/in", "--output=gs://photos/p", f"--backend={VISION}"],
    "evaluate": ["evaluate", "--input=IN/in", "--output=gs://photos/q", f"--backend={VISION}", "--split=all"],
}

# These go by what their jobs come to, and say so where there is nothing to go by.
OF_SEVERAL_STEPS = ("train", "evaluate", "tables search")


@pytest.mark.parametrize("name", JOBS)
def test_only_names_and_small_rows_cross(build, finished, storage, capsys, name):
    storage.blob("scores/scores/part-00000.parquet").upload_from_string(scores.to_parquet([]))
    argv = [argument.replace("IN/", f"{finished}/") for argument in JOBS[name]]
    found = crossings(build(*argv, status=int(name in OF_SEVERAL_STEPS)))
    assert unclear(found) == {}
    assert found or name == "serve"
    assert "the job is built, and was not run" in capsys.readouterr().out
    assert list(storage.list_blobs(prefix="finished/out/score/")) == []


def as_any(images):
    return images | "Any" >> beam.Map(lambda image: image).with_output_types(beam.typehints.Any)


def by_key(images, kind):
    return images | beam.WithKeys("all").with_output_types(tuple[str, kind])


WRONG = {
    "rows": lambda images: images | beam.Reshuffle(),
    "of no known type": lambda images: as_any(images) | beam.Reshuffle(),
    "grouped": lambda images: by_key(images, beam.typehints.Any) | beam.GroupByKey(),
    "bytes": lambda images: by_key(images | beam.Map(lambda image: image.data), bytes) | beam.GroupByKey(),
    "as state": lambda images: by_key(images, sources.SourceImage) | beam.GroupIntoBatches(2),
    "as a side input": lambda images: images | beam.Map(lambda image, others: image, beam.pvalue.AsList(images)),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_that_cross_are_noticed(build, finished, monkeypatch, name):
    real = sources.ReadFiles.expand

    def expand(transform, images):
        outputs = real(transform, images)
        WRONG[name](outputs.images)
        return outputs

    monkeypatch.setattr(sources.ReadFiles, "expand", expand)
    proto = build("compress", f"--input={finished}/in", "--output=gs://photos/g", "--quality=35")
    assert unclear(crossings(proto)) != {}


@pytest.mark.parametrize("form", ["files", "tfrecord"])
def test_what_is_grouped_holds_no_image(tmp_path, monkeypatch, form):
    """What coders do not tell: in one process, all that is grouped can be looked at."""
    grouped = []
    real = GroupingBuffer.append

    def append(buffer, data):
        grouped.append(data)
        real(buffer, data)

    monkeypatch.setattr(GroupingBuffer, "append", append)
    photographs = {f"{number}.jpg": encoded(picture(seed=number), quality=90) for number in range(6)}
    if form == "tfrecord":
        make(KINDS[0], tmp_path / "in" / "a.tfrecord", photographs)
    else:
        (tmp_path / "in").mkdir()
        for name, data in photographs.items():
            (tmp_path / "in" / name).write_bytes(data)
    argv = [f"--input={tmp_path / 'in'}", f"--format={form}", f"--output={tmp_path / 'out'}", "--quality=35"]
    for _ in range(2):  # the second goes on
        assert cli.main(["compress", *argv, *IN_PROCESS]) == 0
    assert len(manifest_rows(tmp_path / "out")) == len(photographs)
    assert b"in/" in b"".join(grouped)
    assert b"\xff\xd8\xff" not in b"".join(grouped)


def test_a_dry_run_writes_nothing(build, finished, storage):
    build("compress", f"--input={finished}/in", "--output=gs://photos/h", "--quality=35", f"--score-with={VISION}")
    assert [blob.name for blob in storage.list_blobs(prefix="h/")] == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What setup.py needs of a checkout, where it may leave things."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in PACKAGED:
        source = CHECKOUT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    return folder


def test_the_workers_get_the_package_and_no_tensorflow(build, finished, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    source = f"--input={finished}/in"
    proto = build("compress", source, "--output=gs://photos/i", "--quality=35", "--setup_file=./setup.py")
    staged = {}
    for environment in proto.components.environments.values():
        for artifact in environment.dependencies:
            name = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
            staged[name] = beam_runner_api_pb2.ArtifactFilePayload.FromString(artifact.type_payload).path
    assert "requirements.txt" not in staged
    with tarfile.open(staged["workflow.tar.gz"]) as package:
        names = {member.name.partition("/")[2] for member in package.getmembers()}
        (listed,) = [member for member in package.getmembers() if member.name.endswith(".egg-info/requires.txt")]
        required = package.extractfile(listed).read().decode().partition("\n[")[0]
    ours = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "beam_adacompress").rglob("*.py")}
    assert ours <= names
    assert {
        "beam_adacompress/providers.yaml",
        "beam_adacompress/templates/report.css",
        "beam_adacompress/templates/report.html",
        "beam_adacompress/templates/report.js",
        "beam_adacompress/jpeg/families/annexk.json",
        "beam_adacompress/policy/default/policy.json",
        "beam_adacompress/policy/default/weights.npz",
    } <= names
    names = {re.match(r"[\w-]+", line)[0] for line in required.splitlines() if line}
    assert {"apache-beam", "pillow", "pyarrow"} <= names
    assert not {"tensorflow", "keras", "ai-edge-litert", "boto3", "google-cloud-vision"} & names


NOT_DRY = [flag for flag in FLAGS if "dry_run" not in flag]


def test_a_classic_template(storage, finished, checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    command = ["compress", f"--input={finished}/in", "--output=gs://photos/j", "--quality=35", *NOT_DRY]
    staging = ["--template_location=gs://photos/templates/compress", "--setup_file=./setup.py"]
    assert cli.main([*command, *staging]) == 0
    assert "template written to gs://photos/templates/compress" in capsys.readouterr().out
    template = json.loads(storage.blob("templates/compress").download_as_bytes())
    assert template["type"] == "JOB_TYPE_BATCH"
    assert "workflow.tar.gz" in json.dumps(template["environment"])
    staged = {blob.name.rpartition("/")[2] for blob in storage.list_blobs(prefix="staging/")}
    assert {"workflow.tar.gz", "pipeline.pb"} <= staged
    (job,) = [blob for blob in storage.list_blobs(prefix="staging/") if blob.name.endswith("pipeline.pb")]
    proto = beam_runner_api_pb2.Pipeline.FromString(job.download_as_bytes())
    stages = {transform.unique_name.partition("/")[0] for transform in proto.components.transforms.values()}
    assert {"ReadImages", "ChooseQuality", "CompressJPEG", "MergeManifest", "FinishRun"} <= stages


def run_here(proto):
    """Runs what Dataflow would run."""
    for environment in proto.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    FnApiRunner().run_via_runner_api(proto, PipelineOptions()).wait_until_finish()


@pytest.mark.parametrize(("is_finished", "done"), [(True, {"new.jpg"}), (False, {"a.jpg", "b.jpg", "new.jpg"})])
def test_each_run_of_a_template_lists_anew(build, storage, is_finished, done):
    """Staged where a run is, it goes on from there each time."""
    folder = f"again-{is_finished}"
    for name in ("a.jpg", "b.jpg"):
        storage.blob(f"{folder}/in/{name}").upload_from_string(encoded(picture(), quality=90))
    paths = [f"--input=gs://photos/{folder}/in", f"--output=gs://photos/{folder}/out"]
    command = ["compress", *paths, "--quality=35"]
    assert not is_finished or cli.main([*command, *IN_PROCESS]) == 0
    proto = build(*command, flags=[*NOT_DRY, "--template_location=gs://photos/templates/again"])
    found = crossings(proto)
    assert any("SkipFinished/Join" in stage for stage in found) == is_finished
    assert unclear(found) == {}

    def written():
        blobs = storage.list_blobs(prefix=f"{folder}/out/images/")
        return {blob.name.rpartition("/")[2]: blob.updated for blob in blobs}

    run_here(proto)
    before = written()
    assert set(before) == {"a.jpg", "b.jpg"}
    storage.blob(f"{folder}/in/new.jpg").upload_from_string(encoded(picture(seed=1), quality=90))
    run_here(proto)
    after = written()
    assert {name for name, moment in after.items() if moment != before.get(name)} == done
    assert set(after) == {"a.jpg", "b.jpg", "new.jpg"}
