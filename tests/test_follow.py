"""Jobs that follow the policies that are published meanwhile."""

from __future__ import annotations

import logging
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import window
from backends import Sizes
from conftest import encoded, picture
from test_policies import RAMP, default_agent, saved

from beam_adacompress import AdaCompressError, Choice, ChooseQuality, ChosenImage, CompressJPEG, EncodedImage, jpeg
from beam_adacompress.drift.loop import Advice
from beam_adacompress.jpeg.tables import Family
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.features import features
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms import control, publishing, reload

PHOTO = encoded(picture(160, 120))
VERSIONS = {"first": 0.97, "second": 0.95, "third": 0.8}  # and the agreement that they promise
ALWAYS = 1e-6  # seconds between looks
PROCESSES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture
def root(tmp_path):
    """A folder of published policies, with the first one; beside it there are others, which are not published yet."""
    for name, promise in VERSIONS.items():
        saved(tmp_path / "waiting" / name, promise=promise)
    publish(tmp_path / "policies", "first")
    return tmp_path / "policies"


def publish(root, name):
    return publishing.publish_folder(str(root), str(root.parent / "waiting" / name), publishing.latest(str(root)))


def version(root, name):
    return Serving(str(root.parent / "waiting" / name)).load().version


def publish_second(root):
    publish(root, "second")


def publish_third(root):
    publish(root, "third")


def publish_a_broken_one(root):
    folder = Path(publishing.folder_of(str(root), publish(root, "second")))
    (folder / "weights.npz").write_bytes(b"")


def damage_latest(root):
    publish(root, "second")
    (root / "LATEST").write_text("{")


def meanwhile(row, root, event):
    """What happens just before there is a choice for a row whose key begins with `now`."""
    if row.key.startswith("now"):
        event(root)
    return row


def arriving(rows, root, event):
    return rows | beam.Map(meanwhile, root, event).with_output_types(EncodedImage)


def chosen(choose, root, event, keys, flags=()):
    """Version by key, and the counters, of a batch job."""
    folder = root.parent / "chosen"
    folder.mkdir()

    def note(row):
        (folder / row.key).write_text(row.choice.policy_version)

    p = TestPipeline(runner="FnApiRunner", options=PipelineOptions(list(flags)))
    rows = p | beam.Create([EncodedImage(key, PHOTO) for key in keys])
    _ = (arriving(rows, root, event) | choose).images | beam.Map(note)
    counters = p.run().metrics().query(MetricsFilter().with_namespace("adacompress.ChooseQuality"))["counters"]
    counted = {counter.key.metric.name: counter.committed for counter in counters}
    return {path.name: path.read_text() for path in folder.iterdir()}, counted


LEFT: list[tuple[str, Choice, int]] = []  # key, choice and end of the window, of the pipeline that ran last


def leave(row, window=beam.DoFn.WindowParam):
    LEFT.append((row.key, row.choice, int(window.end)))


def streamed(choose, root, event, *windows):
    """Key, version and end of the window of each row, of a streaming job with keys for each of its windows."""
    LEFT.clear()
    stream = TestStream(coder=coders.registry.get_coder(EncodedImage), output_tags=None)
    for index, keys in enumerate(windows):
        rows = [window.TimestampedValue(EncodedImage(key, PHOTO), 20 * index + 5) for key in keys]
        stream = stream.advance_watermark_to(20 * index).add_elements(rows)
    options = PipelineOptions(["--streaming"])
    with TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        rows = p | stream.advance_watermark_to_infinity() | beam.WindowInto(window.FixedWindows(10))
        _ = ((arriving(rows, root, event) | choose).images | CompressJPEG()).images | beam.Map(leave)
    return sorted((key, choice.policy_version, end) for key, choice, end in LEFT)


@pytest.fixture(autouse=True)
def all_that_is_logged(caplog):
    for module in ("choose", "reload"):
        caplog.set_level(logging.WARNING, f"beam_adacompress.transforms.{module}")


def said(caplog, module):
    name = f"beam_adacompress.transforms.{module}"
    return [record.getMessage() for record in caplog.records if record.name == name]


@pytest.mark.parametrize("flags", [[], PROCESSES], ids=["one process", "two processes"])
def test_a_batch_job_goes_by_one_version(root, flags, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    keys = [f"now {index}" for index in range(30)]  # another version is there before any worker's first choice
    found, counted = chosen(ChooseQuality(policy=str(root)), root, publish_second, keys, flags)
    assert found == dict.fromkeys(keys, version(root, "first"))
    assert counted["images_out"] == 30
    assert publishing.latest(str(root)).version == version(root, "second")


def test_a_batch_job_that_looks_again(root):
    choose = ChooseQuality(policy=str(root), refresh=ALWAYS)
    found, counted = chosen(choose, root, publish_second, ["a", "now", "b"])
    first, second = version(root, "first"), version(root, "second")
    assert found == {"a": first, "now": second, "b": second}
    assert (counted["policies_loaded"], counted["images_out"]) == (2, 3)
    assert not {"policies_refused", "looks_failed"} & set(counted)


@pytest.mark.parametrize("refresh", [None, ALWAYS])
def test_a_folder_with_nothing_in_it(tmp_path, root, refresh):
    choose = ChooseQuality(policy=str(tmp_path / "nowhere"), refresh=refresh)
    with pytest.raises(AdaCompressError, match=r"nowhere/policy\.json cannot be read: No such file or directory"):
        chosen(choose, root, publish_second, ["a"])


def test_a_streaming_job_follows_what_is_published(root):
    choose = ChooseQuality(policy=str(root), refresh=ALWAYS)
    found = streamed(choose, root, publish_second, ["a", "b"], ["now"], ["c"])
    first, second = version(root, "first"), version(root, "second")
    assert found == [("a", first, 10), ("b", first, 10), ("c", second, 50), ("now", second, 30)]


def test_a_streaming_job_follows_where_nothing_else_is_said(root, monkeypatch):
    found = streamed(ChooseQuality(policy=str(root)), root, publish_second, ["a"], ["now"])
    assert {version for _, version, _ in found} == {version(root, "first")}  # a minute has not passed
    monkeypatch.setattr(reload, "REFRESH", ALWAYS)
    found = streamed(ChooseQuality(policy=str(root)), root, publish_third, ["a"], ["now"])
    assert [version for _, version, _ in found] == [version(root, "second"), version(root, "third")]


REFUSED = (
    "the policy {root}/versions/{second} is refused, {root}/versions/{first} stays in service: "
    "the policy {root}/versions/{second} is damaged: the weights are not those that it names"
)
UNREAD = "LATEST of the published policies cannot be read, what is known of it stays: {root}/LATEST is damaged ("


@pytest.mark.parametrize(("event", "message"), [(publish_a_broken_one, REFUSED), (damage_latest, UNREAD)])
def test_in_a_stream_whatever_goes_wrong_the_version_before_stays(root, event, message, caplog):
    choose = ChooseQuality(policy=str(root), refresh=ALWAYS)
    first, second = version(root, "first"), version(root, "second")
    found = streamed(choose, root, event, ["a"], ["now"], ["b", "c"])
    assert found == [("a", first, 10), ("b", first, 50), ("c", first, 50), ("now", first, 30)]
    (once,) = said(caplog, "reload")
    assert once.startswith(message.format(root=root, first=first, second=second))


@pytest.mark.parametrize(
    ("event", "failed"),
    [(publish_a_broken_one, {"policies_refused": 1}), (damage_latest, {"looks_failed": 3})],
)
def test_what_goes_wrong_is_counted(root, event, failed):
    choose = ChooseQuality(policy=str(root), refresh=ALWAYS)
    found, counted = chosen(choose, root, event, ["a", "now", "b", "c"])
    assert found == dict.fromkeys(["a", "now", "b", "c"], version(root, "first"))
    names = ("policies_loaded", "policies_refused", "looks_failed")
    assert {name: counted[name] for name in names if name in counted} == {"policies_loaded": 1, **failed}


def test_each_version_that_cannot_promise_says_so(root, caplog):
    choose = ChooseQuality(policy=str(root), refresh=ALWAYS, agreement=0.999)
    streamed(choose, root, publish_second, ["a", "b"], ["now"])
    names = [f"the policy {version(root, name)} cannot promise an agreement of 0.999" for name in ("first", "second")]
    assert [message.partition(" with ")[0] for message in said(caplog, "choose")] == names


def test_tables_of_a_version_are_there_when_another_one_is_in_service(tmp_path):
    mine = Family("mine", RAMP, RAMP)
    saved(tmp_path / "waiting" / "own", default_agent(), ActionSpace((mine,), (10, 50, 90)), promise=0.8)
    saved(tmp_path / "waiting" / "second")
    root = tmp_path / "policies"
    publish(root, "own")
    with TestPipeline(runner="FnApiRunner") as p:
        chosen, _ = p | beam.Create([EncodedImage("now", PHOTO)]) | ChooseQuality(policy=str(root), refresh=ALWAYS)
        later = chosen | beam.Map(meanwhile, root, publish_second).with_output_types(ChosenImage)
        compressed, _ = later | CompressJPEG(min_saving=0, align=False)
        found = compressed | beam.Map(lambda row: (row.choice.quality, jpeg.open_image(row.compressed).luma_steps()))
        assert_that(found, equal_to([(50, mine.at(50).luma)]))


def advise(root, explore=0.5):
    """Writes what the drift stage advises about the version in service."""
    now = publishing.latest(str(root)).version
    control.write_control(str(root), Advice("estimate", 1.0, explore, now))


def by_hand(root, explore, keys):
    opened = jpeg.open_image(PHOTO)
    policy = Serving(publishing.resolve(str(root)), explore=explore).load()
    return {key: policy.choose(features(opened, jpeg.open_picture(opened)), key) for key in keys}


def test_the_drift_stage_says_how_much_to_explore(root):
    keys = [f"now {index}" for index in range(20)]
    streamed(ChooseQuality(policy=str(root), refresh=ALWAYS), root, advise, ["a"], keys)
    assert {key: choice for key, choice, _ in LEFT} == by_hand(root, 0.0, ["a"]) | by_hand(root, 0.5, keys)
    assert by_hand(root, 0.0, keys) != by_hand(root, 0.5, keys)


def test_advice_about_another_version_is_not_taken(root):
    advise(root)
    publish(root, "second")
    keys = [f"{index}" for index in range(20)]
    streamed(ChooseQuality(policy=str(root), refresh=ALWAYS, explore=0.25), root, advise, keys)
    assert {key: choice for key, choice, _ in LEFT} == by_hand(root, 0.25, keys)


def test_in_a_batch_job_nothing_is_taken_from_the_drift_stage(root):
    advise(root)
    keys = [f"{index}" for index in range(20)]
    with TestPipeline(runner="FnApiRunner") as p:
        chosen, _ = p | beam.Create([EncodedImage(key, PHOTO) for key in keys]) | ChooseQuality(policy=str(root))
        assert_that(chosen | beam.Map(lambda row: row.choice.propensity) | beam.Distinct(), equal_to([1.0]))


def test_a_verified_choice_follows_too(root):
    first, second, third = (f"{version(root, name)}-verified" for name in VERSIONS)
    verifying = {"policy": str(root), "verify": Sizes(limit=1)}
    found, _ = chosen(ChooseQuality(**verifying), root, publish_second, ["now"])
    assert found == {"now": first}
    found = streamed(ChooseQuality(**verifying, refresh=ALWAYS), root, publish_third, ["a"], ["now"])
    assert found == [("a", second, 10), ("now", third, 30)]
