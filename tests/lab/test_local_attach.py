"""A volume of attachd as a disk of a host: with lunctl, and with the field's own clients."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from targetd_local import Attachd, Attachment
from targetd_local.transport import Transport

from attachd.config import IdentityKind
from lab.attachd import AttachmentManager
from lab.attaching import AttachingHost
from lab.errors import CommandFailed
from lab.lab import Lab
from lab.node import Spec
from lab.storage import StorageHost, spec
from tests.conftest import FAILED, LAB_FOLDER

pytestmark = pytest.mark.lab

PROJECT = "project"
NOAUTH_PORT = 8777
SECONDS = 60.0
DATA_BYTES = 1 << 20
# A neighbour that is not there: what is sent to a portal then has no answer at all.
NOBODY = "02:00:00:00:00:99"
KILLS = 4
ISCSIADM = "/usr/sbin/iscsiadm"
TELLING = """\
#!/bin/sh
{{ echo "$0 $*"; env; }} >> {log}
exec {program}.real "$@"
"""
SEED = random.randrange(1 << 32)


@dataclass
class Place:
    """A storage host with two portals, attachd, and a host that attaches."""

    lab: Lab
    storage: StorageHost
    manager: AttachmentManager
    noauth: AttachmentManager
    host: AttachingHost
    token: str = field(repr=False)

    def volume(self, manager: AttachmentManager | None = None, **wanted: Any) -> str:
        body = {"volume": {"size": 1, "name": "disk", **wanted}}
        made = self.ask(manager, "POST", "volumes", body)["volume"]
        _until("the volume is made", lambda: self.status(made["id"], manager) == "available")
        return str(made["id"])

    def status(self, volume_id: str, manager: AttachmentManager | None = None) -> str:
        return str(self.ask(manager, "GET", f"volumes/{volume_id}")["volume"]["status"])

    def ask(
        self, manager: AttachmentManager | None, method: str, path: str, body: Any = None
    ) -> Any:
        client = self.client(manager)
        with self.lab.entered_network():
            return Transport(client.address, PROJECT, self.token).request(method, path, body)

    def client(self, manager: AttachmentManager | None = None) -> Attachd:
        asked = manager or self.manager
        return Attachd(asked.url, project=PROJECT, token=self.token, ca=asked.ca)

    def attachments(
        self, volume_id: str, manager: AttachmentManager | None = None
    ) -> list[Attachment]:
        client = self.client(manager)
        with self.lab.entered_network():
            return client.attachments(volume_id, self.host.node.name)

    def attach(self, volume_id: str, *options: str) -> dict[str, Any]:
        return self.host.attach(self.manager, volume_id, *options)

    def detach(self, volume_id: str) -> dict[str, Any]:
        return self.host.detach(self.manager, volume_id)

    def refused(self, status: int, *arguments: str) -> Mapping[str, Any]:
        """The error of a command of lunctl."""
        done = self.host.lunctl(self.manager, *arguments, "--json", status=status)
        error: Mapping[str, Any] = json.loads(done.stderr)["error"]
        return error

    def recover(self, volume_id: str, manager: AttachmentManager | None = None) -> None:
        """After a test that failed anywhere: the next one finds a host without disks."""
        for port in range(2):
            self.storage.node.restore_network(port)
        self.host.node.power_cut()
        self.host.node.boot()
        self.host.start()
        self.host.give_token(self.token)
        client, left = self.client(manager), self.attachments(volume_id, manager)
        with self.lab.entered_network():
            for one in left:
                client.delete(one.id)

    def assert_nothing_left(self, volume_id: str) -> None:
        assert self.host.left() == ""
        assert self.attachments(volume_id) == []
        assert self.status(volume_id) == "available"


def _until(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < end, f"not in {SECONDS:g} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    # The one that attaches has the most to do: it is where the programs start.
    nodes = [Spec("a", ports=2, memory_mib=512), spec(ports=2)]
    with Lab(LAB_FOLDER, nodes) as lab:
        storage = StorageHost(lab["storage"])
        storage.prepare_disks()
        storage.install()
        storage.start()
        manager = AttachmentManager(lab, {"storage": storage})
        noauth = AttachmentManager(lab, {"storage": storage}, IdentityKind.NOAUTH, NOAUTH_PORT)
        host = AttachingHost(lab["a"])
        try:
            manager.start()
            noauth.start()
            host.start()
            token = manager.token(PROJECT)
            host.give_token(token)
            yield Place(lab, storage, manager, noauth, host, token)
        finally:
            manager.close()
            noauth.close()
            storage.close()


@pytest.fixture
def volume(request: pytest.FixtureRequest, place: Place) -> Iterator[str]:
    """Everything of it has gone when the test ends."""
    volume_id = place.volume()
    yield volume_id
    if request.node.stash.get(FAILED, False):
        place.recover(volume_id)
    place.assert_nothing_left(volume_id)


@pytest.fixture
def data(place: Place) -> Path:
    """A file that the node sees, under a name of its own: what a node has read, it remembers."""
    path = place.host.node.share / f"data-{uuid.uuid4()}"
    path.write_bytes(os.urandom(DATA_BYTES))
    return path


def test_one_path(place: Place, volume: str, data: Path) -> None:
    attached = place.attach(volume, "--mountpoint", "/srv/data")
    assert not attached["multipath"] and len(attached["paths"]) == 1
    assert place.host.initiator.serial(attached["device"]) == volume
    (record,) = place.attachments(volume)
    assert record.id == attached["attachment_id"] and record.is_attached and not record.instance
    assert place.status(volume) == "in-use"
    shown = place.ask(None, "GET", f"volumes/{volume}")["volume"]["attachments"]
    assert [one["device"] for one in shown] == ["/srv/data"]
    place.host.write(attached["device"], data)
    assert place.attach(volume) == attached, "the same again"
    assert len(place.host.initiator.sessions()) == 1
    assert place.detach(volume)["attachment_ids"] == [record.id]
    place.assert_nothing_left(volume)
    assert not place.detach(volume)["existed"]
    again = place.attach(volume)
    assert again["link"] == attached["link"] and again["wwid"] == attached["wwid"]
    assert place.host.holds(again["link"], data)
    place.detach(volume)


@pytest.fixture
def called(place: Place) -> Iterator[str]:
    """A file of the node with each command line of iscsiadm, and what it had as environment."""
    run, log = place.host.node.run, "/root/called"
    run(["mv", ISCSIADM, f"{ISCSIADM}.real"])
    place.host.node.write(ISCSIADM, TELLING.format(log=log, program=ISCSIADM), mode="755")
    yield log
    run(["mv", f"{ISCSIADM}.real", ISCSIADM])


def test_the_secret_is_on_no_command_line(place: Place, volume: str, called: str) -> None:
    place.attach(volume)
    run = place.host.node.run
    records = run(["sh", "-c", "cat /etc/iscsi/nodes/*/*"]).stdout
    (secret,) = [
        line.partition(" = ")[2]
        for line in records.splitlines()
        if line.startswith("node.session.auth.password =")
    ]
    assert len(secret) >= 12
    assert "--login" in run(["cat", called]).stdout
    for word in (secret, place.token):
        place.host.node.write("/root/word", word, mode="600")
        assert run(["grep", "-qFf", "/root/word", called], check=False).status == 1
    assert run(["sh", "-c", "find /etc/iscsi/nodes -type f -perm /077"]).stdout == ""
    place.detach(volume)


def test_two_portals_are_one_device(place: Place, volume: str, data: Path) -> None:
    attached = place.attach(volume, "--multipath")
    assert attached["multipath"] and attached["missing"] == []
    portals = {path["portal"] for path in attached["paths"]}
    assert portals == {f"{address}:3260" for address in place.storage.node.addresses}
    assert attached["link"].endswith(f"dm-uuid-mpath-{attached['wwid']}")
    place.host.write(attached["device"], data)
    assert place.attach(volume, "--multipath") == attached
    # Both paths carry it: one may go.
    with _cut(place, 1):
        assert place.host.holds(attached["device"], data)
        place.host.write(attached["device"], data)
    place.detach(volume)
    place.assert_nothing_left(volume)
    single = place.attach(volume)
    assert single["device"].startswith("/dev/sd") and place.host.holds(single["device"], data)
    assert "over one path" in place.refused(5, "local-attach", volume, "--multipath")["message"]
    place.detach(volume)


def test_a_portal_that_is_down_is_one_path_less(place: Place, volume: str) -> None:
    with _cut(place, 1):
        done = place.host.lunctl(place.manager, "local-attach", volume, "--multipath")
    assert "a path is missing" in done.stderr and place.storage.node.addresses[1] in done.stderr
    place.detach(volume)


def test_multipath_needs_its_daemon(place: Place, volume: str) -> None:
    place.host.node.run(["multipathd", "shutdown"])
    try:
        assert "multipathd" in place.refused(1, "local-attach", volume, "--multipath")["message"]
    finally:
        _until(
            "it has ended",
            lambda: bool(place.host.node.run(["pgrep", "-x", "multipathd"], check=False).status),
        )
        place.host.node.run(["multipathd"])


# udev is told of the second only.
@pytest.mark.parametrize("find_multipaths", ["no", "greedy"])
def test_where_multipathd_takes_every_disk(
    place: Place, volume: str, data: Path, find_multipaths: str
) -> None:
    run = place.host.node.run
    configuration = f"defaults {{\n    find_multipaths {find_multipaths}\n}}\n"
    place.host.node.write("/etc/multipath.conf", configuration)
    run(["multipathd", "reconfigure"])
    try:
        attached = place.attach(volume)
        assert attached["device"].startswith("/dev/mapper/") and len(attached["paths"]) == 1
        place.host.write(attached["device"], data)
        assert place.attach(volume) == attached
        place.detach(volume)
    finally:
        run(["rm", "/etc/multipath.conf"])
        run(["multipathd", "reconfigure"])


def test_read_only(place: Place, volume: str, data: Path) -> None:
    attached = place.attach(volume, "--mode", "ro")
    assert attached["mode"] == "ro"
    with pytest.raises(CommandFailed, match="dd"):
        place.host.write(attached["device"], data)
    assert "mode ro" in place.refused(5, "local-attach", volume)["message"]
    place.detach(volume)


def test_a_disk_in_use_stays(place: Place, volume: str) -> None:
    run = place.host.node.run
    device = place.attach(volume, "--multipath")["device"]
    run(["mkfs.ext4", "-q", device])
    run(["mount", device, "/mnt"])
    assert "is mounted at /mnt" in place.refused(5, "local-detach", volume)["message"]
    run(["umount", "/mnt"])
    held = place.host.node.start(["sh", "-c", f"exec sleep 1000 < {device}"])
    assert "(sleep)" in place.refused(5, "local-detach", volume)["message"]
    held.kill()
    held.wait()
    run(["wipefs", "-qa", device])
    run(["lvm", "vgcreate", "on-top", device])
    run(["lvm", "lvcreate", "-qy", "-n", "data", "-L", "16m", "on-top"])
    refused = place.refused(5, "local-detach", volume)
    assert "/dev/mapper/on--top-data" in refused["message"] and refused["reason"] == "IN_USE"
    assert len(place.host.initiator.sessions()) == 2
    (record,) = place.attachments(volume)
    assert record.is_attached
    run(["lvm", "vgchange", "-an", "on-top"])
    place.detach(volume)


@contextmanager
def _no_answer(place: Place, address: str) -> Iterator[None]:
    """Inside the block the portal at that address is silent."""
    neighbour = ["ip", "neigh", "replace", address, "lladdr", NOBODY, "dev", "vec0"]
    place.host.node.run([*neighbour, "nud", "permanent"])
    try:
        yield
    finally:
        place.host.node.run(["ip", "neigh", "del", address, "dev", "vec0"])


@contextmanager
def _cut(place: Place, port: int) -> Iterator[None]:
    """Inside the block one of the storage host's ports carries nothing."""
    place.storage.node.cut_network(port)
    try:
        yield
    finally:
        place.storage.node.restore_network(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(place: Place, volume: str, number: signal.Signals) -> None:
    with _no_answer(place, place.storage.node.address):
        attaching = place.host.begin_attach(place.manager, volume)
        log_in = ["pgrep", "-f", "iscsiadm.*--login"]
        _until("it logs in", lambda: place.host.node.run(log_in, check=False).status == 0)
        assert len(place.attachments(volume)) == 1
        attaching.kill(number)
        assert attaching.wait(SECONDS) == 130
    assert "undoing" in attaching.output()
    place.assert_nothing_left(volume)


def test_no_answer_of_any_portal_leaves_nothing(place: Place, volume: str) -> None:
    with _cut(place, 1), _no_answer(place, place.storage.node.address):
        error = place.refused(8, "local-attach", volume)
    assert error["reason"] == "LOGIN_FAILED"
    for address in place.storage.node.addresses:
        assert f"{address}:3260" in error["message"]
    place.assert_nothing_left(volume)


def test_a_volume_that_somebody_else_has(place: Place, volume: str) -> None:
    elsewhere = {"initiator": "iqn.2026-01.org.example.lab:b", "host": "b"}
    with place.lab.entered_network():
        other = place.client().create(volume, elsewhere, "rw")
    error = place.refused(5, "local-attach", volume)
    assert other.id in error["message"]
    assert place.host.left() == ""
    with place.lab.entered_network():
        place.client().delete(other.id)


@pytest.mark.parametrize("multipath", [False, True])
def test_killed_at_any_moment(place: Place, volume: str, multipath: bool) -> None:
    """What it left is taken up, or away, by the next that is asked for."""
    options = ["--multipath"] if multipath else []
    moments = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(KILLS):
        attaching = place.host.begin_attach(place.manager, volume, *options)
        time.sleep(moments.uniform(0.5, 4.0))
        attaching.kill(signal.SIGKILL)
        attaching.wait()
        if moments.random() < 0.5:
            attached = place.attach(volume, *options)
            (record,) = place.attachments(volume)
            assert record.id == attached["attachment_id"] and record.is_attached
        detaching = place.host.node.start(
            place.host.lunctl_argv("local-detach", volume),
            environment=place.host.environment(place.manager),
        )
        time.sleep(moments.uniform(0.5, 3.0))
        detaching.kill(signal.SIGKILL)
        detaching.wait()
        place.detach(volume)
        place.assert_nothing_left(volume)


def test_two_at_once_get_the_same_disk(place: Place, volume: str) -> None:
    both = [place.host.begin_attach(place.manager, volume) for _ in range(2)]
    assert [one.wait(SECONDS) for one in both] == [0, 0]
    first, second = (json.loads(one.output()) for one in both)
    assert first == second
    assert len(place.host.initiator.sessions()) == 1
    place.detach(volume)


def test_volumes_side_by_side(place: Place, volume: str, data: Path) -> None:
    other = place.volume()
    attached = place.attach(volume)
    place.host.write(attached["device"], data)
    place.attach(other, "--multipath")
    place.detach(other)
    (target,) = place.host.initiator.sessions()
    assert target.endswith(volume)
    assert place.host.holds(attached["device"], data)
    place.detach(volume)


def test_an_attachment_that_is_gone(place: Place, volume: str) -> None:
    for options in ((), ("--multipath",)):
        attached = place.attach(volume, *options)
        with place.lab.entered_network():
            place.client().delete(attached["attachment_id"])
        _until("the target shuts it out", lambda: not _is_up(place))
        gone = place.detach(volume)
        assert gone["existed"] and gone["attachment_ids"] == []
        place.assert_nothing_left(volume)


def _is_up(place: Place) -> bool:
    states = place.host.node.run(["sh", "-c", "cat /sys/class/iscsi_session/*/state"]).stdout
    return "LOGGED_IN" in states


def test_after_a_power_cut_the_disk_comes_back(place: Place, volume: str, data: Path) -> None:
    attached = place.attach(volume)
    place.host.write(attached["device"], data)
    run = place.host.node.run
    # The node's own files are in its memory; those of a real host outlive this.
    run(["cp", "-r", "--preserve=mode", "/etc/iscsi/nodes", "/media/nodes"])
    place.host.node.power_cut()
    place.host.node.boot()
    run(["cp", "-r", "--preserve=mode", "/media/nodes", "/etc/iscsi/"])
    place.host.start()
    place.host.give_token(place.token)
    again = place.attach(volume)
    assert again["attachment_id"] == attached["attachment_id"]
    assert again["link"] == attached["link"] and place.host.holds(again["link"], data)
    place.detach(volume)


def test_the_connector_is_that_of_the_field(place: Place) -> None:
    """The keys that iSCSI needs have the values that the field's own command gathers."""
    told = json.loads(place.host.lunctl(place.manager, "get-connector", "--json").stdout)
    done = place.host.cinder(place.noauth, PROJECT, "get-connector")
    assert done.status == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()]
    field = {row[1]: row[2] for row in rows if len(row) == 4}
    for key in ("initiator", "host", "platform", "os_type", "multipath", "enforce_multipath"):
        assert field[key] == str(told[key]), key
    assert told["ip"] == place.host.node.address
    assert told["do_local_attach"] is True


@pytest.fixture
def field_volume(request: pytest.FixtureRequest, place: Place) -> Iterator[str]:
    """Of the attachd that the field's client can speak to."""
    volume_id = place.volume(place.noauth)
    yield volume_id
    if request.node.stash.get(FAILED, False):
        place.recover(volume_id, place.noauth)
    assert place.host.left() == ""
    assert place.attachments(volume_id, place.noauth) == []
    assert place.status(volume_id, place.noauth) == "available"


def test_the_fields_client_attaches(place: Place, field_volume: str, data: Path) -> None:
    """The newest of all parts. This one attaches, and then fails to print what it did."""
    host = place.host
    done = host.cinder(place.noauth, PROJECT, "local-attach", field_volume, printing=False)
    assert "has no attribute 'print_dict'" in done.stderr, done.stdout + done.stderr
    (record,) = place.attachments(field_volume, place.noauth)
    assert record.is_attached and record.instance
    host.write("/dev/sda", data)
    assert host.initiator.serial("sda") == field_volume
    # lunctl leaves it to whom it belongs.
    no_token = {"LUNCTL_TOKEN_FILE": "", "LUNCTL_PROJECT": PROJECT}
    for command in ("local-attach", "local-detach"):
        done = host.lunctl(place.noauth, command, field_volume, status=5, more=no_token)
        assert record.id in done.stderr
    assert host.holds("/dev/sda", data)
    done = host.cinder(place.noauth, PROJECT, "local-detach", field_volume, printing=False)
    assert done.status == 0, done.stderr


def test_the_fields_client_over_two_portals(place: Place, field_volume: str, data: Path) -> None:
    host = place.host
    local_attach = ("local-attach", "--multipath", "True", field_volume)
    done = host.cinder(place.noauth, PROJECT, *local_attach)
    assert done.status == 0, done.stderr
    assert "/dev/dm-0" in done.stdout
    assert len(host.initiator.sessions()) == 2
    host.write("/dev/dm-0", data)
    with _cut(place, 1):
        assert host.holds("/dev/dm-0", data)
    local_detach = ("local-detach", "--multipath", "True", field_volume)
    done = host.cinder(place.noauth, PROJECT, *local_detach)
    assert done.status == 0, done.stderr
    # os-brick has left multipathd a word to take this disk whenever it comes; that is taken back.
    no_token = {"LUNCTL_TOKEN_FILE": "", "LUNCTL_PROJECT": PROJECT}
    done = host.lunctl(place.noauth, "local-attach", field_volume, "--json", more=no_token)
    attached = json.loads(done.stdout)
    assert attached["device"].startswith("/dev/sd")
    assert host.holds(attached["device"], data)
    host.lunctl(place.noauth, "local-detach", field_volume, more=no_token)
