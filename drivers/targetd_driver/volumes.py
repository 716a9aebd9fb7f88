"""Volumes of a storage host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from targetd.api.v1 import volume_pb2, volume_pb2_grpc
from targetd_driver.calls import Calls, time_of


class VolumeState(StrEnum):
    AVAILABLE = "available"
    # Being filled from its source; not to be exported yet.
    COPYING = "copying"
    # A revocation has begun and its end has not been seen yet.
    DETACHING = "detaching"
    # The device is missing, cannot be activated, or does not answer.
    DEGRADED = "degraded"


STATES = {
    volume_pb2.VOLUME_STATE_AVAILABLE: VolumeState.AVAILABLE,
    volume_pb2.VOLUME_STATE_COPYING: VolumeState.COPYING,
    volume_pb2.VOLUME_STATE_DETACHING: VolumeState.DETACHING,
    volume_pb2.VOLUME_STATE_DEGRADED: VolumeState.DEGRADED,
}


@dataclass(frozen=True)
class Volume:
    volume_id: str
    pool: str
    # The real size: what was asked for, rounded up to the pool's extents.
    size_bytes: int
    thin: bool
    multi_attach: bool
    state: VolumeState
    create_time: datetime
    # What it was made from; both empty for a volume made empty.
    source_snapshot_id: str
    source_volume_id: str
    # What fills it while COPYING.
    operation_id: str
    # As Linux initiators know the disk: /dev/disk/by-id/wwn-0x... after the first digit.
    wwid: str


class Volumes:
    """Safe for use by several threads. Every call raises DriverError or a kind of it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = volume_pb2_grpc.VolumeServiceStub(calls.channel)

    def create(
        self,
        volume_id: str,
        size_bytes: int,
        pool: str = "",
        multi_attach: bool = False,
        source_snapshot_id: str = "",
        source_volume_id: str = "",
    ) -> Volume:
        """Without a pool in the host's only one; of the sources at most one.

        A volume with a source may be COPYING for a while: wait for its operation. The same call
        again returns the same volume. Raises Refused when there is another volume of that id;
        NoSpace; NotFound for a source that does not exist.
        """
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id,
            pool=pool,
            size_bytes=size_bytes,
            multi_attach=multi_attach,
            source_snapshot_id=source_snapshot_id,
            source_volume_id=source_volume_id,
        )
        return _volume(self._calls.call(self._stub.CreateVolume, request))

    def get(self, volume_id: str) -> Volume:
        """Raises NotFound."""
        request = volume_pb2.GetVolumeRequest(volume_id=volume_id)
        return _volume(self._calls.call(self._stub.GetVolume, request))

    def list(self, pool: str = "") -> Iterator[Volume]:
        """All volumes, or those of a pool, by id; also those that others have made."""
        request = volume_pb2.ListVolumesRequest(pool=pool)
        return map(_volume, self._calls.pages(self._stub.ListVolumes, request, "volumes"))

    def extend(self, volume_id: str, size_bytes: int) -> Volume:
        """Grow the volume, also while it is attached; one that is as large already stays as it is.

        Raises NotFound; NoSpace; Refused while it is being filled, and for a thick volume that
        has snapshots.
        """
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size_bytes)
        return _volume(self._calls.call(self._stub.ExtendVolume, request))

    def delete(self, volume_id: str) -> str:
        """Returns the id of the wipe that goes on, or an empty text. Absent is fine.

        Raises Refused while the volume is exported, or has connections or snapshots.
        """
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        return self._calls.call(self._stub.DeleteVolume, request).operation_id


def _volume(message: volume_pb2.Volume) -> Volume:
    return Volume(
        volume_id=message.volume_id,
        pool=message.pool,
        size_bytes=message.size_bytes,
        thin=message.provisioning == volume_pb2.PROVISIONING_THIN,
        multi_attach=message.multi_attach,
        state=STATES.get(message.state, VolumeState.DEGRADED),
        create_time=time_of(message.create_time),
        source_snapshot_id=message.source_snapshot_id,
        source_volume_id=message.source_volume_id,
        operation_id=message.operation_id,
        wwid=message.wwid,
    )
