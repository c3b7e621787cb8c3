"""`adacompress report` over real runs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pages
import pytest
from conftest import manifest_rows
from scoring import REPLIES, recorded, scored
from test_report import LATE, score

from beam_adacompress import manifest, scores
from beam_adacompress.evaluation import ORACLE, POLICY, Curve, Strategy, evaluate, to_json
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.report import ReportJob
from beam_adacompress.records import DriftEstimate, Retrained
from beam_adacompress.report.gallery import GONE
from beam_adacompress.transforms import publishing
from beam_adacompress.transforms.serve_sinks import ServeFolder


def reported(*arguments: object) -> int:
    return cli.main(["report", *map(str, arguments)])


def page_of(path):
    text = path.read_text()
    pages.checked(text)
    return text


@pytest.fixture(scope="module")
def runs(compressed, tmp_path_factory):
    """A compress run `in` -> `out`, scored into `out/score`; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(compressed / "out", folder / "out")
    assert scored(folder / "out", folder / "out" / "score", recorded(folder / "replies.jsonl", REPLIES)) == 0
    return folder


@pytest.fixture
def both(runs, tmp_path):
    return shutil.copytree(runs / "out", tmp_path / "out")


def test_a_compress_run_with_its_scores(both, tmp_path, capsys):
    assert reported(both) == 0
    assert capsys.readouterr().out == f"report: {both / 'report.html'}\n"
    text = page_of(both / "report.html")
    assert "6 of 6 images compressed" in text
    assert "replay replies still sees in the result what it sees in the original on 50.0 % of them" in text
    assert "Worst disagreements" in text
    assert "cat <span" in text
    assert "fox <span" in text
    assert "no label" in text  # where the backend sees nothing any more
    assert "The backend saw nothing in 1 original." in text
    assert "refused" in text
    assert "<b>b/5.jpg</b>" in text
    assert text.count('class="flip"') == 6
    assert not [path for path in both.iterdir() if path.name.startswith(".")]


def test_what_compress_writes_is_what_the_command_writes(compressed, run):
    before = (run / "report.html").read_text()
    assert reported(run) == 0
    assert page_of(run / "report.html") == before.replace(str(compressed / "out"), str(run))


def test_scores_alone_find_the_images_of_their_run(both, tmp_path):
    score = shutil.move(both / "score", tmp_path / "elsewhere")
    record = score / "_adacompress" / "run.json"
    content = json.loads(record.read_text())
    content["options"]["input"] = str(both)
    record.write_text(json.dumps(content))
    assert reported(score, "--output", tmp_path / "page.html") == 0
    text = page_of(tmp_path / "page.html")
    assert "The backend agrees on 50.0 % of the images" in text
    assert text.count('class="flip"') == 2
    shutil.rmtree(both / "manifest")
    (both / "_adacompress" / "run.json").unlink()
    (both / "summary.json").unlink()
    assert reported(score, "--output", tmp_path / "page.html") == 0
    assert page_of(tmp_path / "page.html").count(GONE) == 2


def test_several_runs_share_a_page(runs, run, tmp_path):
    assert reported(runs / "out", run, runs / "out" / "score", "--output", tmp_path / "page.html") == 0
    text = page_of(tmp_path / "page.html")
    assert "12 of 12 images compressed" in text
    assert f"Largest savings, {runs / 'out'}" in text
    assert f"Largest savings, {run}" in text
    assert text.count("Without a score, ") == 1


def test_originals_that_moved(compressed, run, tmp_path):
    moved = shutil.copytree(compressed / "in", tmp_path / "moved")
    record = run / "_adacompress" / "run.json"
    record.write_text(record.read_text().replace(str(compressed / "in"), str(tmp_path / "gone")))
    assert reported(run) == 0
    assert page_of(run / "report.html").count(GONE) == 6
    assert reported(run, "--originals", moved) == 0
    assert page_of(run / "report.html").count('class="flip"') == 6


def test_a_run_that_was_stopped_is_shown_as_far_as_it_came(run):
    rows = manifest_rows(run)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "manifest")
    place = run / "_adacompress" / "rows"
    place.mkdir()
    first, second = list(rows.values())[:2]
    (place / "00000-a-1-1.jsonl").write_bytes(manifest.to_lines([first, second]))
    (place / "00000-a-2-2.jsonl").write_bytes(
        manifest.to_lines([first._replace(status="failed", reason="write-failed")])
    )
    assert reported(run) == 0
    text = page_of(run / "report.html")
    assert "This run is not finished: it is shown as far as it has come." in text
    assert "1 of 2 images compressed, 1 failed." in text


def test_a_part_that_is_missing_is_said(run):
    (run / "manifest" / "part-00000.parquet").unlink()
    assert reported(run) == 0
    assert "summary.json tells of 6 images, and the manifest of 0 images" in page_of(run / "report.html")


def test_a_copy_without_its_record_will_do(run):
    shutil.rmtree(run / "_adacompress")
    assert reported(run) == 0
    assert "6 of 6 images compressed" in page_of(run / "report.html")


def serve_run(folder):
    """What a job that serves leaves behind: two policies, and drift of the first."""
    serving = ServeFolder(str(folder))
    serving.record({}, {})
    first = [score(f"{n}.jpg", n % 2, time=LATE + 60 * n) for n in range(40)]
    later = [score(f"{n}.jpg", 1, time=LATE + 60 * n, version="v2") for n in range(40, 80)]
    for name, rows in (("a", first), ("b", later)):
        path = folder / "scores" / "2023-11-14" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(scores.to_parquet(rows))
    whole = DriftEstimate(
        "", LATE, LATE + 1200, 20, 20, 0.5, 0.3, 0.7, 0.2, 0.1, 0.3, 0.97, 0.7, "v1", "e", "inference", "", 0.05
    )
    kept = Retrained("published", "it agrees more", "v1", "v2", 40, 0.5, 0.9, 0.2, 0.3)
    for place, name, row in (
        ("estimates", "1", whole),
        ("estimates", "2", whole._replace(start=LATE + 1200, end=LATE + 2400, state="retrain")),
        ("retrained", "3", kept),
    ):
        path = folder / "drift" / place / "2023-11-14" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row._asdict()) + "\n")
    return folder


def test_a_job_that_serves(compressed, run, tmp_path):
    rows = manifest_rows(run)
    folder = serve_run(tmp_path / "serve")
    shutil.copytree(run / "images", folder / "images")
    for name, some in (("1", rows), ("2", {"a/0.jpg": rows["a/0.jpg"]})):  # which came twice
        path = folder / "manifest" / "2023-11-14" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(manifest.to_lines(some.values()))
    assert reported(folder, "--originals", compressed / "in") == 0
    text = page_of(folder / "report.html")
    assert "6 of 6 images compressed" in text
    assert "A job that serves: what it has written so far." in text
    assert text.count('class="flip"') == 6
    assert "level to keep, 0.97" in text
    assert ">drift</text>" in text
    assert "it agrees more" in text
    assert "v2 for v1" in text


def test_an_evaluation_with_a_run_that_its_backend_scored(both, tmp_path):
    images = 40
    agreement = (np.arange(images) % 8 > 0).astype(float)
    curve = Curve(
        "fixed",
        (20, 50),
        np.full((images, 2), [100.0, 200.0]),
        np.stack([agreement, agreement**0], 1),
        np.ones((images, 2)),
    )
    strategies = [
        Strategy("mine", POLICY, np.full(images, 120.0), agreement, agreement),
        Strategy("oracle", ORACLE, np.full(images, 90.0), agreement**0, agreement),
    ]
    found = evaluate(strategies, [curve], np.full(images, 900.0), np.full(images, 300.0), samples=20)
    version = scores.from_parquet((both / "score/scores/part-00000.parquet").read_bytes(), "x")[0].backend_version
    about = {"backends": {"theirs": {"uri": "replay:elsewhere.jsonl", "version": version}}, "input": "photographs"}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "evaluation.json").write_text(to_json({"theirs": found}, about))
    assert reported(both, tmp_path / "evaluation", "--output", tmp_path / "page.html") == 0
    text = page_of(tmp_path / "page.html")
    assert text.count("<svg") == 2  # the run stands in the evaluation's plane
    assert "this run: agreement 0.500 (" in text
    assert "oracle: agreement 1.000 (" in text
    assert "fixed 20: agreement 0.875 (" in text
    assert "of the original's bytes" in text
    assert reported(tmp_path / "evaluation") == 0
    text = page_of(tmp_path / "evaluation" / "report.html")
    assert "What choosing per image is worth" in text
    assert "of the bytes at quality 75" in text


def test_published_policies_with_the_scores_that_they_learned_from(tmp_path):
    root = tmp_path / "policies"
    version = publishing.publish_folder(str(root), "default", None)
    assert reported(root) == 0
    text = page_of(root / "report.html")
    assert f"1 policy version; {version} is in use." in text
    assert "agreement 0.97 with confidence 0.95" in text
    memory = root / "versions" / version / publishing.MEMORY
    memory.write_bytes(scores.to_parquet([score(str(n), time=LATE + 90 * n) for n in range(60)]))
    assert reported(root) == 0
    text = page_of(root / "report.html")
    assert f"The scores are those that {version} learned from" in text
    assert "time-wide" in text


def test_drift_is_looked_for_where_the_policy_is_at_hand(run, tmp_path):
    policy = "default"
    version = publishing.publish_folder(str(tmp_path / "policies"), policy, None)
    record = run / "_adacompress" / "run.json"
    content = json.loads(record.read_text())
    content["options"]["policy"] = policy
    record.write_text(json.dumps(content))
    rows = [score(str(n), int(n < 300 or n % 2), time=LATE + 30 * n, version=version) for n in range(600)]
    (run / "score" / "scores").mkdir(parents=True)
    (run / "score" / "_adacompress").mkdir()
    (run / "score" / "scores" / "part-00000.parquet").write_bytes(scores.to_parquet(rows))
    made = {"format": "adacompress.score-run", "format_version": 1, "options": {"input": str(run)}, "versions": {}}
    (run / "score" / "_adacompress" / "run.json").write_text(json.dumps(made))
    text = report_text(run)
    assert "This run is not finished, so only what is there is shown" in text
    assert "level to keep, 0.97" in text
    assert "Bands are where the drift detector asks" in text


def report_text(folder):
    assert reported(folder) == 0
    return page_of(folder / "report.html")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (None, None, "is empty, or not there: give the output of adacompress compress, score, serve or evaluate"),
        ("notes.txt", "x", "holds no run of adacompress: give the output of"),
        ("policy.json", "{}", "is one policy, and a report is about runs: see adacompress policy show"),
        ("_adacompress/run.json", "{", "run.json is damaged: "),
        ("_adacompress/run.json", "[]", "run.json is damaged: it holds no object"),
        ("_adacompress/run.json", '{"format": "x"}', "holds a run of a kind without a report (x)"),
        (
            "_adacompress/run.json",
            '{"format": "adacompress.run", "format_version": 9}',
            "has version 9, and this is adacompress for version 1: use the release that wrote it",
        ),
        ("_adacompress/run.json", '{"format": "adacompress.run", "format_version": 1}', "it has no options"),
        ("evaluation.json", '{"format": "adacompress.evaluation", "format_version": 7}', "has version 7"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, capsys, name, content, said):
    folder = tmp_path / "run"
    path = folder / (name or ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_text(content)
    assert reported(folder) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("adacompress: ")
    assert said in printed
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("summary.json", "summary.json has version 9"),
        ("manifest/part-00000.parquet", "part-00000.parquet is no readable Parquet file"),
    ],
)
def test_damaged_runs_are_refused(run, capsys, file, said):
    path = run / file
    path.write_bytes(
        path.read_bytes().replace(b'"format_version": 1', b'"format_version": 9')[: -5 * file.count("/") or None]
    )
    assert reported(run) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "a"], "is given twice"),
        (["a", "--output", "a"], "output is the file of the report, and"),
        ([], "the following arguments are required: DIR"),
        (["a", "--outptu", "b"], "unknown option --outptu: did you mean --output?"),
    ],
)
def test_wrong_usage(capsys, arguments, said):
    assert reported(*arguments) == 2
    assert said in capsys.readouterr().err


def test_originals_of_several_runs_are_refused(runs, run, capsys):
    assert reported(runs / "out", run, "--originals", "x") == 2
    assert "originals is about one run, and 2 are given" in capsys.readouterr().err


def test_from_python(run, tmp_path):
    assert ReportJob([str(run)], str(tmp_path / "new" / "page.html")).write() == str(tmp_path / "new" / "page.html")
    assert "6 of 6 images compressed" in page_of(tmp_path / "new" / "page.html")


def test_a_place_that_cannot_be_written(run, capsys):
    assert reported(run, "--output", run / "summary.json" / "page.html") == 1
    assert "page.html cannot be written: " in capsys.readouterr().err
