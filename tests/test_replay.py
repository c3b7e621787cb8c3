from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from loopback import Reply, Request, json_reply, serving

from beam_adacompress.backends import Answer, Backend, BackendError, Query, Terms, backend
from beam_adacompress.backends.contract import Label
from beam_adacompress.backends.replay import Record, Replay
from beam_adacompress.errors import AdaCompressError

RECORDED = Path(__file__).parents[2] / "shared/data/recorded/baidu.jsonl"


def row(image: str = "a.jpg", quality: Any = 5, name: str = "树", **more: Any) -> dict[str, Any]:
    base = {"service": "baidu", "dataset": "dnim", "image": image, "quality": quality, "bytes": 9, "error": 0}
    return {**base, "labels": [[name, 0.5]], **more}


def replaying(path: Path, *rows: dict[str, Any], reference: int = 75) -> Replay:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    made = Replay(str(path), reference)
    made.open()
    return made


def ask(made: Backend, key: str, quality: int | None) -> Answer:
    (answer,) = made.label([Query(b"bytes", key, quality)], 1.0)
    return answer


def failing(made: Backend, key: str, quality: int | None) -> tuple[str, str, bool]:
    answer = ask(made, key, quality)
    assert isinstance(answer, BackendError)
    return answer.reason, answer.message, answer.retryable


def test_uri_and_terms(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    assert backend(f"replay:{path}?reference=95") == Replay(str(path), 95)
    made = replaying(path, row(), row("b.jpg", service="amazon"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert made.terms == Terms("replay", f"amazon-baidu-{digest}", is_local=True, cacheable=False)
    assert pickle.loads(pickle.dumps(Replay("a.jsonl", 5))) == Replay("a.jsonl", 5)


def test_reads_with_the_function_given() -> None:
    made = Replay("gs://bucket/a.jsonl")
    made.open({"gs://bucket/a.jsonl": json.dumps(row()).encode()}.__getitem__)
    assert ask(made, "a.jpg", 5) == (("树", 0.5),)


@pytest.mark.parametrize(
    ("key", "quality", "name"),
    [
        ("a.jpg", 5, "low"),
        ("a.jpg", 75, "high"),
        ("a.jpg", None, "high"),
        ("any/folder/a.jpg", 5, "low"),
        ("any/folder/a.jpg", None, "high"),
        ("b.jpg", 75, "stored"),
        ("b.jpg", None, "original"),
        ("deep/c.jpg", 5, "deep"),
        ("c.jpg", 5, "flat"),
        ("other/c.jpg", 5, "flat"),
        ("twice.jpg", 5, "later"),
        ("same.jpg", 5, "same"),
        ("dnim/two.jpg", 5, "night"),
        ("x/imagenet/two.jpg", 5, "day"),
    ],
)
def test_look_up(tmp_path: Path, key: str, quality: int | None, name: str) -> None:
    made = replaying(
        tmp_path / "a.jsonl",
        row("a.jpg", 5, "low"),
        row("a.jpg", 75, "high"),
        row("b.jpg", None, "original"),
        row("b.jpg", 75, "stored"),
        row("deep/c.jpg", 5, "deep"),
        row("c.jpg", 5, "flat"),
        row("twice.jpg", 5, "earlier"),
        row("twice.jpg", 5, "later"),
        row("same.jpg", 5, "same"),
        row("same.jpg", 5, "same", dataset="imagenet", bytes=10),
        row("two.jpg", 5, "night"),
        row("two.jpg", 5, "day", dataset="imagenet"),
    )
    assert ask(made, key, quality) == ((name, 0.5),)


def test_reference_quality(tmp_path: Path) -> None:
    made = replaying(tmp_path / "a.jsonl", row(quality=75, name="no"), row(quality=95, name="yes"), reference=95)
    assert ask(made, "a.jpg", None) == (("yes", 0.5),)


@pytest.mark.parametrize(
    ("key", "quality", "reason", "message"),
    [
        ("a.jpg", 6, "not-recorded", "there is no recorded reply for 'a.jpg' at quality 6"),
        ("x/none.jpg", 5, "not-recorded", "there is no recorded reply for 'x/none.jpg' at quality 5"),
        ("a.jpg", None, "not-recorded", "there is no recorded reply for 'a.jpg' at the reference"),
        ("", 5, "not-recorded", "there is no recorded reply for '' at quality 5"),
        (
            "two.jpg",
            5,
            "not-recorded",
            "the recorded reply for 'two.jpg' at quality 5 is ambiguous: baidu/dnim, baidu/imagenet differ",
        ),
        (
            "other/two.jpg",
            5,
            "not-recorded",
            "the recorded reply for 'other/two.jpg' at quality 5 is ambiguous: baidu/dnim, baidu/imagenet differ",
        ),
        (
            "services.jpg",
            5,
            "not-recorded",
            "the recorded reply for 'services.jpg' at quality 5 is ambiguous: amazon/dnim, baidu/dnim differ",
        ),
        ("bad.jpg", 5, "refused", "the recorded reply is error 216201"),
        ("worse.jpg", 5, "refused", "the recorded reply is error 1 (bad-image)"),
    ],
)
def test_no_answer(tmp_path: Path, key: str, quality: int | None, reason: str, message: str) -> None:
    made = replaying(
        tmp_path / "a.jsonl",
        row("a.jpg", 5),
        row("two.jpg", 5, "night"),
        row("two.jpg", 5, "day", dataset="imagenet"),
        row("services.jpg", 5, "tree"),
        row("services.jpg", 5, "Tree", service="amazon"),
        row("bad.jpg", 5, error=216201, labels=[]),
        row("worse.jpg", 5, error=1, reason="bad-image", labels=[]),
    )
    assert failing(made, key, quality) == (reason, message, False)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"5",
        b"\xff",
        b"[" * 100_000,
        *(
            json.dumps(row(**{field: value})).encode()
            for field, value in [
                ("service", None),
                ("dataset", 5),
                ("image", ["a.jpg"]),
                ("quality", "5"),
                ("quality", True),
                ("quality", [5]),
                ("error", None),
                ("error", "0"),
                ("reason", 5),
                ("labels", None),
                ("labels", "ab"),
                ("labels", ["a"]),
                ("labels", [["a", 0.5, 1]]),
                ("labels", [["a", "0.5"]]),
                ("labels", [["a", 1.5]]),
                ("labels", [["a", float("nan")]]),
                ("labels", [[5, 0.5]]),
                ("labels", [{"a": 0.5}]),
            ]
        ),
        *(json.dumps({k: v for k, v in row().items() if k != field}).encode() for field in row() if field != "bytes"),
    ],
)
def test_malformed_file(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(row()).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(AdaCompressError) as caught:
        Replay(str(path)).open()
    assert str(caught.value) == f"{path}, line 3 is not a recorded reply; correct the line or delete it"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AdaCompressError, match=r"replay cannot read .*none\.jsonl: .*No such file"):
        Replay(str(tmp_path / "none.jsonl")).open()


def test_line_separators_inside_names(tmp_path: Path) -> None:
    made = replaying(tmp_path / "a.jsonl", row(name="a\u2028b\x85c"))
    assert ask(made, "a.jpg", 5) == (("a\u2028b\x85c", 0.5),)


def test_the_recorded_replies() -> None:
    if not RECORDED.exists():
        pytest.skip("needs ../shared/data/recorded/baidu.jsonl, which is not part of the repository")
    made = Replay(str(RECORDED))
    made.open()
    rows = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3802
    answers = [ask(made, f"{row['dataset']}/{row['image']}", row["quality"]) for row in rows]
    failures = [answer for answer in answers if isinstance(answer, BackendError)]
    assert {(failure.reason, failure.message) for failure in failures} == {("refused", "the recorded reply is error 1")}
    assert len(failures) == 49
    assert sum(isinstance(answer, tuple) and len(answer) == 5 for answer in answers) == 3753
    assert made.terms.version.startswith("baidu-")
    best = ask(made, "dnim/20151102_103048_00021510.jpg", None)
    assert isinstance(best, tuple)
    assert best[0] == ("都市夜景", 0.760782)


class Inner(Backend):
    """Answers what it is told to."""

    concurrent = False

    def __init__(self, *answers: Answer, whole: BackendError | None = None) -> None:
        self.answers = answers
        self.whole = whole

    @property
    def terms(self) -> Terms:
        return Terms("inner", "v3", max_batch=4, max_bytes=5, price=0.25)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        if self.whole:
            raise self.whole
        return self.answers[: len(images)]


def recording(path: Path, inner: Backend, dataset: str = "") -> Record:
    made = Record(f"{path}+replay:unused.jsonl", dataset)
    made._inner = inner
    return made


def test_record_uri(tmp_path: Path) -> None:
    made = backend(f"record:{tmp_path}/a.b.jsonl+replay:c.jsonl+d.jsonl?reference=5")
    assert isinstance(made, Record)
    assert made == Record(f"{tmp_path}/a.b.jsonl+replay:c.jsonl+d.jsonl?reference=5")
    assert made._path == f"{tmp_path}/a.b.jsonl"
    assert made._inner == Replay("c.jsonl+d.jsonl", 5)
    assert not (tmp_path / "a.b.jsonl").exists()
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a.json+baidu", "record takes FILE.jsonl"),
        ("a.jsonl", "record takes FILE.jsonl"),
        ("a.jsonl+", "record takes FILE.jsonl"),
        (".jsonl+baidu", "record takes FILE.jsonl"),
        ("gs://bucket/a.jsonl+baidu", "a file of this machine"),
        ("a.jsonl+nobody", "unknown name 'nobody'"),
        ("a.jsonl+baidu?colour=5", "unknown parameter 'colour'"),
    ],
)
def test_bad_record_uri(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backend(f"record:{target}")


def test_record_delegates(tmp_path: Path) -> None:
    made = recording(tmp_path / "a.jsonl", Inner())
    assert made.terms == Terms("inner", "v3", max_batch=4, max_bytes=5, price=0.25)
    assert made.concurrent is False
    assert recording(tmp_path / "a.jsonl", Replay("a.jsonl")).concurrent is True


def test_recorded_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    answers: tuple[Answer, ...] = (
        (Label("树", 0.25), Label("cat", 1.0)),
        (),
        BackendError("bad-image", "no picture"),
        BackendError("throttled", "slowly"),
        BackendError("credentials", "wrong"),
    )
    made = recording(path, Inner(*answers), "dnim")
    queries = [Query(b"12345", "b/a.jpg", 5), *[Query(b"", str(number)) for number in range(4)]]
    made.open()
    assert made.label(queries, 1.0) == answers
    assert path.read_text(encoding="utf-8").split("\n") == [
        '{"service": "inner", "dataset": "dnim", "image": "b/a.jpg", "quality": 5, "bytes": 5, "error": 0, '
        '"labels": [["树", 0.25], ["cat", 1.0]]}',
        '{"service": "inner", "dataset": "dnim", "image": "0", "quality": null, "bytes": 0, "error": 0, "labels": []}',
        '{"service": "inner", "dataset": "dnim", "image": "1", "quality": null, "bytes": 0, "error": 1, '
        '"reason": "bad-image", "labels": []}',
        "",
    ]


@pytest.mark.parametrize(("reason", "rows"), [("refused", 2), ("unavailable", 0), ("quota", 0)])
def test_failure_of_a_batch(tmp_path: Path, reason: str, rows: int) -> None:
    path = tmp_path / "a.jsonl"
    made = recording(path, Inner(whole=BackendError(reason, "no")))
    with pytest.raises(BackendError, match="no"):
        made.label([Query(b"1", "a"), Query(b"2", "b")], 1.0)
    assert len(path.read_text().splitlines()) == rows


def test_lone_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    recording(path, Inner((Label("a\ud800b", 0.5),))).label([Query(b"", "a.jpg", 5)], 1.0)
    made = Replay(str(path))
    made.open()
    assert ask(made, "a.jpg", 5) == (("a\ud800b", 0.5),)


def test_round_trip_through_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPP_API_KEY", "key")
    monkeypatch.setenv("FACEPP_API_SECRET", "secret")

    def answer(request: Request) -> Reply:
        return json_reply({"objects": [{"value": "Cat", "confidence": 41.3}], "scenes": []})

    path = tmp_path / "a.jsonl"
    with serving(answer) as server:
        made = backend(f"record:{path}+facepp?endpoint={quote(server.url, safe='')}")
        made.open()
        server.script += [json_reply({"error_message": "INTERNAL_ERROR"}, 500)]
        with pytest.raises(BackendError, match="INTERNAL_ERROR"):
            ask(made, "x/a.jpg", None)
        first = ask(made, "x/a.jpg", None)
        server.script += [json_reply({"objects": [], "scenes": []}), json_reply({"error_message": "X"}, 400)]
        assert ask(made, "x/a.jpg", 5) == ()
        with pytest.raises(BackendError, match="HTTP status 400"):
            ask(made, "x/a.jpg", 15)
    replay = backend(f"replay:{path}")
    replay.open()
    assert ask(replay, "x/a.jpg", None) == first == (("Cat", 41.3 / 100),)
    assert ask(replay, "x/a.jpg", 5) == ()
    assert failing(replay, "x/a.jpg", 15) == ("refused", "the recorded reply is error 1 (refused)", False)
    assert failing(replay, "a.jpg", 5)[0] == "not-recorded"


@pytest.mark.parametrize("torn", [b'{"service": "inner", "ima', b"\xe6\xa0"])
def test_torn_last_line(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" + torn)
    made = recording(path, Inner(()))
    made.open()
    assert path.read_bytes() == b"{}\n" + torn
    for key in ("a.jpg", "b.jpg"):
        made.label([Query(b"", key, 5)], 1.0)
    lines = path.read_bytes().split(b"\n")
    assert lines[:2] == [b"{}", torn]
    assert [json.loads(line)["image"] for line in lines[2:4]] == ["a.jpg", "b.jpg"]
    assert lines[4:] == [b""]


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    made = recording(tmp_path / "none" / "a.jsonl", Inner(()))
    with pytest.raises(AdaCompressError, match=r"record cannot append to .*a\.jsonl: .*No such file"):
        made.open()


def record_many(path: Path, process: int) -> None:
    made = recording(path, Inner(tuple(Label(f"label {number} " + "x" * 500, 0.5) for number in range(20))))
    made.open()
    for number in range(100):
        made.label([Query(b"", f"{process}/{number}.jpg", 5)], 1.0)


def test_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    start = multiprocessing.get_context("fork")  # others import Beam again, for seconds
    processes = [start.Process(target=record_many, args=(path, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    images = [json.loads(line)["image"] for line in path.read_bytes().splitlines()]
    assert sorted(images) == sorted(f"{process}/{number}.jpg" for process in range(2) for number in range(100))
    made = Replay(str(path))
    made.open()
    assert len(ask(made, "1/99.jpg", 5)) == 20  # type: ignore[arg-type]
