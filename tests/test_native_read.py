"""The native core's own Huffman decoder: it finds what libjpeg finds, and leaves to that what is not clean."""

import io
import random
import re
import struct

import numpy as np
import pytest
from conftest import encoded, picture
from PIL import Image
from test_dct import FILES, by_turbo

from beam_adacompress.jpeg import native

pytestmark = pytest.mark.skipif(
    not native.is_installed(), reason="the native core was not built: no C compiler, or no libjpeg-turbo headers"
)

END = b"\xff\xd9"


def opened(data, by_libjpeg=False, max_scans=native.MAX_SCANS):
    return native._native.open(data, 1 << 62, max_scans, by_libjpeg)


def outcome(data, by_libjpeg):
    """The coefficients and tables, or the error."""
    try:
        image = opened(data, by_libjpeg)
    except (native._native.Damaged, native._native.Unsupported, native._native.TooLarge) as error:
        return type(error).__name__, str(error)
    coded = native.Coded(image)
    planes = [(coded.plane(each).tobytes(), coded.table(each).tobytes()) for each in range(coded.components)]
    return coded.width, coded.height, coded.ratios, planes


def is_same(data):
    """Checks that both ways come to the same; whether the core did it without libjpeg."""
    assert outcome(data, by_libjpeg=False) == outcome(data, by_libjpeg=True)
    try:
        return not opened(data).by_libjpeg
    except (native._native.Damaged, native._native.Unsupported, native._native.TooLarge):
        return False


def noise(width, height, mode="RGB"):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


# ---- clean files


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file(name):
    assert is_same(FILES[name]) == ("progressive" not in name)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:4:0", "4:1:1", "4:2:0", "gray"])
def test_every_sampling_at_odd_sizes(subsampling):
    for width, height in [(1, 1), (7, 9), (8, 8), (9, 17), (16, 15), (17, 33), (31, 64), (33, 16), (63, 47), (100, 65)]:
        if subsampling == "gray":
            data = encoded(picture(width, height, "L"))
        elif subsampling in ("4:4:0", "4:1:1"):
            data = by_turbo(width, height, subsampling)
        else:
            data = encoded(picture(width, height), subsampling=subsampling)
        assert is_same(data), (width, height)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_tables_restarts_and_values_of_all_sizes(options, quality):
    for image in (noise(75, 50), noise(75, 50, "L"), picture(75, 50)):
        assert is_same(encoded(image, quality=quality, **options))
        assert is_same(encoded(image, quality=quality, subsampling="4:2:0", **options))


def test_steps_of_16_bits():
    assert is_same(encoded(picture(60, 50), qtables=[[400] * 64, [300] * 64]))


def test_more_restarts_than_numbers():
    data = encoded(picture(80, 80), subsampling="4:4:4", restart_marker_blocks=3)
    assert data.count(b"\xff\xd7") > 2
    assert is_same(data)


def test_components_in_another_order():
    data = encoded(noise(40, 40), subsampling="4:4:4")
    swapped = re.sub(rb"(\xff\xda\x00\x0c\x03\x01.)(..)(..)", rb"\1\3\2", data, count=1, flags=re.DOTALL)
    assert swapped != data
    is_same(swapped)  # some versions of libjpeg refuse it


def test_sampling_factors_of_a_gray_file_mean_nothing():
    data = encoded(picture(41, 27, "L"))
    assert is_same(data.replace(b"\x01\x11\x00", b"\x01\x22\x00", 1))


def test_planes_in_memory_of_their_own():
    large = Image.linear_gradient("L").resize((2500, 2300)).convert("RGB")
    assert is_same(encoded(large, subsampling="4:4:4"))  # more than 32 MiB of coefficients
    assert is_same(encoded(large.resize((5000, 3000)), subsampling="4:2:0"))


def test_bytes_behind_the_end():
    assert is_same(FILES["4:2:0"] + b"anything")


# ---- by hand


def by_hand(bits, dc, ac, blocks=1, length=8):
    """A gray file of a row of blocks. The codes of both tables have that length, and stand for these symbols."""
    tables = b"".join(
        struct.pack(">BBHB", 0xFF, 0xC4, 19 + len(symbols), which)
        + bytes(min(len(symbols), 255) if each == length else 0 for each in range(1, 17))
        + bytes(symbols)
        for which, symbols in ((0, dc), (0x10, ac))
    )
    bits += "1" * (-len(bits) % 8)
    stuffed = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return (
        b"\xff\xd8\xff\xdb\x00\x43\x00" + b"\x01" * 64
        + struct.pack(">BBHBHHBBBB", 0xFF, 0xC0, 11, 8, 8, 8 * blocks, 1, 1, 0x11, 0)
        + tables + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + stuffed + END
    )  # fmt: skip


@pytest.mark.parametrize("length", [8, 16])
@pytest.mark.parametrize(
    ("ac", "is_ours"),
    [
        ([0xF0, 0xF0, 0xF0, 0xE1], True),  # the last coefficient
        ([0xF0, 0xF0, 0xE1, 0xF0], True),  # zeros up to it
        ([0xF0, 0xF0, 0xF0, 0xF0], False),  # zeros beyond it
        ([0xF0, 0xF0, 0xF0, 0xF1], False),  # a coefficient beyond it
        ([0x01] * 63, True),
        ([0x0F, 0x0E, 0x1D, 0x00], True),  # values of 15, 14 and 13 bits
        ([0x01, 0x70], True),  # libjpeg takes that for the end
        ([0x01, 0x01], False),  # no end
        ([0x01, None], False),  # no code
    ],
)
def test_runs_and_values(ac, is_ours, length):
    random.seed(1)
    symbols = sorted({each for each in ac if each is not None})
    bits = format(0, f"0{length}b") + "101"
    for symbol in ac:
        bits += format(len(symbols) if symbol is None else symbols.index(symbol), f"0{length}b")
        bits += "".join(random.choice("01") for _ in range((symbol or 0) & 15))
    assert is_same(by_hand(bits, [3], symbols, length=length)) == is_ours


def test_dc_is_taken_modulo_as_by_libjpeg():
    for sign in "01":
        data = by_hand(("0" * 8 + sign * 15 + "0" * 8) * 200, [15], [0], blocks=200)
        assert is_same(data)
    assert native.Coded(opened(data)).plane(0)[0, :3, 0].tolist() == [32767, -2, 32765]


def test_wrong_tables():
    for dc, ac in (([17], [0]), (list(range(16)) * 16, [0]), ([3], [0] * 256), ([3], []), ([], [0])):
        assert not is_same(by_hand("0" * 64, dc, ac))


# ---- files that are not clean


DAMAGED = {
    "4:4:4": encoded(noise(48, 40), subsampling="4:4:4"),
    "4:2:0": encoded(picture(70, 50), subsampling="4:2:0"),
    "restarts": encoded(picture(70, 50), subsampling="4:2:0", restart_marker_blocks=2),
    "gray": encoded(noise(40, 40, "L"), quality=95),
}


def start_of(data):
    return data.index(b"\xff\xda") + 14


@pytest.mark.parametrize("name", DAMAGED)
def test_truncated(name):
    data = DAMAGED[name]
    random.seed(2)
    assert is_same(data)
    for size in [*random.sample(range(len(data)), 100), *range(len(data) - 20, len(data))]:
        assert not is_same(data[:size])
        assert not is_same(data[: max(size, start_of(data))] + b"\xff") or size == len(data)
        is_same(data[: max(size, start_of(data))] + END)


@pytest.mark.parametrize("name", DAMAGED)
def test_bits_are_wrong(name):
    data = DAMAGED[name]
    random.seed(3)
    for _ in range(400):
        wrong = bytearray(data)
        for _ in range(random.choice([1, 1, 3])):
            wrong[random.randrange(start_of(data) if random.random() < 0.8 else 2, len(data))] ^= 1 << random.randrange(
                8
            )
        is_same(bytes(wrong))


def test_restart_markers_are_wrong():
    data = DAMAGED["restarts"]
    places = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    assert len(places) > 4
    for at in places:
        marker = data[at : at + 2]
        wrong = [b"", b"\xff\xd1\xff\xd1", b"\xff\xd3", b"\xff\xd6", END, b"\xff\xd8", b"\xff\xfe\x00\x02"]
        for other in (*wrong, b"\xff" + marker, b"\x00" + marker):
            if other != marker:
                assert not is_same(data[:at] + other + data[at + 2 :])
        is_same(data[:at] + marker + b"\x00" + data[at + 2 :])


def test_no_restart_markers_where_there_should_be_and_some_where_there_should_not():
    data = DAMAGED["restarts"]
    interval = data.index(b"\xff\xdd\x00\x04") + 4
    for blocks in (0, 1, 3, 1000):
        assert not is_same(data[:interval] + struct.pack(">H", blocks) + data[interval + 2 :])
    assert not is_same(re.sub(rb"\xff[\xd0-\xd7]", b"", data))


@pytest.mark.parametrize(
    "between",
    [
        b"\x00",
        b"\x00" * 9,
        b"\xff",
        b"\xff\x00",
        b"\xff\xd0",
        b"\xff\xfe\x00\x04hi",
        b"\xff\xdc\x00\x04\x00\x08",
        b"\xff\xd8",
    ],
    ids=lambda each: each.hex(),
)
@pytest.mark.parametrize("name", DAMAGED)
def test_something_before_the_end(name, between):
    data = DAMAGED[name]
    assert data.endswith(END)
    assert not is_same(data[:-2] + between + END)


def test_headers_that_libjpeg_refuses():
    data = FILES["4:4:4"]
    start = start_of(data)
    for spectral in (b"\x00\x00\x00", b"\x01\x3f\x00", b"\x00\x3f\x01"):  # of a progressive scan
        assert not is_same(data[: start - 3] + spectral + data[start:])
    assert not is_same(re.sub(rb"\xff\xc4\x00\x1f.{29}", b"", data, count=1, flags=re.DOTALL))
    assert not is_same(re.sub(rb"\xff\xdb\x00\x43.{65}", b"", data, flags=re.DOTALL))
    with pytest.raises(native._native.Damaged, match="it has too many scans"):
        opened(data, max_scans=0)


def test_what_is_left_to_libjpeg_is_not_changed():
    buffer = io.BytesIO()
    picture(50, 40).save(buffer, "JPEG", progressive=True)
    assert not is_same(buffer.getvalue())
    assert opened(FILES["4:2:0"], by_libjpeg=True).by_libjpeg
