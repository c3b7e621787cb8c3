"""Steps that a JPEG was quantised with before, and new ones."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from backends import Sizes, Texture
from conftest import encoded, picture
from test_native import blocks_of, opened, with_tables
from test_native_write import random_picture
from test_trials import calls, run

from beam_adacompress import ChooseQuality, EncodedImage, jpeg
from beam_adacompress.jpeg import native
from beam_adacompress.jpeg.tables import Quantisation, aligned
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms.trials import TryConfigurations
from beam_adacompress.trials import Configuration

needs_the_core = pytest.mark.skipif(not native.is_installed(), reason="the native core was not built")

PICTURE = picture(160, 128, seed=3)
COARSE = jpeg.quantisation("annexk", 30)
FINER = jpeg.quantisation("annexk", 60)  # 0.4 / 0.83 of the steps


def packed(steps):
    return struct.pack("64H", *steps)


@pytest.mark.parametrize(
    ("asked", "before", "used"),
    [
        (3, 10, 10),  # finer: the same coefficients in more bits
        (10, 10, 10),
        (11, 10, 10),
        (19, 10, 10),
        (20, 10, 20),  # from here on, what was 1 becomes 0
        (255, 10, 255),
        (1, 1, 1),
        (2, 1, 2),
        (200, 255, 255),
        (200, 256, 200),  # which baseline decoders do not read
        (200, 65535, 200),
    ],
)
def test_a_step(asked, before, used):
    table, then = [7] * 64, [1] * 64
    table[9], then[9] = asked, before
    assert aligned(tuple(table), packed(then)) == (*table[:9], used, *table[10:])


def shown(data):
    return jpeg.open_picture(jpeg.open_image(data))


def steps_of(data):
    coded = opened(data)
    return [tuple(coded.table(component).tolist()) for component in range(coded.components)]


@needs_the_core
@pytest.mark.parametrize("tables", [COARSE, FINER, jpeg.quantisation("annexk", 95)], ids=["same", "finer", "finest"])
def test_finer_steps_lose_nothing_and_cost_nothing(tables):
    source = with_tables(PICTURE, COARSE.luma, COARSE.chroma, subsampling="4:2:0", optimize=True, progressive=True)
    made = shown(source).encode(tables, jpeg.Settings())
    assert steps_of(made) == [COARSE.luma, COARSE.chroma, COARSE.chroma]
    for component in range(3):
        assert np.array_equal(blocks_of(opened(made), component), blocks_of(opened(source), component))
    assert len(made) <= len(source)


@needs_the_core
def test_without_it_the_tables_are_those_that_were_asked_for():
    source = with_tables(PICTURE, COARSE.luma, COARSE.chroma, subsampling="4:2:0")
    made = shown(source).encode(FINER, jpeg.Settings(align=False))
    assert steps_of(made) == [FINER.luma, FINER.chroma, FINER.chroma]
    assert len(made) > len(shown(source).encode(FINER, jpeg.Settings()))
    assert shown(source).aligned(FINER, jpeg.Settings(align=False)) == FINER


@needs_the_core
@pytest.mark.parametrize(("less", "used"), [(0, lambda step: 2 * step), (1, lambda step: step)])
def test_coarser_steps_are_kept(less, used):
    source = with_tables(PICTURE, FINER.luma, FINER.chroma, subsampling="4:2:0")
    asked, expected = (
        Quantisation(*(tuple(map(how, steps)) for steps in FINER[:2])) for how in (lambda step: 2 * step - less, used)
    )
    assert shown(source).aligned(asked, jpeg.Settings()) == expected


@needs_the_core
def test_chrominance_that_is_resampled_is_no_multiple_any_more():
    source = with_tables(PICTURE, COARSE.luma, COARSE.chroma, subsampling="4:4:4")
    made = shown(source).aligned(FINER, jpeg.Settings(subsampling="4:2:0"))
    assert made == FINER._replace(luma=COARSE.luma)
    assert shown(source).aligned(FINER, jpeg.Settings(subsampling="4:4:4")) == COARSE


@needs_the_core
def test_one_table_cannot_keep_the_steps_of_two():
    other = jpeg.quantisation("annexk", 29).chroma
    source = with_tables(PICTURE, COARSE.luma, COARSE.chroma, other, subsampling="4:2:0")
    assert steps_of(source) == [COARSE.luma, COARSE.chroma, other]
    assert shown(source).aligned(FINER, jpeg.Settings()) == FINER._replace(luma=COARSE.luma)


@needs_the_core
def test_of_a_turned_picture_the_steps_turn_too():
    uneven = tuple(range(40, 104))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    source = with_tables(PICTURE, uneven, uneven, subsampling="4:2:0", exif=exif)
    assert jpeg.open_image(source).orientation == 6
    made = shown(source).encode(FINER, jpeg.Settings())
    turned = tuple(np.array(uneven).reshape(8, 8).T.ravel().tolist())
    assert steps_of(made) == [turned, turned, turned]


@needs_the_core
def test_a_dead_zone_leaves_multiples_alone():
    source = with_tables(PICTURE, COARSE.luma, COARSE.chroma, subsampling="4:2:0")
    made = shown(source).encode(FINER._replace(rounding=0.3), jpeg.Settings())
    assert np.array_equal(blocks_of(opened(made)), blocks_of(opened(source)))


def test_pixels_have_no_steps():
    for data, settings in (
        (encoded(PICTURE, "PNG"), jpeg.Settings()),
        (with_tables(PICTURE, COARSE.luma, COARSE.chroma), jpeg.Settings(engine="pillow")),
    ):
        by_pixels = jpeg.open_picture(jpeg.open_image(data), settings)
        assert by_pixels.engine == "pillow"
        assert by_pixels.aligned(FINER, settings) == FINER


@needs_the_core
def test_a_file_is_asked_about_once_however_many_actions_it_is_of(tmp_path):
    source = with_tables(PICTURE, COARSE.luma, COARSE.chroma, subsampling="4:2:0")
    actions = [Configuration(jpeg.quantisation("annexk", quality), quality) for quality in (5, 45, 60, 90)]
    bare = [each._replace(align=False) for each in actions]
    asked, cache = tmp_path / "asked", str(tmp_path / "cache")
    (trial,), _ = run(
        TryConfigurations([Texture(str(asked))], actions, cache=cache), [EncodedImage("a", source)], tmp_path / "1"
    )
    assert calls(asked) == trial.calls == 1 + 2
    assert trial.sizes[0] < trial.sizes[1] == trial.sizes[2] == trial.sizes[3]
    (again,), _ = run(
        TryConfigurations([Texture(str(asked))], [*actions, *bare], cache=cache),
        [EncodedImage("a", source)],
        tmp_path / "2",
    )
    assert again.calls == 1 + 3, "those at 45, 60 and 90 that are not aligned"
    assert again.sizes[:4] == trial.sizes
    assert again.sizes[4] == trial.sizes[0]
    assert again.sizes[5:] == [len(shown(source).encode(each.tables, jpeg.Settings(align=False))) for each in bare[1:]]


@dataclasses.dataclass
class Forgetful(Sizes):
    """Its answers depend on more than the bytes, so that each question is a call; it writes them down."""

    path: str = ""

    @property
    def terms(self):
        return dataclasses.replace(super().terms, cacheable=False)

    def label(self, images, timeout):
        with open(self.path, "a") as file:
            file.writelines(f"{hashlib.sha256(image.data).hexdigest()}\n" for image in images)
        return super().label(images, timeout)


@needs_the_core
@pytest.mark.parametrize("proposal", [{"quality": 15}, {}], ids=["ladder", "policy"])
def test_verified_choice_asks_about_a_file_once_however_many_actions_it_is_of(tmp_path, proposal):
    coarse = jpeg.quantisation("annexk", 15)
    image = with_tables(random_picture(320, 240), coarse.luma, coarse.chroma, subsampling="4:2:0", comment=bytes(30000))
    backend = Forgetful(limit=len(image), path=str(tmp_path / "asked"))  # agrees with the original alone
    with TestPipeline() as p:
        rows = p | beam.Create([EncodedImage("a", image)]).with_output_types(EncodedImage)
        found = rows | ChooseQuality(**proposal, verify=backend)
        assert_that(found.images | beam.Map(lambda row: row.choice.tables), equal_to(["original"]))
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == len(set(asked)) >= 2


def test_a_promise_holds_for_the_steps_that_it_was_calibrated_with():
    policy = Serving().load()
    assert policy.warning(jpeg.Settings()) is None
    assert (
        "was calibrated with align True, and its promise does not hold for False: train one for it, or leave align as "
        "it is"
    ) in policy.warning(jpeg.Settings(align=False))
