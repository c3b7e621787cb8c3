"""Reading coefficients: what is refused, what is tolerated, what is left behind; and DecodeDCT in a pipeline."""

import struct
import sys
import tempfile
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam import coders
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from conftest import encoded, picture
from test_dct import FILES, planes

from beam_adacompress import EncodedImage, ImageFailure, jpeg
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg import dct, layout, native
from beam_adacompress.transforms.decode_dct import DecodeDCT


def without(data, marker):
    """The file without the segments of a marker in its header."""
    kept, position = data[:2], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        kept += b"" if data[position + 1] == marker else data[position:end]
        position = end
    return kept + data[position:]


def patched(data, behind, offset, content):
    """The file with other bytes at a place counted from a marker."""
    start = data.index(behind) + offset
    return data[:start] + content + data[start + len(content) :]


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


CMYK = encoded(picture(mode="CMYK"))
GOOD = FILES["4:2:0"]
SCAN = GOOD.index(b"\xff\xda") + 30
OURS = jpeg.compress(GOOD, "annexk", 30, "v1", jpeg.Settings(min_saving=0)).data


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty", "the file has no bytes"),
        (b"hello", "not-an-image", "no image format"),
        (encoded(picture(), "PNG"), "not-a-jpeg", "only JPEGs have DCT coefficients, and this is PNG: compress it"),
        (GOOD[:900], "truncated", "Premature end of JPEG file"),
        (GOOD[:-2], "truncated", "Premature end of JPEG file"),
        (FILES["progressive 4:2:0"][:800], "truncated", "Premature end"),
        (GOOD[:SCAN], "truncated", "Premature end"),
        (GOOD[:100], "truncated", "Truncated File Read|Premature end"),
        (GOOD[:SCAN] + b"\xff\x01" * 40 + GOOD[SCAN + 80 :], "corrupt", "Corrupt JPEG data"),
        (OURS[:-60] + b"\xff\x01" * 20 + OURS[-20:], "corrupt", "decoding failed"),
        (without(GOOD, 0xDB), "corrupt", "the header of the file is damaged"),
        (without(GOOD, 0xC0), "corrupt", "damaged"),
        (patched(GOOD, b"\xff\xc0", 5, b"\0\0"), "corrupt", "damaged"),
        (patched(GOOD, b"\xff\xda", 5, b"\x09"), "corrupt", "damaged"),
        (CMYK, "unsupported-jpeg", r"it has 4 colour components \(CMYK or YCCK has 4\); only 1 or 3 can be read"),
        (patched(CMYK, b"Adobe", 11, b"\2"), "unsupported-jpeg", "it has 4 colour components"),
        (encoded(picture(), keep_rgb=True), "unsupported-jpeg", "its components are red, green and blue"),
        (patched(GOOD, b"\xff\xc0", 4, b"\x0c"), "high-bit-depth", "more than 8 bits a sample"),
        (patched(GOOD, b"\xff\xc0", 1, b"\xc9"), "unsupported-jpeg", "coded by arithmetic coding"),
        (patched(GOOD, b"\xff\xc0", 1, b"\xc3"), "unsupported-jpeg", "coded by lossless or hierarchical coding"),
        (patched(GOOD, b"\xff\xc0", 11, b"\x31"), "unsupported-jpeg", "its sampling factors 3x1, 1x1, 1x1 are none of"),
        (patched(GOOD, b"\xff\xc0", 14, b"\x22"), "unsupported-jpeg", "its sampling factors 2x2, 2x2, 1x1 are none of"),
        (patched(GOOD, b"\xff\xc0", 5, b"\x80\0\x80\0"), "too-many-pixels", "32768 x 32768 is more than the limit of"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_cannot_be_read(data, reason, message):
    with pytest.raises(ImageError, match=message) as caught:
        jpeg.read_dct(data)
    assert caught.value.reason == reason


def test_every_cut_and_many_damages_are_errors_or_the_same_shapes():
    """Whatever the bytes are: an ImageError, never another exception, a crash, or other shapes."""
    random = np.random.default_rng(0)
    for name in ("4:2:0 odd", "progressive 4:2:0", "4:1:1 odd"):
        data = FILES[name]
        outcomes = []
        for _ in range(120):
            damaged = bytearray(data)
            damaged[random.integers(2, len(data))] ^= 1 << random.integers(0, 8)
            cut = data[: random.integers(0, len(data) - 1)]
            outcomes += [outcome(bytes(damaged)), outcome(cut)]
        assert set(outcomes) <= {"read", "empty", "not-an-image", "truncated", "corrupt", "unsupported-jpeg",
                                 "high-bit-depth", "too-many-pixels"}  # fmt: skip
        assert outcomes[1::2].count("read") == 0, "a file that was cut off was read"


def outcome(data):
    try:
        jpeg.read_dct(data, max_pixels=1_000_000)
    except ImageError as error:
        return error.reason
    return "read"


def test_the_limit_of_pixels_counts():
    assert jpeg.read_dct(GOOD, max_pixels=64 * 48).width == 64
    with pytest.raises(ImageError, match="64 x 48 is more than the limit of 3071 pixels"):
        jpeg.read_dct(GOOD, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subsampling": "4:2:2"}, "subsampling must be '4:2:0' or None, which keeps the file's, got '4:2:2'"),
        ({"subsampling": "4:2:0", "dequantised": False}, "got subsampling='4:2:0' with dequantised=False"),
        ({"order": "spiral"}, "order must be one of natural, zigzag, got 'spiral'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        jpeg.read_dct(GOOD, **arguments)
    with pytest.raises(ValueError, match=message):
        DecodeDCT(**arguments)


@pytest.mark.parametrize(
    "data",
    [
        without(GOOD, 0xC4),  # motion JPEG: the standard's Huffman tables go without saying
        GOOD[:2] + segment(0xFE, b"a comment") * 300 + GOOD[2:],
        GOOD[:2] + segment(0xE1, b"x" * 65533) + GOOD[2:],
        GOOD[:2] + b"\xff" * 5 + GOOD[2:],  # fill before a marker
        without(GOOD, 0xE0),  # no JFIF: the components are called 1, 2, 3
        GOOD + b"something behind it",
    ],
    ids=["no Huffman tables", "300 comments", "a long segment", "fill", "no JFIF", "trailing bytes"],
)  # fmt: skip
def test_unusual_files(data):
    expected = jpeg.read_dct(GOOD)
    for plane, other in zip(planes(jpeg.read_dct(data)), planes(expected)):
        np.testing.assert_array_equal(plane, other)


def test_tables_are_those_of_each_components_first_scan():
    """Three scans of one component each; between them the table's slot gets other steps, one time in 16 bits."""
    frame = struct.pack(">BHHB", 8, 8, 8, 3) + b"\1\x11\0" + b"\2\x11\0" + b"\3\x11\0"
    scans = [segment(0xDA, bytes((1, ident, 0, 0, 63, 0))) + b"\x12\xff\0\x34\xff\xd0\x56" for ident in (1, 2, 3)]
    tables = [bytes([0] + [9] * 64), bytes([0x10]) + struct.pack(">64H", *range(300, 364)), bytes([0] + [7] * 64)]
    parts = [segment(0xDB, table) + scan for table, scan in zip(tables, scans)]
    found = layout.layout_of(b"\xff\xd8" + segment(0xC0, frame) + b"".join(parts) + b"\xff\xd9")
    assert found.subsampling == "4:4:4"
    assert [table[[0, 1, 8, 63]].tolist() for table in found.tables] == [[9] * 4, [300, 301, 302, 363], [7] * 4]


def test_a_header_that_ends_early():
    with pytest.raises(ImageError, match="the file ends within its header") as caught:
        layout.layout_of(GOOD[:100])
    assert caught.value.reason == "truncated"


def test_threads_do_not_disturb_each_other():
    expected = {name: jpeg.read_dct(data, dequantised=False) for name, data in FILES.items()}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: (name, jpeg.read_dct(FILES[name], dequantised=False)), [*FILES] * 8))
    for name, other in found:
        for plane, same in zip(planes(other), planes(expected[name])):
            np.testing.assert_array_equal(plane, same, err_msg=name)


def test_temporary_files_are_removed(tmp_path, monkeypatch):
    for folder in ("temporary", "working"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setattr(native, "_native", None)
    used = []
    reader = dct.require_reader()

    def spy(path, *pointers):
        used.append(Path(path.decode()))
        return 0

    jpeg.read_dct(GOOD)
    monkeypatch.setattr(dct, "require_reader", lambda: reader._replace(read=spy))
    with pytest.raises(ImageError, match="jpeglib cannot read its coefficients"):
        jpeg.read_dct(GOOD)
    assert [path.parent for path in used] == [tmp_path / "temporary"]
    assert [path for folder in tmp_path.iterdir() for path in folder.iterdir()] == []


def test_without_jpeglib(monkeypatch):
    monkeypatch.setattr(native, "_native", None)
    monkeypatch.setitem(sys.modules, "jpeglib._bind", None)
    dct.require_reader.cache_clear()
    with pytest.raises(AdaCompressError, match=r"needs jpeglib: pip install 'beam-adacompress\[dct\]'"):
        jpeg.read_dct(GOOD)


class Shot(typing.NamedTuple):
    camera: int
    key: str
    data: bytes


coders.registry.register_coder(Shot, coders.RowCoder)


@pytest.mark.parametrize("name", ["4:2:2 odd", "grayscale odd"])
@pytest.mark.parametrize("arguments", [{}, {"dequantised": False, "order": "zigzag"}, {"subsampling": "4:2:0"}])
def test_rows_bring_the_arrays_back(name, arguments):
    found = jpeg.read_dct(FILES[name], **arguments)
    row = jpeg.pack("k", found)
    coder = coders.registry.get_coder(jpeg.DecodedDCT)
    assert isinstance(coder, coders.RowCoder)
    assert coder.decode(coder.encode(row)) == row
    again = jpeg.unpack(row)
    for plane, other in zip([*planes(found), *found.tables], [*planes(again), *again.tables], strict=True):
        np.testing.assert_array_equal(plane, other)
        assert plane.dtype == other.dtype
    unlike = [getattr(again, field) for field in ("subsampling", "width", "height", "dequantised", "order")]
    assert unlike == [getattr(found, field) for field in ("subsampling", "width", "height", "dequantised", "order")]


def test_decode_dct_gives_rows_and_failures():
    rows = [EncodedImage("a", GOOD), EncodedImage("torn", GOOD[:900]), EncodedImage("b", FILES["grayscale"])]
    rows.append(EncodedImage("png", encoded(picture(), "PNG")))
    with TestPipeline(runner="FnApiRunner") as p:
        source = p | beam.Create(rows).with_output_types(EncodedImage)
        decoded, failures = source | DecodeDCT(subsampling="4:2:0")
        assert_that(
            decoded | beam.Map(lambda row: (type(row).__name__, row.key, jpeg.unpack(row).cb.shape, row.subsampling)),
            equal_to([("DecodedDCT", "a", (3, 4, 64), "4:2:0"), ("DecodedDCT", "b", (3, 4, 64), None)]),
            label="decoded",
        )
        assert_that(
            failures,
            equal_to(
                [
                    ImageFailure("torn", "DecodeDCT", "truncated", "decoding failed: Premature end of JPEG file"),
                    ImageFailure(
                        "png",
                        "DecodeDCT",
                        "not-a-jpeg",
                        "only JPEGs have DCT coefficients, and this is PNG: compress it first",
                    ),
                ]
            ),
            label="failures",
        )
    assert (decoded.element_type, failures.element_type) == (jpeg.DecodedDCT, ImageFailure)


def test_decode_dct_carries_other_fields_and_drops_the_file():
    with TestPipeline(runner="FnApiRunner") as p:
        shots = p | beam.Create([Shot(7, "a", GOOD), Shot(8, "b", b"text")]).with_output_types(Shot)
        decoded, failures = shots | DecodeDCT(dequantised=False)
        decoded |= beam.Reshuffle()
        assert_that(
            decoded | beam.Map(lambda r: (r.camera, r.key, hasattr(r, "data"), jpeg.unpack(r).y.shape, r.dequantised)),
            equal_to([(7, "a", False, (6, 8, 64), False)]),
            label="decoded",
        )
        assert_that(
            failures | "F" >> beam.Map(lambda r: (r.camera, r.key, r.stage, r.reason, hasattr(r, "data"))),
            equal_to([(8, "b", "DecodeDCT", "not-an-image", False)]),
            label="failures",
        )
