"""What keeping a JPEG's own steps is worth: bytes for an agreement with and without `Settings.align`.

    python benchmarks/alignment.py --images PHOTOGRAPHS... --models NETWORKS.tflite...

Every image is compressed with every action (five table families, eleven qualities, optimised progressive, 4:2:0), once
with steps that are aligned to those that it was saved with and once with the tables alone, and each network is asked
what it sees, before and after; answers are kept in the cache. Agreement is within the top 5, the reference is the
original. Images are those of each folder's second half, on which no family was searched, apart by the mean of the
first ten luminance steps that they were saved with. Where a file would not save 5 %, the original is kept.

Printed are the bytes that one fixed quality with aligned steps needs for an agreement, relative to the same family
without on the same images, with 95 % intervals from a paired bootstrap; and what the oracle takes, the smallest file
of each image that agrees.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from judgements import FAMILIES, SAVING, Table, table
from rate_agreement import TARGETS, said

from beam_adacompress.pipelines import local
from beam_adacompress.policy import judging
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.rates import ratio_of_bytes

COARSE = 6.0  # mean of the first ten luminance steps in zigzag order; the standard tables have it at quality 77


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="LiteRT classifiers")
    options = parser.parse_args()
    local.quiet_logs()
    for model in options.models:
        print(f"\n{model.stem}")
        compared(*(table(options.images, model, None, 1, align=aligns) for aligns in (True, False)))


def compared(with_it: Table, without: Table) -> None:
    assert with_it.raw.keys == without.raw.keys, "the network answered for the same images"
    steps = np.exp2(with_it.raw.features[:, NAMES.index("log2_source_step")])
    for name, image in (("fine", steps < COARSE), ("coarse", steps >= COARSE)):
        chosen = np.flatnonzero(with_it.half & image)
        ours, theirs = (judging.written(each.raw.take(chosen), SAVING) for each in (with_it, without))
        print(f"  saved with {name} steps: {len(chosen)} images")
        for index, family in enumerate(FAMILIES):
            own = slice(index * len(LADDER), (index + 1) * len(LADDER))
            cells = [
                ratio_of_bytes(
                    (ours.sizes[:, own], theirs.sizes[:, own]),
                    (ours.agreement[:, own], theirs.agreement[:, own]),
                    target,
                )
                for target in TARGETS
            ]
            told = "   ".join(f"at {target}: {said(cell)}" for target, cell in zip(TARGETS, cells))
            lossless = ours.agreement[:, own][:, -1].mean(), theirs.agreement[:, own][:, -1].mean()
            most = ours.sizes[:, own][:, -1].mean() / theirs.sizes[:, own][:, -1].mean()
            print(
                f"    {family:<20} {told}   at quality {LADDER[-1]}: {most:.3f} of the bytes, agreement "
                f"{lossless[0]:.4f} and {lossless[1]:.4f}",
                flush=True,
            )
        best = [judging.oracle("", each).sizes.mean() for each in (ours, theirs)]
        print(f"    {'oracle':<20} {best[0] / best[1]:.3f}")


if __name__ == "__main__":
    main()
