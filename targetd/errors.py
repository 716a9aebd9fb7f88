"""The errors that callers see. One interceptor turns them into gRPC statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc


class TargetdError(Exception):
    """An error a caller can act on.

    ``message`` says what is wrong and what cures it; ``reason`` is a stable
    machine-readable word; ``metadata`` names the things involved. None of the
    three ever holds a secret.
    """

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"

    def __init__(self, message: str, reason: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata: Mapping[str, str] = metadata


@dataclass(frozen=True)
class FieldViolation:
    field: str
    description: str


class InvalidArgument(TargetdError):
    """One or more fields of the request are wrong; each is named."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class NotFound(TargetdError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class PermissionDenied(TargetdError):
    """The client's role does not allow it; the message names the role needed."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "FORBIDDEN"


class AlreadyExists(TargetdError):
    """The id is taken by something with other parameters."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class FailedPrecondition(TargetdError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class ResourceExhausted(TargetdError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(TargetdError):
    """The caller's deadline passed; retry the call, or negate it."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Aborted(TargetdError):
    """Too many operations wait for this volume; back off and retry."""

    code = grpc.StatusCode.ABORTED
    reason = "BUSY"


class Unimplemented(TargetdError):
    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class Unavailable(TargetdError):
    """The host cannot do it now: LVM or the kernel refused; the log says more."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class StartError(Exception):
    """The daemon must not start; the message says why and what to do, in one line."""


class NotReady(StartError):
    """What is missing may still come, as disks do at boot: starting again later may help."""
