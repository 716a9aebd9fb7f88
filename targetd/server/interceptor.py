"""The one place where exceptions become gRPC statuses."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from targetd.errors import InvalidArgument, TargetdError

log = logging.getLogger(__name__)

DOMAIN = "targetd"
Handler = Callable[[Any, grpc.ServicerContext], Any]


class ErrorInterceptor(grpc.ServerInterceptor):
    """Answers our errors with their details, and all others with an id only.

    What an unexpected exception says may hold a path or a secret, so its text
    goes to the log and never to the caller.
    """

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(
            _translating(handler.unary_unary, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _translating(handler: Handler, method: str) -> Handler:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return handler(request, context)
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
        raise AssertionError("abort_with_status always raises")

    return call


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
