from __future__ import annotations

import hashlib
import itertools
import threading
import time

import pytest
from backends import CAT, DOG, QUICK, Memory, Scripted, ask_all, unavailable

from beam_adacompress.backends import BackendError, Query, contract
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners
from beam_adacompress.records import Label


def test_an_answer_says_what_it_took():
    backend = Scripted()
    (answered,) = ask_all(Client(backend, QUICK), b"image")
    assert answered.answer == CAT
    assert (answered.calls, answered.retries, answered.from_cache, answered.throttled) == (1, 0, False, 0.0)
    assert 0 <= answered.latency < 1


def test_equal_images_are_asked_once():
    backend = Scripted()
    first, second, third = ask_all(Client(backend, QUICK), b"same", b"same", b"other")
    assert len(backend.asked) == 2
    assert (second.answer, second.calls, second.from_cache) == (CAT, 0, True)
    assert (first.calls, third.calls) == (1, 1)


def test_an_answer_that_depends_on_more_than_bytes_is_kept_apart():
    backend = Scripted(cacheable=False)
    client = Client(backend, QUICK, Memory())
    asked = [client.ask(Query(b"same", "a.jpg", quality)) for quality in (None, 15, 15)]
    assert [one.result().calls for one in asked] == [1, 1, 0]


def test_waiting_images_go_in_full_batches():
    release = threading.Event()

    def answer(images, number):
        release.wait()
        return [CAT] * len(images)

    backend = Scripted(answer, max_batch=4)
    client = Client(backend, Manners(concurrency=1))
    first = client.ask(Query(b"0"))
    while not backend.asked:
        time.sleep(0.001)
    others = [client.ask(Query(b"%d" % index)) for index in range(1, 10)]
    release.set()
    assert [one.result().answer for one in (first, *others)] == [CAT] * 10
    assert [len(batch) for batch in backend.asked] == [1, 4, 4, 1]


def test_a_batch_stays_below_its_size():
    release = threading.Event()

    def answer(images, number):
        release.wait()
        return [CAT] * len(images)

    backend = Scripted(answer, max_batch=10, max_batch_bytes=100)
    client = Client(backend, Manners(concurrency=1))
    asked = [client.ask(Query(b"%02d" % index * 20)) for index in range(6)]
    release.set()
    assert [one.result().answer for one in asked] == [CAT] * 6
    assert max(sum(len(image.data) for image in batch) for batch in backend.asked) <= 100


def test_as_many_calls_at_once_as_allowed():
    def answer(images, number):
        time.sleep(0.05)
        return [CAT]

    backend = Scripted(answer)
    ask_all(Client(backend, Manners(concurrency=5)), *(b"%d" % index for index in range(20)))
    assert backend.most_under_way == 5


def test_a_model_in_the_worker_is_called_one_at_a_time():
    backend = Scripted(lambda images, number: time.sleep(0.002) or [CAT], is_local=True)
    ask_all(Client(backend, QUICK), *(b"%d" % index for index in range(10)))
    assert backend.most_under_way == 1


@pytest.mark.parametrize("reason", [contract.THROTTLED, contract.UNAVAILABLE, contract.TIMEOUT, contract.BAD_ANSWER])
def test_what_may_pass_is_tried_again(reason):
    backend = Scripted(lambda images, number: [BackendError(reason, "x")] if number < 3 else [CAT])
    (answered,) = ask_all(Client(backend, QUICK), b"image")
    assert answered.answer == CAT
    assert (answered.calls, answered.retries) == (3, 2)


@pytest.mark.parametrize("reason", [contract.BAD_IMAGE, contract.TOO_LARGE, contract.REFUSED, contract.NOT_RECORDED])
def test_what_will_not_pass_is_not_tried_again(reason):
    backend = Scripted(lambda images, number: [BackendError(reason, "no")])
    (answered,) = ask_all(Client(backend, QUICK), b"image")
    assert (answered.answer.reason, answered.answer.message, answered.calls) == (reason, "no", 1)


def test_retries_end():
    backend = Scripted(lambda images, number: [unavailable()])
    (answered,) = ask_all(Client(backend, QUICK), b"image")
    assert answered.answer.reason == contract.UNAVAILABLE
    assert (answered.calls, answered.retries) == (4, 3)


def test_pauses_grow_and_are_not_all_alike():
    backend = Scripted(lambda images, number: [unavailable()])
    ask_all(Client(backend, Manners(retries=4, pause=0.1)), b"image")
    pauses = [second - first for first, second in itertools.pairwise(backend.times)]
    lowest = [0.05, 0.1, 0.2, 0.4]
    assert [pause >= low for pause, low in zip(pauses, lowest)] == [True] * 4
    assert pauses != [2 * low for low in lowest]


def test_a_backend_that_asks_to_wait_is_left_alone_by_everybody():
    def answer(images, number):
        return [BackendError(contract.THROTTLED, "slow down", retry_after=0.4)] if number == 1 else [CAT]

    backend = Scripted(answer)
    client = Client(backend, Manners(concurrency=1, pause=0.01))
    ask_all(client, b"0", b"1", b"2")
    assert backend.times[1] - backend.times[0] >= 0.4
    assert client.take_throttled() == pytest.approx(0.4, abs=0.15)
    assert client.take_throttled() == 0.0


def test_asking_to_wait_for_hours_means_that_the_quota_is_used_up():
    backend = Scripted(lambda images, number: [BackendError(contract.THROTTLED, "tomorrow", retry_after=7200)])
    client = Client(backend, QUICK)
    (answered,) = ask_all(client, b"0")
    assert (answered.answer.reason, answered.answer.message) == (contract.QUOTA, "tomorrow; it asks to wait for 7200 s")
    assert ask_all(client, b"1", b"2")[1].answer.reason == contract.QUOTA
    assert len(backend.asked) == 1


@pytest.mark.parametrize("reason", [contract.QUOTA, contract.CREDENTIALS])
def test_no_call_is_made_after_one_that_ends_them_all(reason):
    backend = Scripted(lambda images, number: [BackendError(reason, "over")])
    client = Client(backend, Manners(concurrency=1))
    answers = ask_all(client, *(b"%d" % index for index in range(20)))
    assert {answered.answer.reason for answered in answers} == {reason}
    assert len(backend.asked) == 1


def test_a_hanging_call_is_interrupted_and_tried_again():
    hang = threading.Event()
    backend = Scripted(lambda images, number: [CAT] if number == 2 else [hang.wait()])
    start = time.monotonic()
    (answered,) = ask_all(Client(backend, Manners(timeout=0.3, pause=0.01)), b"image")
    assert time.monotonic() - start < 2
    assert (answered.answer, answered.calls) == (CAT, 2)
    hang.set()


def test_a_backend_that_never_answers_is_a_timeout():
    hang = threading.Event()
    backend = Scripted(lambda images, number: [hang.wait()])
    (answered,) = ask_all(Client(backend, Manners(timeout=0.1, retries=1, pause=0.01)), b"image")
    assert answered.answer.reason == contract.TIMEOUT
    assert answered.answer.message == "scripted did not answer within 0.1 s"
    hang.set()


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ([], "scripted gave 0 answers for 1 images"),
        ([CAT, CAT], "scripted gave 2 answers for 1 images"),
        ([(Label("cat", float("nan")),)], "scripted gave a score that is no number"),
        ([(Label("cat", float("inf")),)], "scripted gave a score that is no number"),
    ],
)
def test_a_backend_that_lies(lie, message):
    backend = Scripted(lambda images, number: lie)
    (answered,) = ask_all(Client(backend, Manners(retries=1, pause=0.01)), b"image")
    assert (answered.answer.reason, answered.answer.message) == (contract.BAD_ANSWER, message)
    assert answered.calls == 2


def test_a_defect_of_a_backend_is_an_error_of_the_image():
    def answer(images, number):
        raise KeyError("secret-token")

    (answered,) = ask_all(Client(Scripted(answer), QUICK), b"image")
    assert answered.answer.reason == contract.DEFECT
    assert answered.answer.message == "the backend scripted raised KeyError, which is a defect of it"


@pytest.mark.parametrize("reason", [contract.BAD_IMAGE, contract.REFUSED, contract.BAD_ANSWER])
def test_one_bad_image_does_not_take_its_batch_along(reason):
    def answer(images, number):
        if any(image.data == b"bad" for image in images):
            raise BackendError(reason, "something in there", retryable=False)
        return [DOG] * len(images)

    backend = Scripted(answer, max_batch=4)
    client = Client(backend, Manners(concurrency=1))
    answers = [answered.answer for answered in ask_all(client, b"1", b"2", b"bad", b"3")]
    assert [answers[0], answers[1], answers[3]] == [DOG, DOG, DOG]
    assert answers[2].reason == reason


def test_errors_in_a_batch_leave_the_others_their_labels():
    def answer(images, number):
        return [BackendError(contract.BAD_IMAGE, "no") if image.data == b"bad" else CAT for image in images]

    client = Client(Scripted(answer, max_batch=4), QUICK)
    answers = [answered.answer for answered in ask_all(client, b"1", b"bad", b"3")]
    assert (answers[0], answers[2]) == (CAT, CAT)
    assert answers[1].reason == contract.BAD_IMAGE


def test_only_what_failed_in_a_batch_is_sent_again():
    failed = []

    def answer(images, number):
        if any(image.data == b"2" for image in images) and not failed:
            failed.append(number)
            return [unavailable() if image.data == b"2" else CAT for image in images]
        return [CAT] * len(images)

    backend = Scripted(answer, max_batch=4)
    answers = ask_all(Client(backend, Manners(concurrency=1, pause=0.01)), b"1", b"2", b"3", b"4")
    assert [answered.answer for answered in answers] == [CAT] * 4
    assert sorted(image.data for batch in backend.asked for image in batch) == [b"1", b"2", b"2", b"3", b"4"]


def test_an_image_above_the_limit_is_not_sent():
    backend = Scripted(max_bytes=4)
    small, large = ask_all(Client(backend, QUICK), b"1234", b"12345")
    assert small.answer == CAT
    assert large.answer.reason == contract.TOO_LARGE
    assert large.answer.message == (
        "the image has 5 bytes, and scripted takes at most 4; scale it down, or leave images of this size out"
    )
    assert len(backend.asked) == 1


def test_what_the_cache_has_is_not_asked():
    digest = hashlib.sha256(b"known").hexdigest()
    cache = Memory({digest: DOG})
    backend = Scripted()
    known, new = ask_all(Client(backend, QUICK, cache), b"known", b"new")
    assert (known.answer, known.calls, known.from_cache) == (DOG, 0, True)
    assert (new.answer, new.calls, new.from_cache) == (CAT, 1, False)
    assert cache.kept == {digest: DOG, hashlib.sha256(b"new").hexdigest(): CAT}


def test_empty_answers_are_kept_and_errors_are_not():
    cache = Memory()
    backend = Scripted(lambda images, number: [() if number == 1 else BackendError(contract.BAD_IMAGE, "no")])
    client = Client(backend, Manners(concurrency=1), cache)
    assert [answered.calls for answered in ask_all(client, b"empty")] == [1]
    assert ask_all(client, b"bad")[0].answer.reason == contract.BAD_IMAGE
    assert cache.kept == {hashlib.sha256(b"empty").hexdigest(): ()}
    assert ask_all(client, b"bad")[0].calls == 1  # asked again: that answer was none


def test_a_recording_that_breaks_leaves_nobody_waiting():
    class Recording(Scripted):
        def heard(self, image, answer):
            raise OSError("full")

    cache = Memory({hashlib.sha256(b"known").hexdigest(): DOG})
    client = Client(Recording(), QUICK, cache)
    with pytest.raises(OSError, match="full"):
        client.ask(Query(b"known")).future.result(timeout=5)
    assert ask_all(client, b"new")[0].answer == CAT


def test_a_cache_that_cannot_be_read_is_not_silent():
    class Broken(Memory):
        def get(self, sha256):
            raise OSError("the disk is gone")

    asked = Client(Scripted(), QUICK, Broken()).ask(Query(b"image"))
    with pytest.raises(OSError, match="the disk is gone"):
        asked.result()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 0}, "timeout must be a number of seconds above 0, got 0"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds above 0, got nan"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"pause": -1}, "pause must be from 0 to 60 seconds, got -1"),
    ],
)
def test_bad_manners(arguments, message):
    with pytest.raises(ValueError, match=message):
        Manners(**arguments)
