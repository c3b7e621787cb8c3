"""The formats by name."""

from __future__ import annotations

import pickle

import pytest

from beam_adacompress.formats import FORMATS, format_of, shard_format


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("gs://b/train.tfrecord", "tfrecord"),
        ("train-*.tfrecords", "tfrecord"),
        ("train.tfrecord.gz", "tfrecord"),
        ("train.tfrecord-00000-of-00010", "tfrecord"),
        ("train.tfrecord-?????-of-00010.gz", "tfrecord"),
        ("train.tfrecord-*", "tfrecord"),
        ("train.tfrecord*", "tfrecord"),
        ("data/train-*.parquet", "parquet"),
        ("shard-{000000..000009}.tar", "webdataset"),
        ("shard-*.tar.gz", "webdataset"),
        ("SHARD.TGZ", "webdataset"),
        ("photos.csv", "list"),
        ("photos.csv.gz", "list"),
        ("photos", "files"),
        ("photos.tfrecord/*.jpg", "files"),
        ("a.tar.jpg", "files"),
    ],
)
def test_a_name_tells_the_format(pattern, name):
    assert format_of(pattern) == name


@pytest.mark.parametrize("name", ["files", "list", "zip"])
def test_what_is_no_format_of_shards(name):
    with pytest.raises(ValueError, match=f"format must be one of tfrecord, parquet, webdataset, got '{name}'"):
        shard_format(name)


@pytest.mark.parametrize("name", ["tfrecord", "parquet", "webdataset"])
def test_formats_travel(name):
    assert name in FORMATS
    form = shard_format(name, "png", 7)
    assert pickle.loads(pickle.dumps(form)) == form
    assert (form.name, form.image_field, form.max_bytes) == (name, "png", 7)


def test_a_field_that_is_none():
    with pytest.raises(ValueError, match="image_field must be extensions such as 'jpg;png', got ' ; '"):
        shard_format("webdataset", " ; ")
