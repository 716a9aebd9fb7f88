"""Every path that is served, behind ``/v3`` and the project. A ``*`` stands for any one part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from attachd.errors import NotFound
from attachd.rest import (
    actions,
    attachments,
    filters,
    metadata,
    site,
    snapshots,
    types,
    versions,
    volumes,
)
from attachd.rest.faults import BadMethod, NotServed
from attachd.rest.request import Answer, Request

Endpoint = Callable[[Request], Answer]


class Route(NamedTuple):
    endpoint: Endpoint
    # The first microversion that has it.
    since: int = 0


def _metadata(things: str, of: metadata.Metadata) -> dict[str, dict[str, Route]]:
    return {
        f"{things}/*/metadata": {
            "GET": Route(of.show),
            "POST": Route(of.add),
            "PUT": Route(of.replace),
        },
        f"{things}/*/metadata/*": {
            "GET": Route(of.show_one),
            "PUT": Route(of.set_one),
            "DELETE": Route(of.delete_one),
        },
    }


_SINCE = versions.ATTACHMENTS
ROUTES: Mapping[str, Mapping[str, Route]] = {
    "volumes": {"GET": Route(volumes.list_), "POST": Route(volumes.create)},
    "volumes/detail": {"GET": Route(volumes.list_detail)},
    "volumes/summary": {"GET": Route(volumes.summary, versions.SUMMARY)},
    "volumes/*": {
        "GET": Route(volumes.show),
        "PUT": Route(volumes.update),
        "DELETE": Route(volumes.delete),
    },
    "volumes/*/action": {"POST": Route(actions.act)},
    **_metadata("volumes", metadata.VOLUMES),
    "snapshots": {"GET": Route(snapshots.list_), "POST": Route(snapshots.create)},
    "snapshots/detail": {"GET": Route(snapshots.list_detail)},
    "snapshots/*": {
        "GET": Route(snapshots.show),
        "PUT": Route(snapshots.update),
        "DELETE": Route(snapshots.delete),
    },
    "snapshots/*/action": {"POST": Route(snapshots.act)},
    **_metadata("snapshots", metadata.SNAPSHOTS),
    "attachments": {
        "GET": Route(attachments.list_, _SINCE),
        "POST": Route(attachments.create, _SINCE),
    },
    "attachments/detail": {"GET": Route(attachments.list_detail, _SINCE)},
    "attachments/*": {
        "GET": Route(attachments.show, _SINCE),
        "PUT": Route(attachments.update, _SINCE),
        "DELETE": Route(attachments.delete, _SINCE),
    },
    "attachments/*/action": {"POST": Route(attachments.act, versions.COMPLETE)},
    "types": {"GET": Route(types.list_)},
    "types/*": {"GET": Route(types.show)},
    "types/*/extra_specs": {"GET": Route(types.extra_specs)},
    "types/*/extra_specs/*": {"GET": Route(types.extra_spec)},
    "limits": {"GET": Route(site.limits)},
    "os-quota-sets/*": {"GET": Route(site.quotas)},
    "os-quota-sets/*/defaults": {"GET": Route(site.quota_defaults)},
    "os-services": {"GET": Route(site.services)},
    "os-availability-zone": {"GET": Route(site.zones)},
    "scheduler-stats/get_pools": {"GET": Route(site.pools)},
    "extensions": {"GET": Route(site.extensions)},
    "resource_filters": {"GET": Route(filters.list_, versions.RESOURCE_FILTERS)},
}
# What the field has beside that.
NOT_SERVED = frozenset(
    {"backups", "cgsnapshots", "clusters", "consistencygroups", "default-types", "encryption"}
    | {"group_snapshots", "group_types", "groups", "manageable_snapshots", "manageable_volumes"}
    | {"messages", "os-hosts", "os-quota-class-sets", "os-snapshot-manage", "os-volume-manage"}
    | {"os-volume-transfer", "qos-specs", "volume-transfers", "workers"}
    | {"capabilities", "snapshot_metadata", "os-volume-type-access", "group_specs"}
)
COLLECTIONS = frozenset(path.partition("/")[0] for path in ROUTES) | NOT_SERVED


def of_project(parts: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The project that a path begins with, and the rest; no project is called as a collection."""
    if len(parts) > 1 and parts[0] not in COLLECTIONS:
        return parts[0], parts[1:]
    return None, parts


def find(method: str, parts: Sequence[str], version: int) -> tuple[Route, tuple[str, ...]]:
    """The route, and what stands for its stars.

    Raises NotFound, BadMethod; NotServed for what only others serve.
    """
    for stars in ((), (1,), (1, 3)):
        pattern = "/".join("*" if at in stars else part for at, part in enumerate(parts))
        methods = ROUTES.get(pattern)
        if methods is None or "*" in parts:
            continue
        route = methods.get(method)
        if route is None:
            raise BadMethod(f"{method} is not for this; there is {', '.join(methods)}.")
        if version < route.since:
            raise NotFound("Resource", f"/{'/'.join(parts)} before microversion 3.{route.since}")
        return route, tuple(parts[at] for at in stars)
    if parts and parts[0] in NOT_SERVED:
        raise NotServed(f"{parts[0]}: attachd does not serve this part of the API.")
    raise NotFound("Resource", f"/{'/'.join(parts)}")
