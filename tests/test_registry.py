from __future__ import annotations

import pickle

import pytest

from beam_adacompress.backends import BACKENDS, backend


@pytest.mark.parametrize(
    ("uri", "fields"),
    [
        ("google-vision", {"max_results": 10}),
        (
            "google-vision?max_results=5&endpoint=http://127.0.0.1:1&price=0.002",
            {"max_results": 5, "endpoint": "http://127.0.0.1:1", "price": 0.002},
        ),
        ("facepp?endpoint=https://api-cn.faceplusplus.com", {"endpoint": "https://api-cn.faceplusplus.com"}),
        ("rekognition?region=eu-west-1", {"region": "eu-west-1"}),
        ("litert:models/a.tflite?labels=names.txt&top=3", {"path": "models/a.tflite", "labels": "names.txt", "top": 3}),
        ("litert:gs://bucket/a.tflite", {"path": "gs://bucket/a.tflite"}),
        ("dct:a.keras?order=zigzag&top=5", {"path": "a.keras", "order": "zigzag", "top": 5}),
        ("replay:replies.jsonl?reference=95", {"path": "replies.jsonl", "reference": 95}),
        ("record:out.jsonl+litert:a.tflite?top=3", {"target": "out.jsonl+litert:a.tflite?top=3"}),
    ],
)
def test_uris(uri, fields):
    made = backend(uri)
    assert {name: getattr(made, name) for name in fields} == fields
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "vision",
            r"backend 'vision': unknown name 'vision': did you mean google-vision\?; known: baidu, dct, facepp, google",
        ),
        ("", "unknown name ''"),
        ("litert", "litert takes a path, as in litert:PATH"),
        ("litert:", "litert takes a path, as in litert:PATH"),
        ("google-vision:model", "google-vision takes no path"),
        ("google-vision?results=5", "unknown parameter 'results'; known: .*max_results"),
        ("google-vision?max_results=many", "max_results=many is no int"),
        ("google-vision?max_results", "'max_results' has no value; write max_results=VALUE"),
        ("dct", "dct takes a path, as in dct:PATH"),
        ("record:out.txt+google-vision", r"record takes FILE\.jsonl\+BACKEND-URI"),
    ],
)
def test_uris_that_name_no_backend(uri, message):
    with pytest.raises(ValueError, match=message):
        backend(uri)


def test_every_backend_can_be_made_without_its_sdk_or_credentials():
    models = {"litert": ":m.tflite", "keras": ":MobileNetV2", "dct": ":m.keras"}
    paths = {**models, "replay": ":r.jsonl", "record": ":r.jsonl+baidu"}
    names = {name: type(backend(name + paths.get(name, ""))).__name__ for name in BACKENDS}
    assert names == {
        "google-vision": "GoogleVision",
        "rekognition": "Rekognition",
        "facepp": "FacePlusPlus",
        "baidu": "Baidu",
        "litert": "LiteRT",
        "keras": "Keras",
        "dct": "DCT",
        "replay": "Replay",
        "record": "Record",
    }
