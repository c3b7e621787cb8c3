"""A client with limits, under failure, and asking for pairs."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time

import pytest
from backends import CAT, DOG, QUICK, Memory, Scripted, ask_all, unavailable

from beam_adacompress.backends import BackendError, Query, contract
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Grant, Manners
from beam_adacompress.backends.pairs import ask_pair
from beam_adacompress.records import Label


class Budget:
    most_at_once = None

    def __init__(self, calls: int) -> None:
        self.left = calls

    def claim(self, calls: int, ahead: int) -> Grant:
        granted = min(calls, self.left)
        self.left -= granted
        return Grant(granted, 0.0)

    def postpone(self, calls: int) -> float:
        return 0.0


def test_no_call_above_the_budget_retries_included():
    backend = Scripted(lambda images, number: [unavailable() if number % 2 else CAT])
    client = Client(backend, Manners(concurrency=3, pause=0.01), permits=Budget(7))
    answers = ask_all(client, *(b"%d" % index for index in range(10)))
    assert len(backend.asked) == 7
    assert sum(answered.calls for answered in answers) == 7
    refused = [answered.answer for answered in answers if isinstance(answered.answer, BackendError)]
    assert {error.reason for error in refused} == {contract.BUDGET}
    assert refused[0].message == "the job's budget is spent: raise max_calls or max_cost"


def test_calls_wait_for_their_time():
    class Later:
        most_at_once = None

        def claim(self, calls: int, ahead: int) -> Grant:
            return Grant(calls, time.time() + 0.3)

    client = Client(Scripted(), QUICK, permits=Later())
    start = time.monotonic()
    (answered,) = ask_all(client, b"image")
    assert time.monotonic() - start >= 0.3
    assert answered.throttled == pytest.approx(0.3, abs=0.05)
    assert client.take_throttled() == pytest.approx(0.3, abs=0.1)


def test_a_spent_budget_does_not_keep_back_what_the_cache_has():
    digest = hashlib.sha256(b"known").hexdigest()
    client = Client(Scripted(), QUICK, Memory({digest: DOG}), Budget(0))
    assert ask_all(client, b"new")[0].answer.reason == contract.BUDGET
    assert ask_all(client, b"known")[0].answer == DOG


class Rate(Budget):
    """Ten calls a second, as a ledger gives them out."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.next = time.time()
        self._lock = threading.Lock()

    def claim(self, calls: int, ahead: int) -> Grant:
        return Grant(calls, self.postpone(calls))

    def postpone(self, calls: int) -> float:
        with self._lock:
            start = max(self.next, time.time())
            self.next = start + calls / 10
            return start


@pytest.mark.parametrize("reason", [contract.QUOTA, contract.CREDENTIALS])
def test_calls_that_wait_for_their_turn_are_not_made_when_all_is_over(reason):
    backend = Scripted(lambda images, number: [BackendError(reason, "over")] if number == 2 else [CAT])
    client = Client(backend, QUICK, permits=Rate())
    answers = ask_all(client, *(b"%d" % index for index in range(30)))
    assert len(backend.asked) == 2
    assert [isinstance(answered.answer, BackendError) for answered in answers].count(True) == 29


def test_calls_that_wait_for_their_turn_wait_as_long_as_the_backend_asks_to():
    wait = BackendError(contract.THROTTLED, "slow down", retry_after=0.6)
    backend = Scripted(lambda images, number: [wait] if number == 2 else [CAT])
    answers = ask_all(Client(backend, QUICK, permits=Rate()), *(b"%d" % index for index in range(8)))
    assert [answered.answer for answered in answers] == [CAT] * 8
    pauses = [later - earlier for earlier, later in itertools.pairwise(backend.times)]
    assert pauses[1] >= 0.59
    assert min(pauses[2:]) >= 0.08  # and then one after the other, not all at once


def test_no_batch_is_larger_than_the_rate():
    class Slow(Rate):
        most_at_once = 2

    backend = Scripted(max_batch=16)
    ask_all(Client(backend, Manners(concurrency=1), permits=Slow()), *(b"%d" % index for index in range(6)))
    assert max(len(batch) for batch in backend.asked) == 2


def test_few_images_use_all_the_concurrency_there_is():
    backend = Scripted(lambda images, number: time.sleep(0.3) or [CAT])
    start = time.monotonic()
    ask_all(Client(backend, QUICK), *(b"%d" % index for index in range(8)))
    assert time.monotonic() - start < 0.9
    assert backend.most_under_way == 8


def test_a_cache_that_breaks_for_one_image_leaves_the_others_alone():
    class Breaks(Memory):
        def put(self, sha256, labels):
            if labels == DOG:
                raise OSError("full")
            return super().put(sha256, labels)

    def answer(images, number):
        labels = {b"dog": DOG, b"later": unavailable()} if number == 1 else {}
        return [labels.get(image.data, CAT) for image in images]

    release = threading.Event()
    backend = Scripted(lambda images, number: release.wait() and answer(images, number), max_batch=4)
    client = Client(backend, Manners(concurrency=1, pause=0.01), Breaks())
    asked = {name: client.ask(Query(name)) for name in (b"dog", b"later", b"cat")}
    release.set()
    with pytest.raises(OSError, match="full"):
        asked[b"dog"].result()
    assert asked[b"later"].result().answer == asked[b"cat"].result().answer == CAT


def test_an_answer_that_comes_too_late_is_kept():
    late = threading.Event()
    cache = Memory()
    backend = Scripted(lambda images, number: [DOG] if number == 1 and late.wait() else [BackendError("refused", "no")])
    (answered,) = ask_all(Client(backend, Manners(timeout=0.1, pause=0.01), cache), b"image")
    assert answered.answer.reason == "refused"
    late.set()
    deadline = time.monotonic() + 5
    while not cache.kept and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cache.kept == {hashlib.sha256(b"image").hexdigest(): DOG}


def test_a_label_that_is_no_text_is_an_error_of_the_image():
    backend = Scripted(lambda images, number: [(Label("\ud83d", 0.5),)])
    (answered,) = ask_all(Client(backend, QUICK, Memory()), b"image")
    assert (answered.answer.reason, answered.calls) == (contract.BAD_ANSWER, 1)
    assert answered.answer.message == "scripted gave a label that is no text"


def test_a_failure_that_is_shared_is_no_hit_of_the_cache():
    backend = Scripted(lambda images, number: time.sleep(0.1) or [BackendError(contract.REFUSED, "no")])
    first, second = ask_all(Client(backend, QUICK), b"same", b"same")
    assert (first.from_cache, second.from_cache, second.calls) == (False, False, 0)


def test_a_pair_is_asked_for_one_after_the_other():
    backend = Scripted()
    pair = ask_pair(Client(backend, QUICK), Query(b"original"), Query(b"result", quality=15)).result()
    assert (pair.reference.answer, pair.compressed.answer) == (CAT, CAT)
    assert [[image.data for image in batch] for batch in backend.asked] == [[b"original"], [b"result"]]


@pytest.mark.parametrize("nothing", [(), BackendError(contract.BAD_IMAGE, "no")])
def test_nothing_is_paid_for_a_result_whose_original_has_no_label(nothing):
    backend = Scripted(lambda images, number: [nothing])
    pair = ask_pair(Client(backend, QUICK), Query(b"original"), Query(b"result")).result()
    assert pair.reference.answer is nothing
    assert pair.compressed is None
    assert len(backend.asked) == 1


def test_pairs_are_finished_before_others_are_begun():
    backend = Scripted()
    client = Client(backend, Manners(concurrency=1), permits=Budget(5))
    pairs = [ask_pair(client, Query(b"original %d" % index), Query(b"result %d" % index)) for index in range(10)]
    whole = [pair.result().compressed for pair in pairs]
    assert [one is not None and one.answer == CAT for one in whole].count(True) == 2


def test_a_kept_image_is_asked_for_once():
    backend = Scripted()
    pair = ask_pair(Client(backend, QUICK), Query(b"kept"), Query(b"kept")).result()
    assert (pair.reference.calls, pair.compressed.calls, pair.compressed.answer) == (1, 0, CAT)
