"""The transforms in Beam YAML."""

from __future__ import annotations

import json

import apache_beam as beam
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.yaml.yaml_provider import InlineProvider
from apache_beam.yaml.yaml_transform import YamlTransform
from conftest import encoded, picture

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, ScoreWithBackend

TRANSFORMS = InlineProvider(
    {"ChooseQuality": ChooseQuality, "CompressJPEG": CompressJPEG, "ScoreWithBackend": ScoreWithBackend}
)

NAMES = ("ChooseQuality", "CompressJPEG", "ScoreWithBackend")

SPEC = """
type: composite
input: input
transforms:
  - type: ChooseQuality
    input: input
    config: {quality: 35}
  - type: CompressJPEG
    input: ChooseQuality.out0
  - type: ScoreWithBackend
    input: CompressJPEG.out0
    config: {backend: "replay:%s", sample_rate: 1.0, action_shares: {annexk-35: 1.0}}
output: ScoreWithBackend.out0
"""


def test_a_backend_by_its_uri(tmp_path):
    row = {"service": "s", "dataset": "d", "image": "a.jpg", "bytes": 1, "error": 0, "labels": [["cat", 0.5]]}
    tape = tmp_path / "replies.jsonl"
    tape.write_text("".join(json.dumps(row | {"quality": quality}) + "\n" for quality in (None, 35)))
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create([EncodedImage("a.jpg", encoded(picture()))]).with_output_types(EncodedImage)
        scores = images | YamlTransform(SPEC % tape, providers={name: [TRANSFORMS] for name in NAMES})
        assert_that(scores | beam.Map(lambda score: (score.key, score.agreement)), equal_to([("a.jpg", 1)]))
