"""Following what is published, with a clock and stores that do as they are told."""

from __future__ import annotations

import logging
import threading

import pytest

from beam_adacompress import AdaCompressError
from beam_adacompress.drift.loop import Advice
from beam_adacompress.transforms.reload import Following

LOGGER = "beam_adacompress.transforms.reload"


class World:
    """Versions are the last letters of their folders; a folder in `broken` cannot be loaded."""

    def __init__(self):
        self.time = 100.0
        self.folder: str | Exception = "policies/a"
        self.advice: Advice | Exception | None = None
        self.broken: set[str] = set()
        self.loads: list[str] = []
        self.looks = 0
        self.counted: list[str] = []

    def newest(self):
        self.looks += 1
        return self._said(self.folder)

    def advised(self):
        return self._said(self.advice)

    def make(self, folder):
        self.loads.append(folder)
        if folder in self.broken:
            raise AdaCompressError(f"{folder} is damaged")
        return folder[-1]

    @staticmethod
    def _said(what):
        if isinstance(what, Exception):
            raise what
        return what

    def following(self, every: float | None = 60.0):
        return Following(self.newest, self.make, self.advised, every, self.counted.append, lambda: self.time)

    def after(self, seconds, following):
        self.time += seconds
        following.look(self.counted.append)
        return following.current


@pytest.fixture
def world():
    return World()


@pytest.fixture(autouse=True)
def all_that_is_logged(caplog):
    caplog.set_level(logging.WARNING, LOGGER)


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_a_newer_version_takes_the_place_of_the_one_before(world):
    following = world.following()
    assert (following.current, world.counted) == ("a", ["policies_loaded"])
    world.folder = "policies/b"
    assert world.after(59.9, following) == "a"
    assert world.looks == 1
    assert world.after(0.1, following) == "b"
    assert world.after(59.9, following) == "b"
    assert world.looks == 2
    assert world.after(60, following) == "b"
    assert world.loads == ["policies/a", "policies/b"]
    assert world.counted == ["policies_loaded"] * 2


def test_rolling_back_is_a_change_too(world):
    following = world.following()
    for name in ("b", "a"):
        world.folder = f"policies/{name}"
        assert world.after(60, following) == name


def test_nobody_looks_again_where_one_version_stays(world):
    following = world.following(every=None)
    world.folder = "policies/b"
    world.advice = Advice("retrain", 1.0, 0.5, "a")
    assert world.after(1e9, following) == "a"
    assert world.looks == 1
    assert following.advice_for("a") is None


def test_the_first_version_has_to_be_there(world):
    world.broken = {"policies/a"}
    with pytest.raises(AdaCompressError, match=r"^policies/a is damaged$"):
        world.following()
    world.folder = OSError("no bucket")
    with pytest.raises(OSError, match=r"^no bucket$"):
        world.following()


def test_a_broken_version_is_refused_once(world, caplog):
    following = world.following()
    world.folder, world.broken = "policies/b", {"policies/b", "policies/c"}
    assert [world.after(60, following) for _ in range(3)] == ["a", "a", "a"]
    said = "the policy policies/b is refused, policies/a stays in service: policies/b is damaged"
    assert messages(caplog) == [said]
    assert world.counted == ["policies_loaded", "policies_refused"]
    world.folder = "policies/c"
    assert world.after(60, following) == "a"
    assert messages(caplog) == [said, said.replace("/b", "/c")]
    world.folder = "policies/d"
    assert world.after(60, following) == "d"
    assert world.counted == ["policies_loaded", "policies_refused", "policies_refused", "policies_loaded"]


def test_a_version_that_was_not_readable_at_first(world):
    following = world.following()
    world.folder, world.broken = "policies/b", {"policies/b"}
    assert world.after(60, following) == "a"
    world.broken = set()
    assert world.after(60, following) == "b"


def test_an_outage_is_said_once_until_it_is_over(world, caplog):
    following = world.following()
    world.folder = world.advice = OSError("503")
    assert [world.after(60, following) for _ in range(2)] == ["a", "a"]
    said = "of the published policies cannot be read, what is known of it stays: 503"
    assert messages(caplog) == [f"STATE {said}", f"LATEST {said}"]
    assert world.counted == ["policies_loaded", *["looks_failed"] * 4]
    world.folder, world.advice = "policies/b", None
    assert world.after(60, following) == "b"
    world.folder = OSError("503")
    assert world.after(60, following) == "b"
    assert messages(caplog)[2:] == [f"LATEST {said}"]


def test_what_is_advised_for_a_version(world):
    first, second = Advice("estimate", 0.2, 0.1, "a"), Advice("inference", 0.05, 0.0, "b")
    following = world.following()
    assert following.advice_for("a") is None
    world.advice = first
    world.after(60, following)
    assert (following.advice_for("a"), following.advice_for("b")) == (first, None)
    world.advice = OSError("503")
    world.after(60, following)
    assert following.advice_for("a") == first
    world.advice = second
    world.after(60, following)
    assert (following.advice_for("a"), following.advice_for("b")) == (None, second)


def test_while_a_thread_loads_the_others_go_on(world):
    following = world.following()
    loading, may_end = threading.Event(), threading.Event()
    make = world.make

    def slowly(folder):
        loading.set()
        assert may_end.wait(10)
        return make(folder)

    following._make = slowly
    world.folder = "policies/b"
    world.time += 60
    thread = threading.Thread(target=following.look, args=[world.counted.append])
    thread.start()
    assert loading.wait(10)
    assert world.after(60, following) == "a"
    may_end.set()
    thread.join(10)
    assert following.current == "b"
    assert world.loads == ["policies/a", "policies/b"]
