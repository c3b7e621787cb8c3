from __future__ import annotations

import concurrent.futures
import hashlib
import io
import json
import os
import tempfile
import threading
import zipfile
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MemoryFileSystem
from test_artefact import RAMP, policy

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import Family, family
from beam_adacompress.policy import artefact
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.artefact import Baseline
from beam_adacompress.policy.calibration import Promise
from beam_adacompress.transforms import files, publishing
from beam_adacompress.transforms.publishing import LostRaceError, latest, publish, resolve, rollback


def made(index, **changes):
    """A policy of its own version."""
    return policy(data={"images": index, "sha256": "ff"}, **changes)


def version_of(made):
    return artefact.save(made, lambda name, data: None)


VERSIONS = [version_of(made(index)) for index in range(4)]


def published(root, count):
    for index in range(count):
        publish(root, made(index), latest(root))
    return latest(root)


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "root")


def names(root):
    return sorted(found.path[len(root) + 1 :] for found in files.listing(root))


def test_what_is_published(root, monkeypatch):
    monkeypatch.setattr(publishing.time, "time", lambda: 1000.5)
    assert latest(root) is None
    assert publish(root, made(0), None) == VERSIONS[0]
    first = latest(root)
    assert first[:3] == (VERSIONS[0], None, 1000.5)
    assert publish(root, made(1), first, {"scores.parquet": b"scores"}) == VERSIONS[1]
    assert json.loads(files.read(f"{root}/LATEST")) == {
        "format": "adacompress.latest",
        "format_version": 1,
        "version": VERSIONS[1],
        "previous": VERSIONS[0],
        "published": 1000.5,
    }
    assert latest(root) == (VERSIONS[1], VERSIONS[0], 1000.5, hashlib.sha256(files.read(f"{root}/LATEST")).hexdigest())
    assert names(root) == sorted(
        [
            "LATEST",
            "_adacompress/LATEST.lock",
            *(f"versions/{version}/{name}" for version in VERSIONS[:2] for name in ("policy.json", "weights.npz")),
            f"versions/{VERSIONS[1]}/scores.parquet",
        ]
    )
    assert resolve(root) == publishing.folder_of(root, VERSIONS[1]) == f"{root}/versions/{VERSIONS[1]}"
    assert artefact.load(resolve(root), files.read)[1] == VERSIONS[1]


def test_publishing_what_is_in_use_does_nothing(root):
    published(root, 2)
    before = files.read(f"{root}/LATEST")
    assert publish(root, made(1), None, {"more": b""}) == VERSIONS[1]
    assert files.read(f"{root}/LATEST") == before
    assert f"versions/{VERSIONS[1]}/more" not in names(root)


def test_a_version_that_is_there_comes_in_use_as_it_is(root):
    publish(root, made(0), None, {"scores.parquet": b"old"})
    publish(root, made(1), latest(root))
    publish(root, made(0), latest(root), {"scores.parquet": b"new"})
    assert latest(root)[:2] == (VERSIONS[0], VERSIONS[1])
    assert files.read(f"{root}/versions/{VERSIONS[0]}/scores.parquet") == b"old"


def test_who_saw_another_latest_loses(root):
    seen = published(root, 1)
    publish(root, made(1), seen)
    with pytest.raises(LostRaceError) as lost:
        publish(root, made(2), seen)
    assert str(lost.value) == (
        f"{VERSIONS[2]} is not in use: another publisher put {VERSIONS[1]} in the place of {VERSIONS[0]} as the latest "
        f"of {root} first; compare the two and publish again"
    )
    with pytest.raises(LostRaceError, match=f"put {VERSIONS[1]} in the place of nothing as"):
        publish(root, made(2), None)
    os.remove(f"{root}/LATEST")
    with pytest.raises(LostRaceError, match=f"put nothing in the place of {VERSIONS[0]} as"):
        publish(root, made(2), seen)
    assert not files.exists(f"{root}/versions/{VERSIONS[2]}/policy.json")


def at_once(monkeypatch, root, count=8):
    """Of so many publishers that reach the last step together, what each returns or raises."""
    meet = threading.Barrier(count)
    replace = files.replace

    def together(*arguments):
        meet.wait(60)
        return replace(*arguments)

    monkeypatch.setattr(publishing.files, "replace", together)
    seen = latest(root)
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        tries = [threads.submit(publish, root, made(100 + index), seen) for index in range(count)]
    monkeypatch.undo()
    return [each.exception() or each.result() for each in tries]


@pytest.mark.parametrize("before", [0, 1])
def test_of_several_publishers_at_once_one_wins(root, monkeypatch, before):
    published(root, before)
    results = at_once(monkeypatch, root)
    (winner,) = [result for result in results if isinstance(result, str)]
    losers = [result for result in results if result != winner]
    assert [type(loser) for loser in losers] == [LostRaceError] * 7
    assert all(f"another publisher put {winner} in the place" in str(loser) for loser in losers)
    assert latest(root)[:2] == (winner, VERSIONS[0] if before else None)


@pytest.mark.parametrize("name", ["weights.npz", "more", "policy.json", "LATEST"])
def test_a_publisher_that_is_stopped_midway_changes_nothing(root, monkeypatch, name):
    seen = published(root, 1)
    replace = os.replace

    def fail(source, target):
        if target.endswith(f"/{name}"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(AdaCompressError, match=r"^[^\n]* cannot be [^\n]*: No space left on device$"):
        publish(root, made(1), seen, {"more": b"more"})
    monkeypatch.undo()
    assert latest(root) == seen
    assert artefact.load(resolve(root), files.read)[1] == VERSIONS[0]
    assert files.exists(f"{root}/versions/{VERSIONS[1]}/policy.json") == (name == "LATEST")
    assert publish(root, made(1), seen, {"more": b"more"}) == VERSIONS[1]
    assert artefact.load(resolve(root), files.read)[1] == VERSIONS[1]
    assert files.read(f"{resolve(root)}/more") == b"more"


def seen_while_publishing(root, count):
    """The versions that a reader loads while another publishes so many."""
    done = threading.Event()

    def go_on():
        for index in range(1, count):
            publish(root, made(index), latest(root))
        done.set()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        publisher = thread.submit(go_on)
        found = set()
        while not (done.is_set() or publisher.done()):
            found.add(artefact.load(resolve(root), files.read)[1])
        publisher.result()
    return found


def test_a_reader_always_finds_a_whole_policy(root):
    published(root, 1)
    assert len(seen_while_publishing(root, 30)) > 1


def test_a_folder_that_holds_something_else_is_refused(root):
    published(root, 2)
    os.rename(f"{root}/versions/{VERSIONS[0]}", f"{root}/versions/{VERSIONS[2]}")
    seen = latest(root)
    with pytest.raises(
        AdaCompressError,
        match=f"/{VERSIONS[2]} holds the policy {VERSIONS[0]}, and versions never change: delete that folder and",
    ):
        publish(root, made(2), seen)
    with pytest.raises(AdaCompressError, match="versions never change"):
        rollback(root, VERSIONS[2])
    files.write(f"{root}/versions/{VERSIONS[2]}/weights.npz", b"PK", f"{root}/scratch")
    with pytest.raises(AdaCompressError, match="is damaged: the weights are not those that it names"):
        rollback(root, VERSIONS[2])
    assert latest(root) == seen


def test_the_folder_of_a_policy_itself_is_no_place_to_publish_to(root):
    artefact.save(made(0), lambda name, data: files.write(f"{root}/{name}", data, root))
    with pytest.raises(AdaCompressError, match="/root is a policy itself, which would hide what is published there"):
        publish(root, made(1), None)


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AdaCompressError) as refused:
        publish(f"{tmp_path}/file", made(0), None)
    assert str(refused.value) == f"the policy {VERSIONS[0]} cannot be published to {tmp_path}/file: Not a directory"


def test_going_back_and_forth(root):
    published(root, 3)
    assert rollback(root) == VERSIONS[1]
    assert latest(root)[:2] == (VERSIONS[1], VERSIONS[2])
    assert rollback(root) == VERSIONS[2]
    assert rollback(root, VERSIONS[0]) == VERSIONS[0]
    there = latest(root)
    assert there[:2] == (VERSIONS[0], VERSIONS[2])
    assert rollback(root, VERSIONS[0]) == VERSIONS[0]
    assert latest(root) == there


def test_no_way_back(root):
    with pytest.raises(AdaCompressError, match=r"nothing is published in .*/root: there is nothing to go back to"):
        rollback(root)
    published(root, 1)
    with pytest.raises(AdaCompressError, match=f"{VERSIONS[0]} is the first policy in .*: there is nothing to go back"):
        rollback(root)
    published(root, 2)
    with pytest.raises(AdaCompressError) as refused:
        rollback(root, "v9")
    assert str(refused.value) == f"{root} has no version v9: it has {', '.join(sorted(VERSIONS[:2]))}"
    with pytest.raises(AdaCompressError, match=f"has no version {VERSIONS[0]}x: it has {VERSIONS[0]}"):
        rollback(root, f"{VERSIONS[0]}x")
    with pytest.raises(AdaCompressError, match=r"has no version \.\./x: it has "):
        rollback(root, "../x")


def test_going_back_while_another_publishes(root, monkeypatch):
    published(root, 2)
    replace = files.replace

    def late(*arguments):
        monkeypatch.undo()
        publish(root, made(2), latest(root))
        return replace(*arguments)

    monkeypatch.setattr(publishing.files, "replace", late)
    with pytest.raises(LostRaceError, match=f"{VERSIONS[0]} is not in use: another publisher put {VERSIONS[2]} in"):
        rollback(root)
    assert latest(root)[:2] == (VERSIONS[2], VERSIONS[1])


@given(steps=st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=8))
@settings(max_examples=25, deadline=None)
def test_latest_names_what_was_put_there_last_and_what_was_before(steps):
    with tempfile.TemporaryDirectory() as root:
        version, previous = None, None
        for step in steps:
            if step is not None:
                assert publish(root, made(step), latest(root)) == VERSIONS[step]
                if VERSIONS[step] != version:
                    version, previous = VERSIONS[step], version
            elif previous is not None:
                assert rollback(root) == previous
                version, previous = previous, version
            found = latest(root)
            assert (found and found[:2]) == (version and (version, previous))
        assert {each.version for each in publishing.versions(root) if each.is_latest} == ({version} - {None})


def test_the_versions_that_are_there(root):
    assert publishing.versions(root) == []
    for index, changes in enumerate(({}, {"baseline": None}, {})):
        publish(root, made(index, **changes), latest(root))
    found = [row.version for row in publishing.versions(root)]
    without = next(version for version in found if version not in VERSIONS)
    for index, version in enumerate((without, VERSIONS[2], VERSIONS[0])):
        os.utime(f"{root}/versions/{version}/policy.json", (index + 1, index + 1))
    rollback(root, VERSIONS[0])
    files.write(f"{root}/versions/half/weights.npz", b"", root)
    promise = Promise(0.97, 0.9, 400, 0.985, 1)
    assert publishing.versions(root) == [
        (VERSIONS[0], 3.0, True, promise, Baseline(300, 0.98, 0.2)),
        (VERSIONS[2], 2.0, False, promise, Baseline(300, 0.98, 0.2)),
        (without, 1.0, False, promise, None),
    ]
    files.write(f"{root}/versions/{VERSIONS[2]}/policy.json", b"{", root)
    assert [row[3:] for row in publishing.versions(root) if row.version == VERSIONS[2]] == [(None, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"LATEST is damaged \(.*\): delete it, and publish one of the versions beside it again"),
        ('{"format": "adacompress.policy"}', "LATEST is damaged .its format is 'adacompress.policy'"),
        ("[]", "LATEST is damaged"),
        ({"format_version": 2}, "LATEST has version 2, and this is adacompress for version 1: use the release that"),
        ({"previous": None, "published": 1}, "LATEST is damaged .'version'"),
        ({"version": "../up", "previous": None, "published": 1}, "LATEST is damaged .'../up' is no version"),
        ({"version": "a-1", "previous": 3, "published": 1}, "LATEST is damaged"),
        ({"version": "a-1", "previous": "", "published": 1}, "LATEST is damaged .'' is no version"),
        ({"version": "a-1", "previous": None, "published": None}, "LATEST is damaged"),
    ],
)
def test_a_broken_pointer_is_refused_in_one_sentence(root, content, message):
    if isinstance(content, dict):
        content = json.dumps({"format": "adacompress.latest", "format_version": 1, **content})
    files.write(f"{root}/LATEST", content.encode(), root)
    for read in (latest, resolve, rollback, publishing.versions, lambda root: publish(root, made(0), None)):
        with pytest.raises(AdaCompressError, match=message) as refused:
            read(root)
        assert "\n" not in str(refused.value)


def test_a_pointer_that_cannot_be_read(root):
    os.makedirs(f"{root}/LATEST")
    with pytest.raises(AdaCompressError, match="/LATEST cannot be read: the folder cannot be listed"):
        latest(root)


def test_a_policy_is_its_own_folder(root, monkeypatch):
    artefact.save(made(0), lambda name, data: files.write(f"{root}/{name}", data, root))
    files.write(f"{root}/LATEST", b"not read", root)
    assert resolve(root) == root
    assert resolve(f"{root}/") == f"{root}/"
    assert resolve(f"{root}/nothing") == f"{root}/nothing"
    monkeypatch.setattr(files, "exists", None)
    assert resolve("default") == "default"


def test_a_folder_is_published_byte_for_byte(root, tmp_path):
    mine = Family("mine", RAMP, RAMP)
    original = made(0, space=ActionSpace((family("annexk"), mine), (10, 50, 90)))
    contents = {}
    artefact.save(original, contents.__setitem__)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as stored, zipfile.ZipFile(io.BytesIO(contents["weights.npz"])) as archive:
        for name in archive.namelist():
            stored.writestr(name, archive.read(name))
    description = json.loads(contents["policy.json"])
    description["weights"]["sha256"] = hashlib.sha256(packed.getvalue()).hexdigest()
    contents |= {"weights.npz": packed.getvalue(), "policy.json": json.dumps(description).encode()}
    for name, data in {**contents, "scores.parquet": b"scores", "logs/a": b"left"}.items():
        files.write(f"{tmp_path}/policy/{name}", data, root)
    version = publishing.publish_folder(root, f"{tmp_path}/policy/", None)
    assert version == artefact.load(f"{tmp_path}/policy")[1] == latest(root).version
    folder = f"{root}/versions/{version}"
    kept = {**contents, "scores.parquet": b"scores"}
    assert {name: files.read(f"{folder}/{name}") for name in names(folder)} == kept
    assert family(artefact.load(folder)[0].references(folder)[1]) == mine
    # and on, from one folder of published policies to another
    other = str(tmp_path / "other")
    assert publishing.publish_folder(other, root, None) == version
    assert {name: files.read(f"{other}/versions/{version}/{name}") for name in names(folder)} == kept


def test_the_policy_that_comes_with_the_package_is_published(root):
    version = publishing.publish_folder(root, "default", None)
    ours = str(resources.files("beam_adacompress.policy") / "default")
    assert version == artefact.load(ours)[1]
    for name in ("policy.json", "weights.npz"):
        assert files.read(f"{resolve(root)}/{name}") == files.read(f"{ours}/{name}")
    with pytest.raises(AdaCompressError, match=r"the policy's file .*/nowhere/policy\.json cannot be read"):
        publishing.publish_folder(root, f"{root}/nowhere", None)


def test_on_a_filesystem_without_conditional_writes(monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "content", {})
    root = "memory://place/policies"
    seen = published(root, 2)
    assert seen[:2] == (VERSIONS[1], VERSIONS[0])
    publish(root, made(2), seen)
    with pytest.raises(LostRaceError):
        publish(root, made(3), seen)
    assert rollback(root) == VERSIONS[1]
    assert resolve(root) == f"memory://place/policies/versions/{VERSIONS[1]}"
    rows = publishing.versions(root)
    assert [(row.version, row.published) for row in rows] == [(name, None) for name in sorted(VERSIONS[:3])[::-1]]
    assert not [name for name in MemoryFileSystem.content if "_adacompress" in name]
