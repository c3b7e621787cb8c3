"""Links lead somewhere, and the code blocks of the pages run. Those that take minutes: tests/test_docs_site.py."""

from __future__ import annotations

import io
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import documents
import pytest
import shards
import yaml
from conftest import encoded, picture
from documents import CHECKOUT, DOCS, Session
from loopback import json_reply, serving
from PIL import Image
from test_yaml import tape_of

from beam_adacompress import Label, Query, backends, dct_networks, manifest, scores
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners
from beam_adacompress.jpeg.tables import LEARNABLE
from beam_adacompress.policy.verify import LADDER

README = CHECKOUT / "README.md"
PAGES = sorted(
    page for pattern in ("*", "docs/**/*", "examples/**/*", "deploy/**/*") for page in CHECKOUT.glob(f"{pattern}.md")
)
SITE = sorted(page for page in [README, *DOCS.rglob("*.md")])


def named(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


@pytest.mark.parametrize("page", PAGES, ids=named)
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


def test_pictures_are_small():
    pictures = [path for path in (DOCS / "pictures").iterdir() if path.suffix in (".png", ".webp")]
    assert {path.name for path in pictures} == {"before-after.webp", "fixed-quality.png"}
    assert [path.name for path in pictures if path.stat().st_size > 150_000] == []


def test_every_page_is_in_the_navigation():
    def entries(part: Any) -> Any:
        for each in part if isinstance(part, list) else part.values():
            yield from [each] if isinstance(each, str) else entries(each)

    text = re.sub(r"!!\S+", "", (CHECKOUT / "mkdocs.yml").read_text())
    assert set(entries(yaml.safe_load(text)["nav"])) == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_the_flink_example_is_a_cluster():
    cluster = yaml.safe_load((CHECKOUT / "examples" / "flink" / "session-cluster.yaml").read_text())
    names = [each["name"] for each in cluster["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]]
    assert (cluster["kind"], names) == ("FlinkDeployment", ["flink-main-container", "beam-worker-pool"])


# ---- Code blocks. PYTHON are the pages whose Python runs; of all others every block is checked as far as that goes.

PYTHON = {
    "README.md",
    "docs/tutorial.md",
    "docs/how-to/compose.md",
    "docs/how-to/verify.md",
    "docs/how-to/score.md",
    "docs/how-to/add-a-backend.md",
    "docs/how-to/dct-networks.md",
    "docs/how-to/close-the-loop.md",
    "docs/how-to/formats.md",
    "docs/how-to/read-the-manifest.md",
    "docs/explanation/agreement.md",
}


def test_no_python_is_left_out():
    assert {named(page) for page in SITE if "```python" in page.read_text()} == PYTHON


@pytest.mark.parametrize("page", [page for page in SITE if named(page) not in PYTHON], ids=named)
def test_commands_are_what_the_parsers_take(page):
    Session().read(page)


@pytest.mark.parametrize("page", [page for page in SITE if named(page) in PYTHON], ids=named)
def test_commands_beside_python_are_what_the_parsers_take(page):
    Session().read(page, languages=("console", "bash"))


def test_languages_are_known():
    languages = {name for page in SITE for name in re.findall(r"^```(\w+)", page.read_text(), re.MULTILINE)}
    assert languages <= {*documents.LANGUAGES, "py", "yaml", "json", "sql", "java", "math", "toml"}


@pytest.mark.parametrize("page", SITE, ids=named)
def test_data_in_blocks_is_of_its_kind(page):
    for language, text in re.findall(r"^```(yaml|json|toml)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        if language == "toml":
            pytest.importorskip("tomllib", reason="comes with Python 3.11").loads(text)
        else:
            {"yaml": yaml.safe_load, "json": json.loads}[language](text)


def test_the_scheduled_job_is_that_of_the_template():
    (text,) = re.findall("```json\n(.*?)```", (DOCS / "how-to" / "schedule.md").read_text(), re.DOTALL)
    template = json.loads((CHECKOUT / "deploy" / "dataflow" / "schedule.compress.json").read_text())["launchParameter"]
    shown = json.loads(text)["launchParameter"]
    assert shown == {name: template[name] for name in ("jobName", "containerSpecGcsPath", "parameters")}


def test_queries_name_columns_that_exist():
    queries = re.findall("```sql\n(.*?)```", (DOCS / "how-to" / "read-the-manifest.md").read_text(), re.DOTALL)
    assert len(queries) == 3
    columns = {"manifest": manifest.FORMAT.schema.names, "scores": scores.FORMAT.schema.names}
    for query in queries[:2]:
        (table,) = re.findall(r"FROM photos\.(\w+)", query)
        made = re.findall(r" AS (\w+)", query)
        named = set(re.findall(r"\b[a-z_0-9]+\b", re.sub(r"'[^']*'|photos\.\w+", "", query)))
        assert {name for name in named if not name.isdigit()} <= {*columns[table], *made}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a page is read: with a photograph, and a service that was recorded."""
    (tmp_path / "a.jpg").write_bytes(encoded(picture(320, 240)))
    (tmp_path / "photos").mkdir()
    for name in "abc":
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(encoded(picture(320, 240, seed=ord(name))))
    tape_of(tmp_path / "replies.jsonl", ["a.jpg", "b.jpg", "c.jpg"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pipelines(folder, monkeypatch):
    """Pipelines of a page, which name no runner, take the one that starts fastest."""
    documents.local_pipelines(monkeypatch)
    return folder


def test_compose(pipelines):
    session = Session().read(DOCS / "how-to" / "compose.md")
    key, tables, quality, status = session.last("python").split()
    assert (key, status) == ("a.jpg", "compressed")
    assert tables in LEARNABLE
    assert int(quality) in LADDER


def test_verify(pipelines):
    session = Session().read(DOCS / "how-to" / "verify.md")
    key, tables, quality, *backend = session.last("python").split()
    assert (key, backend[0]) == ("a.jpg", "replay")
    assert tables in LEARNABLE
    assert int(quality) == LADDER[0], "it sees the same at any quality"


def test_score(pipelines):
    key, agreement, reward = Session().read(DOCS / "how-to" / "score.md").last("python").split()
    assert (key, agreement) == ("a.jpg", "1")
    assert 0 < float(reward) < 1


def test_the_loop_is_defined(folder):
    session = Session().read(DOCS / "how-to" / "close-the-loop.md")
    assert callable(session.names["loop"])


def test_calibration(folder):
    assert Session().read(DOCS / "explanation" / "agreement.md").last("python") == "99\n0.059\n1\n"


def test_the_manifest_in_pandas(folder):
    pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    session = Session(runs=lambda command: True).read(DOCS / "how-to" / "read-the-manifest.md")
    assert [command.split()[1] for command in session.ran] == ["compress", "score"]
    assert session.names["manifest"].status.tolist() == ["compressed"] * 3
    assert "1.000 agree" in session.last("python")


def test_rolling_back(folder, capsys):
    text = (DOCS / "how-to" / "roll-back.md").read_text().replace("gs://bucket/policies", "policies")
    (folder / "page.md").write_text(text.replace("publish policy/", "publish default"))
    session = Session(runs=lambda command: "rollback" not in command).read(folder / "page.md")
    assert [command.split()[2] for command in session.ran] == ["publish", "list", "show"]
    assert (folder / "policies" / "LATEST").is_file()


def test_the_tutorial_up_to_the_network(folder):
    pytest.importorskip("skimage", reason="needs the photographs: pip install 'beam-adacompress[demo]'")
    session = Session(runs=lambda command: True).read(DOCS / "tutorial.md", until="## 4.")
    assert len(session.ran) == 3
    rows = session.last("python").splitlines()
    assert [row.split()[0] for row in rows] == [
        "china.jpg",
        "flower.jpg",
        "hubble_deep_field.jpg",
        "retina.jpg",
        "rocket.jpg",
    ]


def test_formats(tmp_path, monkeypatch):
    (code,) = re.findall("```python\n(.*?)```", (DOCS / "how-to" / "formats.md").read_text(), re.DOTALL)
    kind = shards.KINDS[0]
    shards.make(kind, tmp_path / "b" / "train-0.tfrecord", {"a.jpg": encoded(picture(320, 240))})
    documents.local_pipelines(monkeypatch)
    exec(code.replace("gs://", f"{tmp_path}/"), {})
    ((label, data),) = shards.read(kind, tmp_path / "b" / "small" / "images" / "train-0.tfrecord")
    assert (label, Image.open(io.BytesIO(data)).size) == ("a.jpg", (320, 240))


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
    Session().read(DOCS / "how-to" / "dct-networks.md")
    backend = backends.backend("dct:network.tflite?labels=names.txt")
    backend.open()
    answers = backend.label([Query(photographs[name]) for name in ("light", "dark")], 1.0)
    assert [labels[0].name for labels in answers] == ["light", "dark"]


def test_the_new_backend(monkeypatch):
    (code,) = re.findall("```python\n(.*?)```", (DOCS / "how-to" / "add-a-backend.md").read_text(), re.DOTALL)
    monkeypatch.setenv("WHATSIT_KEY", "the key")
    names = {"__name__": "whatsit"}
    monkeypatch.setitem(sys.modules, "whatsit", types.ModuleType("whatsit"))
    exec(code, names)
    assert code.count("\n") < 60
    with serving(lambda request: json_reply({"labels": [{"name": "cat", "score": 0.9}]})) as server:
        backend = names["Whatsit"](endpoint=server.url)
        backend.open()
        server.script.append(json_reply({}, 503))
        answered = Client(backend, Manners(pause=0.01)).ask(Query(b"an image")).result()
    assert (answered.answer, answered.calls) == ((Label("cat", 0.9),), 2)
    assert b"key=the+key&image=" in server.requests[0].body


def test_the_readmes_pipeline(pipelines):
    (code,) = re.findall("```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 12, "ten lines, and two imports"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        exec(code, {})
    key, before, after = printed.getvalue().split()
    assert key == "a.jpg"
    assert 0 < int(after) < int(before) == (pipelines / "a.jpg").stat().st_size


def test_the_readme_is_one_screen():
    assert len(README.read_text().splitlines()) <= 80
