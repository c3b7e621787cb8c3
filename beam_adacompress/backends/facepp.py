"""Scene and object detection of Face++ (Megvii)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from beam_adacompress.backends import contract, https
from beam_adacompress.backends.contract import Answer, Backend, Labels, Query, Terms, read_local

_VARIABLES = ("FACEPP_API_KEY", "FACEPP_API_SECRET")
_PATH = "/imagepp/beta/detectsceneandobject"
# What error_message begins with; what is not here is decided by the status.
_REASONS = {
    "AUTHENTICATION_ERROR": contract.CREDENTIALS,
    "AUTHORIZATION_ERROR": contract.CREDENTIALS,
    "CONCURRENCY_LIMIT_EXCEEDED": contract.THROTTLED,  # with status 403
    "INSUFFICIENT_QUOTA": contract.QUOTA,
    "IMAGE_FILE_TOO_LARGE": contract.TOO_LARGE,
    "Request Entity Too Large": contract.TOO_LARGE,
    "IMAGE_ERROR_UNSUPPORTED_FORMAT": contract.BAD_IMAGE,
    "INVALID_IMAGE_SIZE": contract.BAD_IMAGE,  # the sides
    "INTERNAL_ERROR": contract.UNAVAILABLE,
}
# An account in arrears gets AUTHORIZATION_ERROR as well.
_UNPAID = re.compile(r"insufficient|arrears|balance", re.IGNORECASE)


@dataclasses.dataclass
class FacePlusPlus(Backend):
    """Calls "Detect Scene and Object API" (beta) with FACEPP_API_KEY and FACEPP_API_SECRET of the environment.

    Limits, from its page: 2 MB an image file, sides of 48 to 4096 pixels. A free key may make about one call a
    second, and is answered CONCURRENCY_LIMIT_EXCEEDED beyond: limit the rate of the job.

    Args:
      endpoint: `https://HOST` that a key belongs to, `https://api-cn.faceplusplus.com` for keys from China; or
        `http://127.0.0.1:PORT`.
      price: USD for each image; the default is a list price that changes and differs by plan: set `?price=`.
    """

    endpoint: str = "https://api-us.faceplusplus.com"
    price: float = 0.0005

    def __post_init__(self) -> None:
        https.check_endpoint("facepp", self.endpoint)

    @property
    def terms(self) -> Terms:
        size = 2_000_000
        return Terms("facepp", "beta,detectsceneandobject", 1, size, size, max_pixels=4096 * 4096, price=self.price)

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        secrets = https.credentials("facepp", *_VARIABLES)
        self._credentials = dict(zip(("api_key", "api_secret"), secrets))
        self._service = https.Service("facepp", self.endpoint, secrets, _VARIABLES)

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        url = self.endpoint.rstrip("/") + _PATH
        reply = self._service.post(url, self._credentials, timeout, image_base64=images[0].data)
        return [self._labels(reply)]

    def _labels(self, reply: https.Reply) -> Labels:
        if "error_message" in reply.content:
            message = str(reply.content["error_message"])
            reason = _REASONS.get(message.partition(":")[0].strip())
            if reason == contract.CREDENTIALS and _UNPAID.search(message):
                reason = contract.QUOTA
            if reason is not None:
                raise self._service.failure(reason, message, reply)
        content = self._service.content(reply)
        found = [
            label
            for kind in ("objects", "scenes")
            for label in self._service.labels(content.get(kind), "value", "confidence", best=100)
        ]
        return tuple(sorted(found, key=lambda label: -label.score))
