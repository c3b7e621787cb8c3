"""`adacompress completion`: what shells make of its scripts, asked in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess

import pytest

from beam_adacompress import backends, jpeg
from beam_adacompress.formats import FORMATS
from beam_adacompress.pipelines import cli, completion

BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
compopt() { :; }  # there is none outside of completing
_shtab_adacompress
printf '%s\\n' "${COMPREPLY[@]}"
"""

# The command says what it was called with, when a line has been completed.
ZSH = """
PROMPT="ready>"
autoload -Uz compinit && compinit -u -d "$SCRIPTS/dump"
eval "$(<$SCRIPTS/zsh)"
adacompress() { print -r -- "called with $*;" }
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell))
    return folder


def answer(shell, *arguments):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, which is not installed")
    done = subprocess.run([shell, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


COMPLETED = {
    "adacompress ta": ["tables"],
    "adacompress tables ": ["fit", "show"],
    "adacompress policy p": ["publish"],
    "adacompress compress --min": ["--min-saving", "--min-action-share"],
    "adacompress compress --overwrite --qual": ["--quality"],
    "adacompress compress --verify ": list(backends.BACKENDS),
    "adacompress score --backend go": ["google-vision"],
    "adacompress compress --tables mobilenet-v1": ["mobilenet-v1-small", "mobilenet-v1"],
    "adacompress tables show ": list(jpeg.FAMILIES),
    "adacompress compress --format ": list(FORMATS),
    "adacompress tables fit --method s": ["search"],
    "adacompress train --runner Da": ["DataflowRunner"],
    "adacompress policy list --run": [],
    "adacompress providers --js": ["--json"],
    "adacompress completion ": ["bash", "zsh", "fish"],
}


@pytest.mark.parametrize("line", COMPLETED)
def test_bash_completes(scripts, line):
    found = answer("bash", "--norc", "-c", BASH, "bash", str(scripts / "bash"), *line.split(" "))
    assert sorted(filter(None, found)) == sorted(COMPLETED[line])


def test_bash_completes_files_and_folders(scripts, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos.csv").write_text("")
    for option, wanted in (("--input", ["photos", "photos.csv"]), ("--cache", ["photos"])):
        words = ["adacompress", "compress", option, f"{tmp_path}/pho"]
        found = answer("bash", "--norc", "-c", BASH, "bash", str(scripts / "bash"), *words)
        assert sorted(found) == [f"{tmp_path}/{name}" for name in wanted]


@pytest.mark.parametrize("line", COMPLETED)
def test_fish_completes(scripts, line):
    code = "source $argv[1]; complete -C $argv[2]"
    found = answer("fish", "--no-config", "-c", code, str(scripts / "fish"), line)
    assert sorted(each.partition("\t")[0] for each in found) == sorted(COMPLETED[line])


def test_zsh_completes(scripts):
    """By keys in a terminal: completion in zsh knows no other way."""
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh, which is not installed")
    (scripts / ".zshrc").write_text(ZSH)
    environment = {**os.environ, "ZDOTDIR": str(scripts), "SCRIPTS": str(scripts), "TERM": "dumb"}
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-d", "-i"], environment)

    def seen_until(end):
        seen = ""
        while not seen.endswith(end):
            ready, _, _ = select.select([terminal], [], [], 30)
            assert ready, f"zsh says nothing more after {seen!r}"
            seen += os.read(terminal, 1).decode("latin-1")
        return seen.removesuffix(end)

    called = []
    for line in ("adacompress ta", "adacompress compress --qual", "adacompress tables fit --method se"):
        seen_until("ready>")
        os.write(terminal, f"{line}\t\n".encode())
        seen_until("called with ")
        called.append(seen_until(";").rstrip())
    os.close(terminal)
    os.waitpid(process, 0)
    assert called == ["tables", "compress --quality", "tables fit --method search"]


def test_the_command_prints_the_script(capsys):
    assert cli.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.rstrip("\n").endswith("complete -o bashdefault -F _shtab_adacompress adacompress")
    assert cli.main(["completion", "cmd"]) == 2
    assert "invalid choice: 'cmd' (choose from 'bash', 'zsh', 'fish')" in capsys.readouterr().err
