"""The transforms in Beam YAML."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.yaml.yaml_provider import InlineProvider
from apache_beam.yaml.yaml_transform import YamlTransform
from conftest import encoded, picture

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, ScoreWithBackend
from beam_adacompress.policy import features
from beam_adacompress.policy.policies import Serving

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
    config: {backend: "replay:%s", sample_rate: 1.0, action_shares: {annexk-35: 1.0}, policy: "%s"}
output: ScoreWithBackend.out0
"""


@pytest.mark.parametrize("policy", ["default", Serving().path])
def test_a_backend_by_its_uri(tmp_path, policy):
    row = {"service": "s", "dataset": "d", "image": "a.jpg", "bytes": 1, "error": 0, "labels": [["cat", 0.5]]}
    tape = tmp_path / "replies.jsonl"
    tape.write_text("".join(json.dumps(row | {"quality": quality}) + "\n" for quality in (None, 35)))
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create([EncodedImage("a.jpg", encoded(picture()))]).with_output_types(EncodedImage)
        scores = images | YamlTransform(SPEC % (tape, policy), providers={name: [TRANSFORMS] for name in NAMES})
        found = scores | beam.Map(lambda score: (score.key, score.agreement, len(score.features)))
        assert_that(found, equal_to([("a.jpg", 1, len(features.NAMES))]))
