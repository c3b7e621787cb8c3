from __future__ import annotations

import io
import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_adacompress import manifest, scores
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.manifest import ManifestRow

ROW = ManifestRow(
    key="a/ü #1.jpg",
    status="compressed",
    reason=None,
    output="a/ü #1.jpg",
    quality=35,
    tables="annexk",
    subsampling="4:2:0",
    width=500,
    height=375,
    bytes_in=1000,
    bytes_out=250,
    sha256_in="ab" * 32,
    sha256_out="cd" * 32,
    policy_version="fixed-35",
    propensity=1.0,
    expected_agreement=None,
    error=None,
    seconds=0.003,
)
FAILED = ManifestRow(
    **{
        **dict.fromkeys(ManifestRow._fields),
        "key": "b\n.jpg",
        "status": "failed",
        "reason": "corrupt",
        "error": 'no "picture"',
    }
)


def test_the_schema_has_the_rows_fields():
    assert tuple(manifest.FORMAT.schema.names) == ManifestRow._fields


def test_parquet_round_trip():
    assert manifest.from_parquet(manifest.to_parquet(manifest.to_table([ROW, FAILED])), "x") == [ROW, FAILED]


def test_merging_sorts_and_lets_the_last_row_of_a_key_stand():
    later = ROW._replace(quality=50)
    merged = manifest.merge([manifest.to_table([FAILED, ROW]), manifest.to_table([]), manifest.to_table([later])])
    assert list(manifest.rows_of(merged)) == [later, FAILED]


def test_an_empty_part():
    assert manifest.from_parquet(manifest.to_parquet(manifest.to_table([])), "x") == []


def test_lines_round_trip():
    assert manifest.from_lines(manifest.to_lines([ROW, FAILED]), "x") == [ROW, FAILED]


def test_pandas_reads_it():
    frame = pandas.read_parquet(io.BytesIO(manifest.to_parquet(manifest.to_table([ROW, FAILED]))))
    assert frame.loc[0, "bytes_out"] == 250
    assert list(frame["status"]) == ["compressed", "failed"]


def test_refuses_a_newer_version():
    table = pa.table({"key": ["a"]}).replace_schema_metadata({b"adacompress.manifest": b"2"})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    with pytest.raises(AdaCompressError, match="part-0 has manifest version 2, and this is adacompress for version 1"):
        manifest.from_parquet(buffer.getvalue(), "part-0")
    with pytest.raises(AdaCompressError, match="has manifest version 2"):
        manifest.from_lines(json.dumps({"adacompress.manifest": 2}).encode(), "rows")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\x00" * 100])
def test_refuses_what_is_no_parquet(data):
    with pytest.raises(AdaCompressError, match="part-0 is no readable Parquet file"):
        manifest.from_parquet(data, "part-0")


@pytest.mark.parametrize("data", [b"", b"{}\n", b'{"adacompress.manifest": 1}\n["a", '])
def test_refuses_damaged_lines(data):
    with pytest.raises(AdaCompressError, match="rows-0 holds no rows of a manifest"):
        manifest.from_lines(data, "rows-0")


def test_size_ratio_and_saving():
    assert ROW.size_ratio == 0.25
    assert ROW.saved == 750
    assert FAILED.saved == 0
    assert not FAILED.is_written


def test_parts_are_read_a_few_rows_at_a_time():
    data = manifest.to_parquet(manifest.to_table([ROW, FAILED]))
    assert list(manifest.read_rows(io.BytesIO(data), "x")) == [ROW, FAILED]
    assert list(manifest.find_rows(io.BytesIO(data), "x", {FAILED.key, "elsewhere"})) == [FAILED]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PAR1", "x is no readable Parquet file: "),
        (scores.FAILURES.to_parquet(scores.FAILURES.table([])), "x has manifest version none"),
    ],
)
def test_parts_of_something_else_are_refused(data, said):
    with pytest.raises(AdaCompressError, match=said):
        list(manifest.read_rows(io.BytesIO(data), "x"))
