"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

import base64
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Optional

import jinja2

from beam_adacompress import jpeg, summary
from beam_adacompress.errors import ImageError
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import COMPRESSED, FAILED, KEPT
from beam_adacompress.summary import RunStats

# An image is embedded as it is up to these; a larger one is scaled down, so that the page stays small.
_LARGEST_BYTES = 120_000
_LARGEST_SIDE = 800  # pixels
_SHOWN_BY_BROWSERS = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"}

_GALLERIES = (
    (summary.SAVINGS, "Largest savings"),
    (summary.SAMPLE, "A random sample of the compressed images"),
    (KEPT, "Kept as they were"),
)

Pair = Callable[[ManifestRow], Optional[tuple[bytes, bytes]]]  # the original's and the result's bytes


class Picture(NamedTuple):
    """One image of the gallery."""

    row: ManifestRow
    before: str  # data URI
    after: Optional[str]  # None for a kept image, which is one picture
    scaled: bool


class Bar(NamedTuple):
    """One bar of a histogram."""

    label: str
    images: int
    share: float  # of the highest bar, 0..1


def render(content: Mapping[str, Any], stats: RunStats, pair: Pair) -> str:
    """The page.

    Args:
      content: of summary.json.
      stats: what it was made of.
      pair: gives the bytes of an original and its result; None where one of them is gone.
    """
    return _template().render(
        summary=content,
        statuses=(COMPRESSED, KEPT, FAILED),
        qualities=_bars({str(quality): stats.qualities[quality] for quality in sorted(stats.qualities)}),
        ratios=_bars(_ratio_labels(stats)),
        failures=_failures(stats),
        galleries=[(title, list(_pictures(stats.shown(kind), pair))) for kind, title in _GALLERIES],
        shown_failures=summary.EXAMPLES[FAILED],
    )


def megabytes(size: float) -> str:
    """A size for people, e.g. `12.3 MB` (a megabyte is 1,000,000 bytes)."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def dollars(cost: float) -> str:
    """A price for people; four decimals below a dollar, where one call costs a fraction of a cent."""
    return f"{cost:.2f} USD" if cost >= 1 or not cost else f"{cost:.4f} USD"


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("beam_adacompress"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["megabytes"] = megabytes
    return environment.get_template("report.html")


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    highest = max(counts.values(), default=0) or 1
    return [Bar(label, count, count / highest) for label, count in counts.items()]


def _ratio_labels(stats: RunStats) -> dict[str, int]:
    counts = summary.ratio_bars(stats.ratios)
    return {f"{100 * index // len(counts)} %": count for index, count in enumerate(counts)}


def _failures(stats: RunStats) -> list[tuple[str, int, list[ManifestRow]]]:
    """Reason, number of images, and examples."""
    rows = sorted(stats.shown(FAILED), key=lambda row: (str(row.reason), row.key))
    examples = {reason: list(group) for reason, group in itertools.groupby(rows, key=lambda row: row.reason)}
    counts = {reason: n for (status, reason), n in stats.reasons.items() if status == FAILED}
    return [(reason, counts[reason], examples.get(reason, [])) for reason in sorted(counts, key=lambda r: -counts[r])]


def _pictures(rows: list[ManifestRow], pair: Pair) -> Iterator[Picture]:
    for row in rows:
        loaded = pair(row)
        if loaded is None:
            continue
        try:
            images = [_displayable(data) for data in (loaded[:1] if row.status == KEPT else loaded)]
        except ImageError:
            continue  # nothing here can draw it, e.g. a kept 12-bit JPEG
        yield Picture(
            row,
            before=images[0][0],
            after=images[1][0] if len(images) > 1 else None,
            scaled=any(scaled for _, scaled in images),
        )


def _displayable(data: bytes) -> tuple[str, bool]:
    """A data URI of an image, and whether it was scaled down."""
    source = jpeg.open_image(data)
    if (
        len(data) <= _LARGEST_BYTES
        and max(source.width, source.height) <= _LARGEST_SIDE
        and source.media_type in _SHOWN_BY_BROWSERS
    ):
        return _uri(source.media_type, data), False
    pixels = source.pixels()
    full_size = pixels.size
    pixels.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=85, optimize=True)
    return _uri("image/jpeg", buffer.getvalue()), pixels.size != full_size


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
