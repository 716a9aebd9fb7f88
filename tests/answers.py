"""Reading what the daemon answers: why it refuses, and everything it says it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from targetd.api.v1 import export_pb2, volume_pb2
from tests.hosts import Host

TIMEOUT_SECONDS = 60.0


def reason_of(error: grpc.RpcError) -> str:
    """The reason in the error's ErrorInfo, which must be there exactly once, and ours."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None, f"no details: {error.code()}: {error.details()}"
    reasons = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "targetd"
            assert info.reason
            reasons.append(info.reason)
    assert len(reasons) == 1, f"ErrorInfo {reasons}: {error.code()}: {error.details()}"
    return str(reasons[0])


def answer_of(method: Callable[..., Any], request: Any) -> tuple[str, Any]:
    """Make a call; returns the reason of its refusal, or an empty text and the answer.

    A daemon that was killed a moment ago is waited for.
    """
    try:
        return "", method(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        return reason_of(error), error


@dataclass(frozen=True)
class Listing:
    """Everything that the daemon says it has, by id; attachments by (volume, attachment)."""

    volumes: dict[str, volume_pb2.Volume]
    exports: dict[str, export_pb2.Export]
    connections: dict[tuple[str, str], export_pb2.Connection]
    snapshots: dict[str, volume_pb2.Snapshot]

    def logical_volumes(self) -> set[str]:
        """Those that must be in LVM for this."""
        volumes = {f"volume-{volume_id}" for volume_id in self.volumes}
        return volumes | {f"snap-{snapshot_id}" for snapshot_id in self.snapshots}

    def sources(self) -> set[str]:
        """Those that may be there too: what volumes are being filled from."""
        return {f"source-{one.volume_id}" for one in self.volumes.values() if one.operation_id}

    def acls(self) -> dict[str, set[str]]:
        """The targets and the initiators of each that must be in the kernel for this."""
        targets: dict[str, set[str]] = {one.target_iqn: set() for one in self.exports.values()}
        for connection in self.connections.values():
            targets[self.exports[connection.volume_id].target_iqn].add(connection.initiator)
        return targets


def listing(host: Host) -> Listing:
    volumes = host.volumes.ListVolumes(volume_pb2.ListVolumesRequest(), wait_for_ready=True)
    exports = host.exports.ListExports(export_pb2.ListExportsRequest())
    connections = host.exports.ListConnections(export_pb2.ListConnectionsRequest())
    snapshots = host.volumes.ListSnapshots(volume_pb2.ListSnapshotsRequest())
    tokens = {one.next_page_token for one in (volumes, exports, connections, snapshots)}
    assert tokens == {""}, "the tests never make more than a page of anything"
    for connection in connections.connections:
        # When it was looked at last, which changes by itself.
        connection.ClearField("observe_time")
    return Listing(
        {volume.volume_id: volume for volume in volumes.volumes},
        {export.volume_id: export for export in exports.exports},
        {(one.volume_id, one.attachment_id): one for one in connections.connections},
        {snapshot.snapshot_id: snapshot for snapshot in snapshots.snapshots},
    )


def wait_for_copies(host: Host) -> None:
    """Wait until no volume is being filled, and nothing is left of its filling."""
    for volume in host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes:
        if volume.operation_id:
            host.wait_available(volume.volume_id)


def check_agreement(host: Host, foreign: Iterable[str] = ()) -> Listing:
    """Records, kernel and LVM hold the same things: nothing lost, nothing orphaned.

    ``foreign`` are the logical volumes that are not the daemon's.
    """
    found = listing(host)
    for connection in found.connections.values():
        assert connection.state == export_pb2.CONNECTION_STATE_GRANTED
    assert host.backing.kernel() == found.acls()
    # What was deleted a moment ago is being wiped under another name.
    held = {name for name in host.backing.volumes() if not name.startswith("deleted-")}
    assert held - found.sources() == found.logical_volumes() | set(foreign)
    assert {snapshot.volume_id for snapshot in found.snapshots.values()} <= set(found.volumes)
    assert set(found.exports) <= set(found.volumes)
    for volume_id, export in found.exports.items():
        attached = sorted(one for volume, one in found.connections if volume == volume_id)
        assert sorted(export.attachment_ids) == attached
        assert export.shared == (len(attached) > 1)
    return found
