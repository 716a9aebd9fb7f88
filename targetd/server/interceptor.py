"""The one place where exceptions become gRPC statuses, around the gate and every handler."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from targetd.errors import TargetdError
from targetd.server.gate import OUR_METHODS, UNREADABLE, Gate
from targetd.server.statuses import internal_status, status_of

log = logging.getLogger(__name__)

Behavior = Callable[..., Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Reader = Callable[[bytes], Any]


class CallInterceptor(grpc.ServerInterceptor):
    """Answers our errors with their details, and all others with an id only.

    What an unexpected exception says may hold a path or a secret, so its text
    goes to the log and never to the caller.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        inner, wrapped = self._wrapped.get(method, (None, handler))
        if inner is not handler:
            wrapped = self._wrap(handler, method)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Handler, method: str) -> Handler:
        read = handler.request_deserializer
        if method.startswith(OUR_METHODS):
            read = _reading(read)
        made: Callable[..., Handler]
        inner: Behavior | None
        if inner := handler.unary_unary:
            made, around = grpc.unary_unary_rpc_method_handler, self._answering
        elif inner := handler.unary_stream:
            made, around = grpc.unary_stream_rpc_method_handler, self._streaming
        else:
            inner = handler.stream_stream
            made, around = grpc.stream_stream_rpc_method_handler, self._streaming
        assert inner is not None, "no method takes a stream and answers once"
        if getattr(inner, "experimental_non_blocking", False):
            around = self._without_thread
        return made(around(inner, method), read, handler.response_serializer)

    def _answering(self, inner: Behavior, method: str) -> Behavior:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with _translated(method, context), self._gate.passing(method, False, request, context):
                return inner(request, context)

        return call

    def _streaming(self, inner: Behavior, method: str) -> Behavior:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _translated(method, context), self._gate.passing(method, True, request, context):
                yield from inner(request, context)

        return call

    def _without_thread(self, inner: Behavior, method: str) -> Behavior:
        """For the health service's Watch, which gRPC lets run without a thread of its own."""

        def call(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
            with _translated(method, context), self._gate.passing(method, True, request, context):
                inner(request, context, send)

        # grpcio looks for the attribute, and declares it nowhere.
        call.experimental_non_blocking = True  # type: ignore[attr-defined]
        return call


def _reading(read: Reader | None) -> Reader:
    """gRPC itself would answer INTERNAL and log a trace for every message it cannot read."""
    assert read is not None, "generated code names its readers"

    def tolerant(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return UNREADABLE

    return tolerant


@contextmanager
def _translated(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
        return
    except TargetdError as error:
        log.info("%s: %s: %s", method, error.code.name, error.message)
        status = status_of(error)
    # The edge of the process: nothing may pass it untranslated.
    except Exception:
        incident = uuid.uuid4().hex
        log.exception("%s: incident %s", method, incident, extra={"incident": incident})
        status = internal_status(incident)
    context.abort_with_status(rpc_status.to_status(status))
