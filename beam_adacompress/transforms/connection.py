"""How a worker process gets at a backend: opened once, with one client, the cache and the limits of the job."""

from __future__ import annotations

import dataclasses
import math
import uuid
from typing import Any, Optional

from apache_beam.utils.shared import Shared

from beam_adacompress.backends import Backend
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners
from beam_adacompress.transforms import files
from beam_adacompress.transforms.ledger import Ledger
from beam_adacompress.transforms.ledger import check as check_ledger
from beam_adacompress.transforms.replies import ReplyCache


def limits_of(owner: Any) -> list[str]:
    """The names of the limits that an object with these fields is given."""
    return [name for name in ("max_calls", "max_cost", "calls_per_second") if getattr(owner, name) is not None]


@dataclasses.dataclass(frozen=True)
class Connection:
    """All that a worker process needs to get at a backend; one client in each process.

    Args:
      backend: not opened.
      manners: towards it.
      cache: folder of answers and of the ledger; None for neither.
      max_calls: of the job; None for no limit.
      max_cost: of the job, in USD; None for no limit.
      calls_per_second: of the job, all workers together; None for no limit.
      keeps_local: whether the cache keeps answers of backends in the worker, too.

    Raises:
      ValueError: a limit is out of range, or has no cache to be kept in.
      AdaCompressError: the cache's filesystem cannot keep limits.
    """

    backend: Backend
    manners: Manners
    cache: Optional[str] = None
    max_calls: Optional[int] = None
    max_cost: Optional[float] = None
    calls_per_second: Optional[float] = None
    keeps_local: bool = True
    job: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    shared: Shared = dataclasses.field(default_factory=Shared)

    def __post_init__(self) -> None:
        if self.max_calls is not None and self.max_calls < 0:
            raise ValueError(f"max_calls must be at least 0, got {self.max_calls}")
        if self.max_cost is not None and not 0 <= self.max_cost < math.inf:
            raise ValueError(f"max_cost must be at least 0 USD, got {self.max_cost}")
        if self.calls_per_second is not None and not 0 < self.calls_per_second < math.inf:
            raise ValueError(f"calls_per_second must be above 0, got {self.calls_per_second}")
        limits = limits_of(self)
        if limits and self.cache is None:
            raise ValueError(f"{limits[0]} is kept in files that all workers share: give cache=FOLDER too")
        if limits:
            check_ledger(str(self.cache))

    def client(self) -> Client:
        """The client of this process.

        Raises:
          AdaCompressError: the backend cannot be opened, or the cache not written.
        """
        client: Client = self.shared.acquire(self._connect)
        return client

    def _connect(self) -> Client:
        self.backend.open(files.read)
        terms = self.backend.terms
        max_calls = terms.most_calls(self.max_calls, self.max_cost)
        cache = ledger = None
        if self.cache is not None:
            if self.keeps_local or not terms.is_local:
                cache = ReplyCache(self.cache, terms)
                cache.probe()
            if max_calls is not None or self.calls_per_second is not None:
                folder = files.join(self.cache, "ledgers", self.job)
                ledger = Ledger(folder, max_calls, self.calls_per_second)
        return Client(self.backend, self.manners, cache, ledger)
