from __future__ import annotations

import threading

import pytest
from conftest import encoded, picture
from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import decoded

DATA = encoded(picture())
ENOUGH = 10**6  # pixels


def kept(data=DATA, shown=None):
    opened = jpeg.open_image(data)
    shown = shown or jpeg.open_picture(opened)
    decoded.keep(opened, shown, jpeg.Settings())
    return opened, shown


def compress(data=DATA, settings=None, tables="annexk"):
    return jpeg.compress(data, tables, 35, "fixed-35", settings or jpeg.Settings())


def test_what_was_kept_is_taken():
    opened, shown = kept()
    found = decoded.take(DATA, ENOUGH)
    assert found.opened is opened
    assert found.picture is shown


def test_only_the_very_same_object_is_the_same_file():
    kept()
    assert decoded.take(bytes(bytearray(DATA)), ENOUGH) is None


def test_it_is_forgotten_once_it_was_asked_for():
    kept()
    decoded.take(DATA, ENOUGH)
    assert decoded.take(DATA, ENOUGH) is None
    kept()
    decoded.take(b"another", ENOUGH)
    assert decoded.take(DATA, ENOUGH) is None, "whatever was asked for"


def test_only_the_last_one_is_kept():
    kept()
    other = encoded(picture(seed=1))
    opened, _ = kept(other)
    assert decoded.take(other, ENOUGH).opened is opened
    kept()
    kept(other)
    assert decoded.take(DATA, ENOUGH) is None


def test_images_of_more_pixels_than_asked_for_are_not_given():
    kept()
    assert decoded.take(DATA, 96 * 64 - 1) is None
    kept()
    assert decoded.take(DATA, 96 * 64) is not None


def test_other_threads_see_nothing():
    opened, _ = kept()
    seen = ["nothing was asked"]
    thread = threading.Thread(target=lambda: seen.append(decoded.take(DATA, ENOUGH)))
    thread.start()
    thread.join()
    assert seen[1:] == [None]
    assert decoded.take(DATA, ENOUGH).opened is opened, "nor do they take it away"


EXIF = Image.Exif()
EXIF[0x0112] = 6  # to be turned by 90 degrees


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        encoded(picture(mode="L")),
        encoded(picture(), "PNG"),
        encoded(picture(mode="CMYK")),
        encoded(picture(), exif=EXIF),
        encoded(picture(8, 8), quality=5),
    ],
    ids=["jpeg", "grey", "png", "cmyk", "turned", "not worth it"],
)
def test_the_result_is_the_same_bytes(data):
    alone = compress(data)
    kept(data)
    assert compress(data) == alone


@pytest.mark.parametrize("settings", [jpeg.Settings(engine="pillow"), jpeg.Settings(subsampling="4:4:4")])
def test_settings_that_ask_for_another_way_are_followed(settings):
    data = encoded(picture(), subsampling="4:2:0")  # of which the native core makes no 4:4:4
    alone = compress(data, settings)
    kept(data)
    assert compress(data, settings) == alone
    assert alone.engine == "pillow"


def test_an_image_that_is_left_alone_is_the_same():
    alone = compress(tables="original")
    kept()
    assert compress(tables="original") == alone
    assert alone.reason == "chosen"


def test_the_picture_that_was_kept_is_the_one_that_is_compressed_and_once_only():
    alone = compress()
    kept(shown=jpeg.open_picture(jpeg.open_image(encoded(Image.new("RGB", (96, 64), (200, 100, 50)), "PNG"))))
    assert jpeg.open_image(compress().data).pixels().getpixel((9, 9))[:3] == pytest.approx((200, 100, 50), abs=9)
    assert compress() == alone


def test_encoding_leaves_the_pixels_as_they_are():
    _, shown = kept()
    before = shown.pixels.tobytes()
    compress()
    assert shown.pixels.tobytes() == before


def test_the_limit_of_pixels_holds_for_what_was_kept():
    small = jpeg.Settings(max_pixels=96 * 64 - 1)
    kept()
    with pytest.raises(ImageError, match="96 x 64 is more than the limit of 6143 pixels; raise it with --max-pixels"):
        compress(settings=small)
