"""``snapshots``."""

from __future__ import annotations

from attachd.errors import Invalid, WrongStatus
from attachd.model import SnapshotFilter, VolumeStatus
from attachd.rest import bodies, listing, versions, views
from attachd.rest.request import ACCEPTED, Answer, Request
from attachd.rest.volumes import given

FILTERS = frozenset({"all_tenants", "project_id", "volume_id", "name", "display_name", "status"})


def create(request: Request) -> Answer:
    body = request.body(bodies.CreateSnapshot).snapshot
    _check_use(request, body)
    made = request.services.snapshots.create(
        request.caller,
        body.volume_id,
        name=body.name or body.display_name or "",
        description=body.description or body.display_description or "",
        metadata=body.metadata or {},
    )
    return Answer(202, {"snapshot": views.snapshot_summary(made)})


def _check_use(request: Request, body: bodies.NewSnapshot) -> None:
    """Before 3.66 a snapshot of what is in use needs force, since then nothing does."""
    if request.version >= versions.SNAPSHOT_IN_USE:
        if body.force is False:
            raise Invalid("snapshot.force: volumes in use have snapshots too; leave it out.")
    elif not body.force:
        volume = request.services.volumes.get(request.caller, body.volume_id)
        if volume.status is not VolumeStatus.AVAILABLE:
            raise WrongStatus(
                f"Volume {volume.id} is {volume.status}: take its snapshot with force, or with "
                f"microversion {versions.text(versions.SNAPSHOT_IN_USE)}."
            )


def show(request: Request) -> Answer:
    found = request.services.snapshots.get(request.caller, request.id)
    return Answer(200, {"snapshot": views.snapshot(request, found)})


def list_(request: Request) -> Answer:
    return _listed(request, detail=False)


def list_detail(request: Request) -> Answer:
    return _listed(request, detail=True)


def _listed(request: Request, detail: bool) -> Answer:
    wanted = listing.page(request)
    filters = listing.filters(request, FILTERS)
    everybody, project = listing.of_projects(request, filters)
    where = SnapshotFilter(
        all_projects=everybody,
        project_id=project,
        volume_id=filters.get("volume_id"),
        name=filters.get("name") or filters.get("display_name"),
        status=filters.get("status"),
    )
    found = request.services.snapshots.list(request.caller, where, wanted)
    shown = [
        views.snapshot(request, one) if detail else views.snapshot_summary(one) for one in found
    ]
    document = listing.document(request, "snapshots", shown, wanted)
    if listing.wants_count(request):
        document["count"] = request.services.counts.snapshots(request.caller, where).number
    return Answer(200, document)


def update(request: Request) -> Answer:
    body = request.body(bodies.UpdateSnapshot).snapshot
    changed = request.services.snapshots.update(
        request.caller,
        request.id,
        name=given(body, "name", "display_name"),
        description=given(body, "description", "display_description"),
        metadata=body.metadata,
    )
    return Answer(200, {"snapshot": views.snapshot_summary(changed)})


def delete(request: Request) -> Answer:
    request.services.snapshots.delete(request.caller, request.id)
    return ACCEPTED


def act(request: Request) -> Answer:
    name, _content = request.action()
    if name != "os-force_delete":
        raise Invalid(f"There is no such action: {name}. There is: os-force_delete.")
    request.require_admin(name)
    return delete(request)
