"""Cloud Storage on this machine: an emulator, behind what the emulator lacks: preconditions, generations and faults."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import create_server
from google.cloud import storage
from loopback import Reply, Request, Server, serving

from beam_adacompress.transforms import buckets

_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "date", "server"}


class Preconditions:
    """Passes requests on, but refuses what the emulator would do although its condition does not hold.

    An object is written on a condition only while it has that generation (0: while there is none), and read at a
    generation only while it has that one.

    Attributes:
      refused: counts the refusals to write.
      first: looks at every request first; gives a reply to be sent instead, or None.
      cut: looks at the first half of every body; where it says so, the connection is reset then.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._lock = threading.Lock()
        self.refused = 0
        self.first: Callable[[Request], Optional[Reply]] = lambda request: None
        self.cut: Callable[[bytes], bool] = lambda half: False

    def __call__(self, request: Request) -> Reply:
        return self.first(request) or self.answer(request)

    def answer(self, request: Request) -> Reply:
        """What the store says."""
        url = urlsplit(request.path)
        query = parse_qs(url.query)
        if "ifGenerationMatch" in query:
            bucket = url.path.split("/b/")[1].split("/")[0]
            name = json.loads(re.search(rb"\r\n\r\n(\{.*?\})\r\n", request.body, re.DOTALL)[1])["name"]
            with self._lock:  # of two at once one is first
                if query["ifGenerationMatch"] != [self._generation(f"/b/{bucket}/o/{quote(name, safe='')}")]:
                    self.refused += 1
                    return _error(412, "At least one of the pre-conditions did not hold.")
                return self._pass_on(request)
        if "generation" in query and query["generation"] != [self._generation(f"/b/{url.path.split('/b/')[1]}")]:
            return _error(404, "No such object.")
        return self._pass_on(request)

    def _generation(self, path: str) -> str:
        """Of the object that is there, 0 where there is none."""
        found = self._pass_on(Request(f"/storage/v1{path}", {}, b"", time.monotonic(), "GET"))
        return json.loads(found.body)["generation"] if found.status == 200 else "0"

    def _pass_on(self, request: Request) -> Reply:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(request.method, request.path, request.body or None, headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return Reply(answer.read(), answer.status, kept)
        finally:
            connection.close()


def _error(code: int, message: str) -> Reply:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    return Reply(body, code, {"Content-Type": "application/json"})


def _resetting(server: Server, preconditions: Preconditions) -> None:
    """Makes a server reset connections in the middle of a request where `preconditions.cut` says so."""

    class Handler(server._httpd.RequestHandlerClass):  # type: ignore[name-defined, misc]
        def do_POST(self) -> None:  # noqa: N802
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length // 2)
            if preconditions.cut(body):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            body += self.rfile.read(length - len(body))
            server.serve(self, Request(self.path, dict(self.headers), body, time.monotonic(), self.command))

        do_GET = do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815

    server._httpd.RequestHandlerClass = Handler


class _TokenHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.dumps({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def _account(folder: Path) -> Iterator[Path]:
    """A service account whose tokens come from this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _TokenHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "k",
        "private_key": key.decode(),
        "client_email": "a@p.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"http://127.0.0.1:{server.server_port}/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    yield path
    server.shutdown()


@contextlib.contextmanager
def emulated(folder: Path) -> Iterator[Any]:
    """A bucket, photos, on the emulator, found by Beam through STORAGE_EMULATOR_HOST; with its `preconditions`.

    Args:
      folder: for the account.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _account(folder) as account, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        patch.setenv("GOOGLE_CLOUD_PROJECT", "p")
        emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="photos")
        emulator.start()
        preconditions = Preconditions("127.0.0.1", port)
        with serving(preconditions) as server:
            _resetting(server, preconditions)
            patch.setenv("STORAGE_EMULATOR_HOST", server.url)
            bucket = storage.Client(project="p").bucket("photos")
            bucket.preconditions = preconditions
            yield bucket
        emulator.stop()
        buckets.client.cache_clear()
