"""Posting forms to a service over HTTPS, with everything that can go wrong as a BackendError."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, Optional
from urllib.parse import urlencode

from beam_adacompress.backends import contract
from beam_adacompress.backends.contract import BackendError, Labels
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Label

LARGEST = 4 << 20  # bytes of an answer

_ENDPOINT = re.compile(r"(https?)://([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[\w./~-]*)?", re.ASCII)
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_REASONS = {
    401: contract.CREDENTIALS,
    403: contract.CREDENTIALS,
    413: contract.TOO_LARGE,
    429: contract.THROTTLED,
}
_this_thread = threading.local()  # .watch: over the call that it makes


def check_endpoint(name: str, url: str) -> None:
    """Raises ValueError unless it is https://HOST[:PORT][/PATH], or the same with http:// on this machine."""
    parts = _ENDPOINT.fullmatch(url)
    if parts is None or (parts[1] == "http" and parts[2] not in _LOOPBACK):
        raise ValueError(f"{name}: endpoint is https://HOST[:PORT], or http://127.0.0.1:PORT on this machine only")


def credentials(name: str, *variables: str) -> list[str]:
    """Reads credentials from environment variables; AdaCompressError where one is missing."""
    values = [os.environ.get(variable, "").strip() for variable in variables]
    if not all(values):
        raise AdaCompressError(f"{name} finds no credentials: set {' and '.join(variables)} in the environment")
    return values


class Reply(NamedTuple):
    """What a service answers."""

    status: int
    content: dict[str, Any]  # empty where the body is no JSON object of at most LARGEST bytes
    retry_after: Optional[float]  # seconds


class Service:
    """Takes forms and answers JSON; thread-safe, without redirects, cookies and retries.

    Args:
      name: for messages.
      endpoint: as checked by `check_endpoint`.
      secrets: never shown, even if the service repeats them. More may be added.
      variables: of the environment, where they come from.
    """

    def __init__(self, name: str, endpoint: str, secrets: list[str], variables: Sequence[str] = ()) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        class Adapter(HTTPAdapter):
            def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
                pool: Any = super().get_connection_with_tls_context(*args, **options)
                if not issubclass(pool.ConnectionCls, _Watched):
                    pool.ConnectionCls = type("Connection", (_Watched, pool.ConnectionCls), {})
                return pool

        self.name, self.secrets = name, secrets
        self._variables = " and ".join(variables)
        self._session = requests.Session()
        self._session.mount(endpoint, Adapter(pool_maxsize=64, max_retries=0))
        self._session.headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._session.headers["Accept-Encoding"] = "identity"  # nothing that grows when it is unpacked
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._session.auth = lambda request: request  # otherwise requests sends what ~/.netrc has for the host
        self._session.trust_env = endpoint.startswith("https:")  # a proxy would read what is not encrypted
        logging.getLogger("urllib3.connectionpool").addFilter(_shows_no_token)

    def post(self, url: str, fields: Mapping[str, str], timeout: float, **images: bytes) -> Reply:
        """Posts one form, with images in base64; BackendError without a complete answer in time."""
        import requests
        import urllib3

        if timeout <= 0:
            raise BackendError(contract.TIMEOUT, f"{self.name}: no time is left for the call")
        watch = _this_thread.watch = _Watch()
        timer = threading.Timer(timeout, watch.cut)
        timer.daemon = True
        timer.start()
        broken, late = None, False
        try:
            post = self._session.post(url, _form(fields, images), timeout=timeout, stream=True, allow_redirects=False)
            with post as response:
                body = response.raw.read(LARGEST + 1, decode_content=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            late = isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError))
            broken = type(error).__name__
        finally:
            timer.cancel()
        # Raised here, not above: as the context of the error, the exception of requests would carry the URL along.
        if late or watch.is_over:
            raise BackendError(contract.TIMEOUT, f"{self.name} did not answer within {timeout:.3g} s")
        if broken:
            raise BackendError(contract.UNAVAILABLE, f"{self.name}: the connection failed ({broken})")
        return Reply(response.status_code, _content(body), _seconds(response.headers.get("Retry-After", "")))

    def failure(self, reason: str, text: str, reply: Reply) -> BackendError:
        """An error that says what the service says."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        hint = f"; check {self._variables}" if reason == contract.CREDENTIALS and self._variables else ""
        return BackendError(reason, f"{self.name}: {text[:200]}{hint}", retry_after=reply.retry_after)

    def content(self, reply: Reply) -> dict[str, Any]:
        """What a good answer holds; for any other the BackendError that its status means."""
        if 200 <= reply.status < 300:
            if reply.content:
                return reply.content
            raise self.failure(contract.BAD_ANSWER, "the answer is no JSON object", reply)
        other = contract.UNAVAILABLE if reply.status >= 500 else contract.REFUSED
        raise self.failure(_REASONS.get(reply.status, other), f"HTTP status {reply.status}", reply)

    def labels(self, rows: object, name: str, score: str, best: float) -> Labels:
        """Reads [{name: "...", score: 0..best}, ...]; BackendError where it is anything else."""
        labels = []
        for row in rows if isinstance(rows, list) else [None]:
            label: list[Any] = [row.get(name), row.get(score)] if isinstance(row, dict) else [None, None]
            # bool is an int, and NaN is in no range.
            if not (
                isinstance(label[0], str) and label[0] and type(label[1]) in (int, float) and 0 <= label[1] <= best
            ):
                message = f"{self.name} gave a label without a name or with an impossible score"
                raise BackendError(contract.BAD_ANSWER, message)
            labels.append(Label(label[0], label[1] / best))
        return tuple(labels)


class _Watch:
    """Cuts the connection of a call when its time is over; the time limits of sockets are for each byte anew."""

    def __init__(self) -> None:
        self.is_over = False
        self._socket: Any = None

    def over(self, sock: Any) -> None:
        self._socket = sock
        if self.is_over:
            self.cut()

    def cut(self) -> None:
        self.is_over = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed already
                # Not SSLSocket's: that would let the other thread read on without decrypting.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Watched:
    """Mixed into the connections of urllib3: the only place that knows the socket before the answer begins."""

    sock: Any

    def send(self, data: Any) -> None:
        super().send(data)  # type: ignore[misc]  # connects, where it has to
        _this_thread.watch.over(self.sock)


def _form(fields: Mapping[str, str], images: Mapping[str, bytes]) -> str:
    form = [urlencode(fields)] if fields else []
    for field, image in images.items():
        # As urlencode would, which takes twenty times as long.
        text = base64.b64encode(image).decode().replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
        form.append(f"{field}={text}")
    return "&".join(form)


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body) if len(body) <= LARGEST else None
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(retry_after: str) -> Optional[float]:
    if re.fullmatch(r"\d{1,9}", retry_after, re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _shows_no_token(record: logging.LogRecord) -> bool:
    return "access_token=" not in record.getMessage()
