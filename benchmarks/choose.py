"""What choosing costs beside decoding and encoding.

    python benchmarks/choose.py --images PHOTOGRAPHS

In one process, image by image and turn by turn, in CPU time:

- a bare loop: Pillow decodes, and encodes at a fixed quality with the same encoder settings and the standard tables;
- features and policy: what a policy does to an image that has been decoded;
- choose and compress: what ChooseQuality and CompressJPEG do to an image in one stage, which decodes it once.

Medians over images of the ratios to the bare loop. The files that are compared have about the same size: the bare loop
encodes at the quality of the standard tables whose files are nearest to the policy's. Plain coding is Pillow's default;
optimised progressive coding is ours. Target: features and policy at most 0.25, choose and compress at most 1.25.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.jpeg import decoded
from beam_adacompress.policy.policies import DEFAULT, Onlooker, Serving, onlooker

QUALITIES = (5, 8, 11, 15, 20, 26, 34, 45, 60, 75, 90)
CODINGS = {
    "plain": jpeg.Settings(optimize=False, progressive=False, min_saving=0.0),
    "optimised progressive": jpeg.Settings(min_saving=0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=150, help="images")
    parser.add_argument("--turns", type=int, default=5, help="of each image; the fastest counts")
    parser.add_argument("--policy", default=DEFAULT)
    options = parser.parse_args()
    files = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    looker = onlooker(Serving(options.policy))
    print(f"{options.count} images of {options.images.name}, policy {looker.policy.version}, CPU time, one process")
    for name, settings in CODINGS.items():
        found = [
            row
            for path in files[: options.count]
            if (row := ratios(path.read_bytes(), looker, settings, options.turns))
        ]
        choosing, both = (statistics.median(row[index] for row in found) for index in (0, 1))
        print(
            f"{name:<22} features and policy {choosing:.3f} of decode + encode, {verdict(choosing, 0.25)}; "
            f"choose and compress {both:.3f}, {verdict(both, 1.25)} ({len(found)} images are compressed)"
        )


def ratios(data: bytes, looker: Onlooker, settings: jpeg.Settings, turns: int) -> tuple[float, float] | None:
    """Of one image; None for one that the policy leaves alone, which is not encoded."""
    opened = jpeg.open_image(data)
    picture = jpeg.open_picture(opened, settings)
    choice = looker.policy.choose(looker.look(opened, picture), "image")
    written = jpeg.compress(data, choice.tables, choice.quality, choice.policy_version, settings)
    if written.reason is not None:
        return None
    sizes = {each: len(picture.encode(jpeg.quantisation("annexk", each), settings)) for each in QUALITIES}
    quality = min(sizes, key=lambda each: abs(sizes[each] - len(written.data)))

    def bare() -> None:
        with Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB") if image.mode not in ("L", "RGB") else image
            picture.save(
                io.BytesIO(), "JPEG", quality=quality, optimize=settings.optimize, progressive=settings.progressive
            )

    def choose() -> None:
        looker.policy.choose(looker.look(opened, picture), "image")

    def both() -> None:
        source = jpeg.open_image(data)
        shown = jpeg.open_picture(source, settings)
        chosen = looker.policy.choose(looker.look(source, shown), "image")
        decoded.keep(source, shown, settings)
        jpeg.compress(data, chosen.tables, chosen.quality, chosen.policy_version, settings)

    seconds: dict[Callable[[], None], list[float]] = {bare: [], choose: [], both: []}
    for _ in range(turns):
        for what, measured in seconds.items():
            start = time.process_time()
            what()
            measured.append(time.process_time() - start)
    least = {what: min(measured) for what, measured in seconds.items()}
    return least[choose] / least[bare], least[both] / least[bare]


def verdict(ratio: float, wanted: float) -> str:
    return f"at most {wanted}, as asked for" if ratio <= wanted else f"MORE than the {wanted} asked for"


if __name__ == "__main__":
    main()
