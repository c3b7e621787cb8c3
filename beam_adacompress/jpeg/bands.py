"""What photographs hold in each of the 64 frequency bands of the DCT: the statistic that tables are fitted to."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_adacompress.jpeg.layout import RATIOS
from beam_adacompress.jpeg.native import Coded

COMPONENTS = ("Y", "Cb", "Cr")

Floats = NDArray[np.float64]

# JFIF: rows Y, Cb and Cr of R, G and B.
_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_OFFSET = np.array([0.0, 128.0, 128.0])


@functools.lru_cache(maxsize=1)
def basis() -> Floats:
    """The orthonormal DCT-II of an 8x8 block as one matrix.

    Returns:
      64 x 64; coefficients = matrix @ block, both in natural (row-major) order. Its transpose is the inverse.
    """
    return np.asarray(np.kron(dct_line(), dct_line()), np.float64)


def dct_line() -> Floats:
    """The orthonormal DCT-II of eight samples as a matrix, 8 x 8, a row for each frequency."""
    frequency, position = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    line: Floats = np.cos((2 * position + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(1 / 8), 0.5)
    return line


def blocks(plane: NDArray[np.generic]) -> Floats:
    """Cuts a plane into 8x8 blocks, its right and lower edge repeated where the last ones are not full.

    Args:
      plane: height x width.

    Returns:
      rows of blocks x columns of blocks x 64 samples, in natural order.
    """
    height, width = plane.shape
    padded = np.pad(plane.astype(np.float64), ((0, -height % 8), (0, -width % 8)), mode="edge")
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    cut: Floats = padded.reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(rows, columns, 64)
    return cut


def unblocked(cut: Floats, height: int, width: int) -> Floats:
    """The plane of `blocks`, without what was added at its edges."""
    rows, columns = cut.shape[:2]
    plane: Floats = cut.reshape(rows, columns, 8, 8).swapaxes(1, 2).reshape(8 * rows, 8 * columns)
    return plane[:height, :width]


def coefficients(pixels: Image.Image, subsampling: str = "4:2:0") -> list[Floats]:
    """DCT coefficients that an encoder would quantise, not quantised.

    Args:
      pixels: of mode `L`, `RGB` or `RGBX`.
      subsampling: of the chrominance, `4:4:4`, `4:2:2` or `4:2:0`, by averaging.

    Returns:
      For each component (Y, Cb, Cr; for `L` Y alone) blocks x 64, in natural order, levels shifted by 128.
    """
    if pixels.mode == "L":
        planes = [np.asarray(pixels)]
    else:
        # In rounded steps, as libjpeg has it; Pillow's own conversion cuts off instead, half a level darker.
        colours = np.rint(from_rgb(np.asarray(pixels.convert("RGB"))))
        planes = [colours[:, :, 0], *(_subsampled(colours[:, :, index], subsampling) for index in (1, 2))]
    return [(blocks(plane).reshape(-1, 64) - 128) @ basis().T for plane in planes]


def from_rgb(values: NDArray[np.generic]) -> Floats:
    """Y, Cb and Cr of R, G and B in the last axis, JFIF's full range, not rounded."""
    converted: Floats = values @ _YCBCR.T + _OFFSET
    return converted


def _subsampled(plane: NDArray[np.generic], subsampling: str) -> Floats:
    across, down = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}[subsampling]
    height, width = plane.shape
    padded = np.pad(plane.astype(np.float64), ((0, -height % down), (0, -width % across)), mode="edge")
    cells = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
    return np.asarray(cells.mean(axis=(1, 3)), np.float64)


@dataclasses.dataclass
class BandStats:
    """Count, sum and sum of squares of the coefficients of each band; `merge` adds them up.

    Attributes:
      images: number of images.
      count: blocks of each component, 3.
      total, squares: 3 x 64, of Y, Cb and Cr in natural order.
    """

    images: int = 0
    count: Floats = dataclasses.field(default_factory=lambda: np.zeros(3))
    total: Floats = dataclasses.field(default_factory=lambda: np.zeros((3, 64)))
    squares: Floats = dataclasses.field(default_factory=lambda: np.zeros((3, 64)))

    def add_coded(self, coded: Coded, subsampling: str = "4:2:0") -> bool:
        """Adds one JPEG by the coefficients that it has.

        They are what is left of the photograph's: multiples of the file's steps. Where those are fine, it is nearly the
        same as `add` gives, which transforms the rounded pixels again.

        Returns:
          False, with nothing added, where the chrominance would have to be interpolated.
        """
        if not coded.writes(RATIOS[subsampling]):
            return False
        self.images += 1
        for component, (total, squares) in enumerate(coded.bands(RATIOS[subsampling])):
            rows, columns = coded.shape(component, RATIOS[subsampling])
            self.count[component] += rows * columns
            self.total[component] += total
            self.squares[component] += squares
        return True

    def add(self, pixels: Image.Image, subsampling: str = "4:2:0") -> None:
        """Adds one image; its chrominance is zero if it is gray, and not counted."""
        self.images += 1
        for component, values in enumerate(coefficients(pixels, subsampling)):
            self.count[component] += len(values)
            self.total[component] += values.sum(axis=0)
            self.squares[component] += np.square(values).sum(axis=0)

    def merge(self, other: BandStats) -> None:
        self.images += other.images
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    def deviations(self) -> Floats:
        """Standard deviations (over all blocks) of Y, Cb and Cr, 3 x 64; 0 for a component without blocks."""
        count = np.maximum(self.count, 1)[:, None]
        return np.sqrt(np.maximum(0, self.squares / count - np.square(self.total / count)))
