"""``POST volumes/ID/action``: the six calls of V1, growing, and what administrators may force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attachd.errors import Invalid, WrongStatus
from attachd.model import VolumeStatus
from attachd.rest import bodies, versions
from attachd.rest.faults import NotServed
from attachd.rest.request import ACCEPTED, Answer, Request, parsed

Action = Callable[[Request, Any], Answer]


def act(request: Request) -> Answer:
    name, content = request.action()
    action = ACTIONS.get(name)
    if action is None:
        raise _unknown(name)
    return action(request, content)


def _unknown(name: str) -> Exception:
    if name in NOT_SERVED:
        return NotServed(f"{name}: {NOT_SERVED[name]}")
    known = ", ".join(sorted(ACTIONS))
    return Invalid(f"There is no such action: {name}. There are: {known}.")


def _reserve(request: Request, _content: Any) -> Answer:
    request.services.actions.reserve(request.caller, request.id)
    return ACCEPTED


def _unreserve(request: Request, _content: Any) -> Answer:
    request.services.actions.unreserve(request.caller, request.id)
    return ACCEPTED


def _initialize_connection(request: Request, content: Any) -> Answer:
    body = parsed(bodies.InitializeConnection, content, "os-initialize_connection")
    info = request.services.actions.initialize_connection(
        request.caller, request.id, body.connector
    )
    return Answer(200, {"connection_info": dict(info)})


def _attach(request: Request, content: Any) -> Answer:
    body = parsed(bodies.Attach, content, "os-attach")
    if (body.instance_uuid is None) == (body.host_name is None):
        raise Invalid("os-attach: give either instance_uuid or host_name, and not both.")
    request.services.actions.attach(
        request.caller,
        request.id,
        instance_uuid=body.instance_uuid,
        host_name=body.host_name,
        mountpoint=body.mountpoint,
        mode=body.mode,
    )
    return ACCEPTED


def _begin_detaching(request: Request, _content: Any) -> Answer:
    request.services.actions.begin_detaching(request.caller, request.id)
    return ACCEPTED


def _roll_detaching(request: Request, _content: Any) -> Answer:
    request.services.actions.roll_detaching(request.caller, request.id)
    return ACCEPTED


def _terminate_connection(request: Request, content: Any) -> Answer:
    body = parsed(bodies.TerminateConnection, content, "os-terminate_connection")
    request.services.actions.terminate_connection(
        request.caller, request.id, body.connector, force=body.force
    )
    return ACCEPTED


def _detach(request: Request, content: Any) -> Answer:
    body = parsed(bodies.Detach, content, "os-detach")
    request.services.actions.detach(request.caller, request.id, body.attachment_id)
    return ACCEPTED


def _force_detach(request: Request, content: Any) -> Answer:
    request.require_admin("os-force_detach")
    body = parsed(bodies.ForceDetach, content, "os-force_detach")
    request.services.actions.force_detach(
        request.caller, request.id, body.attachment_id, body.connector or None
    )
    return ACCEPTED


def _extend(request: Request, content: Any) -> Answer:
    body = parsed(bodies.Extend, content, "os-extend")
    if request.version < versions.EXTEND_IN_USE:
        found = request.services.volumes.get(request.caller, request.id)
        if found.status is VolumeStatus.IN_USE:
            wanted = versions.text(versions.EXTEND_IN_USE)
            raise WrongStatus(
                f"Volume {request.id} is in-use: growing it then needs microversion {wanted}, "
                f"like cinder --os-volume-api-version {wanted} extend."
            )
    request.services.volumes.extend(request.caller, request.id, body.new_size)
    return ACCEPTED


def _reset_status(request: Request, content: Any) -> Answer:
    request.require_admin("os-reset_status")
    body = parsed(bodies.ResetStatus, content, "os-reset_status")
    if body.attach_status or body.migration_status:
        raise Invalid(
            "os-reset_status: only status can be reset; an attachment's status follows what its "
            "storage host grants: delete the attachment."
        )
    try:
        status = VolumeStatus(body.status or "")
    except ValueError:
        known = ", ".join(VolumeStatus)
        raise Invalid(f"os-reset_status.status: must be one of {known}.") from None
    request.services.volumes.reset_status(request.caller, request.id, status)
    return ACCEPTED


def _force_delete(request: Request, _content: Any) -> Answer:
    request.require_admin("os-force_delete")
    request.services.volumes.delete(request.caller, request.id)
    return ACCEPTED


ACTIONS: Mapping[str, Action] = {
    "os-reserve": _reserve,
    "os-unreserve": _unreserve,
    "os-initialize_connection": _initialize_connection,
    "os-attach": _attach,
    "os-begin_detaching": _begin_detaching,
    "os-roll_detaching": _roll_detaching,
    "os-terminate_connection": _terminate_connection,
    "os-detach": _detach,
    "os-force_detach": _force_detach,
    "os-extend": _extend,
    "os-reset_status": _reset_status,
    "os-force_delete": _force_delete,
}
_NO_IMAGES = "attachd has no images; attach the volume and write to it."
_ONE_PLACE = "a volume stays on its storage host; copy it: create one with source_volid."
# What clients may well ask for, and what they can do instead.
NOT_SERVED: Mapping[str, str] = {
    "os-update_readonly_flag": "read-only is a property of an attachment: give it mode ro.",
    "os-set_bootable": "attachd has no flag for it; whoever boots from a volume knows.",
    "os-volume_upload_image": _NO_IMAGES,
    "os-reimage": _NO_IMAGES,
    "os-set_image_metadata": _NO_IMAGES,
    "os-unset_image_metadata": _NO_IMAGES,
    "os-show_image_metadata": _NO_IMAGES,
    "os-migrate_volume": _ONE_PLACE,
    "os-migrate_volume_completion": _ONE_PLACE,
    "os-retype": "a volume keeps its type; copy it: create one with source_volid.",
    "os-unmanage": "lunctl volume release, on the storage host, lets go of a volume.",
    "os-extend_volume_completion": "growing a volume is complete when os-extend was answered.",
    "revert": "create a volume from the snapshot instead.",
}
