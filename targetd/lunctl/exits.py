"""The exit statuses: one for each kind of outcome, so that scripts need not read messages."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    OTHER = 1
    USAGE = 2
    NOT_FOUND = 3
    OTHER_PARAMETERS = 4
    REFUSED = 5
    NO_SPACE = 6
    NOT_ALLOWED = 7
    UNREACHABLE = 8
    LATE = 9
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "Done, or already so.",
    Exit.OTHER: "Anything that is not below; doctor: something was found; reconcile: not all "
    "could be put right.",
    Exit.USAGE: "The command line, or a value in it, is wrong.",
    Exit.NOT_FOUND: "What was named does not exist.",
    Exit.OTHER_PARAMETERS: "The id is taken by something with other parameters.",
    Exit.REFUSED: "Refused as things are now; the message says what stands against it.",
    Exit.NO_SPACE: "No space, or a limit is reached.",
    Exit.NOT_ALLOWED: "Not allowed: the socket, the certificate, or its role.",
    Exit.UNREACHABLE: "The daemon cannot be reached, is starting or stopping, or its host "
    "could not do it now.",
    Exit.LATE: "Not done in time, or too much waits already. Repeat the same command.",
    Exit.INTERRUPTED: "Interrupted from the keyboard.",
}
# By the name of the gRPC status; grpc itself is imported only when something is called.
OF_CODES: Mapping[str, Exit] = {
    "INVALID_ARGUMENT": Exit.USAGE,
    "OUT_OF_RANGE": Exit.USAGE,
    "NOT_FOUND": Exit.NOT_FOUND,
    "ALREADY_EXISTS": Exit.OTHER_PARAMETERS,
    "FAILED_PRECONDITION": Exit.REFUSED,
    "RESOURCE_EXHAUSTED": Exit.NO_SPACE,
    "PERMISSION_DENIED": Exit.NOT_ALLOWED,
    "UNAUTHENTICATED": Exit.NOT_ALLOWED,
    "UNAVAILABLE": Exit.UNREACHABLE,
    "DEADLINE_EXCEEDED": Exit.LATE,
    "ABORTED": Exit.LATE,
}
