"""What networks on DCT input see of a JPEG, against the same steps on samples."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import encoded, picture
from PIL import Image
from test_dct import samples

from beam_adacompress import ImageError, jpeg
from beam_adacompress.jpeg import geometry, layout
from beam_adacompress.jpeg.geometry import turned, view

ORIENTATION = 0x0112
TRANSPOSE = Image.Transpose
TURNS = {
    1: None,
    2: TRANSPOSE.FLIP_LEFT_RIGHT,
    3: TRANSPOSE.ROTATE_180,
    4: TRANSPOSE.FLIP_TOP_BOTTOM,
    5: TRANSPOSE.TRANSPOSE,
    6: TRANSPOSE.ROTATE_270,
    7: TRANSPOSE.TRANSVERSE,
    8: TRANSPOSE.ROTATE_90,
}


def marked(image: Image.Image, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, exif=exif, **options)


def planes_of(seen: geometry.View) -> list[np.ndarray]:
    """Y, Cb and Cr as samples."""
    return [samples(plane) for plane in (seen.y, seen.cbcr[..., :64], seen.cbcr[..., 64:])]


def native(data: bytes) -> list[np.ndarray]:
    found = jpeg.read_dct(data, subsampling="4:2:0")
    return [samples(plane) for plane in (found.y, found.cb, found.cr)]


def oriented(plane: np.ndarray, orientation: int) -> np.ndarray:
    turn = TURNS[orientation]
    return plane if turn is None else np.asarray(Image.fromarray(plane.astype(np.float32)).transpose(turn))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2"])
def test_a_view_is_upright(orientation, subsampling):
    data = marked(picture(64, 48), orientation, subsampling=subsampling)
    rows, columns = (6, 8) if orientation < 5 else (8, 6)
    expected = [oriented(plane, orientation) for plane in native(data)]
    for ours, plane in zip(planes_of(view(data, rows, columns)), expected):
        np.testing.assert_allclose(ours, plane, atol=2e-3)


def test_an_orientation_that_there_is_not_counts_as_none():
    image = picture(32, 32)
    np.testing.assert_array_equal(view(marked(image, 9), 4, 4).y, view(encoded(image), 4, 4).y)


@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_and_its_compressed_copy_show_the_same(orientation):
    """The first is marked to be turned, in the second the pixels are."""
    data = marked(picture(128, 96, seed=5), orientation, quality=98, subsampling="4:4:4")
    smaller = jpeg.compress(data, "annexk", 92, "test", jpeg.Settings()).data
    assert smaller != data
    for before, after in zip(planes_of(view(data, 4, 4)), planes_of(view(smaller, 4, 4))):
        assert np.abs(before - after).mean() < 1.5


@pytest.mark.parametrize(("seed", "down", "across"), [(0, True, False), (1, False, True), (2, True, True)])
def test_flips_of_incomplete_blocks_keep_luma_and_chroma_together(seed, down, across):
    data = encoded(picture(40, 24, seed=seed), subsampling="4:4:4")  # 3 x 5 blocks of Y, 2 x 3 of chroma
    plain = view(data, 4, 6)
    orientation = {(True, False): 4, (False, True): 2, (True, True): 3}[down, across]
    flipped = view(marked(picture(40, 24, seed=seed), orientation, subsampling="4:4:4"), 4, 6)
    axes = [axis for axis, does in enumerate((down, across)) if does]
    for ours, plane in zip(planes_of(flipped), planes_of(plain)):
        np.testing.assert_allclose(ours, np.flip(plane, axes), atol=2e-3)
    # The blocks that fill up an odd row and column repeat their neighbours.
    np.testing.assert_array_equal(plain.y[3], plain.y[2])
    np.testing.assert_array_equal(plain.y[:, 5], plain.y[:, 4])


@pytest.mark.parametrize(
    ("size", "times"),
    [((63, 64), 1), ((64, 64), 1), ((48, 64), 0), ((32, 32), 0), ((208, 128), 2), ((128, 128), 2), ((256, 128), 2)],
)
def test_halved_as_often_as_the_input_fits_in_twice(size, times):
    data = encoded(picture(*size), subsampling="4:2:0")
    expected = []
    for plane, side in zip(native(data), (32, 16, 16)):
        for _ in range(times):
            plane = np.pad(plane, ((0, plane.shape[0] % 16), (0, plane.shape[1] % 16)), mode="edge")
            height, width = plane.shape
            plane = plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
        unit = side // 2
        top, left = ((-(-length // unit) - 2) // 2 * unit for length in plane.shape)
        expected.append(plane[top : top + side, left : left + side])
    for ours, plane in zip(planes_of(view(data, 4, 4)), expected):
        np.testing.assert_allclose(ours, plane, atol=2e-3)


def test_cropped_to_the_centre_in_whole_blocks_of_chroma():
    data = encoded(picture(80, 64), subsampling="4:2:0")  # 4 x 5 blocks of chroma, of which (1..2) x (1..2) are seen
    found = jpeg.read_dct(data)
    seen = view(data, 4, 4, resize="crop")
    np.testing.assert_array_equal(seen.y, found.y[2:6, 2:6])
    np.testing.assert_array_equal(seen.cbcr, np.concatenate([found.cb[1:3, 1:3], found.cr[1:3, 1:3]], -1))
    assert (seen.y.dtype, seen.cbcr.dtype) == (np.float32, np.float32)


def test_around_a_small_image_is_grey():
    data = encoded(picture(16, 96), subsampling="4:2:0")  # 6 x 1 blocks of chroma
    found = jpeg.read_dct(data)
    y, cbcr = np.zeros((8, 6, 64), np.float32), np.zeros((4, 3, 128), np.float32)
    y[:, 2:4] = found.y[2:10]
    cbcr[:, 1:2] = np.concatenate([found.cb, found.cr], -1)[1:5]
    seen = view(data, 8, 6)
    np.testing.assert_array_equal(seen.y, y)
    np.testing.assert_array_equal(seen.cbcr, cbcr)


def test_grayscale_has_grey_chroma():
    seen = view(encoded(picture(32, 32, "L")), 4, 4)
    assert seen.cbcr.shape == (2, 2, 128)
    assert not seen.cbcr.any()
    assert seen.y.any()


def test_zigzag_is_the_order_of_the_bands_alone():
    data = marked(picture(70, 90, seed=3), 6)
    natural, zigzag = view(data, 4, 4), view(data, 4, 4, order="zigzag")
    np.testing.assert_array_equal(zigzag.y, natural.y[..., layout.ZIGZAG])
    np.testing.assert_array_equal(zigzag.cbcr[..., :64], natural.cbcr[..., :64][..., layout.ZIGZAG])
    np.testing.assert_array_equal(zigzag.cbcr[..., 64:], natural.cbcr[..., 64:][..., layout.ZIGZAG])


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_batch_of_planes_is_turned(dtype):
    batch = np.random.default_rng(0).integers(-99, 99, (2, 3, 5, 64)).astype(dtype)
    mirrored = turned(batch, across=True)
    assert mirrored.dtype == dtype
    for before, after in zip(batch, mirrored):
        np.testing.assert_allclose(samples(after), samples(before)[:, ::-1], atol=1e-3)
    np.testing.assert_array_equal(turned(mirrored, across=True), batch)
    assert turned(batch, transpose=True).shape == (2, 5, 3, 64)
    np.testing.assert_array_equal(turned(turned(batch, transpose=True), transpose=True), batch)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"rows": 3, "columns": 4}, "rows=3 columns=4: both must be even"),
        ({"rows": 4, "columns": 0}, "rows=4 columns=0: both must be even"),
        ({"rows": 4, "columns": 4, "resize": "squash"}, "resize must be one of halve, crop, got 'squash'"),
        ({"rows": 4, "columns": 4, "order": "random"}, "order must be one of natural, zigzag, got 'random'"),
    ],
)
def test_what_is_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        view(encoded(picture()), **arguments)


def test_a_large_image_is_refused_before_it_is_read():
    with pytest.raises(ImageError, match="96 x 64 is more than the limit of 6143 pixels") as caught:
        view(encoded(picture()), 4, 4, max_pixels=6143)
    assert caught.value.reason == "too-many-pixels"
