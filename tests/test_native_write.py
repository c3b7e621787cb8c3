"""The native core's files: whatever their coding, libjpeg has to read the same coefficients out of them."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
from conftest import decoded, encoded, picture
from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.jpeg import native

pytestmark = pytest.mark.skipif(
    not native.is_installed(), reason="the native core was not built: no C compiler, or no libjpeg-turbo headers"
)

CODINGS = {
    "plain": {"optimize": False, "progressive": False},
    "optimised": {"optimize": True, "progressive": False},
    "progressive": {"optimize": True, "progressive": True},
}
FINE = (1,) * 64


def random_picture(width, height, mode="RGB", deviation=60.0):
    random = np.random.default_rng(0)
    levels = random.laplace(128, deviation, (height, width, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels).convert(mode)


def coded(data):
    found = native.open_coded(data)
    assert found is not None
    return found


def written(source, tables, **settings):
    shown = jpeg.open_picture(jpeg.open_image(source))
    assert shown.engine == "native"
    return shown.encode(tables, jpeg.Settings(min_saving=0.0, **settings))


def coefficients(data):
    found = coded(data)
    return [found.plane(component).copy() for component in range(found.components)]


def segments(data, marker):
    """The contents of the marker segments of a kind, up to the first scan and between scans."""
    found, at = [], 2
    while data[at + 1] != 0xD9:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == marker:
            found.append(data[at + 4 : at + 2 + size])
        at += 2 + size
        while data[at] != 0xFF or data[at + 1] == 0:  # a scan's data
            at += 1
    return found


def codes(data):
    """The Huffman codes of a file: (class and slot, how many of each length, symbols), in their order."""
    found = []
    for content in segments(data, 0xC4):
        at = 0
        while at < len(content):
            count = sum(content[at + 1 : at + 17])
            found.append((content[at], list(content[at + 1 : at + 17]), content[at + 17 : at + 17 + count]))
            at += 17 + count
    return found


PICTURES = {
    "picture": picture(200, 168, seed=2),
    "noise": random_picture(100, 77),
    "odd": picture(37, 21, seed=1),
    "one pixel": picture(1, 1),
    "one row": picture(130, 3),
    "gray": picture(67, 90, "L"),
    "gray noise": random_picture(80, 95, "L"),
}


@pytest.mark.parametrize("quality", [1, 8, 35, 90, 100])
@pytest.mark.parametrize("name", PICTURES)
def test_every_coding_holds_the_same_coefficients(name, quality):
    source = encoded(PICTURES[name], quality=97, subsampling="4:4:4")
    tables = jpeg.quantisation("annexk", quality)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        files = [written(source, tables, subsampling=subsampling, **coding) for coding in CODINGS.values()]
        first = coefficients(files[0])
        for data in files[1:]:
            for one, other in zip(first, coefficients(data), strict=True):
                assert np.array_equal(one, other)
        pixels = [np.asarray(decoded(data)) for data in files]
        assert all(np.array_equal(pixels[0], each) for each in pixels[1:])
        assert [bool(Image.open(io.BytesIO(data)).info.get("progressive")) for data in files] == [False, False, True]


@pytest.mark.parametrize("name", ["picture", "noise", "gray noise"])
@pytest.mark.parametrize("quality", [8, 35, 90])
def test_no_file_is_larger_than_pillow_s_of_the_same_coefficients(name, quality):
    tables = jpeg.quantisation("annexk", quality)
    steps = [list(each) for each in (tables.luma, tables.chroma)][: len(PICTURES[name].getbands())]
    for coding in CODINGS.values():
        buffer = io.BytesIO()
        PICTURES[name].save(buffer, "JPEG", qtables=steps, **coding)
        ours = written(buffer.getvalue(), tables, **coding)
        for one, other in zip(coefficients(buffer.getvalue()), coefficients(ours), strict=True):
            assert np.array_equal(one, other)
        assert len(ours) < len(buffer.getvalue())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_files_have_the_codes_of_the_standard(mode):
    image = picture(mode=mode)
    ours = written(encoded(image), jpeg.quantisation("annexk", 35), **CODINGS["plain"])
    assert codes(ours) == codes(encoded(image))


def test_scans_are_as_many_as_pay():
    # Of a scan: how many components, which, then the coefficients, and the bits that are left out.
    few = segments(written(encoded(picture()), jpeg.quantisation("annexk", 20)), 0xDA)
    assert [(each[0], *each[-3:]) for each in few] == [(1, 0, 0, 0), (2, 0, 0, 0), *[(1, 1, 63, 0)] * 3]
    noise = random_picture(240, 240, "L")
    many = segments(written(encoded(noise, quality=95), jpeg.quantisation("annexk", 95)), 0xDA)
    assert [tuple(each[-3:]) for each in many] == [(0, 0, 0), (1, 8, 1), (9, 63, 1), (1, 63, 0x10)]


def toned(blue, red):
    """Noise in the two chrominances, of two deviations."""
    random = np.random.default_rng(0)
    levels = np.stack([random.normal(128, each, (320, 320)) for each in (10, blue, red)], -1)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB")


def test_chrominances_that_are_alike_share_their_codes():
    alike, unlike = (
        written(encoded(each, quality=95, subsampling=0), jpeg.quantisation("annexk", 35))
        for each in (toned(25, 25), toned(60, 15))
    )
    assert [len(segments(each, 0xDA)) for each in (alike, unlike)] == [5, 5]
    assert [len(codes(each)) for each in (alike, unlike)] == [4, 5]  # of DC twice, of luminance, and of chrominance
    assert [(each[0], each[1]) for each in segments(alike, 0xDA)[-2:]] == [(1, 2), (1, 3)]


def test_few_coefficients_take_fewer_bytes_than_in_pillow_s_scans():
    source = encoded(picture(160, 128, seed=3))
    ours = jpeg.compress(source, "annexk", 8, "fixed-8", jpeg.Settings(engine="native", min_saving=0.0)).data
    theirs = jpeg.compress(source, "annexk", 8, "fixed-8", jpeg.Settings(engine="pillow", min_saving=0.0)).data
    assert len(ours) < 0.97 * len(theirs)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_of_pixels_the_core_makes_the_scans_and_nothing_else(mode):
    image = picture(161, 127, mode, seed=3)
    source = encoded(image, "PNG", dpi=(300, 300))
    settings = jpeg.Settings(min_saving=0.0, keep_metadata="all")
    ours, theirs = (
        jpeg.compress(source, "annexk", 15, "fixed-15", dataclasses.replace(settings, engine=engine))
        for engine in ("auto", "pillow")
    )
    assert (ours.engine, theirs.engine) == ("pillow", "pillow"), "both are made of pixels"
    assert len(ours.data) < 0.97 * len(theirs.data)
    assert np.array_equal(np.asarray(decoded(ours.data)), np.asarray(decoded(theirs.data)))
    for name in ("dpi", "comment", "progressive"):
        assert decoded(ours.data).info[name] == decoded(theirs.data).info[name]
    assert decoded(ours.data).quantization == decoded(theirs.data).quantization


@pytest.mark.parametrize("coding", ["optimised", "progressive"])
def test_no_code_is_longer_than_16_bits(coding):
    # Among half a million symbols some are seen once: without a limit they would get more.
    source = encoded(random_picture(1200, 1000, "L", deviation=12), quality=100)
    data = written(source, jpeg.Quantisation(FINE, FINE), **CODINGS[coding])
    assert any(lengths[15] > 0 for _, lengths, _ in codes(data))
    for (_, lengths, symbols), length in itertools.product(codes(data), range(1, 17)):
        assert len(symbols) == sum(lengths)
        assert sum(lengths[:length][k] << (length - 1 - k) for k in range(length)) < 1 << length, "the code of ones"
    assert np.array_equal(coefficients(data)[0], coefficients(source)[0])


def test_more_empty_blocks_than_one_symbol_can_tell():
    image = Image.new("L", (8 * 200, 8 * 180), 128)  # 36,000 blocks; a symbol tells of 32,767
    image.paste(picture(8, 8, "L"), (8 * 199, 8 * 179))
    source = encoded(image, quality=90)
    data = written(source, jpeg.quantisation("annexk", 90))
    assert np.array_equal(np.asarray(decoded(data)), np.asarray(decoded(source)))
    assert len(data) < 4500 + 300  # a bit for each block's DC coefficient
