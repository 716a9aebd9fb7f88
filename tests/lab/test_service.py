"""The daemon as a service of a real systemd: who is attached notices none of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest
from targetd_driver import Endpoint, TlsFiles

from lab.errors import LabError
from lab.health import status_now
from lab.storage import CONFIGURATION_PATH, StorageHost
from targetd.api.v1 import export_pb2, host_pb2
from targetd.roles import Role
from targetd.tls_authority import Authority
from tests.hosts import Host, LabBacking, properties_of, refused_with
from tests.lab.live import live_io

pytestmark = pytest.mark.lab

DROP_INS = "/etc/systemd/system/targetd.service.d"
WATCHDOG_SECONDS = 8
WATCHDOG = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}s\n"
LIST = export_pb2.ListConnectionsRequest()
SOON_SECONDS = 60.0


@pytest.fixture
def storage(lab_backing: LabBacking) -> StorageHost:
    return lab_backing.storage


@pytest.fixture
def disk(lab_host: Host, lab_backing: LabBacking) -> Iterator[str]:
    """A volume's disk on the host a."""
    initiator, given = (
        lab_backing.initiators["a"],
        properties_of(lab_host.attach(lab_host.create())),
    )
    yield initiator.log_in(given)
    initiator.drop(given["target_iqn"])


@pytest.fixture(scope="module", autouse=True)
def quick_watchdog(lab_backing: LabBacking) -> Iterator[None]:
    """A minute would be long for a test; what is proved is the same."""
    storage = lab_backing.storage
    storage.node.write(f"{DROP_INS}/watchdog.conf", WATCHDOG)
    _restart(storage)
    yield
    storage.node.run(["rm", "-f", f"{DROP_INS}/watchdog.conf"])
    _restart(storage)


def _restart(storage: StorageHost) -> None:
    storage.node.run(["systemctl", "daemon-reload"])
    storage.node.run(["systemctl", "restart", "targetd"])
    assert storage.health() == "SERVING"


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def property_of(storage: StorageHost, name: str) -> str:
    shown = storage.node.run(["systemctl", "show", f"--property={name}", "--value", "targetd"])
    return shown.stdout.strip()


def wait_started_again(storage: StorageHost, pid: int) -> None:
    wait_for(lambda: storage.main_pid() not in (0, pid))
    assert storage.health() == "SERVING"


def test_a_stopped_process_is_replaced(
    storage: StorageHost, disk: str, lab_backing: LabBacking
) -> None:
    with live_io(lab_backing.initiators["a"], disk):
        pid = storage.main_pid()
        storage.node.run(["systemctl", "kill", "--signal=STOP", "--kill-whom=main", "targetd"])
        wait_started_again(storage, pid)
    assert "Watchdog timeout" in storage.journal()


def test_a_daemon_whose_records_are_locked_for_ever_is_replaced(
    lab_host: Host, storage: StorageHost, disk: str, lab_backing: LabBacking
) -> None:
    request = export_pb2.CreateExportRequest(volume_id=lab_host.create())
    hang = "[Service]\nEnvironment=TARGETD_FAILPOINT=hang:export-unrecorded\n"
    storage.node.write(f"{DROP_INS}/hang.conf", hang)
    _restart(storage)
    # The daemon that follows this one must not hang.
    storage.node.run(["rm", f"{DROP_INS}/hang.conf"])
    storage.node.run(["systemctl", "daemon-reload"])
    with live_io(lab_backing.initiators["a"], disk):
        pid = storage.main_pid()
        with suppress(grpc.RpcError):
            lab_host.exports.CreateExport(request, timeout=2)
        assert storage.main_pid() == pid
        wait_started_again(storage, pid)
    said = storage.journal()
    assert "the watchdog is not fed: " in said
    assert "Fatal Python error: Aborted" in said and "in put_export" in said, "where it hung"
    lab_host.exports.CreateExport(request, timeout=30)


def test_one_stuck_volume_is_no_reason(
    lab_host: Host, storage: StorageHost, disk: str, lab_backing: LabBacking
) -> None:
    """Its device is suspended, so that a revocation hangs in the kernel."""
    (connection,) = lab_host.exports.ListConnections(LIST).connections
    node, pid = lab_backing.initiators["a"].node, storage.main_pid()
    device = f"storage-volume--{connection.volume_id.replace('-', '--')}"
    storage.node.run(["dmsetup", "suspend", "--noflush", "--nolockfs", device])
    try:
        node.start(["dd", f"if={disk}", "of=/dev/null", "bs=4k", "iflag=direct"])
        inflight = f"/sys/block/{disk.removeprefix('/dev/')}/inflight"
        wait_for(lambda: node.read(inflight).split()[0] != b"0")
        with refused_with(grpc.StatusCode.DEADLINE_EXCEEDED):
            request = export_pb2.TerminateConnectionRequest(
                volume_id=connection.volume_id, attachment_id=connection.attachment_id
            )
            lab_host.exports.TerminateConnection(request, timeout=2)
        time.sleep(2 * WATCHDOG_SECONDS)
        assert storage.main_pid() == pid
    finally:
        storage.node.run(["dmsetup", "resume", device])
    wait_for(lambda: not lab_host.exports.ListConnections(LIST).connections)


def _commands(host: Host) -> int:
    (connection,) = host.exports.ListConnections(LIST).connections
    request = export_pb2.GetConnectionRequest(
        volume_id=connection.volume_id, attachment_id=connection.attachment_id
    )
    return host.exports.GetConnection(request).commands


def test_a_stop_and_a_start_are_not_noticed(
    lab_host: Host, storage: StorageHost, disk: str, lab_backing: LabBacking
) -> None:
    before = lab_backing.kernel()
    with live_io(lab_backing.initiators["a"], disk) as writing:
        storage.stop()
        assert lab_backing.kernel() == before
        time.sleep(1)
        storage.start()
    assert writing.written.longest_seconds < SOON_SECONDS
    assert list(lab_host.hosts.Reconcile(host_pb2.ReconcileRequest()).drifts) == []


@contextmanager
def configuration(storage: StorageHost, *changes: tuple[str, str]) -> Iterator[None]:
    """Inside the block the file has these changes; the daemon is not restarted."""
    text = storage.configuration
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    storage.node.write(CONFIGURATION_PATH, text)
    try:
        yield
    finally:
        storage.node.write(CONFIGURATION_PATH, storage.configuration)


def _reload(storage: StorageHost) -> int:
    return storage.node.run(["systemctl", "reload", "targetd"], check=False).status


def test_a_reload(storage: StorageHost) -> None:
    pid = storage.main_pid()
    with configuration(storage, ('log_level = "info"', 'log_level = "debug"')):
        assert _reload(storage) == 0
        # `systemctl reload` may be done before the daemon is.
        wait_for(lambda: "the configuration was taken over" in storage.journal())
    with configuration(storage, ("[tls]", 'reconcile_seconds = "x"\n[tls]')):
        assert _reload(storage) != 0
        said = f"targetd: {CONFIGURATION_PATH}:5: reconcile_seconds: must be a whole number"
        assert said in storage.journal()
        storage.node.run(["systemctl", "kill", "--signal=HUP", "--kill-whom=main", "targetd"])
        wait_for(lambda: "the old configuration is kept" in property_of(storage, "StatusText"))
    change = ("[tls]", 'iqn_prefix = "iqn.2026-01.org.example"\n[tls]')
    with configuration(storage, change):
        assert _reload(storage) == 0
        wait_for(lambda: "restart: iqn_prefix" in property_of(storage, "StatusText"))
    assert _reload(storage) == 0
    wait_for(lambda: property_of(storage, "StatusText").endswith(":7788"))
    assert storage.main_pid() == pid
    assert property_of(storage, "ActiveState") == "active"


def test_certificates_are_renewed_without_a_restart(
    lab_host: Host, storage: StorageHost, lab_backing: LabBacking
) -> None:
    pid = storage.main_pid()
    names = ("/etc/targetd/server.pem", "/etc/targetd/server.key", "/etc/targetd/ca.pem")
    old = {name: storage.node.read(name) for name in names}
    authority = Authority.new()
    new = dict(
        zip(
            names,
            (
                *authority.server("storage", [storage.node.address, "127.0.0.1"]),
                authority.certificate,
            ),
            strict=True,
        )
    )
    client = _client(storage, authority)
    try:
        assert not _reached(client)
        for name, content in new.items():
            storage.node.write(name, content, mode="600")
        assert _reload(storage) == 0
        wait_for(lambda: _reached(client))
        assert not _reached(storage.endpoint)
    finally:
        for name, content in old.items():
            storage.node.write(name, content, mode="600")
        assert _reload(storage) == 0
        wait_for(lambda: _reached(storage.endpoint))
    assert storage.main_pid() == pid


def _client(storage: StorageHost, authority: Authority) -> Endpoint:
    folder = storage.node.folder / "renewed"
    folder.mkdir()
    files = TlsFiles(folder / "client.pem", folder / "client.key", folder / "ca.pem")
    certificate, key = authority.client("client", Role.ADMIN)
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    files.ca.write_bytes(authority.certificate)
    return Endpoint(storage.endpoint.address, files)


def _reached(endpoint: Endpoint) -> bool:
    with endpoint.channel() as channel:
        try:
            return status_now(channel, 2.0) == "SERVING"
        except grpc.RpcError:
            return False


def test_a_volume_group_that_comes_late(storage: StorageHost, lab_host: Host) -> None:
    run = storage.node.run
    storage.stop()
    run(["lvm", "vgrename", "storage", "later"])
    try:
        with pytest.raises(LabError, match="volume group storage is not there"):
            storage.start()
    finally:
        run(["lvm", "vgrename", "later", "storage"])
    wait_for(lambda: property_of(storage, "ActiveState") == "active")
    assert storage.health() == "SERVING"


def test_a_reboot_with_attachments(
    lab_host: Host, storage: StorageHost, disk: str, lab_backing: LabBacking
) -> None:
    """The attached host resumes by itself, without a new login of ours."""
    with live_io(lab_backing.initiators["a"], disk) as writing:
        storage.node.power_off()
        storage.boot()
        assert storage.health() == "SERVING"
        connections = lab_host.exports.ListConnections
        wait_for(lambda: all(c.authorized for c in connections(LIST).connections))
        before = _commands(lab_host)
        wait_for(lambda: _commands(lab_host) > before)
    assert writing.written.longest_seconds > 1, "the target was away, and the write waited for it"
