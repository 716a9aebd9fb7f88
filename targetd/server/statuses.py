"""Our errors as gRPC statuses with their details."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from targetd.errors import InvalidArgument, TargetdError

DOMAIN = "targetd"


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


def internal_status(incident: str) -> status_pb2.Status:
    """For what nobody expected: only the log says more."""
    return _status(
        grpc.StatusCode.INTERNAL,
        f"internal error; the log has it as incident {incident}",
        [error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN)],
    )


def _status(code: grpc.StatusCode, message: str, details: list[Any]) -> status_pb2.Status:
    packed = []
    for detail in details:
        holder = any_pb2.Any()
        holder.Pack(detail)
        packed.append(holder)
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=packed)
