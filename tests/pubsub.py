"""Pub/Sub on this machine, for the real client: a stand-in behind the real protocol, or the emulator of the gcloud SDK.

The emulator is the one that PUBSUB_EMULATOR_HOST names, or one that is started where the gcloud SDK has it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import pubsub
from google.protobuf import empty_pb2, timestamp_pb2
from google.pubsub_v1 import types
from portable import free_port, wait_for

SUBSCRIPTION = "projects/our-project/subscriptions/images"
TOPIC = "projects/our-project/topics/results"

_DEADLINE = 10.0  # seconds after which a message that is not acknowledged is delivered again
_LONGEST = 0.2  # seconds that a pull waits for a message; the real service waits longer


class Pubsub:
    """Delivers each message until it is acknowledged.

    Attributes:
      subscription, topic: that jobs are to use.
      open: messages that are not acknowledged, by id.
      port: where it listens.
    """

    subscription, topic = SUBSCRIPTION, TOPIC

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._due: dict[str, float] = {}  # when a message is to be delivered, by id
        self._changed = threading.Condition()
        self.open: dict[str, types.PubsubMessage] = {}
        self._told: list[types.PubsubMessage] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        empty = empty_pb2.Empty.SerializeToString
        subscriber = {
            "Pull": _handler(self._pull, types.PullRequest.deserialize, types.PullResponse.serialize),
            "Acknowledge": _handler(self._acknowledge, types.AcknowledgeRequest.deserialize, empty),
            "ModifyAckDeadline": _handler(self._modify, types.ModifyAckDeadlineRequest.deserialize, empty),
        }
        publisher = {
            "Publish": _handler(self._published, types.PublishRequest.deserialize, types.PublishResponse.serialize)
        }
        services = {"Subscriber": subscriber, "Publisher": publisher}
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(f"google.pubsub.v1.{name}", handlers)
                for name, handlers in services.items()
            )
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def publish(self, data: bytes = b"", age: float = 0.0, **attributes: str) -> None:
        """Publishes a message as if so many seconds ago."""
        published = time.time() - age
        message = types.PubsubMessage(data=data, attributes=attributes, message_id=str(next(self._ids)))
        message.publish_time = timestamp_pb2.Timestamp(seconds=int(published), nanos=int(published % 1 * 1e9))
        with self._changed:
            self.open[message.message_id] = message
            self._due[message.message_id] = 0.0
            self._changed.notify_all()

    def _ready(self) -> list[str]:
        return [name for name in self.open if self._due[name] <= time.monotonic()]

    def _pull(self, request: types.PullRequest) -> types.PullResponse:
        with self._changed:
            self._changed.wait_for(self._ready, _LONGEST)
            names = self._ready()[: request.max_messages]
            for name in names:
                self._due[name] = time.monotonic() + _DEADLINE
            messages = [types.ReceivedMessage(ack_id=name, message=self.open[name]) for name in names]
        return types.PullResponse(received_messages=messages)

    def _acknowledge(self, request: types.AcknowledgeRequest) -> empty_pb2.Empty:
        with self._changed:
            for name in request.ack_ids:
                self.open.pop(name, None)
        return empty_pb2.Empty()

    def _modify(self, request: types.ModifyAckDeadlineRequest) -> empty_pb2.Empty:
        with self._changed:
            for name in self.open.keys() & request.ack_ids:
                self._due[name] = time.monotonic() + request.ack_deadline_seconds
        return empty_pb2.Empty()

    def _published(self, request: types.PublishRequest) -> types.PublishResponse:
        assert request.topic == TOPIC
        with self._changed:
            self._told += request.messages
            return types.PublishResponse(message_ids=[str(next(self._ids)) for _ in request.messages])

    def pending(self) -> list[bytes]:
        """Bodies of the messages that are not acknowledged; as if their leases had ended meanwhile."""
        with self._changed:
            self._due = dict.fromkeys(self.open, 0.0)
            return [message.data for message in self.open.values()]

    def told(self) -> list[types.PubsubMessage]:
        """Messages that were published to the topic."""
        return list(self._told)

    def close(self) -> None:
        self._server.stop(None)


class Emulator:
    """Google's own emulator, with the attributes and methods of Pubsub that it can have."""

    def __init__(self) -> None:
        self._publisher, self._subscriber = pubsub.PublisherClient(), pubsub.SubscriberClient()
        name = uuid.uuid4().hex
        self._images, self.topic = (f"projects/our-project/topics/{kind}-{name}" for kind in ("images", "results"))
        self.subscription, self._results = (
            each.replace("/topics/", "/subscriptions/") for each in (self._images, self.topic)
        )
        for topic, subscription in ((self._images, self.subscription), (self.topic, self._results)):
            self._publisher.create_topic(name=topic)
            self._subscriber.create_subscription(name=subscription, topic=topic, ack_deadline_seconds=int(_DEADLINE))

    def publish(self, data: bytes = b"", **attributes: str) -> None:
        self._publisher.publish(self._images, data, **attributes).result()

    def pending(self) -> list[bytes]:
        """Likewise, and waits until those leases have ended."""
        time.sleep(_DEADLINE + 2)
        return [message.data for message in self._rest(self.subscription)]

    def told(self) -> list[types.PubsubMessage]:
        return self._rest(self._results)

    def _rest(self, subscription: str) -> list[types.PubsubMessage]:
        """What is delivered until nothing comes; it is given back at once."""
        received: dict[str, types.ReceivedMessage] = {}
        with contextlib.suppress(exceptions.DeadlineExceeded):
            while found := self._subscriber.pull(
                subscription=subscription, max_messages=100, timeout=2, retry=None
            ).received_messages:
                received |= {each.message.message_id: each for each in found}
        if received:
            names = [each.ack_id for each in received.values()]
            self._subscriber.modify_ack_deadline(subscription=subscription, ack_ids=names, ack_deadline_seconds=0)
        return [each.message for each in received.values()]

    def close(self) -> None:
        self._publisher.stop()
        self._subscriber.close()


def _handler(answer: Callable[[Any], Any], read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Any:
    return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(request), read, write)


@contextlib.contextmanager
def subscribed() -> Iterator[Pubsub]:
    """A subscription that the client finds through PUBSUB_EMULATOR_HOST."""
    server = Pubsub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{server.port}")
        try:
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def emulated() -> Iterator[Emulator]:
    """The emulator; skips the test where there is none."""
    with contextlib.ExitStack() as stack:
        if "PUBSUB_EMULATOR_HOST" not in os.environ:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("PUBSUB_EMULATOR_HOST", stack.enter_context(_running()))
        yield stack.enter_context(contextlib.closing(Emulator()))


@contextlib.contextmanager
def _running() -> Iterator[str]:
    sdk = Path(shutil.which("gcloud") or "/nowhere/bin/gcloud").resolve().parent.parent
    command = sdk / "platform" / "pubsub-emulator" / "bin" / "cloud-pubsub-emulator"
    if not command.is_file() or not shutil.which("java"):
        pytest.skip(
            "no emulator of Pub/Sub: PUBSUB_EMULATOR_HOST is not set, and gcloud, its component pubsub-emulator or "
            "Java is not installed"
        )
    port = free_port()
    process = subprocess.Popen(
        [command, "--host=127.0.0.1", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()  # the script has become Java
        process.wait()
