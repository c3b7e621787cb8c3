"""Searching tables for a network that only answers: what to propose, how to bring it to a size, what it is worth.

A proposal is a shape: the logarithm of the step as a piecewise-linear function of the radial frequency, for luminance
and for chrominance. Shapes are compared at equal bytes. The first ones are sorted random, after "Optimizing JPEG
Quantization for Classification Networks" (Li, De Sa and Sampson, arXiv 2003.02874); then a tree-structured Parzen
estimator (Optuna's) proposes what resembles the better ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.picture import encode
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.tables import Family, Quantisation

Floats = NDArray[np.float64]
Parameters = Mapping[str, float]

# log(step / step at radius 1) at these radial frequencies; chrominance has a level of its own beside it.
KNOTS = (0.0, 1.0, 2.0, 3.5, 5.5, 9.9)
RANGES: Mapping[str, tuple[float, float]] = {
    "luma_0": (-1.5, 1.0),
    "luma_2": (-0.7, 1.2),
    "luma_3.5": (-1.0, 2.0),
    "luma_5.5": (-1.0, 3.0),
    "luma_9.9": (-1.0, 3.5),
    "chroma_level": (-1.0, 2.5),
    "chroma_0": (-1.5, 1.0),
    "chroma_slope": (-0.5, 3.0),
}
STARTING = 24  # proposals before the estimator has enough to go by

_SLOPE_AT_KNOTS = (0.0, 0.0, 0.35, 0.6, 0.85, 1.0)  # shares of the chrominance's slope
_RADII = np.array([math.hypot(band // 8, band % 8) for band in range(64)])
_TOLERANCE = 0.01  # of the bytes to which a shape is brought
_TRIES = 8


def shaped(parameters: Parameters) -> tuple[Floats, Floats]:
    """Luminance and chrominance steps of a shape, `(64,)` each in natural order, up to a common factor."""
    luma = [parameters["luma_0"], 0.0, *(parameters[f"luma_{knot:g}"] for knot in KNOTS[2:])]
    chroma = [share * parameters["chroma_slope"] for share in _SLOPE_AT_KNOTS]
    chroma[0] += parameters["chroma_0"]
    level = parameters["chroma_level"]
    return np.exp(np.interp(_RADII, KNOTS, luma)), np.exp(level + np.interp(_RADII, KNOTS, chroma))


def mean_bytes(tables: Quantisation, pixels: Sequence[Image.Image], settings: Settings, threads: Executor) -> float:
    """Mean size of images."""
    return float(np.mean([len(data) for data in threads.map(lambda image: encode(image, tables, settings), pixels)]))


def levelled(
    parameters: Parameters,
    name: str,
    quality: int,
    wanted: float,
    pixels: Sequence[Image.Image],
    settings: Settings,
    threads: Executor,
) -> Family:
    """The family of a shape whose files have a size at a quality.

    Args:
      parameters: of the shape.
      name: of the family.
      quality: 1..100, at which the size is met.
      wanted: mean bytes.
      pixels: of the images that the mean is over.
      settings: of the encoder.
      threads: to encode in.

    Returns:
      The family that comes nearest; no scale of a shape may reach a size that is very large or very small.
    """
    luma, chroma = shaped(parameters)

    def at(log_scale: float) -> Family:
        brought = [tuple(round(float(step * math.exp(log_scale)), 3) for step in steps) for steps in (luma, chroma)]
        return Family(name, brought[0], brought[1])

    low, high = math.log(0.05), math.log(5000.0)  # a smaller scale makes larger files
    best: tuple[float, Family] = (math.inf, at(high))
    scale = math.log(20.0)
    for _ in range(_TRIES):
        made = at(scale)
        error = math.log(mean_bytes(made.at(quality), pixels, settings, threads) / wanted)
        best = min(best, (abs(error), made), key=lambda each: each[0])
        if abs(error) < _TOLERANCE:
            break
        low, high = (scale, high) if error > 0 else (low, scale)
        scale = min(high - 0.02, max(low + 0.02, scale + 1.5 * error))  # bytes go about with step ** (-2/3)
    return best[1]


class Told(NamedTuple):
    """A shape that has been judged."""

    parameters: Parameters
    value: float


def proposals(told: Sequence[Told], count: int, seed: int) -> list[dict[str, float]]:
    """Shapes worth a try.

    The same arguments give the same proposals, so that a search that was stopped goes on as if it had not been.

    Args:
      told: what is known, in the order in which it was judged.
      count: how many.
      seed: of the search.

    Raises:
      AdaCompressError: Optuna is not installed.
    """
    random = np.random.default_rng([seed, len(told)])
    start = [_sorted_random(random) for _ in range(max(0, min(count, STARTING - len(told))))]
    return start + _estimated(told, count - len(start), int(random.integers(2**31)))


def _sorted_random(random: np.random.Generator) -> dict[str, float]:
    """Uniform within the ranges, with steps that do not fall with the frequency from the first knot on."""
    drawn = {name: float(random.uniform(low, high)) for name, (low, high) in RANGES.items()}
    names = [f"luma_{knot:g}" for knot in KNOTS[2:]]
    in_order = sorted(drawn[name] for name in names)
    return {**drawn, **{name: _within(value, *RANGES[name]) for name, value in zip(names, in_order)}}


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def require_optuna() -> None:
    """Raises AdaCompressError where Optuna is not installed."""
    _optuna()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise AdaCompressError("searching tables needs optuna: pip install 'beam-adacompress[train]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _estimated(told: Sequence[Told], count: int, seed: int) -> list[dict[str, float]]:
    if not count:
        return []
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=True, n_startup_trials=min(len(told), STARTING), seed=seed
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {name: optuna.distributions.FloatDistribution(low, high) for name, (low, high) in RANGES.items()}
    for each in told:
        study.add_trial(optuna.trial.create_trial(params=dict(each.parameters), distributions=space, value=each.value))
    return [study.ask(space).params for _ in range(count)]


class Curve(NamedTuple):
    """What the standard tables come to on some images: by quality, in ascending order of bytes."""

    sizes: Floats  # bytes, `(qualities, images)`
    fidelity: Floats  # `(qualities, images)`, see reward.fidelity

    def value(self, sizes: Floats, fidelity: Floats, images: Sequence[int]) -> float:
        """How much fidelity tables gain over the standard ones at the same bytes, on the same images.

        Args:
          sizes, fidelity: of the images with these tables, `(images,)`.
          images: their columns in the curve.
        """
        chosen = list(images)
        bytes_at = np.log(self.sizes[:, chosen].mean(axis=1))
        standard = np.interp(np.log(sizes.mean()), bytes_at, self.fidelity[:, chosen].mean(axis=1))
        return float(fidelity.mean() - standard)
