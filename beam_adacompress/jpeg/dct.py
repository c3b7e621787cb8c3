"""The DCT coefficients of a JPEG, as they stand in the file: no inverse transform, no upsampling, no colour conversion.

    bytes ─▶ native core, strict ─────────────────────────────────────────────▶ planes ─┬▶ quantised, int16
       └──▶ without it: header ─▶ strict decode at 1/8 scale ─▶ jpeglib ────────────┘     └▶ dequantised, float32
            (refuses what is not YCbCr)  (refuses what is damaged)                            ─▶ 4:2:0

The arithmetic. A coefficient block is the orthonormal 8x8 DCT-II of samples from which 128 was subtracted (the level
shift of ITU-T T.81), divided by the quantisation step and rounded; dequantised, it is multiplied by the step again.
So the dequantised DC is 8 x (block mean - 128), within about -1024..1016, and a zero chrominance plane is grey.

The native core takes a fifth of the time of the way over jpeglib, which tests take as the other's oracle.
"""
# No `from __future__ import annotations`: Beam reads the annotations of DecodedDCT as types.

import dataclasses
import functools
import os
import tempfile
from typing import Any, NamedTuple, Optional

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg import native
from beam_adacompress.jpeg.layout import NAMES, RATIOS, ZIGZAG, Layout, Table, layout_of
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.source import HIGH_BIT_DEPTH, JPEG_MAGIC, Source, open_image

NOT_A_JPEG = "not-a-jpeg"

ORDERS = ("natural", "zigzag")

_TARGET = "4:2:0"

_EXTRA = "reading DCT coefficients needs jpeglib: pip install 'beam-adacompress[dct]'"
# Of the libjpegs in jpeglib the one that tolerates what simplejpeg's does, so that nothing which passes the check is
# fatal to it. jpeglib's default, 6b, fails for files without Huffman tables (motion JPEG), which simplejpeg decodes.
_LIBJPEG = "turbo210"

Plane = NDArray[Any]  # rows of blocks x columns of blocks x 64


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
    """The coefficient planes of one image.

    A plane has each block that holds at least one sample of the image, ceil(ceil(size / ratio) / 8) of them an axis,
    where ratio is 1 for Y and the subsampling of the axis for Cb and Cr. Blocks that only fill up the last MCU are
    dropped. What the samples of a block beyond the image's edge are is the encoder's business; they are kept.

    Nothing is rotated: the EXIF orientation does not matter here.
    """

    y: Plane  # rows x columns x 64; int16 quantised, float32 dequantised
    cb: Optional[Plane]  # None for grayscale, unless brought to 4:2:0
    cr: Optional[Plane]
    tables: tuple[Table, ...]  # of Y, Cb and Cr (of Y alone for grayscale) in the file, in the order of the planes
    subsampling: Optional[str]  # of the file: `4:2:0`, ...; None for grayscale
    width: int  # pixels, as coded
    height: int
    dequantised: bool
    order: str  # of the 64 coefficients: `natural` (8 x vertical + horizontal frequency) or `zigzag`


class DecodedDCT(NamedTuple):
    """The coefficients of one image as a row; `unpack` makes arrays of it. Fields as in Coefficients."""

    key: str
    y: bytes  # little-endian int16 where quantised, else float32: y_rows x y_columns x 64
    y_rows: int  # blocks
    y_columns: int
    cb: Optional[bytes]  # chroma_rows x chroma_columns x 64; None for grayscale
    cr: Optional[bytes]
    chroma_rows: int  # blocks; 0 for grayscale
    chroma_columns: int
    tables: bytes  # little-endian uint16: 3 x 64, or 1 x 64 for grayscale
    subsampling: Optional[str]  # of the file
    width: int  # pixels, as coded
    height: int
    dequantised: bool
    order: str


def pack(key: str, coefficients: Coefficients) -> DecodedDCT:
    """The row of an image's coefficients."""

    def raw(plane: Plane) -> bytes:
        return plane.astype("<f4" if coefficients.dequantised else "<i2", copy=False).tobytes()

    rows, columns = (0, 0) if coefficients.cb is None else coefficients.cb.shape[:2]
    return DecodedDCT(
        key=key,
        y=raw(coefficients.y),
        y_rows=coefficients.y.shape[0],
        y_columns=coefficients.y.shape[1],
        cb=None if coefficients.cb is None else raw(coefficients.cb),
        cr=None if coefficients.cr is None else raw(coefficients.cr),
        chroma_rows=rows,
        chroma_columns=columns,
        tables=np.stack(coefficients.tables).astype("<u2").tobytes(),
        subsampling=coefficients.subsampling,
        width=coefficients.width,
        height=coefficients.height,
        dequantised=coefficients.dequantised,
        order=coefficients.order,
    )


def unpack(row: Any) -> Coefficients:
    """The arrays of a DecodedDCT, or of any row with its fields. They are read-only views of its bytes."""
    kind = "<f4" if row.dequantised else "<i2"

    def plane(raw: Optional[bytes], rows: int, columns: int) -> Optional[Plane]:
        return None if raw is None else np.frombuffer(raw, kind).reshape(rows, columns, 64)

    y = plane(row.y, row.y_rows, row.y_columns)
    assert y is not None
    return Coefficients(
        y=y,
        cb=plane(row.cb, row.chroma_rows, row.chroma_columns),
        cr=plane(row.cr, row.chroma_rows, row.chroma_columns),
        tables=tuple(np.frombuffer(row.tables, "<u2").reshape(-1, 64)),
        subsampling=row.subsampling,
        width=row.width,
        height=row.height,
        dequantised=row.dequantised,
        order=row.order,
    )


def check_arguments(dequantised: bool, subsampling: Optional[str], order: str) -> None:
    """What read_dct and DecodeDCT refuse before there is an image.

    Raises:
      ValueError: an argument is none of the allowed ones, or they do not go together.
    """
    if subsampling not in (None, _TARGET):
        raise ValueError(f"subsampling must be '{_TARGET}' or None, which keeps the file's, got {subsampling!r}")
    if subsampling and not dequantised:
        raise ValueError(
            f"subsampling '{_TARGET}' mixes blocks, which has a meaning for dequantised coefficients only: "
            f"got subsampling={subsampling!r} with dequantised={dequantised}"
        )
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")


def read_dct(
    data: bytes,
    dequantised: bool = True,
    subsampling: Optional[str] = None,
    order: str = "natural",
    max_pixels: Optional[int] = Settings.max_pixels,
) -> Coefficients:
    """Reads the DCT coefficients of a JPEG.

    Baseline, extended and progressive Huffman files of 8 bits, grayscale or YCbCr at 4:4:4, 4:2:2, 4:2:0, 4:4:0 and
    4:1:1. Safe to call from several threads at once.

    Without the native core it takes two to four times as long as decoding to pixels with Pillow. About a quarter goes
    into a decode at 1/8 scale, which finds the damage that jpeglib would pass over in silence. At its peak it needs,
    per pixel of a 4:4:4 file, 12 bytes quantised and 18 (in zig-zag order 24) dequantised.

    Args:
      data: the file.
      dequantised: coefficients times quantisation steps, in float32; else as they are in the file, in int16.
      subsampling: None leaves Cb and Cr at the file's sampling. `4:2:0` brings every file to the shapes that networks
        on DCT input take (Gueguen et al., NeurIPS 2018): Cb and Cr ceil(height / 16) x ceil(width / 16) x 64, zero
        for grayscale; Y stays as it is. See `_to_420` for how.
      order: of the 64 coefficients, and of the tables' steps: `natural` or `zigzag`.
      max_pixels: width x height above which nothing is decoded or allocated; None for no limit.

    Raises:
      AdaCompressError: neither the native core nor jpeglib is installed.
      ImageError: `empty`, `not-an-image`, `not-a-jpeg`, `truncated`, `corrupt`, `too-many-pixels`, `high-bit-depth`
        (12 bits), or `unsupported-jpeg` (CMYK, YCCK, coded as RGB, arithmetic or lossless coding, other samplings).
      ValueError: an argument is none of the allowed ones, or they do not go together.
    """
    check_arguments(dequantised, subsampling, order)
    try:
        layout, planes = _native(data, dequantised, subsampling, max_pixels) or _jpeglib(
            data, dequantised, subsampling, max_pixels
        )
        tables = layout.tables
        if order == "zigzag":
            planes = [plane[..., ZIGZAG] for plane in planes]
            tables = tuple(table[ZIGZAG] for table in tables)
    except MemoryError as error:
        raise ImageError("too-many-pixels", "not enough memory for its coefficients; lower --max-pixels") from error
    y, cb, cr = planes if len(planes) == 3 else (planes[0], None, None)
    return Coefficients(y, cb, cr, tables, layout.subsampling, layout.width, layout.height, dequantised, order)


def _native(
    data: bytes, dequantised: bool, subsampling: Optional[str], max_pixels: Optional[int]
) -> Optional[tuple[Layout, list[Plane]]]:
    """By the native core, which is strict by itself and reads from memory; None for what it does not take."""
    coded = native.open_coded(data, max_pixels) if data.startswith(JPEG_MAGIC) else None
    if coded is None:
        return None
    name = None if coded.components == 1 else NAMES.get(coded.ratios)
    if (coded.components > 1 and name is None) or (subsampling and not coded.writes(RATIOS[subsampling])):
        return None
    components = range(coded.components)
    layout = Layout(coded.width, coded.height, name, tuple(coded.table(each) for each in components))
    if not dequantised:
        return layout, [np.array(coded.plane(each)) for each in components]
    planes: list[Plane] = [coded.dequantised(each, RATIOS[subsampling] if subsampling else None) for each in components]
    if subsampling and name is None:
        planes += [np.zeros((*coded.shape(1, RATIOS[subsampling]), 64), np.float32) for _ in range(2)]
    return layout, planes


def _jpeglib(
    data: bytes, dequantised: bool, subsampling: Optional[str], max_pixels: Optional[int]
) -> tuple[Layout, list[Plane]]:
    """By jpeglib, after a decode that finds what is damaged."""
    opened = open_image(data, max_pixels)
    if opened.format != "JPEG":
        raise ImageError(
            NOT_A_JPEG, f"only JPEGs have DCT coefficients, and this is {opened.format}: compress it first"
        )
    if opened.obstacle == HIGH_BIT_DEPTH:
        raise ImageError(HIGH_BIT_DEPTH, "it has more than 8 bits a sample, whose coefficients cannot be read")
    layout = layout_of(opened.data)
    _check(opened, layout)
    planes = _coefficients(opened.data, layout.shapes)
    if dequantised:
        planes = [np.multiply(plane, table, dtype=np.float32) for plane, table in zip(planes, layout.tables)]
    return layout, _to_420(planes, layout) if subsampling else planes


def _check(opened: Source, layout: Layout) -> None:
    """Decodes strictly, at an eighth of the size: all of the entropy-coded data, but hardly any inverse transform.

    jpeglib fills up damaged files without a word, and crashes the process over a damaged header.

    Raises:
      ImageError: `truncated` or `corrupt`.
    """
    try:
        simplejpeg.decode_jpeg(opened.data, colorspace="GRAY", min_factor=8)
    except ValueError:
        opened.pixels()  # says what is wrong in the words of the other parts, or tolerates it as they do
    if {opened.width, opened.height} != {layout.width, layout.height}:  # as displayed and as coded
        raise ImageError("corrupt", "the header of the file contradicts itself")


def _coefficients(data: bytes, shapes: list[tuple[int, int, int]]) -> list[Plane]:
    """The seam: quantised coefficients of a JPEG that has been checked.

    jpeglib's own `read_dct` decodes twice, keeps what it finds of the header in variables of the process, fails for
    files of more than 50 markers, and leaves its temporary file behind when it fails. So this calls the function of
    its library that reads the coefficients, which does none of that.

    Args:
      data: the file.
      shapes: of the planes, rows x columns x 64; they must be right, the library does not look.

    Returns:
      A plane of int16 in natural order for each shape.
    """
    library = require_reader()
    planes: list[Plane] = [np.zeros(shape, np.int16) for shape in shapes]
    tables, slots = np.zeros((4, 64), np.uint16), np.zeros(4, np.int16)
    pointers = [plane.ctypes.data_as(library.pointer) for plane in planes] + [None] * (4 - len(planes))
    handle, path = tempfile.mkstemp(prefix="adacompress-", suffix=".jpg")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        done = library.read(
            os.fsencode(path),
            *pointers,
            tables.ctypes.data_as(library.pointer),
            slots.ctypes.data_as(library.pointer),
        )
    finally:
        os.unlink(path)
    if not done:
        raise ImageError("corrupt", "jpeglib cannot read its coefficients")
    return planes


class _Reader(NamedTuple):
    read: Any  # (path, Y, Cb, Cr, K, tables, slots) -> 0 where it failed
    pointer: Any  # the type of a pointer to anything


@functools.lru_cache(maxsize=1)
def require_reader() -> _Reader:
    """Loads the library that reads coefficients.

    Raises:
      AdaCompressError: it is not installed, or is another than the one that this was written for.
    """
    try:
        import ctypes

        from jpeglib._bind import CJpegLib

        return _Reader(CJpegLib._bind_lib(_LIBJPEG).read_jpeg_dct, ctypes.c_void_p)
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        raise AdaCompressError(_EXTRA) from error


def _to_420(planes: list[Plane], layout: Layout) -> list[Plane]:
    """Brings dequantised chrominance to half the size of the image in both directions, in the DCT domain.

    Each axis by itself, in terms of the samples that the blocks stand for:
    - full size (4:4:4 both axes, 4:2:2 downwards, 4:4:0 across, 4:1:1 downwards): the mean of each two neighbours;
      both together are the box filter over 2 x 2 pixels that encoders use. An odd last block is paired with one that
      repeats its last row (column) of samples, which is how encoders fill up an image.
    - half size: unchanged.
    - a quarter (4:1:1 across): each sample twice.
    All of that is linear, so it is done by multiplying blocks by matrices, exactly but for the rounding of float32.
    Samples are neither rounded nor clipped to 0..255 in between, as they would be on the way over pixels.
    """
    y, *chroma = planes
    rows, columns = -(-layout.height // 16), -(-layout.width // 16)
    if layout.subsampling is None:
        return [y, np.zeros((rows, columns, 64), np.float32), np.zeros((rows, columns, 64), np.float32)]
    brought = [y]
    for plane in chroma:
        for axis, ratio in enumerate(RATIOS[layout.subsampling]):
            plane = halved(plane, axis) if ratio == 1 else _doubled(plane, axis) if ratio == 4 else plane
        brought.append(np.ascontiguousarray(plane[:rows, :columns]))
    return brought


def halved(plane: Plane, axis: int) -> Plane:
    """A plane with half as many samples along an axis, each the mean of two: exact, block by block."""
    first, second, edge = _matrices(axis)
    blocks = plane.swapaxes(0, axis)
    even, odd = blocks[0::2], blocks[1::2]
    if len(even) > len(odd):
        odd = np.concatenate([odd, even[-1:] @ edge])
    mean: Plane = (even @ first + odd @ second).swapaxes(0, axis)
    return mean


def _doubled(plane: Plane, axis: int) -> Plane:
    first, second, _ = _matrices(axis)
    blocks = plane.swapaxes(0, axis)
    doubled = np.empty((2 * len(blocks), *blocks.shape[1:]), plane.dtype)
    # Repeating samples is twice the transpose of taking means of two, and the DCT is orthonormal.
    doubled[0::2] = blocks @ (2 * first.T)
    doubled[1::2] = blocks @ (2 * second.T)
    turned: Plane = doubled.swapaxes(0, axis)
    return turned


@functools.lru_cache(maxsize=2)
def _matrices(axis: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The matrices behind `_to_420`, for blocks as rows of 64 coefficients, multiplied from the right.

    With D the orthonormal DCT-II of 8 samples and A = [A1 A2] the 8 x 16 matrix that takes means of two neighbours,
    the coefficients of the means of blocks x1 and x2 are D A1 D' x1 + D A2 D' x2; the block that repeats the last
    sample of x is D 1 e8' D' x.

    Returns:
      (D A1 D')', (D A2 D')' and (D 1 e8' D')', for `axis` 0 along vertical frequencies, for 1 along horizontal ones.
    """
    frequency, position = np.mgrid[:8, :8]
    transform = np.cos((2 * position + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(1 / 8), 0.5)
    means = np.kron(np.eye(8), [0.5, 0.5])
    repeat = np.outer(np.ones(8), np.eye(8)[7])

    def matrix(samples: NDArray[Any]) -> NDArray[np.float32]:
        along = transform @ samples @ transform.T
        block = np.kron(along, np.eye(8)) if axis == 0 else np.kron(np.eye(8), along)
        return np.ascontiguousarray(block.T, np.float32)

    return matrix(means[:, :8]), matrix(means[:, 8:]), matrix(repeat)
