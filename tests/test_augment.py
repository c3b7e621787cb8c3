"""Copies of images to train with."""

from __future__ import annotations

import hashlib

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from conftest import IN_PROCESS, decoded, encoded, picture
from PIL import Image

from beam_adacompress.jpeg.augment import augmented
from beam_adacompress.policy.outcomes import TRAIN, part_of
from beam_adacompress.records import EncodedImage
from beam_adacompress.transforms.augment import AddCopies, CopiedImage, with_copies


def copied(images: list[EncodedImage], count: int, part: int | None = None) -> list[CopiedImage]:
    return [copy for image in images for copy in with_copies(image, count, part, 10**6)]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBX"])
@pytest.mark.parametrize("number", range(6))
def test_a_copy_is_a_part_of_the_picture_as_jpeg(mode, number):
    pixels = picture(200, 100).convert(mode)
    copy = decoded(augmented(pixels, (7, number)))
    assert copy.format == "JPEG"
    assert copy.mode == ("L" if mode == "L" else "RGB")
    assert 110 <= copy.width <= 180
    assert abs(copy.height / copy.width - 0.5) < 0.02


def test_copies_are_mirrored_or_not_and_differ():
    flat = np.zeros((100, 200), np.uint8)
    flat[:, 100:] = 255  # dark on the left, bright on the right
    pixels = Image.fromarray(flat)
    copies = [augmented(pixels, (number,)) for number in range(20)]
    assert len(set(copies)) == 20
    sides = [np.asarray(decoded(copy), np.float64) for copy in copies]
    mirrored = [bool(side[:, 0].mean() > side[:, -1].mean()) for side in sides]
    assert set(mirrored) == {True, False}


def test_the_same_seed_makes_the_same_copy():
    assert augmented(picture(seed=1), (3, 0)) == augmented(picture(seed=1), (3, 0))
    assert augmented(picture(seed=1), (3, 0)) != augmented(picture(seed=1), (3, 1))


def test_a_picture_of_one_pixel_has_copies():
    assert decoded(augmented(picture(1, 1), (0,))).size == (1, 1)


def test_only_images_that_train_have_copies():
    images = [EncodedImage(f"{index}.jpg", encoded(picture(seed=index))) for index in range(12)]
    digests = {image.key: hashlib.sha256(image.data).hexdigest() for image in images}
    training = {key for key, digest in digests.items() if part_of(digest, "5") == TRAIN}
    assert 0 < len(training) < 12
    rows = copied(images, 2, part=5)
    assert sorted(row.key for row in rows) == sorted([*digests, *training, *training])
    for row in rows:
        assert row.parent in (None, digests[row.key])
    assert [row.data for row in rows if row.parent is None] == [image.data for image in images]
    assert len({row.data for row in rows}) == len(rows)


def test_all_images_have_copies_where_no_part_is_given():
    images = [EncodedImage("a", encoded(picture(seed=1))), EncodedImage("b", encoded(picture(seed=2)))]
    assert [row.key for row in copied(images, 1)] == ["a", "a", "b", "b"]


def test_what_cannot_be_decoded_has_no_copies():
    torn = encoded(picture())[:300]
    assert copied([EncodedImage("torn", torn)], 3) == [("torn", torn, None)]


def test_no_copies_below_zero():
    with pytest.raises(ValueError, match="augment must be at least 0 copies, got -1"):
        AddCopies(-1)


def test_in_a_pipeline():
    image = EncodedImage("a", encoded(picture()))
    with beam.Pipeline(options=PipelineOptions(IN_PROCESS)) as pipeline:
        rows = pipeline | beam.Create([image]).with_output_types(EncodedImage) | AddCopies(2)
        assert rows.element_type is CopiedImage
        assert_that(rows, equal_to(copied([image], 2)))
