"""VolumeService."""

from __future__ import annotations

import grpc

from targetd.adoption import Adoption
from targetd.api.v1 import volume_pb2, volume_pb2_grpc
from targetd.catalog import Catalog
from targetd.model import Source, SourceKind, Volume
from targetd.pools import Pools
from targetd.server.convert import page, pool_message, snapshot_message, volume_message
from targetd.server.deadline import deadline_of
from targetd.snapshots import Snapshots
from targetd.validation import Violations
from targetd.volumes import NewVolume, Volumes


class VolumeService(volume_pb2_grpc.VolumeServiceServicer):
    def __init__(
        self,
        catalog: Catalog,
        volumes: Volumes,
        snapshots: Snapshots,
        adoption: Adoption,
        pools: Pools,
    ) -> None:
        self._catalog = catalog
        self._volumes = volumes
        self._snapshots = snapshots
        self._adoption = adoption
        self._pools = pools

    def _message(self, volume: Volume) -> volume_pb2.Volume:
        return volume_message(volume, self._catalog)

    def CreateVolume(
        self, request: volume_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Volume:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.pool_name("pool", request.pool)
        violations.size("size_bytes", request.size_bytes)
        for field in ("source_snapshot_id", "source_volume_id"):
            if getattr(request, field):
                violations.uuid(field, getattr(request, field))
        violations.check(
            not (request.source_snapshot_id and request.source_volume_id),
            "source_volume_id",
            "a volume has at most one source",
        )
        violations.raise_if_any()
        wanted = NewVolume(
            volume_id=request.volume_id,
            pool=self._pools.named(request.pool),
            size_bytes=request.size_bytes,
            multi_attach=request.multi_attach,
            source=_source(request),
        )
        return self._message(self._volumes.create(wanted, deadline_of(context)))

    def GetVolume(
        self, request: volume_pb2.GetVolumeRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Volume:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.raise_if_any()
        return self._message(self._catalog.volume(request.volume_id))

    def ListVolumes(
        self, request: volume_pb2.ListVolumesRequest, context: grpc.ServicerContext
    ) -> volume_pb2.ListVolumesResponse:
        violations = Violations()
        violations.page(request.page_size, request.page_token)
        violations.pool_name("pool", request.pool)
        violations.raise_if_any()
        if request.pool:
            self._pools.named(request.pool)
        wanted = [
            volume for volume in self._catalog.volumes() if request.pool in ("", volume.pool.name)
        ]
        shown, token = page(
            wanted, lambda volume: volume.volume_id, request.page_size, request.page_token
        )
        return volume_pb2.ListVolumesResponse(
            volumes=[self._message(volume) for volume in shown], next_page_token=token
        )

    def ExtendVolume(
        self, request: volume_pb2.ExtendVolumeRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Volume:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.size("size_bytes", request.size_bytes)
        violations.raise_if_any()
        volume = self._volumes.extend(request.volume_id, request.size_bytes, deadline_of(context))
        return self._message(volume)

    def DeleteVolume(
        self, request: volume_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> volume_pb2.DeleteVolumeResponse:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.raise_if_any()
        operation_id = self._volumes.delete(request.volume_id, deadline_of(context))
        return volume_pb2.DeleteVolumeResponse(operation_id=operation_id)

    def AdoptVolume(
        self, request: volume_pb2.AdoptVolumeRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Volume:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.pool_name("pool", request.pool)
        violations.lv_name("lv_name", request.lv_name)
        violations.raise_if_any()
        volume = self._adoption.adopt(
            request.volume_id,
            self._pools.named(request.pool),
            request.lv_name,
            request.multi_attach,
            deadline_of(context),
        )
        return self._message(volume)

    def ReleaseVolume(
        self, request: volume_pb2.ReleaseVolumeRequest, context: grpc.ServicerContext
    ) -> volume_pb2.ReleaseVolumeResponse:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        if request.lv_name:
            violations.lv_name("lv_name", request.lv_name)
        violations.raise_if_any()
        device_path = self._adoption.release(
            request.volume_id, request.lv_name, deadline_of(context)
        )
        return volume_pb2.ReleaseVolumeResponse(device_path=device_path)

    def CreateSnapshot(
        self, request: volume_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Snapshot:
        violations = Violations()
        violations.uuid("snapshot_id", request.snapshot_id)
        violations.uuid("volume_id", request.volume_id)
        if request.reserve_bytes:
            violations.size("reserve_bytes", request.reserve_bytes)
        violations.raise_if_any()
        snapshot = self._snapshots.create(
            request.snapshot_id, request.volume_id, request.reserve_bytes, deadline_of(context)
        )
        return snapshot_message(snapshot)

    def GetSnapshot(
        self, request: volume_pb2.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Snapshot:
        violations = Violations()
        violations.uuid("snapshot_id", request.snapshot_id)
        violations.raise_if_any()
        return snapshot_message(self._catalog.snapshot(request.snapshot_id))

    def ListSnapshots(
        self, request: volume_pb2.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> volume_pb2.ListSnapshotsResponse:
        violations = Violations()
        violations.page(request.page_size, request.page_token)
        if request.volume_id:
            violations.uuid("volume_id", request.volume_id)
        violations.raise_if_any()
        if request.volume_id:
            self._catalog.volume(request.volume_id)
        shown, token = page(
            self._catalog.snapshots(request.volume_id),
            lambda snapshot: snapshot.snapshot_id,
            request.page_size,
            request.page_token,
        )
        return volume_pb2.ListSnapshotsResponse(
            snapshots=[snapshot_message(snapshot) for snapshot in shown], next_page_token=token
        )

    def DeleteSnapshot(
        self, request: volume_pb2.DeleteSnapshotRequest, context: grpc.ServicerContext
    ) -> volume_pb2.DeleteSnapshotResponse:
        violations = Violations()
        violations.uuid("snapshot_id", request.snapshot_id)
        violations.raise_if_any()
        operation_id = self._snapshots.delete(request.snapshot_id, deadline_of(context))
        return volume_pb2.DeleteSnapshotResponse(operation_id=operation_id)

    def ListPools(
        self, request: volume_pb2.ListPoolsRequest, context: grpc.ServicerContext
    ) -> volume_pb2.ListPoolsResponse:
        return volume_pb2.ListPoolsResponse(
            pools=[pool_message(report) for report in self._pools.fresh()]
        )


def _source(request: volume_pb2.CreateVolumeRequest) -> Source | None:
    if request.source_snapshot_id:
        return Source(SourceKind.SNAPSHOT, request.source_snapshot_id)
    if request.source_volume_id:
        return Source(SourceKind.VOLUME, request.source_volume_id)
    return None
