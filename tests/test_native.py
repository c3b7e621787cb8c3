"""The native core, with Pillow as the oracle."""

from __future__ import annotations

import dataclasses
import gc
import io
import re
import runpy
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import decoded, encoded, picture
from PIL import Image
from test_dct import FILES, SOURCES

from beam_adacompress import jpeg
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg import grid, native
from beam_adacompress.jpeg.picture import of_pixels
from beam_adacompress.policy.features import features
from beam_adacompress.policy.policies import Serving, onlooker

pytestmark = pytest.mark.skipif(
    not native.is_installed(), reason="the native core was not built: no C compiler, or no libjpeg-turbo headers"
)

CSRC = Path(__file__).parents[1] / "beam_adacompress" / "jpeg" / "csrc"
TABLES = jpeg.quantisation("annexk", 40)
BY_PILLOW = jpeg.Settings(engine="pillow", min_saving=0.0)
BY_CORE = jpeg.Settings(engine="native", align=False, min_saving=0.0)
PLAIN = {"optimize": False, "progressive": False}
LARGE = picture(160, 128, seed=3)


def noise(data, original):
    """Mean squared error to a decoded file."""
    pair = [np.asarray(decoded(each).convert("RGB"), np.float64) for each in (data, original)]
    return np.mean((pair[0] - pair[1]) ** 2)


def with_tables(image, *steps, **options):
    """As a JPEG with these very steps."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", qtables=[list(each) for each in steps], **options)
    return buffer.getvalue()


def compress(data, settings=BY_CORE, tables="annexk", quality=40):
    return jpeg.compress(data, tables, quality, "fixed-40", settings)


def opened(data):
    coded = native.open_coded(data)
    assert coded is not None
    return coded


def blocks_of(coded, component=0):
    return coded.plane(component).reshape(-1, 64)


# ---- as good as Pillow


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_beside_pillow(name):
    source = FILES[name]
    pictures = [jpeg.open_picture(jpeg.open_image(source), each) for each in (BY_CORE, BY_PILLOW)]
    assert [each.engine for each in pictures] == ["native", "pillow"]
    ours, theirs = (each.encode(TABLES, BY_CORE) for each in pictures)
    images = [Image.open(io.BytesIO(each)) for each in (ours, theirs)]
    assert images[0].size == images[1].size == Image.open(io.BytesIO(source)).size
    assert images[0].mode == images[1].mode
    assert images[0].quantization == images[1].quantization
    assert images[0].info["progressive"]
    assert images[0].layer == images[1].layer, "sampling"
    assert len(ours) <= 1.03 * len(theirs) + 12
    assert noise(ours, source) <= 1.03 * noise(theirs, source) + 0.5


def test_the_same_tables_give_the_same_coefficients():
    source = with_tables(LARGE, TABLES.luma, TABLES.chroma, subsampling="4:2:0")
    again = jpeg.open_picture(jpeg.open_image(source)).encode(TABLES, BY_CORE)
    for component in range(3):
        assert np.array_equal(blocks_of(opened(again), component), blocks_of(opened(source), component))


def test_steps_of_16_bits():
    source = with_tables(LARGE, [400] * 64, [300] * 64)
    assert opened(source).table(0).tolist() == [400] * 64
    assert compress(source).engine == "native"
    assert noise(compress(source).data, source) < 12


@pytest.mark.parametrize("ratios", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_sampling_of_what_is_written(ratios):
    how = native.Writing(TABLES.luma, TABLES.chroma, 0.5, ratios, **PLAIN)
    again = opened(opened(FILES["4:4:4"]).write(how))
    assert again.ratios == ratios
    assert again.plane(1).shape == (-(-48 // (8 * ratios[0])), -(-64 // (8 * ratios[1])), 64)


def test_chrominance_that_would_have_to_be_interpolated_goes_over_pixels():
    finer = jpeg.Settings(subsampling="4:4:4", min_saving=0.0)
    result = compress(FILES["4:2:0"], finer)
    assert (result.engine, result.subsampling) == ("pillow", "4:4:4")
    assert compress(FILES["4:4:4"], finer).engine == "native"
    coded = opened(FILES["4:2:0"])
    assert not coded.writes((1, 1))
    with pytest.raises(ValueError, match="would have to be interpolated"):
        coded.dequantised(1, (1, 1))
    with pytest.raises(ValueError, match="would have to be interpolated"):
        coded.bands((1, 1))


# ---- rounding


def test_rounding_by_hand():
    # An AC coefficient of 15, 16, 24, 25, -15 and -16, at steps of 10: 1.5, 1.6, 2.4, 2.5, -1.5, -1.6.
    for value, nearest, dead in ((15, 2, 1), (16, 2, 2), (24, 2, 2), (25, 3, 2), (-15, -2, -1), (-16, -2, -2)):
        source = _of_one_block(value)
        for rounding, expected in ((0.5, nearest), (0.4, dead)):
            how = native.Writing((10,) * 64, (10,) * 64, rounding, (1, 1), **PLAIN)
            assert blocks_of(opened(opened(source).write(how)))[0, 1] == expected, (value, rounding)


def _of_one_block(value):
    """A gray file of one block, whose first AC coefficient is 1 or -1 step of that size."""
    wave = 128 + value * np.sqrt(1 / 8) * 0.5 * np.cos((2 * np.arange(8) + 1) * np.pi / 16)
    data = with_tables(Image.fromarray(np.tile(np.rint(wave).astype(np.uint8), (8, 1))), [abs(value)] * 64)
    assert blocks_of(opened(data))[0, 1] == np.sign(value)
    return data


def test_dc_is_rounded_to_the_nearest_whatever_the_rounding():
    flat = with_tables(Image.new("L", (8, 8), 128 + 2), [1] * 64)  # DC 16: at a step of 10, 1.6
    how = native.Writing((10,) * 64, (10,) * 64, 0.3, (1, 1), **PLAIN)
    assert blocks_of(opened(opened(flat).write(how)))[0, 0] == 2


def test_less_rounding_saves_bytes_from_files_and_from_pixels():
    for data in (encoded(LARGE), encoded(LARGE, "PNG")):
        sizes = [len(compress(data, tables=tables).data) for tables in ("annexk", "annexk@0.4", "annexk@0.3")]
        assert sizes[0] > sizes[1] > sizes[2]
        assert len(compress(data, tables="annexk@0.5").data) == sizes[0]


def test_rounding_of_a_png_is_that_of_its_finest_jpeg():
    png = jpeg.encode(LARGE, jpeg.quantisation("annexk@0.3", 40), BY_CORE)
    finest = with_tables(LARGE, [1] * 64, [1] * 64, subsampling="4:2:0")
    assert png == jpeg.open_picture(jpeg.open_image(finest)).encode(jpeg.quantisation("annexk@0.3", 40), BY_CORE)


# ---- upright


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("source", ["4:4:4", "4:2:2", "4:2:0", "L"])
def test_whole_blocks_are_turned_without_pixels(orientation, source):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if source == "L" else {"subsampling": source}
    data = encoded(LARGE.convert("L") if source == "L" else LARGE, exif=exif, **options)
    ours, theirs = compress(data), compress(data, BY_PILLOW)
    assert (ours.engine, theirs.engine) == ("native", "pillow")
    assert (ours.width, ours.height) == (theirs.width, theirs.height)
    difference = np.abs(
        np.asarray(decoded(ours.data).convert("L"), int) - np.asarray(decoded(theirs.data).convert("L"), int)
    )
    assert np.mean(difference) < 1
    assert Image.open(io.BytesIO(ours.data)).getexif().get(0x0112) is None


@pytest.mark.parametrize(
    ("orientation", "size", "engine"),
    [
        (5, (150, 121), "native"),  # transposed: nothing changes sides
        (2, (150, 128), "pillow"),  # left and right change sides, and 150 is not whole blocks
        (2, (160, 121), "native"),
        (2, (152, 128), "pillow"),  # whole blocks of Y, but not of chrominance
        (4, (160, 121), "pillow"),
        (4, (150, 128), "native"),
        (6, (150, 128), "native"),  # down becomes across, flipped
        (6, (160, 121), "pillow"),
    ],
)
def test_incomplete_blocks_that_would_change_sides_go_over_pixels(orientation, size, engine):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(*size), exif=exif, subsampling="4:2:0")
    assert compress(data).engine == engine
    assert noise(compress(data).data, compress(data, BY_PILLOW).data) < 20


# ---- what stays with Pillow, and what fails


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(mode="CMYK")),
        encoded(picture(), keep_rgb=True),
        encoded(picture(), "PNG"),
        encoded(picture(), "TIFF"),
    ],
    ids=["cmyk", "rgb", "png", "tiff"],
)
def test_other_files_go_over_pixels(data):
    assert native.open_coded(data) is None
    ours, theirs = compress(data), compress(data, BY_PILLOW)
    assert (ours.engine, theirs.engine) == ("pillow", "pillow")
    assert np.array_equal(np.asarray(decoded(ours.data)), np.asarray(decoded(theirs.data)))
    one_scan = dataclasses.replace(BY_PILLOW, progressive=False)
    assert compress(data, dataclasses.replace(one_scan, engine="native")) == compress(data, one_scan)


def test_limits_come_before_memory():
    frame = encoded(Image.new("L", (16, 16)))
    start = frame.index(b"\xff\xc0") + 5
    huge = frame[:start] + struct.pack(">HH", 60000, 60000) + frame[start + 4 :]
    with pytest.raises(
        ImageError, match="60000 x 60000 is more than the limit of 100000000 pixels; raise it with --max-pixels"
    ):
        native.open_coded(huge, 100_000_000)
    with pytest.raises(ImageError, match="Premature end of JPEG file: it has fewer bits than blocks") as failed:
        native.open_coded(huge)
    assert failed.value.reason == "truncated"


def test_a_file_of_too_many_scans():
    # The second scan of a progressive file, which says that it is the whole of its band: it may come again.
    data = encoded(picture(16, 16, "L"), progressive=True)
    second, end = [match.start() for match in re.finditer(rb"\xff[\xc4\xda]", data)][3:5]
    head, scan = data[:second], data[second:end].replace(b"\x05\x02", b"\x05\x00", 1)
    assert native.open_coded(head + scan * (native.MAX_SCANS - 1) + b"\xff\xd9") is not None
    with pytest.raises(ImageError, match="Corrupt JPEG data: it has too many scans") as failed:
        native.open_coded(head + scan * native.MAX_SCANS + b"\xff\xd9")
    assert failed.value.reason == "corrupt"


def test_comments_and_markers_are_no_damage():
    odd = FILES["4:2:0"].replace(b"JFIF\x00\x01", b"JFIF\x00\x09")  # an unknown revision: libjpeg warns, and reads it
    assert native.open_coded(odd) is not None
    assert native.open_coded(encoded(picture(), comment=b"x" * 60000)) is not None


def test_arguments_of_the_extension():
    image = opened(FILES["4:4:4"])._image
    fine = (bytes([9]) * 64, bytes([9]) * 64, 0.5, 2, 2, True, True, b"", b"", 0, 0)
    for position, value, message in (
        (0, b"\x09" * 63, "a table has 64 steps of one byte"),
        (1, b"\x00" * 64, "a step is at least 1"),
        (2, 0.6, "rounding is from 0 to 0.5"),
        (8, b"x" * 65534, "a comment has at most 65533 bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            image.write(*fine[:position], value, *fine[position + 1 :])
    for call in (lambda: image.plane(3), lambda: image.table(-1), lambda: image.dequantised(3, 1, 1)):
        with pytest.raises(IndexError, match="there is no component"):
            call()
    with pytest.raises(ValueError, match="a block of the grid begins outside the image"):
        image.grid(np.int32([0]).tobytes(), np.int32([64]).tobytes())
    with pytest.raises(TypeError):
        type(image)()
    broken = (*fine[:7], b"\xff\xe1\x00\x09short", *fine[8:])
    with pytest.raises(native._native.Unsupported, match="segments that are none"):
        image.write(*broken)


# ---- metadata


def test_what_is_kept_beside_the_picture_is_what_pillow_keeps():
    exif = Image.Exif()
    exif[0x010E] = "a title"
    profile = b"\x00" * 16 + b"RGB " + b"\x00" * 70000
    source = encoded(LARGE, exif=exif, comment=b"mine", icc_profile=profile, dpi=(72, 71))
    for keep in ("all", "icc", "none"):
        found = [
            Image.open(io.BytesIO(compress(source, jpeg.Settings(keep_metadata=keep, engine=engine)).data))
            for engine in ("native", "pillow")
        ]
        assert found[0].applist == found[1].applist
        assert found[0].info.get("dpi") == found[1].info.get("dpi")
        assert found[0].info.get("icc_profile") == found[1].info.get("icc_profile")


# ---- what is seen


@pytest.mark.parametrize("name", [name for name, (_, _, luma, *_) in SOURCES.items() if luma != (1, 1)])
def test_blocks_anywhere_are_those_of_the_pixels(name):
    pixels = of_pixels(jpeg.open_image(FILES[name]))
    tops = np.linspace(0, pixels.height - 8, 4).astype(np.int32)
    lefts = np.linspace(0, pixels.width - 8, 5).astype(np.int32)
    ours, theirs = opened(FILES[name]).grid(tops, lefts), pixels.grid(tops, lefts)
    assert ours.shape == theirs.shape == (64, 3, 20)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 2  # RGB in between is rounded and clipped


def test_blocks_beyond_the_edge_repeat_it():
    data = encoded(picture(5, 3, "L"))
    ours = opened(data).grid(np.int32([0]), np.int32([0]))
    theirs = grid.of_samples(np.asarray(decoded(data)), np.int32([0]), np.int32([0]))
    assert np.abs(ours - theirs).max() < 4


def test_the_policy_chooses_alike():
    looker = onlooker(Serving("default"))
    for seed in range(5):
        source = jpeg.open_image(encoded(picture(320, 240, seed=seed), quality=90))
        seen = [features(source, jpeg.open_picture(source, each)) for each in (BY_CORE, BY_PILLOW)]
        assert np.abs(seen[0] - seen[1]).max() < 0.35
        choices = [looker.policy.choose(each, "x") for each in seen]
        assert choices[0].expected_agreement == pytest.approx(choices[1].expected_agreement, abs=0.01)


def test_thumbnail():
    data = encoded(Image.fromarray(np.kron(np.uint8([[0, 50], [100, 255]]), np.ones((8, 8), np.uint8))))
    assert opened(data).thumbnail() == pytest.approx(np.float32([[0, 50], [100, 255]]), abs=1)


def test_bands_are_sums_over_planes():
    coded = opened(FILES["4:4:4 odd"])
    for component, (total, squares) in enumerate(coded.bands((2, 2))):
        plane = coded.dequantised(component, (2, 2)).reshape(-1, 64).astype(np.float64)
        assert plane.shape[0] == np.prod(coded.shape(component, (2, 2)))
        assert total == pytest.approx(plane.sum(axis=0), abs=0.1)
        assert squares == pytest.approx(np.square(plane).sum(axis=0), rel=1e-5, abs=0.1)


def test_planes_are_the_core_s_memory_and_keep_it():
    plane = opened(FILES["4:4:4"]).plane(0)
    gc.collect()
    assert not plane.flags.writeable
    assert not plane.flags.owndata
    assert np.array_equal(plane, jpeg.read_dct(FILES["4:4:4"], dequantised=False).y)


def test_many_threads_use_one_image():
    shown = jpeg.open_picture(jpeg.open_image(encoded(LARGE)))
    expected = {quality: shown.encode(jpeg.quantisation("annexk", quality), BY_CORE) for quality in range(10, 90, 10)}
    found = {}

    def work(quality):
        for _ in range(5):
            found[quality] = shown.encode(jpeg.quantisation("annexk", quality), BY_CORE)

    threads = [threading.Thread(target=work, args=(quality,)) for quality in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# ---- which engine


def test_without_the_core_everything_goes_over_pixels(monkeypatch):
    data = encoded(LARGE)
    native_result = compress(data, jpeg.Settings())
    monkeypatch.setattr(native, "_native", None)
    result = compress(data, jpeg.Settings())
    assert (native_result.engine, result.engine, native.engine()) == ("native", "pillow", "pillow")
    assert result == compress(data, BY_PILLOW)
    with pytest.raises(AdaCompressError, match=r"engine='native' needs the native core, and .* is not installed: "):
        compress(data, BY_CORE)
    with pytest.raises(AdaCompressError, match=r"rounding at 0.4 needs the native core, and .* is not installed: "):
        compress(data, jpeg.Settings(), tables="annexk@0.4")


def test_settings_name_the_engines():
    with pytest.raises(ValueError, match="engine must be one of auto, native, pillow, got 'turbo'"):
        jpeg.Settings(engine="turbo")
    assert native.engine().startswith("native (libjpeg-turbo ")


def test_constants_are_those_of_the_script():
    made = runpy.run_path(str(CSRC / "matrices.py"))["header"]()
    assert (CSRC / "matrices.h").read_text() == made
