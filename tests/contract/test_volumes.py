"""VolumeService: the same tests on the simulated and on the real host."""

from __future__ import annotations

import uuid

import grpc
import pytest

from targetd.api.v1 import host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, refused_with

Create = volume_pb2.CreateVolumeRequest


@pytest.mark.parametrize("pool", ["thin", "thick"])
def test_create_repeated_gives_the_same(host: Host, pool: str) -> None:
    request = Create(volume_id=str(uuid.uuid4()), pool=pool, size_bytes=5 * MEBIBYTE)
    first, *others = (host.volumes.CreateVolume(request) for _ in range(5))
    assert first.size_bytes == 8 * MEBIBYTE, "rounded up to whole extents"
    assert all(other == first for other in others)
    assert host.backing.volumes() == {f"volume-{request.volume_id}"}


def test_same_id_with_other_parameters_already_exists(host: Host) -> None:
    volume_id = host.create("thin", 16 * MEBIBYTE)
    for other in (
        Create(volume_id=volume_id, pool="thin", size_bytes=32 * MEBIBYTE),
        Create(volume_id=volume_id, pool="thick", size_bytes=16 * MEBIBYTE),
        Create(volume_id=volume_id, pool="thin", size_bytes=16 * MEBIBYTE, multi_attach=True),
    ):
        with refused_with(grpc.StatusCode.ALREADY_EXISTS):
            host.volumes.CreateVolume(other)


def test_no_space_is_resource_exhausted_and_changes_nothing(host: Host) -> None:
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
        host.create("thick", 1 << 42)
    assert "thick" in str(caught[0].details())
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
        host.create("thin", 1 << 50)
    assert host.backing.volumes() == set()


def test_ids_that_initiators_would_confuse_are_refused(host: Host) -> None:
    first = "00000000-0000-0000-0000-000000000001"
    request = Create(volume_id=first, pool="thin", size_bytes=MEBIBYTE)
    host.volumes.CreateVolume(request)
    request.volume_id = "00000000-0000-0000-0000-000000000002"
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT) as caught:
        host.volumes.CreateVolume(request)
    assert "volume_id" in str(caught[0].details())


def test_delete_frees_the_name_and_absent_is_fine(host: Host) -> None:
    for pool in ("thin", "thick"):
        volume_id = host.create(pool)
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        operation_id = host.volumes.DeleteVolume(request).operation_id
        assert bool(operation_id) == (pool == "thick"), "only thick volumes are wiped"
        if operation_id:
            operation = host.hosts.GetOperation(
                host_pb2.GetOperationRequest(operation_id=operation_id)
            )
            assert operation.volume_id == volume_id
            assert operation.total_bytes == 16 * MEBIBYTE
        assert f"volume-{volume_id}" not in host.backing.volumes()
        assert host.volumes.DeleteVolume(request).operation_id == ""
        with refused_with(grpc.StatusCode.NOT_FOUND):
            host.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=volume_id))
        host.volumes.CreateVolume(Create(volume_id=volume_id, pool=pool, size_bytes=MEBIBYTE))


def test_delete_refuses_what_is_exported_or_connected(host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        host.volumes.DeleteVolume(request)
    assert "attachment-a" in str(caught[0].details())
    host.detach(volume_id)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
        host.volumes.DeleteVolume(request)


def test_list_in_pages(host: Host) -> None:
    made = sorted(host.create(size_bytes=MEBIBYTE) for _ in range(5))
    seen: list[str] = []
    token = ""
    while True:
        answer = host.volumes.ListVolumes(
            volume_pb2.ListVolumesRequest(page_size=2, page_token=token)
        )
        assert len(answer.volumes) <= 2
        seen += [volume.volume_id for volume in answer.volumes]
        token = answer.next_page_token
        if not token:
            break
    assert seen == made


def test_extend_grows_and_never_shrinks(host: Host) -> None:
    volume_id = host.create("thick", 8 * MEBIBYTE)
    for size in (16, 16, 4):
        volume = host.volumes.ExtendVolume(
            volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size * MEBIBYTE)
        )
        assert volume.size_bytes == 16 * MEBIBYTE


def test_pools_report_what_is_promised(host: Host) -> None:
    host.create("thick", 64 * MEBIBYTE)
    pools = {p.name: p for p in host.volumes.ListPools(volume_pb2.ListPoolsRequest()).pools}
    assert set(pools) == {"thick", "thin"}
    assert pools["thick"].provisioned_bytes >= 64 * MEBIBYTE
    assert pools["thin"].provisioned_bytes == 0
    assert pools["thin"].total_bytes > 0
    assert pools["thick"].vg_metadata_free_bytes > 0


def test_volumes_survive_a_kill(host: Host) -> None:
    volume_id = host.create("thin", multi_attach=True)
    request = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    before = host.volumes.GetVolume(request)
    host.backing.restart()
    after = host.volumes.GetVolume(request, wait_for_ready=True)
    before.ClearField("create_time")
    after.ClearField("create_time")
    assert after == before
