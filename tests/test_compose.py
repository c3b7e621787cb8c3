"""examples/compose.py, as a program of somebody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_yaml import tape_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "compose.py"


def test_the_example(corpus, tmp_path):
    keys = [str(path) for path in sorted(corpus.rglob("*.jpg"))]
    tape = tape_of(tmp_path / "replies.jsonl", keys)
    # All are sampled, for there are six; the example's own share is one for thousands.
    code = tmp_path / "compose.py"
    code.write_text(EXAMPLE.read_text().replace("sample_rate=0.1", "sample_rate=1.0"))
    arguments = [sys.executable, str(code), str(corpus), str(tmp_path / "out"), f"replay:{tape}"]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for path in (tmp_path / "out").glob("images*") for line in path.read_text().splitlines()]
    assert sorted(row["key"] for row in rows) == keys
    assert all(1 <= row["q"] <= 100 and row["bytes"] > 0 for row in rows)
    (drift,) = [json.loads(line) for path in (tmp_path / "out").glob("drift*") for line in path.open()]
    assert (drift["state"], drift["n"]) == ("inference", 6)


def test_it_is_short():
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(lines) < 40


def test_the_documentation_shows_it():
    page = (EXAMPLE.parent.parent / "docs" / "how-to" / "compose.md").read_text()
    shown = EXAMPLE.read_text().partition("with beam.Pipeline")[2]
    assert shown.strip() in page
