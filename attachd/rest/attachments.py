"""``attachments``: the one handle of an attachment."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attachd.errors import AttachError, Invalid
from attachd.model import AttachmentFilter, SharedConnection
from attachd.rest import bodies, listing, versions, views
from attachd.rest.request import Answer, Request

log = logging.getLogger(__name__)

FILTERS = frozenset(
    {"all_tenants", "project_id", "volume_id", "status", "attach_status", "instance_id"}
    | {"instance_uuid", "attached_host"}
)


def create(request: Request) -> Answer:
    body = request.body(bodies.CreateAttachment).attachment
    if body.mode is not None and request.version < versions.ATTACHMENT_MODE:
        wanted = versions.text(versions.ATTACHMENT_MODE)
        raise Invalid(f"attachment.mode: needs microversion {wanted}; leave it out for rw.")
    made = request.services.attachments.create(
        request.caller,
        body.volume_uuid,
        instance_uuid=body.instance_uuid,
        # An empty one is none: clients send it to reserve.
        connector=body.connector or None,
        mode=body.mode,
    )
    return Answer(200, {"attachment": views.attachment(made)})


def update(request: Request) -> Answer:
    body = request.body(bodies.UpdateAttachment).attachment
    changed = request.services.attachments.update(request.caller, request.id, body.connector)
    return Answer(200, {"attachment": views.attachment(changed)})


def show(request: Request) -> Answer:
    found = request.services.attachments.get(request.caller, request.id)
    return Answer(200, {"attachment": views.attachment_live(found, _shared(request))})


def _shared(request: Request) -> Sequence[SharedConnection] | None:
    """A storage host that does not answer keeps nobody from looking at the record."""
    try:
        return request.services.attachments.shared(request.caller, request.id)
    except AttachError as error:
        log.warning("who shares the volume is not known: %s", error)
        return None


def list_(request: Request) -> Answer:
    return _listed(request, detail=False)


def list_detail(request: Request) -> Answer:
    return _listed(request, detail=True)


def _listed(request: Request, detail: bool) -> Answer:
    wanted = listing.page(request)
    filters = listing.filters(request, FILTERS)
    everybody, project = listing.of_projects(request, filters)
    where = AttachmentFilter(
        all_projects=everybody,
        project_id=project,
        volume_id=filters.get("volume_id"),
        instance_uuid=filters.get("instance_id") or filters.get("instance_uuid"),
        attach_status=filters.get("status") or filters.get("attach_status"),
        attached_host=filters.get("attached_host"),
    )
    found = request.services.attachments.list(request.caller, where, wanted)
    view = views.attachment if detail else views.attachment_summary
    shown = [view(one) for one in found]
    return Answer(200, listing.document(request, "attachments", shown, wanted))


def delete(request: Request) -> Answer:
    deleted = request.services.attachments.delete(request.caller, request.id)
    return Answer(
        200,
        {
            "attachments": [views.attachment_summary(one) for one in deleted.remaining],
            "shared_connections_by_attachment": views.sharing(deleted.sharing),
        },
    )


def act(request: Request) -> Answer:
    # Clients send nothing with it, or the attachment's id.
    name, _content = request.action()
    if name != "os-complete":
        raise Invalid(f"There is no such action: {name}. There is: os-complete.")
    request.services.attachments.complete(request.caller, request.id)
    return Answer(204)
