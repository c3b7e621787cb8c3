from __future__ import annotations

import base64
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from loopback import Reply, Request, Server, json_reply, serving

from beam_adacompress.backends import Answer, BackendError, Query, Terms, backend
from beam_adacompress.backends.baidu import Baidu
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners
from beam_adacompress.errors import AdaCompressError

KEY, SECRET, TOKEN = "the-api-key", "the-secret-key", "24.token-"
SEEN = {
    "log_id": 327863200205075661,
    "result_num": 2,
    "result": [
        {"score": 0.158061, "root": "建筑-夜景", "keyword": "建筑夜景"},
        {"score": 0.17194, "root": "植物-树", "keyword": "树"},
    ],
}
DAY = 86_400


class Api:
    """What the service does: each token fetched is another one, and only the tokens in `valid` are accepted."""

    def __init__(self) -> None:
        self.tokens = 0
        self.valid: set[str] | None = None  # None for all
        self.lifetime: Any = 30 * DAY
        self.token_replies: list[Reply] = []
        self.replies: list[Reply] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            if urlsplit(request.path).path == "/oauth/2.0/token":
                if self.token_replies:
                    return self.token_replies.pop(0)
                self.tokens += 1
                return json_reply({"access_token": f"{TOKEN}{self.tokens}", "expires_in": self.lifetime})
            if self.valid is not None and token_of(request) not in self.valid:
                return refusal(110, "Access token invalid or no longer valid")
            return self.replies.pop(0) if self.replies else json_reply(SEEN)


def token_of(request: Request) -> str:
    return parse_qs(urlsplit(request.path).query)["access_token"][0]


def refusal(code: Any, message: str, status: int = 200) -> Reply:
    return json_reply({"error_code": code, "error_msg": message, "log_id": 1}, status)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    with serving(api) as server:
        yield server


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Credentials in the environment, and none in what is logged."""
    monkeypatch.setenv("BAIDU_API_KEY", KEY)
    monkeypatch.setenv("BAIDU_SECRET_KEY", SECRET)
    caplog.set_level("DEBUG")
    yield
    logged = "\n".join(record.getMessage() for record in caplog.get_records("call"))
    assert KEY not in logged
    assert SECRET not in logged
    assert TOKEN not in logged


def opened(server: Server) -> Baidu:
    made = backend(f"baidu?endpoint={quote(server.url, safe='')}")
    made.open()
    assert isinstance(made, Baidu)
    return made


def ask(made: Baidu, timeout: float = 5.0) -> Answer:
    (answer,) = made.label([Query(b"image")], timeout)
    return answer


def failing(made: Baidu, timeout: float = 5.0) -> BackendError:
    with pytest.raises(BackendError) as caught:
        ask(made, timeout)
    error = caught.value
    shown = f"{error} {error!r} {error.args} {error.__dict__} {error.__cause__} {error.__context__}"
    assert KEY not in shown
    assert SECRET not in shown
    assert TOKEN not in shown
    return error


def paths(server: Server) -> list[str]:
    return [request.path.replace("/rest/2.0/image-classify/v2/", "") for request in server.requests]


def test_uri_and_terms() -> None:
    made = backend("baidu?price=0.001")
    assert made == Baidu("https://aip.baidubce.com", 0.001)
    assert made.terms == Terms("baidu", "v2,advanced_general", 1, 3_000_000, 3_000_000, 4096 * 4096, price=0.001)
    assert made.concurrent


def test_bad_endpoint() -> None:
    with pytest.raises(ValueError, match="baidu: endpoint is https://HOST"):
        backend("baidu?endpoint=http%3A%2F%2Faip.baidubce.com")


def test_pickle() -> None:
    pickled = pickle.dumps(Baidu(price=0.1))
    assert pickle.loads(pickled) == Baidu(price=0.1)
    assert KEY.encode() not in pickled


@pytest.mark.parametrize("name", ["BAIDU_API_KEY", "BAIDU_SECRET_KEY"])
def test_missing_credentials(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(AdaCompressError) as caught:
        Baidu().open()
    expected = "baidu finds no credentials: set BAIDU_API_KEY and BAIDU_SECRET_KEY in the environment"
    assert str(caught.value) == expected


def test_requests(server: Server) -> None:
    made = opened(server)
    assert server.requests == []
    image = bytes(range(256)) * 40
    made.label([Query(image, "a.jpg", 75)], 5.0)
    token, call = server.requests
    assert token.path == "/oauth/2.0/token"
    assert parse_qs(token.body.decode(), strict_parsing=True) == {
        "grant_type": ["client_credentials"],
        "client_id": [KEY],
        "client_secret": [SECRET],
    }
    assert call.path == "/rest/2.0/image-classify/v2/advanced_general?access_token=24.token-1"
    form = parse_qs(call.body.decode(), strict_parsing=True)
    assert list(form) == ["image"]
    assert base64.b64decode(form["image"][0], validate=True) == image


def test_labels_keep_the_order_of_the_service(server: Server) -> None:
    assert ask(opened(server)) == (("建筑夜景", 0.158061), ("树", 0.17194))


def test_empty_answer(server: Server, api: Api) -> None:
    api.replies.append(json_reply({"log_id": 1, "result_num": 0, "result": []}))
    assert ask(opened(server)) == ()


def test_one_token_for_many_calls(server: Server, api: Api) -> None:
    made = opened(server)
    with futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(made, 10.0), range(24)))
    assert len(answers) == 24
    assert len(server.requests) == 25
    assert api.tokens == 1


@pytest.mark.parametrize(
    ("lifetime", "passed", "tokens"),
    [
        (30 * DAY, 28 * DAY, 1),
        (30 * DAY, 29 * DAY + 1, 2),
        (3600, 1700, 1),
        (3600, 1900, 2),
    ],
)
def test_token_is_renewed_in_time(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch, lifetime: int, passed: float, tokens: int
) -> None:
    api.lifetime = lifetime
    made = opened(server)
    ask(made)
    real = time.monotonic
    monkeypatch.setattr("beam_adacompress.backends.baidu.time.monotonic", lambda: real() + passed)
    ask(made)
    assert api.tokens == tokens


@pytest.mark.parametrize("code", [110, 111])
def test_stale_token(server: Server, api: Api, code: int) -> None:
    made = opened(server)
    api.replies.append(refusal(code, "Access token expired"))
    asked = Client(made, Manners(pause=0.01)).ask(Query(b"image")).result()
    assert asked.answer == (("建筑夜景", 0.158061), ("树", 0.17194))
    assert asked.calls == 2  # each sending of the image is a call that the limits know of
    assert paths(server) == [
        "/oauth/2.0/token",
        "advanced_general?access_token=24.token-1",
        "/oauth/2.0/token",
        "advanced_general?access_token=24.token-2",
    ]
    ask(made)
    assert paths(server)[4:] == ["advanced_general?access_token=24.token-2"]


def test_token_that_is_never_accepted(server: Server, api: Api) -> None:
    api.valid = set()
    error = failing(opened(server))
    assert (error.reason, error.retryable) == ("unavailable", True)
    assert error.message == "baidu: error 110: Access token invalid or no longer valid"
    assert api.tokens == 1
    assert len(server.requests) == 2


def test_stale_token_of_many_threads(server: Server, api: Api) -> None:
    made = opened(server)
    ask(made)
    api.valid = {f"{TOKEN}2"}
    client = Client(made, Manners(concurrency=8, pause=0.01))
    asked = [client.ask(Query(b"%d" % index)) for index in range(16)]
    assert [one.result().answer for one in asked] == [(("建筑夜景", 0.158061), ("树", 0.17194))] * 16
    assert api.tokens == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (json_reply({"error": "invalid_client", "error_description": f"unknown client id {KEY}"}, 401), "credentials"),
        (json_reply({"error": "invalid_client", "error_description": "authentication failed"}, 200), "credentials"),
        (json_reply({"error": "unsupported_grant_type"}, 400), "refused"),
        (Reply(status=403), "credentials"),
        (Reply(status=429), "throttled"),
        (Reply(status=500), "unavailable"),
        (Reply(status=302, headers={"Location": "https://example.com"}), "refused"),
        (Reply(b"<html>"), "bad-answer"),
        (json_reply({"access_token": "24.a"}), "bad-answer"),
        (json_reply({"expires_in": 5}), "bad-answer"),
        (json_reply({"access_token": "", "expires_in": 5}), "bad-answer"),
        (json_reply({"access_token": 5, "expires_in": 5}), "bad-answer"),
        (json_reply({"access_token": "24.a", "expires_in": 0}), "bad-answer"),
        (json_reply({"access_token": "24.a", "expires_in": "5"}), "bad-answer"),
        (json_reply({"access_token": "24.a", "expires_in": float("nan")}), "bad-answer"),
        (json_reply({"access_token": "24.a", "expires_in": 5}, cut=9, headers={"Connection": "close"}), "unavailable"),
        (Reply(hang=True), "timeout"),
        (json_reply({"access_token": "24.a", "expires_in": 5}, drip=0.05), "timeout"),
    ],
)
def test_no_token(server: Server, api: Api, reply: Reply, reason: str) -> None:
    made = opened(server)
    api.token_replies.append(reply)
    assert failing(made, timeout=0.4).reason == reason
    assert paths(server) == ["/oauth/2.0/token"]
    assert ask(made) == (("建筑夜景", 0.158061), ("树", 0.17194))


def test_waiting_for_anothers_token_is_bounded(server: Server, api: Api) -> None:
    made = opened(server)
    api.token_replies.append(json_reply({"access_token": "24.a", "expires_in": DAY}, delay=1.0))
    with futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, made, 5.0)
        time.sleep(0.2)
        start = time.monotonic()
        assert failing(made, timeout=0.3).reason == "timeout"
        assert time.monotonic() - start < 0.7
        assert first.result() == (("建筑夜景", 0.158061), ("树", 0.17194))


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        (1, "unavailable", True),
        (2, "unavailable", True),
        (3, "refused", False),
        (4, "throttled", True),
        (6, "credentials", False),
        (14, "credentials", False),
        (17, "quota", False),
        (18, "throttled", True),
        (19, "quota", False),
        (100, "credentials", False),
        (216100, "refused", False),
        (216200, "bad-image", False),
        (216201, "bad-image", False),
        (216202, "too-large-for-backend", False),
        (216203, "bad-image", False),
        (216630, "unavailable", True),
        (282000, "unavailable", True),
        (282810, "bad-image", False),
        (999999, "refused", False),
        ("17", "refused", False),
        ([17], "refused", False),
    ],
)
def test_error_codes(server: Server, api: Api, code: Any, reason: str, retryable: bool) -> None:
    made = opened(server)
    api.replies.append(refusal(code, "what is wrong"))
    error = failing(made)
    assert (error.reason, error.retryable, error.retry_after) == (reason, retryable, None)
    assert error.message.startswith(f"baidu: error {code}: what is wrong")
    assert error.message.endswith("check BAIDU_API_KEY and BAIDU_SECRET_KEY") is (error.reason == "credentials")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=429), "throttled"),
        (refusal(18, "qps", 429), "throttled"),
        (refusal(17, "daily", 403), "quota"),
        (refusal(5, "new", 503), "unavailable"),
        (Reply(b"<html>", status=413), "too-large-for-backend"),
        (Reply(status=302, headers={"Location": "https://example.com"}), "refused"),
        (refusal(216201, f"bad {SECRET} {TOKEN}1"), "bad-image"),
        (Reply(b'{"result": [{"keyw'), "bad-answer"),
        (json_reply({"log_id": 1}), "bad-answer"),
        (json_reply({"result": {}}), "bad-answer"),
        (json_reply({"result": [{"keyword": "cat"}]}), "bad-answer"),
        (json_reply({"result": [{"keyword": "cat", "score": 1.5}]}), "bad-answer"),
        (json_reply({"result": [{"keyword": "cat", "score": float("nan")}]}), "bad-answer"),
        (json_reply(SEEN, cut=30, headers={"Connection": "close"}), "unavailable"),
        (json_reply(SEEN, delay=1.0), "timeout"),
        (json_reply(SEEN, drip=0.05), "timeout"),
    ],
)
def test_bad_answers(server: Server, api: Api, reply: Reply, reason: str) -> None:
    made = opened(server)
    api.replies.append(reply)
    start = time.monotonic()
    assert failing(made, timeout=0.5).reason == reason
    assert time.monotonic() - start < 1.2
    assert len(server.requests) == 2
