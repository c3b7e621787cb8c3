"""Label detection of the Google Cloud Vision API."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional
from urllib.parse import urlsplit

from beam_adacompress.backends import contract
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Query, Terms, read_local
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Label

_HINT = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
# google.rpc.Code, for a whole call and for each image alike; what is not here is REFUSED.
_REASONS = {
    **dict.fromkeys((1, 2, 10, 13, 14, 15), contract.UNAVAILABLE),  # INTERNAL, UNAVAILABLE, ABORTED, ...
    4: contract.TIMEOUT,  # DEADLINE_EXCEEDED
    7: contract.CREDENTIALS,  # PERMISSION_DENIED
    8: contract.THROTTLED,  # RESOURCE_EXHAUSTED
    16: contract.CREDENTIALS,  # UNAUTHENTICATED
}
# Some codes say too little; then the message decides. "Per day" is also written RequestsPerDayPerProject.
_CLUES = (
    (3, r"bad image data", contract.BAD_IMAGE),
    (3, r"too large|exceeds the limit", contract.TOO_LARGE),
    (8, r"per[ _]?(day|month)|daily|monthly", contract.QUOTA),
    (8, r"message larger than max", contract.TOO_LARGE),  # gRPC itself, at either end
    (13, r"^exception deserializing response", contract.BAD_ANSWER),
    # gRPC calls it UNAVAILABLE when no token can be had; these are OAuth's words for "and never will".
    (14, r"plugin failed.*(invalid_|unauthorized_client|access_denied|reauth)", contract.CREDENTIALS),
)


@dataclasses.dataclass
class GoogleVision(Backend):
    """Calls `BatchAnnotateImages` (`google.cloud.vision.v1.ImageAnnotator`) over gRPC.

    Limits, from "Quotas and limits" and "Supported images": 16 images and 10 MB a request, 20 MB an image file,
    75 megapixels. The 10 MB are stated for the request as JSON, where base64 makes images a third larger; what gRPC
    may carry is not stated, so 7.4 MB of image files are taken as the limit, of a batch and so of one image too.

    Args:
      max_results: labels for each image.
      endpoint: `HOST[:PORT]`, e.g. `eu-vision.googleapis.com`; or `http://127.0.0.1:PORT`, without credentials.
      price: USD for each image; by default that of "Cloud Vision pricing" for a month's first 5 million.
    """

    max_results: int = 10
    endpoint: Optional[str] = None
    price: float = 0.0015

    def __post_init__(self) -> None:
        if self.max_results < 1:
            raise ValueError(f"google-vision: max_results={self.max_results} is less than 1")
        if "://" in (self.endpoint or ""):
            url = urlsplit(self.endpoint)
            if url.scheme != "http" or url.hostname not in ("127.0.0.1", "localhost", "::1"):
                raise ValueError("google-vision: endpoint is HOST[:PORT], or on this machine http://127.0.0.1:PORT")

    @property
    def terms(self) -> Terms:
        version = f"v1,label_detection,max_results={self.max_results}"
        return Terms("google-vision", version, 16, 7_400_000, 7_400_000, max_pixels=75_000_000, price=self.price)

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        try:
            import google.cloud.vision as vision
            import grpc
            from google.auth.exceptions import GoogleAuthError
        except ImportError as error:
            message = "google-vision needs google-cloud-vision: pip install 'beam-adacompress[gcp]'"
            raise AdaCompressError(message) from error
        if (self.endpoint or "").startswith("http://"):
            channel = grpc.insecure_channel(urlsplit(self.endpoint).netloc, [("grpc.enable_http_proxy", 0)])
            transport = vision.ImageAnnotatorClient.get_transport_class("grpc")(channel=channel)
            self._client: Any = vision.ImageAnnotatorClient(transport=transport)
            return
        try:
            self._client = vision.ImageAnnotatorClient(client_options={"api_endpoint": self.endpoint})
        except GoogleAuthError as error:
            raise AdaCompressError(f"google-vision finds no credentials: {_HINT}") from error

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        features = [{"type_": "LABEL_DETECTION", "max_results": self.max_results}]
        requests = [{"image": {"content": image.data}, "features": features} for image in images]
        try:
            answer = self._client.batch_annotate_images(requests=requests, retry=None, timeout=timeout)
        except Exception as error:  # whatever the SDK throws
            code = getattr(getattr(error, "grpc_status_code", None), "value", (0,))[0]
            message = getattr(error, "message", None) or type(error).__name__
            raise _failure(code, message, getattr(error, "details", ())) from error
        if len(answer.responses) != len(images):
            message = f"google-vision gave {len(answer.responses)} answers for {len(images)} images"
            raise BackendError(contract.BAD_ANSWER, message)
        return [_answer(response) for response in answer.responses]


def _answer(response: Any) -> Answer:
    if response.error.code:
        return _failure(response.error.code, response.error.message)
    labels = tuple(Label(label.description, label.score) for label in response.label_annotations)
    if not all(label.name and 0 <= label.score <= 1 for label in labels):  # NaN is in no range
        return BackendError(contract.BAD_ANSWER, "google-vision gave a label without a name or an impossible score")
    return labels


def _failure(code: int, message: str, details: Iterable[Any] = ()) -> BackendError:
    text = f"{message} {details}"
    clues = (reason for of, clue, reason in _CLUES if of == code and re.search(clue, text, re.IGNORECASE | re.DOTALL))
    reason = next(clues, _REASONS.get(code, contract.REFUSED))
    if reason == contract.CREDENTIALS:
        message = f"{_HINT} (code {code})" if code == 14 else f"{message.rstrip('.')}; {_HINT}"
    delays = [detail.retry_delay.ToTimedelta().total_seconds() for detail in details if hasattr(detail, "retry_delay")]
    return BackendError(reason, f"google-vision: {message}", retry_after=delays[0] if delays else None)
