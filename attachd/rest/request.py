"""What an endpoint gets, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from attachd.errors import Invalid, NotAllowed
from attachd.model import Caller
from attachd.site import Services

Body = TypeVar("Body", bound=BaseModel)

# In no text of ours; databases do not take it.
NUL = b"\\u0000"


class Answer(NamedTuple):
    status: int
    # None is no body at all.
    document: Mapping[str, Any] | None = None


# Of an action that is done, or begun.
ACCEPTED = Answer(202)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, of a caller who is known."""

    services: Services
    caller: Caller
    # The minor number of the microversion.
    version: int
    # What stood for each "*" of the route.
    ids: tuple[str, ...]
    params: Mapping[str, str]
    raw_body: bytes = field(repr=False)
    # Of the service, as the client knows it, without a version.
    root_url: str
    # Behind it, without a slash at the end: "v3", or "v3/PROJECT".
    prefix: str
    # Behind that, without the query: "volumes/detail".
    path: str

    @property
    def id(self) -> str:
        return self.ids[0]

    def body(self, model: type[Body]) -> Body:
        """Raises Invalid, naming each field that is wrong."""
        try:
            return model.model_validate_json(self._checked_body())
        except ValidationError as error:
            raise _invalid(error) from None

    def action(self) -> tuple[str, Any]:
        """The name of an action, and what belongs to it."""
        try:
            found = pydantic_core.from_json(self._checked_body())
        except ValueError as error:
            raise Invalid(f"The body is no JSON: {error}") from None
        if not isinstance(found, dict) or len(found) != 1:
            raise Invalid('The body must be an object with one action, like {"os-reserve": null}.')
        (item,) = found.items()
        return item

    def _checked_body(self) -> bytes:
        if NUL in self.raw_body:
            raise Invalid("The body has a NUL character (\\u0000); leave it out.")
        return self.raw_body

    def require_admin(self, what: str) -> None:
        if not self.caller.is_admin:
            raise NotAllowed(f"{what} is for administrators; use a token made with --admin.")


def parsed(model: type[Body], value: Any, where: str) -> Body:
    """What belongs to an action; null is an empty object. Raises Invalid."""
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        raise _invalid(error, where) from None


def _invalid(error: ValidationError, where: str = "") -> Invalid:
    # Without the values: a connector may hold what nobody should read in a log.
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return Invalid("; ".join(_violation(one["loc"], one["msg"], where) for one in found) + ".")


def _violation(place: tuple[int | str, ...], message: str, where: str) -> str:
    named = ".".join(str(step) for step in ((where, *place) if where else place))
    return f"{named or 'The body'}: {message}"
