"""The code in docs/backends.md runs."""

from __future__ import annotations

import functools
import json
import re
import sys
import types
from pathlib import Path

import apache_beam as beam
from conftest import encoded, picture
from loopback import json_reply, serving

from beam_adacompress import Label, Query
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners

DOCS = Path(__file__).parent.parent / "docs"
PIPELINE, BACKEND = re.findall("```python\n(.*?)```", (DOCS / "backends.md").read_text(), re.DOTALL)


def test_the_pipeline(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.jpg").write_bytes(encoded(picture()))
    row = {"service": "s", "dataset": "d", "image": "a.jpg", "bytes": 1, "error": 0, "labels": [["cat", 0.5]]}
    lines = [json.dumps(row | {"quality": quality}) for quality in (None, 35)]
    (tmp_path / "replies.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(beam, "Pipeline", functools.partial(beam.Pipeline, runner="FnApiRunner"))
    exec(PIPELINE, {})
    key, agreement, reward = capsys.readouterr().out.split()
    assert (key, agreement) == ("a.jpg", "1")
    assert 0 < float(reward) < 1


def test_the_new_backend(monkeypatch):
    monkeypatch.setenv("WHATSIT_KEY", "the key")
    names = {"__name__": "whatsit"}
    monkeypatch.setitem(sys.modules, "whatsit", types.ModuleType("whatsit"))
    exec(BACKEND, names)
    assert BACKEND.count("\n") < 60
    with serving(lambda request: json_reply({"labels": [{"name": "cat", "score": 0.9}]})) as server:
        backend = names["Whatsit"](endpoint=server.url)
        backend.open()
        server.script.append(json_reply({}, 503))
        answered = Client(backend, Manners(pause=0.01)).ask(Query(b"an image")).result()
    assert (answered.answer, answered.calls) == ((Label("cat", 0.9),), 2)
    assert b"key=the+key&image=" in server.requests[0].body
