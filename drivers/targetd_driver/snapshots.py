"""Snapshots of a storage host's volumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from targetd.api.v1 import volume_pb2, volume_pb2_grpc
from targetd_driver.calls import Calls, time_of


@dataclass(frozen=True)
class Snapshot:
    snapshot_id: str
    volume_id: str
    pool: str
    # Of the volume when it was taken.
    size_bytes: int
    thin: bool
    create_time: datetime
    # Thick only: the copy-on-write space, how full it is, and whether it ran out: then the
    # content is lost.
    reserved_bytes: int
    used_percent: float
    overflowed: bool


class Snapshots:
    """Safe for use by several threads. Every call raises DriverError or a kind of it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = volume_pb2_grpc.VolumeServiceStub(calls.channel)

    def create(self, snapshot_id: str, volume_id: str, reserve_bytes: int = 0) -> Snapshot:
        """The volume as it is now; it may be attached.

        ``reserve_bytes``: of thick volumes, the copy-on-write space; 0 takes the volume's size.
        The same call again returns the same snapshot. Raises NotFound for the volume; NoSpace;
        Refused when there is another snapshot of that id, or while the volume is being filled.
        """
        request = volume_pb2.CreateSnapshotRequest(
            snapshot_id=snapshot_id, volume_id=volume_id, reserve_bytes=reserve_bytes
        )
        return _snapshot(self._calls.call(self._stub.CreateSnapshot, request))

    def get(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound."""
        request = volume_pb2.GetSnapshotRequest(snapshot_id=snapshot_id)
        return _snapshot(self._calls.call(self._stub.GetSnapshot, request))

    def list(self, volume_id: str = "") -> Iterator[Snapshot]:
        """Of one volume, which must exist, or of all, by id."""
        request = volume_pb2.ListSnapshotsRequest(volume_id=volume_id)
        return map(_snapshot, self._calls.pages(self._stub.ListSnapshots, request, "snapshots"))

    def delete(self, snapshot_id: str) -> str:
        """Returns the id of the wipe that goes on, or an empty text. Absent is fine.

        Raises Refused while a volume is being filled from it.
        """
        request = volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        return self._calls.call(self._stub.DeleteSnapshot, request).operation_id


def _snapshot(message: volume_pb2.Snapshot) -> Snapshot:
    return Snapshot(
        snapshot_id=message.snapshot_id,
        volume_id=message.volume_id,
        pool=message.pool,
        size_bytes=message.size_bytes,
        thin=message.provisioning == volume_pb2.PROVISIONING_THIN,
        create_time=time_of(message.create_time),
        reserved_bytes=message.reserved_bytes,
        used_percent=message.used_percent,
        overflowed=message.overflowed,
    )
