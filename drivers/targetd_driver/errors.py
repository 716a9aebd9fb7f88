"""What a driver call raises: one class per thing that a caller would do about it."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class DriverError(Exception):
    """The storage host did not do it; the message is the host's own.

    ``answered``: the host itself says that it is not done. Without that it may have been, or may
    yet be: repeat the call, or take it back.
    """

    def __init__(
        self,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] = {},
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata)
        self.answered = answered


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


class NoSpace(Unavailable):
    """The pool is full, or over one of its marks; the message says which."""


class Late(Unavailable):
    """No answer in time. What was asked for may yet be done."""


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
    # By the host, which stops: nobody here cancels a call.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Late,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}
# Of RESOURCE_EXHAUSTED: what is about the client, not about a pool.
TOO_MANY = ("TOO_MANY_CALLS", "TOO_MANY_WATCHERS")
# The daemon's name in its errors; what others say of a call tells nothing of its outcome,
# nor do these of its own codes.
DOMAIN = "targetd"
UNKNOWN_OUTCOME = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL)


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
    if kind is Unavailable and _lacks_space(code, info):
        kind = NoSpace
    answered = info.domain == DOMAIN and code not in UNKNOWN_OUTCOME
    return kind(message or code.name, info.reason or code.name, info.metadata, answered)


def _lacks_space(code: grpc.StatusCode, info: error_details_pb2.ErrorInfo) -> bool:
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED and info.domain == DOMAIN
    return exhausted and info.reason not in TOO_MANY
