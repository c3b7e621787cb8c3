"""Grids of blocks in a few numbers: the native core beside numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import encoded, picture
from test_dct import FILES

from beam_adacompress import jpeg
from beam_adacompress.jpeg import native, summary
from beam_adacompress.jpeg.bands import dct_line
from beam_adacompress.jpeg.picture import of_pixels
from beam_adacompress.policy import features
from beam_adacompress.policy.features import GRID

needs_core = pytest.mark.skipif(not native.is_installed(), reason="the native core was not built")

SMALL = {
    f"{width} x {height} {mode} {form}": encoded(picture(width, height, mode), form)
    for width, height in ((1, 1), (1, 40), (7, 9), (8, 8), (17, 3), (33, 50))
    for mode in ("RGB", "L")
    for form in ("JPEG", "PNG")
}
SAMPLED = {
    f"{width} x {height} {sampling}": encoded(picture(width, height), subsampling=sampling)
    for width, height in ((1, 1), (2, 3), (15, 17), (31, 70), (160, 121))
    for sampling in ("4:4:4", "4:2:2", "4:2:0")
}


def starts(shown, rows=GRID[0], columns=GRID[1]):
    return features._starts(shown.height, rows), features._starts(shown.width, columns)


@needs_core
@pytest.mark.parametrize("data", (SMALL | SAMPLED | FILES).values(), ids=(SMALL | SAMPLED | FILES).keys())
def test_the_core_sums_up_as_numpy_does(data):
    opened = jpeg.open_image(data)
    averages = features._averages()
    for shown in (jpeg.open_picture(opened), of_pixels(opened)):
        blocks = shown.grid(*starts(shown))
        found = shown.summary(*starts(shown), averages)
        assert found.dtype == np.float32
        assert found == pytest.approx(summary.by_numpy(blocks, averages), rel=1e-5, abs=1e-5)
        assert np.array_equal(found, summary.of_blocks(blocks, averages))


@needs_core
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 96, 131])
def test_any_number_of_blocks_and_weights(count):
    random = np.random.default_rng(count)
    blocks = random.normal(0, 50, (64, 3, count)).astype(np.float32)
    shapes = (1, 64), (3, 64), (5, 64), (4, count), (1, count)
    averages = summary.Averages(
        *(random.uniform(0, 1, shape).astype(np.float32) for shape in shapes),
        np.array([0, count // 2, count - 1], np.int32),
    )
    found = summary.of_blocks(blocks, averages)
    assert found == pytest.approx(summary.by_numpy(blocks, averages), rel=1e-5, abs=1e-4)
    assert np.array_equal(found, summary.of_blocks(blocks.transpose(2, 1, 0).copy().transpose(2, 1, 0), averages))


def test_without_the_core(monkeypatch):
    opened = jpeg.open_image(encoded(picture(160, 121)))
    shown = of_pixels(opened)
    expected = features.features(opened, shown)
    monkeypatch.setattr(native, "_native", None)
    found = features.features(opened, shown)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


@needs_core
def test_arrays_that_do_not_go_together():
    averages = features._averages()
    blocks = np.zeros((64, 3, 96), np.float32)
    for changed, message in (
        ({"rings": averages.rings[:, :63].copy()}, "rings are not whole rows of 64 numbers"),
        ({"rings": averages.rings[:0]}, "rings are not whole rows of 64 numbers"),
        ({"luma": averages.luma[:2]}, "weights of luminance are not whole rows of 192 numbers"),
        ({"thresholds": averages.thresholds[0, :5].copy()}, "thresholds are not whole rows of 64 numbers"),
        ({"luma_cells": averages.luma_cells[:, 1:].copy()}, "cells are not whole rows of 96 numbers"),
        ({"chroma_cells": averages.luma_cells[0, :5].copy()}, "cells are not whole rows of 96 numbers"),
        ({"ranks": np.int32([96])}, "there is no block of such a rank"),
        ({"ranks": np.int32([-1])}, "there is no block of such a rank"),
    ):
        with pytest.raises(ValueError, match=message):
            native.summary(blocks, dataclasses.replace(averages, **changed).packed)
    with pytest.raises(ValueError, match="a grid is 64 x 3 x blocks"):
        native.summary(blocks[:0], averages.packed)
    coded = native.open_coded(encoded(picture(20, 20)))
    with pytest.raises(ValueError, match="a block of the grid begins outside the image"):
        coded.summary(np.int32([20]), np.int32([0]), averages.packed)
    with pytest.raises(ValueError, match="there is no block to sum up"):
        coded.summary(np.int32([]), np.int32([0]), averages.packed)
    with pytest.raises(TypeError):
        coded.summary(np.int32([0]), np.int32([0]), list(averages.packed))


@needs_core
@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 30), (64, 64), (83, 61)])
def test_blocks_anywhere_are_those_of_rounded_samples(width, height):
    coded = native.open_coded(encoded(picture(width, height, "L"), quality=70))
    line = dct_line()
    blocks = coded.dequantised(0).astype(np.float64)
    samples = np.einsum("vy,rcvh,hx->rycx", line, blocks.reshape(*blocks.shape[:2], 8, 8), line)
    samples = np.floor(samples.reshape(8 * blocks.shape[0], -1) + (0.5 + 1e-6)).clip(-128, 127)[:height, :width]
    samples = np.pad(samples, ((0, 8), (0, 8)), "edge")
    tops, lefts = features._starts(height, 3), features._starts(width, 5)
    found = coded.grid(tops, lefts)
    expected = [line @ samples[top : top + 8, left : left + 8] @ line.T for top in tops for left in lefts]
    assert np.abs(found[:, 0] - np.stack(expected).reshape(-1, 64).T).max() < 1e-3
    assert not found[:, 1:].any()
