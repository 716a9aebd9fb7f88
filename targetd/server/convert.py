"""From the daemon's values to the contract's messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.errors import FieldViolation, InvalidArgument
from targetd.exports import ConnectionStatus
from targetd.model import (
    AccessMode,
    Connection,
    ConnectionState,
    Operation,
    OperationState,
    PoolReport,
    Provisioning,
    Volume,
)
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
}
TOKEN_PREFIX = "after:"

Item = TypeVar("Item")


def timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


def page(
    items: Iterable[Item], key: Callable[[Item], str], page_size: int, page_token: str
) -> tuple[Sequence[Item], str]:
    """One page, in the order of ``key``, and the token of the next or an empty text.

    Raises InvalidArgument for a token that was not handed out.
    """
    if page_token and not page_token.startswith(TOKEN_PREFIX):
        raise InvalidArgument([FieldViolation("page_token", "was not handed out by this server")])
    after = page_token.removeprefix(TOKEN_PREFIX)
    rest = sorted((item for item in items if key(item) > after), key=key)
    size = page_size or PAGE_SIZE_MAX
    shown = rest[:size]
    token = f"{TOKEN_PREFIX}{key(shown[-1])}" if len(rest) > size else ""
    return shown, token


def volume_message(volume: Volume, state: volume_pb2.VolumeState.ValueType) -> volume_pb2.Volume:
    return volume_pb2.Volume(
        volume_id=volume.volume_id,
        pool=volume.pool.name,
        size_bytes=volume.size_bytes,
        provisioning=PROVISIONING[volume.pool.provisioning],
        multi_attach=volume.multi_attach,
        state=state,
        device_path=volume.device_path,
        create_time=timestamp(volume.create_time),
        wwid=volume.wwid,
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
    )


def connection_message(connection: Connection, status: ConnectionStatus) -> export_pb2.Connection:
    return export_pb2.Connection(
        volume_id=connection.volume_id,
        attachment_id=connection.attachment_id,
        initiator=connection.initiator,
        host=connection.host,
        access_mode=ACCESS_MODES[connection.access_mode],
        state=CONNECTION_STATES[connection.state],
        create_time=timestamp(connection.create_time),
        authorized=status.authorized,
        logged_in=status.session is not None,
        peer_addresses=status.session.peer_addresses if status.session else (),
        shared_with_attachment_ids=status.shared_with,
        commands=status.statistics.commands,
        read_bytes=status.statistics.read_bytes,
        written_bytes=status.statistics.written_bytes,
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
    )


def operation_message(operation: Operation) -> host_pb2.Operation:
    return host_pb2.Operation(
        operation_id=operation.operation_id,
        kind=host_pb2.OPERATION_KIND_WIPE,
        state=OPERATION_STATES[operation.state],
        volume_id=operation.volume_id,
        done_bytes=operation.done_bytes,
        total_bytes=operation.total_bytes,
        start_time=timestamp(operation.start_time),
        error=operation.error,
    )
