"""open-iscsi: logging in by connection properties, without discovery, and out again.

What a login needs is written into open-iscsi's own record of it, a file that only root can
read: on a command line its secret could be seen by everybody on the host.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from targetd_local.errors import AttachdError, LoginFailed, NotPossible, ProgramFailed
from targetd_local.kernel import Kernel, Session
from targetd_local.programs import Programs

# From open-iscsi's iscsi_err.h.
SESSION_EXISTS, NO_RECORDS, REFUSED = 15, 21, 24
# Where open-iscsi keeps its records: this depends on the distribution.
RECORDS = ("etc/iscsi/nodes", "var/lib/iscsi/nodes")
INITIATOR_NAME = "etc/iscsi/initiatorname.iscsi"
# Several times what open-iscsi gives a portal to answer.
LOGIN_SECONDS = 90.0
# A name becomes part of a path, and of a record's line.
TARGET = re.compile(r"(iqn\.|eui\.|naa\.)[A-Za-z0-9.:_-]+")
PORTAL = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):\d+")
# A login is interrupted when it begins while any target of the same portal is removed: LIO has one
# thread for each portal's logins, and stops it for that (iscsit_reset_np_thread). open-iscsi then
# waits for its timeout, as it ignores the end of the connection during a login, and tries again.
# Few seconds and few times: a portal that does not answer must not hold up the others for minutes.
PATIENCE = {
    "node.conn[0].timeo.login_timeout": "5",
    "node.session.initial_login_retry_max": "4",
}


@dataclass(frozen=True)
class Way:
    """One way to a disk: a portal, a target there, and the disk's number in it."""

    portal: str
    target: str
    lun: int

    @property
    def address(self) -> str:
        return self.portal.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> str:
        return self.portal.rpartition(":")[2]


def ways(properties: Mapping[str, Any]) -> list[Way]:
    """The plural keys, or else the single ones.

    Raises AttachdError for connection properties that this cannot log in by.
    """
    try:
        if properties.get("target_portals"):
            keys = ("target_portals", "target_iqns", "target_luns")
            columns: Sequence[Any] = [properties[key] for key in keys]
        else:
            keys = ("target_portal", "target_iqn", "target_lun")
            columns = [[properties[key]] for key in keys]
        rows = zip(*columns, strict=True)
        found = [Way(str(portal), str(target), int(lun)) for portal, target, lun in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise AttachdError(f"attachd's connection_info is malformed: {error}", 500) from None
    for way in found:
        if not (TARGET.fullmatch(way.target) and PORTAL.fullmatch(way.portal)):
            raise AttachdError(f"no target or portal: {way.target} at {way.portal}", 500)
    return found


def targets_of(properties: Mapping[str, Any]) -> set[str]:
    """The names of targets in connection properties, however few of those there are."""
    named = {*properties.get("target_iqns", ()), properties.get("target_iqn", "")}
    return {target for target in named if TARGET.fullmatch(str(target))}


def authentication(properties: Mapping[str, Any]) -> dict[str, str]:
    """The lines of a record by which the two sides know each other."""
    if not properties.get("auth_password"):
        return {"node.session.auth.authmethod": "None"}
    settings = {
        "node.session.auth.authmethod": properties.get("auth_method") or "CHAP",
        "node.session.auth.username": properties["auth_username"],
        "node.session.auth.password": properties["auth_password"],
    }
    if properties.get("mutual_auth_password"):
        settings["node.session.auth.username_in"] = properties["mutual_auth_username"]
        settings["node.session.auth.password_in"] = properties["mutual_auth_password"]
    return settings


def with_settings(record: str, settings: Mapping[str, str]) -> str:
    """A record with some of its lines replaced, and added where they are not there."""
    lines, left = [], dict(settings)
    for line in record.splitlines():
        key = line.partition("=")[0].strip()
        if key in settings:
            if key in left:
                lines.append(f"{key} = {left.pop(key)}")
            continue
        # This ends a record, and nothing behind it counts.
        if line.strip() == "# END RECORD":
            break
        lines.append(line)
    lines += [f"{key} = {value}" for key, value in left.items()]
    return "".join(f"{line}\n" for line in (*lines, "# END RECORD"))


class OpenIscsi:
    def __init__(self, programs: Programs, kernel: Kernel) -> None:
        self._programs = programs
        self._kernel = kernel
        self._root = kernel.root

    def initiator_name(self) -> str:
        """Raises NotPossible when this host has none, or it may not be read."""
        path = self._root / INITIATOR_NAME
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            raise NotPossible(
                f"{path}: there is none; install open-iscsi and start iscsid"
            ) from None
        except PermissionError:
            raise NotPossible(f"{path} may not be read; run it as root") from None
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() == "InitiatorName" and value.strip():
                return value.strip()
        raise NotPossible(f"{path} has no line InitiatorName=iqn...; see iscsi-iname(8)")

    def log_in(self, way: Way, properties: Mapping[str, Any]) -> Session:
        """Raises LoginFailed. Its record stays in any case, until ``forget``."""
        settings = {
            **PATIENCE,
            # It is this program's to log in again after a boot, with attachd's word.
            "node.startup": "manual",
            "node.conn[0].startup": "manual",
            **authentication(properties),
        }
        try:
            self._record(way, settings)
            self._programs.run(
                ["iscsiadm", *_node(way), "--login"], (0, SESSION_EXISTS), LOGIN_SECONDS
            )
        except ProgramFailed as error:
            why = "the target let this host not in" if error.status == REFUSED else str(error)
            raise LoginFailed(f"{way.target} at {way.portal}: {why}") from error
        for session in self._kernel.sessions_of({way.target}):
            if _same_portal(session.portal, way.portal):
                return session
        raise LoginFailed(f"{way.target} at {way.portal}: the session ended at once")

    def _record(self, way: Way, settings: Mapping[str, str]) -> None:
        self._programs.run(["iscsiadm", *_node(way), "--interface", "default", "--op", "new"])
        files = list(self._files(way))
        if not files:
            raise LoginFailed(f"open-iscsi keeps its records neither in {' nor in '.join(RECORDS)}")
        for path in files:
            _rewrite(path, settings)

    def _files(self, way: Way) -> Iterator[Path]:
        """A file of its own, or one for each interface in a folder of its own."""
        for records in RECORDS:
            folder = self._root / records / way.target
            for found in folder.glob(f"{way.address},{way.port}*"):
                yield from [found] if found.is_file() else found.iterdir()

    def recorded(self, volume_id: str) -> set[str]:
        """The targets of a volume that open-iscsi has records of."""
        folders = (self._root / records for records in RECORDS)
        return {found.name for folder in folders for found in folder.glob(f"*:{volume_id}")}

    def forget(self, target: str) -> None:
        """Remove all records of a target that nobody is logged in to."""
        argv = ["iscsiadm", "-m", "node", "-T", target, "--op", "delete"]
        self._programs.run(argv, (0, NO_RECORDS))
        for records in RECORDS:
            # A record that was half-written is none to iscsiadm.
            shutil.rmtree(self._root / records / target, ignore_errors=True)

    def log_out(self, session: Session) -> None:
        argv = ["iscsiadm", "-m", "session", "-r", str(session.number), "--logout"]
        self._programs.run(argv, (0, NO_RECORDS), LOGIN_SECONDS)


def _same_portal(one: str, other: str) -> bool:
    """An IPv6 address can be written in several ways."""
    (host, _, port), (host2, _, port2) = one.rpartition(":"), other.rpartition(":")
    try:
        same = ip_address(host.strip("[]")) == ip_address(host2.strip("[]"))
    except ValueError:
        same = host == host2
    return same and port == port2


def _node(way: Way) -> list[str]:
    return ["-m", "node", "-T", way.target, "-p", way.portal]


def _rewrite(path: Path, settings: Mapping[str, str]) -> None:
    for value in settings.values():
        if not value.isprintable():
            raise AttachdError("a name or secret in connection_info is no single line", 500)
    with path.open("r+", encoding="utf-8") as file:
        # Before the secret is in it.
        os.fchmod(file.fileno(), 0o600)
        text = with_settings(file.read(), settings)
        file.seek(0)
        file.write(text)
        file.truncate()
