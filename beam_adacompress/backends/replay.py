"""Replies recorded in a file of JSON lines: serving them, and recording them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from beam_adacompress.backends import contract, registry
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Labels, Query, Terms, read_local
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Label

# What is wrong with the account or the job says nothing about the image, so it is not its reply.
_NOT_THE_IMAGE = (contract.QUOTA, contract.CREDENTIALS, contract.BUDGET)


class _Reply(NamedTuple):
    error: int
    reason: str  # of the error, where it is known
    labels: Labels


@dataclasses.dataclass
class Replay(Backend):
    """Answers with the replies of FILE.jsonl, one a line.

    A line is {"service": "baidu", "dataset": "dnim", "image": "2015.jpg", "quality": 5, "bytes": 9375, "error": 0,
    "labels": [["name", 0.158], ...]}. `quality` is null for a reference; of equal keys the last line counts. An image
    is looked up by its whole key, then by the last component of it; where several datasets have that name, the
    component before it is the dataset.

    Args:
      path: of the file.
      reference: quality of the recorded reply that stands for a reference without one of its own.
    """

    path: str
    reference: int = 75
    takes_path = True

    @property
    def terms(self) -> Terms:
        return Terms("replay", self._version, is_local=True, cacheable=False)

    @property
    def terms_need_open(self) -> bool:
        return True

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        try:
            data = read(self.path)
        except OSError as error:
            raise AdaCompressError(f"replay cannot read {self.path}: {error}") from error
        self._replies: dict[tuple[str, Optional[int]], dict[tuple[str, str], _Reply]] = {}
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                    reply = _reply(row)
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    message = f"{self.path}, line {number} is not a recorded reply; correct the line or delete it"
                    raise AdaCompressError(message) from error
                self._replies.setdefault((row["image"], row["quality"]), {})[row["service"], row["dataset"]] = reply
        services = sorted({service for replies in self._replies.values() for service, _ in replies})
        self._version = "-".join([*services, hashlib.sha256(data).hexdigest()[:12]])

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        return [self._answer(image) for image in images]

    def _answer(self, image: Query) -> Answer:
        *_, folder, name = ["", *image.key.split("/")]
        qualities = (None, self.reference) if image.quality is None else (image.quality,)
        known = (self._replies.get((key, quality), {}) for key in (image.key, name) for quality in qualities)
        found: Mapping[tuple[str, str], _Reply] = next(filter(None, known), {})
        if len(set(found.values())) > 1:
            found = {place: reply for place, reply in found.items() if place[1] == folder} or found
        what = f"{image.key!r} at {'the reference' if image.quality is None else f'quality {image.quality}'}"
        replies = set(found.values())
        if not replies:
            return BackendError(contract.NOT_RECORDED, f"there is no recorded reply for {what}")
        if len(replies) > 1:
            places = ", ".join("/".join(place) for place in sorted(found))
            return BackendError(contract.NOT_RECORDED, f"the recorded reply for {what} is ambiguous: {places} differ")
        error, reason, labels = replies.pop()
        if error:
            return BackendError(contract.REFUSED, f"the recorded reply is error {error}{reason and f' ({reason})'}")
        return labels


def _reply(row: Mapping[str, Any]) -> _Reply:
    """Reads a row; an exception of any common kind where it is none."""
    reply = _Reply(row["error"], row.get("reason", ""), tuple(Label(*label) for label in row["labels"]))
    texts = [row["service"], row["dataset"], row["image"], reply.reason, *(label.name for label in reply.labels)]
    numbers = [reply.error, 0 if row["quality"] is None else row["quality"]]
    if not (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and all(type(score) in (int, float) and 0 <= score <= 1 for _, score in reply.labels)
    ):
        raise ValueError(row)
    return reply


@dataclasses.dataclass
class Record(Backend):
    """Passes on to another backend and appends its answers to a file that Replay serves.

    An answer is one line; an error that another try would not cure is a line with error 1. Several processes may
    append to one file, which is on this machine.

    Args:
      target: `FILE.jsonl+BACKEND-URI`.
      dataset: what the lines give as their dataset.
    """

    target: str
    dataset: str = ""
    takes_path = True

    def __post_init__(self) -> None:
        stem, found, uri = self.target.partition(".jsonl+")
        if not stem or not found or not uri or "://" in stem:
            raise ValueError(f"record takes FILE.jsonl+BACKEND-URI with a file of this machine, got {self.target!r}")
        self._path = stem + ".jsonl"
        self._inner = registry.backend(uri)

    @property
    def concurrent(self) -> bool:  # type: ignore[override]
        return self._inner.concurrent

    @property
    def terms(self) -> Terms:
        return self._inner.terms

    @property
    def terms_need_open(self) -> bool:
        return self._inner.terms_need_open

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        self._inner.open(read)
        self._append([])  # rather now than after a call that costs

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        answers: Sequence[Answer]
        try:
            answers = self._inner.label(images, timeout)
        except BackendError as error:
            self._append(self._rows(images, [error] * len(images)))
            raise
        self._append(self._rows(images, answers))
        return answers

    def heard(self, image: Query, answer: Answer) -> None:
        self._append(self._rows([image], [answer]))

    def _rows(self, images: Sequence[Query], answers: Sequence[Answer]) -> Iterator[str]:
        for image, answer in zip(images, answers):
            row: dict[str, object] = {"service": self._inner.terms.name, "dataset": self.dataset, "image": image.key}
            row |= {"quality": image.quality, "bytes": len(image.data)}
            if not isinstance(answer, BackendError):
                yield json.dumps(row | {"error": 0, "labels": answer}, ensure_ascii=False)
            elif not answer.retryable and answer.reason not in _NOT_THE_IMAGE:
                yield json.dumps(row | {"error": 1, "reason": answer.reason, "labels": []}, ensure_ascii=False)

    def _append(self, rows: Iterable[str]) -> None:
        import fcntl  # not on every system, and Replay does without

        # A lone surrogate, which JSON of a service may hold, becomes the escape that it was there.
        data = "".join(f"{row}\n" for row in rows).encode("utf-8", "backslashreplace")
        try:
            with open(self._path, "a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, that is, written
                if data and file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a line that a crash has cut off
                        data = b"\n" + data
                file.write(data)
        except OSError as error:
            raise AdaCompressError(f"record cannot append to {self._path}: {error}") from error
