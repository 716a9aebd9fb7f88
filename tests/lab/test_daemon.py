"""What only the real host can show: crashes, power cuts, other readers, the wire."""

from __future__ import annotations

import json
import sys
import uuid
from contextlib import suppress

import grpc
import pytest

from lab.agreement import Client, disagreements, look
from lab.service import TargetdService
from lab.storage import ROOT, StorageHost
from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, LabBacking, RealBacking, properties_of, refused_with
from tests.lab.disks import count

pytestmark = pytest.mark.lab

Create = volume_pb2.CreateVolumeRequest
DROP_IN = "/etc/systemd/system/targetd.service.d/test.conf"
# It goes with the daemon that it stops.
FAILPOINT = "/run/targetd/failpoint"
READ_BACK = """
import json, rtslib_fb
root = rtslib_fb.RTSRoot()
print(json.dumps([
    {
        "iqn": target.wwn,
        "attributes": {name: tpg.get_attribute(name) for name in
                       ("authentication", "generate_node_acls", "demo_mode_discovery")},
        "enabled": tpg.enable,
        "portals": [f"{p.ip_address}:{p.port}" for p in tpg.network_portals],
        "luns": [[lun.lun, lun.storage_object.name, lun.storage_object.wwn,
                  lun.storage_object.udev_path] for lun in tpg.luns],
        "acls": [[acl.node_wwn, acl.chap_userid, acl.chap_password,
                  [[m.mapped_lun, bool(m.write_protect)] for m in acl.mapped_luns]]
                 for acl in tpg.node_acls],
    }
    for target in root.targets for tpg in target.tpgs
]))
"""


@pytest.fixture
def storage(lab_backing: RealBacking) -> TargetdService:
    return lab_backing.storage


def test_rtslib_reads_back_what_was_made(lab_host: Host, storage: StorageHost) -> None:
    volume_id = lab_host.create()
    given = lab_host.attach(volume_id, access_mode=export_pb2.ACCESS_MODE_RO)
    seen = json.loads(storage.node.run([sys.executable, "-c", READ_BACK]).stdout)
    device = f"/dev/storage/volume-{volume_id}"
    assert seen == [
        {
            "iqn": given.target_iqn,
            "attributes": {
                "authentication": "1",
                "generate_node_acls": "0",
                "demo_mode_discovery": "0",
            },
            "enabled": True,
            "portals": list(given.target_portals),
            "luns": [[0, f"volume-{volume_id}", volume_id, device]],
            "acls": [
                [
                    lab_host.backing.initiator("a"),
                    given.auth_username,
                    given.auth_password,
                    [[0, True]],
                ]
            ],
        }
    ]


@pytest.mark.virtual
def test_read_only_is_enforced_by_the_target(lab_host: Host, lab_backing: RealBacking) -> None:
    volume_id = lab_host.create()
    given = properties_of(lab_host.attach(volume_id, access_mode=export_pb2.ACCESS_MODE_RO))
    initiator = lab_backing.initiators["a"]
    disk = initiator.log_in(given)
    run = initiator.node.run
    assert run(["blockdev", "--getro", disk]).stdout.strip() == "1"
    # Whatever the initiator's own flag says, the target refuses the write.
    run(["blockdev", "--setrw", disk])
    write = ["dd", "if=/dev/urandom", f"of={disk}", "bs=4k", "count=1", "oflag=direct"]
    assert run(write, check=False).status != 0
    there = lab_backing.storage.node.run(["head", "-c", "4096", f"/dev/storage/volume-{volume_id}"])
    assert set(there.stdout) == {"\0"}
    initiator.drop(given["target_iqn"])


@pytest.mark.virtual
def test_a_grown_volume_is_seen_after_a_rescan(lab_host: Host, lab_backing: RealBacking) -> None:
    volume_id = lab_host.create("thick", 8 * MEBIBYTE)
    given = properties_of(lab_host.attach(volume_id))
    initiator = lab_backing.initiators["a"]
    disk = initiator.log_in(given)
    lab_host.volumes.ExtendVolume(
        volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=24 * MEBIBYTE)
    )
    initiator.rescan()
    assert initiator.size_bytes(disk) == 24 * MEBIBYTE
    initiator.drop(given["target_iqn"])


def test_deleted_thick_data_never_comes_back(lab_host: Host, storage: StorageHost) -> None:
    marker = b"an earlier tenant's data" * 1000
    volume_id = lab_host.create("thick", 8 * MEBIBYTE)
    path = f"/dev/storage/volume-{volume_id}"
    storage.node.run(["dd", f"of={path}", "bs=1M", "seek=4", "oflag=sync"], stdin=marker)

    def found_on_disk() -> int:
        # In the file behind the node's disk: what a reader of the disk could find one day.
        return count(storage.node.disk("disk0"), b"an earlier tenant's data")

    assert found_on_disk() > 0, "the search finds what is there"
    operation_id = lab_host.volumes.DeleteVolume(
        volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
    ).operation_id
    storage.wait_wiped(operation_id)
    assert found_on_disk() == 0


def test_a_wipe_goes_on_after_a_kill(lab_host: Host, lab_backing: LabBacking) -> None:
    storage = lab_backing.storage
    volume_id = lab_host.create("thick", 8 * MEBIBYTE)
    _restart(storage, "Environment=TARGETD_FAILPOINT=volume-wiped\nRestart=no\n")
    # The answer may or may not get out before the kill; the deletion stands either way.
    with suppress(grpc.RpcError):
        _do(lab_host, "delete", volume_id)
    _wait_dead(storage)
    (left,) = lab_backing.volumes()
    assert left.startswith(f"deleted-{volume_id}")
    _restart(storage, "")
    storage.wait_wiped(left.removeprefix("deleted-"))
    assert lab_backing.volumes() == set()


# Where the daemon is killed, while doing what, and whether the thing that was
# asked for may be there afterwards. It was not acknowledged: both are right, half is not.
FAILPOINTS = {
    "volume-begun": "create",
    "lvm-create-unsynced": "create",
    "volume-made": "create",
    "export-unrecorded": "export",
    "export-recorded": "export",
    "lio-hba-made": "export",
    "lio-backstore-not-enabled": "export",
    "lio-backstore-made": "export",
    "lio-target-not-enabled": "export",
    "export-made": "export",
    "connection-recorded": "connect",
    "lio-acl-without-secret": "connect",
    "connection-made": "connect",
    "connection-revoking": "disconnect",
    "lio-acl-unmapped": "disconnect",
    "connection-revoked": "disconnect",
    "lio-target-half-removed": "unexport",
    "export-removed": "unexport",
    "volume-retired": "delete",
    "snapshot-begun": "snapshot",
    "lvm-snapshot-unsynced": "snapshot",
    "snapshot-made": "snapshot",
    "lvm-snapshot-unsplit": "delete-snapshot",
    "lvm-clone-made": "clone",
    "copy-source-made": "copy",
    "copy-filled": "copy",
    "copy-finished": "copy",
    "lvm-adopt-tagged": "adopt",
    "volume-adopted": "adopt",
    "lvm-release-renamed": "release",
    "volume-released": "release",
}
# Passed after the call has been answered.
BEHIND = ("copy-filled", "copy-finished")


def test_killed_at_every_failpoint(lab_host: Host, lab_backing: LabBacking) -> None:
    storage = lab_backing.storage
    _restart(storage, f"Environment=TARGETD_FAILPOINT=file:{FAILPOINT}\n")
    try:
        for name, doing in FAILPOINTS.items():
            _killed_at(name, doing, lab_host, lab_backing)
    finally:
        storage.node.run(["rm", "-f", FAILPOINT])
        _restart(storage, "")


def _killed_at(name: str, doing: str, lab_host: Host, lab_backing: LabBacking) -> None:
    storage = lab_backing.storage
    # A bystander, attached and never touched, must come through unharmed.
    bystander = lab_host.create()
    lab_host.attach(bystander, "b")
    volume_id = _prepared(lab_host, doing)
    pid = storage.main_pid()
    storage.node.write(FAILPOINT, name)
    with suppress(grpc.RpcError) if name in BEHIND else pytest.raises(grpc.RpcError):
        _do(lab_host, doing, volume_id)
    # Not, if the place was never passed.
    storage.wait_for_next(pid)
    _check_agreement(lab_host, lab_backing, name)
    connection = lab_host.exports.GetConnection(
        export_pb2.GetConnectionRequest(volume_id=bystander, attachment_id="attachment-b")
    )
    assert connection.authorized, name
    # What was asked for can be asked for again, as after any failed call.
    _do(lab_host, doing, volume_id)
    _check_agreement(lab_host, lab_backing, name)
    print(f"killed at {name} during {doing}: nothing lost, nothing left")
    lab_host.remove_everything()
    if doing == "release":
        lab_backing.remove_foreign(FOREIGN)
    assert lab_backing.kernel() == {}


def _prepared(host: Host, doing: str) -> str:
    """Returns the id that ``_do`` works on: of a volume, or of what it makes."""
    if doing == "create":
        return str(uuid.uuid4())
    if doing == "adopt":
        host.backing.make_foreign(FOREIGN, 4 * MEBIBYTE)
        return str(uuid.uuid4())
    volume_id = host.create("thin" if doing in IN_THE_THIN_POOL else "thick")
    if doing in ("connect", "unexport"):
        host.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=volume_id))
    if doing == "disconnect":
        host.attach(volume_id)
    if doing == "delete-snapshot":
        return host.snapshot(volume_id)
    return volume_id


IN_THE_THIN_POOL = ("export", "connect", "disconnect", "unexport", "clone")
FOREIGN = "somebodys"


def _do(host: Host, doing: str, given: str) -> None:
    volumes = host.volumes
    # What is made of a thing has an id of its own, the same at every try.
    made = str(uuid.uuid5(uuid.NAMESPACE_OID, given))
    if doing in ("export", "connect"):
        host.attach(given)
    elif doing == "disconnect":
        host.detach(given)
    elif doing == "unexport":
        host.remove_export(given)
    elif doing == "create":
        volumes.CreateVolume(Create(volume_id=given, pool="thin", size_bytes=MEBIBYTE))
    elif doing == "delete":
        volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=given))
    elif doing == "snapshot":
        volumes.CreateSnapshot(volume_pb2.CreateSnapshotRequest(snapshot_id=made, volume_id=given))
    elif doing == "delete-snapshot":
        volumes.DeleteSnapshot(volume_pb2.DeleteSnapshotRequest(snapshot_id=given))
    elif doing in ("clone", "copy"):
        # Larger than its source, and in the source's pool.
        pool = "thin" if doing == "clone" else "thick"
        volumes.CreateVolume(
            Create(volume_id=made, pool=pool, size_bytes=32 * MEBIBYTE, source_volume_id=given)
        )
        host.wait_available(made)
    elif doing == "adopt":
        volumes.AdoptVolume(
            volume_pb2.AdoptVolumeRequest(volume_id=given, pool="thick", lv_name=FOREIGN)
        )
    else:
        assert doing == "release", doing
        volumes.ReleaseVolume(volume_pb2.ReleaseVolumeRequest(volume_id=given, lv_name=FOREIGN))


def _restart(storage: StorageHost, service: str) -> None:
    storage.node.write(DROP_IN, f"[Service]\n{service}")
    storage.node.run(["systemctl", "daemon-reload"])
    storage.node.run(["systemctl", "restart", "targetd"])
    assert storage.health() == "SERVING"


def _wait_dead(storage: StorageHost) -> None:
    for _ in range(100):
        if storage.main_pid() == 0:
            return
    raise AssertionError("the daemon was not killed: the failpoint was never passed")


def _check_agreement(host: Host, backing: RealBacking, name: str) -> None:
    """Records, kernel and LVM hold the same things: nothing lost, nothing orphaned."""
    for volume in host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes:
        host.wait_available(volume.volume_id)
    assert disagreements(look(backing.storage, Client(host.channel))) == [], name


def test_a_power_cut_loses_nothing_acknowledged(lab_host: Host, lab_backing: LabBacking) -> None:
    storage = lab_backing.storage
    made = {pool: lab_host.create(pool) for pool in ("thin", "thick")}
    given = {pool: lab_host.attach(volume_id) for pool, volume_id in made.items()}
    storage.node.power_cut()
    storage.boot()
    assert storage.health() == "SERVING"
    for pool, volume_id in made.items():
        assert lab_host.attach(volume_id) == given[pool], "the same access, with the same secret"
    _check_agreement(lab_host, lab_backing, "power cut")
    assert lab_host.backing.log_in("a", properties_of(given["thin"]))
    lab_host.backing.log_out("a", properties_of(given["thin"]))


def test_foreign_things_stay(lab_host: Host, lab_backing: LabBacking) -> None:
    storage, run = lab_backing.storage, lab_backing.storage.node.run
    iscsi = "/sys/kernel/config/target/iscsi"
    # An ACL name that rtslib cannot read, a target of somebody else's, and a volume.
    foreign = f"{iscsi}/iqn.2001-01.org.example.other:x"
    run(["mkdir", "-p", f"{foreign}/tpgt_1/acls/iqn.2001-01.org.example:odd_name"])
    run(["lvm", "lvcreate", "-y", "-n", "volume-foreign", "-L", "4m", "storage"])
    volume_id = lab_host.create()
    lab_host.attach(volume_id)
    storage.kill_and_wait()
    lab_host.attach(volume_id)
    lab_host.detach(volume_id)
    lab_host.exports.RemoveExport(export_pb2.RemoveExportRequest(volume_id=volume_id))
    assert run(["ls", f"{foreign}/tpgt_1/acls"]).stdout.strip() == (
        "iqn.2001-01.org.example:odd_name"
    )
    assert "volume-foreign" in lab_backing.volumes()
    listed = lab_host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes
    assert [volume.volume_id for volume in listed] == [volume_id]
    run(["rmdir", f"{foreign}/tpgt_1/acls/iqn.2001-01.org.example:odd_name"])
    run(["rmdir", f"{foreign}/tpgt_1", foreign])
    run(["lvm", "lvremove", "-y", "storage/volume-foreign"])


def test_what_targetcli_made_stays(lab_host: Host, lab_backing: LabBacking) -> None:
    storage, run = lab_backing.storage, lab_backing.storage.node.run
    theirs = "iqn.2001-01.org.example.other:theirs"
    # For its message bus, too.
    storage.targetcli()
    for command in (
        ("set", "global", "auto_add_default_portal=false"),
        ("/backstores/ramdisk", "create", "theirs", "8M"),
        ("/iscsi", "create", theirs),
        (f"/iscsi/{theirs}/tpg1/luns", "create", "/backstores/ramdisk/theirs"),
    ):
        run(["targetcli", *command])
    volume_id = lab_host.create()
    given = lab_host.attach(volume_id)
    storage.kill_and_wait()
    report = lab_host.hosts.Reconcile(host_pb2.ReconcileRequest())
    assert (report.exports_checked, list(report.drifts)) == (1, [])
    shown = storage.targetcli()
    assert theirs in shown and "ramdisk/theirs" in shown and given.target_iqn in shown
    lab_host.detach(volume_id)
    lab_host.remove_export(volume_id)
    shown = storage.targetcli()
    assert "ramdisk/theirs" in shown and given.target_iqn not in shown
    run(["targetcli", "/iscsi", "delete", theirs])
    run(["targetcli", "/backstores/ramdisk", "delete", "theirs"])


def test_a_volume_in_use_on_the_host_is_not_deleted(lab_host: Host, storage: StorageHost) -> None:
    volume_id = lab_host.create("thick", 16 * MEBIBYTE)
    path = f"/dev/storage/volume-{volume_id}"
    storage.node.run(["mkfs.ext4", "-q", path])
    storage.node.run(["mount", path, "/mnt"])
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
        lab_host.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    storage.node.run(["umount", "/mnt"])


@pytest.mark.parametrize(
    ("change", "words", "status"),
    [
        (('group = "storage"', 'group = "none"'), "volume group none is not there", 75),
        (('"thin"', '"none"'), "storage/none is not an active thin pool", 75),
        (("[[pool]]", "unknown = 1\n[[pool]]"), "wrong.toml:3: unknown: is not a known key", 78),
        (("wrong/state", "../proc/state"), "the state directory /root/../proc/state cannot be", 78),
    ],
)
def test_a_refusal_to_start_is_one_clear_line(
    storage: StorageHost, change: tuple[str, str], words: str, status: int
) -> None:
    text = (
        'socket = "/root/wrong/targetd.sock"\nstate_directory = "/root/wrong/state"\n'
        '[[pool]]\nname = "p"\nvolume_group = "storage"\nthin_pool = "thin"\n'
    )
    storage.node.write("/root/wrong.toml", text.replace(*change, 1))
    done = storage.node.run(
        [sys.executable, "-m", "targetd", "--config", "/root/wrong.toml"],
        environment={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.status == status, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
