"""Lists: filters, sorting and pages, as they stand in a query, and the link to the next page."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from attachd.errors import Invalid
from attachd.model import Page, SortKey
from attachd.rest import versions
from attachd.rest.request import Request

# The most that one answer holds, and what it holds where nobody says.
LIMIT_MAX = 1000
DIRECTIONS = {"desc": True, "asc": False}
PAGING = frozenset({"limit", "marker", "offset", "sort", "sort_key", "sort_dir", "with_count"})
TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
FALSE = frozenset({"0", "f", "false", "off", "n", "no"})
# What the field calls them, beside the names that they have here.
SORT_KEYS = {"display_name": SortKey.NAME}


def page(request: Request) -> Page:
    """Raises Invalid for a limit, an offset or a sorting that cannot be."""
    params = request.params
    key, descending = _sorting(params)
    return Page(
        limit=min(_number(params, "limit", LIMIT_MAX), LIMIT_MAX),
        marker=params.get("marker") or None,
        sort_key=key,
        descending=descending,
        offset=_number(params, "offset", 0),
    )


def wants_count(request: Request) -> bool:
    """How many there are on all pages; older microversions do not know that."""
    wanted = boolean(request.params.get("with_count", "false"), "with_count")
    return wanted and request.version >= versions.COUNT


def _number(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name, "")
    if not text:
        return default
    # A database counts up to that.
    if not (text.isascii() and text.isdecimal()) or int(text) >= 1 << 31:
        raise Invalid(f"{name}: must be a whole number, not negative, below 2147483648.")
    return int(text)


def _sorting(params: Mapping[str, str]) -> tuple[SortKey, bool]:
    """Of "sort=key:dir", or of "sort_key" and "sort_dir"; the first of several."""
    key, _, direction = params.get("sort", "").split(",")[0].strip().partition(":")
    key = key or params.get("sort_key", "") or SortKey.CREATED
    direction = direction or params.get("sort_dir", "") or "desc"
    if direction not in DIRECTIONS:
        raise Invalid("sort: the direction must be asc or desc.")
    if key in SORT_KEYS:
        return SORT_KEYS[key], DIRECTIONS[direction]
    try:
        return SortKey(key), DIRECTIONS[direction]
    except ValueError:
        known = ", ".join(SortKey)
        raise Invalid(f"sort: there is no sorting by {key}; it can be by {known}.") from None


def filters(
    request: Request, known: Collection[str], ignored: Collection[str] = ()
) -> dict[str, str]:
    """What the query filters by, without what is about pages.

    From microversion 3.31 on an unknown filter is refused, before that it filters nothing.
    """
    found = {name: value for name, value in request.params.items() if name not in PAGING}
    unknown = sorted(set(found) - set(known) - set(ignored))
    if unknown and request.version >= versions.STRICT_FILTERS:
        raise Invalid(
            f"Invalid filters {', '.join(unknown)} are found in query options; there are: "
            f"{', '.join(sorted(known))}."
        )
    return {name: value for name, value in found.items() if name in known}


def of_projects(request: Request, found: dict[str, str]) -> tuple[bool, str | None]:
    """Whether records of all projects are asked for, or of another one; only admins get them.

    Both are taken out of the filters.
    """
    everybody = boolean(found.pop("all_tenants", "false"), "all_tenants")
    project = found.pop("project_id", None)
    if not request.caller.is_admin:
        return False, None
    return everybody or project is not None, project


def boolean(text: str, name: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise Invalid(f"{name}: must be true or false.")


def mapping(text: str, name: str) -> dict[str, str]:
    """Clients send the text of a Python dictionary, or JSON."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}
    raise Invalid(f'{name}: must be like {{"key": "value"}}.')


def document(
    request: Request, name: str, shown: Sequence[Mapping[str, Any]], wanted: Page
) -> dict[str, Any]:
    """A page of a list, with a link to the next where there may be one."""
    found: dict[str, Any] = {name: shown}
    if shown and len(shown) == wanted.limit:
        kept = {key: value for key, value in request.params.items() if key != "offset"}
        query = urlencode({**kept, "marker": shown[-1]["id"]})
        href = f"{request.root_url}/{request.prefix}/{request.path}?{query}"
        found[f"{name}_links"] = [{"rel": "next", "href": href}]
    return found
