"""Parquet shards, column by column."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shards

from beam_adacompress.errors import ImageError
from beam_adacompress.formats import Record, Replacement, shard_format

FORMAT = shard_format("parquet")
STRUCT = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def shard_of(table, **options):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def records(data, form=FORMAT):
    return shards.records(data, form)


def rewritten(data, results=None, form=FORMAT):
    return shards.rewritten(data, results or {}, form)


def table(data):
    return pq.read_table(pa.BufferReader(data))


def test_a_column_of_bytes():
    data = shard_of(pa.table({"label": [1, 2], "image": [b"an image", b"another"]}))
    assert records(data) == [Record("00000000", b"an image"), Record("00000001", b"another")]
    result = rewritten(data, {"00000001": Replacement(b"smaller", renamed=True)})
    assert table(result) == pa.table({"label": [1, 2], "image": [b"an image", b"smaller"]})


def test_the_struct_of_hugging_face_and_everything_beside_it():
    features = b'{"info": {"features": {"image": {"_type": "Image"}}}}'
    schema = pa.schema(
        [
            pa.field("image", STRUCT, metadata={"field": "kept"}),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
            pa.field("thumbnail", pa.large_binary()),
            pa.field("when", pa.timestamp("us", "UTC"), nullable=False),
        ],
        metadata={b"huggingface": features},
    )
    images = [
        {"bytes": b"an image", "path": "0.png"},
        None,
        {"bytes": None, "path": "2.png"},
        {"bytes": b"b", "path": None},
    ]
    columns = {
        "image": images,
        "tags": [["a"], [], None, ["b", "c"]],
        "kind": pa.array(["x", "y", "x", "x"]).dictionary_encode(),
        "thumbnail": [b"1", b"2", None, b"4"],
        "when": [1, 2, 3, 4],
    }
    before = pa.table(columns, schema=schema)
    data = shard_of(before, row_group_size=3, compression={"image.bytes": "NONE", "tags.list.element": "ZSTD"})
    assert [(record.data, record.problem) for record in records(data)] == [
        (b"an image", None),
        (None, "the column image is null in row 1"),
        (None, "the column image is null in row 2"),
        (b"b", None),
    ]
    result = rewritten(data, {"00000000": Replacement(b"JPEG", renamed=True), "00000003": Replacement(b"c", False)})
    after = table(result)
    images = [
        {"bytes": b"JPEG", "path": "0.png"},
        None,
        {"bytes": None, "path": "2.png"},
        {"bytes": b"c", "path": None},
    ]
    expected = table(data)
    assert after.schema.equals(expected.schema, check_metadata=True)
    assert after.schema.metadata[b"huggingface"] == features
    assert after["image"].to_pylist() == images
    assert after.drop_columns("image") == expected.drop_columns("image")


def test_row_groups_and_compression_are_kept():
    columns = {"image": [bytes([index]) * 500 for index in range(250)], "label": list(range(250))}
    compression = {"image": "NONE", "label": "GZIP"}
    data = shard_of(pa.table(columns), row_group_size=100, compression=compression, use_dictionary=["label"])
    result = rewritten(data, {f"{index:08d}": Replacement(b"x" * index, renamed=False) for index in range(0, 250, 2)})
    assert table(result)["image"].to_pylist() == [
        columns["image"][index] if index % 2 else b"x" * index for index in range(250)
    ]
    before, after = (pq.ParquetFile(io.BytesIO(content)).metadata for content in (data, result))
    assert after.num_row_groups == before.num_row_groups == 3
    for group in range(3):
        assert after.row_group(group).num_rows == before.row_group(group).num_rows
        for column in range(2):
            one, other = (found.row_group(group).column(column) for found in (before, after))
            assert other.compression == one.compression
            assert ("RLE_DICTIONARY" in other.encodings) == ("RLE_DICTIONARY" in one.encodings)


def test_an_empty_shard():
    data = shard_of(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())}))
    assert records(data) == []
    assert table(rewritten(data)) == table(data)


def test_which_column():
    two = pa.table({"a": [b"1"], "b": [b"2"]})
    with pytest.raises(ImageError, match=r"which column has the images\? .* there are a \(binary\), b \(binary\)"):
        records(shard_of(two))
    assert records(shard_of(two), shard_format("parquet", "b")) == [Record("00000000", b"2")]
    assert records(shard_of(pa.table({"a": [b"1"], "image": [b"2"]}))) == [Record("00000000", b"2")]
    assert records(shard_of(pa.table({"a": ["x"], "jpeg": [b"2"]}))) == [Record("00000000", b"2")]
    struct = pa.array([{"bytes": b"3", "path": ""}], STRUCT)
    assert records(shard_of(pa.table({"a": [b"1"], "photo": struct}))) == [Record("00000000", b"3")]


@pytest.mark.parametrize("image_field", ["c", "label"])
def test_a_column_that_is_not_of_images(image_field):
    data = shard_of(pa.table({"image": [b"1"], "label": ["x"]}))
    with pytest.raises(ImageError, match=rf"no column {image_field} of images .* image \(binary\), label") as raised:
        records(data, shard_format("parquet", image_field))
    assert raised.value.reason == "no-such-field"


def test_images_that_are_too_large():
    data = shard_of(pa.table({"image": [b"12345678", b"1234567"]}))
    first, second = records(data, shard_format("parquet", None, 7))
    assert first.problem == "8 bytes are more than the limit of 7; raise it with --max-bytes"
    assert second.data == b"1234567"


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"text", lambda data: data[:4] + data[400:]])
def test_damage_is_noticed(damage):
    data = damage(shard_of(pa.table({"image": [bytes(range(256))] * 10})))
    for read in (records, rewritten):
        with pytest.raises(ImageError, match="it cannot be read as Parquet") as raised:
            read(data)
        assert raised.value.reason == "corrupt-shard"


def test_one_row_group_at_a_time():
    columns = {"image": [bytes([index % 256]) * 10_000 for index in range(400)]}
    data = shard_of(pa.table(columns), row_group_size=10, compression="NONE", use_dictionary=False)

    source = shards.Counting(data)
    next(FORMAT.records(source))
    assert source.taken < len(data) / 3
