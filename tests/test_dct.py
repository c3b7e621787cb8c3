"""Coefficients of JPEGs, each kind of file against an independent computation in pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from conftest import encoded, picture
from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.jpeg import layout

pytestmark = pytest.mark.usefixtures("each_engine")

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "images" / "imagenet"

FREQUENCY, POSITION = np.mgrid[:8, :8]
DCT = 0.5 * np.cos((2 * POSITION + 1) * FREQUENCY * np.pi / 16)
DCT[0] /= np.sqrt(2)

RATIOS = {None: (1, 1), "4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1), "4:1:1": (1, 4)}


def by_pillow(width, height, mode="RGB", **options):
    return encoded(picture(width, height, mode, seed=3), quality=options.pop("quality", 80), **options)


def by_turbo(width, height, subsampling):
    pixels = np.ascontiguousarray(picture(width, height, seed=3))
    return simplejpeg.encode_jpeg(pixels, quality=80, colorsubsampling=subsampling.replace(":", ""))


# name: (file, subsampling, shape of Y in blocks, of Cb and Cr as they are, and brought to 4:2:0)
SOURCES = {
    "4:4:4": (by_pillow(64, 48, subsampling="4:4:4"), "4:4:4", (6, 8), (6, 8), (3, 4)),
    "4:4:4 odd": (by_pillow(67, 45, subsampling="4:4:4"), "4:4:4", (6, 9), (6, 9), (3, 5)),
    "4:4:4 odd blocks": (by_pillow(72, 40, subsampling="4:4:4"), "4:4:4", (5, 9), (5, 9), (3, 5)),
    "4:2:2": (by_pillow(64, 48, subsampling="4:2:2"), "4:2:2", (6, 8), (6, 4), (3, 4)),
    "4:2:2 odd": (by_pillow(67, 33, subsampling="4:2:2"), "4:2:2", (5, 9), (5, 5), (3, 5)),
    "4:2:0": (by_pillow(64, 48, subsampling="4:2:0"), "4:2:0", (6, 8), (3, 4), (3, 4)),
    "4:2:0 odd": (by_pillow(67, 45, subsampling="4:2:0"), "4:2:0", (6, 9), (3, 5), (3, 5)),
    "4:2:0 of a network": (by_pillow(224, 224, subsampling="4:2:0"), "4:2:0", (28, 28), (14, 14), (14, 14)),
    "4:4:0": (by_turbo(64, 48, "4:4:0"), "4:4:0", (6, 8), (3, 8), (3, 4)),
    "4:4:0 odd": (by_turbo(67, 45, "4:4:0"), "4:4:0", (6, 9), (3, 9), (3, 5)),
    "4:1:1": (by_turbo(64, 48, "4:1:1"), "4:1:1", (6, 8), (6, 2), (3, 4)),
    "4:1:1 odd": (by_turbo(67, 33, "4:1:1"), "4:1:1", (5, 9), (5, 3), (3, 5)),
    "grayscale": (by_pillow(64, 48, "L"), None, (6, 8), None, (3, 4)),
    "grayscale odd": (by_pillow(67, 45, "L"), None, (6, 9), None, (3, 5)),
    "one pixel": (by_pillow(1, 1, subsampling="4:2:0"), "4:2:0", (1, 1), (1, 1), (1, 1)),
    "progressive 4:4:4": (by_pillow(67, 45, subsampling="4:4:4", progressive=True), "4:4:4", (6, 9), (6, 9), (3, 5)),
    "progressive 4:2:0": (by_pillow(67, 45, subsampling="4:2:0", progressive=True), "4:2:0", (6, 9), (3, 5), (3, 5)),
    "progressive grayscale": (by_pillow(67, 45, "L", progressive=True), None, (6, 9), None, (3, 5)),
    "restarts": (
        by_pillow(67, 45, subsampling="4:2:0", restart_marker_blocks=2), "4:2:0", (6, 9), (3, 5), (3, 5),
    ),
    "restarts by rows": (
        by_pillow(67, 45, subsampling="4:4:4", restart_marker_rows=1), "4:4:4", (6, 9), (6, 9), (3, 5),
    ),
    "restarts, progressive": (
        by_pillow(67, 45, progressive=True, restart_marker_blocks=3), "4:2:0", (6, 9), (3, 5), (3, 5),
    ),
    "optimised": (by_pillow(67, 45, subsampling="4:2:2", optimize=True), "4:2:2", (6, 9), (6, 5), (3, 5)),
    "coarse": (by_pillow(67, 45, subsampling="4:2:0", quality=3), "4:2:0", (6, 9), (3, 5), (3, 5)),
}  # fmt: skip
FILES = {name: source[0] for name, source in SOURCES.items()}


def planes(found):
    return [plane for plane in (found.y, found.cb, found.cr) if plane is not None]


def samples(blocks):
    """The samples that dequantised blocks stand for, neither rounded nor clipped."""
    rows, columns, _ = blocks.shape
    cut = DCT.T @ blocks.astype(np.float64).reshape(rows, columns, 8, 8) @ DCT + 128
    return cut.swapaxes(1, 2).reshape(8 * rows, 8 * columns)


def transformed(plane):
    """What `samples` undoes; of a plane of whole blocks."""
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    return (DCT @ (plane.reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128.0) @ DCT.T).reshape(rows, columns, 64)


def ycbcr(rgb):
    """JFIF's conversion, rounded to whole levels as files are made."""
    r, g, b = np.moveaxis(np.asarray(rgb, np.float64), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return [np.rint(c) for c in (y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402)]


def rgb_of(y, cb, cr):
    r, b = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    return np.stack([r, (y - 0.299 * r - 0.114 * b) / 0.587, b], -1)


def decoded_from_coefficients(data):
    """The picture that a decoder without interpolation makes of what read_dct found."""
    found = jpeg.read_dct(data, dequantised=False)
    levels = [
        np.clip(np.rint(samples(plane * table.astype(np.int64))), 0, 255)
        for plane, table in zip(planes(found), found.tables)
    ]
    down, across = RATIOS[found.subsampling]
    repeated = [levels[0], *(np.repeat(np.repeat(plane, down, 0), across, 1) for plane in levels[1:])]
    cut = [plane[: found.height, : found.width] for plane in repeated]
    return np.clip(np.rint(cut[0] if len(cut) == 1 else rgb_of(*cut)), 0, 255)


def decoded_by_libjpeg(data, colours):
    return np.squeeze(simplejpeg.decode_jpeg(data, colours, fastupsample=True)).reshape(
        decoded_from_coefficients(data).shape
    )


def padded(plane, down, across):
    """To a whole number of blocks, the last row and column repeated."""
    height, width = plane.shape
    return np.pad(plane, ((0, -height % (8 * down)), (0, -width % (8 * across))), mode="edge")


def means(plane, down, across):
    height, width = plane.shape
    return plane.reshape(height // down, down, width // across, across).mean((1, 3))


@pytest.mark.parametrize(
    ("data", "subsampling", "luma", "chroma", "brought"), SOURCES.values(), ids=SOURCES.keys()
)  # fmt: skip
def test_shapes_and_header(data, subsampling, luma, chroma, brought):
    found = jpeg.read_dct(data, dequantised=False)
    assert (found.subsampling, found.y.shape) == (subsampling, (*luma, 64))
    assert (found.width, found.height) == Image.open(io.BytesIO(data)).size
    assert [plane.shape for plane in planes(found)[1:]] == ([] if chroma is None else [(*chroma, 64)] * 2)
    assert {plane.dtype for plane in planes(found)} == {np.dtype(np.int16)}
    tables = Image.open(io.BytesIO(data)).quantization
    assert [table.tolist() for table in found.tables] == [
        tables[min(i, len(tables) - 1)] for i in range(len(found.tables))
    ]
    assert len(found.tables) == len(planes(found))

    scaled = jpeg.read_dct(data)
    assert [plane.dtype for plane in planes(scaled)] == [np.float32] * len(planes(found))
    for plane, steps, whole in zip(planes(found), found.tables, planes(scaled)):
        np.testing.assert_array_equal(plane.astype(np.int64) * steps, whole)

    target = jpeg.read_dct(data, subsampling="4:2:0")
    assert [plane.shape for plane in planes(target)] == [(*luma, 64), (*brought, 64), (*brought, 64)]
    assert {plane.dtype for plane in planes(target)} == {np.dtype(np.float32)}
    assert target.subsampling == subsampling
    np.testing.assert_array_equal(target.y, scaled.y)


@pytest.mark.parametrize("name", FILES)
def test_they_decode_to_the_pixels_of_libjpeg(name):
    ours = decoded_from_coefficients(FILES[name])
    colours = "GRAY" if "grayscale" in name else "RGB"
    # A level more or less in Y and in Cb (1.772), and rounding to whole levels.
    assert np.abs(ours - decoded_by_libjpeg(FILES[name], colours)).max() <= 3
    assert np.abs(ours - decoded_by_libjpeg(FILES[name], colours)).mean() <= 0.1
    luma = Image.open(io.BytesIO(FILES[name]))
    luma.draft("YCbCr" if colours == "RGB" else "L", None)
    levels = np.asarray(luma.getchannel(0), np.float64)
    ours = samples(jpeg.read_dct(FILES[name]).y)[: levels.shape[0], : levels.shape[1]]
    assert np.abs(np.clip(ours, 0, 255) - levels).max() <= 1


@pytest.mark.parametrize("name", FILES)
def test_they_are_what_the_pixels_were_transformed_to(name):
    """From the picture that the file was made of: convert, take means, transform, divide by the steps."""
    found = jpeg.read_dct(FILES[name], dequantised=False)
    source = picture(found.width, found.height, "L" if "grayscale" in name else "RGB", seed=3)
    levels = [np.asarray(source, np.float64)] if "grayscale" in name else ycbcr(source)
    ratios = [(1, 1), RATIOS[found.subsampling], RATIOS[found.subsampling]]
    for plane, steps, level, (down, across) in zip(planes(found), found.tables, levels, ratios):
        ours = transformed(means(padded(level, down, across), down, across))
        assert ours.shape == plane.shape
        # Half a step, and what libjpeg's rounding of the means and in its transform amounts to.
        assert (np.abs(plane * steps.astype(np.int64) - ours) <= steps / 2 + 2.5).all()


@pytest.mark.parametrize("name", FILES)
def test_420_is_the_mean_of_pixels(name):
    """The same on the way over samples: 4:1:1 repeated across, everything else averaged to half the size."""
    native, target = jpeg.read_dct(FILES[name]), jpeg.read_dct(FILES[name], subsampling="4:2:0")
    down, across = {1: 2, 2: 1}[RATIOS[native.subsampling][0]], {1: 2, 2: 1, 4: 1}[RATIOS[native.subsampling][1]]
    repeats = {1: 1, 2: 1, 4: 2}[RATIOS[native.subsampling][1]]
    neutral = np.zeros((*target.cb.shape[:2], 64), np.float32)
    rows, columns = target.cb.shape[:2]
    for before, after in ((native.cb, target.cb), (native.cr, target.cr)):
        blocks = neutral.repeat(down, 0).repeat(across, 1) if before is None else before
        level = np.repeat(samples(blocks), repeats, 1)
        ours = transformed(means(padded(level, down, across), down, across))[:rows, :columns]
        np.testing.assert_allclose(after, ours, atol=2e-3)


@pytest.mark.parametrize(
    ("axis", "natural", "zigzag"),
    [("across", 1, 1), ("down", 8, 2)],
)
def test_order(axis, natural, zigzag):
    wave = np.rint(128 + 80 * np.cos((2 * np.arange(8) + 1) * np.pi / 16)).astype(np.uint8)
    block = np.tile(wave, (8, 1))
    data = encoded(Image.fromarray({"across": block, "down": block.T}[axis].copy()), quality=100)
    found = {order: jpeg.read_dct(data, order=order).y[0, 0] for order in ("natural", "zigzag")}
    assert {order: int(np.abs(values).argmax()) for order, values in found.items()} == {
        "natural": natural,
        "zigzag": zigzag,
    }
    assert found["natural"][natural] == pytest.approx(80 * 4 * np.sqrt(2), abs=1)  # amplitude x 8 / sqrt(2)


def test_zigzag_reorders_planes_and_tables_alike():
    natural, zigzag = (jpeg.read_dct(FILES["4:2:2"], order=order) for order in ("natural", "zigzag"))
    first = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    for before, after in zip(planes(natural), planes(zigzag)):
        np.testing.assert_array_equal(after[..., :10], before[..., first])
        np.testing.assert_array_equal(np.sort(after), np.sort(before))
    assert zigzag.tables[0][:10].tolist() == natural.tables[0][first].tolist()
    assert (natural.order, zigzag.order) == ("natural", "zigzag")
    diagonals = [sum(divmod(index, 8)) for index in layout.ZIGZAG.tolist()]
    assert diagonals == sorted(diagonals)
    assert sorted(layout.ZIGZAG.tolist()) == list(range(64))


@pytest.mark.parametrize(("level", "dc"), [(130, 16), (128, 0), (0, -1024), (255, 1016)])
def test_levels_are_shifted_by_128(level, dc):
    found = jpeg.read_dct(encoded(Image.new("L", (8, 8), level), quality=100))
    assert found.y.tolist() == [[[dc] + [0] * 63]]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "subsampling"),
    [
        ("n01443537_goldfish", "4:4:4"),
        ("n01496331_electric_ray", "4:2:0"),
        ("n01632777_axolotl", "4:2:0"),
    ],
)
def test_photographs(name, subsampling):
    path = PHOTOGRAPHS / f"{name}.JPEG"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    data = path.read_bytes()
    found = jpeg.read_dct(data)
    assert found.subsampling == subsampling
    difference = np.abs(decoded_from_coefficients(data) - decoded_by_libjpeg(data, "RGB"))
    assert difference.max() <= 3
    assert difference.mean() <= 0.1
