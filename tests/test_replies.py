from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from beam_adacompress.backends import Terms
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Label
from beam_adacompress.transforms.replies import ReplyCache

DIGEST = "ab" * 32
LABELS = (Label("猫", 0.75), Label("pet", 0.5))


def cache(root: Path, version: str = "v1", name: str = "vision") -> ReplyCache:
    return ReplyCache(str(root), Terms(name, version))


def test_what_is_put_can_be_got(tmp_path):
    assert cache(tmp_path).get(DIGEST) is None
    assert not cache(tmp_path).has(DIGEST)
    assert cache(tmp_path).put(DIGEST, LABELS) == LABELS
    assert cache(tmp_path).get(DIGEST) == LABELS
    assert cache(tmp_path).has(DIGEST)


def test_an_empty_answer_is_an_answer(tmp_path):
    cache(tmp_path).put(DIGEST, ())
    assert cache(tmp_path).get(DIGEST) == ()


@pytest.mark.parametrize("other", [{"version": "v2"}, {"name": "other"}])
def test_other_backends_and_versions_are_kept_apart(tmp_path, other):
    cache(tmp_path).put(DIGEST, LABELS)
    assert cache(tmp_path, **other).get(DIGEST) is None


def test_the_first_answer_stands(tmp_path):
    cache(tmp_path).put(DIGEST, LABELS)
    before = [path.read_bytes() for path in tmp_path.rglob("*.json")]
    assert cache(tmp_path).put(DIGEST, (Label("dog", 1.0),)) == LABELS
    assert [path.read_bytes() for path in tmp_path.rglob("*.json")] == before


def test_the_file_says_what_it_is(tmp_path):
    cache(tmp_path, version="v1,max_results=10 / é").put(DIGEST, LABELS)
    (path,) = tmp_path.rglob(f"{DIGEST}.json")
    content = json.loads(path.read_text())
    assert path.parent.name == "ab"
    assert content["time"] > 1.7e9
    assert {**content, "time": 0} == {
        "format": "adacompress.reply",
        "format_version": 1,
        "backend": "vision",
        "backend_version": "v1,max_results=10 / é",
        "sha256": DIGEST,
        "time": 0,
        "labels": [["猫", 0.75], ["pet", 0.5]],
    }


def put_many(root: str, worker: int) -> None:
    kept = cache(Path(root))
    for index in range(100):
        kept.put(f"{index:064x}", (Label(f"worker {worker}", 1.0),))


def test_workers_at_once_agree_on_one_answer(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=put_many, args=(str(tmp_path), index)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    labels = [cache(tmp_path).get(f"{index:064x}") for index in range(100)]
    assert {one[0].name for one in labels} <= {"worker 0", "worker 1"}
    assert len(list(tmp_path.rglob("*.json"))) == 100
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is damaged .*: delete that file"),
        ('{"format_version": 1, "backend_version": "v1", "labels": [["cat"]]}', r"is damaged .*: delete that file"),
        ('{"format_version": 2, "backend_version": "v1"}', r"is a reply of version 2 by v1, and not one of version 1"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, content, message):
    cache(tmp_path).put(DIGEST, LABELS)
    (path,) = tmp_path.rglob(f"{DIGEST}.json")
    path.write_text(content)
    with pytest.raises(AdaCompressError, match=message):
        cache(tmp_path).get(DIGEST)


def test_a_cache_that_cannot_be_written_is_not_silent(tmp_path):
    (tmp_path / "replies").write_text("a file")
    with pytest.raises(AdaCompressError, match=r"cannot be cached: .*; it would be paid for again"):
        cache(tmp_path).put(DIGEST, LABELS)
