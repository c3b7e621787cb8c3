"""Asking for a reference and its compressed form, and paying for the second only where the first has an answer."""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple, Optional

from beam_adacompress.backends.client import Asked, Client
from beam_adacompress.backends.contract import BackendError, Query
from beam_adacompress.backends.manners import Answered


class PairAnswered(NamedTuple):
    """What a backend said of a pair."""

    reference: Answered
    compressed: Optional[Answered]  # not asked for where the reference failed or has no labels


def ask_pair(client: Client, reference: Query, compressed: Query) -> Future[PairAnswered]:
    """Asks without waiting."""
    pair: Future[PairAnswered] = Future()

    def when_reference(first: Asked) -> None:
        try:
            answered = first.result()
            if isinstance(answered.answer, BackendError) or not answered.answer:
                pair.set_result(PairAnswered(answered, None))
            else:
                # Before other references: where a budget ends, what was paid for one must not have been for nothing.
                second = client.ask(compressed, first=True)
                second.future.add_done_callback(lambda _: when_compressed(answered, second))
        except BaseException as error:
            pair.set_exception(error)

    def when_compressed(answered: Answered, second: Asked) -> None:
        try:
            pair.set_result(PairAnswered(answered, second.result()))
        except BaseException as error:
            pair.set_exception(error)

    first = client.ask(reference)
    first.future.add_done_callback(lambda _: when_reference(first))
    return pair
