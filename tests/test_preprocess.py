"""From image bytes to what a network takes, and from its scores to labels."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import encoded, picture
from PIL import Image

from beam_adacompress.backends import preprocess
from beam_adacompress.backends.preprocess import Layout
from beam_adacompress.errors import ImageError


@pytest.mark.parametrize(
    ("scores", "logits", "expected"),
    [
        ([0.25, 0.5, 0.25], False, [("b", 0.5), ("a", 0.25), ("c", 0.25)]),
        ([0.0, 0.0, 0.0], True, [("a", 1 / 3), ("b", 1 / 3), ("c", 1 / 3)]),
        ([np.log(1), np.log(3), np.log(4)], True, [("c", 0.5), ("b", 0.375), ("a", 0.125)]),
        ([1000.0, 0.0, -1000.0], True, [("a", 1.0)]),
        ([1.0005, -0.0005, 0.0], False, [("a", 1.0)]),
    ],
)
def test_ranking(scores, logits, expected):
    got = preprocess.ranked(np.array(scores, np.float32), "abc", 3, logits)
    assert [label.name for label in got] == [name for name, _ in expected]
    assert [label.score for label in got] == pytest.approx([score for _, score in expected])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.2, 0.8], True),
        ([0.9, 0.9], True),
        ([0.0, 1.0], True),
        ([-0.1, 0.5], False),
        ([0.5, 1.1], False),
        ([np.nan, 0.5], False),
    ],
)
def test_what_counts_as_probabilities(scores, expected):
    assert preprocess.are_probabilities(np.array(scores, np.float32)) is expected


@pytest.mark.parametrize(
    ("size", "crop", "resize", "box"),
    [
        ((64, 64), 1.0, "crop", (0, 0, 64, 64)),
        ((64, 64), 0.5, "crop", (16, 16, 48, 48)),
        ((96, 64), 1.0, "crop", (16, 0, 80, 64)),
        ((64, 96), 0.5, "crop", (16, 32, 48, 64)),
        ((96, 64), 0.5, "squash", (0, 0, 96, 64)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_centre_is_cut_out_and_reduced(size, crop, resize, box, mode):
    image = picture(*size, mode)
    got = preprocess.pixels(encoded(image, "PNG"), Layout(32, 32, 3, False), crop, resize)
    expected = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR, box))
    assert got.shape == (32, 32, 3)
    np.testing.assert_allclose(got, expected, atol=1)


def test_crop_and_input_need_not_be_square():
    image = picture(120, 60)
    got = preprocess.pixels(encoded(image, "PNG"), Layout(20, 30, 3, False))
    expected = np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR, (15, 0, 105, 60)))
    np.testing.assert_allclose(got, expected, atol=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (333, 17), (29, 31), (1000, 3)])
@pytest.mark.parametrize("crop", [0.875, 1.0, 1 / 3])
def test_strange_sizes_fit(size, crop):
    data = encoded(picture(*size), "PNG")
    assert preprocess.pixels(data, Layout(7, 13, 3, False), crop).shape == (7, 13, 3)
    assert preprocess.pixels(data, Layout(7, 13, 1, False), crop).shape == (7, 13, 1)


def test_pixels_are_upright():
    image = picture(32, 32)
    turned = Image.Exif()
    turned[0x0112] = 3
    got = preprocess.pixels(encoded(image.rotate(180), "PNG", exif=turned), Layout(32, 32, 3, False))
    np.testing.assert_array_equal(got, np.asarray(image))


def test_an_image_that_does_not_fit_into_8_bits_is_refused():
    with pytest.raises(ImageError, match="8 bits a sample"):
        preprocess.pixels(encoded(Image.new("F", (8, 8), 0.5), "TIFF"), Layout(8, 8, 3, False))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa b, c \n\nd\n", ["a b, c", "", "d"]),
        ("größe\n".encode(), ["größe"]),
    ],
)
def test_label_files(data, expected):
    assert preprocess.read_names(data) == expected
