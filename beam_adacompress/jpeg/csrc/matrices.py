"""Prints matrices.h, the constants of the native core: python matrices.py > matrices.h."""

from __future__ import annotations

import numpy as np

HEAD = """\
/* Made by matrices.py. With D the orthonormal DCT-II of eight samples: aj_cosines is D; aj_halve[i] is D A D', where A
 * takes means of two of the 16 samples of two blocks, of which it is given the i-th; aj_edge is D B D', where B repeats
 * a block's last sample, aj_halve_edge the product of aj_halve[1] and it; aj_double[i] is D C D', where C repeats each
 * sample and gives the i-th of two blocks. */
#ifndef ADACOMPRESS_MATRICES_H
#define ADACOMPRESS_MATRICES_H
"""


def constants() -> dict[str, np.ndarray]:
    """The matrices by name, 8 x 8 or two of them."""
    scale = np.where(np.arange(8) == 0, 8**-0.5, 0.5)[:, None]
    line = scale * np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16)
    means = np.kron(np.eye(8), [0.5, 0.5])
    halve = np.stack([line @ half @ line.T for half in (means[:, :8], means[:, 8:])])
    edge = line @ np.outer(np.ones(8), np.eye(8)[7]) @ line.T
    double = 2 * halve.swapaxes(1, 2)
    return {
        "aj_cosines": line,
        "aj_cosines_transposed": line.T,
        "aj_halve": halve,
        "aj_halve_transposed": halve.swapaxes(1, 2),
        "aj_edge": edge,
        "aj_halve_edge_transposed": (halve[1] @ edge).T,
        "aj_double": double,
        "aj_double_transposed": double.swapaxes(1, 2),
    }


def header() -> str:
    """The content of matrices.h."""
    parts = [HEAD]
    for name, matrix in constants().items():
        size = "".join(f"[{count}]" for count in matrix.shape)
        lines = [
            "{" + ", ".join(f"{value + 0.0:.7e}f" for value in row) + "}" for row in matrix.round(15).reshape(-1, 8)
        ]
        blocks = [",\n    ".join(lines[first : first + 8]) for first in range(0, len(lines), 8)]
        body = "},\n   {".join(blocks)
        opening, closing = ("{{", "}}") if matrix.ndim == 3 else ("{", "}")
        parts.append(f"static const float {name}{size} = {opening}{body}{closing};\n")
    return "\n".join([*parts, "#endif\n"])


if __name__ == "__main__":
    print(header(), end="")
