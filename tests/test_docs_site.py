"""The documentation as a site, and the code blocks that take minutes: pytest -m docs."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import documents
import pytest
from conftest import encoded, picture
from documents import CHECKOUT, DOCS, Session
from gcs import emulated
from PIL import Image

from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.providers import PROVIDERS

pytestmark = pytest.mark.docs

CONSOLE = ("console", "bash", "text")

# What a page of a site may not do: fetch a script, a style, a picture or a font from elsewhere.
FETCHES = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'>\s]+""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings", reason="needs mkdocs: pip install 'beam-adacompress[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        build(load_config(str(CHECKOUT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert warnings == []
    return folder


def test_nothing_is_fetched(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [(page.name, found) for page in pages for found in FETCHES.findall(page.read_text())] == []
    styles = [path for path in site.rglob("*.css") if re.search(r"url\([\"']?(?:https?:)?//", path.read_text())]
    assert styles == []


def test_formulas_are_drawn_by_the_browser(site):
    page = (site / "explanation" / "agreement" / "index.html").read_text()
    formulas = re.findall(r"<math.*?</math>", page, re.DOTALL)
    assert len(formulas) == page.count('<math xmlns="http://www.w3.org/1998/Math/MathML"') == 10
    for formula in formulas:
        xml.etree.ElementTree.fromstring(formula)
        assert "\\" not in formula, "a command that was not understood"


def test_every_public_name_is_in_the_api(site):
    import beam_adacompress

    page = (site / "reference" / "api" / "index.html").read_text()
    public = [name for name in vars(beam_adacompress) if name[0].isupper()]
    assert len(public) > 20
    assert [name for name in public if f'id="beam_adacompress.{name}"' not in page] == []


def test_comments_of_fields_are_their_documentation(site):
    page = (site / "reference" / "api" / "index.html").read_text()
    assert "Compressed bytes / reference bytes" in page
    assert "Seconds that calls waited for their turn" in page


def test_files_of_the_checkout_have_pages(site):
    results = (site / "files" / "benchmarks" / "results" / "rate_agreement.txt" / "index.html").read_text()
    assert "verified choice: the backend is asked about each image" in results
    assert "Flex templates" in (site / "files" / "deploy" / "dataflow" / "index.html").read_text()


def test_the_search_index_is_there(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    assert any("e-detector" in entry["text"] for entry in index["docs"])


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The tutorial's folder, after all of it."""
    pytest.importorskip("skimage", reason="needs the photographs: pip install 'beam-adacompress[demo]'")
    pytest.importorskip("keras", reason="needs tensorflow: pip install 'beam-adacompress[train]'")
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        session = Session(runs=lambda command: True).read(DOCS / "tutorial.md")
    assert len(session.ran) == 8
    return folder


def test_the_tutorial_learns_a_policy_that_promises(tutorial):
    description = json.loads((tutorial / "policy" / "policy.json").read_text())
    assert description["promise"]["target"] == 0.9
    assert description["promise"]["setting"] is not None
    summary = json.loads((tutorial / "learned" / "summary.json").read_text())
    assert summary["bytes"]["out"] < 0.5 * summary["bytes"]["in"]


@pytest.fixture
def reading(tutorial, tmp_path, monkeypatch):
    """Reads a page where there are photographs, a network and a policy, and runs what can run there."""
    for name in ("model.tflite", "mobilenet_v2.tflite", "other.tflite"):
        shutil.copy(tutorial / "tiles.tflite", tmp_path / name)
    (tmp_path / "photos").mkdir()
    for path in sorted((tutorial / "tiles").iterdir())[::8]:
        shutil.copy(path, tmp_path / "photos")
    shutil.copytree(tutorial / "policy", tmp_path / "policy")
    monkeypatch.chdir(tmp_path)

    def read(page: str, runs: Callable[[str], bool] = lambda command: True) -> Session:
        return Session(runs).read(DOCS / "how-to" / page, languages=CONSOLE)

    return read


def test_compress_runs(reading):
    assert len(reading("compress.md").ran) == 2


def test_verified_choice_runs(reading, tmp_path):
    text = (DOCS / "how-to" / "verify.md").read_text()
    for index in range(3):  # each into a folder of its own: a run of other options is refused
        text = text.replace("--output small/", f"--output small-{index}/", 1)
    (tmp_path / "page.md").write_text(text)
    assert len(Session(runs=lambda command: True).read(tmp_path / "page.md", languages=CONSOLE).ran) == 3
    rows = [json.loads((tmp_path / f"small-{index}" / "summary.json").read_text()) for index in range(3)]
    assert [row["images"]["total"] for row in rows] == [50, 50, 50]


def test_training_runs(reading, tmp_path):
    shutil.rmtree(tmp_path / "policy")
    session = reading("train.md", runs=lambda command: "--logs" not in command)
    assert [command.split()[1] for command in session.ran] == ["train", "compress", "evaluate"]
    assert (tmp_path / "evaluation" / "report.html").stat().st_size > 10_000


def test_scoring_runs(reading, tmp_path):
    assert cli.main(["compress", "--input=photos", "--output=small", "--quality=35"]) == 0
    session = reading("score.md", runs=lambda command: "mobilenet" in command)
    assert len(session.ran) == 1
    assert (tmp_path / "scores" / "summary.json").is_file()


def test_the_loop_runs(reading, tmp_path):
    assert cli.main(["policy", "publish", "policy", "policies"]) == 0
    session = reading("close-the-loop.md", runs=lambda command: "later" not in command)
    assert [command.split()[1] for command in session.ran] == ["compress"]
    assert (tmp_path / "small" / "score" / "summary.json").is_file()


def test_tables_are_fitted(reading, tmp_path):
    session = reading("tables.md", runs=lambda command: "search" not in command)
    assert [command.split()[1] for command in session.ran] == ["tables", "tables", "compress"]
    summary = json.loads((tmp_path / "small" / "summary.json").read_text())
    assert summary["images"]["failed"] == 0


def test_the_pictures_are_made_by_their_script(tmp_path):
    pytest.importorskip("skimage", reason="needs the photographs: pip install 'beam-adacompress[demo]'")
    command = [sys.executable, str(DOCS / "pictures" / "make.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    for name in ("before-after.webp", "fixed-quality.png"):
        sizes = [Image.open(folder / name).size for folder in (tmp_path, DOCS / "pictures")]
        assert sizes[0] == sizes[1], name


def test_the_pipeline_in_yaml_runs(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    (text,) = re.findall("```yaml\n(.*?)```", (DOCS / "how-to" / "yaml.md").read_text(), re.DOTALL)
    text = text.replace("/path/that/adacompress/providers/printed/providers.yaml", str(PROVIDERS))
    pandas.DataFrame({"key": ["a"], "data": [encoded(picture())]}).to_parquet(tmp_path / "photos.parquet")
    (tmp_path / "page.yaml").write_text(text)
    command = [sys.executable, "-m", "apache_beam.yaml.main", "--yaml_pipeline_file=page.yaml", "--runner=FnApiRunner"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (part,) = tmp_path.glob("small.parquet*")
    (row,) = pandas.read_parquet(part).to_dict("records")
    assert (row["key"], row["choice"]["quality"], row["status"]) == ("a", 35, "compressed")


# ---- What a cloud has to do: the job is built, as far as it can be without one.

DATAFLOW = [
    (page, command)
    for page in sorted(DOCS.rglob("*.md"))
    for block in re.findall(r"^```(?:console|bash)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    for command in documents.commands(block)
    if "--runner=DataflowRunner" in command
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("storage")) as bucket:
        yield bucket


def test_commands_for_dataflow_are_found():
    assert {page.name for page, _ in DATAFLOW} == {"compress.md", "dataflow.md", "schedule.md", "serve.md"}


@pytest.mark.parametrize(("page", "command"), DATAFLOW, ids=lambda value: getattr(value, "stem", ""))
def test_jobs_for_dataflow_are_built(page: Path, command: str, bucket, monkeypatch):
    for name in ("photos/a.jpg", "in/a.jpg"):
        bucket.blob(name).upload_from_string(encoded(picture()))
    here = re.sub(r"gs://(B|BUCKET|my-bucket|photos)/", f"gs://{bucket.name}/", command)
    here = re.sub(r"\bP\b", "our-project", here).replace("--region=R", "--region=us-central1")
    # The package is not staged, which takes a build of it; what a job is made of does not hang on that.
    words = [word for word in here.split()[1:] if not word.startswith(("--setup_file", "--dry_run"))]
    assert cli.main([*words, "--dry_run=True"]) == 0
