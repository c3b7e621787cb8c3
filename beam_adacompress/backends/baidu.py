"""General object and scene recognition (通用物体和场景识别) of Baidu AI Cloud."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Optional
from urllib.parse import quote

from beam_adacompress.backends import contract, https
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Labels, Query, Terms, read_local

_VARIABLES = ("BAIDU_API_KEY", "BAIDU_SECRET_KEY")
_TOKEN = "/oauth/2.0/token"  # noqa: S105
_CALL = "/rest/2.0/image-classify/v2/advanced_general?access_token="
_DAY = 86_400.0  # seconds
_STALE = (110, 111)  # the token is invalid, or has expired
_REASONS = {  # by error_code; what is not here is REFUSED
    1: contract.UNAVAILABLE,
    2: contract.UNAVAILABLE,
    4: contract.THROTTLED,
    6: contract.CREDENTIALS,
    13: contract.UNAVAILABLE,
    14: contract.CREDENTIALS,
    15: contract.CREDENTIALS,
    17: contract.QUOTA,  # of the day
    18: contract.THROTTLED,
    19: contract.QUOTA,  # of the account
    100: contract.CREDENTIALS,
    110: contract.UNAVAILABLE,  # another try comes with another token
    111: contract.UNAVAILABLE,
    216200: contract.BAD_IMAGE,
    216201: contract.BAD_IMAGE,
    216202: contract.TOO_LARGE,
    216203: contract.BAD_IMAGE,
    216630: contract.UNAVAILABLE,
    282000: contract.UNAVAILABLE,
    282810: contract.BAD_IMAGE,
}


@dataclasses.dataclass
class Baidu(Backend):
    """Calls "advanced_general" v2 with a token for BAIDU_API_KEY and BAIDU_SECRET_KEY of the environment.

    Limits, from its page: 4 MB an image in base64, which are 3 MB of image file; sides of 15 to 4096 pixels and not
    more than 3:1. Free accounts may make 1 or 2 calls a second: limit the rate of the job. Labels keep the order of
    the service, which is not always that of their scores.

    Args:
      endpoint: `https://HOST`, or `http://127.0.0.1:PORT`; for tokens as well.
      price: USD for each image; the default is a list price that changes and falls with the volume: set `?price=`.
    """

    endpoint: str = "https://aip.baidubce.com"
    price: float = 0.0005

    def __post_init__(self) -> None:
        https.check_endpoint("baidu", self.endpoint)

    @property
    def terms(self) -> Terms:
        size = 3_000_000
        return Terms("baidu", "v2,advanced_general", 1, size, size, max_pixels=4096 * 4096, price=self.price)

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        key, secret = https.credentials("baidu", *_VARIABLES)
        self._credentials = {"grant_type": "client_credentials", "client_id": key, "client_secret": secret}
        self._service = https.Service("baidu", self.endpoint, [key, secret], _VARIABLES)
        self._lock = threading.Lock()  # around the token
        self._token: Optional[str] = None
        self._stale: Optional[str] = None  # the token that the service has refused
        self._renew_at = 0.0  # monotonic

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        until = time.monotonic() + timeout
        token = self._access_token(until)
        reply = self._post(_CALL + token, {}, until, image=images[0].data)
        if reply.content.get("error_code") in _STALE:
            # Renewed when the caller tries again: sending the image twice here would be a call that nobody counts.
            self._stale = token
        return [self._labels(reply)]

    def _post(self, path: str, fields: Mapping[str, str], until: float, **images: bytes) -> https.Reply:
        return self._service.post(self.endpoint.rstrip("/") + path, fields, until - time.monotonic(), **images)

    def _labels(self, reply: https.Reply) -> Labels:
        code = reply.content.get("error_code")
        reason = _REASONS.get(code) if isinstance(code, int) else None
        if reason or (code and reply.status < 300):
            text = f"error {code}: {reply.content.get('error_msg')}"
            raise self._service.failure(reason or contract.REFUSED, text, reply)
        return self._service.labels(self._service.content(reply).get("result"), "keyword", "score", best=1)

    def _access_token(self, until: float) -> str:
        """The token, a new one if there is none, or it is stale or too old; fetched by one thread at a time."""
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise BackendError(contract.TIMEOUT, "baidu did not give a token in time")
        try:
            if self._token is None or self._token == self._stale or time.monotonic() >= self._renew_at:
                self._token, lifetime = self._fetch(until)
                self._renew_at = time.monotonic() + max(lifetime - _DAY, lifetime / 2)
            return self._token
        finally:
            self._lock.release()

    def _fetch(self, until: float) -> tuple[str, float]:
        reply = self._post(_TOKEN, self._credentials, until)
        if reply.content.get("error") in ("invalid_client", "unauthorized_client", "invalid_grant"):
            text = f"{reply.content['error']}: {reply.content.get('error_description')}"
            raise self._service.failure(contract.CREDENTIALS, text, reply)
        content = self._service.content(reply)
        token, lifetime = content.get("access_token"), content.get("expires_in")
        if not (isinstance(token, str) and token and isinstance(lifetime, (int, float)) and lifetime > 0):
            raise BackendError(contract.BAD_ANSWER, "baidu gave no token")
        self._service.secrets.append(token)
        return quote(token, safe=""), lifetime
