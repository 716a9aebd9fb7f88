"""The one place where exceptions become gRPC statuses."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from targetd.errors import FieldViolation, InvalidArgument, TargetdError, Unavailable

log = logging.getLogger(__name__)

DOMAIN = "targetd"
# What answers before the daemon serves: health and reflection are not ours.
OUR_METHODS = "/targetd."
Handler = Callable[[Any, grpc.ServicerContext], Any]
Reader = Callable[[bytes], Any]
# Stands for a request that is no protobuf message.
UNREADABLE = object()


class ErrorInterceptor(grpc.ServerInterceptor):
    """Answers our errors with their details, and all others with an id only.

    What an unexpected exception says may hold a path or a secret, so its text
    goes to the log and never to the caller. Until ``serve`` every call of ours
    is told to come back later.
    """

    def __init__(self) -> None:
        self._serving = threading.Event()

    def serve(self) -> None:
        self._serving.set()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OUR_METHODS):
            return handler
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, method),
                request_deserializer=_reading(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        assert handler.unary_unary is not None, "no call of ours takes a stream"
        return grpc.unary_unary_rpc_method_handler(
            self._answering(handler.unary_unary, method),
            request_deserializer=_reading(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _answering(self, handler: Handler, method: str) -> Handler:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with _translated(method, context):
                self._refuse(request)
                return handler(request, context)

        return call

    def _streaming(self, handler: Handler, method: str) -> Handler:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _translated(method, context):
                self._refuse(request)
                yield from handler(request, context)

        return call

    def _refuse(self, request: Any) -> None:
        if request is UNREADABLE:
            raise InvalidArgument([FieldViolation("request", "is no message of this call")])
        if not self._serving.is_set():
            raise Unavailable(
                "the daemon is starting and brings its exports into order; try again soon",
                reason="STARTING",
            )


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
        log.exception("%s: incident %s", method, incident)
        status = _status(
            grpc.StatusCode.INTERNAL,
            f"internal error; the log has it as incident {incident}",
            [error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN)],
        )
    context.abort_with_status(rpc_status.to_status(status))


def status_of(error: TargetdError) -> status_pb2.Status:
    details: list[Any] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata)
        )
    ]
    if isinstance(error, InvalidArgument):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    return _status(error.code, error.message, details)


def _status(code: grpc.StatusCode, message: str, details: list[Any]) -> status_pb2.Status:
    packed = []
    for detail in details:
        holder = any_pb2.Any()
        holder.Pack(detail)
        packed.append(holder)
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=packed)
