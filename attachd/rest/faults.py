"""Errors as the field's clients read them: one JSON object, named for its status."""

from __future__ import annotations

import json
from collections.abc import Mapping

from attachd.errors import AttachError

NAMES: Mapping[int, str] = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    501: "notImplemented",
    503: "serviceUnavailable",
}
# Of all others.
NAME = "computeFault"


class BadMethod(AttachError):
    """The path is there, but not with this method."""

    code = 405


class NotAcceptable(AttachError):
    """A microversion that is not served."""

    code = 406


class NotServed(AttachError):
    """The field has it and attachd has not."""

    code = 501


class Overloaded(AttachError):
    """Too many requests wait already."""

    code = 503


class TooLarge(AttachError):
    """The body is longer than any that could be right."""

    code = 413


class BadMediaType(AttachError):
    """The body is not JSON, or does not say so."""

    code = 415


class Unauthorized(AttachError):
    """Who calls is not known."""

    code = 401


def body(code: int, message: str) -> bytes:
    return json.dumps({NAMES.get(code, NAME): {"code": code, "message": message}}).encode()


def incident(id_: str) -> str:
    """What a caller is told of an error that nobody foresaw; the log has the rest."""
    return f"The server failed in a way nobody foresaw. Its log has it as incident {id_}."
