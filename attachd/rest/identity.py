"""Who calls: by a bearer token of a project, or, where it is configured so, whoever he says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attachd.errors import Invalid, NotAllowed
from attachd.model import Caller
from attachd.rest.faults import Unauthorized
from attachd.tokens import Tokens

# Of a caller who names none, without authentication.
DEFAULT_PROJECT = "admin"
# What records hold.
NAME_LENGTH_MAX = 255

Headers = Mapping[str, str]


class Identity(Protocol):
    def caller(self, headers: Headers, project: str | None, request_id: str) -> Caller:
        """``project`` is that of the address. Raises Unauthorized, NotAllowed, Invalid."""


def presented(headers: Headers) -> str:
    """The token of a request, or nothing."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    return headers.get("x-auth-token", "").strip()


class NoAuth:
    """Everybody is an administrator, of the project in the token ``USER:PROJECT`` or the address.

    Clients that know no authentication send a token too, which means nothing.
    """

    def caller(self, headers: Headers, project: str | None, request_id: str) -> Caller:
        user, colon, named = presented(headers).partition(":")
        if not colon:
            user, named = "", ""
        if project and named and project != named:
            raise Invalid(f"The address is of project {project}, and the token of {named}.")
        found = _name(named or project or DEFAULT_PROJECT)
        return Caller(found, _name(user), is_admin=True, request_id=request_id)


def _name(text: str) -> str:
    """Of a project or a user who is not known. Raises Invalid."""
    if len(text) > NAME_LENGTH_MAX or not text.isprintable():
        raise Invalid(
            f"The name of a project or a user has at most {NAME_LENGTH_MAX} characters, all of "
            "which can be printed."
        )
    return text


class Bearer:
    """Whoever has the token is of its project. An admin's token is good for any project."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def caller(self, headers: Headers, project: str | None, request_id: str) -> Caller:
        secret = presented(headers)
        if not secret:
            raise Unauthorized(
                "A token is needed, as X-Auth-Token or as Authorization: Bearer; "
                "`attachd token add --project NAME` makes one."
            )
        token = self._tokens.find(secret)
        if token is None:
            raise Unauthorized("The token is not known, or was removed.")
        if project is not None and project != token.project_id and not token.is_admin:
            raise NotAllowed(f"The token is not of project {project}.")
        found = _name(project or token.project_id)
        return Caller(found, token.name, is_admin=token.is_admin, request_id=request_id)
