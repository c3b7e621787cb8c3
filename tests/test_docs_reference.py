"""The reference pages tell of every option, column and metric, and numbers are those of the benchmarks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import documents
import pytest
from documents import CHECKOUT, DOCS, blocks, found

import beam_adacompress
from beam_adacompress import manifest, records, scores
from beam_adacompress.pipelines import cli
from beam_adacompress.transforms import metrics

PACKAGE = Path(beam_adacompress.__file__).parent
PAGES = list(blocks.pages())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_blocks_are_as_the_code_makes_them(page):
    text = page.read_text()
    assert text == blocks.filled(text), "stale: run python docs/hooks/blocks.py"


def test_every_block_stands_somewhere():
    text = "".join(page.read_text() for page in PAGES)
    assert set(re.findall("<!-- block: (.+?) -->", text)) == set(blocks.BLOCKS)


def test_a_block_that_is_not_known_is_refused():
    with pytest.raises(KeyError, match="nothing-like-that"):
        blocks.filled("<!-- block: nothing-like-that -->\n<!-- end: nothing-like-that -->")


def test_every_command_has_its_options():
    page = (DOCS / "reference" / "options.md").read_text()
    commands = blocks.commands()
    assert {command[0] for command in commands} == set(cli.COMMANDS)
    for command in commands:
        assert f"\n## adacompress {' '.join(command)}\n" in page
    assert {("policy", "list"), ("policy", "rollback"), ("tables", "fit"), ("tables", "show")} <= set(commands)


def test_every_option_that_the_code_adds_is_listed():
    page = (DOCS / "reference" / "options.md").read_text()
    added = {name for path in PACKAGE.rglob("*.py") for name in options_in(path)}
    assert {"--quality", "--max-cost", "--false-alarms", "--to"} <= added
    added -= {name for name in added if name.replace("_", "-") != name}  # the other spelling
    assert [name for name in sorted(added - {"--version"}) if f"| `{name}` |" not in page] == []


def options_in(path):
    """The options that a module adds to a parser."""
    for node in ast.walk(ast.parse(path.read_text())):
        is_added = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("add", "add_argument", "adder(parser)")
        )
        for argument in node.args if is_added else []:
            if isinstance(argument, ast.Constant) and str(argument.value).startswith("--"):
                yield argument.value


@pytest.mark.parametrize(
    ("block", "names"),
    [
        ("manifest", manifest.FORMAT.schema.names),
        ("scores", scores.FORMAT.schema.names),
        ("score-failures", scores.FAILURES.schema.names),
        ("drift-estimates", records.DriftEstimate._fields),
        ("retrained", records.Retrained._fields),
        ("usage", records.Usage._fields),
    ],
)
def test_every_column_is_told_of(block, names):
    rows = [line.strip("| ").split(" | ") for line in blocks.BLOCKS[block]().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"`{name}`" for name in names]
    assert [row[0] for row in rows if len(row[-1]) < 3 or len(row[1]) < 3] == [], "nothing is said of these"


def test_no_metric_is_made_that_is_not_listed():
    for path in (PACKAGE / "transforms").rglob("*.py"):
        made = re.findall(r"Metrics\.(?:counter|distribution|gauge)", path.read_text())
        assert not made or path.name == "metrics.py", f"{path.name} makes a metric by itself: use metrics.counter"


def test_every_metric_that_is_counted_is_listed_for_its_stage():
    listed = {(stage, metric.name) for metric in metrics.METRICS for stage in metric.stages}
    counted = set()
    for path in (PACKAGE / "transforms").rglob("*.py"):
        text = path.read_text()
        named = dict(re.findall(r'^ *_?(STAGE) = "(\w+)"', text, re.MULTILINE))
        for stage, name in re.findall(r"metrics\.counter\((\S+), (\S+?)\)", text):
            stages = [named.get(stage.strip("_"), stage.strip('"'))]
            counted |= {(each, name.strip('"')) for each in stages if name.startswith('"')}
    assert ("EstimateDrift", "scores_in") in counted
    assert ("WatchImages", "listings_failed") in counted
    assert counted <= listed


COUNTED_BY = {
    "took": {"images_in", "bytes_in"},
    "gave": {"images_out", "bytes_out"},
    "kept": {"kept"},
    "failed": {"failed"},
    "chose": {"quality"},
    "lasted": {"milliseconds"},
    "sampled": {"sampled"},
    "used": {"calls", "retries", "cache_hits", "cost_microdollars"},
    "throttled": {"cumulativeThrottlingSeconds"},
}


def test_what_stages_count_is_what_is_listed_for_them():
    counted = set()
    for path in (PACKAGE / "transforms").rglob("*.py"):
        text = path.read_text()
        named = dict(re.findall(r'^ *(_?STAGE) = "(\w+)"', text, re.MULTILINE))
        stages = {name.strip('"') for name in re.findall(r"StageMetrics\(([^)]+)\)", text) if path.name != "metrics.py"}
        stages = {named.get(name.removeprefix("self."), name) for name in stages}
        methods = set(re.findall(r"self\._(?:metrics|calls)\.(\w+)\(", text)) if stages else set()
        counted |= {(stage, name) for stage in stages for method in methods for name in COUNTED_BY[method]}
    names = set().union(*COUNTED_BY.values())
    stages = {stage for stage, _ in counted}
    listed = {(stage, each.name) for each in metrics.METRICS for stage in each.stages if each.name in names}
    assert counted == {(stage, name) for stage, name in listed if stage in stages}


def test_a_metric_that_is_not_listed_is_refused():
    with pytest.raises(AssertionError, match="images_dropped is not in METRICS"):
        metrics.counter("ReadImages", "images_dropped")
    with pytest.raises(AssertionError, match="images_in is not in METRICS"):
        metrics.distribution("ReadImages", "images_in")


def test_the_metrics_page_has_a_row_for_each():
    page = (DOCS / "reference" / "metrics.md").read_text()
    for metric in metrics.METRICS:
        assert f"| `{metric.name}` | {metric.kind} | {metric.unit} | {metric.meaning} |" in page


def test_results_are_read_as_they_stand():
    (features, ninety_nine) = found.policies()["mobilenet_v1_0.75_192_quant", "all", "features"]
    assert str(features) == "0.74 (0.68 to 0.80)"
    assert str(ninety_nine) == "0.58 (0.47 to 0.94)"
    _, missed = found.policies()["mobilenet_v2_1.0_224_quant", "bsds500", "features"]
    assert str(missed) == "0.95 (0.64 to 1.20), **missed** 0.70"
    assert "| MobileNet v2, 224 pixels | 0.97 | 36 of 40 | 0.983 | 0.953 | 0.44 |" in found.promise()
    assert "| MobileNet v2, 224 pixels | 848 | 0.899 | 0.40 | 0.484 | 1.23 (1.15 to 1.32) |" in found.published_agent()
    assert "| ImageNet, 100 | plain | 0.059 | 0.646 |" in found.choosing()


def test_every_network_and_set_is_there():
    assert found.single_sets().count("\n") == 1 + 9
    assert found.elsewhere().count("\n") == 1 + 9
    assert found.tables_alone().count("\n") == 1 + 9
    assert found.verified().count("\n") == 1 + 6
    assert found.loop().count("\n") == 1 + 18
    assert found.equal_rates().count("\n") == 1 + 7


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("3.5 MB in 6.5 s", "3.6 MB in 12.1 s", True),
        ("23.5 kB saved", "24 kB saved", True),
        ("report: .../x.html", "noise\nreport: /a/b/x.html\n", True),
        ("a    1\nb", "a 2\nb", True),
        ("400 of 400 images", "400 of 400 pictures", False),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
    ],
)
def test_output_is_compared_apart_from_its_numbers(expected, printed, same):
    assert documents.like(expected, printed) == same


def test_commands_of_a_block():
    block = "pip install x && adacompress demo\n# a comment\nadacompress compress --input a \\\n    --output b\n"
    block += "echo '{\n}'\n"
    assert documents.commands(block) == [
        "pip install x",
        "adacompress demo",
        "adacompress compress --input a     --output b",
        "echo '{\n}'",
    ]
