"""Who has access to which volume of a storage host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from targetd.api.v1 import export_pb2, export_pb2_grpc
from targetd_driver.calls import Calls, time_of


class ConnectionState(StrEnum):
    # Being granted; nobody was told of it yet.
    GRANTING = "granting"
    GRANTED = "granted"
    # Being revoked; the end has not been seen yet.
    REVOKING = "revoking"


STATES = {
    export_pb2.CONNECTION_STATE_GRANTING: ConnectionState.GRANTING,
    export_pb2.CONNECTION_STATE_GRANTED: ConnectionState.GRANTED,
    export_pb2.CONNECTION_STATE_REVOKING: ConnectionState.REVOKING,
}


@dataclass(frozen=True)
class Connection:
    volume_id: str
    attachment_id: str
    initiator: str
    host: str
    # "rw" or "ro"
    access_mode: str
    state: ConnectionState
    create_time: datetime
    # The ACL is present in the kernel.
    authorized: bool
    logged_in: bool
    peer_addresses: tuple[str, ...]
    # Other attachments of the same volume.
    shared_with_attachment_ids: tuple[str, ...]


class Connections:
    """Safe for use by several threads. Every call raises DriverError or a kind of it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = export_pb2_grpc.ExportServiceStub(calls.channel)

    def within(self, seconds: float) -> Connections:
        """The same, with calls that take no longer than that."""
        return Connections(self._calls.within(seconds))

    def get(self, volume_id: str, attachment_id: str) -> Connection:
        """As the kernel has it now. Raises NotFound."""
        request = export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id=attachment_id)
        return _connection(self._calls.call(self._stub.GetConnection, request))

    def list(self, volume_id: str = "") -> Iterator[Connection]:
        """Of one volume, or of all; logins as the host saw them when it looked last."""
        request = export_pb2.ListConnectionsRequest(volume_id=volume_id)
        found = self._calls.pages(self._stub.ListConnections, request, "connections")
        return map(_connection, found)


def _connection(message: export_pb2.Connection) -> Connection:
    read_only = message.access_mode == export_pb2.ACCESS_MODE_RO
    return Connection(
        volume_id=message.volume_id,
        attachment_id=message.attachment_id,
        initiator=message.initiator,
        host=message.host,
        access_mode="ro" if read_only else "rw",
        state=STATES.get(message.state, ConnectionState.GRANTED),
        create_time=time_of(message.create_time),
        authorized=message.authorized,
        logged_in=message.logged_in,
        peer_addresses=tuple(message.peer_addresses),
        shared_with_attachment_ids=tuple(message.shared_with_attachment_ids),
    )
