from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import pytest
from conftest import decoded, encoded, picture, psnr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import Settings
from beam_adacompress.jpeg.source import open_image

# A result is wanted here whatever it saves.
ANY = Settings(min_saving=0.0)


def compress(data: bytes, quality: int = 35, settings: Settings = ANY) -> jpeg.Compressed:
    return jpeg.compress(data, "annexk", quality, f"fixed-{quality}", settings)


def test_compresses_as_pillow_does_with_the_same_settings():
    image = decoded(encoded(picture()))
    theirs = encoded(image, quality=35, optimize=True, progressive=True, comment=b"adacompress fixed-35")
    assert compress(encoded(picture()), settings=Settings(engine="pillow")).data == theirs


def test_the_result_says_what_it_is():
    result = compress(encoded(picture(90, 60)), settings=Settings(engine="pillow"))
    assert result._replace(data=b"") == (b"", "compressed", None, "image/jpeg", False, 90, 60, "4:2:0", "pillow")
    assert Image.open(io.BytesIO(result.data)).info["progressive"]


@settings(max_examples=120, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    mode=st.sampled_from(["1", "L", "P", "RGB", "CMYK", "YCbCr"]),
    form=st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"]),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    quality=st.integers(1, 100),
)
def test_any_size_mode_and_subsampling(width, height, mode, form, subsampling, progressive, quality):
    if mode == "YCbCr" and form == "TIFF":
        mode = "RGB"  # Pillow cannot read its own YCbCr TIFF
    image = picture(width, height).convert(mode)
    try:
        data = encoded(image, form)
    except (OSError, ValueError):  # not every format has every mode
        data = encoded(image.convert("RGB"), form)
    own = Settings(subsampling=subsampling, progressive=progressive, optimize=progressive, min_saving=0.0)
    result = compress(data, quality, own)
    assert len(result.data) <= len(data)
    assert (result.width, result.height) == (width, height)
    assert decoded(result.data).size == (width, height)
    if result.status == "kept":
        assert result.data == data
        assert result.reason == "saving-below-minimum"


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_source_subsampling_is_decoded_as_pillow_does(subsampling):
    source = encoded(picture(101, 67), subsampling=subsampling)
    theirs = encoded(decoded(source), quality=40, optimize=True, progressive=True, comment=b"adacompress fixed-40")
    assert compress(source, 40, Settings(engine="pillow")).data == theirs


def test_rgb_coded_jpeg_is_right():
    source = encoded(picture(), keep_rgb=True)
    assert psnr(decoded(compress(source, 90).data), picture()) > 30


def test_grayscale_stays_grayscale():
    result = compress(encoded(picture(mode="L")))
    assert decoded(result.data).mode == "L"
    assert result.subsampling is None


def test_a_gray_palette_is_grayscale():
    gif = encoded(picture(mode="L"), "GIF")
    assert Image.open(io.BytesIO(gif)).mode in ("P", "L")
    assert decoded(compress(gif).data).mode == "L"


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_converted(form):
    image = picture(mode="CMYK")
    result = compress(encoded(image, form), quality=90)
    assert decoded(result.data).mode == "RGB"
    assert psnr(decoded(result.data), picture()) > 28


def test_ycck_is_converted():
    # Pillow writes CMYK inverted behind an Adobe marker with transform 0. YCCK stores the luma and chroma of the inks
    # instead: hand Pillow those, inverted once more, and set the marker's transform to 2.
    cyan, magenta, yellow, black = picture(mode="CMYK").split()
    inks = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    stored = Image.merge("CMYK", (*(ImageOps.invert(plane) for plane in inks), black))
    data = bytearray(encoded(stored, quality=98, subsampling="4:4:4"))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    result = compress(bytes(data), 95)
    assert decoded(result.data).mode == "RGB"
    assert psnr(decoded(result.data), picture()) > 28


def gray_press() -> bytes:
    """A CMYK profile by hand: a press whose inks are all neutral, magenta and yellow being invisible.

    ICC.1:2010, lut8Type: four inputs, two grid points, CIELAB output.
    """
    nodes = [(c, k) for c in (0, 1) for _ in (0, 1) for _ in (0, 1) for k in (0, 1)]
    grid = b"".join(bytes((255 * (1 - c) * (1 - k), 128, 128)) for c, k in nodes)
    identity = struct.pack(">9l", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + bytes(range(256)) * 4 + grid + bytes(range(256)) * 3
    tag = struct.pack(">L4sLL", 1, b"A2B0", 144, len(lut))
    header = struct.pack(
        ">L4sL4s4s4s12x4s28x3l48x",
        144 + len(lut),
        b"",
        0x02400000,
        b"prtr",
        b"CMYK",
        b"Lab ",
        b"acsp",
        63190,
        65536,
        54061,
    )
    return header + tag + lut


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(form):
    profile = gray_press()
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip() == "CMYK"
    result = compress(encoded(picture(mode="CMYK"), form, icc_profile=profile), 95)
    pixels = np.asarray(decoded(result.data), dtype=int)
    assert np.ptp(pixels, axis=2).max() <= 6  # neutral, which the plain conversion of this picture is not
    assert pixels.std() > 20
    assert "icc_profile" not in decoded(result.data).info


def test_a_cmyk_profile_that_is_none_is_passed_over():
    plain = compress(encoded(picture(mode="CMYK")), 95)
    assert compress(encoded(picture(mode="CMYK"), icc_profile=b"no profile"), 95).data == plain.data


def test_an_embedded_profile_of_other_colours_is_not_kept_with_converted_pixels():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture(mode="L")
    assert "icc_profile" not in decoded(compress(encoded(image, icc_profile=profile)).data).info


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_baked_in_and_gone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = encoded(picture(64, 40), exif=exif.tobytes(), subsampling="4:4:4", quality=98)
    turned = orientation in (5, 6, 7, 8)
    result = compress(source, 95)
    image = decoded(result.data)
    assert (result.width, result.height) == image.size == ((40, 64) if turned else (64, 40))
    assert not image.getexif()
    assert psnr(image, ImageOps.exif_transpose(decoded(source))) > 30


@functools.cache  # a profile holds the time at which it was made
def with_everything() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(
        picture(),
        exif=exif.tobytes(),
        icc_profile=profile,
        comment=b"a comment",
        xmp=b"<x:xmpmeta/>",
        dpi=(300, 300),
    )


def test_metadata_policy_icc_is_the_default():
    info = decoded(compress(with_everything()).data).info
    assert info["icc_profile"] == decoded(with_everything()).info["icc_profile"]
    assert "exif" not in info
    assert "xmp" not in info
    assert info["comment"] == b"adacompress fixed-35"


def test_metadata_policy_none():
    info = decoded(compress(with_everything(), settings=Settings(keep_metadata="none", min_saving=0.0)).data).info
    assert "icc_profile" not in info
    assert "exif" not in info


def test_metadata_policy_all_resets_the_orientation_and_nothing_else():
    result = compress(with_everything(), settings=Settings(keep_metadata="all", min_saving=0.0))
    image = decoded(result.data)
    before = decoded(with_everything())
    assert image.getexif() == {0x0112: 1, 0x010F: "a camera maker"}
    assert len(image.info["exif"]) == len(before.info["exif"])
    assert image.info["xmp"] == b"<x:xmpmeta/>"
    assert image.info["icc_profile"] == before.info["icc_profile"]
    assert image.info["dpi"] == (300, 300)
    assert [content for name, content in image.applist if name == "COM"] == [b"a comment", b"adacompress fixed-35"]


def test_metadata_policy_all_from_png():
    exif = Image.Exif()
    exif[0x010F] = "a camera maker"
    result = compress(
        encoded(picture(), "PNG", exif=exif.tobytes()), settings=Settings(keep_metadata="all", min_saving=0.0)
    )
    assert decoded(result.data).getexif() == {0x010F: "a camera maker"}


def test_kept_metadata_counts_in_the_size():
    source = with_everything()
    sizes = [len(compress(source, settings=Settings(keep_metadata=policy)).data) for policy in ("none", "icc", "all")]
    assert sizes == sorted(set(sizes))


def sixteen_bit_gray() -> bytes:
    return encoded(Image.fromarray((np.arange(4096, dtype=np.uint16) * 16).reshape(64, 64)), "PNG")


def sixteen_bit_colour() -> bytes:
    """A PNG of 16 bits a channel, which Pillow can read but not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))

    rows = b"".join(b"\0" + np.full((32, 3), 4000 * (y % 16), dtype=">u2").tobytes() for y in range(32))
    header = struct.pack(">LLBBBBB", 32, 32, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def animation(form: str) -> bytes:
    frames = [picture(seed=seed) for seed in range(3)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


def transparent_gif() -> bytes:
    image = picture(mode="P")
    return encoded(image, "GIF", transparency=image.getpixel((5, 5)))


LEFT_ALONE = {
    "alpha": ("alpha", lambda: encoded(picture(mode="RGBA"), "PNG")),
    "alpha and gray": ("alpha", lambda: encoded(picture(mode="LA"), "PNG")),
    "transparent palette": ("alpha", transparent_gif),
    "16-bit gray": ("high-bit-depth", sixteen_bit_gray),
    "16-bit colour": ("high-bit-depth", sixteen_bit_colour),
    "16-bit PPM": ("high-bit-depth", lambda: b"P6 2 1 65535\n" + bytes(12)),
    "floats": ("high-bit-depth", lambda: encoded(picture(mode="F"), "TIFF")),
    "GIF animation": ("animated", lambda: animation("GIF")),
    "WebP animation": ("animated", lambda: animation("WEBP")),
    "PNG animation": ("animated", lambda: animation("PNG")),
    "TIFF pages": ("multi-picture", lambda: animation("TIFF")),
    "icon": ("multi-picture", lambda: encoded(picture(64, 64), "ICO", sizes=[(16, 16), (32, 32)])),
    "a JPEG behind a JPEG": ("multi-picture", lambda: encoded(picture()) + encoded(picture(seed=1))),
    "motion photo": ("multi-picture", lambda: encoded(picture()) + b"\0\0\0\x18ftypmp42" + bytes(100)),
    "MPO": ("multi-picture", lambda: animation("MPO")),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_is_left_alone_with_a_reason(name):
    reason, make = LEFT_ALONE[name]
    data = make()
    result = compress(data)
    assert (result.status, result.reason) == ("kept", reason)
    assert result.data == data


@pytest.mark.parametrize("name", [name for name in LEFT_ALONE if name != "floats"])
def test_is_flattened_where_the_user_asks(name):
    data = LEFT_ALONE[name][1]()
    image = open_image(data).pixels()
    assert image.mode in ("L", "RGB", "RGBX")
    result = compress(data, settings=Settings(flatten=True, min_saving=0.0))
    assert result.reason in (None, "saving-below-minimum")


def test_floats_have_no_range_to_flatten():
    result = compress(LEFT_ALONE["floats"][1](), settings=Settings(flatten=True))
    assert (result.status, result.reason) == ("kept", "high-bit-depth")


def test_flattening_puts_alpha_over_white():
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    assert open_image(encoded(clear, "PNG")).pixels().getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_flattening_16_bits_keeps_the_brightness(mode):
    values = np.arange(4096, dtype={"I;16": "<u2", "I;16B": ">u2"}[mode]).reshape(64, 64) * 16
    image = Image.frombytes(mode, (64, 64), values.astype({"I;16": "<u2", "I;16B": ">u2"}[mode]).tobytes())
    pixels = np.asarray(open_image(encoded(image, "TIFF")).pixels())
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_bytes_behind_a_jpeg_that_are_no_picture_do_no_harm():
    assert compress(encoded(picture()) + bytes(50)).status == "compressed"


def test_a_thumbnail_inside_is_no_second_picture():
    thumbnail = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + encoded(picture(32, 32))
    assert compress(encoded(picture(200, 150), exif=thumbnail)).status == "compressed"


def test_twelve_bit_jpeg_is_left_alone():
    data = bytearray(encoded(picture(33, 21)))
    data[data.index(b"\xff\xc0") + 4] = 12
    result = compress(bytes(data))
    assert (result.status, result.reason, result.width, result.height) == ("kept", "high-bit-depth", 33, 21)


def test_never_worse():
    small = compress(encoded(picture()), quality=5, settings=Settings(keep_metadata="all")).data
    small = small.replace(b"adacompress", b"somebodyels")  # as if it were not ours
    result = compress(small, quality=95)
    assert (result.status, result.reason, result.data) == ("kept", "saving-below-minimum", small)


def test_min_saving_decides():
    source = encoded(picture(), quality=60)
    share = len(compress(source, 50).data) / len(source)
    assert compress(source, 50, Settings(min_saving=1 - share - 0.01)).status == "compressed"
    assert compress(source, 50, Settings(min_saving=1 - share + 0.01)).status == "kept"


def test_our_own_files_are_never_compressed_again():
    once = compress(encoded(picture())).data
    again = compress(once, quality=1)
    assert (again.status, again.reason, again.data) == ("kept", "already-compressed", once)


def test_a_truncated_file_of_our_own_is_a_failure():
    once = compress(encoded(picture())).data
    with pytest.raises(ImageError) as failed:
        compress(once[:-20])
    assert failed.value.reason == "truncated"


def test_same_input_same_bytes():
    assert compress(encoded(picture())).data == compress(encoded(picture())).data


def test_noise_that_does_not_fit_the_encoders_buffer_is_encoded_all_the_same():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 301, 3), dtype=np.uint8))
    result = compress(encoded(noise, "PNG"), 100, Settings(subsampling="4:4:4", min_saving=0.0))
    assert decoded(result.data).size == (301, 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subsampling": "4:1:0"}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:0'"),
        ({"keep_metadata": "exif"}, "keep_metadata must be one of all, icc, none, got 'exif'"),
        ({"min_saving": 1.0}, "min_saving must be at least 0 and below 1, got 1.0"),
        ({"min_saving": -0.1}, "got -0.1"),
        ({"max_pixels": 0}, "max_pixels must be at least 1, got 0"),
    ],
)
def test_settings_name_the_wrong_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)
