"""How a client behaves towards its backend, and what it needs for that: a cache, limits."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, Optional, Protocol

from beam_adacompress.backends.contract import Answer, Labels

LONGEST_PAUSE = 60.0  # seconds between two tries, unless the backend asks for more


class Cache(Protocol):
    """Where answers are kept between jobs."""

    def get(self, sha256: str) -> Optional[Labels]:
        """The labels kept for the bytes with this digest, or None."""

    def put(self, sha256: str, labels: Labels) -> Labels:
        """Keeps labels. Returns those that are kept: another worker may have been first."""


class Grant(NamedTuple):
    """Calls that may be made."""

    calls: int  # as many as asked for, or fewer: the budget is spent
    at: float  # not before this time, in seconds since the epoch


class Permits(Protocol):
    """What limits the calls of a job."""

    @property
    def most_at_once(self) -> Optional[int]:
        """Calls that may go in one batch; None for as many as the backend takes."""

    def claim(self, calls: int, ahead: int) -> Grant:
        """Claims calls; `ahead` more are waiting."""

    def postpone(self, calls: int) -> float:
        """Another time for calls that have been granted and could not be made at theirs."""


class Answered(NamedTuple):
    """What came of asking for one image."""

    answer: Answer
    calls: int = 0
    retries: int = 0
    from_cache: bool = False
    throttled: float = 0.0  # seconds that its calls waited for their turn
    latency: Optional[float] = None  # seconds of the call that answered


@dataclasses.dataclass(frozen=True)
class Manners:
    """How a client behaves towards its backend.

    Args:
      timeout: seconds after which a call is interrupted and counts as failed.
      retries: how often one image is sent again after an error that may pass.
      concurrency: calls under way at once; None for 16, or 1 where the backend runs in the worker.
      pause: seconds before the first retry; doubles with each, by chance shortened by up to half.

    Raises:
      ValueError: an argument is out of range.
    """

    timeout: float = 30.0
    retries: int = 5
    concurrency: Optional[int] = None
    pause: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, got {self.timeout}")
        if self.retries < 0:
            raise ValueError(f"retries must be at least 0, got {self.retries}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        if not 0 <= self.pause <= LONGEST_PAUSE:
            raise ValueError(f"pause must be from 0 to {LONGEST_PAUSE:g} seconds, got {self.pause}")
