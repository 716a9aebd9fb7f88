"""What a driver call raises: one class per thing that a caller would do about it."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class DriverError(Exception):
    """The storage host did not do it; the message is the host's own."""

    def __init__(self, message: str, reason: str = "", metadata: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata)


class InvalidInput(DriverError):
    """The arguments are wrong; the message names each."""


class InvalidConnector(InvalidInput):
    """The connector lacks something, or it is malformed; the message names it."""


class NotFound(DriverError):
    """The volume, export or connection does not exist."""


class Refused(DriverError):
    """The state of the volume forbids it: in use elsewhere, or other parameters."""


class Forbidden(DriverError):
    """The role of the client's certificate does not allow it; the message names one that does."""


class Unavailable(DriverError):
    """Not now: the host is down, busy, out of space or late. Try again, or take it back."""


class Unsupported(DriverError):
    """The storage host cannot do this."""


KINDS: Mapping[grpc.StatusCode, type[DriverError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Refused,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}


def translated(error: grpc.Call) -> DriverError:
    code, message = error.code(), error.details() or ""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    fields: list[str] = []
    for detail in status.details if status else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest()
            detail.Unpack(request)
            fields = [violation.field for violation in request.field_violations]
    kind = KINDS.get(code, DriverError)
    if kind is InvalidInput and any(field.startswith("connector") for field in fields):
        kind = InvalidConnector
    return kind(message or code.name, info.reason or code.name, info.metadata)
