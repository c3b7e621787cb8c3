"""`adacompress compress`, from a folder to a run, in this process."""

from __future__ import annotations

import json
import os

import pytest
from conftest import decoded, encoded, files_of, manifest_rows, picture
from PIL import Image

from beam_adacompress.pipelines import cli


def test_a_run_from_end_to_end(corpus, compress, tmp_path, capsys):
    (corpus / "torn.jpg").write_bytes(encoded(picture())[:900])
    (corpus / "clear.png").write_bytes(encoded(picture(mode="RGBA"), "PNG"))
    (corpus / "plain.png").write_bytes(encoded(picture(), "PNG"))
    (corpus / "notes.txt").write_bytes(b"no image")
    assert compress(corpus) == 0
    out = tmp_path / "out"
    rows = manifest_rows(out)
    assert {key: (row.status, row.reason) for key, row in rows.items()} == {
        **{f"{'ab'[index % 2]}/{index}.jpg": ("compressed", None) for index in range(6)},
        "torn.jpg": ("failed", "truncated"),
        "clear.png": ("kept", "alpha"),
        "plain.png": ("compressed", None),
        "notes.txt": ("failed", "not-an-image"),
    }
    images = files_of(out / "images")
    assert set(images) == {row.output for row in rows.values() if row.output}
    assert "plain.png.jpg" in images
    assert images["clear.png"] == (corpus / "clear.png").read_bytes()
    for row in rows.values():
        source = (corpus / row.key).read_bytes()
        assert row.bytes_in == len(source)
        assert row.sha256_in == __import__("hashlib").sha256(source).hexdigest()
        if row.output:
            assert row.bytes_out == len(images[row.output])
            assert row.sha256_out == __import__("hashlib").sha256(images[row.output]).hexdigest()
    one = rows["a/0.jpg"]
    assert (one.quality, one.tables, one.subsampling, one.policy_version) == (35, "annexk", "4:2:0", "fixed-35")
    assert (one.width, one.height, one.propensity, one.expected_agreement) == (96, 64, 1.0, None)
    assert rows["torn.jpg"].error == "decoding failed: Premature end of JPEG file"
    content = json.loads((out / "summary.json").read_text())
    assert content["images"] == {"total": 10, "compressed": 7, "kept": 1, "failed": 2}
    assert content["bytes"]["in"] == sum(row.bytes_in for row in rows.values() if row.output)
    assert content["bytes"]["out"] == sum(map(len, images.values()))
    assert content["qualities"] == {"35": 7}
    assert content["options"]["keep_metadata"] == "icc"
    page = (out / "report.html").read_text()
    assert "clear.png" in page
    assert "truncated" in page
    assert "http" not in page.replace("http-equiv", "")
    assert sorted(path.name for path in out.iterdir()) == [
        "_adacompress",
        "images",
        "job.toml",
        "manifest",
        "report.html",
        "summary.json",
    ]
    assert [path.name for path in (out / "_adacompress").iterdir()] == ["run.json"]
    printed = capsys.readouterr().out
    assert "7 of 10 images compressed, 1 kept, 2 failed" in printed
    assert f"rows with status 'failed' in {out / 'manifest'}" in printed
    assert f"report: {out / 'report.html'}" in printed


ODD_NAMES = [
    "plain.jpg",
    "with space.jpg",
    "hash#tag.jpg",
    "per%20cent.jpg",
    "quest?ion.jpg",
    "star*[1].jpg",
    "ünïcödé/日本語/🦊.jpg",
    "quote'\"s.jpg",
    "new\nline.jpg",
    "back\\slash.jpg",
    "-dash.jpg",
    "no_extension",
    "UPPER.JPEG",
    "wrong.png",
    "gz.jpg.gz",
    "n" * 240 + ".jpg",
    "/".join(["nested"] * 30) + "/deep.jpg",
]


def test_names_of_every_kind(compress, tmp_path):
    for index, name in enumerate(ODD_NAMES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed=index)))
    assert compress(tmp_path / "in") == 0
    rows = manifest_rows(tmp_path / "out")
    assert {key: row.status for key, row in rows.items()} == dict.fromkeys(ODD_NAMES, "compressed")
    assert set(files_of(tmp_path / "out" / "images")) == set(ODD_NAMES)


def test_a_name_that_is_not_utf8_is_a_failure_row(compress, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.jpg").write_bytes(encoded(picture()))
    with open(os.fsencode(tmp_path / "in") + b"/bad\xff.jpg", "wb") as file:
        file.write(encoded(picture()))
    assert compress(tmp_path / "in") == 0
    rows = manifest_rows(tmp_path / "out")
    assert {key: row.reason for key, row in rows.items()} == {"bad\\udcff.jpg": "bad-key", "good.jpg": None}


def test_a_result_whose_name_is_not_free_is_the_original(compress, tmp_path):
    long = "n" * 249 + ".png"
    source = tmp_path / "in"
    (source / "a.png.jpg").mkdir(parents=True)
    for name in (long, "a.png"):
        (source / name).write_bytes(encoded(picture(), "PNG"))
    for name in ("good.jpg", "a.png.jpg/z.jpg"):
        (source / name).write_bytes(encoded(picture()))
    assert compress(source) == 0
    rows = manifest_rows(tmp_path / "out")
    assert {key: (row.status, row.reason, row.output) for key, row in rows.items()} == {
        long: ("kept", "name-not-free", long),
        "a.png": ("kept", "name-not-free", "a.png"),
        "good.jpg": ("compressed", None, "good.jpg"),
        "a.png.jpg/z.jpg": ("compressed", None, "a.png.jpg/z.jpg"),
    }
    assert (tmp_path / "out" / "images" / "a.png").read_bytes() == (source / "a.png").read_bytes()
    assert rows["a.png"].sha256_out == rows["a.png"].sha256_in


def test_an_image_too_large_for_jpeg_is_kept(compress, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "wide.png").write_bytes(encoded(Image.new("RGB", (65_501, 4)), "PNG"))
    (tmp_path / "in" / "good.jpg").write_bytes(encoded(picture()))
    assert compress(tmp_path / "in", tmp_path / "out", "--flatten") == 0
    rows = manifest_rows(tmp_path / "out")
    assert (rows["wide.png"].status, rows["wide.png"].reason) == ("kept", "too-large-for-jpeg")
    assert rows["good.jpg"].status == "compressed"


def test_the_same_name_with_other_extensions(compress, tmp_path):
    names = {"a.jpg": "JPEG", "a.png": "PNG", "a.bmp": "BMP", "a.png.jpg": "JPEG", "a": "PNG", "a.png.jpg.jpg": "PNG"}
    for index, (name, form) in enumerate(names.items()):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(seed=index, width=100 + index), form))
    assert compress(tmp_path / "in") == 0
    rows = manifest_rows(tmp_path / "out")
    assert {key: row.output for key, row in rows.items()} == {
        "a": "a.jpg",
        "a.jpg": "a.jpg.jpg",
        "a.png": "a.png.jpg",
        "a.png.jpg": "a.png.jpg.jpg",
        "a.png.jpg.jpg": "a.png.jpg.jpg.jpg",
        "a.bmp": "a.bmp.jpg",
    }
    widths = {key: decoded((tmp_path / "out" / "images" / row.output).read_bytes()).width for key, row in rows.items()}
    assert widths == {name: 100 + index for index, name in enumerate(names)}


def test_links_pipes_and_loops(compress, tmp_path):
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    (source / "a.jpg").write_bytes(encoded(picture()))
    (source / "sub" / "loop").symlink_to(source)
    (source / "link.jpg").symlink_to(source / "a.jpg")
    (source / "broken.jpg").symlink_to("gone")
    os.mkfifo(source / "pipe.jpg")
    assert compress(source) == 0
    assert {key: row.error for key, row in manifest_rows(tmp_path / "out").items()} == {
        "a.jpg": None,
        "link.jpg": None,
        "broken.jpg": "reading failed: No such file or directory",
        "pipe.jpg": "reading failed: it is no regular file",
    }


def test_a_glob_and_a_single_file(corpus, compress, tmp_path):
    assert compress(f"{corpus}/a/*.jpg", tmp_path / "glob") == 0
    assert set(manifest_rows(tmp_path / "glob")) == {"0.jpg", "2.jpg", "4.jpg"}
    assert compress(corpus / "b" / "1.jpg", tmp_path / "file") == 0
    assert set(manifest_rows(tmp_path / "file")) == {"1.jpg"}


def test_an_output_inside_the_input_is_no_input(corpus, compress):
    assert compress(corpus, corpus / "out") == 0
    assert compress(corpus, corpus / "out") == 0
    assert len(manifest_rows(corpus / "out")) == 6


def test_our_own_output_is_kept_as_it_is(corpus, compress, tmp_path):
    assert compress(corpus) == 0
    assert compress(tmp_path / "out" / "images", tmp_path / "again", "--quality=5") == 0
    assert files_of(tmp_path / "again" / "images") == files_of(tmp_path / "out" / "images")
    assert {row.reason for row in manifest_rows(tmp_path / "again").values()} == {"already-compressed"}


def test_options_reach_the_encoder(corpus, compress, tmp_path):
    options = ["--quality=80", "--subsampling=4:4:4", "--no-optimize", "--no_progressive", "--min-saving=0"]
    assert compress(corpus, tmp_path / "out", *options) == 0
    image = decoded((tmp_path / "out" / "images" / "a" / "0.jpg").read_bytes())
    theirs = encoded(
        decoded((corpus / "a" / "0.jpg").read_bytes()), quality=80, subsampling="4:4:4", comment=b"adacompress fixed-80"
    )
    assert image.info.get("progressive") is None
    assert (tmp_path / "out" / "images" / "a" / "0.jpg").read_bytes() == theirs


@pytest.mark.parametrize("option", ["--max-pixels=6143", "--max-bytes=100"])
def test_limits(corpus, compress, tmp_path, option):
    assert compress(corpus, tmp_path / "out", option) == 0
    reason = "too-many-pixels" if "pixels" in option else "too-many-bytes"
    assert {row.reason for row in manifest_rows(tmp_path / "out").values()} == {reason}
    assert "No image was written" in (tmp_path / "out" / "report.html").read_text()


def test_max_failures(corpus, compress, tmp_path, capsys):
    (corpus / "torn.jpg").write_bytes(b"")
    assert compress(corpus, tmp_path / "a", "--max-failures=0.2") == 0
    assert compress(corpus, tmp_path / "b", "--max-failures=0.1") == 3
    assert "14.29% of the images failed, more than --max-failures 0.1" in capsys.readouterr().err


def test_same_options_same_bytes_whatever_the_number_of_workers(corpus, compress, tmp_path):
    for index in range(40):
        (corpus / f"{index}.png").write_bytes(encoded(picture(seed=index), "PNG"))
    assert compress(corpus, tmp_path / "one", "--policy=default") == 0
    arguments = ["--input", str(corpus), "--output", str(tmp_path / "three"), "--direct_num_workers=3"]
    assert cli.main(["compress", *arguments]) == 0
    assert files_of(tmp_path / "one" / "images") == files_of(tmp_path / "three" / "images")
    without_times = [
        {key: row._replace(seconds=None) for key, row in manifest_rows(tmp_path / name).items()}
        for name in ("one", "three")
    ]
    assert without_times[0] == without_times[1]


@pytest.mark.parametrize(
    "runner",
    [
        ["--runner=BundleBasedDirectRunner"],
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
        ["--direct_running_mode=multi_threading", "--direct_num_workers=2"],
    ],
    ids=lambda flags: flags[0],
)
def test_other_runners_write_the_same_bytes(corpus, compress, tmp_path, runner):
    assert compress(corpus, tmp_path / "usual", "--policy=default") == 0
    assert cli.main(["compress", "--input", str(corpus), "--output", str(tmp_path / "other"), *runner]) == 0
    assert files_of(tmp_path / "other" / "images") == files_of(tmp_path / "usual" / "images")
    assert set(manifest_rows(tmp_path / "other")) == set(manifest_rows(tmp_path / "usual"))


def test_other_options_are_refused_until_overwrite(corpus, compress, tmp_path, capsys):
    assert compress(corpus) == 0
    before = files_of(tmp_path / "out")
    assert compress(corpus, tmp_path / "out", "--quality=50") == 1
    assert (
        f"adacompress: {tmp_path / 'out'} holds a run with other options (quality was 35, now 50): "
        "choose another --output, or discard that run with --overwrite\n"
    ) in capsys.readouterr().err
    assert files_of(tmp_path / "out") == before
    assert compress(corpus, tmp_path / "out", "--quality=50", "--overwrite") == 0
    assert {row.quality for row in manifest_rows(tmp_path / "out").values()} == {50}


@pytest.mark.parametrize("name", ["images/theirs.jpg", "manifest/theirs.parquet", "summary.json", "report.html"])
def test_files_of_others_in_the_output_are_not_touched(corpus, compress, tmp_path, capsys, name):
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"precious")
    assert compress(corpus) == 1
    assert (
        f"{theirs} is there already, and no run of adacompress is known to have written it" in capsys.readouterr().err
    )
    assert files_of(tmp_path / "out") == {name: b"precious"}
    assert compress(corpus, tmp_path / "out", "--overwrite") == 0
    assert (theirs.read_bytes() == b"precious") is (name not in ("summary.json", "report.html"))


def test_a_run_of_a_newer_release_is_refused(corpus, compress, tmp_path, capsys):
    assert compress(corpus) == 0
    record = tmp_path / "out" / "_adacompress" / "run.json"
    record.write_text(record.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert compress(corpus) == 1
    assert "run.json has version 2, and this is adacompress for version 1" in capsys.readouterr().err
    record.write_text("{")
    assert compress(corpus) == 1
    assert "run.json is damaged" in capsys.readouterr().err


def test_links_between_input_and_output_are_seen_through(corpus, compress, tmp_path, capsys):
    assert compress(corpus) == 0
    before = files_of(tmp_path / "out" / "images")
    (tmp_path / "link").symlink_to(tmp_path / "out" / "images")
    assert compress(tmp_path / "link", tmp_path / "out", "--overwrite") == 2
    assert compress(tmp_path / "link" / "*", tmp_path / "out", "--overwrite") == 2
    assert "lies in the output" in capsys.readouterr().err
    assert files_of(tmp_path / "out" / "images") == before
    (corpus / "back").symlink_to(tmp_path / "out")
    (tmp_path / "linked").symlink_to(corpus)
    assert compress(tmp_path / "linked") == 0
    assert len(manifest_rows(tmp_path / "out")) == 6
    assert compress(tmp_path / "linked", corpus / "inside") == 0
    assert compress(tmp_path / "linked", tmp_path / "linked" / "inside") == 0
    assert len(manifest_rows(corpus / "inside")) == 17  # the corpus, and through `back` all files of the other run


def test_a_change_that_keeps_the_size_is_seen(compress, tmp_path):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.bmp"
    source.write_bytes(encoded(picture(seed=1), "BMP"))
    assert compress(tmp_path / "in") == 0
    first = manifest_rows(tmp_path / "out")["a.bmp"]
    source.write_bytes(encoded(picture(seed=2), "BMP"))
    assert source.stat().st_size == first.bytes_in
    assert compress(tmp_path / "in") == 0
    assert manifest_rows(tmp_path / "out")["a.bmp"].sha256_in != first.sha256_in


def test_only_what_is_new_is_done(corpus, compress, tmp_path):
    assert compress(corpus) == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.jpg")}
    (corpus / "new.jpg").write_bytes(encoded(picture(seed=30)))
    (corpus / "a" / "0.jpg").write_bytes(encoded(picture(120, 90, seed=31)))
    (tmp_path / "out" / "images" / "a" / "2.jpg").write_bytes(b"half")
    (tmp_path / "out" / "images" / "a" / "4.jpg").unlink()
    (corpus / "b" / "1.jpg").unlink()
    assert compress(corpus) == 0
    rows = manifest_rows(tmp_path / "out")
    assert set(rows) == {"new.jpg", "a/0.jpg", "a/2.jpg", "a/4.jpg", "b/3.jpg", "b/5.jpg"}
    assert rows["a/0.jpg"].width == 120
    for row in rows.values():
        assert (tmp_path / "out" / "images" / row.output).stat().st_size == row.bytes_out
    again = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    names = {str(path.relative_to(tmp_path / "out" / "images")) for path in again}
    assert names == {"a/0.jpg", "a/2.jpg", "a/4.jpg"}


def test_parts_of_the_manifest_follow_the_input(corpus, compress, tmp_path, monkeypatch):
    monkeypatch.setattr("beam_adacompress.transforms.sources.SHARD_SIZE", 2)
    assert compress(corpus) == 0
    parts = sorted((tmp_path / "out" / "manifest").iterdir())
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert list(manifest_rows(tmp_path / "out")) == ["a/0.jpg", "a/2.jpg", "a/4.jpg", "b/1.jpg", "b/3.jpg", "b/5.jpg"]
    for name in ("b/3.jpg", "b/5.jpg", "a/0.jpg"):
        (corpus / name).unlink()
    assert compress(corpus) == 0
    assert len(list((tmp_path / "out" / "manifest").iterdir())) == 2
    assert list(manifest_rows(tmp_path / "out")) == ["a/2.jpg", "a/4.jpg", "b/1.jpg"]


def test_an_output_that_is_a_file(corpus, compress, tmp_path, capsys):
    (tmp_path / "out").write_bytes(b"")
    assert compress(corpus) == 1
    assert f"cannot write to the output {tmp_path / 'out'}: Not a directory" in capsys.readouterr().err


def test_no_images(compress, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert compress(tmp_path / "in") == 1
    assert compress(tmp_path / "missing") == 1
    assert compress(tmp_path / "in" / "*.jpg") == 1
    none = "no images found in {}: give a folder, a glob such as 'DIR/*.jpg', or gs://BUCKET/FOLDER"
    assert capsys.readouterr().err.splitlines() == [
        f"adacompress: {none.format(tmp_path / 'in')}",
        f"adacompress: the input {tmp_path / 'missing'} does not exist",
        f"adacompress: {none.format(tmp_path / 'in' / '*.jpg')}",
    ]
    assert not (tmp_path / "out").exists()


def test_the_input_may_not_lie_in_the_output(corpus, compress, tmp_path, capsys):
    assert compress(corpus, corpus) == 2
    assert compress(corpus, tmp_path) == 2
    assert f"the input {corpus} lies in the output {tmp_path}: choose another --output" in capsys.readouterr().err
