"""Writes the seeds: small JPEGs of every kind that the native core takes, and of some that it refuses.

python fuzz/seeds.py fuzz/seeds
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from beam_adacompress.jpeg.native import Writing, open_coded

EXIF = Image.Exif()
EXIF[0x0112] = 6


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Gradients and a little noise."""
    random = np.random.default_rng(width)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    rgb = np.stack([across, down, across / 2 + random.normal(64, 20, (height, width))], -1)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, **options: object) -> bytes:
    """As a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def sampled(data: bytes, down: int, across: int) -> bytes:
    """The same picture with its chrominance at other ratios, which Pillow does not write; by the core itself."""
    coded = open_coded(data)
    assert coded is not None, "the native core is not installed"
    written = coded.write(Writing((9,) * 64, (15,) * 64, 0.5, (down, across), optimize=False, progressive=False))
    assert written is not None, "the chrominance would have to be interpolated"
    return written


SEEDS = {
    "444": encoded(picture(33, 17), subsampling="4:4:4"),
    "422": encoded(picture(40, 25), subsampling="4:2:2"),
    "420": encoded(picture(35, 35), subsampling="4:2:0", quality=30),
    "440": sampled(encoded(picture(33, 18), subsampling="4:4:4"), 2, 1),
    "411": sampled(encoded(picture(38, 17), subsampling="4:2:2"), 1, 4),
    "gray": encoded(picture(19, 23, "L")),
    "progressive": encoded(picture(24, 24), progressive=True, optimize=True, subsampling="4:2:0"),
    "progressive-gray": encoded(picture(24, 24, "L"), progressive=True),
    "restarts": encoded(picture(48, 32), restart_marker_blocks=2),
    "exif": encoded(picture(16, 32), exif=EXIF, comment=b"hello"),
    "wide-tables": encoded(picture(16, 16), qtables=[[400] * 64, [300] * 64]),
    "cmyk": encoded(picture(16, 16, "CMYK")),
    "rgb": encoded(picture(16, 16), keep_rgb=True),
    "one": encoded(picture(1, 1)),
}


def main() -> None:
    """Writes them all."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for name, data in SEEDS.items():
        (folder / f"{name}.jpg").write_bytes(data)
        print(f"{name}.jpg: {len(data)} bytes")


if __name__ == "__main__":
    main()
