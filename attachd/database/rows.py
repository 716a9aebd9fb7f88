"""Rows of the tables as the records that they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from attachd.model import (
    Attachment,
    AttachMode,
    AttachStatus,
    HostState,
    Origin,
    Snapshot,
    SnapshotStatus,
    StorageHost,
    Volume,
    VolumeClaim,
    VolumeStatus,
)


def volume_of(row: RowMapping, attachments: tuple[Attachment, ...] = ()) -> Volume:
    return Volume(
        id=row["id"],
        project_id=row["project_id"],
        user_id=row["user_id"],
        name=row["name"],
        description=row["description"],
        size_gib=row["size_gib"],
        status=VolumeStatus(row["status"]),
        multiattach=row["multiattach"],
        host=row["host"],
        pool=row["pool"],
        snapshot_id=row["snapshot_id"],
        source_volume_id=row["source_volume_id"],
        metadata=row["metadata"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        reason=row["reason"],
        attachments=attachments,
        claim=_claim_of(row),
    )


def _claim_of(row: RowMapping) -> VolumeClaim | None:
    if row["claimed_by"] is None:
        return None
    return VolumeClaim(
        by=row["claimed_by"],
        purpose=row["claimed_for"],
        since=row["claimed_since"],
        until=row["claimed_until"],
    )


def volume_values(volume: Volume) -> dict[str, Any]:
    """The columns of a new row; nobody has a claim on it."""
    return {
        "id": volume.id,
        "project_id": volume.project_id,
        "user_id": volume.user_id,
        "name": volume.name,
        "description": volume.description,
        "size_gib": volume.size_gib,
        "status": volume.status,
        "multiattach": volume.multiattach,
        "host": volume.host,
        "pool": volume.pool,
        "snapshot_id": volume.snapshot_id,
        "source_volume_id": volume.source_volume_id,
        "metadata": dict(volume.metadata),
        "reason": volume.reason,
        "create_time": volume.create_time,
        "update_time": volume.update_time,
    }


def attachment_of(row: RowMapping) -> Attachment:
    return Attachment(
        id=row["id"],
        project_id=row["project_id"],
        volume_id=row["volume_id"],
        instance_uuid=row["instance_uuid"],
        attached_host=row["attached_host"],
        mountpoint=row["mountpoint"],
        attach_time=row["attach_time"],
        detach_time=row["detach_time"],
        attach_status=AttachStatus(row["attach_status"]),
        attach_mode=AttachMode(row["attach_mode"]),
        connector=row["connector"],
        connection_info=row["connection_info"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        origin=Origin(row["origin"]),
        lease_end_time=row["lease_end_time"],
        reason=row["reason"],
    )


def attachment_values(attachment: Attachment) -> dict[str, Any]:
    """The columns of a row, without sealed secrets; its connection_info must be masked."""
    return {
        "id": attachment.id,
        "project_id": attachment.project_id,
        "volume_id": attachment.volume_id,
        "instance_uuid": attachment.instance_uuid,
        "attached_host": attachment.attached_host,
        "mountpoint": attachment.mountpoint,
        "attach_time": attachment.attach_time,
        "detach_time": attachment.detach_time,
        "attach_status": attachment.attach_status,
        "attach_mode": attachment.attach_mode,
        "connector": _plain(attachment.connector),
        "connection_info": _plain(attachment.connection_info),
        "origin": attachment.origin,
        "reason": attachment.reason,
        "lease_end_time": attachment.lease_end_time,
        "create_time": attachment.create_time,
        "update_time": attachment.update_time,
    }


def _plain(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if mapping is None else dict(mapping)


def snapshot_of(row: RowMapping) -> Snapshot:
    return Snapshot(
        id=row["id"],
        project_id=row["project_id"],
        user_id=row["user_id"],
        volume_id=row["volume_id"],
        name=row["name"],
        description=row["description"],
        size_gib=row["size_gib"],
        status=SnapshotStatus(row["status"]),
        metadata=row["metadata"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        reason=row["reason"],
    )


def snapshot_values(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "project_id": snapshot.project_id,
        "user_id": snapshot.user_id,
        "volume_id": snapshot.volume_id,
        "name": snapshot.name,
        "description": snapshot.description,
        "size_gib": snapshot.size_gib,
        "status": snapshot.status,
        "metadata": dict(snapshot.metadata),
        "reason": snapshot.reason,
        "create_time": snapshot.create_time,
        "update_time": snapshot.update_time,
    }


def host_of(row: RowMapping) -> StorageHost:
    """Its volumes are not counted."""
    return StorageHost(
        name=row["name"],
        endpoint=row["endpoint"],
        state=HostState(row["state"]),
        volumes=0,
        lock_domain_id=row["lock_domain_id"],
    )


def host_values(host: StorageHost) -> dict[str, Any]:
    """The columns of a row that may change; it is not removed."""
    return {
        "endpoint": host.endpoint,
        "state": host.state,
        "lock_domain_id": host.lock_domain_id,
        "delete_time": None,
    }
