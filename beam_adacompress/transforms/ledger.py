"""The calls of a job, counted and paced across all of its workers.

A ledger is a folder that all workers share. Each claim of calls is one file in it, numbered, created by exactly one
worker, and never changed:

    000000000000.json  {"calls": 16, "total": 16, "start": 0.00, ...}
    000000000001.json  {"calls": 4,  "total": 20, "start": 0.32, ...}

What a claim may hold follows from the one before it: `total` never exceeds the job's limit, and `start` is not
before the claim before it has had its time at the job's rate. Two workers that write the same number at once cannot
both succeed; the other reads what is there and tries the next number. So the limits hold over the whole job,
whatever the number of workers, and however often a worker is killed or a bundle tried again: a call is claimed
before it is made, and a claim that was never used is lost, not made again. Workers' clocks have to agree (cloud
machines' do, to milliseconds); a budget needs no clock.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Optional

from beam_adacompress.backends.manners import Grant
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms import files

VERSION = 1

# Where a claim takes a request over the network, a worker claims what it needs for a second, and at most:
_AHEAD_CALLS = 64

# Share of the rate that is used: a call that is late on its way must not meet the ones behind it in one second.
_MARGIN = 0.93


class Ledger:
    """Hands out calls within a limit and at a rate; thread-safe. One in each worker process, on one folder.

    Args:
      folder: shared by all workers of the job, and by no other job.
      max_calls: of the job; None for no limit.
      calls_per_second: of the job; None for no limit.

    Raises:
      AdaCompressError: the folder's filesystem cannot hold a ledger.
    """

    def __init__(self, folder: str, max_calls: Optional[int], calls_per_second: Optional[float]) -> None:
        check(folder)
        self._folder = folder
        self._max_calls = math.inf if max_calls is None else max_calls
        self._rate = calls_per_second
        self._seconds_per_call = 0.0 if calls_per_second is None else 1 / (_MARGIN * calls_per_second)
        remote = not files.is_local(folder)
        in_a_claim = _AHEAD_CALLS if calls_per_second is None else min(_AHEAD_CALLS, int(calls_per_second))
        self._most_ahead = in_a_claim if remote else 0
        # A claim starts when it is written, not when writing it began: by how much, the last one tells.
        self._lead = 0.2 if remote else 0.005  # seconds
        self._lock = threading.Lock()
        # Guarded by _lock: the last claim known, of any worker, and what is left of this worker's own.
        self._number: Optional[int] = None
        self._total = 0
        self._free_at = 0.0  # when the last claim has had its time
        self._left = 0  # calls
        self._turns = 0  # calls that there is time for, evenly spaced from _next to _until
        self._next = 0.0
        self._until = 0.0

    @property
    def most_at_once(self) -> Optional[int]:
        """Calls that may go in one batch, or the batch alone would exceed the rate."""
        return None if self._rate is None else max(1, int(self._rate))

    def claim(self, calls: int, ahead: int) -> Grant:
        """Claims calls, all of which may be made at the time of the grant.

        Args:
          calls: how many.
          ahead: how many more will be claimed soon.

        Raises:
          AdaCompressError: the folder cannot be read or written.
        """
        with self._lock, self._kept():
            while self._left < calls and self._write_next(calls - self._left, 0, ahead):
                pass
            granted = min(calls, self._left)
            self._left -= granted
            return Grant(granted, self._time_for(granted, ahead))

    def postpone(self, calls: int) -> float:
        """Another time for calls that were granted and not made; they are not counted again.

        Raises:
          AdaCompressError: as `claim`.
        """
        with self._lock, self._kept():
            return self._time_for(calls, 0)

    def _time_for(self, calls: int, ahead: int) -> float:
        """When so many calls may be made: within this worker's part of the time, and evenly spaced in it."""
        if self._rate is None or not calls:
            return time.time()
        while True:
            start = max(self._next, time.time())
            # A part of the time that has gone by is not made up for, or several workers' calls would meet.
            if start > self._until:
                self._turns = 0
            if self._turns >= calls:
                self._turns -= calls
                self._next = start + calls * self._seconds_per_call
                return start
            self._write_next(0, calls, ahead)

    def _write_next(self, calls: int, turns: int, ahead: int) -> bool:
        """Claims calls, with the time for them, or time alone; False where no calls are left to claim."""
        self._catch_up()
        assert self._number is not None
        extra = min(ahead, self._most_ahead)
        calls = int(min(calls + extra, self._max_calls - self._total)) if calls else 0
        turns = max(calls, turns)
        if turns <= 0:
            return False
        began = time.time()
        start = max(began + self._lead, self._free_at)
        end = start + turns * self._seconds_per_call
        total = self._total + calls
        content = {
            "format": "adacompress.ledger",
            "format_version": VERSION,
            "calls": calls,
            "total": total,
            "start": start,
            "end": end,
        }
        path = self._path(self._number + 1)
        if files.create(path, json.dumps(content).encode(), files.join(self._folder, "scratch")):
            if start > self._until + self._seconds_per_call / 2:  # not the time right behind what this worker has
                self._turns, self._next = 0, start
            self._number, self._total, self._free_at, self._until = self._number + 1, total, end, end
            self._left += calls
            self._turns += turns
        if self._rate is not None:
            self._lead = min(1.0, 2 * (time.time() - began))
        return True  # or another worker was first, and the next try starts behind it

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AdaCompressError(
                f"the ledger {self._folder} cannot be kept: {error.strerror or error}; no call is made without it"
            ) from error

    def _catch_up(self) -> None:
        """Reads the claims of other workers that came after the last one known."""
        if self._number is None:
            found = [file.path for file in files.listing(self._folder) if file.path.endswith(".json")]
            numbers = [int(path[-len("000000000000.json") : -len(".json")]) for path in found]
            self._number = max(numbers, default=-1)
            if found:
                self._read(self._number)
        while files.status(self._path(self._number + 1)) is not None:
            self._number += 1
            self._read(self._number)

    def _read(self, number: int) -> None:
        path = self._path(number)
        try:
            content = json.loads(files.read(path))
            version = content["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise AdaCompressError(f"{path} is no claim of a ledger ({error}): no call is made without it") from error
        if version != VERSION:
            raise AdaCompressError(
                f"{path} has ledger version {version}, and this is adacompress for version {VERSION}: "
                "use one release on all workers of a job"
            )
        self._total, self._free_at = content["total"], content["end"]

    def _path(self, number: int) -> str:
        return files.join(self._folder, f"{number:012d}.json")


def check(folder: str) -> None:
    """Checks that a folder can hold a ledger.

    Raises:
      AdaCompressError: its filesystem cannot create a file for one of several writers.
    """
    if not files.can_create(folder):
        raise AdaCompressError(
            f"limits of calls, cost and rate are kept in files below {folder}, and only local disks and gs:// can "
            "create a file for just one of several workers: give a cache there"
        )
