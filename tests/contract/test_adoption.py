"""Logical volumes taken over and let go of: on the simulated and on the real host."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial

import grpc

from targetd.api.v1 import volume_pb2
from tests.answers import listing, reason_of
from tests.hosts import MEBIBYTE, Host, refused_with

SIZE = 16 * MEBIBYTE


def _adopt(lv_name: str, pool: str = "thick", volume_id: str = "") -> volume_pb2.AdoptVolumeRequest:
    return volume_pb2.AdoptVolumeRequest(
        volume_id=volume_id or str(uuid.uuid4()), pool=pool, lv_name=lv_name
    )


def test_adopted_attached_and_let_go_of(host: Host) -> None:
    host.backing.make_foreign("data", SIZE)
    request = _adopt("data")
    first, *others = (host.volumes.AdoptVolume(request) for _ in range(3))
    assert (first.size_bytes, first.pool) == (SIZE, "thick")
    assert all(other == first for other in others)
    assert host.backing.volumes() == {f"volume-{request.volume_id}"}
    host.attach(request.volume_id)
    release = volume_pb2.ReleaseVolumeRequest(volume_id=request.volume_id, lv_name="data2")
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
        host.volumes.ReleaseVolume(release)
    host.backing.restart()
    assert host.volumes.AdoptVolume(request) == first
    host.detach(request.volume_id)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        host.volumes.ReleaseVolume(release)
    assert "RemoveExport" in str(caught[0].details())
    host.remove_export(request.volume_id)
    assert host.volumes.ReleaseVolume(release).device_path == "/dev/storage/data2"
    assert host.volumes.ReleaseVolume(release).device_path == "", "absent is fine"
    assert not host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes
    again = _adopt("data2")
    assert host.volumes.AdoptVolume(again).size_bytes == SIZE, "what was let go can come again"
    host.volumes.ReleaseVolume(
        volume_pb2.ReleaseVolumeRequest(volume_id=again.volume_id, lv_name="data2")
    )
    host.backing.restart()
    assert not host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes
    host.backing.remove_foreign("data2")


def test_what_is_absent_or_ours_is_refused(host: Host) -> None:
    with refused_with(grpc.StatusCode.NOT_FOUND):
        host.volumes.AdoptVolume(_adopt("none"))
    volume_id = host.create("thick", SIZE)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        host.volumes.AdoptVolume(_adopt(f"volume-{volume_id}"))
    assert "already" in str(caught[0].details())
    with refused_with(grpc.StatusCode.ALREADY_EXISTS):
        host.volumes.AdoptVolume(_adopt("none", volume_id=volume_id))
    for name in ("", "-n", "../sda", "a b", "x_tdata", "snapshot1", ".."):
        with refused_with(grpc.StatusCode.INVALID_ARGUMENT):
            host.volumes.AdoptVolume(_adopt(name))
    assert host.backing.volumes() == {f"volume-{volume_id}"}


def test_a_created_volume_can_be_let_go_of(host: Host) -> None:
    volume_id = host.create("thick", SIZE)
    answer = host.volumes.ReleaseVolume(volume_pb2.ReleaseVolumeRequest(volume_id=volume_id))
    assert answer.device_path == f"/dev/storage/volume-{volume_id}", "it keeps its name"
    assert not host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes
    again = host.volumes.AdoptVolume(_adopt(f"volume-{volume_id}", volume_id=volume_id))
    assert (again.volume_id, again.size_bytes) == (volume_id, SIZE), "under its old id too"
    host.volumes.ReleaseVolume(volume_pb2.ReleaseVolumeRequest(volume_id=volume_id))
    host.backing.remove_foreign(f"volume-{volume_id}")


def _refused_as_taken(call: Callable[[], object], name: str) -> None:
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        call()
    assert reason_of(caught[0]) == "NAME_TAKEN"
    assert name in str(caught[0].details())


def test_names_that_are_taken_are_refused(host: Host) -> None:
    taken, other = f"volume-{uuid.uuid4()}", host.create("thick", SIZE)
    taken_id = taken.removeprefix("volume-")
    host.backing.make_foreign(taken, SIZE)
    host.backing.make_foreign("data", SIZE)
    for pool in ("thick", "thin"):
        create = volume_pb2.CreateVolumeRequest(volume_id=taken_id, pool=pool, size_bytes=SIZE)
        _refused_as_taken(partial(host.volumes.CreateVolume, create), taken)
        create.source_volume_id = other
        _refused_as_taken(partial(host.volumes.CreateVolume, create), taken)
    _refused_as_taken(partial(host.volumes.AdoptVolume, _adopt("data", volume_id=taken_id)), taken)
    third = host.create("thin", SIZE)
    for name in (taken, f"volume-{third}"):
        release = volume_pb2.ReleaseVolumeRequest(volume_id=other, lv_name=name)
        _refused_as_taken(partial(host.volumes.ReleaseVolume, release), name)
    host.backing.restart()
    assert set(listing(host).volumes) == {other, third}
    assert host.backing.volumes() == {taken, "data", f"volume-{other}", f"volume-{third}"}
    for name in (taken, "data"):
        host.backing.remove_foreign(name)
