"""What choosing per image is worth on held-out images: every way to choose beside the fixed quality, with intervals.

All intervals are at 95 %. Those of shares are Wilson's; all others are percentiles of one paired bootstrap: the same
resampled images for every strategy and every point of every curve, so that what they have in common cancels.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.estimates import Interval, WeightedSums

Floats = NDArray[np.float64]

FORMAT = "adacompress.evaluation"
VERSION = 1

POLICY = "policy"
VERIFIED = "verified"  # asks the backend about each image
ORACLE = "oracle"  # knows every answer of the backend: the smallest bytes that there are to be had
FIXED = "fixed"
JITTER = "jitter"  # the references themselves, saved again at a higher quality: what noise alone costs

NOT_REACHED = "the curve does not reach it"

_TAILS = (0.025, 0.975)
_CHUNK = 4_000_000  # numbers of the bootstrap's matrix in memory at a time


class Strategy(NamedTuple):
    """What one way to choose came to on the test images."""

    name: str
    kind: str  # `policy`, `verified`, `oracle`, `fixed` or `jitter`
    sizes: Floats  # bytes, `(images,)`
    agreement: Floats  # 0 or 1, `(images,)`
    strict: Floats  # the same with the best label alone, `(images,)`
    calls: Optional[Floats] = None  # of the backend while choosing, `(images,)`; None where there are none
    promised: Optional[float] = None  # agreement that it was calibrated to keep, 0..1


class Curve(NamedTuple):
    """The same configuration for all images, at several qualities."""

    name: str
    labels: Sequence[Union[int, str]]  # the qualities, `(points,)`
    sizes: Floats  # bytes, `(images, points)`
    agreement: Floats  # 0 or 1, `(images, points)`
    strict: Floats  # `(images, points)`


class Against(NamedTuple):
    """Bytes relative to those that a curve needs for the same agreement."""

    curve: str
    ratio: Interval  # 0 where the curve does not reach that agreement
    unreached: float  # share of the resamples in which it does not, 0..1


class Row(NamedTuple):
    """One strategy, or one point of a curve. Ratios are of bytes; `mean` is of the images' own ratios."""

    name: str
    kind: str
    disagreements: int  # images
    agreement: Interval  # 0..1
    strict: Interval  # 0..1
    mean_ratio: Interval  # to the originals
    total_ratio: Interval  # all bytes / all bytes of the originals
    mean_ratio_75: Interval  # to AdaCompress's reference, quality 75
    total_ratio_75: Interval
    reward: Interval  # agreement - size ratio to the original
    reward_75: Interval  # agreement - size ratio to quality 75, which is AdaCompress's
    calls: Optional[Interval]  # of the backend per image
    promised: Optional[float]
    against: tuple[Against, ...]  # of each curve


class CurveRows(NamedTuple):
    """The points of a curve."""

    name: str
    points: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one backend's test images say.

    Args:
      images: how many.
      samples: of the bootstrap.
      seed: of the bootstrap.
      strategies: in the order in which they were given.
      curves: likewise; verdicts are against the first one.
      jitter: the backend's agreement with itself, which nothing can be expected to exceed; None where not measured.
    """

    images: int
    samples: int
    seed: int
    strategies: tuple[Row, ...]
    curves: tuple[CurveRows, ...]
    jitter: Optional[Row] = None


def evaluate(
    strategies: Sequence[Strategy],
    curves: Sequence[Curve],
    bytes_in: Floats,
    bytes_75: Floats,
    jitter: Optional[Strategy] = None,
    samples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Works out every number of every strategy and curve, with its interval.

    Args:
      strategies: on the same images in the same order.
      curves: likewise; the first one is the plain fixed quality, the rival to beat.
      bytes_in: of the originals, `(images,)`.
      bytes_75: at AdaCompress's reference, quality 75, `(images,)`.
      jitter: the references saved again at a higher quality, of kind `jitter`.
      samples: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      ValueError: there are no images or no curves.
    """
    images = len(bytes_in)
    if not images or not curves:
        raise ValueError(f"there must be test images and curves, got {images} images and {len(curves)} curves")
    assert bytes_in.shape == bytes_75.shape == (images,), (bytes_in.shape, bytes_75.shape)
    columns = [*strategies, *([jitter] if jitter else [])]
    first_points = []
    for curve in curves:
        first_points.append(len(columns))
        columns += _points(curve)
    for each in columns:
        assert each.sizes.shape == each.agreement.shape == each.strict.shape == (images,), (each.name, images)
        assert np.isin(each.agreement, (0, 1)).all(), f"{each.name}: agreement is 0 or 1"
        assert np.isin(each.strict, (0, 1)).all(), f"{each.name}: strict agreement is 0 or 1"
        assert (each.sizes > 0).all(), f"{each.name}: sizes are bytes above 0"

    sizes = np.stack([each.sizes for each in columns], axis=1).astype(np.float64)
    agreement = np.stack([each.agreement for each in columns], axis=1).astype(np.float64)
    nothing = np.zeros(images)
    calls = np.stack([nothing if each.calls is None else each.calls for each in columns], axis=1)
    to_original, to_75 = sizes / bytes_in[:, None], sizes / bytes_75[:, None]
    parts = (sizes, agreement, calls, to_original, to_75, np.stack([bytes_in, bytes_75], axis=1))
    sums = resampled(np.concatenate(parts, axis=1), samples, seed)
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    size_sums, agreement_sums, call_sums, original_sums, sums_75, totals = np.split(sums, ends, axis=1)

    intervals = {
        "mean_ratio": _intervals(original_sums / images),
        "total_ratio": _intervals(size_sums / totals[:, :1]),
        "mean_ratio_75": _intervals(sums_75 / images),
        "total_ratio_75": _intervals(size_sums / totals[:, 1:]),
        "reward": _intervals((agreement_sums - original_sums) / images),
        "reward_75": _intervals((agreement_sums - sums_75) / images),
        "calls": _intervals(call_sums / images),
    }
    against: list[list[Against]] = [[] for _ in columns]
    for first, curve in zip(first_points, curves):
        points = slice(first, first + len(curve.labels))
        needed = sums_needed(size_sums[:, points], agreement_sums[:, points], agreement_sums)
        missed = np.isnan(needed)
        ratios = np.where(missed, 0.0, size_sums / np.where(missed, 1.0, needed))
        shares = missed[1:].mean(axis=0)
        for several, ratio, share in zip(against, _intervals(ratios), shares):
            several.append(Against(curve.name, ratio, float(share)))

    rows = []
    for index, each in enumerate(columns):
        means: dict[str, Any] = {name: several[index] for name, several in intervals.items()}
        if each.calls is None:
            means["calls"] = None
        rows.append(
            Row(
                name=each.name,
                kind=each.kind,
                disagreements=int(images - each.agreement.sum()),
                agreement=_share(each.agreement),
                strict=_share(each.strict),
                promised=each.promised,
                against=tuple(against[index]),
                **means,
            )
        )
    return Evaluation(
        images=images,
        samples=samples,
        seed=seed,
        strategies=tuple(rows[: len(strategies)]),
        curves=tuple(
            CurveRows(curve.name, tuple(rows[first : first + len(curve.labels)]))
            for first, curve in zip(first_points, curves)
        ),
        jitter=rows[len(strategies)] if jitter else None,
    )


def draws(images: int, samples: int, seed: int) -> Iterator[Floats]:
    """How often each image is drawn in each sample of the bootstrap: `(some samples, images)`, as fits in memory."""
    assert samples > 0, samples
    random = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    chunk = max(1, _CHUNK // images)
    for start in range(0, samples, chunk):
        yield random.multinomial(images, share, size=min(chunk, samples - start)).astype(np.float64)


def resampled(columns: Floats, samples: int, seed: int = 0) -> Floats:
    """Sums over the images, then over those of each sample of a paired bootstrap.

    One matrix product for all columns. Sums of whole numbers are exact, so what is equal in the data is equal in every
    sample.

    Args:
      columns: `(images, columns)`.
      samples: how many.
      seed: of the draws.

    Returns:
      `(1 + samples, columns)`; the first row is of the images as they are.
    """
    whole = columns.sum(axis=0, keepdims=True)
    return np.concatenate([whole, *(counts @ columns for counts in draws(len(columns), samples, seed))])


def sums_needed(sizes: Floats, agreement: Floats, targets: Floats) -> Floats:
    """`rates.bytes_needed` for many samples and targets at once, on sums in place of means.

    Args:
      sizes: of a curve's points, `(samples, points)`.
      agreement: likewise.
      targets: agreement to be reached, `(samples, targets)`.

    Returns:
      `(samples, targets)`; not a number where the curve does not reach the target.
    """
    assert sizes.shape == agreement.shape, (sizes.shape, agreement.shape)
    assert len(sizes) == len(targets), (sizes.shape, targets.shape)
    order = np.argsort(sizes, axis=1, kind="stable")
    sizes = np.take_along_axis(sizes, order, axis=1)
    reached = np.maximum.accumulate(np.take_along_axis(agreement, order, axis=1), axis=1)
    above = np.stack([(reached < target[:, None]).sum(axis=1) for target in targets.T], axis=1)
    right = np.minimum(above, sizes.shape[1] - 1)
    left = np.maximum(right - 1, 0)
    size_left, size_right = (np.take_along_axis(sizes, side, axis=1) for side in (left, right))
    low, high = (np.take_along_axis(reached, side, axis=1) for side in (left, right))
    between = (above > 0) & (high > low)
    share = np.where(between, (targets - low) / np.where(between, high - low, 1.0), 1.0)
    return np.where(above < sizes.shape[1], size_left + share * (size_right - size_left), np.nan)


def to_json(evaluations: Mapping[str, Evaluation], about: Mapping[str, Any]) -> str:
    """The content of evaluation.json.

    Args:
      evaluations: by the backend's name.
      about: options, versions and the like; anything that JSON holds.

    Raises:
      ValueError: `about` holds a number that is not finite.
    """
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "confidence": 0.95,
        "about": dict(about),
        "backends": {name: _evaluation_to_json(each) for name, each in evaluations.items()},
    }
    return json.dumps(content, indent=1, allow_nan=False)


def from_json(data: Union[str, bytes], path: str) -> tuple[dict[str, Evaluation], dict[str, Any]]:
    """Reads what `to_json` wrote.

    Args:
      data: the file's content.
      path: for messages.

    Returns:
      The evaluations by the backend's name, and what they are about.

    Raises:
      AdaCompressError: it is no evaluation, is damaged, or is of an unknown version.
    """
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdaCompressError(f"{path} holds no evaluation: {error}") from error
    if version != VERSION:
        raise AdaCompressError(
            f"the evaluation {path} has version {version}, and this is adacompress for version {VERSION}: "
            "use the release that wrote it, or evaluate again"
        )
    try:
        backends = {name: _evaluation_from_json(each) for name, each in content["backends"].items()}
        return backends, dict(content["about"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdaCompressError(f"the evaluation {path} is damaged: {error!r}") from error


def _points(curve: Curve) -> list[Strategy]:
    points = len(curve.labels)
    shape = (len(curve.sizes), points)
    assert points, f"{curve.name} has no points"
    assert curve.sizes.shape == curve.agreement.shape == curve.strict.shape == shape, (curve.name, shape)
    return [
        Strategy(str(label), FIXED, curve.sizes[:, index], curve.agreement[:, index], curve.strict[:, index])
        for index, label in enumerate(curve.labels)
    ]


def _intervals(values: Floats) -> list[Interval]:
    """Of each column of what `resampled` gave; bounds are values that occur, never between two of them."""
    low, high = np.quantile(values[1:], _TAILS, axis=0, method="nearest")
    return [Interval(*map(float, each)) for each in zip(values[0], low, high)]


def _share(values: Floats) -> Interval:
    images = len(values)
    agreed = float(values.sum())
    interval = WeightedSums(images, images, images, agreed, agreed, agreed).share_interval()
    assert interval is not None
    return interval


def _evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "images": evaluation.images,
        "samples": evaluation.samples,
        "seed": evaluation.seed,
        "strategies": [_row_to_json(row) for row in evaluation.strategies],
        "curves": [
            {"name": curve.name, "points": [_row_to_json(row) for row in curve.points]} for curve in evaluation.curves
        ],
        "jitter": None if evaluation.jitter is None else _row_to_json(evaluation.jitter),
    }


def _evaluation_from_json(content: Mapping[str, Any]) -> Evaluation:
    jitter = content["jitter"]
    return Evaluation(
        images=int(content["images"]),
        samples=int(content["samples"]),
        seed=int(content["seed"]),
        strategies=tuple(map(_row_from_json, content["strategies"])),
        curves=tuple(
            CurveRows(curve["name"], tuple(map(_row_from_json, curve["points"]))) for curve in content["curves"]
        ),
        jitter=None if jitter is None else _row_from_json(jitter),
    )


def _row_to_json(row: Row) -> dict[str, Any]:
    content = {name: value._asdict() if isinstance(value, Interval) else value for name, value in row._asdict().items()}
    return content | {"against": [_against_to_json(each) for each in row.against]}


def _row_from_json(content: Mapping[str, Any]) -> Row:
    values: dict[str, Any] = {
        name: Interval(**value) if isinstance(value, dict) else value for name, value in content.items()
    }
    values["against"] = tuple(map(_against_from_json, content["against"]))
    return Row(**values)


def _against_to_json(against: Against) -> dict[str, Any]:
    ratio = {name: value or None for name, value in against.ratio._asdict().items()}  # 0 stands for no number
    reason = NOT_REACHED if None in ratio.values() else None
    return {"curve": against.curve, "ratio": ratio, "unreached": against.unreached, "reason": reason}


def _against_from_json(content: Mapping[str, Any]) -> Against:
    ratio = Interval(**{name: value or 0.0 for name, value in content["ratio"].items()})
    return Against(content["curve"], ratio, content["unreached"])
