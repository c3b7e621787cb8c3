"""The jobs that Dataflow would get, built without it: what crosses a shuffle, and what the workers are given."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.portability.api import beam_runner_api_pb2, schema_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from conftest import make_corpus, manifest_rows
from gcs import emulated

from beam_adacompress import scores
from beam_adacompress.pipelines import cli
from beam_adacompress.transforms import sources

CHECKOUT = Path(__file__).parent.parent
PACKAGED = ["beam_adacompress", "setup.py", "README.md", "LICENSE", "pyproject.toml"]

FLAGS = [
    "--runner=DataflowRunner",
    "--dry_run=True",
    "--project=our-project",
    "--region=us-central1",
    "--temp_location=gs://photos/tmp",
    "--staging_location=gs://photos/staging",
]

# What is shuffled in coders that tell nothing of it, by the end of the stage's name.
PICKLED = {
    "Count/CombinePerKey/GroupByKey": "RunStats: counts and a few rows of the manifest",
    "Merge/CombinePerKey/GroupByKey": "ScoreStats: counts and sums",
    "Usage/CombinePerKey/GroupByKey": "ScoreStats",
    "Images/CombinePerKey/GroupByKey": "ScoreStats",
    "SkipFinished/Join/CoGroupByKeyImpl/GroupByKey": "ImageFile, or a row of the manifest",
    "RewriteShards/Gather/CoGroupByKeyImpl/GroupByKey": "Shard, or the path of a file with rows",
    "AddUp/CombinePerKey/GroupByKey": "BandStats: sums of coefficients",
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

    def run_pipeline(*args, **kwargs):
        result = real(*args, **kwargs)
        jobs.append(result.job)
        return result

    monkeypatch.setattr(DataflowRunner, "run_pipeline", run_pipeline)

    def run(*argv, status=0):
        assert cli.main([*argv, *FLAGS]) == status
        (job,) = jobs
        return job.proto_pipeline

    return run


def fields_of(schema):
    """The types of all fields, inner ones too, by name."""
    for field in schema.fields:
        kind = field.type
        while kind.WhichOneof("type_info") in ("array_type", "iterable_type"):
            kind = getattr(kind, kind.WhichOneof("type_info")).element_type
        if kind.WhichOneof("type_info") == "row_type":
            yield from fields_of(kind.row_type.schema)
        yield field.name, kind.atomic_type


def coders_of(components, identifier):
    """The coders that a coder is made of, as text: the name of each, and the fields of rows."""
    coder = components.coders[identifier]
    if coder.component_coder_ids:
        for each in coder.component_coder_ids:
            yield from coders_of(components, each)
    elif coder.spec.urn == "beam:coder:row:v1":
        schema = schema_pb2.Schema.FromString(coder.spec.payload)
        for name, kind in fields_of(schema):
            yield f"bytes in {name}" if kind == schema_pb2.BYTES else f"field {name}"
    else:
        name = re.match(rb".(\w+)\$", coder.spec.payload[1:]) if "pickled" in coder.spec.urn else None
        yield coder.spec.urn if name is None else name[1].decode()


def shuffles(proto):
    """The coders of what crosses each shuffle, by the name of the stage."""
    components = proto.components
    found = {}
    for transform in components.transforms.values():
        if transform.spec.urn == "beam:transform:group_by_key:v1":
            (given,) = transform.inputs.values()
            found[transform.unique_name] = set(coders_of(components, components.pcollections[given].coder_id))
    return found


# beam.Create of what is known when the job is built, names of images, is encoded already.
CREATED = "MaybeReshuffle/Reshuffle/ReshufflePerKey/GroupByKey"


def unseen(found):
    """The shuffles of image bytes, or of what nobody knows."""
    return {
        stage: coders
        for stage, coders in found.items()
        if not stage.endswith(CREATED)
        if any(coder.startswith("bytes in") or coder == "beam:coder:bytes:v1" for coder in coders)
        or ("FastPrimitivesCoder" in coders and not stage.endswith(tuple(PICKLED)) and "Reshuffle" not in stage)
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A corpus `in` and a compress run of it, `out`."""
    folder = tmp_path_factory.mktemp("finished")
    make_corpus(folder / "in")
    (folder / "list.csv").write_text("uri\n" + "".join(f"in/{path.name}\n" for path in (folder / "in").iterdir()))
    assert cli.main(["compress", f"--input={folder / 'in'}", f"--output={folder / 'out'}", "--quality=35"]) == 0
    assert len(manifest_rows(folder / "out")) == 6
    return folder


VISION = "google-vision"
JOBS = {
    "compress": ["compress", "--input=IN/in", "--output=gs://photos/a"],
    "compress, continued": ["compress", "--input=IN/in", "--output=IN/out", "--quality=35"],
    "compress shards": ["compress", "--input=IN/in", "--format=parquet", "--output=gs://photos/b"],
    "compress a list": ["compress", "--input=IN/list.csv", "--output=gs://photos/c"],
    "compress and score": ["compress", "--input=IN/in", "--output=gs://photos/d", f"--score-with={VISION}"],
    "score": ["score", "--input=IN/out", "--output=gs://photos/e", f"--backend={VISION}"],
    "serve": ["serve", "--subscription=projects/our-project/subscriptions/new", "--output=gs://photos/f"],
    "tables fit": ["tables", "fit", "--input=IN/in", "--output=gs://photos/t.json"],
    "retrain": ["retrain", "--scores=gs://photos/scores", "--publish=gs://photos/policies"],
    "train": ["train", "--input=IN/in", "--output=gs://photos/p", f"--backend={VISION}"],
    "evaluate": ["evaluate", "--input=IN/in", "--output=gs://photos/q", f"--backend={VISION}", "--split=all"],
}

# These go by what their jobs come to, and say so where there is nothing to go by.
OF_SEVERAL_STEPS = ("train", "evaluate")


@pytest.mark.parametrize("name", JOBS)
def test_only_names_and_small_rows_are_shuffled(build, finished, storage, capsys, name):
    storage.blob("scores/scores/part-00000.parquet").upload_from_string(scores.to_parquet([]))
    argv = [argument.replace("IN/", f"{finished}/") for argument in JOBS[name]]
    proto = build(*argv, status=int(name in OF_SEVERAL_STEPS))
    found = shuffles(proto)
    assert unseen(found) == {}
    assert found or name == "serve"
    assert "the job is built, and was not run" in capsys.readouterr().out
    assert not (finished / "out" / "score").exists()


def test_images_that_are_shuffled_are_noticed(build, finished, monkeypatch):
    real = sources.ReadFiles.expand

    def expand(transform, images):
        outputs = real(transform, images)
        return outputs._replace(images=outputs.images | "Oh" >> beam.Reshuffle())

    monkeypatch.setattr(sources.ReadFiles, "expand", expand)
    proto = build("compress", f"--input={finished / 'in'}", "--output=gs://photos/g", "--quality=35")
    (coders,) = unseen(shuffles(proto)).values()
    assert "bytes in data" in coders


def test_a_dry_run_writes_nothing(build, finished, storage):
    build("compress", f"--input={finished / 'in'}", "--output=gs://photos/h", "--quality=35", f"--score-with={VISION}")
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
    source = f"--input={finished / 'in'}"
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
        "beam_adacompress/templates/report.html",
        "beam_adacompress/jpeg/families/annexk.json",
        "beam_adacompress/policy/default/policy.json",
        "beam_adacompress/policy/default/weights.npz",
    } <= names
    names = {re.match(r"[\w-]+", line)[0] for line in required.splitlines() if line}
    assert {"apache-beam", "pillow", "pyarrow"} <= names
    assert not {"tensorflow", "keras", "ai-edge-litert", "boto3", "google-cloud-vision"} & names


def test_a_classic_template(storage, finished, checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    flags = [flag for flag in FLAGS if "dry_run" not in flag]
    command = ["compress", f"--input={finished / 'in'}", "--output=gs://photos/j", "--quality=35", *flags]
    staging = ["--template_location=gs://photos/templates/compress", "--setup_file=./setup.py"]
    assert cli.main([*command, *staging]) == 0
    assert "template written to gs://photos/templates/compress" in capsys.readouterr().out
    template = json.loads(storage.blob("templates/compress").download_as_bytes())
    assert template["type"] == "JOB_TYPE_BATCH"
    assert "workflow.tar.gz" in json.dumps(template["environment"])
    staged = {blob.name.rpartition("/")[2] for blob in storage.list_blobs(prefix="staging/")}
    assert {"workflow.tar.gz", "pipeline.pb"} <= staged
