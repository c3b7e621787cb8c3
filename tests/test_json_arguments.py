"""Every public transform can be made from JSON, and an argument of a wrong type is named."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, Union

import pytest

import beam_adacompress
from beam_adacompress import jpeg
from beam_adacompress.arguments import check_types
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms.beam_yaml import TRANSFORMS

# Everything that can be given, of each.
GIVEN: dict[str, dict[str, Any]] = {
    "ReadImages": {
        "input": "gs://b/in",
        "format": "parquet",
        "image_field": "image",
        "max_bytes": 1000,
        "exclude": "x",
    },
    "WriteImages": {
        "output": "gs://b/out",
        "input": "gs://b/in",
        "format": "parquet",
        "image_field": "image",
        "max_bytes": 1000,
        "manifest_parts": 2,
        "seed": 3,
    },
    "ChooseQuality": {
        "tables": None,
        "quality": None,
        "verify": ["google-vision"],
        "verify_margin": 1,
        "top": 5,
        "encoder": {"flatten": True},
        "cache": "/tmp/cache",
        "max_calls": 10,
        "max_cost": 1.5,
        "calls_per_second": 3,
        "timeout": 10,
        "retries": 2,
        "concurrency": 4,
        "policy": "default",
        "agreement": 0.95,
        "confidence": 0.9,
        "explore": 0.0,
        "seed": 1,
        "refresh": None,
    },
    "CompressJPEG": {
        "subsampling": "4:4:4",
        "optimize": False,
        "progressive": False,
        "align": False,
        "keep_metadata": "all",
        "min_saving": 0.1,
        "max_pixels": 10**6,
        "flatten": True,
        "engine": "pillow",
        "tables": "robidoux",
    },
    "DecodeDCT": {"dequantised": True, "subsampling": "4:2:0", "order": "natural", "max_pixels": 10**6},
    "ScoreWithBackend": {
        "backend": "google-vision",
        "sample_rate": 0.5,
        "min_action_share": 0.1,
        "action_shares": {"annexk-35": 1},
        "salt": "x",
        "top": 3,
        "errors": "count",
        "max_calls": 10,
        "max_cost": 1,
        "calls_per_second": 3.5,
        "timeout": 10,
        "retries": 2,
        "concurrency": 4,
        "pause": 1,
        "cache": "/tmp/cache",
        "policy": "default",
        "refresh": None,
    },
    "EstimateDrift": {
        "policy": None,
        "level": 0.97,
        "baseline_reward": 0.5,
        "detector": "e-detector",
        "options": {"false_alarms": 1000},
        "by": "camera",
        "sample_rate": 0.1,
        "estimate_rate": 0.5,
        "retrain_rate": 1,
        "window": 60,
    },
    "RetrainAgent": {
        "policy": "default",
        "publish": "gs://b/policies",
        "agreement": 0.97,
        "confidence": 0.95,
        "seed": 1,
        "recent": 100,
        "most": 1000,
        "always": True,
        "gather": 10,
        "explore": 0.25,
        "usual_explore": 0,
        "sample_rate": 0.1,
        "estimate_rate": 0.5,
        "retrain_rate": 1,
    },
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_made_from_json(name):
    transform = getattr(beam_adacompress, name)
    given = GIVEN[name]
    assert sorted(given) == sorted(field.name for field in dataclasses.fields(transform))
    made = transform(**json.loads(json.dumps(given)))
    assert {key: getattr(made, key) for key in given} == given


WRONG = (True, 1, 1.5, "text", [], [1], {}, {"a": []}, None)


def error_of(make, **given):
    try:
        make(**given)
    except (TypeError, ValueError, beam_adacompress.AdaCompressError) as error:
        return error
    return None


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in TRANSFORMS for argument in GIVEN[name]])
def test_a_wrong_type_is_named(name, argument):
    transform = getattr(beam_adacompress, name)
    errors = [error_of(transform, **{**GIVEN[name], argument: wrong}) for wrong in WRONG]
    refused = [(str(error), wrong) for error, wrong in zip(errors, WRONG) if isinstance(error, TypeError)]
    assert len(refused) >= 4
    expected = [f"{name}: {argument} must be .*, got {re.escape(repr(wrong))}" for _, wrong in refused]
    assert [text for (text, _), pattern in zip(refused, expected) if not re.fullmatch(pattern, text)] == []
    ours = [str(error) for error in errors if error is not None and not isinstance(error, TypeError)]
    assert [text for text in ours if "unexpected keyword" in text or "'<'" in text] == []


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"min_saving": "0.1"}, "Settings: min_saving must be a number, got '0.1'"),
        ({"keep_metadata": True}, "Settings: keep_metadata must be text, got True"),
        ({"max_pixels": None}, "Settings: max_pixels must be a whole number, got None"),
        ({"optimize": "no"}, "Settings: optimize must be true or false, got 'no'"),
    ],
)
def test_a_wrong_type_in_settings_of_the_encoder_is_named(encoder, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        jpeg.Settings(**encoder)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        beam_adacompress.ChooseQuality(encoder=encoder)


@pytest.mark.parametrize(
    ("detector", "options", "message"),
    [
        ("e-detector", {"false_alarms": "x"}, "false_alarms must be a whole number, got 'x'"),
        ("e-detector", {"suspicion": None}, "suspicion must be a number, got None"),
        ("adacompress", {"threshold": [1]}, "threshold must be a number or text, got [1]"),
        ("adwin", {"clock": 1.5}, "clock must be a whole number, got 1.5"),
    ],
)
def test_a_wrong_type_in_options_of_a_detector_is_named(detector, options, message):
    with pytest.raises(TypeError, match=f"^{re.escape(f'the detector {detector}: {message}')}$"):
        beam_adacompress.EstimateDrift(level=0.9, detector=detector, options=options)


@pytest.mark.parametrize("name", ["agreement", "confidence", "explore"])
def test_a_wrong_type_in_what_serves_is_named(name):
    with pytest.raises(TypeError, match=f"^Serving: {name} must be a number( or none)?, got '0.9'$"):
        Serving("p", **{name: "0.9"})


class Thing:
    pass


@dataclasses.dataclass
class Example:
    flag: bool = False
    count: int = 1
    share: float = 0.5
    name: Optional[str] = None
    several: Sequence[Union[str, Thing]] = ()
    shares: Optional[Mapping[str, float]] = None
    by: Optional[Union[str, Callable[[Any], Any]]] = None
    anything: Any = None


@pytest.mark.parametrize(
    "given",
    [
        {"flag": True, "count": 3, "share": 1, "name": "x"},
        {"several": ["a", Thing()], "shares": {"a": 1, "b": 0.5}, "by": len, "anything": object()},
        {"several": ()},
    ],
)
def test_right_types(given):
    check_types(Example(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flag": 1}, "Example: flag must be true or false, got 1"),
        ({"count": True}, "Example: count must be a whole number, got True"),
        ({"count": 1.0}, "Example: count must be a whole number, got 1.0"),
        ({"share": "0.5"}, "Example: share must be a number, got '0.5'"),
        ({"name": 7}, "Example: name must be text or none, got 7"),
        ({"several": "ab"}, "Example: several must be a list of text or a Thing, got 'ab'"),
        ({"several": [1]}, "Example: several must be a list of text or a Thing, got [1]"),
        ({"shares": {"a": "b"}}, "Example: shares must be a mapping or none, got {'a': 'b'}"),
        ({"by": 1}, "Example: by must be text, a function or none, got 1"),
    ],
)
def test_wrong_types(given, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_types(Example(**given))
