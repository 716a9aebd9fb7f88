"""From the daemon's values to the contract's messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from math import floor
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.catalog import Catalog
from targetd.errors import FieldViolation, InvalidArgument
from targetd.flight import Entry, Kind
from targetd.model import (
    AccessMode,
    Connection,
    ConnectionState,
    Export,
    Operation,
    OperationKind,
    OperationState,
    PoolReport,
    Provisioning,
    Snapshot,
    SourceKind,
    Volume,
    WipePolicy,
)
from targetd.naming import Naming
from targetd.observations import Observation
from targetd.validation import PAGE_SIZE_MAX

PROVISIONING = {
    Provisioning.THICK: volume_pb2.PROVISIONING_THICK,
    Provisioning.THIN: volume_pb2.PROVISIONING_THIN,
}
ACCESS_MODES = {
    AccessMode.READ_WRITE: export_pb2.ACCESS_MODE_RW,
    AccessMode.READ_ONLY: export_pb2.ACCESS_MODE_RO,
}
CONNECTION_STATES = {
    ConnectionState.GRANTING: export_pb2.CONNECTION_STATE_GRANTING,
    ConnectionState.GRANTED: export_pb2.CONNECTION_STATE_GRANTED,
    ConnectionState.REVOKING: export_pb2.CONNECTION_STATE_REVOKING,
}
OPERATION_STATES = {
    OperationState.RUNNING: host_pb2.OPERATION_STATE_RUNNING,
    OperationState.DONE: host_pb2.OPERATION_STATE_DONE,
    OperationState.FAILED: host_pb2.OPERATION_STATE_FAILED,
    OperationState.CANCELLED: host_pb2.OPERATION_STATE_CANCELLED,
}
OPERATION_KINDS = {
    OperationKind.WIPE: host_pb2.OPERATION_KIND_WIPE,
    OperationKind.COPY: host_pb2.OPERATION_KIND_COPY,
}
FLIGHT_KINDS = {
    Kind.COMMAND: host_pb2.FlightEntry.KIND_COMMAND,
    Kind.CONFIGFS: host_pb2.FlightEntry.KIND_CONFIGFS,
}
WIPE_POLICIES = {
    WipePolicy.ZERO: volume_pb2.WIPE_POLICY_ZERO,
    WipePolicy.DISCARD: volume_pb2.WIPE_POLICY_DISCARD,
    WipePolicy.NONE: volume_pb2.WIPE_POLICY_NONE,
}
TOKEN_PREFIX = "after:"
# A long list has the same times again and again.
TIMESTAMPS_MAX = 8192

Item = TypeVar("Item")


@lru_cache(maxsize=TIMESTAMPS_MAX)
def timestamp(time: datetime) -> Timestamp:
    """Not to be changed: the same time is the same message."""
    # Timestamp.FromDatetime takes five times as long, which long lists notice.
    return Timestamp(seconds=floor(time.timestamp()), nanos=time.microsecond * 1000)


def page(
    items: Iterable[Item], key: Callable[[Item], str], page_size: int, page_token: str
) -> tuple[Sequence[Item], str]:
    """One page, in the order of ``key``, and the token of the next or an empty text.

    Raises InvalidArgument for a token that was not handed out.
    """
    if page_token and not page_token.startswith(TOKEN_PREFIX):
        raise InvalidArgument([FieldViolation("page_token", "was not handed out by this server")])
    after = page_token.removeprefix(TOKEN_PREFIX)
    keyed = {key(item): item for item in items}
    rest = sorted(one for one in keyed if one > after)
    size = page_size or PAGE_SIZE_MAX
    token = f"{TOKEN_PREFIX}{rest[size - 1]}" if len(rest) > size else ""
    return [keyed[one] for one in rest[:size]], token


def _volume_state(volume: Volume, catalog: Catalog) -> volume_pb2.VolumeState.ValueType:
    if volume.copy_id:
        return volume_pb2.VOLUME_STATE_COPYING
    if catalog.is_detaching(volume.volume_id):
        return volume_pb2.VOLUME_STATE_DETACHING
    if catalog.is_degraded(volume.volume_id):
        return volume_pb2.VOLUME_STATE_DEGRADED
    return volume_pb2.VOLUME_STATE_AVAILABLE


def volume_message(volume: Volume, catalog: Catalog) -> volume_pb2.Volume:
    source = {volume.source.kind: volume.source.source_id} if volume.source else {}
    return volume_pb2.Volume(
        volume_id=volume.volume_id,
        pool=volume.pool.name,
        size_bytes=volume.size_bytes,
        provisioning=PROVISIONING[volume.pool.provisioning],
        multi_attach=volume.multi_attach,
        state=_volume_state(volume, catalog),
        device_path=volume.device_path,
        create_time=timestamp(volume.create_time),
        source_snapshot_id=source.get(SourceKind.SNAPSHOT, ""),
        source_volume_id=source.get(SourceKind.VOLUME, ""),
        operation_id=volume.copy_id,
        wwid=volume.wwid,
    )


def snapshot_message(snapshot: Snapshot) -> volume_pb2.Snapshot:
    return volume_pb2.Snapshot(
        snapshot_id=snapshot.snapshot_id,
        volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_bytes,
        create_time=timestamp(snapshot.create_time),
        used_percent=snapshot.used_percent,
        pool=snapshot.pool.name,
        provisioning=PROVISIONING[snapshot.pool.provisioning],
        overflowed=snapshot.overflowed,
        reserved_bytes=snapshot.reserved_bytes,
    )


def pool_message(report: PoolReport) -> volume_pb2.Pool:
    return volume_pb2.Pool(
        name=report.config.name,
        provisioning=PROVISIONING[report.config.provisioning],
        volume_group=report.config.volume_group,
        thin_pool=report.config.thin_pool,
        total_bytes=report.total_bytes,
        free_bytes=report.free_bytes,
        provisioned_bytes=report.provisioned_bytes,
        data_percent=report.data_percent,
        metadata_percent=report.metadata_percent,
        over_subscription=report.provisioned_bytes / (report.total_bytes or 1),
        extent_bytes=report.extent_bytes,
        vg_metadata_total_bytes=report.vg_metadata_total_bytes,
        vg_metadata_free_bytes=report.vg_metadata_free_bytes,
        wipe=WIPE_POLICIES[report.config.wipe],
    )


def export_message(
    export: Export, catalog: Catalog, naming: Naming, session_count: int = 0
) -> export_pb2.Export:
    attachments = [c.attachment_id for c in catalog.connections(export.volume_id)]
    return export_pb2.Export(
        volume_id=export.volume_id,
        target_iqn=naming.iqn(export.volume_id),
        target_lun=0,
        portals=naming.portals,
        create_time=timestamp(export.create_time),
        attachment_ids=sorted(attachments),
        shared=len(attachments) > 1,
        session_count=session_count,
    )


def connection_message(
    connection: Connection, seen: Observation, catalog: Catalog
) -> export_pb2.Connection:
    return export_pb2.Connection(
        volume_id=connection.volume_id,
        attachment_id=connection.attachment_id,
        initiator=connection.initiator,
        host=connection.host,
        access_mode=ACCESS_MODES[connection.access_mode],
        state=CONNECTION_STATES[connection.state],
        create_time=timestamp(connection.create_time),
        authorized=seen.authorized,
        logged_in=seen.session is not None,
        peer_addresses=seen.session.peer_addresses if seen.session else (),
        shared_with_attachment_ids=catalog.others(connection),
        commands=seen.statistics.commands,
        read_bytes=seen.statistics.read_bytes,
        written_bytes=seen.statistics.written_bytes,
        logged_in_since=timestamp(seen.logged_in_since) if seen.logged_in_since else None,
        observe_time=timestamp(seen.time) if seen.time else None,
    )


def properties_message(
    connection: Connection,
    iqn: str,
    portals: Sequence[str],
    discard: bool,
    enforce_multipath: bool,
) -> export_pb2.ConnectionProperties:
    return export_pb2.ConnectionProperties(
        driver_volume_type="iscsi",
        target_discovered=False,
        target_portal=portals[0],
        target_iqn=iqn,
        target_lun=0,
        target_portals=portals,
        target_iqns=[iqn] * len(portals),
        target_luns=[0] * len(portals),
        volume_id=connection.volume_id,
        attachment_id=connection.attachment_id,
        auth_method="CHAP",
        auth_username=connection.credentials.username,
        auth_password=connection.credentials.password,
        access_mode=connection.access_mode.value,
        encrypted=False,
        discard=discard,
        enforce_multipath=enforce_multipath,
        mutual_auth_username=connection.credentials.mutual_username,
        mutual_auth_password=connection.credentials.mutual_password,
    )


def operation_message(operation: Operation) -> host_pb2.Operation:
    return host_pb2.Operation(
        operation_id=operation.operation_id,
        kind=OPERATION_KINDS[operation.kind],
        state=OPERATION_STATES[operation.state],
        volume_id=operation.volume_id,
        done_bytes=operation.done_bytes,
        total_bytes=operation.total_bytes,
        start_time=timestamp(operation.start_time),
        error=operation.error,
    )


def flight_message(entry: Entry) -> host_pb2.FlightEntry:
    duration, start = None, Timestamp()
    if entry.seconds is not None:
        duration = Duration()
        duration.FromNanoseconds(int(entry.seconds * 1e9))
    start.FromNanoseconds(int(entry.time * 1e9))
    return host_pb2.FlightEntry(
        kind=FLIGHT_KINDS[entry.kind],
        start_time=start,
        duration=duration,
        what=entry.what,
        # A foreign name in the kernel's tree may be anything.
        object=entry.object.encode(errors="replace").decode(),
        volume_id=entry.volume_id,
        failure=entry.failure,
        running=entry.running,
    )
