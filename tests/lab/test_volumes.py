"""What only real LVM can show: data, forks, wipes that go on, other people's volumes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from lab.service import TargetdService
from lab.storage import StorageHost
from targetd.api.v1 import host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, RealBacking, refused_with
from tests.lab.disks import count, fill, first_bytes, same

pytestmark = pytest.mark.lab

SIZE = 16 * MEBIBYTE
BEFORE, AFTER = b"as it was before\n", b"as it became then\n"
RECORD_CREATION = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as database:
    database.execute("INSERT INTO creating (lv_name) VALUES (?)", (sys.argv[2],))
"""
MARKER = b"an earlier tenant's data"


@pytest.fixture
def storage(lab_backing: RealBacking) -> TargetdService:
    return lab_backing.storage


def _device(volume_id: str) -> str:
    return f"/dev/storage/volume-{volume_id}"


def _from(kind: str, source: str, pool: str) -> volume_pb2.CreateVolumeRequest:
    request = volume_pb2.CreateVolumeRequest(
        volume_id=str(uuid.uuid4()), pool=pool, size_bytes=SIZE
    )
    setattr(request, f"source_{kind}_id", source)
    return request


@pytest.mark.parametrize(
    ("from_pool", "to_pool"),
    [
        ("thin", "thin"),
        ("thin", "thick"),
        pytest.param("thick", "thin", marks=pytest.mark.virtual),
    ],
)
def test_a_snapshot_keeps_the_data_of_its_moment(
    lab_host: Host, storage: TargetdService, from_pool: str, to_pool: str
) -> None:
    origin = lab_host.create(from_pool, SIZE)
    lab_host.attach(origin)
    fill(storage.node, _device(origin), BEFORE, SIZE)
    snapshot_id = lab_host.snapshot(origin)
    fill(storage.node, _device(origin), AFTER, SIZE)
    for kind, source, content in (
        ("snapshot", snapshot_id, BEFORE),
        ("volume", origin, AFTER),
    ):
        request = _from(kind, source, to_pool)
        lab_host.volumes.CreateVolume(request)
        lab_host.wait_available(request.volume_id)
        assert same(storage.node, _device(request.volume_id), content, SIZE)
        fill(storage.node, _device(request.volume_id), b"of its own\n", MEBIBYTE)
    assert first_bytes(storage.node, _device(origin), len(AFTER)) == AFTER, "each stands alone"


def test_a_thick_snapshot_that_ran_out_says_so(lab_host: Host, storage: StorageHost) -> None:
    origin = lab_host.create("thick", SIZE)
    snapshot_id = lab_host.snapshot(origin, 4 * MEBIBYTE)
    fill(storage.node, _device(origin), AFTER, 2 * MEBIBYTE)
    lab_host.hosts.Reconcile(host_pb2.ReconcileRequest())
    get = volume_pb2.GetSnapshotRequest(snapshot_id=snapshot_id)
    shown = lab_host.volumes.GetSnapshot(get)
    assert shown.reserved_bytes == 4 * MEBIBYTE
    assert 40 < shown.used_percent < 70 and not shown.overflowed
    fill(storage.node, _device(origin), AFTER, SIZE)
    lab_host.hosts.Reconcile(host_pb2.ReconcileRequest())
    assert lab_host.volumes.GetSnapshot(get).overflowed
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        lab_host.volumes.CreateVolume(_from("snapshot", snapshot_id, "thick"))
    assert "lost its content" in str(caught[0].details())


def test_what_a_thick_snapshot_kept_is_wiped(lab_host: Host, storage: StorageHost) -> None:
    disk = storage.node.disk("disk0")
    origin = lab_host.create("thick", SIZE)
    fill(storage.node, _device(origin), MARKER + b"\n", 8 * MEBIBYTE)
    snapshot_id = lab_host.snapshot(origin)
    fill(storage.node, _device(origin), b"nothing to see\n", 8 * MEBIBYTE)
    assert count(disk, MARKER) > 0, "the snapshot keeps what was overwritten"
    operation_id = lab_host.volumes.DeleteSnapshot(
        volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    ).operation_id
    storage.wait_wiped(operation_id)
    assert count(disk, MARKER) == 0
    assert first_bytes(storage.node, _device(origin), 8) == b"nothing "


@pytest.mark.parametrize("policy", ["discard", "none"])
def test_the_pool_decides_how_it_is_wiped(
    lab_host: Host, storage: StorageHost, policy: str
) -> None:
    disk = storage.node.disk("disk0")
    with storage.configured(('name = "thick"', f'name = "thick"\nwipe = "{policy}"')):
        volume_id = lab_host.create("thick", SIZE)
        fill(storage.node, _device(volume_id), MARKER + b"\n", 8 * MEBIBYTE)
        operation_id = lab_host.volumes.DeleteVolume(
            volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        ).operation_id
        assert bool(operation_id) == (policy == "discard")
        if operation_id:
            storage.wait_wiped(operation_id)
        assert (count(disk, MARKER) == 0) == (policy == "discard")
    # Leave the disk as the other tests expect it.
    volume_id = lab_host.create("thick", SIZE)
    fill(storage.node, _device(volume_id), b"\0", SIZE)


def test_long_work_goes_on_where_it_was(lab_host: Host, storage: StorageHost) -> None:
    throttle = f"throttle_bytes_per_second = {4 * MEBIBYTE}\nlog_level"
    with storage.configured(("log_level", throttle)):
        volume_id = lab_host.create("thick", 64 * MEBIBYTE)
        operation_id = lab_host.volumes.DeleteVolume(
            volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        ).operation_id
        request = host_pb2.GetOperationRequest(operation_id=operation_id)
        while lab_host.hosts.GetOperation(request).done_bytes < 24 * MEBIBYTE:
            time.sleep(0.2)
        storage.kill_and_wait()
        after = lab_host.hosts.GetOperation(request)
        assert after.state == host_pb2.OPERATION_STATE_RUNNING
        assert 8 * MEBIBYTE <= after.done_bytes < 64 * MEBIBYTE, "not from the beginning"
    storage.wait_wiped(operation_id)
    assert storage.node.run(["lvm", "lvs", "--noheadings", "-o", "lv_name"]).stdout.split() == [
        "thin"
    ]


def test_an_adopted_volume_keeps_its_data(lab_host: Host, storage: StorageHost) -> None:
    for pool in ("thick", "thin"):
        lab_host.backing.make_foreign("data", SIZE, pool)
        fill(storage.node, "/dev/storage/data", BEFORE, SIZE)
        volume_id = str(uuid.uuid4())
        lab_host.volumes.AdoptVolume(
            volume_pb2.AdoptVolumeRequest(volume_id=volume_id, pool=pool, lv_name="data")
        )
        assert first_bytes(storage.node, _device(volume_id), len(BEFORE)) == BEFORE
        lab_host.volumes.ReleaseVolume(
            volume_pb2.ReleaseVolumeRequest(volume_id=volume_id, lv_name="data")
        )
        assert first_bytes(storage.node, "/dev/storage/data", len(BEFORE)) == BEFORE
        tags = storage.node.run(["lvm", "lvs", "--noheadings", "-o", "lv_tags", "storage/data"])
        assert tags.stdout.strip() == "", "nothing of ours stays on it"
        lab_host.backing.remove_foreign("data")


def test_what_cannot_be_adopted_is_refused(lab_host: Host, storage: StorageHost) -> None:
    run = storage.node.run
    lab_host.backing.make_foreign("data", SIZE)
    run(["lvm", "lvcreate", "-y", "-s", "-n", "snap", "-L", "4m", "storage/data"])
    run(["mkfs.ext4", "-q", "/dev/storage/data"])
    for name, pool, words in (
        ("data", "thick", "has snapshots"),
        ("snap", "thick", "a snapshot"),
        ("thin", "thick", "is a pool"),
        ("data", "thin", "is not in pool thin"),
    ):
        with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
            lab_host.volumes.AdoptVolume(
                volume_pb2.AdoptVolumeRequest(volume_id=str(uuid.uuid4()), pool=pool, lv_name=name)
            )
        assert words in str(caught[0].details()), name
    run(["lvm", "lvremove", "-y", "storage/snap"])
    run(["mount", "/dev/storage/data", "/mnt"])
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        lab_host.volumes.AdoptVolume(
            volume_pb2.AdoptVolumeRequest(volume_id=str(uuid.uuid4()), pool="thick", lv_name="data")
        )
    assert "held open" in str(caught[0].details())
    run(["umount", "/mnt"])
    lab_host.backing.remove_foreign("data")


JOURNAL = ["journalctl", "--unit=targetd", "--output=cat", "LOGGER=targetd.engines.process"]


def _forks(storage: StorageHost) -> int:
    """What the daemon has run, but for the health service's looks at LVM."""
    everything = storage.written_by(JOURNAL)
    own = storage.written_by([*JOURNAL, "THREAD_NAME=health"])
    return len(everything.splitlines()) - len(own.splitlines())


@pytest.mark.parametrize("pool", ["thin", "thick"])
def test_operations_fork_no_more_than_they_must(
    lab_host: Host, storage: StorageHost, pool: str
) -> None:
    found: dict[str, int] = {}

    @contextmanager
    def counting(name: str) -> Iterator[None]:
        before = _forks(storage)
        yield
        found[name] = _forks(storage) - before

    with storage.configured(('log_level = "info"', 'log_level = "debug"')):
        # So that no figures of the pools are read while it is counted.
        lab_host.volumes.ListPools(volume_pb2.ListPoolsRequest())
        with counting("create"):
            volume_id = lab_host.create(pool, SIZE)
        with counting("attach"):
            lab_host.attach(volume_id)
        with counting("detach"):
            lab_host.detach(volume_id)
            lab_host.remove_export(volume_id)
        with counting("extend"):
            lab_host.volumes.ExtendVolume(
                volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=2 * SIZE)
            )
        with counting("snapshot"):
            snapshot_id = lab_host.snapshot(volume_id)
        with counting("delete snapshot"):
            request = volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
            wipe = lab_host.volumes.DeleteSnapshot(request).operation_id
            if wipe:
                storage.wait_wiped(wipe)
        with counting("delete"):
            delete = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
            wipe = lab_host.volumes.DeleteVolume(delete).operation_id
            if wipe:
                storage.wait_wiped(wipe)
    thick = pool == "thick"
    assert found == {
        "create": 1,
        "attach": 0,
        "detach": 0,
        "extend": 1,
        "snapshot": 1,
        # Thick: renamed, parted from its volume, and removed after the wipe.
        "delete snapshot": 3 if thick else 1,
        # Thick: renamed, and removed after the wipe.
        "delete": 2 if thick else 1,
    }


def test_the_space_of_a_thick_snapshot_that_was_never_made_goes(
    lab_host: Host, storage: StorageHost
) -> None:
    """LVM makes the space of a snapshot, with its name and tags, and then the snapshot
    of it; the power may go between the two."""
    origin = lab_host.create("thick", SIZE)
    name = f"snap-{uuid.uuid4()}"
    tags = ["targetd.v1", f"targetd.of.{origin}", "targetd.reserve.0"]
    storage.stop()
    storage.node.run(
        [
            *("lvm", "lvcreate", "-y", "-n", name, "-L", "8m", "storage"),
            *(argument for tag in tags for argument in ("--addtag", tag)),
        ]
    )
    storage.node.run(["python3", "-c", RECORD_CREATION, "/var/lib/targetd/state.sqlite", name])
    storage.start()
    end = time.monotonic() + 20
    while lab_host.backing.volumes() != {f"volume-{origin}"}:
        assert time.monotonic() < end, lab_host.backing.volumes()
        time.sleep(0.2)
    assert not lab_host.volumes.ListSnapshots(volume_pb2.ListSnapshotsRequest()).snapshots
