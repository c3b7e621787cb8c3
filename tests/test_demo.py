from __future__ import annotations

import json
import re
import sys

from conftest import IN_PROCESS, manifest_rows

from beam_adacompress.pipelines import cli, demo
from beam_adacompress.policy.policies import Serving


def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "demo"), "--json", *IN_PROCESS]) == 0
    result = json.loads(capsys.readouterr().out)
    printed = "\n".join(result["text"])
    assert {row["key"] for row in result["images"]} == {key for names in demo.PHOTOGRAPHS.values() for key in names}
    rows = manifest_rows(tmp_path / "demo" / "compressed")
    assert len(rows) == sum(len(names) for names in demo.PHOTOGRAPHS.values())
    assert rows["china.jpg"].status == "compressed"
    assert {row.policy_version for row in rows.values()} == {Serving().load().version}
    assert len({(row.tables, row.quality) for row in rows.values()}) > 3, "each image gets its own"
    assert "which promises an agreement of 0.97" in printed
    assert "image                    quality     before      after   saved" in printed
    assert re.search(r"^china\.jpg +\d+ +196\.7 kB", printed, re.MULTILINE)
    assert f"report: {tmp_path / 'demo' / 'compressed' / 'report.html'}" in printed


def test_without_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo", "--output", str(tmp_path)]) == 1
    assert "the demo needs the photographs in sklearn: pip install 'beam-adacompress[demo]'" in capsys.readouterr().err
