"""How images are encoded, apart from the action that a policy chooses."""

from __future__ import annotations

import dataclasses

from beam_adacompress.arguments import check_types
from beam_adacompress.jpeg import metadata, native

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to encode, apart from the action that the policy chooses.

    Args:
      subsampling: chroma subsampling, `4:4:4`, `4:2:2` or `4:2:0`.
      optimize: Huffman tables fitted to the image (1.2 times the CPU of decode + encode, 3 to 15 % fewer bytes).
      progressive: progressive scans. With `optimize`: 11 to 14 % fewer bytes at the same pixels.
      align: the native engine keeps the quantisation steps of a JPEG wherever the tables ask for steps less than twice
        as coarse, see `tables.aligned`.
      keep_metadata: `all`, `icc` or `none`. The EXIF orientation is applied to the pixels in every case.
      min_saving: share of the original's bytes that must be saved, else the original is kept; 0 <= x < 1.
      max_pixels: images of more pixels (width x height) are failures, found before they are decoded.
      flatten: compress alpha (over white), 16-bit, animated (first frame) and multi-picture (first) files as well,
        instead of leaving them alone.
      engine: `native` takes JPEGs by their DCT coefficients, `pillow` takes everything by its pixels; `auto` is native
        where the native core is installed. What the native core does not take goes to Pillow in every case.

    Raises:
      AdaCompressError: `native` is asked for, and is not installed.
      TypeError, ValueError: an argument is of a wrong type or out of range; the message names it, its value and what is
        allowed.
    """

    subsampling: str = "4:2:0"
    optimize: bool = True
    progressive: bool = True
    align: bool = True
    keep_metadata: str = "icc"
    min_saving: float = 0.05
    max_pixels: int = 100_000_000
    flatten: bool = False
    engine: str = native.AUTO

    def __post_init__(self) -> None:
        check_types(self)
        if self.subsampling not in SUBSAMPLINGS:
            raise ValueError(f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {self.subsampling!r}")
        if self.keep_metadata not in metadata.POLICIES:
            raise ValueError(f"keep_metadata must be one of {', '.join(metadata.POLICIES)}, got {self.keep_metadata!r}")
        if not 0 <= self.min_saving < 1:
            raise ValueError(f"min_saving must be at least 0 and below 1, got {self.min_saving}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")
        if self.engine not in native.ENGINES:
            raise ValueError(f"engine must be one of {', '.join(native.ENGINES)}, got {self.engine!r}")
