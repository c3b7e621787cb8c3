from __future__ import annotations

import pytest
from conftest import encoded, picture
from PIL import Image, JpegImagePlugin

from beam_adacompress.jpeg import tables


def test_quality_50_is_the_table_of_the_standard():
    luma, chroma = tables.quantisation("annexk", 50)
    assert luma[:8] == (16, 11, 10, 16, 24, 40, 51, 61)
    assert luma[-1] == 99
    assert chroma[:8] == (17, 18, 24, 47, 99, 99, 99, 99)


def test_scaling_is_clipped_to_what_baseline_decoders_read():
    assert set(tables.quantisation("annexk", 100).luma) == {1}
    assert max(tables.quantisation("annexk", 1).luma) == 255


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_standard_family_is_pillows(quality):
    image = JpegImagePlugin.JpegImageFile(__import__("io").BytesIO(encoded(picture(8, 8), quality=quality)))
    assert isinstance(image, Image.Image)
    luma, chroma = tables.quantisation("annexk", quality)
    assert (list(luma), list(chroma)) == (image.quantization[0], image.quantization[1])


@pytest.mark.parametrize(
    ("family", "quality", "error", "message"),
    [
        ("annexk", 0, ValueError, "quality must be from 1 to 100, got 0"),
        ("annexk", 101, ValueError, "got 101"),
        ("annexk", 35.5, TypeError, "must be an integer from 1 to 100, got 35.5"),
        ("annexk", True, TypeError, "got True"),
        ("nonsense", 35, ValueError, "unknown quantisation tables 'nonsense'; known: annexk"),
    ],
)
def test_refuses_what_is_no_action(family, quality, error, message):
    with pytest.raises(error, match=message):
        tables.quantisation(family, quality)
