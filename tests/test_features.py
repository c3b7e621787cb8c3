from __future__ import annotations

import numpy as np
import pytest
from conftest import encoded, picture
from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.policy.features import GRID, NAMES, features

FLAT = Image.new("RGB", (64, 48), (200, 100, 50))


def of(image, form="JPEG", **options):
    opened = jpeg.open_image(encoded(image, form, **options))
    return dict(zip(NAMES, features(opened, jpeg.open_picture(opened)).tolist()))


def test_names_and_numbers():
    assert len(NAMES) == len(set(NAMES))
    opened = jpeg.open_image(encoded(picture()))
    found = features(opened, jpeg.open_picture(opened))
    assert (found.shape, found.dtype) == ((len(NAMES),), np.float32)
    assert np.array_equal(found, features(opened, jpeg.open_picture(opened)))


def test_the_file():
    data = encoded(picture(128, 64), quality=50)
    found = of(picture(128, 64), quality=50)
    assert found["log2_pixels"] == 13
    assert found["log2_aspect"] == 1
    assert found["log2_bits_per_pixel"] == pytest.approx(np.log2(8 * len(data) / 8192))
    assert (found["is_jpeg"], found["is_gray"]) == (1, 0)
    # The first ten of Annex K's luminance steps in zig-zag order.
    assert found["log2_source_step"] == pytest.approx(np.log2(np.mean([16, 11, 12, 14, 12, 10, 16, 14, 13, 14])))
    png = of(picture(128, 64), "PNG")
    assert (png["is_jpeg"], png["log2_source_step"]) == (0, 0)


def test_a_flat_picture():
    found = of(FLAT, "PNG")
    y = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert found["y_mean"] == pytest.approx((y - 128) / 64, abs=1e-4)
    assert found["cb_mean"] == pytest.approx(0.564 * (50 - y) / 64, abs=1e-3)
    assert found["cr_mean"] == pytest.approx(0.713 * (200 - y) / 64, abs=1e-3)
    assert found["y_0_0"] == pytest.approx(found["y_mean"], abs=1e-4)
    assert [found[name] for name in NAMES if "ring" in name or "roughness" in name] == pytest.approx([0] * 24, abs=1e-3)
    assert [found[f"{component}_deviation"] for component in ("y", "cb", "cr")] == pytest.approx([0] * 3, abs=1e-4)


def wave(half_waves):
    """So many half-waves in eight samples, across."""
    line = 128 + 60 * np.cos(2 * np.pi * np.arange(128) * half_waves / 16)
    return np.tile(line.astype(np.uint8), (64, 1))


def test_frequencies_and_directions():
    slow, fast = of(Image.fromarray(wave(2)), "PNG"), of(Image.fromarray(wave(6)), "PNG")
    assert slow["y_ring_1"] > fast["y_ring_1"] + 0.5
    assert fast["y_ring_5"] > slow["y_ring_5"] + 0.5
    assert fast["log_across_down"] > 1
    assert of(Image.fromarray(wave(6).T.copy()), "PNG")["log_across_down"] < -1


def test_the_thumbnail_is_the_picture():
    left = Image.new("L", (96, 64), 0)
    left.paste(255, (48, 0, 96, 64))
    found = of(left, "PNG")
    assert found["is_gray"] == 1
    assert [found[f"y_0_{column}"] for column in range(6)] == pytest.approx([-2, -2, -2, 127 / 64, 127 / 64, 127 / 64])
    assert [found[name] for name in NAMES if name.startswith(("cb_", "cr_"))] == [0] * 30


@pytest.mark.parametrize(("size", "mode"), [((1, 1), "RGB"), ((3, 200), "L"), ((8, 8), "RGB"), ((9, 7), "L")])
def test_small_pictures(size, mode):
    found = of(picture(*size, mode), "PNG")
    assert np.isfinite(list(found.values())).all()


def test_a_file_with_steps_of_zero():
    data = bytearray(encoded(picture()))
    start = data.index(b"\xff\xdb") + 5
    data[start : start + 64] = bytes(64)
    opened = jpeg.open_image(bytes(data))
    assert np.isfinite(features(opened, jpeg.open_picture(opened))).all()


def test_rougher_pictures_are_rougher():
    smooth, rough = (of(Image.fromarray(_noise(sigma))) for sigma in (2, 40))
    assert smooth["roughness_0.5"] < rough["roughness_0.5"]
    assert smooth["kept_20"] < rough["kept_20"]
    assert smooth["log2_bits_per_pixel"] < rough["log2_bits_per_pixel"]


def _noise(sigma):
    return np.clip(np.random.default_rng(0).normal(128, sigma, (8 * GRID[0], 8 * GRID[1])), 0, 255).astype(np.uint8)
