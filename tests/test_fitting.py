"""Band statistics, DeepN-JPEG, Feature Distillation, and the command that fits tables."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import scipy.fft
from conftest import IN_PROCESS, decoded, encoded, manifest_rows, picture
from PIL import Image, JpegImagePlugin

from beam_adacompress import jpeg
from beam_adacompress.jpeg import bands, native, tables
from beam_adacompress.jpeg.bands import BandStats
from beam_adacompress.jpeg.fitting import (
    ZIGZAG_ORDER,
    DeepN,
    FeatureDistillation,
    distil,
    fit_deepn,
    fit_feature_distillation,
)
from beam_adacompress.pipelines import cli


def test_the_basis_is_scipys_dct():
    block = np.random.default_rng(0).normal(size=(8, 8))
    assert (bands.basis() @ block.ravel()).reshape(8, 8) == pytest.approx(scipy.fft.dctn(block, norm="ortho"))
    assert bands.basis() @ bands.basis().T == pytest.approx(np.eye(64))


@pytest.mark.parametrize("size", [(8, 8), (24, 16), (13, 9), (1, 1)])
def test_blocks_and_back(size):
    plane = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    cut = bands.blocks(plane)
    assert cut.shape == (-(-size[0] // 8), -(-size[1] // 8), 64)
    assert (bands.unblocked(cut, *size) == plane).all()
    assert cut[0, 0, 0] == plane[0, 0]


def test_coefficients_are_those_that_an_encoder_quantises():
    pixels = picture(64, 48)
    found = bands.coefficients(pixels)
    ones = tables.Quantisation((1,) * 64, (1,) * 64)
    finest = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.encode(pixels, ones, jpeg.Settings())))
    finest.draft("YCbCr", None)
    luma = (bands.blocks(np.asarray(finest)[:, :, 0]).reshape(-1, 64) - 128) @ bands.basis().T
    assert [len(values) for values in found] == [48, 12, 12]
    assert np.abs(found[0] - luma).max() < 3  # pixels are rounded once more


def test_deviations_by_hand():
    # Flat blocks at 128 + 8 k: a DC of 64 k, nothing else.
    stats = BandStats()
    for level in (112, 144):
        stats.add(Image.new("L", (8, 8), level))
    deviations = stats.deviations()
    assert deviations[0, 0] == pytest.approx(128.0)
    assert np.abs(deviations[0, 1:]).max() < 1e-6
    assert (stats.images, stats.count.tolist()) == (2, [2, 0, 0])


def test_merging_is_adding():
    one, two, both = BandStats(), BandStats(), BandStats()
    for index, part in enumerate((one, two)):
        part.add(picture(40, 24, seed=index))
        both.add(picture(40, 24, seed=index))
    one.merge(two)
    assert one.deviations() == pytest.approx(both.deviations())
    assert one.images == 2


def test_the_published_map_by_hand():
    deviations = np.zeros(64)
    deviations[:9] = [500, 79, 78, 61, 60, 30, 20, 10, 1]
    # 240 - 3 d above 60; 80 - d above 20; 255 - 9.75 d below; at least 5.
    assert DeepN().steps(deviations)[:10] == (5, 5, 6, 57, 20, 50, 60, 158, 245, 255)
    assert DeepN(monotone=True).steps(deviations)[:10] == (5, 5, 6, 20, 20, 50, 60, 158, 245, 255)


def test_thresholds_from_the_ranking():
    deviations = np.arange(64, 0, -1).astype(float)  # the first six bands are the most important
    found = DeepN(thresholds=None, a=200, k1=0, b=100, k2=0, c=10, k3=0).steps(deviations)
    assert found == (10,) * 6 + (100,) * 22 + (200,) * 36


def test_constants_are_parameters():
    assert DeepN(smallest=9).steps(np.full(64, 500.0)) == (9,) * 64
    assert DeepN(a=100, k1=1).steps(np.full(64, 10.0)) == (90,) * 64
    with pytest.raises(ValueError, match="thresholds must be two numbers in ascending order"):
        DeepN(thresholds=(60, 20))


def test_a_family_tells_how_it_was_fitted():
    stats = BandStats()
    stats.add(picture(64, 64))
    family = fit_deepn(stats, "mine")
    assert family.at(50).luma == family.luma == DeepN().steps(stats.deviations()[0])
    assert family.origin["parameters"]["k1"] == 9.75
    assert family.origin["images"] == 1
    assert tables.from_json(family.to_json(), "x").luma == family.luma


def test_images_without_colour_leave_one_table_for_all():
    stats = BandStats()
    stats.add(picture(64, 64, "L"))
    family = fit_deepn(stats, "gray")
    assert family.chroma == family.luma


def test_the_published_defence():
    steps = FeatureDistillation().steps()
    assert steps[:8] == (25, 25, 25, 25, 30, 30, 30, 30)
    assert (steps.count(25), steps.count(30)) == (16, 48)
    assert tables.quantisation("feature-distillation", 50).luma == steps


def test_other_bands_can_be_spared():
    assert ZIGZAG_ORDER[:10] == (0, 1, 8, 16, 9, 2, 3, 10, 17, 24)
    first = FeatureDistillation(41, 1, "zigzag", 15).steps()
    assert [band for band, step in enumerate(first) if step == 1] == sorted(ZIGZAG_ORDER[:15])
    stats = BandStats()
    stats.add(picture(64, 64))
    spared = fit_feature_distillation(stats, "x", FeatureDistillation(30, 10, "deviation", 3)).luma
    assert {band for band, step in enumerate(spared) if step == 10} == set(np.argsort(-stats.deviations()[0])[:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0}, "step must be from 1 to 255, got 0"),
        ({"spared": "round"}, "spared must be one of square, zigzag, deviation, got 'round'"),
        ({"bands": 15}, "bands must be from 0 to 64, and a square number for a square, got 15"),
    ],
)
def test_no_defence(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureDistillation(**arguments)


def test_small_perturbations_vanish():
    # Coefficients at the middle of their bins; anything below half a step goes.
    steps = FeatureDistillation().steps()
    random = np.random.default_rng(1)
    clean = np.rint(random.normal(0, 2, (4, 4, 64)) * (random.random((4, 4, 64)) < 0.1)) * np.array(steps)
    plane = bands.unblocked(clean @ bands.basis() + 128, 32, 32)
    noise = bands.unblocked(random.uniform(-0.4, 0.4, (4, 4, 64)) * np.array(steps) @ bands.basis(), 32, 32)
    images = [Image.fromarray(np.rint(np.clip(p, 0, 255)).astype(np.uint8)) for p in (plane, plane + 0.5 * noise)]
    cleaned, attacked = (np.asarray(distil(image, steps)).astype(int) for image in images)
    assert np.abs(np.asarray(images[0]).astype(int) - np.asarray(images[1])).max() > 10
    assert np.abs(cleaned - attacked).max() <= 1


@pytest.mark.parametrize(("size", "mode"), [((33, 17), "RGB"), ((8, 8), "L"), ((5, 3), "RGB")])
def test_the_defence_keeps_size_and_mode_and_does_nothing_twice(size, mode):
    steps = FeatureDistillation().steps()
    once = distil(picture(*size, mode), steps)
    assert (once.size, once.mode) == (size, mode)
    again = np.asarray(distil(once, steps)).astype(int)
    assert np.abs(again - np.asarray(once)).mean() < 3


def fitted(source, output, *options):
    return cli.main(["tables", "fit", "--input", str(source), "--output", str(output), *IN_PROCESS, *options])


def test_the_command_fits_what_the_functions_fit(corpus, tmp_path, capsys, monkeypatch):
    (corpus / "a" / "torn.jpg").write_bytes(encoded(picture())[:900])
    monkeypatch.setattr(native, "_native", None)  # by pixels; bands of coefficients have a test of their own
    assert fitted(corpus, tmp_path / "mine.json") == 0
    stats = BandStats()
    for path in sorted(corpus.rglob("[0-9].jpg")):
        stats.add(decoded(path.read_bytes()))
    family = tables.family(str(tmp_path / "mine.json"))
    assert (family.name, family.luma, family.chroma) == ("mine", *(fit_deepn(stats, "x").at(50)[:2]))
    assert family.origin["images"] == 6
    assert "mine: fitted to 6 images" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_classes_count_alike(corpus, tmp_path):
    for index in range(10, 20):
        (corpus / "a" / f"{index}.jpg").write_bytes(encoded(picture(seed=index)))
    assert fitted(corpus, tmp_path / "two.json", "--per-class=2") == 0
    assert tables.family(str(tmp_path / "two.json")).origin["images"] == 4
    assert fitted(corpus, tmp_path / "again.json", "--per-class=2") == 0
    assert tables.family(str(tmp_path / "again.json")).luma == tables.family(str(tmp_path / "two.json")).luma


def test_the_methods_parameters_are_options(corpus, tmp_path):
    options = ["--method=feature-distillation", "--defensive-step=40", "--spared=zigzag", "--spared-bands=15"]
    assert fitted(corpus, tmp_path / "fd.json", *options) == 0
    assert tables.family(str(tmp_path / "fd.json")).luma.count(40) == 49
    assert fitted(corpus, tmp_path / "ranked.json", "--deepn-thresholds=ranking", "--deepn_k3=1") == 0
    parameters = json.loads((tmp_path / "ranked.json").read_text())["origin"]["parameters"]
    assert (parameters["thresholds"], parameters["k3"], parameters["k1"]) == (None, 1.0, 9.75)


def test_fitted_tables_compress(corpus, compress, tmp_path):
    assert fitted(corpus, tmp_path / "mine.json") == 0
    assert compress(corpus, tmp_path / "out", "--tables", str(tmp_path / "mine.json"), "--quality", "40") == 0
    row = manifest_rows(tmp_path / "out")["a/0.jpg"]
    assert (row.status, row.tables, row.policy_version) == ("compressed", str(tmp_path / "mine.json"), "fixed-mine-40")
    written = decoded((tmp_path / "out" / "images" / "a" / "0.jpg").read_bytes())
    assert tuple(written.quantization[0]) == tables.family(str(tmp_path / "mine.json")).at(40).luma


def test_show(capsys):
    assert cli.main(["tables", "show", "robidoux", "--quality", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["16", "16", "16", "18", "25", "37", "56", "85"] * 2
    assert lines[8].split()[:8] == ["85", "75", "135", "156", "189", "238", "255", "255"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["fit", "--output=x.json"], 2, "--input is missing; see adacompress tables fit --help"),
        (["fit", "--input=/in", "--output=/x.txt"], 2, "the output /x.txt must end in .json"),
        (["fit", "--input=/in", "--output=/x.json", "--deepn-thresholds=1"], 2, "must be ranking or two numbers like"),
        (["fit", "--input=/in", "--output=/x.json", "--per-class=0"], 2, "per_class must be at least 1, got 0"),
        (["fit", "--input=/nowhere", "--output=/tmp/x.json"], 1, "the input /nowhere does not exist"),
        (["show", "nonsense"], 2, "unknown quantisation tables 'nonsense'; known: annexk"),
        (["show", "/nowhere.json"], 1, "the tables /nowhere.json cannot be read: No such file or directory"),
        (["draw"], 2, "unknown 'draw'; adacompress tables knows fit, show"),
    ],
)
def test_wrong_usage(arguments, status, message, capsys):
    options = IN_PROCESS if arguments[0] == "fit" else []
    assert cli.main(["tables", *arguments, *options]) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_another_family_is_not_written_over(corpus, tmp_path, capsys):
    (tmp_path / "mine.json").write_text("precious")
    assert fitted(corpus, tmp_path / "mine.json") == 1
    assert "is there already: choose another --output, or --overwrite it" in capsys.readouterr().err
    assert fitted(corpus, tmp_path / "mine.json", "--overwrite") == 0
