"""Full pools, lost disks, a state that cannot be written, a clock that jumps: on the real host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import pytest

from lab.errors import LabError
from lab.storage import StorageHost
from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, LabBacking, properties_of, refused_with
from tests.lab.disks import fill

pytestmark = pytest.mark.lab

STATE = "/var/lib/targetd"


@pytest.fixture
def storage(lab_backing: LabBacking) -> StorageHost:
    return lab_backing.storage


def _reason(error: grpc.RpcError) -> str:
    """The machine-readable word of the answer's ErrorInfo."""
    found: dict[str, bytes] = dict(cast(Any, error).trailing_metadata())
    return found["grpc-status-details-bin"].decode(errors="replace")


def test_a_full_thin_pool_is_refused_before_lvm_fails(lab_host: Host, storage: StorageHost) -> None:
    volume_id = lab_host.create("thin", 1 << 30)
    device = f"/dev/storage/volume-{volume_id}"
    fill(storage.node, device, b"x" * 4096, 990 * MEBIBYTE)
    (pool,) = [
        pool
        for pool in lab_host.volumes.ListPools(volume_pb2.ListPoolsRequest()).pools
        if pool.name == "thin"
    ]
    assert pool.data_percent > 95
    refused: list[Callable[[], object]] = [
        lambda: lab_host.create("thin"),
        lambda: lab_host.snapshot(volume_id),
    ]
    for make in refused:
        with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
            make()
        assert "POOL_DATA_FULL" in _reason(caught[0])
        assert "extend it or delete volumes" in str(caught[0].details())
    # What is there goes on: access is given and taken.
    lab_host.attach(volume_id)
    lab_host.detach(volume_id)


def test_a_full_volume_group_is_refused_and_nothing_is_left(
    lab_host: Host, storage: StorageHost
) -> None:
    (pool,) = [
        pool
        for pool in lab_host.volumes.ListPools(volume_pb2.ListPoolsRequest()).pools
        if pool.name == "thick"
    ]
    volume_id = lab_host.create("thick", pool.free_bytes)
    before = lab_host.backing.volumes()
    grow = volume_pb2.ExtendVolumeRequest(
        volume_id=volume_id, size_bytes=pool.free_bytes + MEBIBYTE
    )
    refused: list[Callable[[], object]] = [
        lambda: lab_host.create("thick", MEBIBYTE),
        lambda: lab_host.snapshot(volume_id, MEBIBYTE),
        lambda: lab_host.volumes.ExtendVolume(grow),
    ]
    for change in refused:
        with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
            change()
        assert "thick" in str(caught[0].details())
    assert lab_host.backing.volumes() == before


def test_a_full_state_file_system_stops_nobody(lab_host: Host, storage: StorageHost) -> None:
    """The records have their space from the start."""
    run = storage.node.run
    volume_id = lab_host.create()
    try:
        run(["dd", "if=/dev/zero", f"of={STATE}/full", "bs=1M"], check=False)
        run(["sh", "-c", f"while echo x >> {STATE}/rest; do :; done"], check=False)
        for _ in range(20):
            lab_host.attach(volume_id)
            lab_host.detach(volume_id)
            lab_host.remove_export(volume_id)
    finally:
        run(["rm", f"{STATE}/full", f"{STATE}/rest"])
        # The next test loses what the file system has not written down yet.
        run(["sync", "--file-system", STATE])


# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: every write fails from then on.
LOSE_THE_FILE_SYSTEM = """\
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))
"""


def test_records_that_cannot_be_written_change_nothing(
    lab_host: Host, lab_backing: LabBacking
) -> None:
    storage, run = lab_backing.storage, lab_backing.storage.node.run
    attached, other = lab_host.create(), lab_host.create()
    given = lab_host.attach(attached)
    lab_host.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=other))
    before = lab_backing.kernel()
    run(["python3", "-c", LOSE_THE_FILE_SYSTEM, STATE])
    refused: list[Callable[[], object]] = [
        lambda: lab_host.attach(other, "b"),
        lambda: lab_host.detach(attached),
        lambda: lab_host.create(),
    ]
    for change in refused:
        with refused_with(grpc.StatusCode.UNAVAILABLE) as caught:
            change()
        assert "STATE_NOT_WRITABLE" in _reason(caught[0])
        assert "full or read-only" in str(caught[0].details())
    assert lab_backing.kernel() == before
    storage.stop()
    run(["umount", STATE])
    run(["mount", "/dev/ubdb", STATE])
    storage.start()
    assert lab_host.attach(attached) == given, "nothing was lost"
    lab_host.attach(other, "b")
    lab_host.detach(attached)


def test_a_read_only_state_is_a_refusal_to_start(lab_host: Host, storage: StorageHost) -> None:
    volume_id = lab_host.create()
    given = lab_host.attach(volume_id)
    storage.stop()
    storage.node.run(["mount", "-o", "remount,ro", STATE])
    with pytest.raises(LabError) as caught:
        storage.start()
    assert "read-only" in str(caught.value)
    storage.node.run(["mount", "-o", "remount,rw", STATE])
    storage.start()
    assert lab_host.attach(volume_id) == given


@contextmanager
def _two_disk_group(storage: StorageHost) -> Iterator[tuple[str, str]]:
    """A volume group on two disks that can be pulled out; yields their files."""
    run = storage.node.run
    files = ("/root/disk-one", "/root/disk-two")
    devices = ("/dev/loop0", "/dev/loop1")
    run(["modprobe", "loop"])
    for file, device in zip(files, devices, strict=True):
        run(["truncate", "-s", "64M", file])
        run(["losetup", device, file])
    run(["lvm", "vgcreate", "extra", *devices])
    try:
        yield files
    finally:
        run(["lvm", "vgremove", "-ff", "-y", "extra"])
        for device in devices:
            run(["losetup", "-d", device])
        run(["rm", *files])


def test_a_lost_disk_degrades_its_volumes_only(lab_host: Host, storage: StorageHost) -> None:
    run = storage.node.run
    extra = '[[pool]]\nname = "extra"\nvolume_group = "extra"\n\n[[pool]]\nname = "thick"'
    with (
        _two_disk_group(storage) as files,
        storage.configured(('[[pool]]\nname = "thick"', extra)),
    ):
        # Each as large as one disk, so that they are on different ones.
        kept, lost = (lab_host.create("extra", 60 * MEBIBYTE) for _ in range(2))
        given = {one: lab_host.attach(one) for one in (kept, lost)}
        storage.stop()
        for one in (kept, lost):
            _clear_kernel(storage, given[one].target_iqn)
        run(["lvm", "vgchange", "-an", "extra"])
        run(["losetup", "-d", "/dev/loop1"])
        storage.start()
        assert "misses 1 physical volumes" in storage.journal()
        assert _state(lab_host, kept) == volume_pb2.VOLUME_STATE_AVAILABLE
        assert _state(lab_host, lost) == volume_pb2.VOLUME_STATE_DEGRADED
        assert lab_host.backing.log_in("a", properties_of(given[kept]))
        lab_host.backing.log_out("a", properties_of(given[kept]))
        with refused_with(grpc.StatusCode.UNAVAILABLE):
            lab_host.attach(lost)
        # The disk is put back.
        run(["losetup", "/dev/loop1", files[1]])
        run(["udevadm", "settle"])
        report = lab_host.hosts.Reconcile(host_pb2.ReconcileRequest())
        assert not report.degraded_volume_ids
        assert _state(lab_host, lost) == volume_pb2.VOLUME_STATE_AVAILABLE
        assert lab_host.attach(lost) == given[lost]
        assert lab_host.backing.log_in("a", properties_of(given[lost]))
        lab_host.backing.log_out("a", properties_of(given[lost]))
        lab_host.remove_everything()


def _state(host: Host, volume_id: str) -> int:
    request = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    return host.volumes.GetVolume(request).state


def _clear_kernel(storage: StorageHost, iqn: str) -> None:
    """As after a reboot: the kernel knows nothing of the export."""
    storage.node.run(
        [
            "python3",
            "-c",
            "import sys, rtslib_fb\n"
            "root = rtslib_fb.RTSRoot()\n"
            "target = next(t for t in root.targets if t.wwn == sys.argv[1])\n"
            "objects = [lun.storage_object for tpg in target.tpgs for lun in tpg.luns]\n"
            "target.delete()\n"
            "[one.delete() for one in objects]\n",
            iqn,
        ]
    )


LVM_LOCAL = "/etc/lvm/lvmlocal.conf"
ANOTHER_MANAGER = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"


def _refusal(storage: StorageHost) -> str:
    """What the daemon says when it is started by hand, which must be one line."""
    done = storage.node.run(["/usr/bin/targetd"], check=False)
    assert done.status == 78, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_host_that_is_not_safe_is_a_refusal_to_start(
    lab_host: Host, storage: StorageHost
) -> None:
    run = storage.node.run
    storage.stop()
    try:
        run(["lvm", "lvchange", "--zero", "n", "storage/thin"])
        assert "lvchange --zero y storage/thin" in _refusal(storage)
        run(["lvm", "lvchange", "--zero", "y", "storage/thin"])

        before = storage.node.read(LVM_LOCAL)
        storage.node.write(LVM_LOCAL, before + b"\ndevices { scan_lvs = 1 }\n")
        assert "set scan_lvs=0" in _refusal(storage)
        storage.node.write(LVM_LOCAL, before)

        storage.node.write("/run/systemd/system/target.service", ANOTHER_MANAGER)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "start", "target.service"])
        assert "systemctl disable --now target.service" in _refusal(storage)
        run(["systemctl", "stop", "target.service"])
        run(["rm", "/run/systemd/system/target.service"])
        run(["systemctl", "daemon-reload"])

        run(["chmod", "644", f"{STATE}/host.key"])
        assert f"chmod 600 {STATE}/host.key" in _refusal(storage)
        run(["chmod", "600", f"{STATE}/host.key"])
    finally:
        storage.start()


def test_a_clock_that_jumps_harms_nothing(lab_host: Host, lab_backing: LabBacking) -> None:
    run = lab_backing.storage.node.run
    volume_id = lab_host.create(multi_attach=True)
    given = lab_host.attach(volume_id)
    assert lab_host.backing.log_in("a", properties_of(given))
    now = int(run(["date", "+%s"]).stdout)
    try:
        for seconds in (-400 * 86400, 400 * 86400):
            # On the open channel: a new one would find the certificates out of their time.
            run(["date", "-s", f"@{now + seconds}"])
            lab_host.attach(volume_id, "b")
            lab_host.detach(volume_id, "b")
            connection = lab_host.exports.GetConnection(
                export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id="attachment-a")
            )
            assert connection.logged_in and connection.authorized
            made = lab_host.create("thick")
            operation_id = lab_host.volumes.DeleteVolume(
                volume_pb2.DeleteVolumeRequest(volume_id=made)
            ).operation_id
            request = host_pb2.WatchOperationRequest(operation_id=operation_id)
            (*_, last) = lab_host.hosts.WatchOperation(request, timeout=30)
            assert last.state == host_pb2.OPERATION_STATE_DONE
    finally:
        run(["date", "-s", f"@{now}"])
    assert lab_host.attach(volume_id) == given
    lab_host.backing.log_out("a", properties_of(given))
