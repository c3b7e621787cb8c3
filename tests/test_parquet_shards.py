"""Parquet shards, column by column."""

from __future__ import annotations

import base64
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shards
from pyarrow.parquet import encryption

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


@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_timestamps_as_other_writers_have_them(version):
    when = pa.array([1234567890123456789, None], pa.timestamp("ns"))
    data = shard_of(
        pa.table({"image": [b"a", b"b"], "when": when}), version=version, use_deprecated_int96_timestamps=True
    )
    result = rewritten(data, {"00000000": Replacement(b"c", renamed=False)})
    assert table(result)["when"].combine_chunks() == when
    assert pq.ParquetFile(io.BytesIO(result)).schema.column(1).physical_type == "INT96"


def test_nanoseconds_in_a_file_of_version_1():
    when = pa.array([1234567890123456789], pa.timestamp("ns"))
    data = shard_of(pa.table({"image": [b"a"], "when": when}), version="2.6")
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert data[start : start + 2] == b"\x15\x04"  # the field `version` of the footer: 2
    data = data[: start + 1] + b"\x02" + data[start + 2 :]  # 1
    assert pq.ParquetFile(io.BytesIO(data)).metadata.format_version == "1.0"
    assert table(rewritten(data, {"00000000": Replacement(b"c", renamed=False)}))["when"].combine_chunks() == when


def test_dictionaries_in_a_file_of_version_1():
    data = shard_of(pa.table({"image": [b"a", b"b"], "label": ["x", "x"]}), version="1.0", use_dictionary=["label"])
    before, after = (pq.ParquetFile(io.BytesIO(each)).metadata.row_group(0) for each in (data, rewritten(data)))
    assert [after.column(index).encodings for index in range(2)] == [
        before.column(index).encodings for index in range(2)
    ]


def test_a_null_struct_whose_bytes_may_not_be_null():
    fields = [pa.field("bytes", pa.binary(), nullable=False)]
    images = pa.StructArray.from_arrays([pa.array([b"a", b""])], fields=fields, mask=pa.array([False, True]))
    data = shard_of(pa.table({"image": images}))
    assert [record.data for record in records(data)] == [b"a", None]
    result = rewritten(data, {"00000000": Replacement(b"c", renamed=False)})
    assert table(result)["image"].to_pylist() == [{"bytes": b"c"}, None]


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


@pytest.mark.parametrize("image_field", [None, "image"])
def test_two_columns_of_one_name(image_field):
    data = shard_of(pa.Table.from_arrays([pa.array([b"1"]), pa.array([b"2"])], names=["image", "image"]))
    with pytest.raises(ImageError, match=r"image \(binary\), image \(binary\)") as raised:
        records(data, shard_format("parquet", image_field))
    assert raised.value.reason == "no-such-field"


def test_lists_of_images_are_not_supported():
    data = shard_of(pa.table({"images": pa.array([[{"bytes": b"1", "path": "p"}]], pa.list_(STRUCT))}))
    with pytest.raises(ImageError, match=r"images \(list<.*; lists of images are not supported"):
        records(data)


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


class _Keys(encryption.KmsClient):
    """Keys that are no secret."""

    def wrap_key(self, key_bytes, master_key_identifier):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plaintext_footer", [False, True])
@pytest.mark.parametrize("column", ["image", "label"])
def test_encryption_is_refused(column, plaintext_footer):
    how = encryption.EncryptionConfiguration(
        footer_key="k", column_keys={"k": [column]}, plaintext_footer=plaintext_footer
    )
    properties = encryption.CryptoFactory(lambda _: _Keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(), how
    )
    data = shard_of(pa.table({"image": [b"a"], "label": ["x"]}), encryption_properties=properties)
    # By rewriting alone all columns are read.
    with pytest.raises(ImageError, match="it is encrypted, which is not supported") as raised:
        rewritten(data)
    assert raised.value.reason == "unsupported-shard"


def test_a_connection_that_is_lost_is_no_damage():
    data = shard_of(pa.table({"image": [bytes(range(256))] * 1000}), use_dictionary=False, compression="NONE")
    with pytest.raises(ConnectionError):
        next(FORMAT.records(shards.Lost(data)))


def test_one_row_group_at_a_time():
    columns = {"image": [bytes([index % 256]) * 10_000 for index in range(400)]}
    data = shard_of(pa.table(columns), row_group_size=10, compression="NONE", use_dictionary=False)

    source = shards.Counting(data)
    next(FORMAT.records(source))
    assert source.taken < len(data) / 3
