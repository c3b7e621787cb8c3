"""ReadImages and WriteImages in pipelines of other people's."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
import shards
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from conftest import IN_PROCESS, decoded, encoded, files_of, manifest_rows, picture

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, ReadImages, WriteImages
from beam_adacompress.pipelines import cli

IMAGES = {f"{index:03d}.jpg": encoded(picture(seed=index)) for index in range(4)}


def write(rows, output, **given):
    chosen = rows.images | ChooseQuality(quality=35)
    compressed = chosen.images | CompressJPEG()
    failures = (rows.failures, chosen.failures, compressed.failures)
    return {
        "images": compressed.images,
        "failures": failures | beam.Flatten(),
    } | WriteImages(str(output), **given)


def test_files(corpus, compress, tmp_path):
    (corpus / "torn.jpg").write_bytes(encoded(picture())[:700])
    with TestPipeline(runner="FnApiRunner") as p:
        written = write(p | ReadImages(str(corpus)), tmp_path / "out", input=str(corpus))
        assert_that(written, equal_to([str(tmp_path / "out" / "summary.json")]))
    assert compress(corpus, tmp_path / "expected") == 0
    assert files_of(tmp_path / "out" / "images") == files_of(tmp_path / "expected" / "images")
    rows, expected = (manifest_rows(tmp_path / name) for name in ("out", "expected"))
    assert {key: row._replace(seconds=None) for key, row in rows.items()} == {
        key: row._replace(seconds=None) for key, row in expected.items()
    }
    assert "data:image/jpeg;base64" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("kind", shards.KINDS, ids=lambda kind: kind.format)
def test_shards(tmp_path, kind, vision, capsys):
    source = shards.make(kind, tmp_path / "in" / f"one{kind.suffix}", IMAGES)
    with TestPipeline(runner="FnApiRunner") as p:
        write(p | ReadImages(str(source)), tmp_path / "out", input=str(source))
    result = shards.read(kind, tmp_path / "out" / "images" / source.name)
    assert [name for name, _ in result] == list(IMAGES)
    assert all(len(data) < len(IMAGES[name]) for name, data in result)
    command = ["score", f"--input={tmp_path / 'out'}", f"--output={tmp_path / 'scores'}", f"--backend={vision.uri}"]
    assert cli.main([*command, "--sample-rate=1", *IN_PROCESS]) == 0
    assert "4 of 4 images scored" in capsys.readouterr().out


def test_rows_that_were_made_elsewhere(tmp_path):
    rows = [EncodedImage(f"sub/{name}", data) for name, data in IMAGES.items()]
    rows.append(EncodedImage("plain.png", encoded(picture(), "PNG")))
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create(rows).with_output_types(EncodedImage)
        compressed = (images | "Choose" >> ChooseQuality(quality=35)).images | "Compress" >> CompressJPEG()
        compressed.images | WriteImages(str(tmp_path / "out"), manifest_parts=3)
    written = files_of(tmp_path / "out" / "images")
    assert sorted(written) == ["plain.png.jpg", *sorted(f"sub/{name}" for name in IMAGES)]
    assert decoded(written["plain.png.jpg"]).format == "JPEG"
    assert len(manifest_rows(tmp_path / "out")) == 5
    assert 1 < len(list((tmp_path / "out" / "manifest").iterdir())) <= 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"]["compressed"] == 5


def test_rows_of_a_shard_have_to_come_from_one(tmp_path):
    rows = [EncodedImage(name, data) for name, data in IMAGES.items()]
    pipeline = beam.Pipeline(runner="FnApiRunner")
    images = pipeline | beam.Create(rows).with_output_types(EncodedImage)
    compressed = (images | ChooseQuality(quality=35)).images | CompressJPEG()
    with pytest.raises(TypeError, match=r"WriteImages\(format='webdataset'\) takes rows that ReadImages read"):
        compressed.images | WriteImages(str(tmp_path / "out"), input="gs://b/in.tar")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"input": "in", "format": "zip"},
            "format must be one of files, tfrecord, parquet, webdataset, list, got 'zip'",
        ),
        ({"input": "in", "image_field": "x"}, "image_field is 'x', but in is read as files, which have no fields"),
        ({"input": "in", "max_bytes": 0}, "max_bytes must be at least 1, got 0"),
        ({"input": "a.tar", "image_field": ";"}, "image_field must be extensions such as 'jpg;png', got ';'"),
    ],
)
def test_arguments_out_of_range(given, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ReadImages(**given)
    with pytest.raises(ValueError, match=f"^{message}$"):
        WriteImages("out", **given)


def test_arguments_of_write_images():
    with pytest.raises(ValueError, match=r"^manifest_parts must be at least 1, got 0$"):
        WriteImages("out", manifest_parts=0)
    with pytest.raises(ValueError, match=r"^format is 'parquet', and input is not given"):
        WriteImages("out", format="parquet")


def test_what_it_takes(tmp_path):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | beam.Create([EncodedImage("a", b"")]).with_output_types(EncodedImage)
    with pytest.raises(TypeError, match="takes rows, or images and failures, but got pictures"):
        {"pictures": rows} | WriteImages(str(tmp_path))
    with pytest.raises(TypeError, match="WriteImages takes rows with the fields key: str, data: bytes, choice"):
        rows | "Again" >> WriteImages(str(tmp_path))


def test_streams_are_refused(tmp_path):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | beam.Create([EncodedImage("a.jpg", b"")]).with_output_types(EncodedImage)
    compressed = ((rows | ChooseQuality(quality=35)).images | CompressJPEG()).images
    compressed.is_bounded = False
    with pytest.raises(ValueError, match="see adacompress serve"):
        compressed | WriteImages(str(tmp_path))
