"""The lab itself: nodes boot, run commands, lose power and network, and stay enclosed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import CommandFailed, CommandTimeout, LoginRefused, NodeDown
from lab.initiator import Initiator
from lab.lab import Lab
from lab.network import NAMESPACES
from lab.node import Disk, Node, Spec
from lab.preconditions import MEMORY

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
PREFIX = "iqn.2026-01.org.example"
# Run by a node's Python: one iblock target with one ACL. Values come by environment,
# so that the secret is on no command line.
EXPORT = """
import os
from os import environ as e
T = "/sys/kernel/config/target"
def put(path, value):
    with open(f"{T}/{path}", "w") as file:
        file.write(value)
core = f"core/iblock_{e['NUMBER']}/disk{e['NUMBER']}"
tpg = f"iscsi/{e['TARGET']}/tpgt_1"
acl = f"{tpg}/acls/{e['INITIATOR']}"
os.makedirs(f"{T}/{core}")
put(f"{core}/control", f"udev_path={e['DEVICE']}")
put(f"{core}/enable", "1")
os.makedirs(f"{T}/iscsi", exist_ok=True)
os.makedirs(f"{T}/{tpg}")
os.mkdir(f"{T}/{tpg}/lun/lun_0")
os.symlink(f"{T}/{core}", f"{T}/{tpg}/lun/lun_0/disk")
put(f"{tpg}/attrib/authentication", "1")
put(f"{tpg}/attrib/generate_node_acls", "0")
put(f"{tpg}/attrib/demo_mode_discovery", "0")
os.mkdir(f"{T}/{acl}")
put(f"{acl}/auth/userid", e["USERNAME"])
put(f"{acl}/auth/password", e["PASSWORD"])
os.mkdir(f"{T}/{acl}/lun_0")
os.symlink(f"{T}/{tpg}/lun/lun_0", f"{T}/{acl}/lun_0/disk")
os.mkdir(f"{T}/{tpg}/np/{e['PORTAL']}")
put(f"{tpg}/enable", "1")
"""
NOTIFIER = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
    line.connect(os.environ["NOTIFY_SOCKET"])
    line.send(b"READY=1")
print("notified", flush=True)
time.sleep(1000)
"""
UNIT = """
[Service]
Type=notify
ExecStart=/usr/bin/python3 /usr/local/bin/notifier.py
"""
HARNESS = """
import signal, sys, time
from pathlib import Path
from lab.lab import Lab
from lab.node import Spec
# A test run in the background of a shell inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with Lab(Path(sys.argv[1]), [Spec("one")]) as lab:
    print(lab.network.namespace, flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def lab_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    specs = [Spec("one", disks=(Disk("data", GIBIBYTE),)), Spec("two")]
    with Lab(tmp_path_factory.mktemp("lab"), specs) as lab:
        print("boot seconds:", {name: round(n.boot_seconds, 2) for name, n in lab.nodes.items()})
        yield lab


@pytest.fixture
def lab_node(lab_of_two: Lab) -> Node:
    return lab_of_two["one"]


def test_ready_for_lio_when_booted(lab_node: Node) -> None:
    assert lab_node.run(["hostname"]).stdout == "one\n"
    lab_node.run(["lvm", "vgs"])
    lab_node.run(["/usr/bin/python3", "-c", "from rtslib_fb import RTSRoot; RTSRoot()"])
    assert lab_node.read("/etc/iscsi/initiatorname.iscsi").decode().strip().endswith(":one")


def test_run_gives_status_output_and_errors(lab_node: Node) -> None:
    script = 'cat; pwd >&2; echo "$COLOUR" >&2; exit 3'
    done = lab_node.run(
        ["sh", "-c", script], stdin=b"in", environment={"COLOUR": "red"}, cwd="/etc", check=False
    )
    assert (done.status, done.stdout, done.stderr) == (3, "in", "/etc\nred\n")
    with pytest.raises(CommandFailed) as failure:
        lab_node.run(["sh", "-c", "echo no >&2; exit 4"])
    assert failure.value.status == 4
    assert "no" in str(failure.value)


def test_program_that_is_not_there(lab_node: Node) -> None:
    assert lab_node.run(["/no/such/program"], check=False).status == 127


@pytest.mark.parametrize("size", [0, 1, 5_000, 300_000])
def test_any_bytes_in_and_out(lab_node: Node, size: int) -> None:
    data = os.urandom(size)
    assert lab_node.run(["cat"], stdin=data).out == data


def test_late_command_is_ended_with_what_it_started(lab_node: Node) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeout):
        lab_node.run(["sh", "-c", "sleep 4321 & sleep 4321"], timeout_seconds=0.5)
    assert time.monotonic() - started < 5
    assert lab_node.run(["pgrep", "-f", "^sleep 4321"], check=False).status == 1


def test_commands_run_side_by_side(lab_node: Node) -> None:
    started = time.monotonic()
    threads = [threading.Thread(target=lab_node.run, args=(["sleep", "1"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 5


def test_started_program_goes_on(lab_node: Node) -> None:
    process = lab_node.start(["sh", "-c", "echo here; sleep 1000"])
    assert process.poll() is None
    with pytest.raises(CommandTimeout):
        process.wait(0.2)
    process.kill(signal.SIGKILL)
    assert process.wait(5) == -signal.SIGKILL
    assert process.output() == "here\n"


def test_files(lab_node: Node) -> None:
    lab_node.write("/root/new/file", b"\0\xff", mode="600")
    assert lab_node.read("/root/new/file") == b"\0\xff"
    assert lab_node.run(["stat", "-c", "%a", "/root/new/file"]).stdout == "600\n"


def test_node_cannot_write_to_this_machine(lab_of_two: Lab, lab_node: Node, tmp_path: Path) -> None:
    lab_node.run(["sh", "-c", "mkdir -p /mnt/m && mount -t hostfs -o / none /mnt/m"])
    other = lab_of_two["two"].share
    for folder in (tmp_path, ROOT, MEMORY, Path("/etc"), Path("/tmp"), other, lab_of_two.folder):
        done = lab_node.run(["touch", f"/mnt/m{folder}/intruder"], check=False)
        assert done.status, folder
        assert "Read-only file system" in done.stderr
        assert not (folder / "intruder").exists()
    assert lab_node.run(["sh", "-c", "echo 0 > /mnt/m/proc/sys/vm/swappiness"], check=False).status
    lab_node.run(["sh", "-c", "echo found > /media/result"])
    assert (lab_node.share / "result").read_text() == "found\n"
    lab_node.run(["umount", "/mnt/m"])


def test_own_layer_and_tmp(lab_node: Node) -> None:
    lab_node.run(["sh", "-c", "echo mine > /etc/hostname; echo mine > /tmp/mine"])
    assert Path("/etc/hostname").read_text() != "mine\n"
    assert not Path("/tmp/mine").exists()


def test_power_cut_keeps_the_disk(lab_node: Node) -> None:
    data = os.urandom(MEBIBYTE)
    write = ["dd", "of=/dev/ubda", "bs=64k", "oflag=direct", "conv=notrunc", "iflag=fullblock"]
    lab_node.run(write, stdin=data)
    lab_node.run(["touch", "/root/in-memory"])
    lab_node.power_cut()
    assert not lab_node.running
    with pytest.raises(NodeDown):
        lab_node.run(["true"])
    lab_node.boot()
    print(f"boot after a power cut: {lab_node.boot_seconds:.2f} s")
    assert lab_node.run(["dd", "if=/dev/ubda", "bs=1M", "count=1"]).out == data
    assert lab_node.run(["test", "-e", "/root/in-memory"], check=False).status == 1


def test_power_off_and_on(lab_of_two: Lab) -> None:
    node = lab_of_two["two"]
    node.power_off()
    assert not node.running
    node.boot()
    node.run(["true"])


def test_command_ends_with_its_node(lab_of_two: Lab) -> None:
    node = lab_of_two["two"]
    threading.Timer(0.3, node.power_cut).start()
    with pytest.raises(NodeDown):
        node.run(["sleep", "100"])
    node.boot()


def _reachable(lab: Lab, node: Node) -> bool:
    probe = "import socket, sys; socket.create_connection((sys.argv[1], 8000), 1).close()"
    argv = [sys.executable, "-c", probe, node.address]
    return lab.run_in_network(argv, check=False).returncode == 0


def test_network_cut_and_restored(lab_of_two: Lab, lab_node: Node) -> None:
    server = lab_node.start(["/usr/bin/python3", "-m", "http.server", "8000"])
    _until(lambda: _reachable(lab_of_two, lab_node))
    own = os.readlink("/proc/thread-self/ns/net")
    with lab_of_two.entered_network():
        assert os.readlink("/proc/thread-self/ns/net") != own
        socket.create_connection((lab_node.address, 8000), 2).close()
    assert os.readlink("/proc/thread-self/ns/net") == own
    lab_node.cut_network()
    assert not _reachable(lab_of_two, lab_node)
    lab_node.run(["true"])
    lab_node.restore_network()
    _until(lambda: _reachable(lab_of_two, lab_node))
    server.kill()
    server.wait(5)


def _until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_frozen_node_thaws(lab_node: Node) -> None:
    lab_node.freeze()
    threading.Timer(0.5, lab_node.thaw).start()
    started = time.monotonic()
    lab_node.run(["true"])
    assert time.monotonic() - started > 0.4


def test_disk_added_while_running_stays(lab_node: Node) -> None:
    device = lab_node.add_disk(64 * MEBIBYTE)
    assert int(lab_node.run(["blockdev", "--getsize64", device]).stdout) == 64 * MEBIBYTE
    lab_node.run(["lvm", "pvcreate", device])
    lab_node.power_cut()
    lab_node.boot()
    assert device in lab_node.run(["lvm", "pvs", "-o", "pv_name"]).stdout


def test_systemd_node_starts_a_notifying_unit(tmp_path: Path) -> None:
    with Lab(tmp_path, [Spec("host", systemd=True)]) as lab:
        node = lab["host"]
        print(f"systemd boot: {node.boot_seconds:.2f} s")
        node.write("/usr/local/bin/notifier.py", NOTIFIER)
        node.write("/etc/systemd/system/notifier.service", UNIT)
        node.run(["systemctl", "daemon-reload"])
        node.run(["systemctl", "start", "notifier"])
        assert node.run(["systemctl", "is-active", "notifier"]).stdout == "active\n"
        _until(lambda: "notified" in node.run(["journalctl", "-u", "notifier"]).stdout)
        node.power_off()


def _export(storage: Node, number: int, host: Node) -> dict[str, object]:
    target, portal = f"{PREFIX}:disk{number}", f"{storage.address}:3260"
    password = f"secret-of-{host.name}"
    values = {
        "NUMBER": str(number),
        "TARGET": target,
        "PORTAL": portal,
        "DEVICE": f"/dev/vg/lv{number}",
        "INITIATOR": host.initiator_name,
        "USERNAME": host.name,
        "PASSWORD": password,
    }
    storage.run(["lvm", "lvcreate", "-n", f"lv{number}", "-L", "64m", "vg"])
    storage.run(["/usr/bin/python3", "-c", EXPORT], environment=values)
    return {
        "target_portals": [portal],
        "target_iqns": [target],
        "target_luns": [0],
        "auth_method": "CHAP",
        "auth_username": host.name,
        "auth_password": password,
    }


def _write_over_iscsi(storage: Node, number: int, host: Node) -> dict[str, object]:
    properties = _export(storage, number, host)
    initiator = Initiator(host)
    initiator.start()
    device = initiator.login(properties)
    data = os.urandom(MEBIBYTE)
    (host.share / "data").write_bytes(data)
    host.run(["dd", "if=/media/data", f"of={device}", "bs=64k", "oflag=direct"])
    storage.run(["dd", f"if=/dev/vg/lv{number}", "of=/media/got", "bs=1M", "count=1"])
    assert (storage.share / "got").read_bytes() == data
    return properties


def test_two_hosts_log_in_to_a_third(tmp_path: Path) -> None:
    started = time.monotonic()
    specs = [Spec("storage", disks=(Disk("pv", GIBIBYTE),)), Spec("a"), Spec("b")]
    with Lab(tmp_path, specs) as lab:
        booted = time.monotonic()
        storage, a, b = lab["storage"], lab["a"], lab["b"]
        storage.run(["lvm", "vgcreate", "vg", "/dev/ubda"])
        properties = {
            host.name: _write_over_iscsi(storage, n, host) for n, host in ((0, a), (1, b))
        }
        print(
            f"three nodes up in {booted - started:.1f} s, two logins and data compared "
            f"in {time.monotonic() - started:.1f} s"
        )
        portal = f"{storage.address}:3260"
        first, second = Initiator(a), Initiator(b)
        assert first.sessions() == [f"{PREFIX}:disk0"]
        assert first.discovery(portal) == [f"{PREFIX}:disk0"]
        first.rescan()
        first.logout(properties["a"])
        first.logout(properties["a"])
        assert first.sessions() == []
        with pytest.raises(LoginRefused) as refusal:
            first.login(properties["a"], password="wrong-secret")
        assert refusal.value.rc == 24
        with pytest.raises(LoginRefused):
            first.login(properties["a"], username="b")
        with pytest.raises(LoginRefused):
            second.login(properties["a"])
        # The name alone opens nothing; the name and the secret do.
        with pytest.raises(LoginRefused):
            second.login(properties["a"], password="wrong-secret", initiator_name=first.name)
        assert second.login(properties["a"], initiator_name=first.name).startswith("/dev/sd")


def _gone(namespace: str) -> bool:
    return not (NAMESPACES / namespace).exists() and not (MEMORY / namespace).exists()


def _processes(namespace: str) -> str:
    return subprocess.run(["pgrep", "-f", namespace], capture_output=True, text=True).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_harness_that_was_ended(
    number: signal.Signals, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as harness:
        assert harness.stdout is not None
        namespace = harness.stdout.readline().strip()
        assert _processes(namespace)
        harness.send_signal(number)
        harness.wait(10)
    _until(lambda: not _processes(namespace))
    if number == signal.SIGKILL:
        assert not _gone(namespace)
        with Lab(tmp_path, []):
            pass
    assert _gone(namespace)
    assert list(tmp_path.iterdir()) == []
