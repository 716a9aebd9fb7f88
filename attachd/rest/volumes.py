"""``volumes`` and their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attachd.errors import Invalid
from attachd.model import NewVolume, Page, SnapshotFilter, VolumeFilter
from attachd.rest import bodies, listing, types, versions, views
from attachd.rest.faults import NotServed
from attachd.rest.request import ACCEPTED, Answer, Request

FILTERS = frozenset(
    {"all_tenants", "project_id", "name", "name~", "display_name", "status", "host"}
    | {"availability_zone", "metadata", "properties", "multiattach", "bootable"}
)
# Clients send it where it says nothing.
IGNORED = frozenset({"glance_metadata", "migration_status"})
# Of a new volume, what the field has and attachd has not.
SOURCES_NOT_SERVED: Mapping[str, str] = {
    "imageRef": "attachd has no images; attach the volume and write to it",
    "image_id": "attachd has no images; attach the volume and write to it",
    "backup_id": "attachd has no backups; use a snapshot, or a backup of your own",
    "consistencygroup_id": "attachd has no groups",
    "group_id": "attachd has no groups",
    "source_replica": "attachd has no replicas",
}
# Before 3.53 clients sent these, and nobody looked at them.
ONCE_IGNORED = frozenset({"user_id", "project_id", "status", "attach_status"})


def create(request: Request) -> Answer:
    body = request.body(bodies.CreateVolume)
    wanted = body.volume
    _check_extra(request, wanted.model_extra or {})
    kind = types.find(wanted.volume_type) if wanted.volume_type else types.DEFAULT
    hinted = body.hints.place if body.hints else None
    made = request.services.volumes.create(
        request.caller,
        NewVolume(
            size_gib=wanted.size,
            name=wanted.name or wanted.display_name or "",
            description=wanted.description or wanted.display_description or "",
            multiattach=kind.multiattach or bool(wanted.multiattach),
            snapshot_id=wanted.snapshot_id,
            source_volume_id=wanted.source_volid,
            place=hinted or wanted.availability_zone or None,
            metadata=wanted.metadata or {},
        ),
    )
    return Answer(202, {"volume": views.volume(request, made)})


def _check_extra(request: Request, extra: Mapping[str, object]) -> None:
    for name, value in extra.items():
        if name in SOURCES_NOT_SERVED and value:
            raise NotServed(f"volume.{name}: {SOURCES_NOT_SERVED[name]}.")
        known = name in SOURCES_NOT_SERVED
        if not known and request.version >= versions.STRICT_BODIES:
            raise Invalid(f"volume.{name}: there is no such field.")


def show(request: Request) -> Answer:
    found = request.services.volumes.get(request.caller, request.id)
    return Answer(200, {"volume": views.volume(request, found)})


def list_(request: Request) -> Answer:
    return _listed(request, detail=False)


def list_detail(request: Request) -> Answer:
    return _listed(request, detail=True)


def _listed(request: Request, detail: bool) -> Answer:
    wanted = listing.page(request)
    filters = listing.filters(request, FILTERS, IGNORED)
    view = views.volume if detail else views.volume_summary
    # No volume of ours is.
    if listing.boolean(filters.pop("bootable", "false"), "bootable"):
        return Answer(200, {"volumes": []})
    where = _filter(request, filters)
    found = request.services.volumes.list(request.caller, where, wanted)
    document = listing.document(
        request, "volumes", [view(request, volume) for volume in found], wanted
    )
    if listing.wants_count(request):
        document["count"] = request.services.counts.volumes(request.caller, where).number
    return Answer(200, document)


def summary(request: Request) -> Answer:
    filters = listing.filters(request, frozenset({"all_tenants", "project_id"}))
    count = request.services.counts.volumes(request.caller, _filter(request, filters))
    found: dict[str, Any] = {"total_count": count.number, "total_size": count.gib}
    if request.version >= versions.SUMMARY_METADATA:
        # Of all volumes; nobody is helped by what some have.
        found["metadata"] = {}
    return Answer(200, {"volume-summary": found})


def _filter(request: Request, filters: dict[str, str]) -> VolumeFilter:
    everybody, project = listing.of_projects(request, filters)
    multiattach = filters.get("multiattach")
    metadata = filters.get("metadata") or filters.get("properties")
    return VolumeFilter(
        all_projects=everybody,
        project_id=project,
        name=filters.get("name") or filters.get("display_name"),
        name_like=filters.get("name~") if request.version >= versions.LIKE_FILTERS else None,
        status=filters.get("status"),
        host=filters.get("host") or filters.get("availability_zone"),
        multiattach=None if multiattach is None else listing.boolean(multiattach, "multiattach"),
        metadata=listing.mapping(metadata, "metadata") if metadata else {},
    )


def update(request: Request) -> Answer:
    body = request.body(bodies.UpdateVolume).volume
    if request.version >= versions.STRICT_BODIES:
        if body.model_extra:
            raise Invalid(f"volume.{next(iter(body.model_extra))}: there is no such field.")
        if not body.model_fields_set:
            raise Invalid("volume: name, description or metadata is needed.")
    changed = request.services.volumes.update(
        request.caller,
        request.id,
        name=given(body, "name", "display_name"),
        description=given(body, "description", "display_description"),
        metadata=body.metadata,
    )
    return Answer(200, {"volume": views.volume(request, changed)})


def given(body: bodies.Names, *names: str) -> str | None:
    """The first of the fields that is given, where null stands for empty; None when none is."""
    for name in names:
        if name in body.model_fields_set:
            return getattr(body, name) or ""
    return None


def delete(request: Request) -> Answer:
    volumes, snapshots = request.services.volumes, request.services.snapshots
    if listing.boolean(request.params.get("cascade", "false"), "cascade"):
        volume = volumes.get(request.caller, request.id)
        where = SnapshotFilter(all_projects=request.caller.is_admin, volume_id=volume.id)
        for snapshot in snapshots.list(request.caller, where, Page()):
            snapshots.delete(request.caller, snapshot.id)
    volumes.delete(request.caller, request.id)
    return ACCEPTED
