"""An attaching host on a node: open-iscsi, driven by connection properties.

Logs in as os-brick does, without discovery. The record of a login is written as
a file: on a command line its secret would be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from targetd_local.iscsi import (
    NO_RECORDS,
    PATIENCE,
    REFUSED,
    SESSION_EXISTS,
    Way,
    authentication,
    ways,
)

from lab.errors import CommandFailed, LabError, LoginFailed, LoginRefused
from lab.machine import Machine
from targetd.api.v1 import export_pb2

DEVICE_SECONDS = 15
RECORDS = "/etc/iscsi/nodes"
MUTUAL = ("mutual_auth_username", "mutual_auth_password")
# Of open-iscsi, which has one status for both.
NO_SESSION = NO_RECORDS


@dataclass(frozen=True)
class Session:
    number: int
    portal: str
    target: str


class Path(Way):
    """One way to a disk, as a node has it."""

    @property
    def link(self) -> str:
        """The name that udev gives the disk behind it; without brackets, also for IPv6."""
        portal = self.portal.replace("[", "").replace("]", "")
        return f"/dev/disk/by-path/ip-{portal}-iscsi-{self.target}-lun-{self.lun}"

    @property
    def record(self) -> str:
        return f"{RECORDS}/{self.target}/{self.address},{self.port}"


class Initiator:
    def __init__(self, node: Machine) -> None:
        self.node = node

    @property
    def name(self) -> str:
        return self.node.initiator_name

    @property
    def connector(self) -> dict[str, Any]:
        """What an attachment layer is told of this host."""
        return {
            "initiator": self.name,
            "host": self.node.name,
            "ip": self.node.address,
            "multipath": False,
            "platform": "x86_64",
            "os_type": "linux",
        }

    def start(self) -> None:
        """Start iscsid after a boot, where no service of the node has."""
        self.node.run(["mkdir", "-p", "/run/lock/iscsi", RECORDS])
        if self.node.run(["pgrep", "-x", "iscsid"], check=False).status:
            self.node.run(["iscsid"])

    def discovery(self, portal: str) -> list[str]:
        """The names of the targets that the portal shows to this initiator."""
        arguments = ["-m", "discovery", "-t", "sendtargets", "-o", "nonpersistent", "-p", portal]
        output = self._iscsiadm(*arguments, empty=NO_RECORDS)
        return [line.split()[1] for line in output.splitlines()]

    def login(
        self,
        properties: Mapping[str, Any],
        initiator_name: str = "",
        *,
        username: str | None = None,
        password: str | None = None,
        multipath: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> str:
        """Log in to the first portal, or to all when ``multipath``; returns the first
        path's device.

        ``username`` and ``password`` replace those of the properties,
        ``initiator_name`` pretends to be another host, and ``settings`` are further
        lines of open-iscsi's record. Raises LoginRefused, LoginFailed.
        """
        record = {
            **PATIENCE,
            "node.session.scan": "auto",
            **_authentication(properties, username, password),
            **({"iface.initiatorname": initiator_name} if initiator_name else {}),
            **(settings or {}),
        }
        ways = list(paths(properties))
        ways = ways if multipath else ways[:1]
        for way in ways:
            self._login(way, record)
        return self._device(ways[0])

    def _login(self, way: Path, settings: Mapping[str, str]) -> None:
        self.node.write(way.record, _record(way, settings), mode="600")
        done = self.node.run(["iscsiadm", *_where(way), "--login"], check=False)
        if done.status in (0, SESSION_EXISTS):
            return
        self._forget(way)
        kind = LoginRefused if done.status == REFUSED else LoginFailed
        raise kind(way.target, way.portal, done.status, done.stderr.strip())

    def _device(self, way: Path) -> str:
        return self._linked(way.link)

    def _linked(self, link: str) -> str:
        wait = ["udevadm", "wait", f"--timeout={DEVICE_SECONDS}", link]
        if self.node.run(wait, check=False).status:
            raise LabError(f"{link} did not appear in {DEVICE_SECONDS} s")
        return self.node.run(["readlink", "-e", link]).stdout.strip()

    def assemble(self, properties: Mapping[str, Any]) -> str:
        """One device over all the ways, of disks that are logged in to; made by multipathd."""
        disks = [self._device(way) for way in paths(properties)]
        wwid = self.wwid(disks[0])
        # Otherwise it may wait for further paths. What is known is status 1.
        self.node.run(["multipath", "-a", wwid], check=False)
        for disk in disks:
            self.node.run(["multipathd", "add", "path", disk])
        return self._linked(f"/dev/disk/by-id/dm-uuid-mpath-{wwid}")

    def disassemble(self, device: str) -> None:
        """Remove what ``assemble`` made; its disks stay."""
        # After the last write udev looks at it once more.
        self.node.run(["udevadm", "settle"])
        self.node.run(["multipath", "-R", "5", "-f", device])

    def logout(self, given: Mapping[str, Any] | str) -> None:
        """Log out of a target, by properties or by its name, on all its portals, and
        forget it. Not an error when there is no session."""
        for target in _targets(given):
            # Without a record iscsiadm says the same as without a session.
            self._iscsiadm("-m", "node", "-T", target, "--logout", empty=NO_SESSION)
            self.node.run(["rm", "-rf", f"{RECORDS}/{target}"])

    def drop(self, given: Mapping[str, Any] | str) -> None:
        """Stop knocking at a target that has shut this host out."""
        with suppress(CommandFailed):
            self.logout(given)
        for target in _targets(given):
            self.node.run(["rm", "-rf", f"{RECORDS}/{target}"])

    def _forget(self, way: Path) -> None:
        self.node.run(["rm", "-f", way.record])

    def sessions(self) -> list[str]:
        """The names of the targets that this host has sessions with."""
        return [session.target for session in self.session_details()]

    def session_details(self) -> list[Session]:
        # tcp: [1] 10.77.0.11:3260,1 iqn.2026-01.org.example:x (non-flash)
        lines = self._iscsiadm("-m", "session", empty=NO_SESSION).splitlines()
        words = [line.split() for line in lines]
        return [Session(int(w[1].strip("[]")), w[2].rpartition(",")[0], w[3]) for w in words]

    def rescan(self) -> None:
        """Look for new disks and new sizes on every session."""
        self._iscsiadm("-m", "session", "--rescan", empty=NO_SESSION)

    def serial(self, device: str) -> str:
        """The unit serial that the disk itself tells (VPD page 80h)."""
        page = self.node.read(f"/sys/block/{device.removeprefix('/dev/')}/device/vpd_pg80")
        return page[4:].decode().strip("\0 \n")

    def wwid(self, device: str) -> str:
        """As multipath and udev write it: 3, then the NAA name."""
        path = f"/sys/block/{device.removeprefix('/dev/')}/device/wwid"
        return "3" + self.node.read(path).decode().strip().removeprefix("naa.")

    def size_bytes(self, device: str) -> int:
        return int(self.node.run(["blockdev", "--getsize64", device]).stdout)

    # As the first callers of this class have them.
    log_in, log_out, discover = login, logout, discovery

    def _iscsiadm(self, *arguments: str, empty: int) -> str:
        """``empty`` is the status that says there is nothing to tell of."""
        argv = ["iscsiadm", *arguments]
        done = self.node.run(argv, check=False)
        if done.status == empty:
            return ""
        if done.status:
            raise CommandFailed(argv, done.status, done.stderr or done.stdout)
        return done.stdout


def properties_of(message: export_pb2.ConnectionProperties) -> dict[str, Any]:
    """The daemon's answer as the initiator's side takes it."""
    return {name: getattr(message, name) for name in message.DESCRIPTOR.fields_by_name}


def paths(properties: Mapping[str, Any]) -> Iterator[Path]:
    for way in ways(properties):
        yield Path(way.portal, way.target, way.lun)


def _targets(given: Mapping[str, Any] | str) -> list[str]:
    if isinstance(given, str):
        return [given]
    return list(dict.fromkeys(way.target for way in paths(given)))


def _where(way: Path) -> list[str]:
    return ["-m", "node", "-T", way.target, "-p", way.portal]


def _authentication(
    properties: Mapping[str, Any], username: str | None, password: str | None
) -> dict[str, str]:
    name = properties.get("auth_username") if username is None else username
    secret = properties.get("auth_password") if password is None else password
    given = {key: properties.get(key) for key in (*MUTUAL, "auth_method")}
    # Without a name there is no authentication, whatever the secret.
    return authentication({**given, "auth_username": name, "auth_password": name and secret})


def _record(way: Path, settings: Mapping[str, str]) -> str:
    """What open-iscsi does not find in it, it takes from iscsid.conf."""
    values = {
        "node.name": way.target,
        "node.startup": "manual",
        "iface.iscsi_ifacename": "default",
        "iface.transport_name": "tcp",
        "node.conn[0].address": way.address,
        "node.conn[0].port": way.port,
        "node.conn[0].startup": "manual",
        **settings,
    }
    return "".join(f"{key} = {value}\n" for key, value in values.items())
