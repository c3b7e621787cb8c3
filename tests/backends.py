"""Backends for the tests: they answer from what they are told, in this process or in workers."""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from beam_adacompress.backends import Answer, Backend, BackendError, Query, Terms
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.contract import UNAVAILABLE
from beam_adacompress.backends.manners import Answered, Manners
from beam_adacompress.records import Label

CAT = (Label("cat", 0.9), Label("pet", 0.4))


@dataclasses.dataclass
class Scripted(Backend):
    """Answers by a function of the images and of how many calls there have been; remembers what it was asked.

    It lives in this process: what it remembers does not come back from another.
    """

    answer: Callable[[Sequence[Query], int], Sequence[Answer]] = lambda images, number: [CAT] * len(images)
    max_batch: int = 1
    max_bytes: int | None = None
    max_batch_bytes: int | None = None
    price: float = 0.01
    is_local: bool = False
    cacheable: bool = True

    def __post_init__(self) -> None:
        self.asked: list[list[Query]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    @property
    def terms(self) -> Terms:
        return Terms(
            "scripted",
            "1",
            max_batch=self.max_batch,
            max_bytes=self.max_bytes,
            max_batch_bytes=self.max_batch_bytes,
            price=self.price,
            is_local=self.is_local,
            cacheable=self.cacheable,
        )

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        with self._lock:
            self.asked.append(list(images))
            self.times.append(time.monotonic())
            number = len(self.asked)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return self.answer(images, number)
        finally:
            with self._lock:
                self.under_way -= 1


@dataclasses.dataclass
class Sizes(Backend):
    """Labels an image by how many bytes it has: small ones `small`, others `large`. Pickles into any worker."""

    limit: int = 3000
    price: float = 0.001

    @property
    def terms(self) -> Terms:
        return Terms("sizes", f"limit={self.limit}", max_batch=4, price=self.price)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        return [(Label("small" if len(image.data) < self.limit else "large", 1.0),) for image in images]


@dataclasses.dataclass
class Counting(Backend):
    """Appends a line to a file for each image that it is asked about, so that calls are counted across processes."""

    path: str = ""
    fails_every: int = 0  # each so many-th key fails for good the first time
    price: float = 0.001

    @property
    def terms(self) -> Terms:
        return Terms("counting", "1", price=self.price)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        with open(self.path, "a") as file:
            file.write("".join(f"{time.time():.6f} {image.key} {image.quality}\n" for image in images))
        return [CAT for _ in images]


def unavailable(retry_after: float | None = None) -> BackendError:
    return BackendError(UNAVAILABLE, "down for a moment", retry_after=retry_after)


DOG = (Label("dog", 0.8),)
QUICK = Manners(timeout=5, retries=3, pause=0.01)


def ask_all(client: Client, *images: bytes) -> list[Answered]:
    return [asked.result() for asked in [client.ask(Query(image)) for image in images]]


class Memory:
    """A cache in memory."""

    def __init__(self, kept: dict[str, object] | None = None) -> None:
        self.kept = dict(kept or {})

    def get(self, sha256):
        return self.kept.get(sha256)

    def put(self, sha256, labels):
        return self.kept.setdefault(sha256, labels)


@dataclasses.dataclass
class Texture(Backend):
    """Sees in an image how rough each of its quarters is, so that what compression takes away changes its answer."""

    path: str = ""  # of a file that gets a line for each image that it is asked about
    price: float = 0.001

    @property
    def terms(self) -> Terms:
        return Terms("texture", "1", max_batch=4, price=self.price)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        if self.path:
            with open(self.path, "a") as file:
                file.write("".join(f"{image.key}\n" for image in images))
        return [self._label(image.data) for image in images]

    def _label(self, data: bytes) -> tuple[Label, ...]:
        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)
        half, across = grey.shape[0] // 2, grey.shape[1] // 2
        quarters = [grey[:half, :across], grey[:half, across:], grey[half:, :across], grey[half:, across:]]
        rough = np.array([np.abs(np.diff(quarter, axis=1)).mean() for quarter in quarters]) + 1e-6
        order = np.argsort(-rough)
        return tuple(Label(f"quarter {index}", float(rough[index] / rough.sum())) for index in order)
