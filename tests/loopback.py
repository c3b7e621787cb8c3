"""An HTTP server on this machine that answers as it is told to, faults of every kind included."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Optional


class Request(NamedTuple):
    path: str  # with its query
    headers: Mapping[str, str]
    body: bytes
    time: float  # monotonic, when it had been read
    method: str = "POST"


class Reply(NamedTuple):
    """One answer, or what goes wrong instead."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    delay: float = 0.0  # seconds before the answer begins
    drip: float = 0.0  # seconds between the bytes of the body
    cut: Optional[int] = None  # send only so many bytes of the body, then reset the connection
    hang: bool = False  # read the request and say nothing for as long as the server lives


def json_reply(content: object, status: int = 200, **options: object) -> Reply:
    return Reply(json.dumps(content).encode(), status, **options)  # type: ignore[arg-type]


class Server:
    """`script` holds replies for the next requests, in order; after them, `answer` makes each reply."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        self.script: list[Reply] = []
        self.requests: list[Request] = []
        self.closed = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.serve(self, Request(self.path, dict(self.headers), body, time.monotonic(), self.command))

            do_GET = do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._httpd.server_port}"
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            reply = self.script.pop(0) if self.script else None
        reply = reply or self.answer(request)
        if reply.hang:
            self.closed.wait()
            return
        time.sleep(reply.delay)
        with contextlib.suppress(OSError):  # the client has gone
            self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        if reply.cut is not None:
            handler.wfile.write(reply.body[: reply.cut])
            handler.wfile.flush()
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
        elif reply.drip:
            for index in range(len(reply.body)):
                handler.wfile.write(reply.body[index : index + 1])
                handler.wfile.flush()
                time.sleep(reply.drip)
        else:
            handler.wfile.write(reply.body)

    def close(self) -> None:
        self.closed.set()
        self._httpd.shutdown()
        self._httpd.server_close()


@contextlib.contextmanager
def serving(answer: Callable[[Request], Reply]) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()
