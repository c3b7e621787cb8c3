"""Pub/Sub on this machine: a subscription behind the real protocol, for the real client."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, timestamp_pb2
from google.pubsub_v1 import types

SUBSCRIPTION = "projects/our-project/subscriptions/images"

_DEADLINE = 10.0  # seconds after which a message that is not acknowledged is delivered again
_LONGEST = 0.2  # seconds that a pull waits for a message; the real service waits longer


class Pubsub:
    """Delivers each message until it is acknowledged.

    Attributes:
      open: messages that are not acknowledged, by id.
      port: where it listens.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._due: dict[str, float] = {}  # when a message is to be delivered, by id
        self._changed = threading.Condition()
        self.open: dict[str, types.PubsubMessage] = {}
        self._server = grpc.server(ThreadPoolExecutor(4))
        handlers = {
            "Pull": _handler(self._pull, types.PullRequest.deserialize, types.PullResponse.serialize),
            "Acknowledge": _handler(
                self._acknowledge, types.AcknowledgeRequest.deserialize, empty_pb2.Empty.SerializeToString
            ),
        }
        service = grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", handlers)
        self._server.add_generic_rpc_handlers((service,))
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

    def close(self) -> None:
        self._server.stop(None)


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
