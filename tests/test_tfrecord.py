"""TFRecord shards, byte by byte."""

from __future__ import annotations

import gzip
import io
import struct
import zlib

import pytest
import shards
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_adacompress.errors import ImageError
from beam_adacompress.formats import Record, Replacement, shard_format

FORMAT = shard_format("tfrecord")


def records(data, form=FORMAT):
    return shards.records(data, form)


def rewritten(data, results=None, form=FORMAT):
    return shards.rewritten(data, results or {}, form)


def shard(*records):
    return b"".join(map(shards.framed, records))


TWO = shard(shards.example("cat", b"an image"), shards.example("dog", b"another"))


def test_images_by_their_positions():
    assert records(TWO) == [Record("00000000", b"an image"), Record("00000001", b"another")]


def test_no_shard_is_too_small():
    assert records(b"") == []
    assert rewritten(b"") == b""


def test_what_is_not_exchanged_comes_out_bit_for_bit():
    assert rewritten(TWO) == TWO
    result = rewritten(TWO, {"00000001": Replacement(b"smaller", renamed=True)})
    assert result == shard(shards.example("cat", b"an image"), shards.example("dog", b"smaller"))


def test_features_of_every_kind_and_unknown_fields_keep_their_places():
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    example.features.feature["box"].float_list.value.extend([0.25, -1e30])
    example.features.feature["class"].int64_list.value.extend([-1, 2**40])
    example.features.feature["image/encoded"].bytes_list.value.append(b"an image")
    serialised = example.SerializeToString() + shards.field(7, b"who knows")
    result = rewritten(shard(serialised), {"00000000": Replacement(b"JPEG", renamed=False)})
    size = struct.unpack("<Q", result[:8])[0]
    found = example_pb2.Example.FromString(result[12 : 12 + size])
    assert found.features.feature["image/encoded"].bytes_list.value[:] == [b"JPEG"]
    found.features.feature["image/encoded"].bytes_list.value[0] = b"an image"
    assert found == example_pb2.Example.FromString(serialised)
    assert result[12 : 12 + size].endswith(shards.field(7, b"who knows"))


def test_another_feature():
    form = shard_format("tfrecord", "label")
    assert [record.data for record in records(TWO, form)] == [b"cat", b"dog"]
    assert rewritten(TWO, {"00000000": Replacement(b"lynx", False)}, form).startswith(
        shard(shards.example("lynx", b"an image"))
    )


FLOATS = shards.field(1, shards.field(1, shards.field(1, b"image/encoded") + shards.field(2, shards.field(2, b""))))
SEVERAL = shards.field(
    1,
    shards.field(
        1,
        shards.field(1, b"image/encoded")
        + shards.field(2, shards.field(1, shards.field(1, b"a") + shards.field(1, b"b"))),
    ),
)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (b"\xff\xff", "the record is no tf.train.Example"),
        (b"", "the Example has no feature image/encoded, but none: name the right one with --image-field"),
        (FLOATS, "the feature image/encoded holds other values and not the bytes of one image"),
        (SEVERAL, "the feature image/encoded holds 2 values and not the bytes of one image"),
    ],
)
def test_records_without_an_image_are_carried_along(record, problem):
    data = shard(record, shards.example("dog", b"another"))
    assert records(data) == [Record("00000000", None, problem), Record("00000001", b"another")]
    assert rewritten(data) == data


def test_a_feature_of_another_name_is_named():
    (record, _) = records(TWO, shard_format("tfrecord", "image"))
    assert record.problem == (
        "the Example has no feature image, but image/encoded, label: name the right one with --image-field"
    )


def test_images_that_are_too_large():
    form = shard_format("tfrecord", None, 7)
    assert [record.data for record in records(TWO, form)] == [None, b"another"]
    assert records(TWO, form)[0].problem == "8 bytes are more than the limit of 7; raise it with --max-bytes"


@pytest.mark.parametrize("cut", [1, 5, 11, 12, 20, len(TWO) // 2 + 3, len(TWO) - 1])
def test_a_shard_that_ends_too_early(cut):
    with pytest.raises(ImageError, match="it ends in the middle of record") as raised:
        records(TWO[:cut])
    assert raised.value.reason == "corrupt-shard"
    with pytest.raises(ImageError, match="it ends in the middle of record"):
        rewritten(TWO[:cut])


@pytest.mark.parametrize("place", range(0, len(TWO), 3))
def test_a_flipped_bit_is_noticed(place):
    damaged = bytearray(TWO)
    damaged[place] ^= 16
    with pytest.raises(
        ImageError, match=r"checksum of the (length|content) of record [01] is wrong|ends in the middle"
    ):
        records(bytes(damaged))


def test_what_came_before_the_damage_was_there():
    found = FORMAT.records(io.BytesIO(TWO[:-1]))
    assert next(found).data == b"an image"
    with pytest.raises(ImageError, match="in the middle of record 1"):
        next(found)


def test_what_is_no_tfrecord_file():
    with pytest.raises(ImageError, match=r"the length of record 0 is wrong; is it a TFRecord file\?"):
        records(b"this is a text and nothing else")


def test_a_length_that_is_a_lie_takes_no_memory():
    length = struct.pack("<Q", 2**62)
    with pytest.raises(ImageError, match="in the middle of record 0"):
        records(length + shards.masked_crc(length) + b"x")


@pytest.mark.parametrize(("pack", "unpack"), [(gzip.compress, gzip.decompress), (zlib.compress, zlib.decompress)])
def test_compression_is_kept(pack, unpack):
    packed = pack(TWO)
    assert records(packed) == records(TWO)
    result = rewritten(packed, {"00000000": Replacement(b"JPEG", renamed=False)})
    assert result == rewritten(packed, {"00000000": Replacement(b"JPEG", renamed=False)})
    assert unpack(result) == rewritten(TWO, {"00000000": Replacement(b"JPEG", renamed=False)})
    with pytest.raises(ImageError, match=r"its compression is damaged in record|ends in the middle"):
        records(packed[:-9])


def test_reading_is_piece_by_piece():
    data = shard(*[shards.example("x", bytes(1000))] * 1000)

    source = shards.Counting(data)
    next(FORMAT.records(source))
    assert source.taken < 5000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=300)), max_size=5), st.binary(max_size=400))
def test_any_shard_survives(content, result):
    data = shard(*[shards.example(label, image) for label, image in content])
    assert [record.data for record in records(data)] == [image for _, image in content]
    assert rewritten(data) == data
    expected = shard(*[shards.example(label, result) for label, _ in content])
    names = {f"{index:08d}": Replacement(result, renamed=False) for index in range(len(content))}
    assert rewritten(data, names) == expected
