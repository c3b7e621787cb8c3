"""The house: what may import what, what crosses a shuffle, what the package exports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.pipeline import PipelineVisitor

import beam_adacompress
from beam_adacompress.pipelines.compress import CompressJob, compress

PACKAGE = Path(beam_adacompress.__file__).parent
CHECKOUT = Path(__file__).parent.parent


def names_in(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    return names_in(ast.parse(path.read_text()))


def top_level_imports(path: Path) -> set[str]:
    """What importing the module imports, whatever its functions import later."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    return names_in(tree)


def floor(path: Path) -> int:
    folder = path.relative_to(PACKAGE).parts[0]
    return {"transforms": 1, "pipelines": 2}.get(folder, 0)


# Imported where they are used, by those who use them.
HEAVY = ("tensorflow", "keras", "ai_edge_litert", "google", "grpc", "boto3", "botocore", "requests", "jpeglib", "river")

MODULES = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    forbidden = {0: ("apache_beam", "beam_adacompress.transforms", "beam_adacompress.pipelines")}
    forbidden[1] = ("beam_adacompress.pipelines",)
    names = imports(path)
    assert not [name for name in names if name.startswith(forbidden.get(floor(path), ("tensorflow",)))]
    assert not [name for name in top_level_imports(path) if name.startswith(HEAVY)]


def test_no_file_is_too_long():
    assert {str(path): n for path in MODULES if (n := len(path.read_text().splitlines())) > 400} == {}


def test_the_linter_reads_every_floor():
    # An exclusion meant for the links at the top level would take the folders that they lead to with it.
    listed = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files", "."],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    package = CHECKOUT.resolve() / "beam_adacompress"
    assert set(package.rglob("*.py")) <= {Path(name).resolve() for name in listed}


def test_the_links_lead_into_the_package():
    for name in ("transforms", "pipelines"):
        link = CHECKOUT / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"beam_adacompress/{name}"


def test_the_public_api():
    assert {name for name in vars(beam_adacompress) if name[0].isupper()} == {
        "AdaCompressError",
        "Backend",
        "BackendError",
        "Choice",
        "ChooseQuality",
        "ChosenImage",
        "CompressJPEG",
        "CompressedImage",
        "DecodeDCT",
        "DriftEstimate",
        "EncodedImage",
        "EstimateDrift",
        "ImageError",
        "ImageFailure",
        "Label",
        "Query",
        "ReadImages",
        "RetrainAgent",
        "Retrained",
        "Score",
        "ScoreWithBackend",
        "Terms",
        "Usage",
        "WriteImages",
    }


@pytest.mark.parametrize("resume", [False, True])
def test_image_bytes_never_cross_a_shuffle(resume):
    shuffled = []

    class Shuffles(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, (beam.GroupByKey, beam.Flatten)):
                shuffled.extend(pcoll.element_type for pcoll in node.inputs)

    pipeline = beam.Pipeline(runner="FnApiRunner")
    compress(pipeline, CompressJob(input="/in", output="/out"), "attempt", 0.0, resume)
    pipeline.visit(Shuffles())
    assert len(shuffled) >= 8
    described = [str(kind) for kind in shuffled]
    assert not [kind for kind in described if "bytes" in kind or "SourceImage" in kind or "CompressedImage" in kind]
