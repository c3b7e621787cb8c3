"""The transforms in Beam YAML."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
import yaml
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.yaml import main
from apache_beam.yaml.yaml_provider import load_providers
from apache_beam.yaml.yaml_transform import YamlTransform
from conftest import encoded, files_of, manifest_rows, picture

import beam_adacompress
from beam_adacompress import EncodedImage
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.providers import PROVIDERS
from beam_adacompress.policy import features
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms.beam_yaml import TRANSFORMS

EXAMPLES = Path(__file__).parent.parent / "examples" / "yaml"

SPEC = """
type: composite
input: input
transforms:
  - type: ChooseQuality
    input: input
    config: {quality: 35}
  - type: CompressJPEG
    input: ChooseQuality.images
  - type: ScoreWithBackend
    input: CompressJPEG.images
    config: {backend: "replay:%s", sample_rate: 1.0, action_shares: {annexk-35: 1.0}, policy: "%s"}
output: ScoreWithBackend.scores
"""


def providers():
    (found,) = load_providers(str(PROVIDERS))
    return {name: [found] for name in found.provided_transforms()}


def tape_of(path, images):
    """A recorded service that sees the same in each image, whatever its quality."""
    rows = [
        {
            "service": "s",
            "dataset": "d",
            "image": name,
            "bytes": 1,
            "error": 0,
            "labels": [["cat", 0.5]],
            "quality": quality,
        }
        for name in images
        for quality in (None, *range(1, 101))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("policy", ["default", Serving().path])
def test_a_backend_by_its_uri(tmp_path, policy):
    tape = tape_of(tmp_path / "replies.jsonl", ["a.jpg"])
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create([EncodedImage("a.jpg", encoded(picture()))]).with_output_types(EncodedImage)
        scores = images | YamlTransform(SPEC % (tape, policy), providers=providers())
        found = scores | beam.Map(lambda score: (score.key, score.agreement, len(score.features)))
        assert_that(found, equal_to([("a.jpg", 1, len(features.NAMES))]))


def arguments(name, **variables):
    """What `python -m apache_beam.yaml.main` takes for an example."""
    given = json.dumps({"providers": str(PROVIDERS), **variables})
    return [f"--yaml_pipeline_file={EXAMPLES / name}", f"--jinja_variables={given}", "--runner=FnApiRunner"]


@pytest.mark.heavy
def test_compress_from_the_command_line(corpus, compress, tmp_path):
    """As users do, in a process of its own."""
    (corpus / "torn.jpg").write_bytes(encoded(picture())[:700])
    given = arguments("compress.yaml", input=str(corpus), output=str(tmp_path / "out"), quality=35)
    command = [sys.executable, "-m", "apache_beam.yaml.main", *given]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert compress(corpus, tmp_path / "expected") == 0
    assert files_of(tmp_path / "out" / "images") == files_of(tmp_path / "expected" / "images")
    assert manifest_rows(tmp_path / "out")["torn.jpg"].reason == "truncated"


def test_score_and_drift_with_the_arguments_of_a_command_line(corpus, tmp_path):
    tape = tape_of(tmp_path / "replies.jsonl", [str(path.relative_to(corpus)) for path in corpus.rglob("*.jpg")])
    output = tmp_path / "drift.json"
    places = {"input": str(corpus), "output": str(output)}
    main.run(arguments("score_and_drift.yaml", policy="default", backend=f"replay:{tape}", **places))
    (written,) = tmp_path.glob("drift.json*")
    estimate = json.loads(written.read_text())
    assert estimate["state"] in ("inference", "estimate")
    assert estimate["policy_version"] == Serving().load(lambda path: Path(path).read_bytes()).version


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(ValueError, match="ChooseQuality: quality must be a whole number or none, got 'high'"):
        main.run(arguments("compress.yaml", input="photos", output=str(tmp_path), quality='"high"'))


def test_an_argument_that_does_not_exist_is_named():
    spec = SPEC.replace("quality: 35", "qualty: 35") % ("x", "default")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    images = pipeline | beam.Create([EncodedImage("a", b"")]).with_output_types(EncodedImage)
    with pytest.raises(ValueError, match=r"ChooseQuality.*unexpected argument 'qualty'"):
        images | YamlTransform(spec, providers=providers())


def test_the_listing_names_every_public_transform(capsys):
    assert cli.main(["providers"]) == 0
    assert capsys.readouterr().out.strip() == str(PROVIDERS)
    (listed,) = yaml.safe_load(PROVIDERS.read_text())
    public = {
        name
        for name, kind in vars(beam_adacompress).items()
        if inspect.isclass(kind) and issubclass(kind, beam.PTransform)
    }
    assert set(listed["transforms"]) == set(TRANSFORMS) == public


@pytest.mark.parametrize("name", TRANSFORMS)
def test_arguments_and_descriptions_for_editors(name):
    (found,) = load_providers(str(PROVIDERS))
    fields = {field.name: field.type for field in found.config_schema(name).fields}
    transform = getattr(beam_adacompress, name)
    assert list(fields) == list(inspect.signature(transform).parameters)
    assert found.description(name).startswith(transform.__doc__.partition("\n")[0])
