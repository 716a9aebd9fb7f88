"""How every call is made: in bounded time, its failure translated, its list gone through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from targetd_driver.errors import translated

Answer = TypeVar("Answer")


class Calls:
    """The channel to one storage host. Safe for use by several threads."""

    def __init__(self, channel: grpc.Channel, timeout_seconds: float) -> None:
        self.channel = channel
        self.timeout_seconds = timeout_seconds

    def within(self, seconds: float) -> Calls:
        """The same, with calls that take no longer than that."""
        return Calls(self.channel, min(seconds, self.timeout_seconds))

    def call(self, method: Callable[..., Answer], request: Any) -> Answer:
        """Raises DriverError or a kind of it."""
        try:
            return method(request, timeout=self.timeout_seconds)
        except grpc.RpcError as error:
            # Every error of a call is also the call itself (grpc.RpcError's docs).
            raise translated(cast(grpc.Call, error)) from None

    def pages(self, method: Callable[..., Any], request: Any, field: str) -> Iterator[Any]:
        """The items of a list, which is asked for page by page. Raises as ``call``."""
        while True:
            answer = self.call(method, request)
            yield from getattr(answer, field)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    def stream(
        self, method: Callable[..., Iterator[Answer]], request: Any, seconds: float
    ) -> Iterator[Answer]:
        """What comes until the stream's end. Raises as ``call``; Late when the time is over."""
        stream = method(request, timeout=seconds)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise translated(cast(grpc.Call, error)) from None
        finally:
            # The daemon has room for a few who watch: leave at once.
            cast(grpc.Call, stream).cancel()


def time_of(message: Timestamp) -> datetime:
    return message.ToDatetime(UTC)
