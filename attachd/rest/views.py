"""Records in the shapes of Block Storage v3, by microversion."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from attachd.model import (
    Attachment,
    AttachStatus,
    SharedConnection,
    Snapshot,
    SnapshotStatus,
    Volume,
)
from attachd.rest import versions
from attachd.rest.request import Request
from attachd.rest.types import type_of

# The same ids wherever attachd runs.
NAMESPACE = uuid.UUID("c2b9b4b4-97f5-4a0c-9c64-51b4dcfb0f7a")
PROGRESS = {SnapshotStatus.AVAILABLE: "100%"}


def time(moment: datetime | None) -> str | None:
    """UTC, to the microsecond, without saying that it is UTC."""
    if moment is None:
        return None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


@cache
def service_id(host: str) -> str:
    """What stands for a storage host where the field wants a UUID."""
    return str(uuid.uuid5(NAMESPACE, host))


def place(volume: Volume) -> str:
    """The storage host and the pool, as the field writes them."""
    return f"{volume.host}#{volume.pool}"


def _links(request: Request, path: str) -> list[dict[str, str]]:
    behind = request.prefix.removeprefix("v3").lstrip("/")
    bookmark = f"{behind}/{path}" if behind else path
    return [
        {"rel": "self", "href": f"{request.root_url}/{request.prefix}/{path}"},
        {"rel": "bookmark", "href": f"{request.root_url}/{bookmark}"},
    ]


def volume_summary(request: Request, volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name or None,
        "links": _links(request, f"volumes/{volume.id}"),
    }


def volume(request: Request, volume: Volume) -> dict[str, Any]:
    """All of a volume that the caller may see."""
    found: dict[str, Any] = {
        **volume_summary(request, volume),
        "status": str(volume.status),
        "size": volume.size_gib,
        "availability_zone": volume.host,
        "created_at": time(volume.create_time),
        "updated_at": time(volume.update_time),
        "description": volume.description or None,
        "volume_type": type_of(volume.multiattach).name,
        "snapshot_id": volume.snapshot_id,
        "source_volid": volume.source_volume_id,
        "metadata": dict(volume.metadata),
        "user_id": volume.user_id,
        "bootable": "false",
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": volume.multiattach,
        "migration_status": None,
        "attachments": [
            _of_volume(request, one)
            for one in volume.attachments
            if one.attach_status is AttachStatus.ATTACHED
        ],
        "os-vol-tenant-attr:tenant_id": volume.project_id,
    }
    if request.caller.is_admin:
        found["os-vol-host-attr:host"] = place(volume)
        found["os-vol-mig-status-attr:migstat"] = None
        found["os-vol-mig-status-attr:name_id"] = None
    found.update(_volume_since(request, volume))
    return found


def _volume_since(request: Request, volume: Volume) -> dict[str, Any]:
    """What microversions have added."""
    found: dict[str, Any] = {}
    admin = request.caller.is_admin
    if request.version >= versions.GROUPS:
        found["group_id"] = None
    if admin and request.version >= versions.PROVIDER_ID:
        found["provider_id"] = None
    if request.version >= versions.SHARED_TARGETS:
        # Each volume has a target of its own, so that no scan disturbs another volume.
        found["shared_targets"] = False
        # What os-brick locks by, where it locks.
        found["service_uuid"] = service_id(volume.host)
    if admin and request.version >= versions.CLUSTER_NAME:
        found["cluster_name"] = None
    if request.version >= versions.TYPE_ID:
        found["volume_type_id"] = type_of(volume.multiattach).id
    if request.version >= versions.CONSUMES_QUOTA:
        found["consumes_quota"] = True
    return found


def _of_volume(request: Request, one: Attachment) -> dict[str, Any]:
    """An attachment, as it stands in its volume."""
    return {
        "id": one.volume_id,
        "attachment_id": one.id,
        "volume_id": one.volume_id,
        "server_id": one.instance_uuid,
        "host_name": one.attached_host if request.caller.is_admin else None,
        "device": one.mountpoint,
        "attached_at": time(one.attach_time),
    }


def attachment_summary(one: Attachment) -> dict[str, Any]:
    return {
        "id": one.id,
        "status": str(one.attach_status),
        "instance": one.instance_uuid,
        "volume_id": one.volume_id,
    }


def attachment(one: Attachment) -> dict[str, Any]:
    return {
        **attachment_summary(one),
        "attached_at": time(one.attach_time) or "",
        "detached_at": time(one.detach_time) or "",
        "attach_mode": str(one.attach_mode),
        "connection_info": dict(one.connection_info or {}),
    }


def attachment_live(one: Attachment, shared: Sequence[SharedConnection] | None) -> dict[str, Any]:
    """With what only attachd has, to be seen when one attachment is looked at.

    None stands for a storage host that does not say who shares the volume.
    """
    return {
        **attachment(one),
        "lease_end_time": time(one.lease_end_time),
        "shared_connections_by_attachment": None if shared is None else sharing(shared),
    }


def sharing(shared: Sequence[SharedConnection]) -> list[str]:
    """The attachments that have access to the same volume now."""
    return [one.attachment_id for one in shared]


def snapshot_summary(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "name": snapshot.name or None,
        "description": snapshot.description or None,
        "created_at": time(snapshot.create_time),
        "updated_at": time(snapshot.update_time),
        "volume_id": snapshot.volume_id,
        "status": str(snapshot.status),
        "size": snapshot.size_gib,
        "metadata": dict(snapshot.metadata),
    }


def snapshot(request: Request, snapshot: Snapshot) -> dict[str, Any]:
    found = {
        **snapshot_summary(snapshot),
        "os-extended-snapshot-attributes:project_id": snapshot.project_id,
        "os-extended-snapshot-attributes:progress": PROGRESS.get(snapshot.status, "0%"),
    }
    if request.version >= versions.GROUP_SNAPSHOTS:
        found["group_snapshot_id"] = None
    if request.version >= versions.SNAPSHOT_USER:
        found["user_id"] = snapshot.user_id
    if request.version >= versions.CONSUMES_QUOTA:
        found["consumes_quota"] = True
    return found
