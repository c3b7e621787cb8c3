"""Numbers for people."""

from __future__ import annotations

import datetime
from typing import Optional

from beam_adacompress.estimates import Interval


def megabytes(size: float) -> str:
    """A size for people, e.g. `12.3 MB` (a megabyte is 1,000,000 bytes)."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def dollars(cost: float) -> str:
    """A price for people; four decimals below a dollar, where one call costs a fraction of a cent."""
    return f"{cost:.2f} USD" if cost >= 1 or not cost else f"{cost:.4f} USD"


def count(number: int, one: str = "image", many: Optional[str] = None) -> str:
    """A number with its noun, e.g. `1,234 images`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def percent(share: float) -> str:
    """A share, e.g. `98.4 %`; `100 %` and `0 %` only where it is all or nothing of them."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{min(99.9, max(0.1, 100 * share)):.1f} %" if 0 < share < 1 else f"{100 * share:.1f} %"


def share(value: float) -> str:
    """A share, e.g. `0.984`; `1.000` only where it is all of them."""
    whole = value > 1 - 1e-9  # Wilson's bound of all images is 1 but for rounding
    return "1.000" if whole else f"{min(value, 0.999):.3f}"


def shares(interval: Interval) -> str:
    """A share with its interval, e.g. `0.984 (0.979 to 0.988)`."""
    return f"{share(interval.mean)} ({share(interval.low)} to {share(interval.high)})"


def number(interval: Interval) -> str:
    """Any other mean, e.g. `1.701 (1.695 to 1.708)`."""
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def moment(seconds: float) -> str:
    """A time, e.g. `2026-11-26 14:03 UTC`.

    Args:
      seconds: since the epoch.
    """
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """A length of time, e.g. `3.2 s`, `12 min`, `5.1 hours`, `2.3 days`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 129_600 else f"{seconds / 86_400:.1f} days"
