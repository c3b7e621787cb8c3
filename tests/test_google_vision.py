from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Optional

import google.auth.exceptions
import google.cloud
import grpc
import pytest
from google.cloud import vision
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from beam_adacompress.backends import BackendError, Query, Terms, backend
from beam_adacompress.backends.google_vision import GoogleVision
from beam_adacompress.errors import AdaCompressError

CAT = vision.AnnotateImageResponse(label_annotations=[{"description": "Cat", "score": 0.75}])
ONE = [Query(b"image")]


class Api:
    """The ImageAnnotator on this machine. `answer` gives the answer to a request, as a message or as bytes."""

    def __init__(self) -> None:
        self.answer: Callable[[vision.BatchAnnotateImagesRequest, grpc.ServicerContext], Any] = all_cats
        self.requests: list[vision.BatchAnnotateImagesRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.closed = threading.Event()
        method = grpc.unary_unary_rpc_method_handler(
            self._serve,
            request_deserializer=vision.BatchAnnotateImagesRequest.deserialize,
            response_serializer=lambda answer: answer if isinstance(answer, bytes) else type(answer).serialize(answer),
        )
        service = "google.cloud.vision.v1.ImageAnnotator"
        self.server = grpc.server(
            futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 10_000_000)]
        )
        self.server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"BatchAnnotateImages": method})]
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.secure_port = self.server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
        self.server.start()

    def _serve(self, request: vision.BatchAnnotateImagesRequest, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return self.answer(request, context)

    def close(self) -> None:
        self.closed.set()
        self.server.stop(None).wait()


def all_cats(request: vision.BatchAnnotateImagesRequest, _: grpc.ServicerContext) -> vision.BatchAnnotateImagesResponse:
    return vision.BatchAnnotateImagesResponse(responses=[CAT] * len(request.requests))


def answering(*responses: object) -> Callable[..., vision.BatchAnnotateImagesResponse]:
    return lambda *_: vision.BatchAnnotateImagesResponse(responses=list(responses))


def failing(code: grpc.StatusCode, message: str = "no", *details: Any) -> Callable[..., None]:
    """Fails the call as Google's servers do: with a google.rpc.Status in the trailing metadata."""

    def answer(_: object, context: grpc.ServicerContext) -> None:
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(code, message)

    return answer


def retry_info(seconds: int, nanos: int = 0) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))


def failure(of: GoogleVision, timeout: float = 5.0) -> BackendError:
    with pytest.raises(BackendError) as caught:
        of.label(ONE, timeout)
    return caught.value


def said(error: Any) -> tuple[str, bool, Optional[float]]:
    assert isinstance(error, BackendError)
    return error.reason, error.retryable, error.retry_after


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "GRPC_PROXY", "grpc_proxy"):  # the loopback is not to be proxied
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    yield server
    server.close()


@pytest.fixture
def opened(api: Api) -> GoogleVision:
    made = GoogleVision(endpoint=f"http://127.0.0.1:{api.port}")
    made.open()
    return made


def test_a_full_batch(api: Api) -> None:
    made = backend(f"google-vision?max_results=5&endpoint=http://127.0.0.1:{api.port}")
    made.open()
    api.answer = lambda request, _: vision.BatchAnnotateImagesResponse(
        responses=[
            {
                "label_annotations": [
                    {"description": each.image.content.decode(), "score": 0.75},
                    {"description": "Wildlife", "score": 0.875},
                    {"description": "Ähre", "score": 0.25},
                ]
            }
            for each in request.requests
        ]
    )
    answers = made.label([Query(f"file {number}".encode(), key="k", quality=7) for number in range(16)], 5.0)
    assert answers == [((f"file {number}", 0.75), ("Wildlife", 0.875), ("Ähre", 0.25)) for number in range(16)]
    assert len(api.requests) == 1
    assert [len(each.features) for each in api.requests[0].requests] == [1] * 16
    features = [each.features[0] for each in api.requests[0].requests]
    assert {feature.type_ for feature in features} == {vision.Feature.Type.LABEL_DETECTION}
    assert {feature.max_results for feature in features} == {5}
    assert "authorization" not in api.metadata[0]


def test_nothing_seen(api: Api, opened: GoogleVision) -> None:
    api.answer = answering({})
    assert opened.label(ONE, 5.0) == [()]


def test_an_image_as_large_as_the_terms_allow(api: Api, opened: GoogleVision) -> None:
    data = bytes(7_400_000)
    assert opened.label([Query(data)], 20.0) == [(("Cat", 0.75),)]
    assert api.requests[0].requests[0].image.content == data


def test_a_message_larger_than_grpc_takes(opened: GoogleVision) -> None:
    with pytest.raises(BackendError) as caught:
        opened.label([Query(bytes(10_000_001))], 20.0)
    assert said(caught.value) == ("too-large-for-backend", False, None)


def test_several_threads(api: Api, opened: GoogleVision) -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: opened.label(ONE, 5.0), range(12)))
    assert answers == [[(("Cat", 0.75),)]] * 12


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (3, "Bad image data.", ("bad-image", False, None)),
        (3, "image-annotator::Bad image data.: Image processing error!", ("bad-image", False, None)),
        (3, "Image too large. Please limit to 75 megapixels.", ("too-large-for-backend", False, None)),
        (3, "Unknown feature.", ("refused", False, None)),
        (4, "Deadline exceeded.", ("timeout", True, None)),
        (7, "Permission denied.", ("credentials", False, None)),
        (8, "Quota exceeded: requests per minute.", ("throttled", True, None)),
        (8, "Quota exceeded: requests per day.", ("quota", False, None)),
        (13, "Internal error.", ("unavailable", True, None)),
        (14, "The service is currently unavailable.", ("unavailable", True, None)),
        (99, "", ("refused", False, None)),
    ],
)
def test_an_error_of_one_image(
    api: Api, opened: GoogleVision, code: int, message: str, expected: tuple[str, bool, Optional[float]]
) -> None:
    api.answer = answering(CAT, {"error": {"code": code, "message": message}}, CAT)
    first, second, third = opened.label(ONE * 3, 5.0)
    assert (first, third) == ((("Cat", 0.75),), (("Cat", 0.75),))
    assert said(second) == expected


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.5, 1.5])
def test_an_impossible_score(api: Api, opened: GoogleVision, score: float) -> None:
    api.answer = answering({"label_annotations": [{"description": "Dog", "score": score}]}, CAT)
    first, second = opened.label(ONE * 2, 5.0)
    assert said(first) == ("bad-answer", True, None)
    assert second == (("Cat", 0.75),)


def test_a_label_without_a_name(api: Api, opened: GoogleVision) -> None:
    api.answer = answering(CAT, {"label_annotations": [{"description": "Dog", "score": 0.5}, {"score": 0.25}]})
    first, second = opened.label(ONE * 2, 5.0)
    assert first == (("Cat", 0.75),)
    assert said(second) == ("bad-answer", True, None)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_or_too_many_answers(api: Api, opened: GoogleVision, count: int) -> None:
    api.answer = answering(*[CAT] * count)
    with pytest.raises(BackendError, match=f"gave {count} answers for 2 images") as caught:
        opened.label(ONE * 2, 5.0)
    assert said(caught.value) == ("bad-answer", True, None)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>502 Bad Gateway</html>",
        vision.BatchAnnotateImagesResponse.serialize(vision.BatchAnnotateImagesResponse(responses=[CAT]))[:-3],
        b"",
    ],
    ids=["garbage", "truncated", "empty"],
)
def test_an_answer_that_is_none(api: Api, opened: GoogleVision, body: bytes) -> None:
    api.answer = lambda *_: body
    assert said(failure(opened)) == ("bad-answer", True, None)


S = grpc.StatusCode
PER_DAY = error_details_pb2.ErrorInfo(
    reason="RATE_LIMIT_EXCEEDED",
    domain="googleapis.com",
    metadata={"quota_limit": "RequestsPerDayPerProject", "service": "vision.googleapis.com"},
)
PER_MINUTE = "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute' of vision.googleapis.com."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (failing(S.UNAVAILABLE), ("unavailable", True, None)),
        (failing(S.UNAVAILABLE, "later", retry_info(3)), ("unavailable", True, 3.0)),
        (failing(S.INTERNAL), ("unavailable", True, None)),
        (failing(S.ABORTED), ("unavailable", True, None)),
        (failing(S.UNKNOWN), ("unavailable", True, None)),
        (failing(S.CANCELLED), ("unavailable", True, None)),
        (failing(S.DATA_LOSS), ("unavailable", True, None)),
        (failing(S.DEADLINE_EXCEEDED), ("timeout", True, None)),
        (failing(S.RESOURCE_EXHAUSTED, PER_MINUTE), ("throttled", True, None)),
        (failing(S.RESOURCE_EXHAUSTED, PER_MINUTE, retry_info(7, 500_000_000)), ("throttled", True, 7.5)),
        (failing(S.RESOURCE_EXHAUSTED, "Quota exceeded: 'Requests per day'."), ("quota", False, None)),
        (failing(S.RESOURCE_EXHAUSTED, "Quota exceeded.", PER_DAY), ("quota", False, None)),
        (failing(S.UNAUTHENTICATED, "Request had invalid credentials."), ("credentials", False, None)),
        (failing(S.PERMISSION_DENIED, "Cloud Vision API is disabled."), ("credentials", False, None)),
        (failing(S.INVALID_ARGUMENT, "Request contains an invalid argument."), ("refused", False, None)),
        (
            failing(S.INVALID_ARGUMENT, "Request payload size exceeds the limit: 10485760 bytes."),
            ("too-large-for-backend", False, None),
        ),
        (failing(S.FAILED_PRECONDITION), ("refused", False, None)),
        (failing(S.UNIMPLEMENTED), ("refused", False, None)),
    ],
)
def test_a_call_that_fails(
    api: Api, opened: GoogleVision, answer: Any, expected: tuple[str, bool, Optional[float]]
) -> None:
    api.answer = answer
    assert said(failure(opened)) == expected
    assert len(api.requests) == 1, "the SDK tried again by itself"


def test_credentials_that_lack_a_permission_say_what_to_do(api: Api, opened: GoogleVision) -> None:
    api.answer = failing(S.PERMISSION_DENIED, "Cloud Vision API has not been used in project 7 before.")
    assert str(failure(opened)) == (
        "google-vision: Cloud Vision API has not been used in project 7 before; run `gcloud auth "
        "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
    )


def test_slow_but_within_the_timeout(api: Api, opened: GoogleVision) -> None:
    def slowly(*asked: Any) -> vision.BatchAnnotateImagesResponse:
        time.sleep(0.4)
        return all_cats(*asked)

    api.answer = slowly
    assert opened.label(ONE, 5.0) == [(("Cat", 0.75),)]


def test_a_hang_ends_at_the_timeout(api: Api, opened: GoogleVision) -> None:
    def hang(*_: object) -> vision.BatchAnnotateImagesResponse:
        api.closed.wait()
        return vision.BatchAnnotateImagesResponse()

    opened.label(ONE, 5.0)  # connects
    api.answer = hang
    start = time.monotonic()
    error = failure(opened, timeout=0.5)
    assert 0.4 < time.monotonic() - start < 4.0
    assert said(error) == ("timeout", True, None)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    made = GoogleVision(endpoint=f"http://127.0.0.1:{port}")
    made.open()
    assert said(failure(made)) == ("unavailable", True, None)


def test_the_connection_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reset() -> None:
            connection, _ = listening.accept()
            connection.recv(1)
            connection.close()  # with bytes unread: a reset

        threading.Thread(target=reset, daemon=True).start()
        made = GoogleVision(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}")
        made.open()
        assert said(failure(made)) == ("unavailable", True, None)


def test_the_server_stops_in_the_middle(api: Api, opened: GoogleVision) -> None:
    def stop(_: object, context: grpc.ServicerContext) -> None:
        threading.Thread(target=api.server.stop, args=(0,), daemon=True).start()
        api.closed.wait(10.0)

    api.answer = stop
    assert said(failure(opened))[:2] == ("unavailable", True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (google.auth.exceptions.RefreshError("invalid_grant: Bad Request", {"refresh_token": "s3cret"}), "credentials"),
        (google.auth.exceptions.TransportError("oauth2.googleapis.com: Max retries exceeded"), "unavailable"),
    ],
)
def test_a_token_that_cannot_be_had(api: Api, opened: GoogleVision, error: Exception, reason: str) -> None:
    class Plugin(grpc.AuthMetadataPlugin):  # as google-auth's, which asks for a token
        def __call__(self, context: object, callback: Any) -> None:
            callback((), error)

    credentials = grpc.composite_channel_credentials(
        grpc.local_channel_credentials(), grpc.metadata_call_credentials(Plugin())
    )
    channel = grpc.secure_channel(f"127.0.0.1:{api.secure_port}", credentials, [("grpc.enable_http_proxy", 0)])
    transport = vision.ImageAnnotatorClient.get_transport_class("grpc")(channel=channel)
    opened._client = vision.ImageAnnotatorClient(transport=transport)
    found = failure(opened)
    assert found.reason == reason
    assert "s3cret" not in str(found)


def test_whatever_else_the_sdk_throws(opened: GoogleVision) -> None:
    class Client:
        def batch_annotate_images(self, **_: object) -> None:
            raise ZeroDivisionError("s3cret")

    opened._client = Client()
    error = failure(opened)
    assert said(error) == ("refused", False, None)
    assert str(error) == "google-vision: ZeroDivisionError"


KEY_FILE = {
    "type": "service_account",
    "private_key": "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n",
}


@pytest.mark.parametrize("content", [None, "{", "{}", json.dumps(KEY_FILE)], ids=["none", "broken", "empty", "wrong"])
def test_no_credentials(tmp_path: Any, content: Optional[str]) -> None:
    for path in [tmp_path / "nowhere.json"] * (content is not None):
        path.write_text(content or "")
    start = time.monotonic()
    with pytest.raises(AdaCompressError, match="gcloud auth application-default login") as caught:
        GoogleVision().open()
    assert time.monotonic() - start < 2.0
    assert "s3cret" not in str(caught.value)


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(google.cloud, "vision")
    monkeypatch.setitem(sys.modules, "google.cloud.vision", None)
    with pytest.raises(AdaCompressError) as caught:
        GoogleVision().open()
    assert str(caught.value) == "google-vision needs google-cloud-vision: pip install 'beam-adacompress[gcp]'"


def test_another_host_is_reached_with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(vision, "ImageAnnotatorClient", lambda **options: made.append(options))
    GoogleVision(endpoint="eu-vision.googleapis.com").open()
    assert made == [{"client_options": {"api_endpoint": "eu-vision.googleapis.com"}}]


def test_terms() -> None:
    assert backend("google-vision").terms == Terms(
        name="google-vision",
        version="v1,label_detection,max_results=10",
        max_batch=16,
        max_bytes=7_400_000,
        max_batch_bytes=7_400_000,
        max_pixels=75_000_000,
        price=0.0015,
        is_local=False,
        cacheable=True,
    )
    assert GoogleVision(max_results=3).terms.version == "v1,label_detection,max_results=3"
    assert GoogleVision(price=1.0, endpoint="eu-vision.googleapis.com").terms.version == GoogleVision().terms.version


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"endpoint": "http://vision.googleapis.com"}, "on this machine"),
        ({"endpoint": "http://127.0.0.1:80@example.com"}, "on this machine"),
        ({"endpoint": "http://10.0.0.1:80"}, "on this machine"),
        ({"endpoint": "https://vision.googleapis.com"}, "endpoint is HOST"),
        ({"endpoint": "ftp://127.0.0.1:1"}, "endpoint is HOST"),
        ({"max_results": 0}, "max_results=0"),
    ],
)
def test_refused_parameters(parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        GoogleVision(**parameters)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("google-vision?max_results=many", "max_results=many is no"),
        ("google-vision?key=secret", "known: max_results, endpoint, price"),
        ("google-vision:path", "takes no path"),
    ],
)
def test_refused_uris(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        backend(uri)
