"""Images as they arrive: watched folders, and messages."""

from __future__ import annotations

import json
import logging
import os
import time

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from gcs import emulated
from pubsub import SUBSCRIPTION

from beam_adacompress.errors import ImageError
from beam_adacompress.transforms import arrivals
from beam_adacompress.transforms.arrivals import (
    LocateImages,
    ReceiveImages,
    WatchImages,
    is_finished,
    key_below,
    path_of,
)
from beam_adacompress.transforms.outputs import ImagesAndFailures
from beam_adacompress.transforms.serve_sinks import ServeFolder
from beam_adacompress.transforms.sources import ImageFile, LocatedFailure, ReadFiles

LEFT: list[tuple[ImageFile | LocatedFailure, float]] = []  # rows and timestamps, of the pipeline that ran last


def leave(row, at=beam.DoFn.TimestampParam):
    LEFT.append((row, float(at)))


def leave_both(found):
    assert (found.images.element_type, found.failures.element_type) == (ImageFile, LocatedFailure)
    _ = found.images | "leave images" >> beam.Map(leave)
    _ = found.failures | "leave failures" >> beam.Map(leave)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(arrivals, "SETTLE", 0.0)


# Messages.


@pytest.mark.parametrize(
    ("attributes", "data", "path"),
    [
        ({"eventType": "OBJECT_FINALIZE", "bucketId": "b", "objectId": "a/1.jpg"}, b'{"kind": ...}', "gs://b/a/1.jpg"),
        ({"eventType": "OBJECT_DELETE", "bucketId": "b", "objectId": "a/1.jpg"}, b"", None),
        ({}, b"gs://b/a 1.jpg\n", "gs://b/a 1.jpg"),
        ({"camera": "7"}, b" /photos/1.jpg", "/photos/1.jpg"),
    ],
)
def test_where_the_image_of_a_message_is(attributes, data, path):
    assert path_of(attributes, data) == path


@pytest.mark.parametrize(
    ("attributes", "data", "message"),
    [
        ({"eventType": "OBJECT_FINALIZE", "bucketId": "b"}, b"", "^the notification lacks bucketId or objectId$"),
        ({}, b"", "^it is neither a notification nor the path of an image: ''$"),
        ({}, b"photos/1.jpg", "^it is neither a notification nor the path of an image: 'photos/1.jpg'$"),
        ({}, b"/a.jpg\n/b.jpg", r"^it is neither a notification nor the path of an image: '/a.jpg\\n/b.jpg'$"),
        ({}, b"\xff\xd8" * 99, r"^it is neither .*: '\\\\xff\\\\xd8"),
    ],
)
def test_messages_that_tell_of_no_image(attributes, data, message):
    with pytest.raises(ImageError, match=message) as failed:
        path_of(attributes, data)
    assert failed.value.reason == "bad-message"
    assert len(failed.value.message) < 300


@pytest.mark.parametrize(
    ("path", "root", "key"),
    [
        ("gs://b/a/1.jpg", None, "b/a/1.jpg"),
        ("gs://b/a/1.jpg", "gs://b", "a/1.jpg"),
        ("gs://b/a/1.jpg", "gs://b/a/", "1.jpg"),
        ("/photos/a/1.jpg", None, "photos/a/1.jpg"),
        ("/photos/a/1.jpg", "/photos", "a/1.jpg"),
    ],
)
def test_keys(path, root, key):
    assert key_below(path, root) == key


def test_an_image_beside_the_root():
    with pytest.raises(ImageError, match=r"^/photos2/1\.jpg is not below the root /photos$"):
        key_below("/photos2/1.jpg", "/photos")


def located(messages, locate):
    """Rows of images and of failures, and the counters."""
    LEFT.clear()
    with TestPipeline(runner="FnApiRunner") as p:
        found = p | beam.Create(messages) | locate
        leave_both(found)
    counters = p.result.metrics().query(MetricsFilter().with_namespace("adacompress.LocateImages"))["counters"]
    return sorted(row for row, _ in LEFT), {counter.key.metric.name: counter.committed for counter in counters}


def told(path, number="7"):
    return PubsubMessage(str(path).encode(), {}, message_id=number)


def test_messages_become_files(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "1.jpg", (1000, 1000))
    messages = [
        told(tmp_path / "1.jpg"),
        told(tmp_path / "gone.png"),
        told(tmp_path / "out" / "images" / "1.jpg"),
        told(tmp_path / ".." / "x.jpg"),
        told("a word"),
        told("/elsewhere/1.jpg"),
        PubsubMessage(b"", {"eventType": "OBJECT_ARCHIVE", "bucketId": "b", "objectId": "1.jpg"}, message_id="8"),
    ]
    rows, counted = located(messages, LocateImages(f"{tmp_path}/out", f"{tmp_path}"))
    assert rows == [
        LocatedFailure(
            "../x.jpg", 0, 0, None, "LocateImages", "bad-key", "the key '../x.jpg' is not a path inside the output"
        ),
        ImageFile("1.jpg", f"{tmp_path}/1.jpg", 5, 1000.0, False, True, 0),
        ImageFile("gone.png", f"{tmp_path}/gone.png", 0, 0.0, False, True, 0),
        LocatedFailure(
            "message 7",
            0,
            0,
            None,
            "LocateImages",
            "bad-key",
            f"/elsewhere/1.jpg is not below the root {tmp_path}",
        ),
        LocatedFailure(
            "message 7",
            0,
            0,
            None,
            "LocateImages",
            "bad-message",
            "it is neither a notification nor the path of an image: 'a word'",
        ),
    ]
    assert counted == {"images_out": 2, "ignored": 2, "failed": 3}


def test_notifications_of_a_bucket(tmp_path):
    notes = [
        {"eventType": "OBJECT_FINALIZE", "bucketId": "photos", "objectId": name} for name in ("in/1.jpg", "in/gone.jpg")
    ]
    with emulated(tmp_path) as bucket, TestPipeline(runner="FnApiRunner") as p:
        bucket.blob("in/1.jpg").upload_from_string(b"the image")
        messages = p | beam.Create([PubsubMessage(b"{}", each, message_id="1") for each in notes])
        images, failures = (messages | LocateImages("gs://photos/out")).images | ReadFiles()
        read = images | beam.Map(lambda row: (row.key, row.data))
        assert_that(read, equal_to([("photos/in/1.jpg", b"the image")]), "read")
        failed = failures | beam.Map(lambda row: (row.key, row.reason))
        assert_that(failed, equal_to([("photos/in/gone.jpg", "unreadable")]), "failed")


def timestamps(lateness, stream):
    LEFT.clear()
    with TestPipeline(runner=BundleBasedDirectRunner(), options=PipelineOptions(["--streaming"])) as p:
        found = p | stream.advance_watermark_to_infinity() | LocateImages("/out", None, lateness)
        leave_both(ImagesAndFailures(*(by_window(name, rows, lateness) for name, rows in found._asdict().items())))
    return {row.key: at for row, at in LEFT}


def by_window(name, rows, lateness):
    """Rows through a window, which drops those that it does not wait for."""
    gathered = (
        rows
        | f"{name} in windows" >> beam.WindowInto(FixedWindows(10), allowed_lateness=lateness)
        | f"{name} with key" >> beam.WithKeys(0)
        | f"{name} gathered" >> beam.GroupByKey()
    )
    return gathered | f"{name} one by one" >> beam.FlatMap(lambda pair: pair[1]).with_output_types(rows.element_type)


def test_no_row_is_too_late(monkeypatch):
    """The watermark has passed the end of their windows and more, so windows of their own time would drop them."""
    monkeypatch.setattr(arrivals.time, "time", lambda: 5000.0)
    early = [TimestampedValue(told(path), 4000) for path in ("/a.jpg", "a word")]
    recent = [TimestampedValue(told("/b.jpg"), 4985)]
    stream = TestStream().advance_watermark_to(4999).add_elements(early + recent)
    found = timestamps(100, stream)
    assert found == pytest.approx({"a.jpg": 4909.99, "message 7": 4909.99, "b.jpg": 4989.99}, abs=0.1)


@pytest.mark.parametrize(
    ("subscription", "message"),
    [
        ("images", "PubSub subscription must be in the form"),
        ("projects/p/subscriptions/images", "^Invalid PubSub project name: 'p'"),
    ],
)
def test_no_subscription(subscription, message):
    with pytest.raises(ValueError, match=message):
        ReceiveImages(subscription, "/out")


def test_a_negative_lateness():
    for make in (lambda: ReceiveImages(SUBSCRIPTION, "/out", None, -1), lambda: LocateImages("/out", None, -1)):
        with pytest.raises(ValueError, match=r"^allowed_lateness must be at least 0 seconds, got -1$"):
            make()


# Watched folders.


def watched(tmp_path, *events, stop_after=1.0, name="in", **options):
    """Keys of images, reasons of failures, and counters; each event happens when something has been listed before.

    Events are functions of the folder; there is one between two listings.
    """
    waiting = list(events)
    wait = arrivals._List._wait

    def waits(listing):
        if listing._next is not None and waiting:
            waiting.pop(0)(tmp_path / "in")
        wait(listing)

    LEFT.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrivals._List, "_wait", waits)
        folder = ServeFolder(f"{tmp_path}/out")
        watch = WatchImages(f"{tmp_path}/{name}", folder, poll=0.1, stop_after=stop_after, spread=False, **options)
        with TestPipeline(runner="FnApiRunner", options=PipelineOptions(["--streaming"])) as p:
            found = p | watch
            assert not found.images.is_bounded
            leave_both(found)
    assert not waiting
    counters = p.result.metrics().query(MetricsFilter().with_namespace("adacompress.WatchImages"))["counters"]
    counted = {counter.key.metric.name: counter.committed for counter in counters}
    images = [row.key for row, _ in LEFT if isinstance(row, ImageFile)]
    return images, [(row.key, row.reason) for row, _ in LEFT if isinstance(row, LocatedFailure)], counted


def put(name, data=b"an image", modified=None):
    def event(folder):
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        if modified is not None:
            os.utime(path, (modified, modified))

    return event


def test_each_file_once_and_once_more_when_it_is_replaced(tmp_path):
    put("a.jpg")(tmp_path / "in")
    images, failures, counted = watched(
        tmp_path,
        put("sub/b.png"),
        put("a.jpg", b"another size"),
        put("sub/b.png", modified=1000),  # as mv and rsync leave it
        put("../out/images/c.jpg"),
    )
    assert sorted(images) == ["a.jpg", "a.jpg", "sub/b.png", "sub/b.png"]
    assert (failures, counted) == ([], {"images_out": 4})


def test_a_folder_that_comes_later(tmp_path):
    assert watched(tmp_path, put("a.jpg"), stop_after=3.0)[0] == ["a.jpg"]


def test_the_output_in_the_input(tmp_path):
    assert watched(tmp_path, put("a.jpg"), put("../out/images/a.jpg"), name="")[0] == ["in/a.jpg"]


def test_only_new(tmp_path):
    put("old.jpg", modified=time.time() - 60)(tmp_path / "in")
    images, _, _ = watched(tmp_path, put("new.jpg"), only_new=True)
    assert images == ["new.jpg"]


def test_a_glob_and_a_root(tmp_path):
    for name in ("sub/a.jpg", "sub/b.png"):
        put(name)(tmp_path / "in")
    assert watched(tmp_path, name="in/sub/*.jpg")[0] == ["a.jpg"]
    assert watched(tmp_path, name="in/sub/*.jpg", root=f"{tmp_path}")[0] == ["in/sub/a.jpg"]


def test_a_name_that_is_no_text(tmp_path):
    images, failures, counted = watched(tmp_path, put(b"bad\xff.jpg"), put("good.jpg"))
    assert (images, failures) == (["good.jpg"], [("bad\\udcff.jpg", "bad-key")])
    assert counted == {"images_out": 1, "failed": 1}


def test_what_an_earlier_job_did_is_left_out(tmp_path):
    now = time.time()
    for name in ("done.jpg", "done.png", "changed.jpg", "failed.jpg"):
        put(name, modified=now - 100)(tmp_path / "in")
    for name in ("done.jpg", "done.png.jpg"):
        put(f"images/{name}", modified=now - 50)(tmp_path / "out")
    put("images/changed.jpg", modified=now - 150)(tmp_path / "out")
    images, _, counted = watched(tmp_path, put("done.jpg", b"another size"))
    assert sorted(images) == ["changed.jpg", "done.jpg", "failed.jpg"]
    assert counted == {"images_out": 3, "finished": 2}


@pytest.mark.parametrize(
    ("aside", "may_rename", "results", "done"),
    [
        (False, True, ["a.png.jpg"], True),
        (False, True, ["a.png"], True),
        (False, False, ["a.png.jpg"], False),  # the result of another file
        (True, True, ["a.png"], False),  # likewise
        (True, True, ["a.png.jpg"], True),
    ],
)
def test_which_results_are_a_files_own(tmp_path, aside, may_rename, results, done):
    for name in results:
        put(f"images/{name}", modified=1000)(tmp_path)
    file = ImageFile("a.png", "/in/a.png", 1, 1000.0, aside, may_rename, 0)
    assert is_finished(file, ServeFolder(str(tmp_path)), before=1001.0) is done
    assert not is_finished(file, ServeFolder(str(tmp_path)), before=1000.0)
    assert not is_finished(file._replace(modified=1000.5), ServeFolder(str(tmp_path)), before=1001.0)


def test_a_name_too_long_for_a_result():
    file = ImageFile("n" * 300 + ".jpg", "/in/n.jpg", 1, 1000.0, False, False, 0)
    assert not is_finished(file, ServeFolder("/tmp"), before=1001.0)


def listed(listing, pattern, started=0.0):
    result = listing((str(pattern), started))
    assert all(output.timestamp == result.watermark for output in result.outputs)
    return sorted(os.path.basename(json.loads(output.value)[0]) for output in result.outputs)


def test_a_file_that_is_being_written_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "SETTLE", 5.0)
    now = time.time()
    for name, age in (("written.jpg", 0), ("old.jpg", 6), ("from the future.jpg", -60)):
        put(name, modified=now - age)(tmp_path)
    assert listed(arrivals._List("/out", 0.1, False), tmp_path) == ["from the future.jpg", "old.jpg"]


def test_a_listing_that_fails_is_not_the_end(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, arrivals.__name__)
    listing = arrivals._List("/out", 0.01, False)
    put("a.jpg")(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert listed(listing, tmp_path) == []
    assert f"the next listing may find more: cannot list the input {tmp_path}: Permission denied" in caplog.text
    assert listed(listing, tmp_path) == ["a.jpg"]


def test_listings_keep_their_distance(tmp_path, monkeypatch):
    """FnApiRunner asks for the next one at once."""
    slept = []
    monkeypatch.setattr(arrivals.time, "monotonic", iter([0.0, 4.0, 10.0, 25.0, 25.0]).__next__)
    monkeypatch.setattr(arrivals.time, "sleep", slept.append)
    listing = arrivals._List("/out", 10.0, False)
    for _ in range(3):
        listing._wait()
    assert slept == [6.0, 0.0]


def test_time_goes_on_where_nothing_arrives(tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals.time, "time", lambda: 1234.5)
    assert arrivals._List("/out", 0.1, False)((str(tmp_path), 0.0)).watermark == Timestamp(1234.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poll": 0}, "^poll must be above 0 seconds, got 0$"),
        ({"stop_after": 0.0}, r"^stop_after must be above 0 seconds, got 0\.0$"),
        ({"root": "/photos/a/b"}, "^the root /photos/a/b is not above the input /photos/a/\\*$"),
        ({"root": "/pho"}, "^the root /pho is not above the input /photos/a/\\*$"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        WatchImages("/photos/a/*", ServeFolder("/out"), **options)
