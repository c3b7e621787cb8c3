"""Lists of URIs: CSV and Parquet files that say where the images are."""

from __future__ import annotations

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encoded, files_of, manifest_rows, picture

from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.formats import read_list
from beam_adacompress.transforms import files
from beam_adacompress.transforms.uri_lists import read_uris, root_of


def parquet_of(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


CSV = b'label,path,"a ""note"""\ncat,a.jpg,"one, two"\n,b/c.jpg,007\n'


def test_csv_keeps_its_other_columns():
    listed = read_list(CSV, "list.csv")
    assert listed.uris == ["a.jpg", "b/c.jpg"]
    assert listed.replaced(["x", "y"]) == b'label,path,"a ""note"""\ncat,x,"one, two"\n,y,007\n'


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_line_ends(delimiter):
    data = f"uri{delimiter}n\r\na,b.jpg{delimiter}1\r\n".encode()
    listed = read_list(data, "list.csv")
    assert listed.uris == ["a,b.jpg"]
    assert listed.replaced(["c"]) == f"uri{delimiter}n\r\nc{delimiter}1\r\n".encode()


def test_gzip_is_kept():
    listed = read_list(gzip.compress(CSV), "list.csv.gz")
    assert gzip.decompress(listed.replaced(listed.uris)) == CSV
    assert listed.replaced(listed.uris) == listed.replaced(listed.uris)


def test_parquet_keeps_its_other_columns():
    table = pa.table({"n": pa.array([1, None], pa.int8()), "url": ["a", "b"]}, metadata={"mine": "kept"})
    listed = read_list(parquet_of(table), "list.parquet")
    assert listed.uris == ["a", "b"]
    found = pq.read_table(pa.BufferReader(listed.replaced(["c", "d"])))
    assert found == pa.table({"n": pa.array([1, None], pa.int8()), "url": ["c", "d"]})
    assert found.schema.metadata[b"mine"] == b"kept"


def test_parquet_keeps_its_compression():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a"], "n": [1]}), buffer, compression={"uri": "ZSTD", "n": "NONE"})
    result = read_list(buffer.getvalue(), "list.parquet").replaced(["b"])
    group = pq.ParquetFile(io.BytesIO(result)).metadata.row_group(0)
    assert [group.column(index).compression for index in range(2)] == ["ZSTD", "UNCOMPRESSED"]


def test_a_byte_order_mark_is_kept():
    data = b"\xef\xbb\xbfuri,n\r\na,1\r\n"
    assert read_list(data, "list.csv").replaced(["b"]) == data.replace(b"a,", b"b,")


def test_which_column():
    data = b"image,uri,other\n1,2,3\n"
    assert read_list(data, "x.csv").uris == ["2"]
    assert read_list(data, "x.csv", "other").uris == ["3"]


@pytest.mark.parametrize(
    ("data", "path", "image_field", "reason", "message"),
    [
        (b"a,b\n1,2\n", "x.csv", None, "no-such-field", "Name it with --image-field; there are a, b"),
        (b"a,b\n1,2\n", "x.csv", "c", "no-such-field", "it has no column c, but a, b"),
        (b"", "x.csv", None, "corrupt-shard", "it is empty"),
        (b"uri\n\xff\n", "x.csv", None, "corrupt-shard", "it is no CSV file in UTF-8"),
        (
            gzip.compress(b"uri\na\n", mtime=0)[:10] + b"\xff" * 9,
            "x.csv.gz",
            None,
            "corrupt-shard",
            "it is no CSV file",
        ),
        (b"uri,n\na,1\nb\n", "x.csv", None, "corrupt-shard", "row 3 has 1 columns, and the header 2"),
        (b"uri,n\na,1\n ,2\n", "x.csv", None, "no-image", "image 2 of it has no URI, but ' '"),
        (b"text", "x.parquet", None, "corrupt-shard", "it is no whole Parquet file"),
        (
            parquet_of(pa.table({"uri": ["a", None]})),
            "x.parquet",
            None,
            "no-image",
            "image 2 of it has no URI, but None",
        ),
    ],
)
def test_lists_that_are_none(data, path, image_field, reason, message):
    with pytest.raises(ImageError, match=message) as raised:
        read_list(data, path, image_field)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("uris", "root"),
    [
        (["/a/b/c.jpg", "/a/b/d/e.jpg"], "/a/b/"),
        (["/a/b/c.jpg"], "/a/b/"),
        (["/a/bc/d.jpg", "/a/b/d.jpg"], "/a/"),
        (["gs://b/x.jpg", "gs://b/y/z.jpg"], "gs://b/"),
        (["gs://a/x.jpg", "gs://b/x.jpg"], "gs://"),
    ],
)
def test_keys_are_relative_to_the_deepest_folder(uris, root):
    assert root_of(uris) == root


def test_uris_may_be_relative_to_the_list(tmp_path):
    path = tmp_path / "lists" / "one.csv"
    path.parent.mkdir()
    path.write_text("uri\n../a.jpg\n/b.jpg\n")
    assert read_uris(str(path), None)[1] == [f"{tmp_path}/a.jpg", "/b.jpg"]


def test_uris_in_a_bucket_may_be_relative_too(monkeypatch):
    monkeypatch.setattr(files, "read", lambda path: b"uri\n../a.jpg\nb/c.jpg\ngs://other/d.jpg\n")
    uris = read_uris("gs://bucket/lists/one.csv", None)[1]
    assert uris == ["gs://bucket/a.jpg", "gs://bucket/lists/b/c.jpg", "gs://other/d.jpg"]
    assert [files.join(root_of(uris), uri[len(root_of(uris)) :]) for uri in uris] == uris


def test_one_filesystem_for_each_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("uri\ngs://a/b.jpg\n/c.jpg\n")
    with pytest.raises(AdaCompressError, match=r"URIs of several filesystems \(a disk, gs\): make it several lists"):
        read_uris(str(path), None)


@pytest.fixture
def listed(tmp_path):
    """Three images, one of them named twice and one not there, in a list."""
    for name in ("x/a.jpg", "y/b.jpg", "c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(encoded(picture(seed=len(name)), "PNG" if "png" in name else "JPEG"))
    path = tmp_path / "list.csv"
    names = ["x/a.jpg", "y/b.jpg", "x/a.jpg", "gone.jpg", "c.png"]
    path.write_text("label,path\n" + "".join(f"{index},photos/{name}\n" for index, name in enumerate(names)))
    return path


def test_a_run_over_a_list(listed, compress, tmp_path, capsys):
    assert compress(listed, tmp_path / "out") == 0
    images = tmp_path / "out" / "images"
    assert sorted(files_of(images)) == ["c.png.jpg", "x/a.jpg", "y/b.jpg"]
    rows = manifest_rows(tmp_path / "out")
    assert (rows["gone.jpg"].reason, rows["gone.jpg"].error) == (
        "unreadable",
        f"{tmp_path}/photos/gone.jpg: there is no such file",
    )
    assert (tmp_path / "out" / "list.csv").read_text().splitlines() == [
        "label,path",
        f"0,{images}/x/a.jpg",
        f"1,{images}/y/b.jpg",
        f"2,{images}/x/a.jpg",
        "3,photos/gone.jpg",
        f"4,{images}/c.png.jpg",
    ]
    assert "3 of 4 images compressed, 0 kept, 1 failed" in capsys.readouterr().out


def test_a_run_over_a_list_goes_on(listed, compress, tmp_path):
    assert compress(listed, tmp_path / "out") == 0
    (tmp_path / "photos" / "gone.jpg").write_bytes(encoded(picture()))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.jpg")}
    assert compress(listed, tmp_path / "out") == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert f"3,{tmp_path}/out/images/gone.jpg" in (tmp_path / "out" / "list.csv").read_text()


def test_scores_of_a_list(listed, compress, tmp_path, vision, capsys):
    assert compress(listed, tmp_path / "out", f"--score-with={vision.uri}", "--sample-rate=1") == 0
    assert "3 of 3 images scored" in capsys.readouterr().out


def test_a_list_that_is_none(tmp_path, compress, capsys):
    path = tmp_path / "list.csv"
    assert compress(path) == 1
    assert f"cannot read the list {path}: No such file" in capsys.readouterr().err
    path.write_text("a,b\n")
    assert compress(path) == 1
    assert f"cannot read the list {path}: which column has the URIs?" in capsys.readouterr().err
