"""What many get wrong, and the one sentence that each of them gets, whole."""

from __future__ import annotations

import json
import sys
import time

import pytest
from conftest import encoded, picture
from loopback import Reply, serving

from beam_adacompress.pipelines import cli, credentials, mistakes
from beam_adacompress.pipelines.mistakes import check_models, heard_by, unheard
from beam_adacompress.pipelines.serve import PipelineOptions
from beam_adacompress.policy.policies import Serving

LOGGED_IN = credentials._logged_in  # before conftest puts another in its place

OUT = "--output=TMP/out"
NO_IMAGES = "no images found in TMP/empty: give a folder, a glob such as 'DIR/*.jpg', or gs://BUCKET/FOLDER"
NO_INPUT = "the input TMP/nowhere does not exist"
KNOWN = "known: baidu, dct, facepp, google-vision, keras, litert, record, rekognition, replay"
UNKNOWN = f"backend 'litrt:a': unknown name 'litrt': did you mean litert?; {KNOWN}"
NO_MODEL = "the file /no.tflite of the backend litert:/no.tflite does not exist"
NO_LOGIN = (
    "gs:// needs credentials for Google Cloud, and there are none: run gcloud auth application-default login, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to the key of a service account; public buckets can be read with --no_auth"
)
LIES_IN = "the input TMP/photos lies in the output TMP/photos: choose another --output"
UNREACHED = "Dataflow's workers do not reach TMP/{}: give --{} gs://..."
DATAFLOW = "--runner=DataflowRunner"
SERVICE = "--backend=facepp"

MISTAKES = {
    "no images": (1, ["compress", "--input=TMP/empty", OUT], NO_IMAGES),
    "no images to train with": (1, ["train", "--input=TMP/empty", OUT, SERVICE], NO_IMAGES),
    "no images to judge by": (1, ["evaluate", "--input=TMP/empty", OUT, SERVICE], NO_IMAGES),
    "no images to fit to": (1, ["tables", "fit", "--input=TMP/empty", "--output=TMP/t.json"], NO_IMAGES),
    "no input": (1, ["compress", "--input=TMP/nowhere", OUT], NO_INPUT),
    "no input to train with": (1, ["train", "--input=TMP/nowhere", OUT, SERVICE], NO_INPUT),
    "no input to judge by": (1, ["evaluate", "--input=TMP/nowhere", OUT, SERVICE], NO_INPUT),
    "no input to fit to": (1, ["tables", "fit", "--input=TMP/nowhere", "--output=TMP/t.json"], NO_INPUT),
    "no run": (
        1,
        ["score", "--input=TMP/photos", OUT, SERVICE, "--dry-run"],
        "TMP/photos holds no run of adacompress compress: give the --output of one as --input",
    ),
    "no scores": (
        1,
        ["retrain", "--scores=TMP/empty"],
        "there are no scores in TMP/empty: give the output of adacompress score, or OUTPUT/score of a compress run",
    ),
    "not logged in": (1, ["compress", "--input=gs://bucket/photos", OUT], NO_LOGIN),
    "not logged in, and published": (1, ["policy", "list", "gs://bucket/policies"], NO_LOGIN),
    "not logged in, and a file": (1, ["compress", "--config=gs://bucket/job.toml"], NO_LOGIN),
    "unknown backend to verify with": (2, ["compress", "--input=TMP/photos", OUT, "--verify=litrt:a"], UNKNOWN),
    "unknown backend to score with": (2, ["score", "--input=TMP/photos", OUT, "--backend=litrt:a"], UNKNOWN),
    "unknown backend to train for": (2, ["train", "--input=TMP/photos", OUT, "--backend=litrt:a"], UNKNOWN),
    "unknown tables": (
        2,
        ["compress", "--input=TMP/photos", OUT, "--quality=35", "--tables=robidou"],
        "unknown quantisation tables 'robidou': did you mean robidoux?; known: annexk, robidoux, deepn, "
        "feature-distillation, mobilenet-v1-small, mobilenet-v1, mobilenet-v2, or the path of a .json file, "
        "each with @ROUNDING behind it or not",
    ),
    "a command of another name": (
        2,
        ["compres"],
        f"unknown command 'compres': did you mean compress?; known: {', '.join(cli.COMMANDS)}",
    ),
    "input and output are one": (2, ["compress", "--input=TMP/photos", "--output=TMP/photos"], LIES_IN),
    "input and output of a training": (2, ["train", "--input=TMP/photos", "--output=TMP/photos", SERVICE], LIES_IN),
    "input and output of a job": (2, ["serve", "--input=TMP/photos", "--output=TMP/photos"], LIES_IN),
    "input and output of a score run": (
        2,
        ["score", "--input=TMP/photos", "--output=TMP/photos", SERVICE],
        "the output TMP/photos is a part of the run TMP/photos: choose another --output",
    ),
    "no model to verify with": (1, ["compress", "--input=TMP/photos", OUT, "--verify=litert:/no.tflite"], NO_MODEL),
    "no model to score with": (1, ["compress", "--input=TMP/photos", OUT, "--score-with=litert:/no.tflite"], NO_MODEL),
    "no model to train for": (1, ["train", "--input=TMP/photos", OUT, "--backend=litert:/no.tflite"], NO_MODEL),
    "no policy": (
        1,
        ["compress", "--input=TMP/photos", OUT, "--policy=TMP/empty"],
        "the policy's file TMP/empty/policy.json cannot be read: No such file or directory",
    ),
    "photos on this machine": (
        2,
        ["compress", "--input=TMP/photos", "--output=gs://b/out", DATAFLOW],
        UNREACHED.format("photos", "input"),
    ),
    "results on this machine": (
        2,
        ["compress", "--input=gs://b/in", OUT, DATAFLOW],
        UNREACHED.format("out", "output"),
    ),
    "a policy on this machine": (
        2,
        ["compress", "--input=gs://b/in", "--output=gs://b/out", "--policy=TMP/empty", DATAFLOW],
        UNREACHED.format("empty", "policy"),
    ),
    "a run on this machine": (
        2,
        ["score", "--input=TMP/photos", "--output=gs://b/out", SERVICE, DATAFLOW],
        UNREACHED.format("photos", "input"),
    ),
    "photos of a training on this machine": (
        2,
        ["train", "--input=TMP/photos", "--output=gs://b/out", SERVICE, DATAFLOW],
        UNREACHED.format("photos", "input"),
    ),
    "photos of an evaluation on this machine": (
        2,
        ["evaluate", "--input=TMP/photos", "--output=gs://b/out", SERVICE, DATAFLOW],
        UNREACHED.format("photos", "input"),
    ),
    "photos of tables on this machine": (
        2,
        ["tables", "fit", "--input=TMP/photos", "--output=gs://b/t.json", DATAFLOW],
        UNREACHED.format("photos", "input"),
    ),
    "a model on this machine": (
        2,
        ["compress", "--input=gs://b/in", "--output=gs://b/out", "--verify=litert:/no.tflite", DATAFLOW],
        "Dataflow's workers do not reach /no.tflite: give litert:gs://..., or --sdk_container_image with an image that "
        "holds it",
    ),
}

# Those who say nothing of buckets need no login.
OF_BUCKETS = {name for name, (_, arguments, _) in MISTAKES.items() if DATAFLOW in arguments}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Photographs, an empty folder, and nobody who is logged in to Google Cloud."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(encoded(picture()))
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(credentials, "_logged_in", LOGGED_IN)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_done(folder, monkeypatch, capsys, name):
    if name in OF_BUCKETS:
        monkeypatch.setattr(cli, "check_credentials", lambda argv: None)
    status, arguments, message = MISTAKES[name]
    before = sorted(folder.rglob("*"))
    assert cli.main([argument.replace("TMP", str(folder)) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert printed.err == f"adacompress: {message.replace('TMP', str(folder))}\n"
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


def check(*argv):
    credentials.check_credentials(argv)


def test_who_is_logged_in(folder, monkeypatch):
    check("--input=/photos")
    check("--input=gs://b/in", "--no_auth")
    began = time.monotonic()
    with pytest.raises(mistakes.AdaCompressError, match="there are none: run gcloud auth application-default login"):
        check("--input=gs://b/in")
    assert time.monotonic() - began < 1
    (folder / "gcloud").mkdir()
    (folder / "gcloud" / "application_default_credentials.json").write_text("{}")
    check("--input=gs://b/in")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/key.json")
    with pytest.raises(
        mistakes.AdaCompressError, match=r"^GOOGLE_APPLICATION_CREDENTIALS names /no/key\.json, which is no file"
    ):
        check("--input=gs://b/in")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    check("--input=gs://b/in")


def test_a_machine_of_google_cloud_knows_who_it_is(folder, monkeypatch):
    with serving(lambda request: Reply(b"", 200, {"Metadata-Flavor": "Google"})) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
        check("--input=gs://b/in")
    with serving(lambda request: Reply(b"", 200, {})) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
        with pytest.raises(mistakes.AdaCompressError, match="there are none"):
            check("--input=gs://b/in")


def test_extras_that_are_missing(folder, monkeypatch, capsys):
    monkeypatch.setattr(credentials.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["compress", "--input=gs://b/in", "--output=gs://b/out"]) == 1
    assert capsys.readouterr().err == (
        "adacompress: gs:// needs the client of Cloud Storage: pip install 'beam-adacompress[gcp]'\n"
    )
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    (folder / "a.tflite").write_bytes(b"a model")
    paths = [f"--input={folder / 'photos'}", f"--output={folder / 'out'}"]
    assert cli.main(["compress", *paths, f"--verify=litert:{folder / 'a.tflite'}"]) == 1
    assert capsys.readouterr().err == (
        "adacompress: litert needs ai-edge-litert: pip install 'beam-adacompress[litert]'\n"
    )
    assert not (folder / "out").exists()


def test_models_in_an_image_of_ones_own():
    image = PipelineOptions([DATAFLOW, "--sdk_container_image=mine"])
    check_models(image, ["litert:/no.tflite", "facepp", "litert:gs://b/no.tflite"])
    check_models(PipelineOptions(), ["facepp", "litert:gs://b/no.tflite?labels=a.txt"])


STRANGER = (
    "was trained for litert:mobilenet_v1_0.25_128_quant.tflite and litert:mobilenet_v1_0.75_192_quant.tflite and "
    "litert:mobilenet_v2_1.0_224_quant.tflite, and facepp (version beta,detectsceneandobject) had no say in it: its "
    "promise does not hold there; train one for that backend, or --verify with it"
)


def test_a_policy_for_another_backend():
    policy = Serving().load()
    (heard, *_) = policy.artefact.backends
    assert unheard(policy, {("litert", heard[1])}) is None
    assert unheard(policy, set()) is None
    assert unheard(policy, {("litert", heard[1]), *heard_by(["facepp"])}) == f"the policy {policy.version} {STRANGER}"
    assert "and litert (version another) had no say in it" in unheard(policy, {("litert", "another")})


def test_another_backend_is_told_of(corpus, compress, tmp_path, vision, capsys):
    asked = [f"--score-with={vision.uri}", f"--verify={vision.uri}"]
    assert compress(corpus / "a", tmp_path / "out", "--policy=default", *asked, "--sample-rate=1", "--json") == 0
    printed = capsys.readouterr()
    version = Serving().load().version
    assert json.loads(printed.out)["warning"] == f"the policy {version} {STRANGER}"
    assert printed.err.count(f"the policy {version} {STRANGER}\n") == 2, "one for those who verify, one for who scored"
