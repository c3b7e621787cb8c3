"""The options of all commands: equal names mean equal things, and help says values, units and defaults."""

from __future__ import annotations

import argparse
import collections

import pytest

from beam_adacompress.pipelines import cli

LINES = {line.prog: line for name in cli.COMMANDS for line in cli.of_command(name)[1].values()}

# What a value is, or is counted in.
NUMBERS = {
    int: {"BANDS", "BYTES", "CALLS", "COPIES", "IMAGES", "K", "LABELS", "NUMBER", "PIXELS", "PORT", "QUALITY"}
    | {"ROUNDS", "SAMPLES", "SCORES", "STEP", "STEPS"},
    float: {"CALLS", "NUMBER", "SECONDS", "SHARE", "USD"},
}
TEXTS = {
    "BACKEND",
    "FILE",
    "FOLDER",
    "NAME",
    "NAMES",
    "NETWORK",
    "NUMBERS",
    "PATH",
    "T1,T2",
    "TEXT",
    "TOPIC",
    "VERSION",
}

# Whose help, or default, is another in another command, and why.
DIFFER = {
    "--input": "serve watches it",
    "--output": "the folder of a demo may be a new one",
    "--quality": "tables show needs one",
    "--seed": "of whatever is drawn there",
    "--tables": "train takes several, a policy's to choose from",
    "--logs": "train shows learning, the others drift",
    "--score-with": "serve looks for drift by it",
    "--no-optimize": "train measures what the encoder does that the policy is for",
    "--no-progressive": "as --no-optimize",
    "--no-align": "as --no-optimize",
}


def options_of(line):
    """The options, by the name that we write them with, without those of every command."""
    actions = [action for action in line.parser()._actions if action.default != argparse.SUPPRESS]
    return {action.option_strings[0]: action for action in actions if action.option_strings}


ALL = [(prog, name, action) for prog, line in LINES.items() for name, action in options_of(line).items()]


def test_there_are_options_of_all_commands():
    without = [name for name in cli.COMMANDS if not cli.of_command(name)[1]]
    assert without == [], "their modules need LINES, as the others have them: --config and completion go by it"
    assert len(LINES) >= 15
    assert len(ALL) > 150


@pytest.mark.parametrize(("prog", "name", "action"), ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_an_option_says_what_it_takes(prog, name, action):
    assert name == name.lower().replace("_", "-")
    assert action.help, f"{prog} {name} has no help"
    takes_number = action.nargs != 0 and action.choices is None and action.type is not None
    takes_text = action.nargs != 0 and action.choices is None and action.type is None
    assert not takes_number or action.metavar in NUMBERS[action.type], f"{prog} {name} has no unit"
    assert not takes_text or action.metavar in TEXTS, f"{prog} {name} does not say what it takes"


@pytest.mark.parametrize(("prog", "name", "action"), ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_an_option_says_what_happens_without_it(prog, name, action):
    required = {*LINES[prog].required, "--port"}
    left_open = action.default is None and name not in required
    assert not left_open or "(not given: " in action.help, f"{prog} {name}"


def test_equal_names_mean_equal_things():
    by_name = collections.defaultdict(dict)
    for prog, name, action in ALL:
        kind = (action.type, action.choices and tuple(action.choices), action.nargs)
        meaning = (kind, action.metavar, action.default, action.help)
        by_name[name][prog] = meaning[:1] if name in DIFFER else meaning
    assert {name: its for name, its in by_name.items() if len(set(its.values())) > 1} == {}


def test_what_differs_does():
    by_name = collections.defaultdict(set)
    for _, name, action in ALL:
        by_name[name].add((action.metavar, action.default, action.help))
    assert [name for name in DIFFER if len(by_name[name]) == 1] == []


@pytest.mark.parametrize("prog", LINES)
def test_help_shows_each_option_once_with_its_default(prog):
    text = LINES[prog].parser().format_help()
    for nothing in ("(default: None)", "(default: False)", "(default: True)", "(default: )"):
        assert nothing not in text
    assert "--min_saving" not in text
    assert text.count("  --json  ") == 1
    assert "  130  interrupted; the same command goes on where it stopped\n" in text


def test_a_default_is_shown():
    text = " ".join(LINES["adacompress compress"].parser().format_help().split())
    assert "--min-saving SHARE share of the bytes that must be saved, else the original is kept (default: 0.05)" in text
    assert "--timeout SECONDS after which a call is given up (default: 30.0)" in text
    assert "--flatten compress alpha" in text
