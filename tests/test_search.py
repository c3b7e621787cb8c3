from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from backends import Texture
from conftest import IN_PROCESS, encoded, picture

from beam_adacompress import jpeg
from beam_adacompress.backends import registry
from beam_adacompress.jpeg import tables
from beam_adacompress.jpeg.search import KNOTS, RANGES, Curve, Told, levelled, mean_bytes, proposals, shaped
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.search_job import Search

MIDDLE = {name: (low + high) / 2 for name, (low, high) in RANGES.items()}


def test_a_shape_is_what_its_parameters_say():
    luma, chroma = shaped({**dict.fromkeys(RANGES, 0.0), "luma_0": -1.0, "luma_9.9": 2.0, "chroma_level": 1.0})
    assert luma[[0, 1, 8, 9]] == pytest.approx([np.exp(-1), 1, 1, 1])
    assert luma[63] == pytest.approx(np.exp(2 * (np.hypot(7, 7) - KNOTS[-2]) / (KNOTS[-1] - KNOTS[-2])))
    assert chroma == pytest.approx(np.full(64, np.e))


@pytest.mark.parametrize("share", [0.9, 1.0, 1.5])
def test_shapes_are_brought_to_one_size(share):
    pixels = [picture(320, 240, seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(2) as threads:
        standard = mean_bytes(tables.family("annexk").at(20), pixels, jpeg.Settings(), threads)
        made = levelled(MIDDLE, "mine", 20, share * standard, pixels, jpeg.Settings(), threads)
        assert mean_bytes(made.at(20), pixels, jpeg.Settings(), threads) == pytest.approx(share * standard, rel=0.03)
    assert made.name == "mine"


def test_a_size_that_cannot_be_had_ends_near_it():
    pixels = [picture(32, 32)]
    with ThreadPoolExecutor(1) as threads:
        smallest = levelled(MIDDLE, "mine", 20, 1.0, pixels, jpeg.Settings(), threads)
    assert set(smallest.at(20).luma) == {255}


def test_the_first_proposals_are_sorted_random():
    first = proposals([], 12, seed=3)
    assert len({json.dumps(each) for each in first}) == 12
    for each in first:
        assert set(each) == set(RANGES)
        assert all(low <= each[name] <= high for name, (low, high) in RANGES.items())
        free = [each[f"luma_{knot:g}"] for knot in KNOTS[2:]]
        assert free == sorted(free)


def closeness(parameters):
    return -sum((parameters[name] - MIDDLE[name]) ** 2 for name in ("luma_2", "luma_3.5", "chroma_level"))


def test_later_proposals_resemble_the_better_ones():
    told = []
    for _ in range(8):
        told += [Told(each, closeness(each)) for each in proposals(told, 12, seed=0)]
    values = [each.value for each in told]
    assert np.median(values[-24:]) > np.median(values[:24]) + 0.5
    assert max(values[24:]) > max(values[:24])


def test_proposals_depend_on_what_is_known_and_the_seed_alone():
    told = [Told(each, closeness(each)) for each in proposals([], 30, seed=0)]
    assert proposals(told, 4, seed=0) == proposals(told, 4, seed=0)
    assert proposals(told, 4, seed=0) != proposals(told, 4, seed=1)
    assert proposals(told, 4, seed=0) != proposals(told[:-1], 4, seed=0)


def test_a_value_is_a_gain_at_the_same_bytes_on_the_same_images():
    curve = Curve(sizes=np.array([[100.0, 1.0], [400.0, 1.0]]), fidelity=np.array([[0.5, 0.0], [0.7, 0.0]]))
    assert curve.value(np.array([200.0]), np.array([0.65]), [0]) == pytest.approx(0.05)


@pytest.fixture
def texture(monkeypatch, tmp_path):
    """A backend `texture`, and the file that knows what it was asked."""
    monkeypatch.setitem(registry.BACKENDS, "texture", f"{Texture.__module__}:Texture")
    return tmp_path / "asked"


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(14):
        (folder / f"{seed:02d}.jpg").write_bytes(encoded(picture(64, 48, seed=seed)))
    return folder


def searched(photographs, output, asked, *options):
    arguments = ["--input", str(photographs), "--output", str(output), f"--backend=texture?path={asked}"]
    return cli.main(["tables", "fit", "--method=search", *arguments, "--rounds=1", *IN_PROCESS, *options])


def calls(asked):
    return len(asked.read_text().splitlines())


def test_the_command_searches_and_says_what_the_result_is_worth(photographs, texture, tmp_path, capsys):
    assert searched(photographs, tmp_path / "mine.json", texture) == 0
    made = tables.family(str(tmp_path / "mine.json"))
    assert made.origin["images"] == 10
    assert made.origin["validation"]["images"] == 4
    assert set(made.origin["parameters"]) == set(RANGES)
    assert made.origin["calls"] == calls(texture) <= Search("texture", images=14, rounds=1).calls
    said = capsys.readouterr()
    assert "round 1 of 1" in said.err
    assert "mine: fitted to 10 images" in said.out
    assert "on 4 images that the search did not see, at an agreement of" in said.out

    seen = steps_of(tmp_path / "mine.search")
    assert set(seen) == {"standard", "round-000", "round-000-all", "final-1", "worth-1"}
    mine, others = (set(_keys(seen[name])) for name in ("standard", "worth-1"))
    assert (len(mine), len(others)) == (10, 4)
    assert not mine & others
    assert set(_keys(seen["final-1"])) == mine

    (tmp_path / "mine.json").unlink()
    assert searched(photographs, tmp_path / "mine.json", texture, "--search-agreement=0.9") == 1
    assert "agreement was 0.97, now 0.9" in capsys.readouterr().err


def steps_of(folder):
    """Files by step; a digest of what was asked stands behind the name."""
    return {step.stem.rpartition("-")[0]: step for step in (folder / "steps").glob("*.parquet")}


def _keys(path):
    import pyarrow.parquet as pq

    return pq.read_table(path)["key"].to_pylist()


def test_a_search_goes_on_where_it_stopped(photographs, texture, tmp_path):
    assert searched(photographs, tmp_path / "whole.json", texture) == 0
    steps = tmp_path / "whole.search" / "steps"
    for name in ("round-000-all", "final-1", "worth-1"):
        steps_of(steps.parent)[name].unlink()
    before = calls(texture)
    whole = (tmp_path / "whole.json").read_bytes()
    (tmp_path / "whole.json").unlink()
    assert searched(photographs, tmp_path / "whole.json", texture) == 0
    assert (tmp_path / "whole.json").read_bytes() == whole.replace(
        f'"calls": {before}'.encode(), f'"calls": {_calls(steps)}'.encode()
    )
    assert calls(texture) == before, "every answer was in the cache"


def _calls(steps):
    import pyarrow.parquet as pq

    return sum(sum(pq.read_table(step)["calls"].to_pylist()) for step in steps.glob("*.parquet"))


def test_steps_of_other_tables_or_images_are_asked_again(photographs, texture, tmp_path, monkeypatch):
    output = photographs / "mine.json"  # what a search leaves in its own input is no image of it
    assert searched(photographs, output, texture) == 0
    before = calls(texture)
    output.unlink()
    (photographs / "new.jpg").write_bytes(encoded(picture(64, 48, seed=99)))
    assert searched(photographs, output, texture) == 0
    assert before < calls(texture)
    assert {"new.jpg"} <= {key for step in (photographs / "mine.search" / "steps").glob("*") for key in _all_keys(step)}
    assert tables.family(str(output)).origin["images"] + 5 == 15


def _all_keys(path):
    return _keys(path) if path.suffix == ".parquet" else []


def test_more_rounds_go_on_from_what_is_known(photographs, texture, tmp_path, capsys):
    assert searched(photographs, tmp_path / "mine.json", texture) == 0
    before = steps_of(tmp_path / "mine.search")
    assert searched(photographs, tmp_path / "mine.json", texture, "--rounds=2", "--overwrite") == 0
    after = steps_of(tmp_path / "mine.search")
    assert {name: after[name] for name in before} == before
    assert {"round-001", "final-2", "worth-2"} <= set(after)
    assert searched(photographs, tmp_path / "mine.json", texture, "--overwrite", "--retries=-1") == 2
    assert steps_of(tmp_path / "mine.search") == after


def test_without_optuna_nothing_is_asked(photographs, texture, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert searched(photographs, tmp_path / "mine.json", texture, "--rounds=3") == 1
    assert "searching tables needs optuna: pip install 'beam-adacompress[train]'" in capsys.readouterr().err
    assert not texture.exists()


def test_a_budget_that_cannot_do_is_refused_before_anything_is_asked(photographs, texture, tmp_path, capsys):
    assert searched(photographs, tmp_path / "mine.json", texture, "--search-images=14", "--max-calls=100") == 2
    said = capsys.readouterr().err
    assert "1 rounds over 14 images take up to 376 calls, and max_calls and max_cost allow 100" in said
    assert not texture.exists()
    assert searched(photographs, tmp_path / "mine.json", texture, "--search-images=14", "--max-cost=0.1") == 2
    assert "max_cost allow 100: allow more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method=search"], "method search needs a backend to ask: give --backend"),
        (["--method=search", "--backend=baidu", "--rounds=0"], "rounds must be at least 1, got 0"),
        (["--method=search", "--backend=baidu", "--search-images=5"], "search_images must be at least 12, got 5"),
        (["--method=search", "--backend=baidu", "--search-agreement=2"], "agreement must be above 0 and at most 1"),
        (["--method=search", "--backend=baidu", "--per-class=2"], "per_class is of the other methods"),
        (["--method=search", "--backend=replay:x"], "replay knows images by their JPEG quality"),
        (["--method=search", "--backend=baidu", "--retries=-1"], "retries must be at least 0, got -1"),
        (["--method=search", "--backend=baidu", "--top=0"], "top must be at least 1, got 0"),
        (["--backend=baidu"], "backend is about searching: give method search too"),
        (
            ["--method=search", "--backend=baidu", "--runner=DataflowRunner"],
            "workers do not reach /x.json: give --output",
        ),
        (["--method=search", "--backend=baidu", "--backend=facepp"], "asks one backend, and 2 are given"),
    ],
)
def test_wrong_usage(options, message, capsys):
    assert cli.main(["tables", "fit", "--input=/in", "--output=/x.json", *IN_PROCESS, *options]) == 2
    assert message in capsys.readouterr().err


def test_too_few_images(corpus, texture, tmp_path, capsys):
    assert searched(corpus, tmp_path / "mine.json", texture) == 1
    assert "holds 6 images: a search needs at least 12" in capsys.readouterr().err
