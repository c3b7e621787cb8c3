"""Makes the pictures of the documentation: python docs/pictures/make.py [FOLDER]. They are committed.

before-after.webp: crops of photographs that `adacompress demo` shrinks, above as they were, below as they became.
fixed-quality.png: bytes beside the best fixed quality, out of benchmarks/results/rate_agreement.txt.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "hooks"))

import found  # noqa: E402

from beam_adacompress import report  # noqa: E402
from beam_adacompress.pipelines import cli, demo  # noqa: E402
from beam_adacompress.transforms.runs import RunFolder  # noqa: E402

# Where to look: the name, and the middle of the crop. JPEGs alone, whose savings are no matter of the format.
CROPS = {"china.jpg": (300, 200), "rocket.jpg": (330, 210), "hubble_deep_field.jpg": (420, 560)}
SIDE = (340, 250)  # pixels of a crop
GAP, LINE = 8, 24

INK, SOFT = "#1c2430", "#56606e"
NAMES = {
    "features": "policy, features alone",
    "lookahead": "policy, looking ahead",
    "agent": "AdaCompress's agent, as published",
}
COLOURS = {"features": "#0072b2", "lookahead": "#009e73", "agent": "#d55e00"}


def before_after() -> bytes:
    """Runs the demo, and puts crops of what went in above those of what came out."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(["demo", "--output", folder])
        assert status == 0, "the demo failed"
        rows = {row.key: row for row in demo._manifest(RunFolder(f"{folder}/compressed"))}
        width = len(CROPS) * SIDE[0] + (len(CROPS) - 1) * GAP
        sheet = Image.new("RGB", (width, 2 * (SIDE[1] + LINE) + GAP), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
        for column, (name, middle) in enumerate(CROPS.items()):
            row = rows[name]
            left = column * (SIDE[0] + GAP)
            sides = (
                (f"{folder}/originals/{name}", f"{name}: {report.megabytes(row.bytes_in or 0)}"),
                (
                    f"{folder}/compressed/images/{row.output}",
                    f"{report.megabytes(row.bytes_out or 0)}, quality {row.quality}, {row.tables}",
                ),
            )
            for index, (path, text) in enumerate(sides):
                top = index * (SIDE[1] + LINE + GAP)
                corner = tuple(int(at - side / 2) for at, side in zip(middle, SIDE))
                crop = Image.open(path).convert("RGB").crop((*corner, corner[0] + SIDE[0], corner[1] + SIDE[1]))
                sheet.paste(crop, (left, top + LINE))
                draw.text((left, top + 2), text, fill=INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=82, method=6)
    return buffer.getvalue()


def fixed_quality() -> bytes:
    """Bytes beside those of the fixed quality with the same agreement, with intervals."""
    figure = Figure(figsize=(9.2, 3.6), dpi=130, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    policies, agents = found.policies(), found.agents()
    lowest, *_, highest = found.agreements_of_agents()
    titles = ("at an agreement of 0.97", "at 0.99", f"at its own, {lowest:.2f} to {highest:.2f}")
    for place, (axes, title) in enumerate(zip(figure.subplots(1, 3, sharey=True, sharex=True), titles)):
        for height, network in enumerate(reversed(found.NETWORKS)):
            of_policies = {
                kind: policies[key][place % 2] for kind in NAMES if (key := (network, "all", kind)) in policies
            }
            of_agent = {"agent": agents[network]}
            for kind, ratio in (of_agent if place == 2 else of_policies).items():
                mean, low, high = (float(text) for text in (ratio.mean, ratio.low, ratio.high))
                at = height + {"features": 0.13, "lookahead": -0.13, "agent": 0}[kind]
                spread = np.array([[mean - low], [high - mean]])
                axes.errorbar([mean], [at], xerr=spread, fmt="o", color=COLOURS[kind], capsize=3, markersize=6)
        axes.axvline(1, color=SOFT, linewidth=1)
        axes.set_yticks(range(3), [name.replace(", ", ",\n") for name in reversed(found.NETWORKS.values())])
        axes.set_ylim(-0.5, 2.6)
        axes.set_xlim(0.3, 1.75)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.grid(axis="x", color="#e4e7ea")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(colors=SOFT, labelsize=9, left=False)
        axes.annotate("best fixed quality", (1, 2.45), (4, 0), textcoords="offset points", fontsize=8, color=SOFT)
        for kind, name in NAMES.items() if place == 0 else ():
            axes.errorbar([], [], xerr=[], fmt="o", color=COLOURS[kind], label=name)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    label = "bytes, relative to those of the fixed quality with the same agreement (95 % intervals)"
    figure.supxlabel(label, fontsize=9, color=INK)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, make in (("before-after.webp", before_after), ("fixed-quality.png", fixed_quality)):
        data = make()
        (folder / name).write_bytes(data)
        print(f"{name}: {report.megabytes(len(data))}")
