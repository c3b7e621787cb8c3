"""deploy/dataflow: the metadata of the flex templates, their entry points, their image and their schedule."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import encoded, make_corpus, manifest_rows, picture
from gcs import emulated

from beam_adacompress import scores
from beam_adacompress.pipelines import cli, template

DEPLOY = Path(__file__).parent.parent / "deploy" / "dataflow"
CHECKOUT = DEPLOY.parent.parent


def load(name):
    specification = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


metadata = load("metadata")


def parameters(command):
    return {each["name"]: each for each in json.loads(metadata.path_of(command).read_text())["parameters"]}


@pytest.mark.parametrize("command", metadata.COMMANDS)
def test_the_metadata_is_that_of_the_command(command):
    assert metadata.path_of(command).read_text() == metadata.content_of(command), "run deploy/dataflow/metadata.py"


# By the kind of a parameter, and by its name where it is a text: what its pattern has to take, and what to refuse.
OF_KINDS = {
    "BOOLEAN": ("true", "yes"),
    "NUMBER": ("3", "many"),
    "ENUM": (None, "another"),
    "GCS_WRITE_FOLDER": ("gs://b/x", "/data"),
}
OF_TEXTS = {
    "input": ("gs://b/photos", "photos"),
    "policy": ("gs://b/policies", "policies"),
    "scores": ("gs://b/small/*/score", "small"),
    "score_with": ("litert:gs://b/model.tflite?top=3", "gpt"),
    "verify": ("google-vision", "google"),
    "tables": ("annexk", ""),
    "image_field": ("jpg;png", ""),
    "salt": ("another", ""),
}


@pytest.mark.parametrize("command", metadata.COMMANDS)
def test_every_option_is_a_parameter_with_help_and_a_pattern(command):
    found = parameters(command)
    options = {action.option_strings[-1][2:].replace("-", "_") for action in template.options_of(command)._actions}
    assert set(found) == options - {"max_failures", "dry_run", "sample", "logs", "worker_price"}
    for name, each in found.items():
        assert len(each["helpText"]) > 10, name
        (pattern,) = each["regexes"]
        right, wrong = OF_TEXTS[name] if each["paramType"] == "TEXT" else OF_KINDS[each["paramType"]]
        choices = [choice["value"] for choice in each.get("enumOptions", ())]
        takes = [right or choices[0], *choices, each.get("defaultValue", right or choices[0])]
        assert [value for value in takes if not re.fullmatch(pattern, value)] == [], name
        assert not re.fullmatch(pattern, wrong), name


@pytest.mark.parametrize(
    ("command", "name", "right", "wrong"),
    [
        ("compress", "input", ["gs://b/photos", "gs://b/*.tfrecord"], ["photos", "/data"]),
        ("compress", "quality", ["35"], ["high", "3.5"]),
        ("compress", "min_saving", ["0.05", ".5", "1", "1e-3"], ["5 %", "."]),
        ("compress", "subsampling", ["4:2:0"], ["4:1:1"]),
        ("compress", "flatten", ["true", "false"], ["yes"]),
        ("compress", "policy", ["default", "gs://b/policies"], ["policies"]),
        ("retrain", "scores", ["gs://b/a", "gs://b/a,gs://b/c"], ["a", "gs://b/a,c"]),
    ],
)
def test_patterns(command, name, right, wrong):
    (pattern,) = parameters(command)[name]["regexes"]
    assert [value for value in right if not re.fullmatch(pattern, value)] == []
    assert [value for value in wrong if re.fullmatch(pattern, value)] == []


def test_what_is_required():
    assert [name for name, each in parameters("compress").items() if not each["isOptional"]] == ["input", "output"]
    assert [name for name, each in parameters("retrain").items() if not each["isOptional"]] == ["scores", "publish"]


def test_parameters_become_options():
    given = [
        "--input=a",
        "--flatten=true",
        "--overwrite=false",
        "--no_optimize=True",
        "--verify=a:b?x=1,c",
        "--region=r",
    ]
    assert template.arguments(template.options_of("compress"), given) == [
        "--input=a",
        "--flatten",
        "--no_optimize",
        "--verify=a:b?x=1",
        "--verify=c",
        "--region=r",
    ]
    assert template.arguments(template.options_of("retrain"), ["--scores=a,b", "x", "--only_on_drift"]) == [
        "--scores=a",
        "--scores=b",
        "x",
        "--only_on_drift",
    ]


def test_days_are_those_of_the_launch():
    given = ["--input=gs://b/{yesterday}*/**", "--output=gs://b/{today}", "--salt={day}"]
    assert template.dated(given, datetime.date(2025, 3, 1)) == [
        "--input=gs://b/2025-02-28*/**",
        "--output=gs://b/2025-03-01",
        "--salt={day}",
    ]


def run(command, *given, **environment):
    arguments = [sys.executable, str(DEPLOY / f"{command}.py"), *given]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=environment or None)


def test_the_entry_point_runs_the_command(tmp_path):
    make_corpus(tmp_path / "in")
    ended = run(
        "compress", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--quality=35", "--flatten=true"
    )
    assert ended.returncode == 0, ended.stderr
    assert len(manifest_rows(tmp_path / "out")) == 6
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["options"]["flatten"] is True


JOB = "staging/template_launches/1/job_object"
LAUNCHED = [
    "--runner=DataflowRunner",
    "--project=our-project",
    "--region=us-central1",
    "--temp_location=gs://photos/tmp",
    "--staging_location=gs://photos/staging",
    f"--template_location=gs://photos/{JOB}",
    "--sdk_container_image=us-docker.pkg.dev/our-project/adacompress/compress:1",
]


def schedule(command):
    return json.loads((DEPLOY / f"schedule.{command}.json").read_text())["launchParameter"]


@pytest.fixture
def storage(tmp_path):
    """A bucket with what the schedules go by: a photograph of yesterday, scores, and a published policy."""
    day = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=1)
    with emulated(tmp_path) as bucket:
        bucket.blob(f"photos/{day}/a.jpg").upload_from_string(encoded(picture()))
        bucket.blob("small/2025-03-01/score/scores/part-00000.parquet").upload_from_string(scores.to_parquet([]))
        assert cli.main(["policy", "publish", "default", "gs://photos/policies"]) == 0
        yield bucket


@pytest.mark.parametrize("command", metadata.COMMANDS)
def test_the_launcher_gets_a_job_of_what_the_schedule_gives(storage, command):
    """A launcher gives a place for the job's description, and wants the program to end when that is written."""
    given = [f"--{name}={value}" for name, value in schedule(command)["parameters"].items()]
    ended = run(command, *(each.replace("BUCKET", "photos") for each in given), *LAUNCHED, **os.environ)
    assert ended.returncode == 0, ended.stderr
    job = json.loads(storage.blob(JOB).download_as_bytes())
    assert "us-docker.pkg.dev/our-project/adacompress/compress:1" in json.dumps(job["environment"])


@pytest.mark.parametrize(
    "given",
    [
        ["--score_with=google-vision", "--explore=0.1", "--retrain_on_drift=true", "--policy=gs://photos/policies"],
        ["--verify=google-vision", "--max_calls=5"],
    ],
)
def test_a_launched_job_may_have_limits_and_train_again(storage, given):
    ended = run("compress", "--input=gs://photos/photos", "--output=gs://photos/out", *given, *LAUNCHED, **os.environ)
    assert ended.returncode == 0, ended.stderr
    assert storage.blob(JOB).exists()


def test_the_image_is_made_of_what_is_there():
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY") and "--from" not in line]
    for source in (name for names in copied for name in names):
        for command in metadata.COMMANDS:
            assert (CHECKOUT / source.replace("${COMMAND}", command)).exists(), source
    assert "ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py" in text


@pytest.mark.parametrize("command", metadata.COMMANDS)
def test_the_schedule_gives_what_the_template_takes(command):
    launch = schedule(command)
    known = parameters(command)
    assert set(launch["parameters"]) <= set(known)
    for name, value in launch["parameters"].items():
        assert re.fullmatch(known[name]["regexes"][0], value), name
    assert {name for name, each in known.items() if not each["isOptional"]} <= set(launch["parameters"])
