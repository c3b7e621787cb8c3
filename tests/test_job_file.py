"""--config, --write-config and job.toml: a run is recorded, and its record repeats it."""

from __future__ import annotations

import json
import sys

import pytest
from conftest import IN_PROCESS, files_of

from beam_adacompress.pipelines import cli, compress, job_file, tables
from beam_adacompress.pipelines.job_file import Record, arguments, given_options
from beam_adacompress.pipelines.options import UsageError

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


@pytest.fixture
def config(tmp_path):
    """Writes a file of options, and gives its path."""

    def write(text):
        path = tmp_path / "options.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_run_and_its_repetition(corpus, compress, tmp_path):
    again, options = tmp_path / "again", ["--quality=20", "--no-progressive", "--seed=3", "--max_failures=0.5"]
    assert compress(corpus, tmp_path / "out", *options) == 0
    recorded = tomllib.loads((tmp_path / "out" / "job.toml").read_text())
    assert recorded == {
        "format": "adacompress.job",
        "format_version": 1,
        "compress": {
            "input": str(corpus),
            "output": str(tmp_path / "out"),
            "max-failures": 0.5,
            "quality": 20,
            "no-progressive": True,
            "seed": 3,
            "runner": "FnApiRunner",
            "direct-num-workers": "1",
        },
    }
    assert cli.main(["compress", "--config", str(tmp_path / "out" / "job.toml"), "--output", str(again)]) == 0
    images = files_of(tmp_path / "out" / "images")
    assert len(images) == 6
    assert files_of(again / "images") == images
    options, repeated = (json.loads((run / "summary.json").read_text())["options"] for run in (tmp_path / "out", again))
    assert options == repeated
    assert tomllib.loads((again / "job.toml").read_text())["compress"]["output"] == str(again)


def test_a_run_that_is_written_down_and_not_run(corpus, tmp_path, capsys):
    path, output = tmp_path / "mine.toml", tmp_path / "out"
    line = [f"--input={corpus}", f"--output={output}", "--quality=35", "--overwrite", *IN_PROCESS]
    assert cli.main(["compress", *line, "--write-config", str(path)]) == 0
    assert capsys.readouterr().out == f"the options are in {path}: adacompress compress --config {path}\n"
    assert not output.exists()
    assert "overwrite = true" not in path.read_text().splitlines()
    assert cli.main(["compress", "--config", str(path)]) == 0
    assert "6 of 6 images compressed" in capsys.readouterr().out


def test_what_is_wrong_is_not_written_down(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    assert cli.main(["compress", "--input=a", "--quality=5", "--write-config", str(path)]) == 2
    assert capsys.readouterr().err == "adacompress: --output is missing; see adacompress compress --help\n"
    assert not path.exists()


def flags(config, text, *argv, line=compress.LINE):
    return arguments(line, config(text), list(argv))


def test_keys_are_options(config):
    text = """
        quality = 35
        min_saving = 0.1
        no-optimize = true
        flatten = false
        verify = ["litert:a.tflite", "litert:b.tflite"]
        runner = "DirectRunner"
        experiments = ["one", "two"]
        save_main_session = true
    """
    assert flags(config, text) == [
        "--quality=35",
        "--min-saving=0.1",
        "--no-optimize",
        "--verify=litert:a.tflite",
        "--verify=litert:b.tflite",
        "--runner=DirectRunner",
        "--experiment=one",
        "--experiment=two",
        "--save_main_session",
    ]


def test_tables_are_for_one_command(config):
    text = "max-calls = 7\n[compress]\nquality = 35\n[tables.fit]\nseed = 3\nmax-calls = 9\n[train]\nagent = 'dqn'"
    assert flags(config, text) == ["--max-calls=7", "--quality=35"]
    assert flags(config, text, line=tables.FIT) == ["--max-calls=9", "--seed=3"]


def test_the_command_line_wins(config):
    text = "quality = 35\nverify = ['litert:a.tflite']\nflatten = true\nrunner = 'DirectRunner'\nseed = 1"
    given = ["--quality", "20", "--verify=litert:b.tflite", "--flatten=false", "--runner=FnApiRunner"]
    assert flags(config, text, *given) == ["--seed=1", *given]
    assert flags(config, "min-saving = 0.1", "--min_saving=0.2") == ["--min_saving=0.2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qualty = 3", "options.toml: qualty is no option of adacompress compress: did you mean quality?"),
        ("[compress]\nruner = 'x'", "options.toml: runer is no option of adacompress compress: did you mean runner?"),
        ("debug = true", "options.toml: debug is no option of adacompress compress: did you mean "),
        ("flatten = 1", "options.toml: flatten must be true or false, got 1"),
        ("quality = [1, 2]", "options.toml: quality takes one value, got the list [1, 2]"),
        ("quality = 2026-01-01", "options.toml: quality must be text, a number or true or false, got datetime.date("),
        ("min-saving = 0.1\nmin_saving = 0.2", "options.toml: min_saving is there twice, with - and with _"),
        ("[train]\nagent = 'dqn'", "options.toml has no options for adacompress compress: it needs a table [compress]"),
        ("quality = ", "options.toml is no TOML: Invalid value (at end of document)"),
        ("format = 'x'\nquality = 3", "options.toml is no job that this release knows (format 'x')"),
        ("format_version = 2\nquality = 3", "it reads adacompress.job, version 1"),
    ],
)
def test_what_is_no_option_is_named(config, capsys, text, message):
    assert cli.main(["compress", "--config", config(text)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_file_that_is_not_there(capsys):
    assert cli.main(["compress", "--config=/nowhere/job.toml"]) == 1
    assert capsys.readouterr().err == (
        "adacompress: the options /nowhere/job.toml cannot be read: No such file or directory\n"
    )


def test_values_are_checked_as_those_of_the_command_line_are(config, capsys):
    path = config("quality = 'high'\ninput = 'a'\noutput = 'b'")
    assert cli.main(["compress", "--config", path]) == 2
    assert "argument --quality: invalid int value: 'high'; see adacompress compress --help" in capsys.readouterr().err


def test_a_runner_may_have_options_of_its_own(config):
    assert flags(config, "runner = 'PortableRunner'\nmine = 'x'\non = true") == [
        "--runner=PortableRunner",
        "--mine=x",
        "--on",
    ]
    with pytest.raises(UsageError, match="mine is no option"):
        flags(config, "runner = 'FnApiRunner'\nmine = 'x'")


def test_switches_can_be_turned_off(capsys):
    assert job_file.without_switches(compress.LINE, ["--flatten=TRUE", "--no_optimize=false", "--quality=3"]) == [
        "--flatten",
        "--quality=3",
    ]
    assert cli.main(["compress", "--flatten=yes"]) == 2
    assert capsys.readouterr().err == ("adacompress: --flatten is on or off, so it takes true or false, got 'yes'\n")


def test_what_a_command_line_has():
    line = ["--quality", "35", "--flatten=false", "--no-optimize", "--experiments=a,b", "--experiment=c", "--own=1"]
    assert [tuple(each)[:2] for each in given_options(compress.LINE, line)] == [
        ("quality", 35),
        ("no_optimize", True),
        ("flatten", False),
        ("experiments", ["a,b", "c"]),
        ("own", "1"),
    ]


SECRETS = [
    "--s3_secret_access_key=S3CRET",
    "--s3_session_token=S3CRET",
    "--azure_connection_string=AccountKey=S3CRET",
    "--score-with=facepp?endpoint=https://me:S3CRET@example.com/",
    "--verify=facepp?api_key=S3CRET",
]


@pytest.mark.parametrize("flag", SECRETS)
def test_secrets_are_not_written_down(flag):
    text = Record(compress.LINE, ["--input=/a", flag, "--quality=5"]).text()
    name = flag[2:].partition("=")[0].replace("_", "-")
    assert "S3CRET" not in text
    assert f"# {name} may hold a secret and is not written down: give it on the command line\n" in text
    assert tomllib.loads(text)["compress"] == {"input": "/a", "quality": 5}


def test_what_is_no_secret_is_written_down():
    given = ["--score-with=facepp?endpoint=https://example.com:8080/", "--impersonate_service_account=me@example.com"]
    assert tomllib.loads(Record(compress.LINE, given).text())["compress"] == {
        "score-with": "facepp?endpoint=https://example.com:8080/",
        "impersonate-service-account": "me@example.com",
    }


def test_a_record_says_what_was_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = Record(compress.LINE, ["--input=a", "--policy=p", "--tables=t.json"]).text(policy=["/p/1"]).splitlines()
    assert lines[0] == "# Repeat it elsewhere: adacompress compress --config job.toml --output ANOTHER"
    assert lines[1].startswith("# It was made with beam-adacompress ")
    assert lines[2] == f"# in {tmp_path}, where what is no absolute path begins."
    assert f'input = "{tmp_path / "a"}"' in lines
    assert 'tables = "t.json"' in lines
    assert "# min-saving = 0.05" in lines
    assert "# flatten = false" in lines
    assert "# quality =" in lines
    assert tomllib.loads("\n".join(lines))["compress"]["policy"] == ["/p/1"]
