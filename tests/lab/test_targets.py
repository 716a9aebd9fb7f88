"""What only real LIO can show: portals, mutual CHAP, drift put right, a device that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import grpc
import pytest

from lab.errors import LoginFailed
from lab.initiator import Initiator
from lab.network import FIRST_NODE_HOST, address6
from lab.service import TargetdService
from lab.storage import StorageHost
from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, LabBacking, RealBacking, properties_of, refused_with

pytestmark = pytest.mark.lab

ISCSI = "/sys/kernel/config/target/iscsi"
CORE = "/sys/kernel/config/target/core"
STRANGER = "iqn.2026-01.org.example.lab:stranger"


@pytest.fixture
def storage(lab_backing: RealBacking) -> TargetdService:
    return lab_backing.storage


def _write(storage: TargetdService, path: str, value: str) -> None:
    storage.node.write("/root/value", value)
    storage.node.run(["dd", "if=/root/value", f"of={path}", "conv=notrunc"])


def _reconciled(host: Host, volume_id: str) -> list[str]:
    """What one reconcile found; a second one must find nothing."""
    report = host.hosts.Reconcile(host_pb2.ReconcileRequest(volume_id=volume_id))
    again = host.hosts.Reconcile(host_pb2.ReconcileRequest(volume_id=volume_id))
    assert not again.drifts, "it was put right"
    assert not report.degraded_volume_ids
    return [drift.what for drift in report.drifts]


def test_several_portals_ipv4_and_ipv6(lab_host: Host, lab_backing: LabBacking) -> None:
    storage, initiator = lab_backing.storage, lab_backing.initiators["a"]
    ipv4, ipv6 = storage.node.address, address6(0, FIRST_NODE_HOST)
    with storage.configured((f'["{ipv4}"]', f'["{ipv4}", "{ipv6}"]')):
        volume_id = lab_host.create()
        given = properties_of(lab_host.attach(volume_id))
        assert given["target_portals"] == [f"{ipv4}:3260", f"[{ipv6}]:3260"]
        assert len(given["target_iqns"]) == len(given["target_luns"]) == 2
        over_ipv6 = {**given, "target_portals": given["target_portals"][1:]}
        over_ipv6 |= {key: given[key][1:] for key in ("target_iqns", "target_luns")}
        initiator.log_in(over_ipv6)
        connection = _connection(lab_host, volume_id)
        assert connection.logged_in
        assert address6(0, FIRST_NODE_HOST + 1) in connection.peer_addresses[0]
        initiator.log_out(given)
        initiator.login(given, multipath=True)
        assert len(initiator.sessions()) == 2, "one session for each portal"
        initiator.log_out(given)
    # A portal that is configured no longer goes from the targets that had it.
    np = f"{ISCSI}/{given['target_iqn']}/tpgt_1/np"
    assert storage.node.run(["ls", np]).stdout.split() == [f"{ipv4}:3260"]


def _connection(
    host: Host, volume_id: str, attachment_id: str = "attachment-a"
) -> export_pb2.Connection:
    return host.exports.GetConnection(
        export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id=attachment_id)
    )


def _initialize(host: Host, volume_id: str, mutual_chap: bool) -> export_pb2.ConnectionProperties:
    host.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=volume_id))
    answer = host.exports.InitializeConnection(
        export_pb2.InitializeConnectionRequest(
            volume_id=volume_id,
            attachment_id="attachment-a",
            connector=host.connector("a"),
            mutual_chap=mutual_chap,
        )
    )
    return answer.properties


@pytest.mark.virtual
def test_mutual_chap_proves_the_target_too(lab_host: Host, lab_backing: RealBacking) -> None:
    initiator = lab_backing.initiators["a"]
    volume_id = lab_host.create()
    first = _initialize(lab_host, volume_id, mutual_chap=True)
    given = properties_of(first)
    assert given["mutual_auth_username"] and given["mutual_auth_password"]
    assert given["mutual_auth_password"] != given["auth_password"]
    assert _initialize(lab_host, volume_id, mutual_chap=True) == first
    with refused_with(grpc.StatusCode.ALREADY_EXISTS):
        _initialize(lab_host, volume_id, mutual_chap=False)
    initiator.log_in(given)
    initiator.log_out(given)
    with pytest.raises(LoginFailed):
        # A target that does not know the secret is not believed.
        initiator.log_in({**given, "mutual_auth_password": "another1secret12"})
    lab_backing.restart()
    assert _initialize(lab_host, volume_id, mutual_chap=True) == first
    lab_host.detach(volume_id)
    plain = properties_of(_initialize(lab_host, volume_id, mutual_chap=False))
    assert not plain["mutual_auth_username"]
    initiator.log_in(plain)
    initiator.log_out(plain)


def test_one_secret_per_export(lab_host: Host, lab_backing: LabBacking) -> None:
    storage = lab_backing.storage
    with storage.configured(("log_level", 'chap = "export"\nlog_level')):
        volume_id = lab_host.create(multi_attach=True)
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        export = lab_host.exports.CreateExport(request)
        assert export.auth_username and export.auth_password
        assert lab_host.exports.CreateExport(request) == export
        for host in ("a", "b"):
            given = lab_host.attach(volume_id, host)
            assert given.auth_username == export.auth_username
            assert given.auth_password == export.auth_password
            assert lab_host.backing.log_in(host, properties_of(given))
        shown = lab_host.exports.GetExport(export_pb2.GetExportRequest(volume_id=volume_id))
        assert not shown.auth_password
        assert shown.session_count == 2
        storage.kill_and_wait()
        again = lab_host.exports.CreateExport(request)
        assert again.auth_password == export.auth_password
        for host in ("a", "b"):
            lab_host.backing.log_out(host, properties_of(given))


def test_names_are_the_same_in_any_case(lab_host: Host, lab_backing: LabBacking) -> None:
    volume_id = lab_host.create()
    lower = lab_host.attach(volume_id)
    connector = export_pb2.Connector(initiator=lab_host.backing.initiator("a").upper(), host="a")
    connector.initiator = "iqn" + connector.initiator[3:]
    answer = lab_host.exports.InitializeConnection(
        export_pb2.InitializeConnectionRequest(
            volume_id=volume_id, attachment_id="attachment-a", connector=connector
        )
    )
    assert answer.properties == lower
    initiator = lab_backing.initiators["a"]
    initiator.login(properties_of(lower), connector.initiator)
    assert _connection(lab_host, volume_id).logged_in
    initiator.log_out(properties_of(lower))


def test_drift_is_reported_and_put_right(lab_host: Host, lab_backing: LabBacking) -> None:
    storage = lab_backing.storage
    # Not by the periodic reconcile, which might come between.
    with storage.configured(("log_level", "reconcile_seconds = 0\nlog_level")):
        _drift(lab_host, lab_backing)


def _drift(lab_host: Host, lab_backing: LabBacking) -> None:
    storage, run = lab_backing.storage, lab_backing.storage.node.run
    volume_id = lab_host.create()
    given = properties_of(lab_host.attach(volume_id))
    initiator, name = lab_backing.initiators["a"], lab_host.backing.initiator("a")
    initiator.log_in(given)
    assert _reconciled(lab_host, volume_id) == []
    tpg = f"{ISCSI}/{given['target_iqn']}/tpgt_1"
    acl = f"{tpg}/acls/{name}"
    changes = {
        f"{tpg}/attrib/authentication": ("0", "attrib/authentication"),
        f"{tpg}/attrib/generate_node_acls": ("1", "attrib/generate_node_acls"),
        f"{tpg}/attrib/demo_mode_discovery": ("1", "attrib/demo_mode_discovery"),
        f"{acl}/attrib/authentication": ("0", f"acl {name}: attrib/authentication"),
        f"{acl}/auth/password": ("another1secret12", f"acl {name}: auth/password"),
        # The same to a careless reader: the line end is part of it.
        f"{acl}/auth/userid": (given["auth_username"] + "\n", f"acl {name}: auth/userid"),
        f"{acl}/auth/userid_mutual": ("somebody", f"acl {name}: auth/userid_mutual"),
        f"{acl}/lun_0/write_protect": ("1", f"acl {name}: write_protect"),
    }
    for path, (value, what) in changes.items():
        _write(storage, path, value)
        assert _reconciled(lab_host, volume_id) == [what]
    run(["mkdir", "-p", f"{tpg}/acls/{STRANGER}"])
    run(["mkdir", "-p", f"{tpg}/acls/iqn.2001-01.org.example:odd_name"])
    assert sorted(_reconciled(lab_host, volume_id)) == [
        "acl iqn.2001-01.org.example:odd_name",
        f"acl {STRANGER}",
    ]
    assert initiator.sessions() == [given["target_iqn"]], "the one who belongs here stays"
    initiator.log_out(given)
    # What costs the session is put right as well.
    run(["rm", f"{acl}/lun_0/volume"])
    run(["rmdir", f"{acl}/lun_0", acl])
    assert _reconciled(lab_host, volume_id) == [f"acl {name}"]
    _write(storage, f"{tpg}/enable", "0")
    assert _reconciled(lab_host, volume_id) == ["enable"]
    run(["rmdir", f"{tpg}/np/{given['target_portal']}"])
    assert _reconciled(lab_host, volume_id) == [f"portal {given['target_portal']}"]
    initiator.log_in(given)
    initiator.log_out(given)


def test_a_half_made_backstore_is_made_anew(lab_host: Host, storage: StorageHost) -> None:
    run = storage.node.run
    volume_id, bystander = lab_host.create(), lab_host.create()
    lab_host.attach(bystander, "b")
    # As a crash, or somebody, may leave it: no device, not enabled, no serial.
    run(["mkdir", "-p", f"{CORE}/iblock_100900/volume-{volume_id}"])
    run(["mkdir", "-p", f"{CORE}/iblock_100901"])
    run(["mkdir", "-p", f"{CORE}/iblock_7/somebody-elses"])
    storage.kill_and_wait()
    given = properties_of(lab_host.attach(volume_id))
    assert lab_host.backing.log_in("a", given)
    lab_host.backing.log_out("a", given)
    listed = run(["ls", CORE]).stdout.split()
    assert "iblock_100901" not in listed
    assert "iblock_7" in listed, "what is not ours stays"
    run(["rmdir", f"{CORE}/iblock_7/somebody-elses", f"{CORE}/iblock_7"])


def _mapper(volume_id: str) -> str:
    return f"storage-volume--{volume_id.replace('-', '--')}"


def _until(what: str, holds: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.2)


@pytest.mark.parametrize("pool", ["thick", "thin"])
def test_a_volume_that_is_not_active_is_exported(
    lab_host: Host, lab_backing: LabBacking, pool: str
) -> None:
    storage, initiator = lab_backing.storage, lab_backing.initiators["a"]
    volume_id = lab_host.create(pool)
    storage.node.run(["lvm", "lvchange", "--activate", "n", f"storage/volume-{volume_id}"])
    properties = properties_of(lab_host.attach(volume_id))
    assert initiator.log_in(properties)
    assert _reconciled(lab_host, volume_id) == [], "nothing is left of the first try"
    initiator.log_out(properties)
    lab_host.detach(volume_id)
    lab_host.remove_export(volume_id)
    made = storage.node.run(["find", CORE, "-maxdepth", "2", "-name", f"volume-{volume_id}"])
    assert not made.stdout.strip()


def test_a_device_that_hangs_stalls_its_volume_only(
    lab_host: Host, lab_backing: LabBacking
) -> None:
    storage, initiator = lab_backing.storage, lab_backing.initiators["a"]
    stuck, others = lab_host.create(), [lab_host.create() for _ in range(5)]
    given = properties_of(lab_host.attach(stuck))
    disk = initiator.log_in(given)
    storage.node.run(["dmsetup", "suspend", "--noflush", "--nolockfs", _mapper(stuck)])
    initiator.node.start(["dd", f"if={disk}", "of=/dev/null", "bs=4k", "iflag=direct"])
    inflight = f"/sys/block/{disk.removeprefix('/dev/')}/inflight"
    _until("a read in flight", lambda: initiator.node.read(inflight).split()[0] != b"0")
    with refused_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        lab_host.exports.TerminateConnection(
            export_pb2.TerminateConnectionRequest(volume_id=stuck, attachment_id="attachment-a"),
            timeout=2,
        )
    get = volume_pb2.GetVolumeRequest(volume_id=stuck)
    assert lab_host.volumes.GetVolume(get).state == volume_pb2.VOLUME_STATE_DETACHING
    # All others attach and detach, and every list answers.
    for volume_id in others:
        lab_host.attach(volume_id, "b")
        assert _connection(lab_host, volume_id, "attachment-b").authorized
    _answers(lab_host)
    for volume_id in others:
        lab_host.detach(volume_id, "b")
    storage.node.run(["dmsetup", "resume", _mapper(stuck)])
    _until("the attachment has gone", lambda: not _attachments(lab_host, stuck))
    assert lab_host.detach(stuck).remaining_attachment_ids == []
    assert lab_backing.kernel()[given["target_iqn"]] == set()
    assert lab_host.volumes.GetVolume(get).state == volume_pb2.VOLUME_STATE_AVAILABLE
    initiator.drop(given)


def _attachments(host: Host, volume_id: str) -> Sequence[str]:
    request = export_pb2.GetExportRequest(volume_id=volume_id)
    return list(host.exports.GetExport(request).attachment_ids)


def _answers(host: Host) -> None:
    host.exports.ListConnections(export_pb2.ListConnectionsRequest(), timeout=5)
    host.exports.ListSessions(export_pb2.ListSessionsRequest(), timeout=5)
    host.exports.ListExports(export_pb2.ListExportsRequest(), timeout=5)
    host.volumes.ListVolumes(volume_pb2.ListVolumesRequest(), timeout=5)


def test_a_session_without_attachment_is_an_alarm(lab_host: Host, lab_backing: RealBacking) -> None:
    storage, run = lab_backing.storage, lab_backing.storage.node.run
    initiator: Initiator = lab_backing.initiators["b"]
    volume_id = lab_host.create()
    given = properties_of(lab_host.attach(volume_id))
    tpg = f"{ISCSI}/{given['target_iqn']}/tpgt_1"
    acl = f"{tpg}/acls/{initiator.name}"
    run(["mkdir", "-p", f"{acl}/lun_0"])
    run(["ln", "-s", f"{tpg}/lun/lun_0", f"{acl}/lun_0/x"])
    _write(storage, f"{acl}/auth/userid", "intruder")
    _write(storage, f"{acl}/auth/password", "intruders1secret")
    initiator.login(given, username="intruder", password="intruders1secret")
    (session,) = lab_host.exports.ListSessions(
        export_pb2.ListSessionsRequest(volume_id=volume_id)
    ).sessions
    assert session.initiator == initiator.name
    assert list(session.attachment_ids) == []
    words = "is logged in from"
    _until("the alarm in the log", lambda: words in storage.journal())
    assert _reconciled(lab_host, volume_id) == [f"acl {initiator.name}"]
    assert not lab_host.exports.ListSessions(
        export_pb2.ListSessionsRequest(volume_id=volume_id)
    ).sessions, "and the reconcile throws the intruder out"
    initiator.drop(given)


def test_growth_outside_the_daemon_is_noticed(lab_host: Host, storage: StorageHost) -> None:
    volume_id = lab_host.create("thick", 8 * MEBIBYTE)
    lab_host.attach(volume_id)
    storage.node.run(["lvm", "lvextend", "-L", "16m", f"storage/volume-{volume_id}"])
    get = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    _until("udev told of it", lambda: lab_host.volumes.GetVolume(get).size_bytes == 16 * MEBIBYTE)
