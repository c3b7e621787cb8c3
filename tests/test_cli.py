from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import psutil
import pytest
from conftest import encoded, picture, said_beside_progress

from beam_adacompress.pipelines import asking, cli, compress, local, options, policy_options, progress, score, score_job
from beam_adacompress.transforms.runs import RunFolder
from beam_adacompress.version import __version__

# Without what libraries have to say about old Pythons.
QUIET = {**os.environ, "PYTHONWARNINGS": "ignore"}


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert f"beam-adacompress {__version__}, apache-beam 2." in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help(capsys, arguments):
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "usage: adacompress COMMAND" in printed
    assert all(name in printed for name in cli.COMMANDS)


def test_help_of_a_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["compress", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--quality", "--min-saving", "--keep-metadata", "--max-pixels", "--overwrite", "--max-failures"):
        assert option in printed
    assert "Every Beam pipeline option works as well" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shrink"], "unknown command 'shrink'; known: compress, score, tables, demo"),
        (["compress"], "--input is missing; see adacompress compress --help"),
        (["compress", "--input", "a"], "--output is missing"),
        (
            ["compress", "--input", "a", "--output", "b", "--qualty", "3"],
            "unknown option --qualty: did you mean --quality?",
        ),
        (["compress", "--input", "a", "--output", "b", "--runer=X"], "unknown option --runer: did you mean --runner?"),
        (["compress", "--input", "a", "--output", "b", "c"], "unexpected argument c"),
        (["compress", "--input", "a", "--output", "b", "--quality", "0"], "quality must be from 1 to 100, got 0"),
        (["compress", "--input", "a", "--output", "b", "--quality", "x"], "argument --quality: invalid int value: 'x'"),
        (
            ["compress", "--input", "a", "--output", "b", "--min-saving", "5"],
            "min_saving must be at least 0 and below 1",
        ),
        (["compress", "--input", "a", "--output", "b", "--max-failures=7"], "max_failures must be a share from 0 to 1"),
        (["compress", "--input", "a", "--output", "b", "--seed=-1"], "seed must be from 0 to"),
        (["compress", "--input", "a", "--output", "b", "--max-bytes=0"], "max_bytes must be at least 1, got 0"),
        (["compress", "--input", "a", "--output", "b", "--tables=x"], "unknown quantisation tables 'x'; known: annexk"),
    ],
)
def test_wrong_usage_is_one_sentence(capsys, arguments, message):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_debug_shows_the_traceback(capsys):
    assert cli.main(["compress", "--debug"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert printed.splitlines()[-1] == "adacompress: --input is missing; see adacompress compress --help"


def test_an_error_of_a_worker_is_one_sentence(corpus, compress, monkeypatch, capsys):
    monkeypatch.setattr("beam_adacompress.jpeg.compress", lambda *_: 1 / 0)
    assert compress(corpus) == 1
    printed = capsys.readouterr().err
    assert "adacompress: the job failed: division by zero [while running 'CompressJPEG/" in printed
    assert "(--debug shows all of it)" in printed
    assert "Traceback" not in printed


def test_workers_keep_their_tracebacks_to_themselves(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture()))
    output = tmp_path / "out"
    code = (
        "import sys; from beam_adacompress.pipelines import cli; from beam_adacompress.transforms import sinks; "
        "sinks._write_part = sinks.summary.quantile; sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["--input", str(tmp_path / "a.jpg"), "--output", str(output), "--direct_num_workers=2"]
    done = subprocess.run(
        [sys.executable, "-c", code, "compress", *arguments], capture_output=True, text=True, env=QUIET
    )
    assert done.returncode == 1
    said = said_beside_progress(done.stderr)
    assert len(said) == 1
    assert said[0].startswith("adacompress: the job failed: ")


@pytest.mark.heavy
def test_a_killed_worker_is_one_sentence(tmp_path):
    for index in range(600):
        (tmp_path / f"{index}.jpg").write_bytes(encoded(picture(400, 300, seed=index)))
    output = tmp_path / "out"
    arguments = ["--input", str(tmp_path), "--output", str(output), "--direct_num_workers=2"]
    process = psutil.Popen(
        [sys.executable, "-m", "beam_adacompress", "compress", *arguments], stderr=subprocess.PIPE, text=True
    )
    while not list(output.glob("images/*")):
        time.sleep(0.01)
    workers = [child for child in process.children(recursive=True) if "local_worker" in child.cmdline()[-1]]
    assert len(workers) >= 2
    workers[-1].kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.splitlines()[-1].startswith("adacompress: a worker process was killed, perhaps for want of memory")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [("policy", "show", "default"), ("compress", "--help"), ("policy", "show", "default", "--json"), ("--version",)],
)
def test_nobody_reads_all_that_is_printed(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "beam_adacompress", *arguments], stdout=closed, stderr=subprocess.PIPE, env=QUIET
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_of_the_job_that_breaks_is_a_failure(monkeypatch, capsys):
    def run(arguments):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "of_command", lambda name: (run, {}))
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err.startswith("adacompress: the job failed: [Errno 32] Broken pipe")


def test_as_a_process(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture()))
    arguments = ["--input", str(tmp_path / "a.jpg"), "--output", str(tmp_path / "out"), "--quality=35"]
    done = subprocess.run(
        [sys.executable, "-m", "beam_adacompress", "compress", *arguments],
        capture_output=True,
        text=True,
        env=QUIET,
    )
    assert done.returncode == 0
    assert said_beside_progress(done.stderr) == []
    assert "1 of 1 images compressed, 0 kept, 0 failed" in done.stdout


JOBS = {
    compress: (
        compress.CompressJob,
        [compress.CompressOptions, policy_options.PolicyOptions, policy_options.PromiseOptions],
    ),
    score: (score_job.ScoreJob, [score_job.ScoreOptions, asking.BackendOptions, policy_options.PolicyOptions]),
}


@pytest.mark.parametrize("command", JOBS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_every_option_of_a_job_is_an_option_of_its_command(command):
    job, own = JOBS[command]
    groups = [options.JobOptions, score_job.ScoringOptions, asking.AskingOptions, *own]
    paths = {"input": "/a", "output": "/b"} | ({"backend": "google-vision"} if job is score_job.ScoreJob else {})
    values, rest = options.parse("test", "", groups, [], [f"--{name}={path}" for name, path in paths.items()])
    assert rest == []
    fields = set(job.__dataclass_fields__) - {"scoring"} | set(score_job.Scoring.__dataclass_fields__)
    assert set(values) - {"plan_only"} == fields
    values["backend"] = asking.only(values.get("backend", [""]), "test")
    assert score_job.job_of(job, values) == job(**paths)


def test_both_spellings_of_an_option(capsys):
    for spelling in ("--min-saving=2", "--min_saving=2"):
        assert cli.main(["compress", "--input=/a", "--output=/b", spelling]) == 2
        assert "min_saving must be at least 0 and below 1, got 2.0" in capsys.readouterr().err


def choose(*flags):
    given = compress.CompressOptions(list(flags))
    return local.choose_runner(given, flags), given.view_as(local.DirectOptions).direct_num_workers


def test_all_cores_are_the_default(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 5)
    runner, workers = choose()
    assert isinstance(runner.runner, local.FnApiRunner)
    assert (runner.is_local, workers) == (True, 5)
    assert runner.runner._default_environment.command_string == f"exec {local.worker_command()}"


def test_the_number_of_workers_can_be_stated(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 5)
    assert choose("--direct_num_workers=3")[1] == 3
    assert choose("--direct_num_workers=1")[1] == 1


@pytest.mark.parametrize(("name", "is_local"), [("DirectRunner", True), ("DataflowRunner", False)])
def test_a_named_runner_is_left_as_it_is(name, is_local):
    assert choose(f"--runner={name}") == ((name, is_local), 1)


def test_progress_lines(corpus, compress, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    monkeypatch.setattr("beam_adacompress.transforms.sinks.FLUSH_IMAGES", 1)
    encode = compress_slowly(monkeypatch)
    assert compress(corpus) == 0
    assert encode
    lines = [line for line in capsys.readouterr().err.splitlines() if " of 6 images, " in line]
    assert any(line.startswith("3 of 6 images, ") and line.endswith(" s left") for line in lines)
    assert all(" saved, 0 failed" in line for line in lines)


def test_progress_bar(corpus, compress, monkeypatch, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.05)
    monkeypatch.setattr("beam_adacompress.transforms.sinks.FLUSH_IMAGES", 1)
    compress_slowly(monkeypatch)
    assert compress(corpus) == 0
    drawn = terminal.getvalue()
    assert "3/6" in drawn
    assert "kB saved, 0 failed" in drawn


def compress_slowly(monkeypatch):
    from beam_adacompress import jpeg

    original = jpeg.compress

    def slow(*arguments):
        __import__("time").sleep(0.25)
        return original(*arguments)

    monkeypatch.setattr(jpeg, "compress", slow)
    return original


def test_progress_survives_a_store_that_does_not_answer(tmp_path, monkeypatch):
    def fail(_):
        raise OSError("gone")

    monkeypatch.setattr(progress.files, "listing", fail)
    shown = progress.Progress(progress.Compressing(RunFolder(str(tmp_path)), "attempt", 5), terminal=False)
    shown._look()
    assert shown.line() == "0 of 5 images, 0 bytes saved, 0 failed"
