"""Label detection of Amazon Rekognition."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from beam_adacompress.backends import contract
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Query, Terms, read_local
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Label

_READ_TIMEOUT = 60  # seconds
_HINT = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of one who may call rekognition:DetectLabels"
# Codes of "DetectLabels" and "Common errors", without "Exception" at the end, and HTTP statuses for other codes.
_CODES = {
    contract.THROTTLED: "Throttling ProvisionedThroughputExceeded 429",
    contract.QUOTA: "LimitExceeded ServiceQuotaExceeded",
    contract.CREDENTIALS: "AccessDenied UnrecognizedClient InvalidSignature IncompleteSignature ExpiredToken 401 403",
    contract.BAD_IMAGE: "InvalidImageFormat",
    contract.TOO_LARGE: "ImageTooLarge",
}
_REASONS = {code: reason for reason, codes in _CODES.items() for code in codes.split()}


@dataclasses.dataclass
class Rekognition(Backend):
    """Calls `DetectLabels`, which takes JPEG and PNG, one image a call.

    Limits, from "Guidelines and quotas": 5 MB an image file, 80 to 10,000 pixels a side (as area: 100 megapixels).

    Args:
      max_results: labels for each image, 1..1000.
      min_confidence: of a label, 0..100; the default is the API's.
      region: e.g. `eu-west-1`; by default as AWS_DEFAULT_REGION or the profile says.
      endpoint: `https://HOST[:PORT]`, or on this machine `http://127.0.0.1:PORT`.
      price: USD for each image; by default that of "Rekognition pricing" for a month's first million.
    """

    max_results: int = 10
    min_confidence: float = 55.0
    region: Optional[str] = None
    endpoint: Optional[str] = None
    price: float = 0.001

    def __post_init__(self) -> None:
        if not (1 <= self.max_results <= 1000 and 0 <= self.min_confidence <= 100):
            raise ValueError("rekognition: max_results is from 1 to 1000, min_confidence from 0 to 100")
        if self.endpoint and not re.fullmatch(r"https://.+|http://(127\.0\.0\.1|localhost)(:\d+)?/?", self.endpoint):
            raise ValueError("rekognition: endpoint is https://HOST[:PORT], or on this machine http://127.0.0.1:PORT")

    @property
    def terms(self) -> Terms:
        version = f"2016-06-27,max_results={self.max_results},min_confidence={self.min_confidence}"
        return Terms("rekognition", version, max_bytes=5_242_880, max_pixels=100_000_000, price=self.price)

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise AdaCompressError("rekognition needs boto3: pip install 'beam-adacompress[rekognition]'") from error
        config = Config(
            # botocore's timeouts are the client's, not the call's, and start anew with each byte: whoever calls
            # `label` has to interrupt it, and these end the calls that nobody waits for any more.
            connect_timeout=10,
            read_timeout=_READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=64,  # more threads than that would connect anew for each call
            proxies={} if (self.endpoint or "").startswith("http://") else None,
        )
        try:
            session = boto3.Session(region_name=self.region)
            if session.get_credentials() is None:
                raise AdaCompressError(f"rekognition finds no credentials: {_HINT}")
            self._client: Any = session.client("rekognition", endpoint_url=self.endpoint, config=config)
        except BotoCoreError as error:
            hint = "add region=NAME, or set AWS_DEFAULT_REGION" if "Region" in type(error).__name__ else _HINT
            raise AdaCompressError(f"rekognition cannot start ({type(error).__name__}): {hint}") from error

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        asked = {"MaxLabels": self.max_results, "MinConfidence": self.min_confidence}
        try:
            answer = self._client.detect_labels(Image={"Bytes": images[0].data}, **asked)
            labels = tuple(Label(label["Name"], label["Confidence"] / 100) for label in answer["Labels"])
        except Exception as error:  # whatever the SDK throws, or what it takes for an answer
            raise _failure(error) from error
        if not all(isinstance(name, str) and name and 0 <= score <= 1 for name, score in labels):
            return [BackendError(contract.BAD_ANSWER, "rekognition gave a label without a name or an impossible score")]
        return [labels]


def _failure(error: Exception) -> BackendError:
    from botocore import exceptions as sdk

    name = type(error).__name__
    if isinstance(error, sdk.ClientError):
        return _refusal(error.response)
    if re.search("Credential|Token|SSO|Login", name):  # no common base; their text may quote what a helper printed
        return BackendError(contract.CREDENTIALS, f"rekognition finds no credentials ({name}): {_HINT}")
    if not isinstance(error, sdk.BotoCoreError):
        return BackendError(contract.BAD_ANSWER, f"rekognition: the answer makes no sense ({error!r})")
    is_timeout = isinstance(error, (sdk.ReadTimeoutError, sdk.ConnectTimeoutError))
    broken = contract.UNAVAILABLE if isinstance(error, (sdk.HTTPClientError, sdk.ConnectionError)) else contract.REFUSED
    return BackendError(contract.TIMEOUT if is_timeout else broken, f"rekognition: {error}")


def _refusal(response: Mapping[str, Any]) -> BackendError:
    error, http = response.get("Error", {}), response.get("ResponseMetadata", {})
    status, code = http.get("HTTPStatusCode", 0), str(error.get("Code"))
    other = contract.UNAVAILABLE if status >= 500 else contract.REFUSED
    reason = _REASONS.get(code.removesuffix("Exception"), _REASONS.get(str(status), other))
    # Messages about signatures quote the request with its session token.
    message = f"{code}: {_HINT if reason == contract.CREDENTIALS else error.get('Message')}"
    wait = http.get("HTTPHeaders", {}).get("retry-after", "")
    return BackendError(reason, f"rekognition: {message}", retry_after=float(wait) if wait.isdecimal() else None)
