"""What a site goes through: on nodes of the lab, and on virtual machines (``--nodes``)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from lab.agreement import Client, disagreements, look, targetcli_differs
from lab.errors import LoginRefused
from lab.initiator import Initiator
from lab.lab import Lab
from lab.machine import Machine
from lab.node import Spec
from lab.storage import ROOT, StorageHost, spec
from targetd.api.v1 import export_pb2, host_pb2
from tests.conftest import LAB_FOLDER, on_virtual_machines
from tests.hosts import MEBIBYTE, Host, RealBacking, properties_of
from tests.lab.disks import fill, same
from tests.lab.live import live_io

pytestmark = [pytest.mark.lab, pytest.mark.virtual]

LINE = b"what was written before\n"
SECONDS = 120.0
# Between writes: an emulated processor has more to do.
PAUSE = 0.02
# A file is named once it is on the disk, with its folder.
FILES = """\
import os, signal, sys
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
folder = os.open(sys.argv[1], os.O_RDONLY)
number = 0
while not ended:
    with open(f"{sys.argv[1]}/{number}", "w") as file:
        file.write(f"{number}\\n" * 1000)
        file.flush()
        os.fsync(file.fileno())
    os.fsync(folder)
    print(number, flush=True)
    number += 1
"""
FILES_HOLD = """\
import sys
for number in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/{number}") as file:
        assert file.read() == f"{number}\\n" * 1000, number
"""
# So that a way that was cut is given up soon: the other one is there.
QUICK = {
    "node.session.timeo.replacement_timeout": "5",
    "node.conn[0].timeo.noop_out_interval": "2",
    "node.conn[0].timeo.noop_out_timeout": "2",
}


def _until(what: str, holds: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, f"not in {SECONDS:g} s: {what}"
        time.sleep(0.5)


def _assert_all_agree(host: Host, backing: RealBacking) -> None:
    """The daemon's answers, its records, the kernel and LVM, and targetcli."""
    client = Client(host.channel)
    assert disagreements(look(backing.storage, client)) == []
    assert targetcli_differs(backing.storage, client) == set()


def _connect_again(host: Host) -> None:
    """After the storage host was away: the old connection died with it, as calls over it tell."""

    def answers() -> bool:
        try:
            host.hosts.GetHost(host_pb2.GetHostRequest(), timeout=SECONDS)
        except grpc.RpcError:
            return False
        return True

    _until("the daemon answers", answers)


def _sessions(host: Host, volume_id: str) -> int:
    request = export_pb2.GetExportRequest(volume_id=volume_id)
    return host.exports.GetExport(request).session_count


def test_terminating_closes_a_live_session_and_harms_no_peer(
    lab_host: Host, lab_backing: RealBacking
) -> None:
    a, b = lab_backing.initiators["a"], lab_backing.initiators["b"]
    volume_id = lab_host.create(multi_attach=True)
    for_a, for_b = (properties_of(lab_host.attach(volume_id, name)) for name in ("a", "b"))
    a.log_in(for_a)
    disk = b.log_in(for_b)
    assert _sessions(lab_host, volume_id) == 2
    with live_io(b, disk, PAUSE):
        answer = lab_host.detach(volume_id, "a")
        assert answer.sessions_closed
        assert list(answer.remaining_attachment_ids) == ["attachment-b"]
        assert _sessions(lab_host, volume_id) == 1
        a.drop(for_a)
        with pytest.raises(LoginRefused):
            a.log_in(for_a)
        # With this change the record that was forgotten goes from the file.
        lab_host.create()
        _assert_all_agree(lab_host, lab_backing)
    b.log_out(for_b)


def test_the_daemon_is_killed_under_io(lab_host: Host, lab_backing: RealBacking) -> None:
    initiator = lab_backing.initiators["a"]
    volume_id = lab_host.create()
    before = lab_host.attach(volume_id)
    disk = initiator.log_in(properties_of(before))
    with live_io(initiator, disk, PAUSE):
        lab_backing.restart()
        assert lab_host.attach(volume_id) == before
        _assert_all_agree(lab_host, lab_backing)
    initiator.log_out(properties_of(before))


@contextmanager
def _mounted(node: Machine, disk: str, *options: str) -> Iterator[None]:
    node.run(["mount", *options, disk, "/mnt"])
    try:
        yield
    finally:
        node.run(["umount", "/mnt"], timeout_seconds=SECONDS)


@pytest.mark.stays
def test_a_file_system_comes_through_a_power_cut(lab_host: Host, lab_backing: RealBacking) -> None:
    """The attached host goes on by itself, and nothing that it had on disk is lost."""
    storage, initiator = lab_backing.storage, lab_backing.initiators["a"]
    node = initiator.node
    given = properties_of(lab_host.attach(lab_host.create("thick", 64 * MEBIBYTE)))
    disk = initiator.log_in(given)
    session = initiator.session_details()
    node.run(["mkfs.ext4", "-q", disk])
    with _mounted(node, disk):
        writing = node.start(["/usr/bin/python3", "-c", FILES, "/mnt"])
        try:
            _until("files are written", lambda: len(writing.output().splitlines()) > 20)
            storage.node.power_cut()
            storage.boot()
            _connect_again(lab_host)
            count = len(writing.output().splitlines())
            _until("it goes on", lambda: len(writing.output().splitlines()) > count + 20)
        finally:
            writing.kill()
        assert writing.wait() == 0, writing.output()
    assert initiator.session_details() == session, "without another login"
    node.run(["e2fsck", "-fn", disk])
    written = writing.output().splitlines()
    with _mounted(node, disk, "-o", "ro"):
        node.run(["/usr/bin/python3", "-c", FILES_HOLD, "/mnt", str(len(written))])
    _assert_all_agree(lab_host, lab_backing)
    initiator.log_out(given)


@pytest.mark.stays
def test_everything_is_rebooted(lab_host: Host, lab_backing: RealBacking) -> None:
    storage = lab_backing.storage
    attached = {name: lab_host.create() for name in lab_backing.initiators}
    given = {name: lab_host.attach(one, name) for name, one in attached.items()}
    for name, initiator in lab_backing.initiators.items():
        disk = initiator.log_in(properties_of(given[name]))
        fill(initiator.node, disk, LINE, MEBIBYTE)
        # As an operator would: a host that goes down after its target waits for it for minutes.
        initiator.log_out(properties_of(given[name]))
    with ThreadPoolExecutor() as threads:
        nodes = [storage.node, *(one.node for one in lab_backing.initiators.values())]
        list(threads.map(lambda node: node.reboot(), nodes))
    storage.start()
    assert storage.health() == "SERVING"
    _connect_again(lab_host)
    for name, initiator in lab_backing.initiators.items():
        initiator.start()
        assert lab_host.attach(attached[name], name) == given[name], "the same access"
        disk = initiator.log_in(properties_of(given[name]))
        assert initiator.serial(disk) == attached[name]
        assert same(initiator.node, disk, LINE, MEBIBYTE)
    _assert_all_agree(lab_host, lab_backing)
    for name, initiator in lab_backing.initiators.items():
        initiator.log_out(properties_of(given[name]))


@pytest.fixture(scope="module")
def two_portals(request: pytest.FixtureRequest) -> Iterator[RealBacking]:
    """A storage host with two portals, and a host with multipathd."""
    if on_virtual_machines(request.config):
        yield request.getfixturevalue("lab_backing")
        return
    tree = ROOT / "build" / "initiator"
    subprocess.run(["make", str(tree.relative_to(ROOT))], cwd=ROOT, check=True)
    with Lab(LAB_FOLDER, [spec(ports=2), Spec("a", ports=2)]) as lab:
        storage, initiator = StorageHost(lab["storage"]), Initiator(lab["a"])
        storage.prepare_disks()
        storage.install()
        storage.start()
        initiator.start()
        initiator.node.run(["cp", "-r", "--preserve=mode", f"{tree}/etc", f"{tree}/usr", "/"])
        initiator.node.run(["ldconfig"])
        initiator.node.run(["modprobe", "-a", "dm-multipath", "dm-service-time"])
        initiator.node.run(["multipathd"])
        yield RealBacking(storage, {"a": initiator})
        storage.close()


def _failed_paths(node: Machine) -> int:
    argv = ["multipathd", "show", "paths", "raw", "format", "%t"]
    return node.run(argv).stdout.split().count("failed")


def test_one_of_two_paths_is_cut(two_portals: RealBacking) -> None:
    host, initiator = Host(two_portals), two_portals.initiators["a"]
    storage, node = two_portals.storage, initiator.node
    volume_id = host.create()
    given = properties_of(host.attach(volume_id))
    assert given["target_portals"] == [f"{one}:3260" for one in storage.node.addresses]
    initiator.login(given, multipath=True, settings=QUICK)
    assert _sessions(host, volume_id) == 2
    device = initiator.assemble(given)
    with live_io(initiator, device, PAUSE) as writing:
        storage.node.cut_network(1)
        try:
            _until("the path has failed", lambda: _failed_paths(node) == 1)
        finally:
            storage.node.restore_network(1)
        _until("the path is back", lambda: _failed_paths(node) == 0)
    assert writing.written.longest_seconds < SECONDS
    assert _sessions(host, volume_id) == 2
    initiator.disassemble(device)
    initiator.log_out(given)
    host.remove_everything()
    host.close()
