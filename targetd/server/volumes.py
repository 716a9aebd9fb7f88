"""VolumeService."""

from __future__ import annotations

import grpc

from targetd.api.v1 import volume_pb2, volume_pb2_grpc
from targetd.catalog import Catalog
from targetd.errors import Unimplemented
from targetd.model import Volume
from targetd.server.convert import page, pool_message, volume_message
from targetd.server.deadline import deadline_of
from targetd.validation import Violations
from targetd.volumes import Pools, Volumes


class VolumeService(volume_pb2_grpc.VolumeServiceServicer):
    def __init__(self, catalog: Catalog, volumes: Volumes, pools: Pools) -> None:
        self._catalog = catalog
        self._volumes = volumes
        self._pools = pools

    def _message(self, volume: Volume) -> volume_pb2.Volume:
        state = volume_pb2.VOLUME_STATE_AVAILABLE
        if self._catalog.is_detaching(volume.volume_id):
            state = volume_pb2.VOLUME_STATE_DETACHING
        elif volume.volume_id in self._catalog.degraded:
            state = volume_pb2.VOLUME_STATE_DEGRADED
        return volume_message(volume, state)

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
        if request.source_snapshot_id or request.source_volume_id:
            raise Unimplemented("volumes from a source are not built yet; leave the source out")
        volume = self._volumes.create(
            request.volume_id,
            request.pool,
            request.size_bytes,
            request.multi_attach,
            deadline_of(context),
        )
        return self._message(volume)

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
            volume
            for volume in list(self._catalog.volumes.values())
            if request.pool in ("", volume.pool.name)
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

    def CreateSnapshot(
        self, request: volume_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Snapshot:
        raise _no_snapshots()

    def GetSnapshot(
        self, request: volume_pb2.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> volume_pb2.Snapshot:
        raise _no_snapshots()

    def ListSnapshots(
        self, request: volume_pb2.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> volume_pb2.ListSnapshotsResponse:
        raise _no_snapshots()

    def DeleteSnapshot(
        self, request: volume_pb2.DeleteSnapshotRequest, context: grpc.ServicerContext
    ) -> volume_pb2.DeleteSnapshotResponse:
        raise _no_snapshots()

    def ListPools(
        self, request: volume_pb2.ListPoolsRequest, context: grpc.ServicerContext
    ) -> volume_pb2.ListPoolsResponse:
        return volume_pb2.ListPoolsResponse(
            pools=[pool_message(report) for report in self._pools.fresh()]
        )


def _no_snapshots() -> Unimplemented:
    return Unimplemented("snapshots are not built yet")
