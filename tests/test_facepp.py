from __future__ import annotations

import base64
import pickle
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from loopback import Reply, Server, json_reply, serving

from beam_adacompress.backends import Answer, BackendError, Query, Terms, backend
from beam_adacompress.backends.facepp import FacePlusPlus
from beam_adacompress.errors import AdaCompressError

KEY, SECRET = "the-api-key", "the-api-secret"
SEEN = {
    "request_id": "1470481443,bb0d7fbe",
    "time_used": 1168,
    "image_id": "IJKL==",
    "objects": [{"value": "Cat", "confidence": 41.5}, {"value": "Sofa", "confidence": 70}],
    "scenes": [{"value": "Home", "confidence": 70.0}, {"value": "Zoo", "confidence": 100}],
}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda request: json_reply(SEEN)) as server:
        yield server


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Credentials in the environment, and none in what is logged."""
    monkeypatch.setenv("FACEPP_API_KEY", KEY)
    monkeypatch.setenv("FACEPP_API_SECRET", SECRET)
    caplog.set_level("DEBUG")
    yield
    logged = "\n".join(record.getMessage() for record in caplog.get_records("call"))
    assert KEY not in logged
    assert SECRET not in logged


def opened(server: Server) -> FacePlusPlus:
    made = backend(f"facepp?endpoint={quote(server.url, safe='')}")
    made.open()
    assert isinstance(made, FacePlusPlus)
    return made


def ask(server: Server, timeout: float = 5.0) -> Answer:
    (answer,) = opened(server).label([Query(b"image")], timeout)
    return answer


def failing(server: Server, timeout: float = 5.0) -> BackendError:
    with pytest.raises(BackendError) as caught:
        ask(server, timeout)
    error = caught.value
    shown = f"{error} {error!r} {error.args} {error.__dict__} {error.__cause__} {error.__context__}"
    assert KEY not in shown
    assert SECRET not in shown
    return error


def test_uri_and_terms() -> None:
    made = backend("facepp?price=0.002")
    assert made == FacePlusPlus("https://api-us.faceplusplus.com", 0.002)
    version = "beta,detectsceneandobject"
    assert made.terms == Terms("facepp", version, 1, 2_000_000, 2_000_000, 4096 * 4096, price=0.002)
    assert made.concurrent
    assert backend("facepp?endpoint=https%3A%2F%2Fapi-cn.faceplusplus.com").terms.version == version


@pytest.mark.parametrize("endpoint", ["http://api-us.faceplusplus.com", "api-us.faceplusplus.com", "https://a@b.com"])
def test_bad_endpoint(endpoint: str) -> None:
    with pytest.raises(ValueError, match="facepp: endpoint is https://HOST"):
        backend(f"facepp?endpoint={quote(endpoint, safe='')}")


def test_pickle() -> None:
    pickled = pickle.dumps(FacePlusPlus(price=0.1))
    assert pickle.loads(pickled) == FacePlusPlus(price=0.1)
    assert KEY.encode() not in pickled


def test_not_pickled_or_shown_once_open(server: Server) -> None:
    made = opened(server)
    assert SECRET not in repr(made)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(made)


@pytest.mark.parametrize("name", ["FACEPP_API_KEY", "FACEPP_API_SECRET"])
def test_missing_credentials(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(AdaCompressError) as caught:
        FacePlusPlus().open()
    expected = "facepp finds no credentials: set FACEPP_API_KEY and FACEPP_API_SECRET in the environment"
    assert str(caught.value) == expected


def test_request(server: Server) -> None:
    image = bytes(range(256)) * 40
    opened(server).label([Query(image, "a.jpg", 75)], 5.0)
    (request,) = server.requests
    assert request.path == "/imagepp/beta/detectsceneandobject"
    form = parse_qs(request.body.decode(), strict_parsing=True)
    assert sorted(form) == ["api_key", "api_secret", "image_base64"]
    assert (form["api_key"], form["api_secret"]) == ([KEY], [SECRET])
    assert base64.b64decode(form["image_base64"][0], validate=True) == image


def test_labels_rank_by_confidence(server: Server) -> None:
    assert ask(server) == (("Zoo", 1.0), ("Sofa", 0.7), ("Home", 0.7), ("Cat", 0.415))


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"objects": [], "scenes": []}, ()),
        ({"objects": [{"value": "Cat", "confidence": 0.0}], "scenes": []}, (("Cat", 0.0),)),
        ({"objects": [], "scenes": [{"value": "Ocean", "confidence": 25}]}, (("Ocean", 0.25),)),
    ],
)
def test_other_labels(server: Server, content: Any, labels: Any) -> None:
    server.script.append(json_reply(content))
    assert ask(server) == labels


@pytest.mark.parametrize(
    ("status", "message", "reason", "retryable"),
    [
        (401, "AUTHENTICATION_ERROR", "credentials", False),
        (403, "AUTHORIZATION_ERROR: Denied by Client", "credentials", False),
        (403, "AUTHORIZATION_ERROR: Denied by Admin", "credentials", False),
        (403, "AUTHORIZATION_ERROR: Insufficient Account Balance", "quota", False),
        (403, "INSUFFICIENT_QUOTA", "quota", False),
        (403, "CONCURRENCY_LIMIT_EXCEEDED", "throttled", True),
        (400, "IMAGE_ERROR_UNSUPPORTED_FORMAT: image_base64", "bad-image", False),
        (400, "INVALID_IMAGE_SIZE: image_base64", "bad-image", False),
        (400, "IMAGE_FILE_TOO_LARGE: image_base64", "too-large-for-backend", False),
        (413, "Request Entity Too Large", "too-large-for-backend", False),
        (400, "MISSING_ARGUMENTS: image_base64", "refused", False),
        (400, "BAD_ARGUMENTS: image_base64", "refused", False),
        (404, "API_NOT_FOUND", "refused", False),
        (500, "INTERNAL_ERROR", "unavailable", True),
        (500, "SOMETHING_NEW", "unavailable", True),
        (200, "SOMETHING_NEW", "bad-answer", True),
        (403, ["AUTHORIZATION_ERROR"], "credentials", False),
    ],
)
def test_error_words(server: Server, status: int, message: Any, reason: str, retryable: bool) -> None:
    server.script.append(json_reply({"request_id": "1", "time_used": 5, "error_message": message}, status))
    error = failing(server)
    assert (error.reason, error.retryable, error.retry_after) == (reason, retryable, None)
    assert error.message.startswith("facepp")
    assert len(server.requests) == 1


def test_error_words_are_told(server: Server) -> None:
    server.script.append(json_reply({"error_message": f"AUTHENTICATION_ERROR: no key {KEY}"}, 401))
    assert (
        failing(server).message
        == "facepp: AUTHENTICATION_ERROR: no key ***; check FACEPP_API_KEY and FACEPP_API_SECRET"
    )


def test_limit_with_retry_after(server: Server) -> None:
    reply = json_reply({"error_message": "CONCURRENCY_LIMIT_EXCEEDED"}, 403, headers={"Retry-After": "2"})
    server.script.append(reply)
    error = failing(server)
    assert (error.reason, error.retry_after) == ("throttled", 2.0)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=429), "throttled"),
        (Reply(b"<html>", status=503), "unavailable"),
        (Reply(b"<html>413 Request Entity Too Large", status=413), "too-large-for-backend"),
        (Reply(status=302, headers={"Location": "https://example.com"}), "refused"),
        (Reply(b'{"objects": [], "scenes": ['), "bad-answer"),
        (json_reply({"objects": []}), "bad-answer"),
        (json_reply({"scenes": []}), "bad-answer"),
        (json_reply({"objects": None, "scenes": []}), "bad-answer"),
        (json_reply({"objects": {"value": "Cat", "confidence": 5}, "scenes": []}), "bad-answer"),
        (json_reply({"objects": [{"value": "Cat"}], "scenes": []}), "bad-answer"),
        (json_reply({"objects": [{"value": "Cat", "confidence": 100.5}], "scenes": []}), "bad-answer"),
        (json_reply({"objects": [{"value": "Cat", "confidence": float("nan")}], "scenes": []}), "bad-answer"),
        (json_reply(SEEN)._replace(cut=30, headers={"Connection": "close"}), "unavailable"),
    ],
)
def test_bad_answers(server: Server, reply: Reply, reason: str) -> None:
    server.script.append(reply)
    assert failing(server).reason == reason
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", [Reply(hang=True), json_reply(SEEN, drip=0.05), json_reply(SEEN, delay=1.0)])
def test_slow_answers(server: Server, reply: Reply) -> None:
    server.script.append(reply)
    start = time.monotonic()
    assert failing(server, timeout=0.3).reason == "timeout"
    assert time.monotonic() - start < 0.9
