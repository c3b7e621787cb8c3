from __future__ import annotations

import contextlib
import email.utils
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from loopback import Reply, Request, Server, json_reply, serving

from beam_adacompress.backends import BackendError
from beam_adacompress.backends.https import Service, check_endpoint, credentials
from beam_adacompress.errors import AdaCompressError

SECRET = "s3cr3t-value"
FIELDS = {"key": SECRET}
GOOD = json_reply({"seen": []})
CLOSE = {"Connection": "close"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda request: GOOD) as server:
        yield server


@pytest.fixture(autouse=True)
def no_secret_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level("DEBUG")
    yield
    logged = "\n".join(record.getMessage() for record in caplog.get_records("call"))
    assert SECRET not in logged


def call(url: str, timeout: float = 5.0) -> dict[str, Any]:
    service = Service("svc", url, [SECRET])
    return service.content(service.post(f"{url}/label?access_token={SECRET}", FIELDS, timeout, image=b"image"))


def failing(url: str, timeout: float = 5.0) -> BackendError:
    """The error of a call, which shows no secret whichever way one looks at it."""
    with pytest.raises(BackendError) as caught:
        call(url, timeout)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in f"{error} {error!r} {error.args} {error.__dict__}"
    return error


@contextlib.contextmanager
def speaking(talk: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A port whose connections are handed to `talk`, with TLS if there is a context."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if context:
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                talk(connection)

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def receive(connection: socket.socket) -> None:
    """Reads a whole request: a connection closed with bytes unread is reset."""
    head = body = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(length - len(body))


def drip(connection: socket.socket, start: bytes, each: bytes) -> None:
    receive(connection)
    connection.sendall(start)
    for _ in range(500):
        connection.sendall(each)
        time.sleep(0.02)


def drip_headers(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nX-Long: ", b"a")


def drip_body(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n", b"a")


def drip_chunks(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")


def read_nothing(connection: socket.socket) -> None:
    time.sleep(5)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def end_early(connection: socket.socket) -> None:
    receive(connection)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{"seen"')
    connection.shutdown(socket.SHUT_RDWR)


def talk_nonsense(connection: socket.socket) -> None:
    receive(connection)
    connection.sendall(b"220 smtp.example.com ESMTP\r\n\r\n")


def test_form_arrives(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.script.append(GOOD._replace(headers={"Set-Cookie": "session=1; Path=/"}))
    service = Service("svc", server.url, [])
    image = bytes(range(256))
    for _ in range(3):
        assert service.post(f"{server.url}/label", {"key": "ä &=+%"}, 5.0, image=image).content == {"seen": []}
    text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
    assert parse_qs(server.requests[0].body.decode())["key"] == ["ä &=+%"]
    assert parse_qs(server.requests[0].body.decode())["image"][0][:84] == text[:84]
    assert server.requests[0].body.endswith(b"8%2FT19vf4%2Bfr7%2FP3%2B%2Fw%3D%3D")
    assert {request.headers["Content-Type"] for request in server.requests} == {"application/x-www-form-urlencoded"}
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}
    assert [request.headers.get("Cookie") for request in server.requests] == [None, None, None]
    assert caplog.text.count("Starting new HTTP connection") == 1


@pytest.mark.parametrize(
    ("reply", "reason", "retry_after"),
    [
        (Reply(status=429), "throttled", None),
        (Reply(status=429, headers={"Retry-After": "7"}), "throttled", 7.0),
        (Reply(status=429, headers={"Retry-After": "soon"}), "throttled", None),
        (Reply(status=429, headers={"Retry-After": "-1"}), "throttled", None),
        (Reply(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), "throttled", 0.0),
        (Reply(status=500), "unavailable", None),
        (Reply(status=502, body=b"<html>"), "unavailable", None),
        (Reply(status=503, headers={"Retry-After": "120"}), "unavailable", 120.0),
        (Reply(status=401), "credentials", None),
        (Reply(status=403), "credentials", None),
        (Reply(status=400), "refused", None),
        (Reply(status=404, body=b"<html>"), "refused", None),
        (Reply(status=413, body=b"<html>"), "too-large-for-backend", None),
        (Reply(status=301, headers={"Location": "/elsewhere"}), "refused", None),
        (Reply(status=307, headers={"Location": "/elsewhere"}), "refused", None),
        (Reply(status=204), "bad-answer", None),
        (Reply(b""), "bad-answer", None),
        (Reply(b"{}"), "bad-answer", None),
        (Reply(b"[]"), "bad-answer", None),
        (Reply(b"<html>"), "bad-answer", None),
        (Reply(b'{"seen": ["a'), "bad-answer", None),
        (Reply(b'{"seen": "\xff"}'), "bad-answer", None),
        (Reply(b"[" * 100_000), "bad-answer", None),
        (Reply(b'{"seen": ' + b"9" * 5000 + b"}"), "bad-answer", None),
        (Reply(b'{"seen": "' + b"a" * (4 << 20) + b'"}'), "bad-answer", None),
        (Reply(b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"}), "bad-answer", None),
        (GOOD._replace(cut=5, headers=CLOSE), "unavailable", None),
        (GOOD._replace(cut=0, headers=CLOSE), "unavailable", None),
    ],
)
def test_bad_answers(server: Server, reply: Reply, reason: str, retry_after: float | None) -> None:
    server.script.append(reply)
    error = failing(server.url)
    assert (error.reason, error.retry_after) == (reason, retry_after)
    assert len(server.requests) == 1
    assert call(server.url) == {"seen": []}


def test_retry_after_a_date(server: Server) -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.script.append(Reply(status=503, headers={"Retry-After": date}))
    assert failing(server.url).retry_after == pytest.approx(30, abs=1.5)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hang=True),
        GOOD._replace(delay=1.5),
        GOOD._replace(drip=0.1),
        GOOD._replace(drip=0.1, headers=CLOSE),
        GOOD._replace(delay=0.2, drip=0.03),
        Reply(b"x" * 100, status=500, drip=0.03),
    ],
)
def test_slow_answers(server: Server, reply: Reply) -> None:
    service = Service("svc", server.url, [])
    server.script.append(reply)
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"svc did not answer within 0\.3 s") as caught:
        service.post(server.url, FIELDS, 0.3)
    assert 0.25 < time.monotonic() - start < 0.8
    assert caught.value.reason == "timeout"
    assert service.post(server.url, FIELDS, 5.0).content == {"seen": []}


@pytest.mark.parametrize("talk", [drip_headers, drip_body, drip_chunks, read_nothing])
def test_slow_talkers(talk: Callable[[socket.socket], None]) -> None:
    with speaking(talk) as port:
        service = Service("svc", f"http://127.0.0.1:{port}", [])
        start = time.monotonic()
        with pytest.raises(BackendError) as caught:
            service.post(f"http://127.0.0.1:{port}", {}, 0.3, image=bytes(16 << 20) if talk is read_nothing else b"")
        assert caught.value.reason == "timeout"
        assert 0.25 < time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (reset, "unavailable"),
        (lambda connection: None, "unavailable"),
        (talk_nonsense, "unavailable"),
        (end_early, "bad-answer"),
    ],
)
def test_broken_connections(talk: Callable[[socket.socket], None], reason: str) -> None:
    with speaking(talk) as port:
        assert failing(f"http://127.0.0.1:{port}").reason == reason


def test_closed_port() -> None:
    with speaking(reset) as port:
        pass
    assert failing(f"http://127.0.0.1:{port}").reason == "unavailable"


def test_no_time_left(server: Server) -> None:
    assert failing(server.url, timeout=0.0).reason == "timeout"
    assert failing(server.url, timeout=-1.0).reason == "timeout"
    assert server.requests == []


def test_many_threads() -> None:
    def echo(request: Request) -> Reply:
        return json_reply({"seen": parse_qs(request.body.decode())["number"][0]})

    with serving(echo) as server, futures.ThreadPoolExecutor(16) as threads:
        service = Service("svc", server.url, [])
        posts = [threads.submit(service.post, server.url, {"number": str(number)}, 10.0) for number in range(64)]
        assert [post.result().content["seen"] for post in posts] == [str(number) for number in range(64)]


def test_environment(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login me password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert call(server.url) == {"seen": []}
    assert "Authorization" not in server.requests[0].headers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    try:
        command = ["openssl", *options.split(), *names, "-keyout", path, "-out", path.with_suffix(".crt")]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl makes no certificate: {error}")
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


def answer_well(connection: socket.socket) -> None:
    receive(connection)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"seen": []}')


def test_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "localhost")
    with speaking(answer_well, context) as port:
        error = failing(f"https://localhost:{port}")
        assert (error.reason, error.message) == ("unavailable", "svc: the connection failed (SSLError)")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
        assert call(f"https://localhost:{port}") == {"seen": []}


@pytest.mark.parametrize("talk", [drip_headers, drip_body])
def test_slow_talkers_over_tls(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, talk: Callable[[socket.socket], None]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
    monkeypatch.setenv("no_proxy", "localhost")
    with speaking(talk, context) as port:
        start = time.monotonic()
        assert failing(f"https://localhost:{port}", timeout=0.4).reason == "timeout"
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://api.example.com:8443/v2/",
        "http://127.0.0.1:8080",
        "http://localhost:1",
        "http://[::1]:8080",
    ],
)
def test_endpoints(url: str) -> None:
    check_endpoint("svc", url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://user:password@api.example.com",
        "https://api.example.com/?a=b",
        "https://api.example.com/#a",
        "https://api.example.com/\n",
        "http://api.example.com",
        "http://127.0.0.1@api.example.com",
        "http://api.example.com\\@127.0.0.1",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
    ],
)
def test_bad_endpoints(url: str) -> None:
    with pytest.raises(ValueError, match="svc: endpoint is https://HOST"):
        check_endpoint("svc", url)


def test_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVC_KEY", f" {SECRET}\n")
    monkeypatch.setenv("SVC_SECRET", "b")
    assert credentials("svc", "SVC_KEY", "SVC_SECRET") == [SECRET, "b"]
    monkeypatch.setenv("SVC_SECRET", " ")
    with pytest.raises(AdaCompressError) as caught:
        credentials("svc", "SVC_KEY", "SVC_SECRET")
    assert str(caught.value) == "svc finds no credentials: set SVC_KEY and SVC_SECRET in the environment"


def test_what_a_service_repeats(server: Server) -> None:
    service = Service("svc", server.url, [SECRET])
    reply = service.post(server.url, {}, 5.0)
    error = service.failure("refused", f"key {SECRET} is bad: {'long ' * 100}", reply)
    assert error.message.startswith("svc: key *** is bad: long long")
    assert len(error.message) == 205


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ("[]", []),
        ('[{"name": "a", "score": 50}, {"name": "ä", "score": 100.0}]', [("a", 0.5), ("ä", 1.0)]),
        ('[{"name": "a", "score": 0, "more": null}]', [("a", 0.0)]),
    ],
)
def test_labels(rows: str, labels: list[tuple[str, float]]) -> None:
    service = Service("svc", "http://127.0.0.1:1", [])
    assert service.labels(json.loads(rows), "name", "score", best=100) == tuple(labels)


@pytest.mark.parametrize(
    "rows",
    [
        "null",
        "{}",
        '"text"',
        "[null]",
        '["a"]',
        '[{"name": "a"}]',
        '[{"score": 1}]',
        '[{"name": "", "score": 1}]',
        '[{"name": 5, "score": 1}]',
        '[{"name": "a", "score": "1"}]',
        '[{"name": "a", "score": true}]',
        '[{"name": "a", "score": null}]',
        '[{"name": "a", "score": NaN}]',
        '[{"name": "a", "score": Infinity}]',
        '[{"name": "a", "score": -0.1}]',
        '[{"name": "a", "score": 100.1}]',
        '[{"name": "a", "score": 1}, {"name": "b", "score": NaN}]',
    ],
)
def test_bad_labels(rows: str) -> None:
    service = Service("svc", "http://127.0.0.1:1", [])
    with pytest.raises(BackendError) as caught:
        service.labels(json.loads(rows), "name", "score", best=100)
    assert caught.value.reason == "bad-answer"
