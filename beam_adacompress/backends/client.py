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
from typing import NamedTuple, Optional

from beam_adacompress.backends import contract
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Labels, Query
from beam_adacompress.backends.manners import LONGEST_PAUSE, Answered, Cache, Manners, Permits

REMEMBERED = 4096  # answers, so that what one bundle asks twice is asked once even without a cache
LONGEST_WAIT = 300.0  # seconds that a backend may ask to wait; more means that its quota is used up
_GRACE = 0.25  # seconds by which a backend may report its own timeout before it is abandoned

# Errors of a whole batch that may be one image's fault: the images are tried again one by one.
_SEPARABLE = {contract.BAD_ANSWER, contract.BAD_IMAGE, contract.TOO_LARGE, contract.REFUSED, contract.DEFECT}

_LOGGER = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A question under way."""

    future: Future[Answered]
    is_first: bool  # whether this question makes the calls; an equal one before it did otherwise

    def result(self) -> Answered:
        answered = self.future.result()
        if self.is_first:
            return answered
        return Answered(answered.answer, from_cache=not isinstance(answered.answer, BackendError))


@dataclasses.dataclass(eq=False)
class _Waiting:
    query: Query
    digest: str
    future: Future[Answered]
    looked_up: bool
    first: bool
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
        at_once = None if permits is None else permits.most_at_once
        self._most_at_once = min(self.terms.max_batch, at_once or self.terms.max_batch)
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._waiting: list[tuple[float, int, _Waiting]] = []  # a heap: not before (monotonic), number, image
        self._numbers = itertools.count()
        self._running = 0  # threads
        self._busy = 0  # of those, the ones that are not looking for work
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

    def ask(self, query: Query, first: bool = False) -> Asked:
        """Asks for the labels of one image; an image that is under way, or was asked lately, is not asked again.

        Args:
          query: the image.
          first: whether it goes before the others that wait.
        """
        digest = hashlib.sha256(query.data).hexdigest()
        identity = digest if self.terms.cacheable else f"{query.quality} {query.key}"
        with self._changed:
            if (known := self._remembered.get(identity)) is not None:
                self._remembered.move_to_end(identity)
                known.add_done_callback(lambda done: self._heard(query, done))
                return Asked(known, is_first=False)
            future: Future[Answered] = Future()
            if (error := self._refusal(query)) is not None:
                future.set_result(Answered(error))
                return Asked(future, is_first=True)
            self._remembered[identity] = future
            self._forget()
            future.add_done_callback(lambda done: self._forget_failure(identity, done))
            self._wait(_Waiting(query, digest, future, looked_up=self._cache is None, first=first))
            return Asked(future, is_first=True)

    def take_throttled(self) -> float:
        """Seconds since the last call during which something waited for its turn, for the runner's autoscaler."""
        with self._changed:
            self._count_throttled()
            seconds, self._throttled = self._throttled, 0.0
            return seconds

    def _heard(self, query: Query, done: Future[Answered]) -> None:
        if done.exception() is None:
            self._backend.heard(query, done.result().answer)

    def _refusal(self, query: Query) -> Optional[BackendError]:
        limit = self.terms.max_bytes
        if limit is not None and len(query.data) > limit:
            return BackendError(
                contract.TOO_LARGE,
                f"the image has {len(query.data)} bytes, and {self.terms.name} takes at most {limit}; "
                "scale it down, or leave images of this size out",
            )
        return None

    def _wait(self, image: _Waiting, seconds: float = 0.0) -> None:
        ready = 0.0 if image.first and not seconds else time.monotonic() + seconds
        heapq.heappush(self._waiting, (ready, next(self._numbers), image))
        if self._running - self._busy < len(self._waiting) and self._running < self._threads:
            self._running += 1
            threading.Thread(target=self._work, name="adacompress-client", daemon=True).start()
        self._changed.notify()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                if batch[0].looked_up:
                    self._call(batch)
                else:
                    self._look_up(batch[0])
            finally:
                with self._changed:
                    self._busy -= 1

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
                    self._busy += 1
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
        while self._waiting and len(batch) < self._most_at_once:
            ready, _, image = self._waiting[0]
            size += len(image.query.data)
            if ready > now or not image.looked_up or image.alone or size > largest:
                break
            batch.append(heapq.heappop(self._waiting)[2])
        return batch

    def _look_up(self, image: _Waiting) -> None:
        assert self._cache is not None
        try:
            labels = self._cache.get(image.digest)
            if labels is not None:
                self._backend.heard(image.query, labels)
        except BaseException as error:
            image.future.set_exception(error)
            return
        if labels is not None:
            image.future.set_result(Answered(labels, from_cache=True))
            return
        image.looked_up = True
        with self._changed:
            self._wait(image)

    def _call(self, batch: list[_Waiting]) -> None:
        try:
            batch = self._with_permits(batch)
        except BaseException as error:  # whatever it is must not leave anybody waiting
            for image in batch:
                image.future.set_exception(error)
            return
        if not batch:
            return
        start = time.monotonic()
        try:
            answers = self._checked(self._interruptible(batch), len(batch))
            together = False
        except Exception as error:
            answers = [error if isinstance(error, BackendError) else self._defect(error)] * len(batch)
            together = len(batch) > 1
        latency = time.monotonic() - start
        jitter = random.uniform(0.5, 1.0)  # the same for all, so that what failed together is tried together
        for image, answer in zip(batch, answers):
            image.calls += 1
            if not isinstance(answer, BackendError):
                self._answer_and_keep(image, answer, latency)
            elif together and answer.reason in _SEPARABLE:
                image.alone = True
                with self._changed:
                    self._wait(image)
            else:
                self._failed(image, answer, jitter)

    def _defect(self, error: Exception) -> BackendError:
        _LOGGER.debug("the backend %s raised", self.terms.name, exc_info=error)
        message = f"the backend {self.terms.name} raised {type(error).__name__}, which is a defect of it"
        return BackendError(contract.DEFECT, message)

    def _answer_and_keep(self, image: _Waiting, labels: Labels, latency: float) -> None:
        try:
            if self._cache is not None:
                labels = self._cache.put(image.digest, labels)
        except BaseException as error:  # of this image alone: others of the batch may be under way again
            image.future.set_exception(error)
        else:
            self._answer(image, labels, latency)

    def _with_permits(self, batch: list[_Waiting]) -> list[_Waiting]:
        """The images of a batch that may be sent, when they may be sent."""
        granted = len(batch) if self._final is None else 0
        if granted and self._permits is not None:
            with self._changed:
                ahead = sum(image.looked_up for _, _, image in self._waiting)
            granted, at = self._permits.claim(len(batch), ahead)
            if granted < len(batch):
                self._end(BackendError(contract.BUDGET, "the job's budget is spent: raise max_calls or max_cost"))
            while granted:
                self._rest(at - time.time(), batch)
                paused = self._pause_until - time.monotonic()
                if self._final is not None and self._final.reason != contract.BUDGET:
                    granted = 0  # another thread has met it while this one waited
                elif paused > 0:
                    # What was granted stays so, but its time goes by: all at once they would exceed the rate.
                    self._rest(paused, batch)
                    at = self._permits.postpone(granted)
                else:
                    break
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

    def _interruptible(self, batch: Sequence[_Waiting]) -> Sequence[Answer]:
        """Calls the backend, and gives the call up when its time is over, whatever it hangs on."""
        timeout = self._manners.timeout
        queries = [image.query for image in batch]
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
            digests = [image.digest for image in batch]
            done.add_done_callback(lambda late: self._keep_late(digests, late))
            raise BackendError(contract.TIMEOUT, f"{self.terms.name} did not answer within {timeout:g} s")
        return done.result()

    def _keep_late(self, digests: Sequence[str], late: Future[Sequence[Answer]]) -> None:
        """Keeps answers that came when nobody waited for them any more: they are paid for."""
        if self._cache is None or late.exception() is not None:
            return
        try:
            for digest, answer in zip(digests, self._checked(late.result(), len(digests))):
                if not isinstance(answer, BackendError):
                    self._cache.put(digest, answer)
        except Exception:
            _LOGGER.debug("a late answer could not be kept", exc_info=True)

    def _checked(self, answers: Sequence[Answer], expected: int) -> Sequence[Answer]:
        if len(answers) != expected:
            raise BackendError(
                contract.BAD_ANSWER, f"{self.terms.name} gave {len(answers)} answers for {expected} images"
            )
        return [self._checked_one(answer) for answer in answers]

    def _checked_one(self, answer: Answer) -> Answer:
        if isinstance(answer, BackendError):
            return answer
        if not all(math.isfinite(score) for _, score in answer):
            return BackendError(contract.BAD_ANSWER, f"{self.terms.name} gave a score that is no number")
        try:
            for name, _ in answer:
                name.encode()
        except UnicodeEncodeError:
            message = f"{self.terms.name} gave a label that is no text"
            return BackendError(contract.BAD_ANSWER, message, retryable=False)
        return answer

    def _failed(self, image: _Waiting, error: BackendError, jitter: float) -> None:
        if (error.retry_after or 0.0) > LONGEST_WAIT:
            error = BackendError(contract.QUOTA, f"{error.message}; it asks to wait for {error.retry_after:.0f} s")
        if error.reason in contract.FINAL:
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
