"""A corpus of deliberately broken files: each is a failure with a reason, never a half-grey picture."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from conftest import decoded, encoded, picture

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import Settings

pytestmark = pytest.mark.usefixtures("each_engine")

ANY = Settings(min_saving=0.0)


def failure(data: bytes, settings: Settings = ANY) -> ImageError:
    with pytest.raises(ImageError) as failed:
        jpeg.compress(data, "annexk", 35, "fixed-35", settings)
    return failed.value


def marker_positions(data: bytes) -> list[int]:
    """Where each segment of a JPEG begins, the scans' data and EOI included."""
    positions, at = [], 2
    while data[at + 1] != 0xDA:
        positions.append(at)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    start = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
    return [*positions, at, start, (start + len(data)) // 2, len(data) - 2, len(data) - 1]


BASELINE = encoded(picture(160, 120), quality=90)
PROGRESSIVE = encoded(picture(160, 120), quality=90, progressive=True)
RESTARTS = encoded(picture(160, 120), quality=90, restart_marker_blocks=2)


@pytest.mark.parametrize("name", ["baseline", "progressive", "restarts"])
def test_truncated_at_every_marker(name):
    data = {"baseline": BASELINE, "progressive": PROGRESSIVE, "restarts": RESTARTS}[name]
    for position in marker_positions(data):
        assert failure(data[:position]).reason in ("truncated", "corrupt"), position


def test_truncated_in_the_picture_data_says_so():
    error = failure(BASELINE[: len(BASELINE) // 2])
    assert error.reason == "truncated"
    assert error.message == "decoding failed: Premature end of JPEG file"


def test_pillow_alone_would_pass_some_damage_on():
    # The reason for decoding strictly: half of this picture is grey, and Pillow returns it without a word.
    damaged = bytearray(BASELINE)
    middle = len(damaged) * 2 // 3
    damaged[middle : middle + 2] = b"\xff\xd9"
    assert decoded(bytes(damaged)).size == (160, 120)
    assert failure(bytes(damaged)).reason == "corrupt"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_bit_flips_never_escape_as_anything_but_a_result_or_a_failure(form):
    whole = encoded(picture(120, 90), form)
    flip = random.Random(form)
    reach = 60 if form in ("BMP", "TIFF") else len(whole)  # these hold bare pixels, in which no flip can be seen
    failures = 0
    bounded = Settings(min_saving=0.0, max_pixels=10**6)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(flip.randint(1, 4)):
            data[flip.randrange(reach)] ^= 1 << flip.randrange(8)
        try:
            result = jpeg.compress(bytes(data), "annexk", 35, "fixed-35", bounded)
        except ImageError:
            failures += 1
        else:
            assert len(result.data) <= len(data)
    assert failures >= 10


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_of_other_formats(form, share):
    data = encoded(picture(120, 90), form)
    assert failure(data[: int(len(data) * share)]).reason in ("truncated", "corrupt")


@pytest.mark.parametrize("flatten", [False, True])
def test_truncated_files_that_would_be_left_alone_are_failures_too(flatten):
    data = encoded(picture(120, 90, "RGBA"), "PNG")
    assert failure(data[: len(data) // 2], Settings(flatten=flatten)).reason in ("truncated", "corrupt")


def test_zero_bytes():
    error = failure(b"")
    assert (error.reason, error.message) == ("empty", "the file has no bytes")


@pytest.mark.parametrize("data", [b"hello, I am a text", b"%PDF-1.7\n", b"\x00" * 4096, b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_not_an_image(data):
    assert failure(data).reason == "not-an-image"


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\0\0\0\x1cftypavif"])
def test_only_a_beginning(start):
    assert failure(start).reason == "corrupt"


def test_the_content_decides_and_not_the_name():
    # Nothing here sees a name: a PNG called .jpg is a PNG.
    assert jpeg.compress(encoded(picture(), "PNG"), "annexk", 35, "x", Settings()).renamed


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    tail = struct.pack(">L", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + header + tail + b"\0\0\0\0IDAT" + struct.pack(">L", 0)


def test_a_header_bomb_is_found_before_anything_is_decoded():
    error = failure(png_header(50_000, 50_000), Settings())
    assert error.reason == "too-many-pixels"
    assert error.message == "50000 x 50000 is more than the limit of 100000000 pixels; raise it with --max-pixels"


def test_a_jpeg_header_bomb():
    data = bytearray(BASELINE)
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65000, 65000)
    assert failure(bytes(data), Settings()).reason == "too-many-pixels"


def test_the_pixel_limit_is_the_jobs_own():
    data = encoded(picture(100, 100))
    assert failure(data, Settings(max_pixels=9_999)).reason == "too-many-pixels"
    assert jpeg.compress(data, "annexk", 35, "x", Settings(max_pixels=10_000)).width == 100


def test_pillows_own_limit_stands_as_it_was(monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert jpeg.compress(encoded(picture()), "annexk", 35, "x", Settings()).status == "compressed"
    assert Image.MAX_IMAGE_PIXELS == 5
