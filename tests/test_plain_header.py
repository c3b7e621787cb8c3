"""Headers of JPEGs that say nothing beside their picture: the native core beside Pillow."""

from __future__ import annotations

import struct

import pytest
from conftest import encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_dct import FILES
from test_decode_dct import segment, without

from beam_adacompress import jpeg
from beam_adacompress.errors import ImageError
from beam_adacompress.jpeg import native, source

pytestmark = pytest.mark.skipif(not native.is_installed(), reason="the native core was not built")

PICTURE = picture(97, 63)


def segments(data):
    """The markers of a file up to its first scan, each with its content, and what follows."""
    at, found = 2, []
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, data[at:]


def joined(found, rest):
    """A file again."""
    return b"".join([b"\xff\xd8", *(segment(*each) for each in found), rest])


def wide(content):
    """Tables of 8 bits in 16."""
    tables = [content[at : at + 65] for at in range(0, len(content), 65)]
    return b"".join(bytes([0x10 | each[0]]) + b"".join(b"\1" + bytes([step]) for step in each[1:]) for each in tables)


def changed(marker, change):
    """A file whose segments of a kind are others."""
    found, rest = segments(encoded(PICTURE))
    return joined([(kind, change(content) if kind == marker else content) for kind, content in found], rest)


PLAIN = {
    "colours": encoded(PICTURE),
    "gray": encoded(PICTURE.convert("L")),
    "progressive": encoded(PICTURE, progressive=True),
    "restart markers": encoded(PICTURE, restart_marker_blocks=3),
    "dots per inch": encoded(PICTURE, dpi=(300, 200)),
    "one table": encoded(PICTURE, qtables=[[3] * 64]),
    "two pictures": encoded(PICTURE) * 2,
    "16-bit steps": changed(0xDB, wide),
    "tables the other way round": changed(0xDB, lambda content: bytes([content[0] ^ 1]) + content[1:]),
    "a film": encoded(PICTURE) + b"\0\0\0\x18ftypmp42",
}


OTHERS = {
    "EXIF": encoded(PICTURE, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    "a profile": encoded(PICTURE, icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 108),
    "a comment": encoded(PICTURE, comment=b"hello"),
    "one of ours": encoded(PICTURE, comment=b"adacompress 1"),
    "CMYK": encoded(PICTURE.convert("CMYK")),
    "filled up before a marker": encoded(PICTURE)[:2] + b"\xff" + encoded(PICTURE)[2:],
    "a short JFIF": encoded(PICTURE)[:2] + b"\xff\xe0\0\x09JFIF\0\1\1" + encoded(PICTURE)[20:],
    "12 bits": changed(0xC0, lambda content: b"\x0c" + content[1:]),
    "a frame that is too long": changed(0xC0, lambda content: content + b"\0"),
    "no height": changed(0xC0, lambda content: b"\x08\0\0" + content[3:]),
    "two components": changed(0xC0, lambda content: content[:5] + b"\2" + content[6:12]),
    "half a table": changed(0xDB, lambda content: content[:40]),
    "tables of 24 bits": changed(0xDB, lambda content: b"\x20" + content[1:]),
    "a fifth table": changed(0xDB, lambda content: bytes([content[0] | 4]) + content[1:]),
    "two frames": joined(segments(encoded(PICTURE))[0] * 2, segments(encoded(PICTURE))[1]),
    "no frame": without(encoded(PICTURE), 0xC0),
    "no tables": without(encoded(PICTURE), 0xDB),
    "no scan": encoded(PICTURE)[:180],
    "no more than a marker": b"\xff\xd8\xff\xe0",
}


def told(opened):
    """All that a header says."""
    return {
        "format": opened.format,
        "media type": opened.media_type,
        "orientation": opened.orientation,
        "size": (opened.width, opened.height),
        "obstacle": opened.obstacle,
        "flattens": opened.flattens,
        "coded": opened.is_coded,
        "steps": opened.luma_steps(),
        **(what_is_coded(opened) if opened.is_coded else {}),
    }


def what_is_coded(opened):
    """What nobody asks of other files."""
    return {
        "unit": opened.unit,
        "segments": [opened.segments("RGB", policy) for policy in ("all", "icc", "none")],
        "density": [opened.density(policy) for policy in ("all", "icc", "none")],
    }


def outcome(data):
    """What becomes of a file: what its header says, or why it is refused."""
    try:
        return told(source.open_image(data, 100_000))
    except ImageError as error:
        return error.reason, str(error)


def by_pillow(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "plain_header", lambda data: None)
        return outcome(data)


@pytest.mark.parametrize("data", (PLAIN | FILES).values(), ids=(PLAIN | FILES).keys())
def test_it_says_what_pillow_says(data):
    assert outcome(data) == by_pillow(data)


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN.keys())
def test_pillow_is_not_asked(data, monkeypatch):
    monkeypatch.setattr(source, "_open", lambda data: pytest.fail("Pillow was asked"))
    opened = jpeg.open_image(data)
    assert (opened.width, opened.height) == (97, 63)
    assert len(opened.luma_steps()) == 64
    written = jpeg.compress(data, "annexk", 5, "1", jpeg.Settings(keep_metadata="icc"))
    assert written.reason == opened.obstacle


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
def test_others_are_left_to_pillow(data):
    assert native.plain_header(data) is None
    assert outcome(data) == by_pillow(data)


def test_the_limit_of_pixels_holds():
    with pytest.raises(ImageError, match="97 x 63 is more than the limit of 6110 pixels; raise it with --max-pixels"):
        jpeg.open_image(PLAIN["colours"], 97 * 63 - 1)
    assert jpeg.open_image(PLAIN["colours"], 97 * 63).width == 97


def test_pixels_are_read_by_pillow_later():
    assert jpeg.open_image(PLAIN["gray"]).pixels().mode == "L"
    expected = Image.frombytes("RGB", (97, 63), jpeg.open_image(OTHERS["a comment"]).pixels().convert("RGB").tobytes())
    assert jpeg.open_image(PLAIN["colours"]).pixels().convert("RGB") == expected


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_headers_that_were_tampered_with(data):
    """Whatever is done to a header, the same comes of it with the core and without."""
    file = bytearray(data.draw(st.sampled_from(list(PLAIN.values()))))
    scan = file.index(b"\xff\xda")
    for _ in range(data.draw(st.integers(1, 3))):
        last = min(scan + 12, len(file) - 1)
        at = data.draw(st.integers(min(2, last), last))
        match data.draw(st.sampled_from(["set", "flip", "cut", "twice", "end"])):
            case "set":
                file[at] = data.draw(st.integers(0, 255))
            case "flip":
                file[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del file[at + 1 : at + 1 + data.draw(st.integers(1, 20))]
            case "twice":
                file[at:at] = file[at : at + data.draw(st.integers(1, 70))]
            case _:
                del file[at + 4 :]
    assert outcome(bytes(file)) == by_pillow(bytes(file))
