"""An attaching host that is a folder: its sysfs, its records, and programs that change them.

For what cannot be had on a real one: each step failing in turn, and disks that lie.
"""

from __future__ import annotations

import re
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from targetd_local import Attachd, Attachment, LocalVolumes, ProgramFailed
from targetd_local.kernel import Kernel
from targetd_local.programs import Done, Programs
from targetd_local.udev import Udev

Found = TypeVar("Found")

HOST = "a"
INITIATOR = "iqn.2026-01.org.example.lab:a"
SECRET = "a1very2secret3word"
PORTALS = ("192.0.2.11:3260", "192.0.2.12:3260")
RECORD = """\
# BEGIN RECORD 2.1.8
node.name = {target}
node.startup = automatic
node.session.auth.authmethod = None
node.session.initial_login_retry_max = 8
# END RECORD
"""


def target_of(volume_id: str) -> str:
    return f"iqn.2026-11.org.example:{volume_id}"


def wwid_of(volume_id: str) -> str:
    return "36001405" + uuid.UUID(volume_id).hex[:25]


class FolderKernel(Kernel):
    """Names of disks are given out in order: sda, sdb, ..."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.serials: dict[str, str] = {}
        self._number = 0
        self.wwids = root / "etc/multipath/wwids"
        for folder in ("run", "proc/self/ns", "etc/iscsi", "sys/class/block"):
            (root / folder).mkdir(parents=True)
        (root / "proc/self/ns/mnt").symlink_to("mnt:[1]")
        (root / "proc/self/mountinfo").write_text("")
        (root / "etc/iscsi/initiatorname.iscsi").write_text(f"# ours\nInitiatorName={INITIATOR}\n")

    def log_in(self, target: str, portal: str) -> None:
        self._number += 1
        number = self._number
        address, _, port = portal.rpartition(":")
        volume_id = target.rpartition(":")[2]
        session = self.root / f"sys/class/iscsi_session/session{number}"
        _write(session / "targetname", target)
        _write(session / "state", "LOGGED_IN")
        connection = session / f"device/connection{number}:0/iscsi_connection/connection{number}:0"
        _write(connection / "persistent_address", address)
        _write(connection / "persistent_port", port)
        disk = f"sd{chr(ord('a') + number - 1)}"
        (session / f"device/target{number}:0:0/{number}:0:0:0/block/{disk}").mkdir(parents=True)
        serial = self.serials.get(volume_id, volume_id)
        _write(self.block / disk / "dev", f"8:{number * 16}")
        _write(self.block / disk / "device/vpd_pg80", b"\0\x80\0\x24" + serial.encode())
        _write(self.block / disk / "device/wwid", "naa." + wwid_of(volume_id)[1:])

    def log_out(self, number: str) -> None:
        shutil.rmtree(self.root / f"sys/class/iscsi_session/session{number}")

    def fail(self) -> None:
        """All sessions, as when the targets have shut this host out."""
        for state in self.root.glob("sys/class/iscsi_session/*/state"):
            state.write_text("FAILED")

    def boot(self) -> None:
        """Sessions and disks have gone; files have not."""
        for folder in (*self.root.glob("sys/class/iscsi_session/*"), *self.block.iterdir()):
            shutil.rmtree(folder)

    def assemble(self, wwid: str) -> None:
        for disk in self.block.glob("sd*"):
            (disk / "holders/dm-0").mkdir(parents=True, exist_ok=True)
            (self.block / "dm-0/slaves" / disk.name).mkdir(parents=True, exist_ok=True)
        _write(self.block / "dm-0/dm/name", "mpatha")
        _write(self.block / "dm-0/dm/uuid", f"mpath-{wwid}")
        _write(self.block / "dm-0/dev", "254:0")

    def flush(self) -> None:
        shutil.rmtree(self.block / "dm-0")
        for holder in self.block.glob("sd*/holders/dm-0"):
            holder.rmdir()

    def delete(self, disk: str) -> None:
        shutil.rmtree(self.block / disk)
        for found in self.root.glob(f"sys/class/iscsi_session/*/device/target*/*/block/{disk}"):
            found.rmdir()


class FolderPrograms(Programs):
    """``refuse`` makes every program fail whose command line it is found in."""

    def __init__(self, kernel: FolderKernel, log: list[str]) -> None:
        self._kernel = kernel
        self.log = log
        self.refuse = ""
        self.status = 1
        # What programs print, by their command lines.
        self.output: dict[str, str] = {}
        # Several portals are logged in to at once.
        self._lock = threading.Lock()
        # Called with each command line before it is run.
        self.watch: Callable[[str], None] = lambda line: None

    def are_roots(self) -> bool:
        return True

    def run(self, argv: Sequence[str], ok: Collection[int] = (0,), seconds: float = 60.0) -> Done:
        line = " ".join(argv)
        self.log.append(line)
        self.watch(line)
        if self.refuse and re.search(self.refuse, line):
            raise ProgramFailed(f"{line}: refused by the test", self.status)
        with self._lock:
            self._act(argv)
        return Done(0, self.output.get(line, ""), "")

    def _act(self, argv: Sequence[str]) -> None:
        given = dict(pairwise(argv))
        match argv:
            case ["iscsiadm", *_, "new"]:
                self._record(given["-T"], given["-p"])
            case ["iscsiadm", *_, "--login"]:
                self._kernel.log_in(given["-T"], given["-p"])
            case ["iscsiadm", *_, "--logout"]:
                self._kernel.log_out(given["-r"])
            case ["iscsiadm", *_, "delete"]:
                self._forget(given["-T"], given.get("-p", "*"))
            case ["multipath", "-a", wwid]:
                _write(self._kernel.wwids, f"# Valid WWIDs:\n/{wwid}/\n")
                self._kernel.assemble(wwid)
            case ["multipath", "-w", wwid]:
                _write(self._kernel.wwids, f"# Valid WWIDs:\n#{wwid}/\n")
            case ["multipath", "-f", _]:
                self._kernel.flush()

    def _record(self, target: str, portal: str) -> None:
        file = self._kernel.root / "etc/iscsi/nodes" / target / portal.replace(":", ",")
        _write(file, RECORD.format(target=target))

    def _forget(self, target: str, portal: str) -> None:
        folder = self._kernel.root / "etc/iscsi/nodes" / target
        for record in folder.glob(portal.replace(":", ",")):
            shutil.rmtree(record) if record.is_dir() else record.unlink()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


class FolderUdev(Udev):
    """Nothing comes later than at once."""

    def __init__(self) -> None:
        pass

    def wait(
        self, look: Callable[[], Found | None], seconds: float, check: Callable[[], None]
    ) -> Found | None:
        check()
        return look()

    def is_ready(self, name: str) -> bool:
        return True

    def is_claimed(self, disk: str) -> bool:
        return False

    def links(self, name: str) -> list[str]:
        return [f"/dev/disk/by-path/{name}", f"/dev/disk/by-id/wwn-{name}"]


class Records(Attachd):
    """attachd's side: the attachments that there are."""

    def __init__(self, log: list[str]) -> None:
        super().__init__("https://192.0.2.1:8776")
        self.log = log
        self.all: dict[str, Attachment] = {}
        # What the next call of that name raises, after it was done or instead.
        self.instead: dict[str, Exception] = {}
        self.after: dict[str, Exception] = {}
        self.connectors: list[Mapping[str, Any]] = []

    def _begin(self, call: str) -> None:
        self.log.append(call)
        if call in self.instead:
            raise self.instead.pop(call)

    def _end(self, call: str) -> None:
        if call in self.after:
            raise self.after.pop(call)

    def create(self, volume_id: str, connector: Mapping[str, Any], mode: str) -> Attachment:
        self._begin("create")
        self.connectors.append(connector)
        made = self.add(volume_id, mode=mode, status="attaching")
        self._end("create")
        return made

    def add(
        self, volume_id: str, *, instance: str = "", status: str = "attached", mode: str = "rw"
    ) -> Attachment:
        target = target_of(volume_id)
        info = {
            "target_portals": list(PORTALS),
            "target_iqns": [target] * len(PORTALS),
            "target_luns": [0] * len(PORTALS),
            "auth_method": "CHAP",
            "auth_username": "someone",
            "auth_password": SECRET,
        }
        made = Attachment(str(uuid.uuid4()), volume_id, instance, status, mode, info)
        self.all[made.id] = made
        return made

    def update(self, attachment_id: str, connector: Mapping[str, Any]) -> Attachment:
        self._begin("update")
        return self.all[attachment_id]

    def complete(self, attachment_id: str) -> None:
        self._begin("complete")
        before = self.all[attachment_id]
        self.all[attachment_id] = Attachment(**{**vars(before), "status": "attached"})
        self._end("complete")

    def delete(self, attachment_id: str) -> None:
        self._begin("delete")
        self.all.pop(attachment_id, None)

    def attachments(self, volume_id: str, host: str) -> list[Attachment]:
        self._begin("list")
        return [one for one in self.all.values() if one.volume_id == volume_id]


class FolderHost:
    """All of it together; ``log`` has each call of attachd and each program, in order."""

    def __init__(self, root: Path) -> None:
        self.log: list[str] = []
        self.kernel = FolderKernel(root)
        self.programs = FolderPrograms(self.kernel, self.log)
        self.attachd = Records(self.log)
        self.stop = threading.Event()
        self.volumes = self.local_volumes(self.attachd, stop=self.stop)

    def local_volumes(
        self, attachd: Attachd, *, stop: threading.Event | None = None
    ) -> LocalVolumes:
        """Of this host, whatever attachd is asked for."""
        return LocalVolumes(
            self.attachd,
            stop=stop,
            programs=self.programs,
            kernel=self.kernel,
            udev=FolderUdev(),
        )

    @property
    def records(self) -> list[Path]:
        return [path for path in self.kernel.root.glob("etc/iscsi/nodes/*/*") if path.is_file()]

    def left(self) -> list[object]:
        """Whatever an attachment brings with it."""
        disks = [path.name for path in self.kernel.block.iterdir()]
        wwids = self.kernel.wwids.read_text() if self.kernel.wwids.exists() else ""
        known = [line for line in wwids.splitlines() if not line.startswith("#")]
        locks = list((self.kernel.root / "run").glob("*/*"))
        return [*self.kernel.sessions(), *disks, *known, *self.records, *locks, *self.attachd.all]


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
