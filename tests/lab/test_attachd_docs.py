"""What the guide of attachd tells to do, done in its order: an attachd with two storage hosts, and
a host that attaches."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from targetd_driver import TargetdDriver

from lab.attaching import BRICK, CLIENTS, AttachingHost
from lab.lab import Lab
from lab.node import Node, Result, Spec
from lab.storage import StorageHost, spec
from targetd import __version__
from targetd.tls_authority import Authority
from tests.conftest import LAB_FOLDER
from tests.lab.conftest import LATER, prepare_for_packages
from tests.lab.test_attachd_package import ASK, SOCKET
from tests.pages import Step, steps

pytestmark = pytest.mark.lab

PAGE = "attachd.md"
CONFIGURATION = "/etc/attachd/attachd.toml"
STEP_SECONDS_MAX = 300.0
SOON_SECONDS = 60.0
ELSEWHERE = "on the attaching host"
# What is not done here, and why.
EXEMPT = {
    "make install-attachd": "it fetches Python packages: see test_attachd_package.py",
    "text": "it is a picture",
}
# What tells that something is wrong ends so.
FAILING = {("attachd does not start", "attachd --check-config"): (78,)}
POSTGRESQL = Path("/usr/lib/postgresql")
SOCKET_OF_TARGETD = "unix:/run/targetd/targetd.sock"
OTHER = {"initiator": "iqn.2026-01.org.example.lab:other", "host": "other"}


class Guide:
    def __init__(self, lab: Lab, packages: Mapping[str, Path]) -> None:
        self.node, self.attaching = lab["storage1"], AttachingHost(lab["a"])
        self._packages = packages
        authority = Authority.new("a site")
        self.second = StorageHost(lab["storage2"], authority=authority)
        self.second.prepare_disks()
        self.second.install()
        self.second.start()
        self.attaching.start()
        for node in (self.node, self.attaching.node):
            prepare_for_packages(node)
        for program in packages:
            self.has_package(self.node, program, __version__)
        self.has_package(self.attaching.node, "targetd", __version__)
        self.run("vgcreate storage /dev/ubda && dpkg --install build/targetd_1.deb")
        # As docs/secure.md makes it.
        self.run("mkdir --mode=700 /root/authority")
        self.node.write("/root/authority/ca.pem", authority.pair.certificate)
        self.node.write("/root/authority/ca.key", authority.pair.key, mode="600")
        self.done: set[Step] = set()
        self.with_tokens = True
        # What the reader puts in.
        self.values = {
            "192.0.2.10": self.node.address,
            "attachd.example.org": self.node.name,
            "storage2.example.org": self.second.node.name,
            "IQN": self.attaching.initiator.name,
            "HOST": self.attaching.node.name,
        }

    def close(self) -> None:
        self.second.close()

    def has_package(self, node: Node, program: str, version: str) -> None:
        (made,) = self._packages[program].glob(f"{program}_{version}_*.deb")
        folder = node.share / "build"
        folder.mkdir(exist_ok=True)
        shutil.copy(made, folder / f"{program}_1.deb")

    def run(
        self, script: str, *, node: Node | None = None, allowed: tuple[int, ...] = (0,)
    ) -> Result:
        place = node or self.node
        done = place.run(
            ["sh", "-c", script],
            # apt-get asks.
            stdin=b"y\ny\n",
            cwd="/media",
            environment={
                "PATH": f"{CLIENTS}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                # That of the field's clients that can print: see requirements-brick.txt.
                **({"PYTHONPATH": str(BRICK)} if place is self.attaching.node else {}),
            },
            timeout_seconds=STEP_SECONDS_MAX,
            check=False,
        )
        said = f"{script}: {done.status}\n{done.stdout}{done.stderr}"
        assert done.status in allowed, said
        assert "-- No entries --" not in done.stdout, said
        return done

    def follow(
        self, section: str, before: Mapping[str, Callable[[], object]] | None = None
    ) -> dict[str, str]:
        """Do what the section says; ``before`` is what happens before some of its commands.

        Returns what each command printed.
        """
        wanted = [step for step in steps(PAGE) if step.section == section]
        happens = dict(before or {})
        said, variables = {}, ""
        for step in wanted:
            happens.pop(step.text, lambda: None)()
            if step.kind == "sh":
                variables = f"{self._filled(step.text)}\n"
            else:
                said[step.text] = self._do(step, variables)
            self.done.add(step)
        assert not happens, f"it does not have them: {list(happens)}"
        assert wanted, section
        return said

    def _do(self, step: Step, variables: str) -> str:
        if step.text in EXEMPT or step.kind in EXEMPT:
            return ""
        text = self._filled(step.text)
        if step.kind == "toml":
            self._configure(text)
            return ""
        node = self.attaching.node if ELSEWHERE in step.section else self.node
        if step.kind == "python":
            (node.share / "example.py").write_text(text, encoding="utf-8")
            own = "/usr/lib/targetd/bin/python3"
            python = f"{CLIENTS}/bin/python" if "import openstack" in text else own
            text = f"{python} /media/example.py"
        done = self.run(
            variables + text, node=node, allowed=FAILING.get((step.section, step.text), (0,))
        )
        return done.stdout + done.stderr

    def _filled(self, text: str) -> str:
        for name, value in self.values.items():
            text = re.sub(rf"(?<![\w.]){re.escape(name)}\b", value, text)
        return text

    def _configure(self, text: str) -> None:
        there = self.node.read(CONFIGURATION).decode()
        # What is in no table stands before all tables.
        parts = [there, text] if text.startswith("[") else [text, there]
        self.configure("\n\n".join(parts))

    def configure(self, text: str) -> None:
        self.node.write(CONFIGURATION, text, mode="644")

    # What people do meanwhile

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """As an administrator, of project demo."""
        token = self.node.read("/root/admin.token").decode().strip() if self.with_tokens else ""
        asked = [f"unix:{SOCKET}", token or "me:demo", method, path, body]
        done = self.node.run(
            ["/usr/lib/targetd/bin/python3", "-I", "-c", ASK], stdin=json.dumps(asked).encode()
        )
        status, found = json.loads(done.stdout)
        return status, found

    def good(self, method: str, path: str, body: object = None) -> Any:
        status, found = self.ask(method, path, body)
        assert status == 200, found
        return found

    def volume(self, host: str) -> str:
        wanted = {"size": 1, "availability_zone": host}
        made: str = self.good("POST", "volumes", {"volume": wanted})["volume"]["id"]
        wait_for(lambda: self.status(made) == "available")
        return made

    def status(self, volume_id: str) -> str:
        return str(self.good("GET", f"volumes/{volume_id}")["volume"]["status"])

    def attach(self, volume_id: str, connector: Mapping[str, str] | None = OTHER) -> str:
        wanted: dict[str, Any] = {"volume_uuid": volume_id}
        if connector:
            wanted["connector"] = connector
        return str(self.good("POST", "attachments", {"attachment": wanted})["attachment"]["id"])

    def detach(self, attachment_id: str) -> None:
        self.good("DELETE", f"attachments/{attachment_id}")

    def granted(self) -> set[str]:
        """The attachments that the second storage host gives access to."""
        with TargetdDriver(self.second.endpoint) as driver:
            return {one.attachment_id for one in driver.connections.list()}

    def is_active(self) -> bool:
        return self.run("systemctl is-active attachd", allowed=(0, 3)).stdout == "active\n"


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def guide(packages: Future[Path], attachd_packages: Future[Path]) -> Iterator[Guide]:
    nodes = [
        Spec("storage1", (4 << 30,), memory_mib=2048, systemd=True),
        spec("storage2"),
        Spec("a", memory_mib=1024, systemd=True),
    ]
    with Lab(LAB_FOLDER, nodes) as lab:
        made = {"targetd": packages.result(), "attachd": attachd_packages.result()}
        guide = Guide(lab, made)
        yield guide
        guide.close()


def test_the_guide(guide: Guide) -> None:
    guide.follow("Install")
    said = guide.follow("Storage hosts")
    assert [line.split()[-1] for line in said["attachd host list"].splitlines()[1:]] == ["yes"] * 2
    guide.follow("Who may call")
    guide.follow("On the network")
    _attach(guide)
    _drain(guide)
    _stuck(guide)
    _back_up_and_restore(guide)
    _postgresql(guide)
    _without_tokens(guide)
    _does_not_start(guide)
    _upgrade_and_remove(guide)
    told = set(steps(PAGE))
    exempt = {step for step in told if step.text in EXEMPT or step.kind in EXEMPT}
    assert told - guide.done - exempt == set()


def _attach(guide: Guide) -> None:
    def attach() -> None:
        (volume,) = guide.good("GET", "volumes")["volumes"]
        guide.values["VOLUME"] = volume["id"]
        guide.values["ATTACHMENT"] = guide.attach(volume["id"])

    said = guide.follow(
        "Attach a volume, with a client of the field", {"openstack volume attachment list": attach}
    )
    assert guide.values["ATTACHMENT"] in said["openstack volume attachment list"]
    assert guide.status(guide.values["VOLUME"]) == "available", "it was detached"
    host = guide.attaching.node
    for name in ("demo.token", "ca.pem"):
        source = {"demo.token": "/root/demo.token", "ca.pem": "/etc/attachd/ca.pem"}[name]
        host.write(f"/root/{name}", guide.node.read(source), mode="600")
    said = guide.follow("Attach a volume, on the attaching host, with lunctl")
    (attached,) = [answer for command, answer in said.items() if "local-attach" in command]
    assert "/dev/sd" in attached
    assert guide.run("systemctl is-active targetd", node=host, allowed=(3,)).stdout == "inactive\n"
    assert guide.attaching.left() == ""
    assert guide.status(guide.values["VOLUME"]) == "available"


def _drain(guide: Guide) -> None:
    def empty() -> None:
        wanted = {"volume": {"size": 1, "availability_zone": "storage1"}}
        status, why = guide.ask("POST", "volumes", wanted)
        assert (status, "being drained" in why) == (413, True)
        for one in guide.good("GET", "volumes")["volumes"]:
            guide.good("DELETE", f"volumes/{one['id']}")
        wait_for(lambda: guide.good("GET", "volumes")["volumes"] == [])

    def lose() -> None:
        guide.run(f"attachd host add storage1 {SOCKET_OF_TARGETD} && systemctl stop targetd")

    happens = {
        "attachd host remove storage1": empty,
        "attachd host remove storage1 --lost": lose,
    }
    said = guide.follow("Drain a storage host", happens)
    guide.run("systemctl start targetd")
    assert "draining" in said["attachd host list"]
    assert "storage1" not in guide.run("attachd host list").stdout


def _stuck(guide: Guide) -> None:
    """The storage host is away, and says nothing of a volume that is attached there."""
    guide.values["VOLUME"] = volume_id = guide.volume("storage2")
    attachment_id = guide.attach(volume_id)
    guide.second.stop()
    status, _ = guide.ask("DELETE", f"attachments/{attachment_id}")
    assert status in (503, 504)
    why = guide.follow("A volume is stuck")["attachd explain VOLUME"]
    assert "does not tell" in why and attachment_id in why
    guide.run("journalctl -u attachd -o cat --output-fields=REQUEST_ID > /media/requests")
    ids = (guide.node.share / "requests").read_text(encoding="utf-8").split()
    guide.values["REQUEST"] = ids[-1]
    said = guide.follow("Watch")
    assert "DELETE" in said["journalctl -u attachd REQUEST_ID=REQUEST"]
    guide.second.start()
    # Without a further word of anybody.
    wait_for(lambda: guide.granted() == set() and guide.status(volume_id) == "available")


def _back_up_and_restore(guide: Guide) -> None:
    """What the page says of access that was given or taken away after the backup."""
    kept, lost = guide.volume("storage2"), guide.volume("storage2")
    taken = guide.attach(kept)
    guide.follow("Back up")
    wait_for(guide.is_active)
    guide.detach(taken)
    given = guide.attach(lost)
    later = guide.volume("storage2")
    assert guide.granted() == {given}
    guide.follow("Restore")
    wait_for(guide.is_active)
    wait_for(lambda: guide.granted() == {taken})
    assert guide.status(kept) == "attaching", "connected, and not completed"
    assert guide.status(lost) == "available"
    assert guide.ask("GET", f"volumes/{later}")[0] == 404
    with TargetdDriver(guide.second.endpoint) as driver:
        assert later in {one.volume_id for one in driver.volumes.list()}
    guide.detach(taken)


def _postgresql(guide: Guide) -> None:
    before = guide.node.read(CONFIGURATION).decode()
    if not POSTGRESQL.exists():
        guide.done |= {step for step in steps(PAGE) if step.section == "PostgreSQL"}
        return
    # As a boot of a real host does.
    guide.run("systemd-tmpfiles --create postgresql-common.conf && pg_ctlcluster 15 main start")
    guide.follow("PostgreSQL")
    wait_for(guide.is_active)
    guide.run("attachd host add storage2 storage2:7788")
    rows = "su postgres -c \"psql --tuples-only --command 'SELECT name FROM hosts' attachd\""
    assert guide.run(rows).stdout.split() == ["storage2"]
    guide.configure(before)
    guide.run("systemctl restart attachd && pg_ctlcluster 15 main stop")


def _without_tokens(guide: Guide) -> None:
    guide.follow("Clients without tokens")
    guide.with_tokens = False

    def made() -> None:
        (volume,) = guide.good("GET", "volumes?name=disk")["volumes"]
        guide.values["VOLUME"] = volume["id"]
        wait_for(lambda: guide.status(volume["id"]) == "available")

    def attached() -> None:
        assert guide.status(guide.values["VOLUME"]) == "in-use"

    said = guide.follow(
        "Attach a volume, on the attaching host, with cinder",
        {"cinder list": made, "cinder local-detach VOLUME": attached},
    )
    assert "/dev/sda" in said["cinder local-attach VOLUME"]
    assert guide.attaching.left() == ""


def _does_not_start(guide: Guide) -> None:
    text = guide.node.read(CONFIGURATION).decode()

    def break_it() -> None:
        guide.configure(f"threads = 0\n{text}")
        guide.run("! systemctl restart attachd")

    look = "journalctl -u attachd -n 20"
    said = guide.follow("attachd does not start", {look: break_it})
    for command in said:
        assert f"{CONFIGURATION}:1: threads: must be" in said[command]
    guide.configure(text)
    guide.run("systemctl start attachd")


def _upgrade_and_remove(guide: Guide) -> None:
    guide.has_package(guide.node, "attachd", LATER)
    guide.follow("Upgrade")
    assert guide.is_active()
    assert LATER in guide.run("dpkg-query --show attachd").stdout
    guide.follow("Remove")
    assert guide.run(f"test -e {CONFIGURATION}", allowed=(0, 1)).status == 1
