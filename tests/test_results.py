"""--json, and the exit status of the command: what programs go by."""

from __future__ import annotations

import enum
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import IN_PROCESS
from scoring import REPLIES, recorded, scored

from beam_adacompress.pipelines import cli, results
from beam_adacompress.pipelines.exits import Exit, listed
from beam_adacompress.records import Retrained

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"


def result_of(capsys):
    """The one object on stdout."""
    return json.loads(capsys.readouterr().out)


def test_a_compress_run(corpus, compress, tmp_path, capsys):
    out = tmp_path / "out"
    assert compress(corpus, out, "--json", "--policy=default") == 0
    result = result_of(capsys)
    head = {"format": "adacompress.result", "format_version": 1, "command": "compress", "exit_status": 0}
    assert {name: result[name] for name in head} == head
    assert result["summary"] == json.loads((out / "summary.json").read_text())
    assert (result["output"], result["report"]) == (str(out), str(out / "report.html"))
    assert " of 6 images compressed, " in result["text"][0]
    assert result["text"][-1] == f"report: {out / 'report.html'}"
    assert result["policy"]["promise"]["target"] == 0.97
    assert len(result["policy"]["backends"]) == 3
    assert "error" not in result


def test_a_score_run(run, tmp_path, capsys):
    out, backend = tmp_path / "score", recorded(tmp_path / "replies.jsonl", REPLIES)
    assert scored(run, out, backend, "--json") == 0
    scores = result_of(capsys)["scores"]
    assert scores == {**json.loads((out / "summary.json").read_text()), "output": str(out)}
    assert scored(run, out, backend, "--json", "--dry-run") == 0
    plan = result_of(capsys)["plan"]
    assert (plan["images"], plan["sampled"], plan["terms"]["name"]) == (6, 6, "replay")


def test_tables(corpus, tmp_path, capsys):
    mine = tmp_path / "mine.json"
    paths = [f"--input={corpus}", f"--output={mine}", "--seed=1", "--subsampling=4:4:4"]
    assert cli.main(["tables", "fit", *paths, "--json", *IN_PROCESS]) == 0
    result = result_of(capsys)
    assert (result["command"], result["family"], result["output"]) == ("tables fit", "mine", str(mine))
    assert result["origin"]["images"] == 6
    assert cli.main(["--json", "tables", "show", "annexk", "--quality=50"]) == 0
    result = result_of(capsys)
    assert (result["luminance"][:4], result["chrominance"][:4]) == ([16, 11, 10, 16], [17, 18, 24, 47])


def test_versions(capsys):
    assert cli.main(["--version", "--json"]) == 0
    assert set(result_of(capsys)["versions"]) >= {"beam-adacompress", "apache-beam"}


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compress", "--json", "--help"])
    assert capsys.readouterr().out.startswith("usage: adacompress compress")


def interrupt(*_):
    raise KeyboardInterrupt


def broken(*_):
    raise RuntimeError("first line\nsecond line\n")


ENDS = {
    Exit.DONE: (["policy", "show", "default"], None),
    Exit.FAILED: (
        ["policy", "show", "/nowhere"],
        "the policy's file /nowhere/policy.json cannot be read: No such file",
    ),
    Exit.USAGE: (["compress", "--quality=5"], "--input is missing; see adacompress compress --help"),
}


@pytest.mark.parametrize("status", ENDS)
def test_an_exit_status_and_its_error(status, capsys):
    arguments, message = ENDS[status]
    assert cli.main([*arguments, "--json"]) == status
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["exit_status"] == status
    assert str(result.get("error", {}).get("message")).startswith(str(message))
    assert printed.err == ("" if message is None else f"adacompress: {result['error']['message']}\n")
    assert cli.main(arguments) == status
    assert capsys.readouterr().err == printed.err


def test_too_many_failures_are_a_result_and_an_error(corpus, compress, tmp_path, capsys):
    (corpus / "a" / "broken.jpg").write_bytes(b"no image")
    assert compress(corpus, tmp_path / "out", "--max-failures=0.1", "--json") == Exit.TOO_MANY_FAILURES
    result = result_of(capsys)
    assert result["exit_status"] == 3
    assert result["error"] == {"message": "14.29% of the images failed, more than --max-failures 0.1"}
    assert result["summary"]["images"] == {"total": 7, "compressed": 6, "kept": 0, "failed": 1}


def test_an_interruption(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(cli.os, "_exit", ended.append)
    monkeypatch.setattr("beam_adacompress.pipelines.tables.shown", interrupt)
    cli.main(["tables", "show", "annexk", "--json"])
    printed = capsys.readouterr()
    assert ended == [130]
    assert printed.err == "\nadacompress: interrupted; the same command goes on where it stopped\n"
    result = json.loads(printed.out)
    assert (result["exit_status"], result["error"]["message"]) == (130, printed.err.strip().partition(": ")[2])
    assert result["family"] == "annexk", "what was known by then"


def test_what_nobody_expected(monkeypatch, capsys):
    monkeypatch.setattr("beam_adacompress.pipelines.tables.shown", broken)
    assert cli.main(["tables", "show", "annexk"]) == Exit.FAILED
    assert capsys.readouterr().err == "adacompress: the job failed: second line (--debug shows all of it)\n"


def test_every_status_is_told():
    assert {status.value for status in Exit} == {0, 1, 2, 3, 130}
    assert [line.split()[0] for line in listed()] == ["0", "1", "2", "3", "130"]
    told = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert told == [(str(status.value), status.meaning) for status in Exit]


class Colour(enum.Enum):
    RED = "red"


def test_what_json_has_no_word_for():
    row = Retrained("published", "a", "b", *["x"] * (len(Retrained._fields) - 3))
    given = {"row": row, 3: (1, math.nan), "array": np.arange(3), "set": {"b", "a"}, "enum": Colour.RED, "on": True}
    assert results.plain(given) == {
        "row": row._asdict(),
        "3": [1, None],
        "array": [0, 1, 2],
        "set": ["a", "b"],
        "enum": "red",
        "on": True,
    }


def test_nobody_listens_without_json():
    results.tell(a=1)
    with results.listening() as heard:
        results.tell(b=2)
        print("text")
    results.tell(c=3)
    assert (heard.facts, heard.printed.getvalue()) == ({"b": 2}, "text\n")
