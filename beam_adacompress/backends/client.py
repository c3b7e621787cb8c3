"""Asking a backend with manners: batches, retries, limits, deadlines, and nothing asked twice.

    ask ─▶ [cache] ─▶ waiting ─▶ batch ─▶ permits ─▶ Backend.label ─▶ answers
                         ▲                               │
                         └────── retryable errors ◀──────┘

Threads are started while there is work and end with it, so a client needs no closing.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import NamedTuple, Optional, Protocol

from beam_adacompress.backends import contract
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Labels, Query

REMEMBERED = 4096  # answers, so that what one bundle asks twice is asked once even without a cache
LONGEST_PAUSE = 60.0  # seconds between two tries, unless the backend asks for more
LONGEST_WAIT = 300.0  # seconds that a backend may ask to wait; more means that its quota is used up
_GRACE = 0.25  # seconds by which a backend may report its own timeout before it is abandoned

# Errors of a whole batch that may be one image's fault: the images are tried again one by one.
_SEPARABLE = {contract.BAD_ANSWER, contract.BAD_IMAGE, contract.TOO_LARGE, contract.REFUSED, contract.DEFECT}
# Errors that every further call would meet as well.
_FINAL = {contract.QUOTA, contract.CREDENTIALS, contract.BUDGET}

_LOGGER = logging.getLogger(__name__)


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

    def claim(self, calls: int, ahead: int) -> Grant:
        """Claims calls; `ahead` more are waiting."""


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


class Asked(NamedTuple):
    """A question under way."""

    future: Future[Answered]
    is_first: bool  # whether this question makes the calls; an equal one before it did otherwise

    def result(self) -> Answered:
        answered = self.future.result()
        return answered if self.is_first else Answered(answered.answer, from_cache=True)


@dataclasses.dataclass(eq=False)
class _Waiting:
    query: Query
    digest: str
    future: Future[Answered]
    looked_up: bool
    alone: bool = False
    calls: int = 0
    throttled: float = 0.0


class Client:
    """Asks a backend; thread-safe. The backend has been opened.

    Args:
      backend: to ask.
      manners: towards it.
      cache: of answers; used if the backend's answers depend on the bytes alone.
      permits: limits of the job; None for no limits.
    """

    def __init__(
        self, backend: Backend, manners: Manners, cache: Optional[Cache] = None, permits: Optional[Permits] = None
    ) -> None:
        self._backend = backend
        self.terms = backend.terms
        self._manners = manners
        self._cache = cache if self.terms.cacheable else None
        self._permits = permits
        usual = 1 if self.terms.is_local else 16
        self._threads = 1 if not backend.concurrent else manners.concurrency or usual
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._waiting: list[tuple[float, int, _Waiting]] = []  # a heap: not before (monotonic), number, image
        self._numbers = itertools.count()
        self._running = 0
        self._pause_until = 0.0
        self._final: Optional[BackendError] = None
        self._remembered: collections.OrderedDict[str, Future[Answered]] = collections.OrderedDict()
        self._throttling = 0  # threads that wait for their turn
        self._throttled_since = 0.0
        self._throttled = 0.0

    @property
    def in_flight(self) -> int:
        """Rows that a caller should keep under way, so that the backend is never idle and batches are full."""
        return max(8, 2 * self._threads * self.terms.max_batch)

    def ask(self, query: Query) -> Asked:
        """Asks for the labels of one image; an image that is under way, or was asked lately, is not asked again."""
        digest = hashlib.sha256(query.data).hexdigest()
        identity = digest if self.terms.cacheable else f"{query.quality} {query.key}"
        with self._changed:
            if (known := self._remembered.get(identity)) is not None:
                self._remembered.move_to_end(identity)
                return Asked(known, is_first=False)
            future: Future[Answered] = Future()
            if (error := self._refusal(query)) is not None:
                future.set_result(Answered(error))
                return Asked(future, is_first=True)
            self._remembered[identity] = future
            self._forget()
            future.add_done_callback(lambda done: self._forget_failure(identity, done))
            self._wait(_Waiting(query, digest, future, looked_up=self._cache is None))
            return Asked(future, is_first=True)

    def take_throttled(self) -> float:
        """Seconds since the last call during which something waited for its turn, for the runner's autoscaler."""
        with self._changed:
            self._count_throttled()
            seconds, self._throttled = self._throttled, 0.0
            return seconds

    def _refusal(self, query: Query) -> Optional[BackendError]:
        if self._final is not None:
            return self._final
        limit = self.terms.max_bytes
        if limit is not None and len(query.data) > limit:
            return BackendError(
                contract.TOO_LARGE,
                f"the image has {len(query.data)} bytes, and {self.terms.name} takes at most {limit}; "
                "scale it down, or leave images of this size out",
            )
        return None

    def _wait(self, image: _Waiting, seconds: float = 0.0) -> None:
        heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), image))
        if self._running < min(self._threads, len(self._waiting)):
            self._running += 1
            threading.Thread(target=self._work, name="adacompress-client", daemon=True).start()
        else:
            self._changed.notify()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                if batch[0].looked_up:
                    self._call(batch)
                else:
                    self._look_up(batch[0])
            except BaseException as error:  # a defect here or in a backend must not leave anybody waiting
                for image in batch:
                    if not image.future.done():
                        image.future.set_exception(error)

    def _next_batch(self) -> Optional[list[_Waiting]]:
        with self._changed:
            while True:
                if not self._waiting:
                    self._running -= 1
                    return None
                ready, _, first = self._waiting[0]
                if first.looked_up:
                    ready = max(ready, self._pause_until)
                if (seconds := ready - time.monotonic()) <= 0:
                    return self._pop_batch()
                paused = self._pause_until > time.monotonic()
                self._count_throttled(+paused)
                self._changed.wait(seconds)
                self._count_throttled(-paused)

    def _pop_batch(self) -> list[_Waiting]:
        batch = [heapq.heappop(self._waiting)[2]]
        if not batch[0].looked_up or batch[0].alone:
            return batch
        size = len(batch[0].query.data)
        largest = self.terms.max_batch_bytes or math.inf
        now = time.monotonic()
        while self._waiting and len(batch) < self.terms.max_batch:
            ready, _, image = self._waiting[0]
            size += len(image.query.data)
            if ready > now or not image.looked_up or image.alone or size > largest:
                break
            batch.append(heapq.heappop(self._waiting)[2])
        return batch

    def _look_up(self, image: _Waiting) -> None:
        assert self._cache is not None
        labels = self._cache.get(image.digest)
        if labels is not None:
            image.future.set_result(Answered(labels, from_cache=True))
            return
        image.looked_up = True
        with self._changed:
            self._wait(image)

    def _call(self, batch: list[_Waiting]) -> None:
        batch = self._with_permits(batch)
        if not batch:
            return
        start = time.monotonic()
        try:
            answers = self._checked(self._interruptible([image.query for image in batch]), len(batch))
            together = False
        except BackendError as error:
            answers = [error] * len(batch)
            together = len(batch) > 1
        except Exception as error:
            _LOGGER.debug("the backend %s raised", self.terms.name, exc_info=True)
            message = f"the backend {self.terms.name} raised {type(error).__name__}, which is a defect of it"
            answers = [BackendError(contract.DEFECT, message)] * len(batch)
            together = len(batch) > 1
        latency = time.monotonic() - start
        jitter = random.uniform(0.5, 1.0)  # the same for all, so that what failed together is tried together
        for image, answer in zip(batch, answers):
            image.calls += 1
            if not isinstance(answer, BackendError):
                labels = answer if self._cache is None else self._cache.put(image.digest, answer)
                self._answer(image, labels, latency)
            elif together and answer.reason in _SEPARABLE:
                image.alone = True
                with self._changed:
                    self._wait(image)
            else:
                self._failed(image, answer, jitter)

    def _with_permits(self, batch: list[_Waiting]) -> list[_Waiting]:
        """The images of a batch that may be sent, when they may be sent."""
        granted = len(batch)
        if self._permits is not None and self._final is None:
            with self._changed:
                ahead = sum(image.looked_up for _, _, image in self._waiting)
            granted, at = self._permits.claim(len(batch), ahead)
            if granted < len(batch):
                self._end(BackendError(contract.BUDGET, "the job's budget is spent: raise max_calls or max_cost"))
            self._rest(at - time.time(), batch)
        elif self._final is not None:
            granted = 0
        for image in batch[granted:]:
            assert self._final is not None
            self._answer(image, self._final, None)
        return batch[:granted]

    def _rest(self, seconds: float, batch: Sequence[_Waiting]) -> None:
        if seconds <= 0:
            return
        with self._changed:
            self._count_throttled(+1)
        time.sleep(seconds)
        with self._changed:
            self._count_throttled(-1)
        for image in batch:
            image.throttled += seconds

    def _interruptible(self, queries: Sequence[Query]) -> Sequence[Answer]:
        """Calls the backend, and abandons the call when its time is over, whatever it hangs on."""
        timeout = self._manners.timeout
        if self.terms.is_local:
            return self._backend.label(queries, timeout)
        done: Future[Sequence[Answer]] = Future()

        def call() -> None:
            try:
                done.set_result(self._backend.label(queries, timeout))
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=call, name="adacompress-call", daemon=True).start()
        if wait([done], timeout + _GRACE).not_done:
            raise BackendError(contract.TIMEOUT, f"{self.terms.name} did not answer within {timeout:g} s")
        return done.result()

    def _checked(self, answers: Sequence[Answer], expected: int) -> Sequence[Answer]:
        if len(answers) != expected:
            raise BackendError(
                contract.BAD_ANSWER, f"{self.terms.name} gave {len(answers)} answers for {expected} images"
            )
        return [
            answer
            if isinstance(answer, BackendError) or all(math.isfinite(score) for _, score in answer)
            else BackendError(contract.BAD_ANSWER, f"{self.terms.name} gave a score that is no number")
            for answer in answers
        ]

    def _failed(self, image: _Waiting, error: BackendError, jitter: float) -> None:
        if (error.retry_after or 0.0) > LONGEST_WAIT:
            error = BackendError(contract.QUOTA, f"{error.message}; it asks to wait for {error.retry_after:.0f} s")
        if error.reason in _FINAL:
            self._end(error)
        if not error.retryable or image.calls > self._manners.retries:
            self._answer(image, error, None)
            return
        pause = min(LONGEST_PAUSE, self._manners.pause * 2 ** (image.calls - 1)) * jitter
        pause = max(pause, error.retry_after or 0.0)
        with self._changed:
            if error.reason == contract.THROTTLED or error.retry_after:
                self._pause_until = max(self._pause_until, time.monotonic() + pause)
            self._wait(image, pause)

    def _answer(self, image: _Waiting, answer: Answer, latency: Optional[float]) -> None:
        retries = max(0, image.calls - 1)
        image.future.set_result(Answered(answer, image.calls, retries, False, image.throttled, latency))

    def _end(self, error: BackendError) -> None:
        """Makes no further call; the first reason stands."""
        with self._changed:
            self._final = self._final or error

    def _forget(self) -> None:
        while len(self._remembered) > REMEMBERED and next(iter(self._remembered.values())).done():
            self._remembered.popitem(last=False)

    def _forget_failure(self, identity: str, done: Future[Answered]) -> None:
        if done.exception() is not None or isinstance(done.result().answer, BackendError):
            with self._changed:
                self._remembered.pop(identity, None)

    def _count_throttled(self, change: int = 0) -> None:
        """Adds the time since the last change during which any thread waited for its turn."""
        now = time.monotonic()
        if self._throttling:
            self._throttled += now - self._throttled_since
        self._throttled_since = now
        self._throttling += change
