"""Verified choice: the cheapest action at which backends really agree.

    image ─▶ decode ─▶ encode with an action ─▶ ask ─▶ agrees? cheaper : finer ─▶ ... ─▶ Choice
                 ▲                                             │
                 └─────────────────────────────────────────────┘

Which action comes next is said by what the policy remembers of other images, over all its families (`policy.search`),
or, where there is only a fixed proposal, by a ladder of qualities (`policy.verify`). Images wait for their answers side
by side; each leaves with the timestamp and in the window that it came in.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from beam_adacompress import jpeg, reward
from beam_adacompress.backends import BackendError, Labels, Query, contract
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Answered
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg.codec import encode_file, is_worth_it, obstacle_of
from beam_adacompress.jpeg.tables import ANNEXK, ORIGINAL, Quantisation, quantisation
from beam_adacompress.policy import search
from beam_adacompress.policy import verify as ladder
from beam_adacompress.policy.agent import Array
from beam_adacompress.policy.policies import Onlooker, Policy
from beam_adacompress.records import NO_REFERENCE, Choice, Usage
from beam_adacompress.transforms import files, rows
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.metrics import CallMetrics, StageMetrics
from beam_adacompress.transforms.outputs import FAILURES, failure_row
from beam_adacompress.transforms.reload import Service
from beam_adacompress.transforms.side_by_side import SideBySide

STAGE = "ChooseQuality"
_AT_ONCE = 16  # images, where a backend is remote
_ROOM = 256 * 1024 * 1024  # bytes of pictures, in each worker process
_OF_A_PIXEL = 6  # bytes: three coefficients in 4:4:4; RGB takes four, and luminance one more


class VerifyChoice(SideBySide):
    """Chooses the cheapest action at which all backends agree.

    Args:
      proposal: a choice, of whose table family the qualities are tried; or a policy, whose actions are.
      connections: to the backends.
      margin: how many of the next finer qualities have to agree as well.
      top: labels of the compressed image among which the reference's best one has to be.
      settings: of the encoder that will compress the image.
      chosen, failed: shapes of the outputs' rows.
    """

    def __init__(
        self,
        proposal: Union[Choice, Service[Onlooker]],
        connections: Sequence[Connection],
        margin: int,
        top: int,
        settings: jpeg.Settings,
        chosen: rows.Shape,
        failed: rows.Shape,
    ) -> None:
        self._proposal = proposal
        self._connections = connections
        self._margin = margin
        self._top = top
        self._settings = settings
        self._chosen = chosen
        self._failed = failed
        self._metrics = StageMetrics(STAGE)
        self._calls = CallMetrics(STAGE)

    def setup(self) -> None:
        self._clients = [connection.client() for connection in self._connections]
        self._names = ", ".join(f"{client.terms.name} {client.terms.version}" for client in self._clients)
        local = all(client.terms.is_local for client in self._clients)
        asked_for = max(connection.manners.concurrency or 0 for connection in self._connections)
        self._at_once = 1 if local else asked_for or _AT_ONCE
        self._threads = ThreadPoolExecutor(self._at_once)
        self._room = _Room(_ROOM)

    def process(
        self,
        row: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pinned: Optional[str] = None,
    ) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        proposal = self._proposal if isinstance(self._proposal, Choice) else self._proposal.now(pinned).current
        verified = self._threads.submit(self._verify, row, proposal)
        yield from self.wait_for(row, verified, len(row.data), timestamp, window, 2 * self._at_once)

    def teardown(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def outputs(self, row: Any, result: _Verified) -> Iterator[tuple[Optional[str], Any]]:
        choice, answered = result
        for client, each in answered:
            cost = each.calls * client.terms.price
            self._calls.used(Usage(row.key, each.calls, each.retries, each.from_cache, each.throttled, cost))
            self._calls.throttled(client.take_throttled())
        if isinstance(choice, Choice):
            self._metrics.chose(choice.quality)
            self._metrics.gave(len(row.data))
            yield None, self._chosen.make(row, choice=choice)
            return
        if choice.reason == contract.CREDENTIALS:
            raise AdaCompressError(choice.message) from choice  # no image will be verified before that is mended
        self._metrics.failed()
        yield FAILURES, failure_row(self._failed, row, STAGE, choice)

    def _verify(self, row: Any, proposal: Union[Choice, Onlooker]) -> _Verified:
        """In a thread of its own, where Beam does not count."""
        asked: list[tuple[Client, Answered]] = []
        try:
            opened = jpeg.open_image(row.data, self._settings.max_pixels)
            if obstacle_of(opened, self._settings):
                kept = proposal if isinstance(proposal, Choice) else proposal.policy.left_alone()
                return _Verified(kept, asked)  # whatever is chosen
            with self._room.of(_OF_A_PIXEL * opened.width * opened.height):
                picture = jpeg.open_picture(opened, self._settings)
                proposed = _proposed(proposal, opened, picture, row.key)
                version = f"{proposed.choice.policy_version}-verified"
                image = _OneImage(row, opened, picture, version, self._settings)
                found = proposed.cheapest(_Asking(image, self._clients, self._top, asked), self._margin)
                if found is None:
                    found = (ORIGINAL, 100)
                return _Verified(Choice(*found, version, 1.0, 1.0, self._names), asked)
        except (ImageError, BackendError) as error:
            return _Verified(error, asked)


class _Proposed(NamedTuple):
    """Where a search starts, and what guides it."""

    choice: Choice
    policy: Optional[Policy] = None
    seen: Optional[Array] = None  # what the policy sees of the image

    def cheapest(self, asking: _Asking, margin: int) -> Optional[tuple[str, int]]:
        """The tables and the quality at which the backends agree; None where there are none."""
        if self.policy is not None and self.seen is not None and (recollection := self.policy.recollection) is not None:
            return self._over_all(self.policy, recollection, self.seen, asking, margin)
        qualities = tuple(sorted({*ladder.LADDER, self.choice.quality}))
        tables = ANNEXK if self.choice.tables == ORIGINAL else self.choice.tables
        start = qualities.index(self.choice.quality)
        found = ladder.cheapest(start, len(qualities), lambda index: asking.agrees(tables, qualities[index]), margin)
        return None if found is None else (tables, qualities[found])

    def _over_all(
        self, policy: Policy, recollection: search.Recollection, seen: Array, asking: _Asking, margin: int
    ) -> Optional[tuple[str, int]]:
        actions = policy.actions
        qualities = len(policy.artefact.space.qualities)

        def ask(index: int) -> search.Answer:
            size = asking.size(*actions[index])
            last = min(index + margin, index // qualities * qualities + qualities - 1)
            if not asking.gets_smaller(*actions[index]):
                return search.Answer(None, size)
            return search.Answer(all(asking.agrees(*actions[each]) for each in range(index, last + 1)), size)

        found = search.cheapest(
            recollection,
            policy.sizes(seen),
            asking.original,
            ask,
            most=len(actions),
            least_saving=search.worth(len(actions) // qualities),
            files=asking.files(actions),
        )
        return None if found.action is None else actions[found.action]


def _proposed(proposal: Union[Choice, Onlooker], opened: jpeg.Source, picture: jpeg.Picture, key: str) -> _Proposed:
    if isinstance(proposal, Choice):
        return _Proposed(proposal)
    seen = proposal.look(opened, picture)
    return _Proposed(proposal.policy.choose(seen, key), proposal.policy, seen)


class _Asking:
    """Asks backends about one image under an action, once about each file."""

    def __init__(
        self, image: _OneImage, clients: Sequence[Client], top: int, asked: list[tuple[Client, Answered]]
    ) -> None:
        self._image = image
        self._clients = clients
        self._top = top
        self._asked = asked
        self._known: dict[Quantisation, bool] = {}
        self._references = []
        for client in clients:
            if (error := client.terms.too_many_pixels(image.opened.width, image.opened.height)) is not None:
                raise error
            self._references.append(self._labels(client, image.original))
            if not self._references[-1]:
                name = client.terms.name
                raise BackendError(NO_REFERENCE, f"{name} sees nothing in the original: there is nothing to verify")

    @property
    def original(self) -> int:
        """Bytes of the image as it is."""
        return len(self._image.original.data)

    def size(self, tables: str, quality: int) -> int:
        """Bytes of what an action makes."""
        return len(self._image.encoded(tables, quality))

    def gets_smaller(self, tables: str, quality: int) -> bool:
        """Whether that would take the place of the original."""
        return self._image.at(tables, quality) is not None

    def files(self, actions: Sequence[tuple[str, int]]) -> NDArray[np.intp]:
        """A number for each action, the same for those that come to the same file, `(actions,)`."""
        first: dict[Quantisation, int] = {}
        return np.array([first.setdefault(self._image.used(*each), len(first)) for each in actions], np.intp)

    def agrees(self, tables: str, quality: int) -> bool:
        """Whether all backends agree; where the original would be kept, they do."""
        used = self._image.used(tables, quality)
        if used not in self._known:
            query = self._image.at(tables, quality)
            self._known[used] = query is None or all(
                reward.agreement(reference, self._labels(client, query), self._top)
                for client, reference in zip(self._clients, self._references)
            )
        return self._known[used]

    def _labels(self, client: Client, query: Query) -> Labels:
        self._asked.append((client, client.ask(query).result()))
        answer = self._asked[-1][1].answer
        if isinstance(answer, BackendError):
            raise answer
        return answer


class _Verified(NamedTuple):
    choice: Union[Choice, ImageError, BackendError]
    answered: Sequence[tuple[Client, Answered]]


class _OneImage:
    """An image, and the files that would be made of it."""

    def __init__(self, row: Any, opened: jpeg.Source, picture: jpeg.Picture, version: str, settings: jpeg.Settings):
        self.opened = opened
        self.original = Query(row.data, row.key)
        self._picture = picture
        self._version = version
        self._settings = settings
        self._last: Optional[tuple[str, int, bytes]] = None

    def used(self, tables: str, quality: int) -> Quantisation:
        """The tables that an action's file has: with some steps of the image's own, so that several may share one."""
        return self._picture.aligned(quantisation(tables, quality, files.read), self._settings)

    def encoded(self, tables: str, quality: int) -> bytes:
        """The file of an action; the last one is kept."""
        if self._last is None or self._last[:2] != (tables, quality):
            steps = quantisation(tables, quality, files.read)
            data = encode_file(self.opened, self._picture, steps, self._version, self._settings)
            self._last = (tables, quality, data)
        return self._last[2]

    def at(self, tables: str, quality: int) -> Optional[Query]:
        """The file of an action; None where the original is kept, since it would not be smaller."""
        encoded = self.encoded(tables, quality)
        if not is_worth_it(len(encoded), len(self.original.data), self._settings):
            return None
        return Query(encoded, self.original.key, quality)


class _Room:
    """Memory for pixels that several threads share; an image that needs more than all of it gets it alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
