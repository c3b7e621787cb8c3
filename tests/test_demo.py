from __future__ import annotations

import sys

from conftest import IN_PROCESS, manifest_rows

from beam_adacompress.pipelines import cli, demo


def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "demo"), *IN_PROCESS]) == 0
    printed = capsys.readouterr().out
    rows = manifest_rows(tmp_path / "demo" / "compressed")
    assert len(rows) == sum(len(names) for names in demo.PHOTOGRAPHS.values())
    assert {row.status for row in rows.values()} == {"compressed"}
    assert "image                    quality     before      after   saved" in printed
    assert "china.jpg                     35   196.7 kB" in printed
    assert f"report: {tmp_path / 'demo' / 'compressed' / 'report.html'}" in printed


def test_without_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo", "--output", str(tmp_path)]) == 1
    assert "the demo needs the photographs in sklearn: pip install 'beam-adacompress[demo]'" in capsys.readouterr().err
