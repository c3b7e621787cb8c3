from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Optional

import botocore.exceptions
import pytest
from loopback import Reply, Server, json_reply, serving
from moto import mock_aws

from beam_adacompress.backends import BackendError, Query, Terms, backend, rekognition
from beam_adacompress.backends.rekognition import Rekognition
from beam_adacompress.errors import AdaCompressError

ONE = [Query(b"image")]
CAT = json_reply({"Labels": [{"Name": "Cat", "Confidence": 75.0}]})
SECRET = "secretsecretsecretsecretsecretsecretsecr"


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def environment(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("aws")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):  # the loopback is not to be proxied
        patch.setenv(name, "http://127.0.0.1:9")
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_SESSION_TOKEN", "session-token")
    patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    patch.setenv("AWS_RETRY_MODE", "adaptive")  # must not matter
    patch.setenv("AWS_MAX_ATTEMPTS", "4")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(lambda _: CAT) as server:
        yield server


@pytest.fixture(scope="module")
def opened(server: Server, environment: None) -> Rekognition:
    made = Rekognition(endpoint=server.url)
    made.open()  # takes a quarter of a second, so all tests share it
    return made


@pytest.fixture
def api(server: Server) -> Server:
    server.script.clear()
    server.requests.clear()
    return server


def refusal(kind: str, status: int = 400, message: str = "no", **headers: str) -> Reply:
    return json_reply({"__type": kind, "message": message}, status, headers=headers)


def failure(of: Rekognition) -> BackendError:
    with pytest.raises(BackendError) as caught:
        of.label(ONE, 5.0)
    return caught.value


def said(error: Any) -> tuple[str, bool, Optional[float]]:
    assert isinstance(error, BackendError)
    return error.reason, error.retryable, error.retry_after


def test_labels(api: Server) -> None:
    made = Rekognition(max_results=7, min_confidence=12.5, endpoint=api.url)
    made.open()
    api.script = [
        json_reply(
            {
                "Labels": [
                    {"Name": "Cat", "Confidence": 100.0, "Instances": [], "Parents": [{"Name": "Pet"}]},
                    {"Name": "Pet", "Confidence": 75, "Aliases": [{"Name": "Companion"}]},
                    {"Name": "Ähre", "Confidence": 12.5},
                ],
                "LabelModelVersion": "3.0",
            }
        )
    ]
    data = bytes(range(256))
    assert made.label([Query(data, key="k", quality=7)], 5.0) == [(("Cat", 1.0), ("Pet", 0.75), ("Ähre", 0.125))]
    (request,) = api.requests
    assert request.headers["X-Amz-Target"] == "RekognitionService.DetectLabels"
    assert request.headers["Content-Type"] == "application/x-amz-json-1.1"
    assert "/eu-west-1/rekognition/aws4_request" in request.headers["Authorization"]
    assert json.loads(request.body) == {
        "Image": {"Bytes": base64.b64encode(data).decode()},
        "MaxLabels": 7,
        "MinConfidence": 12.5,
    }


def test_labels_as_moto_gives_them() -> None:
    with mock_aws():
        made = Rekognition(region="us-east-1")
        made.open()
        ((best, *_),) = made.label(ONE, 5.0)
    assert best.name == "Mobile Phone"
    assert best.score == pytest.approx(0.999364)


def test_nothing_seen(api: Server, opened: Rekognition) -> None:
    api.script = [json_reply({"Labels": []})]
    assert opened.label(ONE, 5.0) == [()]


def test_an_image_as_large_as_the_terms_allow(api: Server, opened: Rekognition) -> None:
    data = bytes(5_242_880)
    assert opened.label([Query(data)], 20.0) == [(("Cat", 0.75),)]
    assert json.loads(api.requests[0].body)["Image"]["Bytes"] == base64.b64encode(data).decode()


def test_several_threads(opened: Rekognition) -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: opened.label(ONE, 5.0), range(12)))
    assert answers == [[(("Cat", 0.75),)]] * 12


def test_the_region_of_the_uri_wins(api: Server) -> None:
    made = Rekognition(region="ap-south-1", endpoint=api.url)
    made.open()
    made.label(ONE, 5.0)
    assert "/ap-south-1/rekognition/aws4_request" in api.requests[0].headers["Authorization"]


@pytest.mark.parametrize(
    "label",
    [
        {"Name": "Dog", "Confidence": float("nan")},
        {"Name": "Dog", "Confidence": float("inf")},
        {"Name": "Dog", "Confidence": -1},
        {"Name": "Dog", "Confidence": 100.5},
        {"Name": "", "Confidence": 50},
        {"Name": 7, "Confidence": 50},
    ],
)
def test_an_impossible_label(api: Server, opened: Rekognition, label: dict[str, Any]) -> None:
    api.script = [json_reply({"Labels": [{"Name": "Cat", "Confidence": 75}, label]})]
    (answer,) = opened.label(ONE, 5.0)
    assert said(answer) == ("bad-answer", True, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Bad Gateway</html>",
        b'{"Labels": [{"Name": "Cat", "Confid',
        b"{}",
        b"[]",
        b"7",
        b"null",
        b'{"Labels": "Cat"}',
        b'{"Labels": {"Name": "Cat"}}',
        b'{"Labels": ["Cat"]}',
        b'{"Labels": [{"Name": "Cat"}]}',
        b'{"Labels": [{"Confidence": 50}]}',
        b'{"Labels": [{"Name": "Cat", "Confidence": "high"}]}',
        b'{"Labels": [{"Name": "Cat", "Confidence": 1' + b"0" * 400 + b"}]}",
    ],
)
def test_an_answer_that_is_none(api: Server, opened: Rekognition, body: bytes) -> None:
    api.script = [Reply(body)]
    assert said(failure(opened)) == ("bad-answer", True, None)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refusal("ThrottlingException"), ("throttled", True, None)),
        (refusal("ThrottlingException", 500), ("throttled", True, None)),
        (refusal("com.amazonaws.rekognition#ThrottlingException"), ("throttled", True, None)),
        (refusal("ProvisionedThroughputExceededException"), ("throttled", True, None)),
        (Reply(b"slow down", 429), ("throttled", True, None)),
        (Reply(b"slow down", 429, {"Retry-After": "17"}), ("throttled", True, 17.0)),
        (refusal("ThrottlingException", 400, **{"Retry-After": "2"}), ("throttled", True, 2.0)),
        (Reply(b"", 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), ("throttled", True, None)),
        (refusal("LimitExceededException"), ("quota", False, None)),
        (refusal("InternalServerError", 500), ("unavailable", True, None)),
        (Reply(b"", 500), ("unavailable", True, None)),
        (Reply(b"<html>", 502), ("unavailable", True, None)),
        (Reply(b"down", 503, {"Retry-After": "5"}), ("unavailable", True, 5.0)),
        (refusal("InvalidImageFormatException"), ("bad-image", False, None)),
        (refusal("ImageTooLargeException"), ("too-large-for-backend", False, None)),
        (refusal("InvalidParameterException"), ("refused", False, None)),
        (Reply(b"", 404), ("refused", False, None)),
        (refusal("ExpiredTokenException"), ("credentials", False, None)),
        (refusal("AccessDeniedException"), ("credentials", False, None)),
        (refusal("UnrecognizedClientException"), ("credentials", False, None)),
        (refusal("InvalidSignatureException"), ("credentials", False, None)),
        (refusal("InvalidClientTokenId", 403), ("credentials", False, None)),
        (Reply(b"", 401), ("credentials", False, None)),
    ],
)
def test_a_refused_call(
    api: Server, opened: Rekognition, reply: Reply, expected: tuple[str, bool, Optional[float]]
) -> None:
    api.script = [reply]
    assert said(failure(opened)) == expected
    assert len(api.requests) == 1, "the SDK tried again by itself"
    assert opened.label(ONE, 5.0) == [(("Cat", 0.75),)]


def test_what_is_said_about_credentials(api: Server, opened: Rekognition) -> None:
    api.script = [refusal("InvalidSignatureException", 403, "the request was: x-amz-security-token:session-token")]
    assert str(failure(opened)) == (
        "rekognition: InvalidSignatureException: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "of one who may call rekognition:DetectLabels"
    )


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
ENDED, RESET = struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)  # SO_LINGER


@pytest.mark.parametrize(
    ("sent", "end", "reason"),
    [
        (b"", ENDED, "unavailable"),
        (b"", RESET, "unavailable"),
        (HEAD[:20], RESET, "unavailable"),
        (HEAD, RESET, "unavailable"),
        (HEAD + b'{"Labels": [', RESET, "unavailable"),
        (HEAD, ENDED, "bad-answer"),
        (HEAD + b'{"Labels": [', ENDED, "bad-answer"),
    ],
)
def test_the_connection_ends_too_early(sent: bytes, end: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, futures.ThreadPoolExecutor(1) as pool:

        def answer() -> int:
            accepted = 0
            listening.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while True:
                    connection, _ = listening.accept()
                    accepted += 1
                    with connection:
                        connection.settimeout(5.0)
                        request = b""
                        while b"}" not in request:
                            request += connection.recv(100_000)
                        connection.sendall(sent)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, end)
            return accepted

        made = Rekognition(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}")
        made.open()
        accepted = pool.submit(answer)
        assert said(failure(made)) == (reason, True, None)
        assert accepted.result() == 1, "the SDK tried again by itself"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    made = Rekognition(endpoint=f"http://127.0.0.1:{port}")
    made.open()
    assert said(failure(made)) == ("unavailable", True, None)


def test_slow_but_within_the_timeout(api: Server, opened: Rekognition) -> None:
    api.script = [CAT._replace(delay=0.4), CAT._replace(drip=0.01)]
    assert opened.label(ONE, 5.0) == [(("Cat", 0.75),)]
    assert opened.label(ONE, 5.0) == [(("Cat", 0.75),)]


def test_a_hang_ends_at_last(api: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekognition, "_READ_TIMEOUT", 0.5)
    made = Rekognition(endpoint=api.url)
    made.open()
    api.script = [Reply(hang=True)]
    start = time.monotonic()
    error = failure(made)
    assert 0.4 < time.monotonic() - start < 4.0
    assert said(error) == ("timeout", True, None)
    assert len(api.requests) == 1, "the SDK tried again by itself"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (botocore.exceptions.NoCredentialsError(), "credentials"),
        (botocore.exceptions.CredentialRetrievalError(provider="custom-process", error_msg=SECRET), "credentials"),
        (botocore.exceptions.TokenRetrievalError(provider="sso", error_msg=SECRET), "credentials"),
        (botocore.exceptions.UnauthorizedSSOTokenError(), "credentials"),
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="https://host"), "timeout"),
        (botocore.exceptions.SSLError(endpoint_url="https://host", error="certificate"), "unavailable"),
        (botocore.exceptions.ProxyConnectionError(proxy_url="http://host", error="closed"), "unavailable"),
        (botocore.exceptions.ParamValidationError(report="no bytes"), "refused"),
        (ZeroDivisionError(), "bad-answer"),
    ],
)
def test_whatever_else_the_sdk_throws(error: Exception, reason: str) -> None:
    class Client:
        def detect_labels(self, **_: object) -> None:
            raise error

    made = Rekognition()
    made._client = Client()
    found = failure(made)
    assert found.reason == reason
    assert SECRET not in str(found)


def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_keys, "rekognition finds no credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"),
        (
            lambda patch: patch.delenv("AWS_SECRET_ACCESS_KEY"),
            r"rekognition cannot start \(PartialCredentialsError\): set AWS_PROFILE, or",
        ),
        (
            lambda patch: patch.setenv("AWS_PROFILE", "nobody"),
            r"rekognition cannot start \(ProfileNotFound\): set AWS_PROFILE, or",
        ),
        (
            lambda patch: patch.delenv("AWS_DEFAULT_REGION"),
            r"rekognition cannot start \(NoRegionError\): add region=NAME, or set AWS_DEFAULT_REGION",
        ),
        (
            lambda patch: patch.setenv("AWS_DEFAULT_REGION", "not a region"),
            r"rekognition cannot start \(InvalidRegionError\): add region=NAME, or set AWS_DEFAULT_REGION",
        ),
    ],
    ids=["no keys", "half a key", "no profile", "no region", "no such region"],
)
def test_nothing_to_start_with(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], message: str
) -> None:
    change(monkeypatch)
    start = time.monotonic()
    with pytest.raises(AdaCompressError, match=message) as caught:
        Rekognition().open()
    assert time.monotonic() - start < 2.0
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("module", ["boto3", "botocore.config"])
def test_no_package(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(AdaCompressError) as caught:
        Rekognition().open()
    assert str(caught.value) == "rekognition needs boto3: pip install 'beam-adacompress[rekognition]'"


def test_uri() -> None:
    uri = "rekognition?max_results=5&min_confidence=20&region=eu-west-1&endpoint=https://example.com&price=0.0008"
    assert backend(uri) == Rekognition(5, 20.0, "eu-west-1", "https://example.com", 0.0008)


def test_terms() -> None:
    assert backend("rekognition").terms == Terms(
        name="rekognition",
        version="2016-06-27,max_results=10,min_confidence=55.0",
        max_batch=1,
        max_bytes=5_242_880,
        max_batch_bytes=None,
        max_pixels=100_000_000,
        price=0.001,
        is_local=False,
        cacheable=True,
    )
    assert Rekognition(3, 0.5).terms.version == "2016-06-27,max_results=3,min_confidence=0.5"
    assert Rekognition(region="eu-west-1", price=1.0).terms.version == Rekognition().terms.version


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"endpoint": "http://rekognition.eu-west-1.amazonaws.com"}, "endpoint is https"),
        ({"endpoint": "http://127.0.0.1:80@example.com"}, "endpoint is https"),
        ({"endpoint": "http://localhost.example.com"}, "endpoint is https"),
        ({"endpoint": "http://10.0.0.1:80"}, "endpoint is https"),
        ({"endpoint": "rekognition.eu-west-1.amazonaws.com"}, "endpoint is https"),
        ({"max_results": 0}, "from 1 to 1000"),
        ({"max_results": 1001}, "from 1 to 1000"),
        ({"min_confidence": -1.0}, "from 0 to 100"),
        ({"min_confidence": float("nan")}, "from 0 to 100"),
    ],
)
def test_refused_parameters(parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Rekognition(**parameters)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("rekognition?min_confidence=high", "min_confidence=high is no"),
        ("rekognition?secret=1", "known: max_results, min_confidence, region, endpoint, price"),
        ("rekognition:path", "takes no path"),
    ],
)
def test_refused_uris(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        backend(uri)


def test_pickling(api: Server) -> None:
    made = Rekognition(max_results=4, endpoint=api.url)
    dumped = pickle.dumps(made)
    assert SECRET.encode() not in dumped
    copy = pickle.loads(dumped)
    assert copy == made
    copy.open()
    assert copy.label(ONE, 5.0) == [(("Cat", 0.75),)]
