from __future__ import annotations

import io

import pytest
from conftest import encoded, picture
from PIL import Image, JpegImagePlugin

from beam_adacompress import jpeg
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg import tables
from beam_adacompress.jpeg.tables import FAMILIES, Family


def test_quality_50_is_the_table_of_the_standard():
    luma, chroma, _ = tables.quantisation("annexk", 50)
    assert luma[:8] == (16, 11, 10, 16, 24, 40, 51, 61)
    assert luma[-1] == 99
    assert chroma[:8] == (17, 18, 24, 47, 99, 99, 99, 99)


def test_scaling_is_clipped_to_what_baseline_decoders_read():
    assert set(tables.quantisation("annexk", 100).luma) == {1}
    assert max(tables.quantisation("annexk", 1).luma) == 255


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_standard_family_is_pillows(quality):
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded(picture(8, 8), quality=quality)))
    assert isinstance(image, Image.Image)
    luma, chroma, _ = tables.quantisation("annexk", quality)
    assert (list(luma), list(chroma)) == (image.quantization[0], image.quantization[1])


@pytest.mark.parametrize(
    ("family", "quality", "error", "message"),
    [
        ("annexk", 0, ValueError, "quality must be from 1 to 100, got 0"),
        ("annexk", 101, ValueError, "got 101"),
        ("annexk", 35.5, TypeError, "must be an integer from 1 to 100, got 35.5"),
        ("annexk", True, TypeError, "got True"),
        (
            "nonsense",
            35,
            ValueError,
            "unknown quantisation tables 'nonsense'; known: annexk, robidoux, deepn, feature-distillation, "
            "mobilenet-v1-small, mobilenet-v1, mobilenet-v2, or the path",
        ),
    ],
)
def test_refuses_what_is_no_action(family, quality, error, message):
    with pytest.raises(error, match=message):
        tables.quantisation(family, quality)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("quality", [1, 5, 35, 50, 95, 100])
def test_every_family_is_read_by_every_decoder(name, quality):
    found = tables.quantisation(name, quality)
    data = jpeg.encode(picture(64, 48), found, jpeg.Settings())
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    image.load()
    assert (tuple(image.quantization[0]), tuple(image.quantization[1])) == (found.luma, found.chroma)
    assert all(len(table) == 64 and min(table) >= 1 and max(table) <= 255 for table in (found.luma, found.chroma))


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_never_grow_with_quality(name):
    for quality in range(1, 100):
        lower, higher = tables.quantisation(name, quality), tables.quantisation(name, quality + 1)
        assert all(a >= b for side in (0, 1) for a, b in zip(lower[side], higher[side]))


@pytest.mark.parametrize(
    ("name", "corner", "last"),
    [
        ("robidoux", (16, 16, 16, 18), 255),
        ("feature-distillation", (25, 25, 25, 25), 30),
        ("deepn", (5, 6, 36, 50), 194),
    ],
)
def test_known_steps(name, corner, last):
    luma = tables.quantisation(name, 50).luma
    assert (luma[:4], luma[-1]) == (corner, last)


def test_scaling_by_hand():
    # Quality 25: s = 200. Quality 75: s = 50, and 5 * 0.5 + 0.5 is cut to 3; real steps are scaled before they are cut.
    half = Family("half", tuple([2.4] + [5] * 63), tuple([1] * 64))
    assert half.at(25).luma[:2] == (5, 10)
    assert half.at(75).luma[:2] == (1, 3)


def test_a_file_says_what_it_is_and_reads_back(tmp_path):
    family = Family("mine", tuple(range(1, 65)), tuple([2.5] * 64), {"source": "ü"})
    path = tmp_path / "mine.json"
    path.write_bytes(family.to_json())
    assert tables.family(str(path)) == family
    assert path.read_text().splitlines()[6] == "  [1, 2, 3, 4, 5, 6, 7, 8],"
    assert tables.quantisation(str(path), 50).luma == tuple(range(1, 65))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no family of quantisation tables"),
        (b"[]", "holds no family of quantisation tables"),
        (b'{"format": "adacompress.tables", "format_version": 1}', "holds no family of quantisation tables"),
        (b'{"format": "adacompress.tables", "format_version": 2}', "tables version 2, and this is adacompress for ver"),
        (b'{"format": "other", "format_version": 1}', "has tables version none"),
    ],
)
def test_what_is_no_family_is_refused(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(AdaCompressError, match=message):
        tables.quantisation(str(path), 50)


def test_a_family_that_is_gone(tmp_path):
    with pytest.raises(AdaCompressError, match=r"gone\.json cannot be read: No such file or directory"):
        tables.quantisation(str(tmp_path / "gone.json"), 50)


@pytest.mark.parametrize("steps", [(1,) * 63, (0,) * 64, (float("inf"),) * 64, ("1",) * 64])
def test_steps_that_are_none(steps):
    with pytest.raises(ValueError, match="luma must hold 64 steps above 0"):
        Family("x", steps, (1,) * 64)
