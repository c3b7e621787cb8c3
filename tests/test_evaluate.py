"""What `adacompress evaluate` finds out about policies."""

from __future__ import annotations

import collections
import io

import pytest
from backends import Texture
from conftest import encoded
from evaluating import COUNT, IMAGES, ONE, SEED, Downwards, asked, calls_for, command, published, read, saved, split_of
from evaluating import backends as backends  # fixtures
from evaluating import mine as mine
from evaluating import photographs as photographs
from evaluating import policies as policies
from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.backends import Query
from beam_adacompress.policy import artefact
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.verify import LADDER


@pytest.fixture(scope="module")
def evaluated(photographs, policies, tmp_path_factory):
    """The folder of an evaluation by two backends, `out`, and of all that it was made with; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated")
    backends = [f"texture?path={folder / 'asked'}", f"downwards?path={folder / 'asked-too'}"]
    assert command(photographs, folder / "out", policies, backends, f"--cache={folder / 'cache'}") == 0
    return folder


@pytest.fixture(scope="module")
def found(evaluated):
    return read(evaluated / "out")[0]


def rows_of(evaluation):
    return {row.name: row for row in evaluation.strategies}


def test_only_test_images_are_asked_about_and_each_once(photographs, evaluated, found):
    wanted = split_of(photographs, SEED)
    assert 5 < len(wanted) < IMAGES / 2
    expected = {path.name: calls_for([path.read_bytes()]) for path in wanted}
    assert len(set(expected.values())) > 1, "some are asked about without aligned steps, too"
    for name in ("asked", "asked-too"):
        assert collections.Counter(asked(evaluated / name)) == expected
    assert {each.images for each in found.values()} == {len(wanted)}


@pytest.mark.parametrize(("name", "backend"), [("texture", Texture()), ("downwards", Downwards())])
def test_fixed_qualities_are_counted_by_hand(photographs, found, name, backend):
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    wanted = [backend.label([Query(data)], 1.0)[0][0] for data in files]
    plain, written = found[name].curves
    assert plain.name == "fixed quality, Pillow's defaults"
    assert written.name == "fixed quality, optimised progressive"
    assert [row.name for row in plain.points] == [str(quality) for quality in LADDER]
    disagreements = left_alone = 0
    for quality, bare, encoder in zip(LADDER, plain.points, written.points, strict=True):
        saved = [encoded(Image.open(io.BytesIO(data)), quality=quality) for data in files]
        agrees, bare_agrees = (
            [
                one.name == backend.label([Query(optimised(data, quality, aligns))], 1.0)[0][0].name
                for one, data in zip(wanted, files, strict=True)
            ]
            for aligns in (True, False)
        )
        assert bare.disagreements == bare_agrees.count(False)
        assert bare.total_ratio.mean == pytest.approx(sum(map(len, saved)) / sum(map(len, files)))
        disagreements += bare.disagreements

        sizes = [written_size(data, quality) for data in files]
        kept = [size == len(data) for size, data in zip(sizes, files, strict=True)]
        assert encoder.total_ratio.mean == pytest.approx(sum(sizes) / sum(map(len, files)))
        assert encoder.disagreements == [a or k for a, k in zip(agrees, kept, strict=True)].count(False)
        left_alone += sum(kept)
    assert disagreements > 0
    assert left_alone > 0
    assert rows_at(plain)["75"].total_ratio_75.mean == rows_at(plain)["75"].mean_ratio_75.mean == 1


def rows_at(curve):
    return {row.name: row for row in curve.points}


def optimised(data, quality, aligns=True):
    opened = jpeg.open_image(data)
    return jpeg.open_picture(opened).encode(jpeg.quantisation("annexk", quality), jpeg.Settings(align=aligns))


def written_size(data, quality):
    """Bytes of what is written: the original where the result does not save 5 % of them."""
    size = len(optimised(data, quality))
    return len(data) if size > 0.95 * len(data) else size


@pytest.mark.parametrize("name", ["texture", "downwards"])
def test_nothing_that_always_agrees_is_below_the_oracle(found, name):
    rows = rows_of(found[name])
    every, standard = rows["oracle, all actions"], rows["oracle, standard tables"]
    assert every.disagreements == standard.disagreements == 0
    assert every.total_ratio.mean <= standard.total_ratio.mean
    agreeing = [row for row in rows.values() if not row.disagreements]
    assert len(agreeing) >= 4
    assert min(row.total_ratio.mean for row in agreeing) == every.total_ratio.mean


def test_policies_are_judged_by_what_they_choose(photographs, found):
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    for name in ("texture", "downwards"):
        rows = rows_of(found[name])
        # Both take quality 45 of the standard tables for every image.
        (fixed,) = [row for row in found[name].curves[1].points if row.name == "45"]
        for policy in ("mine", "theirs"):
            assert rows[policy].kind == "policy"
            assert rows[policy].total_ratio == fixed.total_ratio
            assert rows[policy].agreement == fixed.agreement
        assert fixed.total_ratio.mean == pytest.approx(
            sum(written_size(data, 45) for data in files) / sum(map(len, files))
        )


def test_promises_count_for_the_backends_that_they_are_of(found):
    texture, downwards = (rows_of(found[name]) for name in ("texture", "downwards"))
    assert texture["mine"].promised == texture["theirs"].promised == 0.97
    assert downwards["mine"].promised is downwards["theirs"].promised is None
    assert texture["oracle, all actions"].promised is None


def test_verified_choice_and_outsiders(found):
    for name, other in (("texture", "downwards"), ("downwards", "texture")):
        rows = rows_of(found[name])
        assert {row for row in rows if row.startswith("verified")} == {
            "verified",
            f"verified by {other}",
            "verified by all",
        }
        here, there, everywhere = rows["verified"], rows[f"verified by {other}"], rows["verified by all"]
        assert {row.kind for row in (here, there, everywhere)} == {"verified"}
        assert here.agreement.mean == everywhere.agreement.mean == 1
        assert here.calls.mean > 1
        assert everywhere.calls == rows_of(found[other])["verified by all"].calls
        assert there.calls is None
        assert there.total_ratio == rows_of(found[other])["verified"].total_ratio
        assert here.total_ratio.mean <= everywhere.total_ratio.mean
    assert any(
        rows_of(each)[name].disagreements
        for each, name in ((found["texture"], "verified by downwards"), (found["downwards"], "verified by texture"))
    )


def test_the_ceiling_is_measured_at_quality_95(photographs, found):
    backend = Texture()
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    wanted, got = (
        [backend.label([Query(data)], 1.0)[0][0].name for data in several]
        for several in (files, [optimised(data, 95, aligns=False) for data in files])
    )
    jitter = found["texture"].jitter
    assert jitter.disagreements == sum(one != other for one, other in zip(wanted, got, strict=True))
    assert jitter.total_ratio.mean == pytest.approx(
        sum(len(optimised(data, 95, aligns=False)) for data in files) / sum(map(len, files))
    )


def test_the_files(evaluated, policies, photographs):
    out = evaluated / "out"
    names = ["evaluation.json", "job.toml", "rate_agreement-downwards.png", "rate_agreement-texture.png", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names[2:4]:
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n")
    page = (out / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert f"policy mine</td><td>folder {policies[0]}, version agreement-" in page
    about = read(out)[1]
    assert about["input"] == str(photographs)
    assert about["backends"]["texture"] == {"uri": f"texture?path={evaluated / 'asked'}", "version": "1"}
    assert about["policies"]["theirs"]["seed"] == SEED
    assert about["policies"]["theirs"]["version"] == artefact.load(policies[1])[1]
    assert (about["split"], about["seed"]) == ("test", None)
    assert about["images"] == len(split_of(photographs, SEED))
    assert about["encoder"] == {"subsampling": "4:2:0", "optimize": True, "progressive": True}
    assert "pillow" in about["versions"]


def test_a_policy_that_cannot_promise_leaves_everything(photographs, policies, tmp_path, capsys):
    assert command(photographs, tmp_path / "out", policies, ["texture"], "--agreement=0.99") == 0
    rows = rows_of(read(tmp_path / "out")[0]["texture"])
    for name in ("mine", "theirs"):
        assert rows[name].total_ratio.mean == rows[name].agreement.mean == 1
        assert rows[name].promised is None
    assert rows["verified"].total_ratio.mean < 1
    assert capsys.readouterr().err.count("cannot promise an agreement of 0.99") == 2


def test_policies_with_different_sights_are_asked_about_once(photographs, mine, tmp_path):
    seeing = saved(
        tmp_path / "seeing", published(COUNT + 1, of_last=5.0), ONE, sight=Sight(embedding="wide:x", versions=("7",))
    )
    backend = f"texture?path={tmp_path / 'asked'}"
    assert command(photographs, tmp_path / "out", [mine, seeing], [backend]) == 0
    files = [path.read_bytes() for path in split_of(photographs, SEED)]
    assert len(asked(tmp_path / "asked")) == calls_for(files)
    sizes = [written_size(data, 10 if jpeg.open_image(data).width > 90 else 45) for data in files]
    rows = rows_of(read(tmp_path / "out")[0]["texture"])
    assert rows["seeing"].total_ratio.mean == pytest.approx(sum(sizes) / sum(map(len, files)))
    assert rows["seeing"].total_ratio.mean < rows["mine"].total_ratio.mean


def test_the_plain_curve_is_left_out_where_nobody_saw_its_pixels(photographs, tmp_path):
    other = saved(tmp_path / "p", published(), ONE, encoder={"subsampling": "4:4:4", "optimize": False})
    assert command(photographs, tmp_path / "out", [other], ["texture"]) == 0
    assert [curve.name for curve in read(tmp_path / "out")[0]["texture"].curves] == ["fixed quality, progressive"]
