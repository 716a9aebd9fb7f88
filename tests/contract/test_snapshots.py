"""Snapshots, and volumes made from a source: on the simulated and on the real host."""

from __future__ import annotations

import uuid

import grpc
import pytest

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, refused_with

POOLS = ("thin", "thick")
SIZE = 16 * MEBIBYTE
Create = volume_pb2.CreateVolumeRequest
CreateSnapshot = volume_pb2.CreateSnapshotRequest
Delete = volume_pb2.DeleteVolumeRequest
DeleteSnapshot = volume_pb2.DeleteSnapshotRequest


@pytest.mark.parametrize("pool", POOLS)
def test_a_snapshot_repeated_is_the_same(host: Host, pool: str) -> None:
    volume_id = host.create(pool, SIZE)
    request = CreateSnapshot(snapshot_id=str(uuid.uuid4()), volume_id=volume_id)
    first, *others = (host.volumes.CreateSnapshot(request) for _ in range(5))
    assert (first.volume_id, first.size_bytes, first.pool) == (volume_id, SIZE, pool)
    assert bool(first.reserved_bytes) == (pool == "thick")
    assert all(other == first for other in others)
    assert host.backing.volumes() == {f"volume-{volume_id}", f"snap-{request.snapshot_id}"}
    shown = host.volumes.GetSnapshot(volume_pb2.GetSnapshotRequest(snapshot_id=request.snapshot_id))
    assert shown == first


@pytest.mark.parametrize("pool", POOLS)
def test_snapshots_survive_a_kill(host: Host, pool: str) -> None:
    volume_id = host.create(pool, SIZE)
    snapshot_id = host.snapshot(volume_id)
    get = volume_pb2.GetSnapshotRequest(snapshot_id=snapshot_id)
    before = host.volumes.GetSnapshot(get)
    host.backing.restart()
    after = host.volumes.GetSnapshot(get)
    for field in ("volume_id", "size_bytes", "pool", "provisioning", "reserved_bytes"):
        assert getattr(after, field) == getattr(before, field), field
    request = CreateSnapshot(snapshot_id=snapshot_id, volume_id=volume_id)
    assert host.volumes.CreateSnapshot(request).size_bytes == before.size_bytes


def test_the_same_id_with_other_parameters_already_exists(host: Host) -> None:
    volume_id, other_id = host.create("thick", SIZE), host.create("thick", SIZE)
    snapshot_id = host.snapshot(volume_id, 8 * MEBIBYTE)
    for other in (
        CreateSnapshot(snapshot_id=snapshot_id, volume_id=other_id, reserve_bytes=8 * MEBIBYTE),
        CreateSnapshot(snapshot_id=snapshot_id, volume_id=volume_id, reserve_bytes=SIZE),
    ):
        with refused_with(grpc.StatusCode.ALREADY_EXISTS):
            host.volumes.CreateSnapshot(other)


def test_what_cannot_be_snapshot_is_refused(host: Host) -> None:
    absent, thin = str(uuid.uuid4()), host.create("thin", SIZE)
    with refused_with(grpc.StatusCode.NOT_FOUND):
        host.snapshot(absent)
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT) as caught:
        host.snapshot(thin, 4 * MEBIBYTE)
    assert "reserve_bytes" in str(caught[0].details())
    # More than half of the pool, so that its changes do not fit beside it.
    thick = host.create("thick", 1 << 31)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
        host.snapshot(thick)
    assert host.backing.volumes() == {f"volume-{thin}", f"volume-{thick}"}


@pytest.mark.parametrize("pool", POOLS)
def test_a_volume_with_snapshots_stays(host: Host, pool: str) -> None:
    volume_id = host.create(pool, SIZE)
    snapshot_id = host.snapshot(volume_id)
    for refused in (
        lambda: host.volumes.DeleteVolume(Delete(volume_id=volume_id)),
        lambda: host.volumes.ReleaseVolume(volume_pb2.ReleaseVolumeRequest(volume_id=volume_id)),
    ):
        with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
            refused()
        assert snapshot_id in str(caught[0].details())
    host.volumes.DeleteSnapshot(DeleteSnapshot(snapshot_id=snapshot_id))
    host.volumes.DeleteVolume(Delete(volume_id=volume_id))


def test_a_thick_volume_with_snapshots_does_not_grow(host: Host) -> None:
    grow = 2 * SIZE
    for pool in POOLS:
        volume_id = host.create(pool, SIZE)
        snapshot_id = host.snapshot(volume_id)
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=grow)
        if pool == "thick":
            with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
                host.volumes.ExtendVolume(request)
            assert snapshot_id in str(caught[0].details())
            host.volumes.DeleteSnapshot(DeleteSnapshot(snapshot_id=snapshot_id))
        assert host.volumes.ExtendVolume(request).size_bytes == grow


@pytest.mark.parametrize("pool", POOLS)
def test_a_deleted_snapshot_is_gone_and_absent_is_fine(host: Host, pool: str) -> None:
    volume_id = host.create(pool, SIZE)
    snapshot_id = host.snapshot(volume_id)
    request = DeleteSnapshot(snapshot_id=snapshot_id)
    operation_id = host.volumes.DeleteSnapshot(request).operation_id
    assert bool(operation_id) == (pool == "thick"), "what a thick one kept is wiped"
    assert host.volumes.DeleteSnapshot(request).operation_id == ""
    with refused_with(grpc.StatusCode.NOT_FOUND):
        host.volumes.GetSnapshot(volume_pb2.GetSnapshotRequest(snapshot_id=snapshot_id))
    if operation_id:
        watched = host.hosts.WatchOperation(
            host_pb2.WatchOperationRequest(operation_id=operation_id), timeout=60
        )
        (*_, last) = watched
        assert last.state == host_pb2.OPERATION_STATE_DONE
        assert last.done_bytes == last.total_bytes > 0
    assert host.backing.volumes() == {f"volume-{volume_id}"}


def test_snapshots_are_listed_in_pages(host: Host) -> None:
    volume_id, other_id = host.create("thin", SIZE), host.create("thin", SIZE)
    made = {host.snapshot(volume_id) for _ in range(3)} | {host.snapshot(other_id)}
    found, token = [], ""
    while True:
        answer = host.volumes.ListSnapshots(
            volume_pb2.ListSnapshotsRequest(page_size=2, page_token=token)
        )
        found += [snapshot.snapshot_id for snapshot in answer.snapshots]
        token = answer.next_page_token
        if not token:
            break
    assert found == sorted(made)
    request = volume_pb2.ListSnapshotsRequest(volume_id=volume_id)
    assert len(host.volumes.ListSnapshots(request).snapshots) == 3


@pytest.mark.parametrize("to_pool", POOLS)
@pytest.mark.parametrize("from_pool", POOLS)
@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_a_volume_from_a_source(host: Host, kind: str, from_pool: str, to_pool: str) -> None:
    origin = host.create(from_pool, SIZE)
    source = host.snapshot(origin) if kind == "snapshot" else origin
    request = Create(volume_id=str(uuid.uuid4()), pool=to_pool, size_bytes=2 * SIZE)
    setattr(request, f"source_{kind}_id", source)
    made = host.volumes.CreateVolume(request)
    at_once = from_pool == to_pool == "thin"
    assert bool(made.operation_id) != at_once, "only within a thin pool is it there at once"
    filled = host.wait_available(request.volume_id)
    assert filled.state == volume_pb2.VOLUME_STATE_AVAILABLE
    assert (filled.pool, filled.size_bytes) == (to_pool, 2 * SIZE)
    assert getattr(filled, f"source_{kind}_id") == source
    assert host.volumes.CreateVolume(request) == filled, "the same call, the same answer"
    host.backing.restart()
    again = host.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=request.volume_id))
    assert getattr(again, f"source_{kind}_id") == source
    with refused_with(grpc.StatusCode.ALREADY_EXISTS):
        host.volumes.CreateVolume(
            Create(volume_id=request.volume_id, pool=to_pool, size_bytes=2 * SIZE)
        )
    # The source is free to go, and the new volume stands alone.
    if kind == "snapshot":
        host.volumes.DeleteSnapshot(DeleteSnapshot(snapshot_id=source))
    host.volumes.DeleteVolume(Delete(volume_id=origin))
    host.attach(request.volume_id)
    left = {one for one in host.backing.volumes() if not one.startswith("deleted-")}
    assert left == {f"volume-{request.volume_id}"}


def test_a_source_must_exist_and_fit(host: Host) -> None:
    origin = host.create("thin", 2 * SIZE)
    snapshot_id = host.snapshot(origin)
    for field, source in (("source_volume_id", origin), ("source_snapshot_id", snapshot_id)):
        request = Create(volume_id=str(uuid.uuid4()), pool="thin", size_bytes=SIZE)
        setattr(request, field, source)
        with refused_with(grpc.StatusCode.INVALID_ARGUMENT) as caught:
            host.volumes.CreateVolume(request)
        assert "size_bytes" in str(caught[0].details())
        setattr(request, field, str(uuid.uuid4()))
        with refused_with(grpc.StatusCode.NOT_FOUND):
            host.volumes.CreateVolume(request)
    assert host.backing.volumes() == {f"volume-{origin}", f"snap-{snapshot_id}"}


def test_an_attached_volume_can_be_snapshot_and_cloned(host: Host) -> None:
    origin = host.create("thin", SIZE)
    host.attach(origin)
    snapshot_id = host.snapshot(origin)
    clone = Create(
        volume_id=str(uuid.uuid4()),
        pool="thin",
        size_bytes=SIZE,
        source_snapshot_id=snapshot_id,
    )
    host.volumes.CreateVolume(clone)
    host.attach(clone.volume_id, "b")
    connection = host.exports.GetConnection(
        export_pb2.GetConnectionRequest(volume_id=origin, attachment_id="attachment-a")
    )
    assert connection.authorized
