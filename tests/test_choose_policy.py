"""ChooseQuality with the policy that comes with the package: alone, before CompressJPEG, and in the command."""

import dataclasses
import functools
import json
import logging
import shutil
import subprocess
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import pytest
import test_buckets
from apache_beam import coders
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.yaml import yaml_provider
from apache_beam.yaml.yaml_transform import YamlTransform
from backends import CAT, DOG, Scripted, Sizes
from conftest import IN_PROCESS, encoded, manifest_rows, picture
from PIL import Image
from test_policies import RAMP, default_agent, saved

from beam_adacompress import AdaCompressError, ChooseQuality, CompressJPEG, EncodedImage, ImageFailure, jpeg
from beam_adacompress.backends import Answer, Backend, Query, Terms, registry
from beam_adacompress.jpeg import source
from beam_adacompress.jpeg.tables import Family, family
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.compress_job import CompressJob
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.features import features
from beam_adacompress.policy.policies import Serving
from beam_adacompress.transforms.sources import MAX_BYTES

bucket, token_server = test_buckets.bucket, test_buckets.token_server  # fixtures

LOGGER = "beam_adacompress.transforms.choose"
POLICY = Serving().load()
VERIFIED = f"{POLICY.version}-verified"
EXIF = Image.Exif()
EXIF[0x0112] = 6  # to be turned by 90 degrees
PHOTO = encoded(picture(160, 120))
PHOTOS = {
    "photo": PHOTO,
    "fine.png": encoded(picture(160, 120, seed=1), "PNG"),
    "gray": encoded(picture(160, 120, "L", seed=2)),
    "cmyk": encoded(picture(160, 120, "CMYK", seed=3)),
    "turned": encoded(picture(160, 120, seed=4), exif=EXIF),
    "small": encoded(picture()),  # so few bytes that the policy does not touch it
    "one pixel": encoded(picture(1, 1)),
    "palette": encoded(picture(100, 80).convert("P"), "PNG"),
}
LEFT = [
    EncodedImage("alpha", encoded(picture(mode="RGBA"), "PNG")),
    EncodedImage("animated", encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)])),
    EncodedImage("already-compressed", jpeg.compress(PHOTO, "annexk", 35, "fixed-35", jpeg.Settings()).data),
]
BROKEN = {
    "truncated": PHOTO[: len(PHOTO) // 2],
    "empty": b"",
    "not-an-image": b"hello",
    "corrupt": PHOTOS["fine.png"][:12] + bytes(8),
    "too-many-pixels": encoded(picture(200, 150)),
}
LIMIT = {"max_pixels": 160 * 120}


class Shot(typing.NamedTuple):
    camera: int
    key: str
    data: bytes


coders.registry.register_coder(Shot, coders.RowCoder)

LEFT_PIPELINE: list[typing.Any] = []  # rows of the pipeline that ran last, in this process


def leave(row):
    LEFT_PIPELINE.append(row)


def run(images, *transforms, kind=EncodedImage):
    """The rows that the last of these transforms gives, by key, and those that failed on the way."""
    LEFT_PIPELINE.clear()
    with TestPipeline(runner="FnApiRunner") as p:
        rows = p | beam.Create(list(images)).with_output_types(kind)
        for index, transform in enumerate(transforms):
            outputs = rows | f"{index}" >> transform
            rows = outputs if isinstance(outputs, beam.PCollection) else outputs.images
            if rows is not outputs:
                _ = outputs.failures | f"Failed{index}" >> beam.Map(leave)
        _ = rows | "Left" >> beam.Map(leave)
    failed = [row for row in LEFT_PIPELINE if hasattr(row, "error")]
    return {row.key: row for row in LEFT_PIPELINE if row not in failed}, failed


def photos(names=PHOTOS):
    return [EncodedImage(name, PHOTOS[name]) for name in names]


def by_hand(key, data):
    opened = jpeg.open_image(data)
    return POLICY.choose(features(opened, opened.pixels()), key)


def test_the_policy_decides_for_each_image():
    rows, failed = run(photos(), ChooseQuality())
    assert failed == []
    assert {key: row.choice for key, row in rows.items()} == {key: by_hand(key, PHOTOS[key]) for key in PHOTOS}
    assert {key: row.data for key, row in rows.items()} == PHOTOS
    choices = [row.choice for row in rows.values()]
    assert {(each.policy_version, each.propensity, each.verified_by) for each in choices} == {
        (POLICY.version, 1.0, None)
    }
    assert all(0.5 < each.expected_agreement <= 1 for each in choices)
    assert {key for key, row in rows.items() if row.choice.tables == "original"} >= {"small", "one pixel"}
    assert {rows[key].choice[:2] for key in ("photo", "gray", "cmyk", "fine.png")} <= set(POLICY.actions)


def test_what_is_chosen_is_what_is_written():
    rows, failed = run(photos(), ChooseQuality(), CompressJPEG())
    assert failed == []
    for key in ("photo", "gray", "cmyk", "fine.png", "turned"):
        tables, quality = rows[key].choice[:2]
        assert rows[key].status == "compressed"
        assert jpeg.open_image(rows[key].compressed).luma_steps() == jpeg.quantisation(tables, quality).luma
        assert len(rows[key].compressed) < 0.9 * len(PHOTOS[key])
    assert (rows["turned"].width, rows["turned"].height) == (120, 160)
    assert jpeg.open_image(rows["gray"].compressed).pixels().mode == "L"
    assert (rows["small"].status, rows["small"].reason) == ("kept", "chosen")
    assert rows["small"].compressed == PHOTOS["small"]


def test_other_fields_are_carried_along():
    rows, failed = run([Shot(7, "a", PHOTO), Shot(8, "b", b"hello")], ChooseQuality(), CompressJPEG(), kind=Shot)
    assert (rows["a"].camera, rows["a"].choice, rows["a"].status) == (7, by_hand("a", PHOTO), "compressed")
    assert [(row.camera, row.key, row.stage, row.reason) for row in failed] == [
        (8, "b", "ChooseQuality", "not-an-image")
    ]


def test_failures_are_rows_and_nothing_else_is_lost():
    broken = [EncodedImage(reason, data) for reason, data in BROKEN.items()]
    mixed = [*photos(["photo", "gray"]), *broken, *photos(["small", "cmyk"])]
    rows, failed = run(mixed, ChooseQuality(encoder=LIMIT), CompressJPEG(**LIMIT))
    assert {key: row.choice for key, row in rows.items()} == {
        key: by_hand(key, PHOTOS[key]) for key in ("photo", "gray", "small", "cmyk")
    }
    assert sorted((row.key, row.stage, row.reason) for row in failed) == sorted(
        (reason, "ChooseQuality", reason) for reason in BROKEN
    )
    said = {row.key: row.error for row in failed}
    assert said["truncated"] == "decoding failed: Premature end of JPEG file"
    assert said["too-many-pixels"] == "200 x 150 is more than the limit of 19200 pixels; raise it with --max-pixels"
    assert all(isinstance(row, ImageFailure) for row in failed)


def test_what_will_be_kept_whatever_is_chosen_is_left_to_the_encoder():
    torn = EncodedImage("torn", LEFT[2].data[:-200])  # of which the header is whole
    rows, failed = run([*LEFT, torn], ChooseQuality())
    assert failed == []
    assert {row.choice for row in rows.values()} == {POLICY.left_alone()}
    rows, failed = run([*LEFT, torn], ChooseQuality(), CompressJPEG())
    assert {key: (row.status, row.reason) for key, row in rows.items()} == {row.key: ("kept", row.key) for row in LEFT}
    assert [(row.key, row.stage, row.reason) for row in failed] == [("torn", "CompressJPEG", "truncated")]


def test_what_the_encoder_flattens_is_chosen_for():
    photo = EncodedImage("a", encoded(picture(160, 120, "RGBA"), "PNG"))
    rows, _ = run([photo], ChooseQuality(encoder={"flatten": True}), CompressJPEG(flatten=True))
    assert rows["a"].choice == by_hand("a", photo.data)
    assert rows["a"].status == "compressed"


def test_it_counts():
    p = TestPipeline(runner="FnApiRunner")
    _ = p | beam.Create([*photos(["photo", "small"]), EncodedImage("b", b"hello")]) | ChooseQuality()
    metrics = p.run().metrics().query(MetricsFilter().with_namespace("adacompress.ChooseQuality"))
    counted = {counter.key.metric.name: counter.committed for counter in metrics["counters"]}
    size = len(PHOTO) + len(PHOTOS["small"])
    assert (counted["images_in"], counted["images_out"], counted["failed"]) == (3, 2, 1)
    assert (counted["bytes_in"], counted["bytes_out"]) == (size + 5, size)
    (quality,) = metrics["distributions"]
    assert (quality.committed.count, quality.committed.max) == (2, 100)


DECODED: list[int] = []  # bytes of each file that was decoded


@pytest.fixture
def decodings(monkeypatch):
    DECODED.clear()
    decode = source.Source._decode

    def counting(self):
        DECODED.append(len(self.data))
        return decode(self)

    monkeypatch.setattr(source.Source, "_decode", counting)
    return DECODED


def test_in_one_stage_each_image_is_decoded_once(decodings):
    sizes = sorted(map(len, PHOTOS.values()))
    together, _ = run(photos(), ChooseQuality(), CompressJPEG())
    assert sorted(decodings) == sizes
    decodings.clear()
    apart, _ = run(photos(), ChooseQuality(), beam.Reshuffle(), CompressJPEG())
    assert sorted(decodings) == sorted(sizes * 2), "which is what the first stage saves"
    alike = [{key: row._replace(seconds=0) for key, row in rows.items()} for rows in (together, apart)]
    assert alike[0] == alike[1]


def test_the_same_bytes_twice_in_a_row_are_two_images(decodings):
    copy = bytes(bytearray(PHOTO))
    rows, _ = run([EncodedImage("a", PHOTO), EncodedImage("b", copy)], ChooseQuality(), CompressJPEG())
    assert rows["a"].compressed == rows["b"].compressed
    assert len(decodings) == 2


MANY = [EncodedImage(f"{index}.jpg", PHOTO) for index in range(25)]


def explored(**how):
    rows, failed = run(MANY, ChooseQuality(explore=0.3, **how))
    assert failed == []
    return {key: row.choice for key, row in rows.items()}


def test_exploring():
    best = by_hand("", PHOTO)
    choices = explored()
    another = {key: choice for key, choice in choices.items() if choice[:2] != best[:2]}
    each = 0.3 / len(POLICY.actions)
    assert 3 <= len(another) <= 13  # 7.5 are to be expected
    assert [choice.propensity for choice in another.values()] == pytest.approx([each] * len(another), rel=1e-5)
    propensities = {choice.propensity for choice in choices.values() if choice[:2] == best[:2]}
    assert list(propensities) == pytest.approx([0.7 + each], rel=1e-5)
    assert {choice[:2] for choice in another.values()} <= set(POLICY.actions)
    assert len({choice.expected_agreement for choice in another.values()}) > 2
    serving = Serving(explore=0.3).load()
    opened = jpeg.open_image(PHOTO)
    seen = features(opened, opened.pixels())
    assert choices == {image.key: serving.choose(seen, image.key) for image in MANY}


def test_exploring_where_the_original_is_best():
    rows, _ = run([image._replace(data=PHOTOS["small"]) for image in MANY], ChooseQuality(explore=0.3))
    taken = {row.choice.tables == "original": row.choice.propensity for row in rows.values()}
    assert taken == pytest.approx({True: 0.7, False: 0.3 / len(POLICY.actions)})


def test_exploring_is_a_matter_of_key_and_seed():
    first = explored(seed=1)
    assert explored(seed=1) == first
    assert explored(seed=2) != first


def test_more_than_it_can_promise(caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        rows, failed = run(photos(["photo", "gray"]), ChooseQuality(agreement=0.9999), CompressJPEG())
    assert failed == []
    assert {(*row.choice[:2], row.status, row.reason) for row in rows.values()} == {("original", 100, "kept", "chosen")}
    assert {key: row.compressed for key, row in rows.items()} == {key: PHOTOS[key] for key in ("photo", "gray")}
    said = {record.getMessage() for record in caplog.records if record.name == LOGGER}
    assert said == {Serving(agreement=0.9999).load().warning()}
    assert f"the policy {POLICY.version} cannot promise an agreement of 0.9999" in said.pop()


def test_a_promise_for_another_encoder(caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        run(photos(["photo"]), ChooseQuality(encoder={"subsampling": "4:4:4"}))
    (said,) = {record.getMessage() for record in caplog.records if record.name == LOGGER}
    assert "was calibrated with a subsampling of 4:2:0, and its promise does not hold for 4:4:4" in said
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        run(photos(["photo"]), ChooseQuality())
    assert [record for record in caplog.records if record.name == LOGGER] == []


def test_less_caution_is_fewer_bytes():
    bold, _ = run(photos(["photo", "cmyk"]), ChooseQuality(agreement=0.7), CompressJPEG())
    usual, _ = run(photos(["photo", "cmyk"]), ChooseQuality(), CompressJPEG())
    assert all(len(bold[key].compressed) < len(usual[key].compressed) for key in usual)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"policy": "p", "quality": 30},
            "^policy and quality exclude each other: a policy chooses both quality and tables$",
        ),
        ({"policy": "default", "tables": "deepn"}, "^policy and tables exclude each other: a policy chooses both"),
        (
            {"agreement": 0.9, "quality": 30},
            "^agreement is a policy's, and quality is fixed for every image: give one of them$",
        ),
        ({"confidence": 0.8, "tables": "annexk"}, "^confidence is a policy's, and tables is fixed for every image"),
        ({"explore": 0.1, "quality": 30}, "^explore is a policy's, and quality is fixed for every image"),
        (
            {"explore": 0.1, "verify": "baidu"},
            "^a verified choice does not explore: give explore or verify, not both$",
        ),
        ({"policy": ""}, "^policy must be a folder, or default, and is empty$"),
        ({"agreement": 2}, "^agreement must be above 0 and below 1, got 2$"),
        ({"confidence": 0}, "^confidence must be above 0 and below 1, got 0$"),
        ({"explore": 1.0}, r"^explore must be at least 0 and below 1, got 1\.0$"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChooseQuality(**arguments)


def bundled(folder: Path) -> Path:
    """A copy of the policy that comes with the package."""
    return Path(shutil.copytree(Serving().path, folder))


def changed(folder: Path) -> Path:
    """Another policy: the same weights, in other words."""
    description = folder / "policy.json"
    description.write_text(json.dumps(json.loads(description.read_text())))
    return folder


def no_json(folder: Path) -> str:
    (folder / "policy.json").write_text("{")
    return f"{folder} holds no policy: policy.json is damaged (Expecting property name"


def other_weights(folder: Path) -> str:
    (folder / "weights.npz").write_bytes(b"PK" + bytes(100))
    return f"the policy {folder} is damaged: the weights are not those that it names"


def no_weights(folder: Path) -> str:
    (folder / "weights.npz").unlink()
    return f"the policy's file {folder}/weights.npz cannot be read: No such file or directory"


def nothing(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"the policy's file {folder}/policy.json cannot be read: No such file or directory"


def newer(folder: Path) -> str:
    content = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(content | {"format_version": 99}))
    return f"the policy {folder} has version 99, and this is adacompress for version 1: use the release that wrote it"


@pytest.mark.parametrize("damage", [no_json, other_weights, no_weights, nothing, newer])
def test_a_policy_that_cannot_be_loaded_is_one_sentence(tmp_path, damage, compress, corpus, capsys):
    folder = bundled(tmp_path / "policy")
    message = damage(folder)
    with pytest.raises(AdaCompressError) as raised:
        run(photos(["photo"]), ChooseQuality(policy=str(folder)))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert compress(corpus, tmp_path / "out", f"--policy={folder}") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"adacompress: {message}")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def written(output):
    return {
        key: (row.status, row.tables, row.quality, row.policy_version) for key, row in manifest_rows(output).items()
    }


@pytest.fixture
def folder(tmp_path):
    """Photographs that the policy compresses, and one that it leaves alone."""
    (tmp_path / "photos").mkdir()
    for name, data in PHOTOS.items():
        (tmp_path / "photos" / name).write_bytes(data)
    return tmp_path / "photos"


def test_the_command_chooses_by_the_policy(folder, tmp_path, capsys):
    arguments = [f"--input={folder}", f"--output={tmp_path / 'out'}", *IN_PROCESS]
    assert cli.main(["compress", *arguments]) == 0
    said = capsys.readouterr()
    assert said.err.count("cannot promise") == 0
    assert f"chosen by the policy {POLICY.version}, which promises an agreement of 0.97 with all of" in said.out
    rows = manifest_rows(tmp_path / "out")
    for key, data in PHOTOS.items():
        choice = by_hand(key, data)
        found = rows[key].tables, rows[key].policy_version, rows[key].propensity, rows[key].expected_agreement
        assert found == (choice.tables, POLICY.version, 1.0, pytest.approx(choice.expected_agreement))
    assert rows["photo"].quality == by_hand("photo", PHOTO).quality
    assert (rows["small"].status, rows["small"].reason) == ("kept", "chosen")


def test_the_command_says_what_cannot_be_promised(folder, tmp_path, compress, capsys):
    assert compress(folder, tmp_path / "out", "--policy=default", "--agreement=0.9999") == 0
    said = capsys.readouterr()
    assert Serving(agreement=0.9999).load().warning() in said.err.splitlines()
    assert f"chosen by the policy {POLICY.version}, which promises nothing here" in said.out
    assert {row.reason for row in manifest_rows(tmp_path / "out").values()} == {"chosen"}


def test_a_run_with_another_policy_is_refused_until_overwrite(folder, tmp_path, compress, capsys):
    other = bundled(tmp_path / "policy")
    assert compress(folder, tmp_path / "out", f"--policy={other}") == 0
    before = written(tmp_path / "out")
    version = Serving(str(changed(other))).load().version
    assert version != POLICY.version
    assert compress(folder, tmp_path / "out", f"--policy={other}") == 1
    assert (
        f"holds a run with other options (policy_version was '{POLICY.version}', now '{version}'): choose another "
        "--output, or discard that run with --overwrite\n"
    ) in capsys.readouterr().err
    assert written(tmp_path / "out") == before
    assert compress(folder, tmp_path / "out", "--quality=35") == 1
    assert "holds a run with other options (" in capsys.readouterr().err
    assert compress(folder, tmp_path / "out", f"--policy={other}", "--overwrite") == 0
    assert {row.policy_version for row in manifest_rows(tmp_path / "out").values()} == {version}


def test_what_the_results_depend_on():
    fixed = {
        "flatten": False,
        "input": "/in",
        "keep_metadata": "icc",
        "max_bytes": MAX_BYTES,
        "max_pixels": 100_000_000,
        "min_saving": 0.05,
        "optimize": True,
        "progressive": True,
        "quality": 40,
        "seed": 0,
        "subsampling": "4:2:0",
        "tables": "annexk",
    }
    assert CompressJob("/in", "/out", quality=40).options() == fixed
    by_policy = {
        "policy": "default",
        "policy_version": POLICY.version,
        "agreement": 0.9,
        "confidence": None,
        "explore": 0.1,
        "quality": None,
        "tables": None,
    }
    assert CompressJob("/in", "/out", agreement=0.9, explore=0.1).options() == fixed | by_policy


def test_a_policy_in_a_bucket(bucket, folder, tmp_path, compress, capsys):
    for path in bundled(tmp_path / "policy").iterdir():
        bucket.blob(f"policies/mine/{path.name}").upload_from_string(path.read_bytes())
    assert compress(folder, tmp_path / "out", "--policy=gs://photos/policies/mine") == 0
    assert compress(folder, tmp_path / "local", "--policy=default") == 0
    assert written(tmp_path / "out") == written(tmp_path / "local")
    assert written(tmp_path / "out")["photo"] == ("compressed", *by_hand("photo", PHOTO)[:3])
    capsys.readouterr()
    assert compress(folder, tmp_path / "out2", "--policy=gs://photos/policies/none") == 1
    assert "adacompress: the policy's file gs://photos/policies/none/policy.json cannot be read: " in (
        capsys.readouterr().err
    )


def test_a_policy_in_a_bucket_with_tables_of_its_own(bucket, folder, tmp_path, compress):
    mine = Family("mine", RAMP, RAMP)
    space = ActionSpace((mine, family("robidoux")), (10, 50, 90))
    policy = Path(saved(tmp_path / "policy", default_agent(2), space, promise=0.8))
    for path in (path for path in policy.rglob("*") if path.is_file()):
        bucket.blob(f"policies/own/{path.relative_to(policy)}").upload_from_string(path.read_bytes())
    assert compress(folder, tmp_path / "out", "--policy=gs://photos/policies/own") == 0
    row = manifest_rows(tmp_path / "out")["photo"]
    assert row.status == "compressed"
    assert row.tables.startswith("gs://photos/policies/own/tables/mine-")
    made = jpeg.open_image((tmp_path / "out" / "images" / row.output).read_bytes())
    assert made.luma_steps() == mine.at(row.quality).luma


@dataclasses.dataclass
class Noting(Sizes):
    """Writes down what it is asked."""

    path: str = ""

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        note(self.path, images)
        return super().label(images, timeout)


@dataclasses.dataclass
class Remembered(Backend):
    """Agrees with an image named by a number as it agreed with that one of those that the policy remembers."""

    path: str = ""

    @property
    def terms(self) -> Terms:
        return Terms("remembered", "1", price=0.0)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        note(self.path, images)
        return [CAT if image.quality is None or agreed(image.key, action_of(image.data)) else DOG for image in images]


def note(path, images):
    with open(path, "a") as file:
        file.writelines(f"{image.key} {image.quality} {len(image.data)}\n" for image in images)


def noted(path):
    """Key, quality and bytes of each call."""
    return [tuple(line.split()) for line in path.read_text().splitlines()]


def agreed(key, action):
    return bool(POLICY.recollection.answers[int(key), action])


@functools.cache
def actions_by_steps():
    return {jpeg.quantisation(*action).luma: index for index, action in enumerate(POLICY.actions)}


def action_of(data):
    return actions_by_steps()[jpeg.open_image(data).luma_steps()]


@functools.cache
def made(data=PHOTO):
    """Bytes that each action makes of an image, of those that make it smaller, by the action's index."""
    results = [jpeg.compress(data, *action, VERIFIED, jpeg.Settings()) for action in POLICY.actions]
    return {index: len(result.data) for index, result in enumerate(results) if result.status == "compressed"}


def size_of(choice, data=PHOTO):
    return made(data)[POLICY.actions.index(choice[:2])]


@pytest.mark.parametrize("at", [0, 2])
def test_verified_over_all_families(tmp_path, at):
    limit = sorted(made().values())[at]
    backend = Noting(limit, path=str(tmp_path / "calls"))  # sees `large` in the original
    rows, failed = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backend), CompressJPEG())
    assert failed == []
    row = rows["a"]
    assert row.choice[2:] == (VERIFIED, 1.0, 1.0, f"sizes limit={limit}")
    assert limit <= len(row.compressed) == size_of(row.choice)
    assert size_of(row.choice) <= 1.1 * limit  # which is the cheapest that agrees
    calls = noted(tmp_path / "calls")
    assert len(calls) == len(set(calls)) <= 9
    assert calls[0] == ("a", "None", str(len(PHOTO)))


def test_verified_for_a_backend_like_those_that_the_policy_knows(tmp_path):
    images = {str(index): encoded(picture(160, 120, seed=index)) for index in range(16)}
    backend = Remembered(str(tmp_path / "calls"))
    rows, failed = run([EncodedImage(*each) for each in images.items()], ChooseQuality(verify=backend))
    assert failed == []
    ratios = []
    for key, data in images.items():
        cheapest = min(size for index, size in made(data).items() if agreed(key, index))
        choice = rows[key].choice
        assert agreed(key, POLICY.actions.index(choice[:2]))
        assert choice.verified_by == "remembered 1"
        ratios.append(size_of(choice, data) / cheapest)
    assert min(ratios) >= 1
    assert sum(ratios) / len(ratios) <= 1.1
    calls = noted(tmp_path / "calls")
    assert 2 * len(images) < len(calls) <= 9 * len(images)


def test_verified_where_only_the_finest_agrees():
    limit = max(made().values())
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=Sizes(limit)))
    assert size_of(rows["a"].choice) == limit


def test_verified_where_nothing_agrees():
    backend = Scripted(lambda images, number: [CAT if image.quality is None else DOG for image in images])
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backend), CompressJPEG())
    assert rows["a"].choice == ("original", 100, VERIFIED, 1.0, 1.0, "scripted 1")
    assert (rows["a"].status, rows["a"].reason, rows["a"].compressed) == ("kept", "chosen", PHOTO)


def test_what_is_kept_is_not_verified():
    backend = Scripted(lambda images, number: pytest.fail("was asked"))
    rows, failed = run(LEFT, ChooseQuality(verify=backend))
    assert failed == []
    assert {row.choice for row in rows.values()} == {POLICY.left_alone()}


def test_what_cannot_be_promised_can_be_verified():
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=Sizes(limit=1), agreement=0.9999))
    assert rows["a"].choice.verified_by == "sizes limit=1"
    assert size_of(rows["a"].choice) <= 1.1 * min(made().values())


def test_all_backends_have_to_agree():
    limits = [sorted(made().values())[at] for at in (30, 1, 10)]
    backends = [Sizes(limit) for limit in limits]
    rows, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backends))
    assert size_of(rows["a"].choice) >= max(limits)
    assert rows["a"].choice.verified_by == ", ".join(f"sizes limit={limit}" for limit in limits)
    alone, _ = run([EncodedImage("a", PHOTO)], ChooseQuality(verify=backends[1:]))
    assert max(limits[1:]) <= size_of(alone["a"].choice) < max(limits)


def comes_and_goes(images, number):
    """At quality 20, and at 45 and above."""
    return [CAT if each.quality is None or each.quality == 20 or each.quality >= 45 else DOG for each in images]


def test_a_margin_asks_finer_ones_too(tmp_path):
    images = [EncodedImage("a", PHOTO)]
    rows, _ = run(images, ChooseQuality(verify=Scripted(comes_and_goes)))
    assert rows["a"].choice.quality == 20
    rows, _ = run(images, ChooseQuality(verify=Scripted(comes_and_goes), verify_margin=1))
    assert rows["a"].choice.quality >= 45
    asked = {}
    for margin in (0, 1):
        backend = Noting(limit=1, path=str(tmp_path / str(margin)))  # agrees with everything
        rows, _ = run(images, ChooseQuality(verify=backend, verify_margin=margin))
        asked[margin] = noted(tmp_path / str(margin))
        found = POLICY.actions.index(rows["a"].choice[:2])
    assert len(asked[0]) < len(asked[1])
    assert ("a", str(POLICY.actions[found + 1][1]), str(made()[found + 1])) in asked[1]


def test_the_command_verifies_over_all_families(folder, tmp_path, compress, monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "sizes", f"{Sizes.__module__}:Sizes")
    options = ["--policy=default", "--verify=sizes?limit=1", "--verify=sizes?limit=2"]
    assert compress(folder, tmp_path / "out", *options) == 0
    rows = manifest_rows(tmp_path / "out")
    assert {row.verified_by for row in rows.values()} == {"sizes limit=1, sizes limit=2"}
    assert {(row.policy_version, row.propensity, row.expected_agreement) for row in rows.values()} == {
        (VERIFIED, 1.0, 1.0)
    }
    assert rows["photo"].bytes_out <= 1.1 * min(made().values())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["options"]["policy_version"] == POLICY.version


SPEC = """
type: composite
input: input
transforms:
  - type: ChooseQuality
    input: input
    config: {policy: default, agreement: 0.9}
  - type: CompressJPEG
    input: ChooseQuality.out0
output: CompressJPEG.out0
"""


def test_in_beam_yaml(monkeypatch):
    monkeypatch.setattr(yaml_provider, "standard_providers", dict)  # none is needed, and they import TensorFlow
    serving = Serving(agreement=0.9).load()
    opened = jpeg.open_image(PHOTO)
    choice = serving.choose(features(opened, opened.pixels()), "a.jpg")
    transforms = yaml_provider.InlineProvider({"ChooseQuality": ChooseQuality, "CompressJPEG": CompressJPEG})
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create([EncodedImage("a.jpg", PHOTO)]).with_output_types(EncodedImage)
        rows = images | YamlTransform(
            SPEC, providers={name: [transforms] for name in ("ChooseQuality", "CompressJPEG")}
        )
        found = rows | beam.Map(lambda row: (row.key, tuple(row.choice), row.status))
        assert_that(found, equal_to([("a.jpg", tuple(choice), "compressed")]))


PROGRAM = """
import sys
import apache_beam as beam
from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage
data = sys.stdin.buffer.read()
with beam.Pipeline(runner="FnApiRunner") as p:
    chosen, _ = p | beam.Create([EncodedImage("a", data)]) | ChooseQuality()
    compressed, _ = chosen | CompressJPEG()
    _ = compressed | beam.Map(lambda row: print(row.status, row.choice.policy_version))
heavy = ("tensorflow", "keras", "matplotlib", "ai_edge_litert", "google.cloud.vision", "sklearn", "optuna")
print([name for name in heavy if name in sys.modules])
"""


def test_serving_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=PHOTO, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [f"compressed {POLICY.version}", "[]"]
