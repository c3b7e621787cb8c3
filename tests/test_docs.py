"""The code in docs/backends.md and docs/policies.md runs."""

from __future__ import annotations

import functools
import io
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import shards
import yaml
from conftest import encoded, picture
from loopback import json_reply, serving
from PIL import Image

from beam_adacompress import Label, Query, backends, dct_networks
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners
from beam_adacompress.jpeg.tables import LEARNABLE
from beam_adacompress.policy.verify import LADDER

DOCS = Path(__file__).parent.parent / "docs"
PIPELINE, DCT, BACKEND = re.findall("```python\n(.*?)```", (DOCS / "backends.md").read_text(), re.DOTALL)

POLICIES = re.findall("```python\n(.*?)```", (DOCS / "policies.md").read_text(), re.DOTALL)


CHECKOUT = DOCS.parent
PAGES = sorted(
    page for pattern in ("*", "docs/*", "examples/**/*", "deploy/**/*") for page in CHECKOUT.glob(f"{pattern}.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page):
    text = re.sub("```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    for link in links:
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


def headings(page):
    lines = [line.lstrip("#").strip() for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_flink_example_is_a_cluster():
    cluster = yaml.safe_load((CHECKOUT / "examples" / "flink" / "session-cluster.yaml").read_text())
    names = [each["name"] for each in cluster["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]]
    assert (cluster["kind"], names) == ("FlinkDeployment", ["flink-main-container", "beam-worker-pool"])


def test_a_policy_in_a_pipeline(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.jpg").write_bytes(encoded(picture(320, 240)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(beam, "Pipeline", functools.partial(beam.Pipeline, runner="FnApiRunner"))
    (code,) = POLICIES
    exec(code, {})
    key, tables, quality, status = capsys.readouterr().out.split()
    assert (key, status) == ("a.jpg", "compressed")
    assert tables in LEARNABLE
    assert int(quality) in LADDER


def test_formats_in_a_pipeline(tmp_path, monkeypatch):
    (code,) = re.findall("```python\n(.*?)```", (DOCS / "formats.md").read_text(), re.DOTALL)
    kind = shards.KINDS[0]
    shards.make(kind, tmp_path / "b" / "train-0.tfrecord", {"a.jpg": encoded(picture(320, 240))})
    monkeypatch.setattr(beam, "Pipeline", functools.partial(beam.Pipeline, runner="FnApiRunner"))
    exec(code.replace("gs://", f"{tmp_path}/"), {})
    ((label, data),) = shards.read(kind, tmp_path / "b" / "small" / "images" / "train-0.tfrecord")
    assert (label, Image.open(io.BytesIO(data)).size) == ("a.jpg", (320, 240))


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


def test_the_network_on_dct_input(tmp_path, monkeypatch):
    keras = pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")

    def small(variant: str, classes: int, size: int) -> Any:
        """With the inputs of the real one, which takes long to train and to convert."""
        inputs = [keras.Input((size // 8, size // 8, 64)), keras.Input((size // 16, size // 16, 128))]
        means = [keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(0.01)(plane)) for plane in inputs]
        return keras.Model(inputs, keras.layers.Dense(classes, "softmax")(keras.layers.Concatenate()(means)))

    photographs = {}
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(3):
            photographs[name] = encoded(Image.new("L", (240, 230), level + index))
            (tmp_path / "photos" / name / f"{index}.jpg").write_bytes(photographs[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dct_networks, "build", small)
    exec(DCT, {})
    backend = backends.backend("dct:network.tflite?labels=names.txt")
    backend.open()
    answers = backend.label([Query(photographs[name]) for name in ("light", "dark")], 1.0)
    assert [labels[0].name for labels in answers] == ["light", "dark"]


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
