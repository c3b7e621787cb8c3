"""What others read of our results: tf.data, Hugging Face datasets, webdataset and pandas."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pandas
import pytest
import shards
from conftest import decoded, encoded, picture
from PIL import Image

IMAGES = {f"{index:03d}.jpg": encoded(picture(seed=index)) for index in range(5)}


@pytest.fixture
def small(compress, tmp_path):
    """Compresses `in/` to `out/` and gives the path of a result."""

    def run(name):
        assert compress(tmp_path / "in" / name, tmp_path / "out") == 0
        return tmp_path / "out" / "images" / name

    (tmp_path / "in").mkdir()
    return run


def looks_the_same(result, name):
    before = np.asarray(decoded(IMAGES[name]), float)
    return np.abs(before - np.asarray(result, float)).mean() < 12


def test_tf_data(small, tmp_path):
    import tensorflow as tf

    options = tf.io.TFRecordOptions(compression_type="GZIP")
    path = tmp_path / "in" / "train.tfrecord-00000-of-00001.gz"
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for index, data in enumerate(IMAGES.values()):
            example = tf.train.Example()
            example.features.feature["image/encoded"].bytes_list.value.append(data)
            example.features.feature["image/class/label"].int64_list.value.append(index)
            example.features.feature["image/object/bbox/xmin"].float_list.value.extend([0.1, 0.2])
            writer.write(example.SerializeToString())
    wanted = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/object/bbox/xmin": tf.io.VarLenFeature(tf.float32),
    }
    result = small(path.name)
    found = [
        tf.io.parse_single_example(record, wanted)
        for record in tf.data.TFRecordDataset([str(result)], compression_type="GZIP")
    ]
    assert [int(each["image/class/label"]) for each in found] == list(range(5))
    assert all(each["image/object/bbox/xmin"].values.numpy().tolist() == pytest.approx([0.1, 0.2]) for each in found)
    for name, each in zip(IMAGES, found):
        assert looks_the_same(tf.io.decode_jpeg(each["image/encoded"]).numpy(), name)
    assert result.stat().st_size < path.stat().st_size / 2


def test_hugging_face_datasets(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    classes = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": classes, "caption": datasets.Value("string")})
    rows = {
        "image": [{"bytes": data, "path": name} for name, data in IMAGES.items()],
        "label": [0, 1, 0, 1, 0],
        "caption": list(IMAGES),
    }
    before = datasets.Dataset.from_dict(rows, features)
    path = tmp_path / "in" / "train-00000-of-00001.parquet"
    before.to_parquet(str(path), batch_size=2)
    result = small(path.name)
    after = datasets.Dataset.from_parquet(str(result), cache_dir=str(tmp_path / "cache"))
    assert after.features == features
    assert after["label"][:] == [0, 1, 0, 1, 0]
    assert after["caption"][:] == list(IMAGES)
    for name, image in zip(IMAGES, after["image"]):
        assert isinstance(image, Image.Image)
        assert looks_the_same(image, name)
    assert result.stat().st_size < path.stat().st_size


def test_webdataset(small, tmp_path):
    import webdataset

    path = tmp_path / "in" / "shard-000000.tar"
    with tarfile.open(path, "w") as tar:
        for index, (name, data) in enumerate(IMAGES.items()):
            stem = name.partition(".")[0]
            shards.add(tar, name, data)
            shards.add(tar, f"{stem}.cls", str(index).encode())
            shards.add(tar, f"{stem}.json", json.dumps({"caption": name}).encode())
    result = small(path.name)
    dataset = (
        webdataset.WebDataset(str(result), shardshuffle=False).decode("pil").to_tuple("jpg", "cls", "json", "__key__")
    )
    found = list(dataset)
    assert [key for _, _, _, key in found] == [name.partition(".")[0] for name in IMAGES]
    assert [label for _, label, _, _ in found] == list(range(5))
    assert [about["caption"] for _, _, about, _ in found] == list(IMAGES)
    assert all(looks_the_same(image, name) for name, (image, *_) in zip(IMAGES, found))


def test_pandas(small, tmp_path):
    path = tmp_path / "in" / "photos.parquet"
    frame = pandas.DataFrame({"image": list(IMAGES.values()), "price": [1.5, None, 2.5, 3.0, 0.0]}, index=list("abcde"))
    frame.to_parquet(path)
    after = pandas.read_parquet(small(path.name))
    assert list(after.index) == list("abcde")
    pandas.testing.assert_frame_equal(after[["price"]], frame[["price"]])
    assert all(looks_the_same(decoded(data), name) for name, data in zip(IMAGES, after["image"]))


def test_pandas_with_a_list(compress, tmp_path):
    for name, data in IMAGES.items():
        (tmp_path / name).write_bytes(data)
    listed = pandas.DataFrame({"uri": [str(tmp_path / name) for name in IMAGES], "label": ["a,b", "ü", "", "4", '"']})
    listed.to_csv(tmp_path / "photos.csv", index=False)
    assert compress(tmp_path / "photos.csv", tmp_path / "out") == 0
    after = pandas.read_csv(tmp_path / "out" / "list.csv", keep_default_na=False)
    assert list(after["label"]) == list(listed["label"])
    for name, uri in zip(IMAGES, after["uri"]):
        with open(uri, "rb") as file:
            assert looks_the_same(Image.open(io.BytesIO(file.read())), name)
