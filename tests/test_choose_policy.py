"""ChooseQuality with the policy that comes with the package: alone, before CompressJPEG, and in Beam YAML."""

import logging
import math
import subprocess
import sys
import typing

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.yaml import yaml_provider
from apache_beam.yaml.yaml_transform import YamlTransform
from conftest import encoded, picture, watch_decoding
from PIL import Image

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, ImageFailure, jpeg
from beam_adacompress.policy import learned
from beam_adacompress.policy.features import features, source_bytes
from beam_adacompress.policy.policies import Serving

LOGGER = "beam_adacompress.transforms.choose"
POLICY = Serving().load()
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
    return POLICY.choose(features(opened, jpeg.open_picture(opened)), key)


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
        expected = jpeg.quantisation(*rows[key].choice[:2])
        shown = jpeg.open_picture(jpeg.open_image(PHOTOS[key]))
        assert rows[key].status == "compressed"
        assert jpeg.open_image(rows[key].compressed).luma_steps() == shown.aligned(expected, jpeg.Settings()).luma
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
    watch_decoding(monkeypatch, lambda data: DECODED.append(len(data)))
    return DECODED


@pytest.mark.parametrize("policy", ["default", Serving().path])  # a folder may be one of published policies
def test_in_one_stage_each_image_is_decoded_once(decodings, policy):
    sizes = sorted(map(len, PHOTOS.values()))
    together, _ = run(photos(), ChooseQuality(policy=policy), CompressJPEG())
    assert sorted(decodings) == sizes
    decodings.clear()
    apart, _ = run(photos(), ChooseQuality(policy=policy), beam.Reshuffle(), CompressJPEG())
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


def by_setting(data):
    """What the policy does with an image at each of its settings."""
    opened = jpeg.open_image(data)
    seen = features(opened, jpeg.open_picture(opened))[None]
    artefact = POLICY.artefact
    taken = [
        learned.choose(artefact.agent.learned, seen, source_bytes(seen), price).action[0] for price in artefact.settings
    ]
    return [("original", 100) if action == -1 else POLICY.actions[action] for action in taken]


def test_exploring():
    best, every = by_hand("", PHOTO), by_setting(PHOTO)
    assert len(set(every)) > 3
    choices = explored()
    for choice in choices.values():
        chance = 0.3 * every.count(choice[:2]) / len(every) + 0.7 * (choice[:2] == best[:2])
        assert choice.propensity == pytest.approx(chance, rel=1e-9)
    another = [choice for choice in choices.values() if choice[:2] != best[:2]]
    assert 1 <= len(another) <= 10  # 4.5 are to be expected
    assert len({choice.expected_agreement for choice in choices.values()}) > 1
    serving = Serving(explore=0.3).load()
    opened = jpeg.open_image(PHOTO)
    seen = features(opened, jpeg.open_picture(opened))
    assert choices == {image.key: serving.choose(seen, image.key) for image in MANY}


def test_exploring_where_the_original_is_best():
    small = PHOTOS["small"]
    kept = by_setting(small).count(("original", 100)) / len(POLICY.artefact.settings)
    assert 0 < kept < 1
    rows, _ = run([image._replace(data=small) for image in MANY], ChooseQuality(explore=0.3))
    (found,) = {row.choice.propensity for row in rows.values() if row.choice.tables == "original"}
    assert found == pytest.approx(0.7 + 0.3 * kept)


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
    assert "was calibrated with subsampling 4:2:0, and its promise does not hold for 4:4:4" in said
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
        ({"policy": "p", "refresh": 0}, "^refresh must be a number of seconds above 0, got 0$"),
        ({"policy": "p", "refresh": math.inf}, "^refresh must be a number of seconds above 0, got inf$"),
        ({"refresh": 60}, "^refresh is about policies that are published: give policy=FOLDER, where they are, too$"),
        ({"policy": "default", "refresh": 60}, "^refresh is about policies that are published: give policy=FOLDER"),
        ({"quality": 30, "refresh": 60}, "^refresh is a policy's, and quality is fixed for every image"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChooseQuality(**arguments)


@pytest.mark.parametrize("name", ["agreement", "confidence", "explore"])
def test_text_is_no_number(name):
    with pytest.raises(TypeError, match=f"^ChooseQuality: {name} must be a number( or none)?, got '0.9'$"):
        ChooseQuality(**{name: "0.9"})
    with pytest.raises(TypeError, match=r"^ChooseQuality: refresh must be a number or none, got '60'$"):
        ChooseQuality(policy="p", refresh="60")


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
    choice = serving.choose(features(opened, jpeg.open_picture(opened)), "a.jpg")
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
