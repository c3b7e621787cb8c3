"""Cloud Storage on this machine: an emulator, behind what the emulator lacks: preconditions on generations."""

from __future__ import annotations

import http.client
import json
import re
import threading
from urllib.parse import parse_qs, quote, urlsplit

from loopback import Reply, Request

_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "date", "server"}


class Preconditions:
    """Passes requests on, but refuses with 412 to write an object that has to be new and is not.

    `refused` counts the refusals.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._lock = threading.Lock()
        self.refused = 0

    def __call__(self, request: Request) -> Reply:
        url = urlsplit(request.path)
        if parse_qs(url.query).get("ifGenerationMatch") != ["0"]:
            return self._pass_on(request)
        bucket = url.path.split("/b/")[1].split("/")[0]
        name = json.loads(re.search(rb"\r\n\r\n(\{.*?\})\r\n", request.body, re.DOTALL)[1])["name"]
        with self._lock:  # of two at once one is first
            there = Request(f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}", {}, b"", request.time, "GET")
            if self._pass_on(there).status == 200:
                self.refused += 1
                error = {"error": {"code": 412, "message": "At least one of the pre-conditions did not hold."}}
                return Reply(json.dumps(error).encode(), 412, {"Content-Type": "application/json"})
            return self._pass_on(request)

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
