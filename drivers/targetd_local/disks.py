"""A volume's disk on this host: it comes by logging in, and goes before logging out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from targetd_local.errors import DiskMissing, InUse, LoginFailed, WrongDisk
from targetd_local.iscsi import OpenIscsi, Way, ways
from targetd_local.kernel import Kernel, Session
from targetd_local.multipath import Multipath
from targetd_local.programs import Programs
from targetd_local.udev import Udev
from targetd_local.use import users

DISK_SECONDS = 30.0
GONE_SECONDS = 30.0
# By multipathd, where the disk is not in a blacklist of its.
TAKEN_SECONDS = 10.0
# Of a name that udev may never make.
LINK_SECONDS = 3.0
FLUSH_SECONDS = 120.0
# udev and what it starts look into a disk for a moment.
USE_SECONDS = 3.0
# LIO names a disk by this and the first digits of its serial, which is the volume's id.
WWID_PREFIX = "36001405"
WWID_DIGITS = 25
# Of a device's names, those that stay the same over boots.
LASTING = ("/dev/disk/by-id/dm-uuid-mpath-", "/dev/disk/by-id/wwn-")

Check = Callable[[], None]


@dataclass(frozen=True)
class LocalPath:
    """One way to a disk that is there, with its own device, such as /dev/sda."""

    device: str
    portal: str


@dataclass(frozen=True)
class LocalDisk:
    """A volume as a disk of this host."""

    volume_id: str
    # What to mount or write to: /dev/sda, or /dev/mapper/NAME over several paths.
    device: str
    # A name of it that stays the same over boots; empty where udev makes none.
    link: str
    wwid: str
    multipath: bool
    paths: tuple[LocalPath, ...]
    # Ways that were to be there and are not, one line each.
    missing: tuple[str, ...] = ()


class Disks:
    def __init__(self, programs: Programs, kernel: Kernel, udev: Udev, check: Check) -> None:
        self._programs = programs
        self._kernel = kernel
        self._udev = udev
        # Raises when the caller wants to stop.
        self._check = check
        self.iscsi = OpenIscsi(programs, kernel)
        self.multipath = Multipath(programs, kernel)

    def sessions(self, volume_id: str) -> list[Session]:
        """To the volume's target, whoever made them: its name ends with the volume's id."""
        return [
            session
            for session in self._kernel.sessions()
            if session.target.endswith(f":{volume_id}") and self._may_be(session, volume_id)
        ]

    def _may_be(self, session: Session, volume_id: str) -> bool:
        serials = {self._kernel.serial(disk) for disk in session.disks.values()}
        return serials <= {volume_id, ""}

    def is_known(self, volume_id: str) -> bool:
        """Whether this host has logged in to it, or tried to, and it was not detached since."""
        return bool(self.iscsi.recorded(volume_id) or self.sessions(volume_id))

    # Coming

    def connect(self, volume_id: str, properties: Mapping[str, Any], multipath: bool) -> LocalDisk:
        """Log in and wait for the disk; what a failure leaves, ``let_go`` and ``forget`` remove.

        Raises LoginFailed, DiskMissing, WrongDisk.
        """
        if multipath:
            return self._connect_all(volume_id, properties)
        return self._connect_first(volume_id, properties)

    def _connect_first(self, volume_id: str, properties: Mapping[str, Any]) -> LocalDisk:
        failures = []
        for way in ways(properties):
            self._check()
            try:
                session = self.iscsi.log_in(way, properties)
                disk = self._disk(volume_id, session, way)
            except (LoginFailed, DiskMissing) as error:
                failures.append(str(error))
                self.let_go(volume_id, {way.target})
                continue
            if self._udev.is_claimed(disk) or self._is_taken(disk):
                return self._multiple(volume_id, self._assemble([disk]))
            return self._single(volume_id, session, disk)
        raise LoginFailed("; ".join(failures))

    def _is_taken(self, disk: str) -> bool:
        """By a multipathd that takes every disk: it does so some time after udev was ready."""
        if not self.multipath.takes_every_disk():
            return False

        def taken() -> str | None:
            return self._kernel.multipath_over(disk)

        return self._udev.wait(taken, TAKEN_SECONDS, self._check) is not None

    def _disk(self, volume_id: str, session: Session, way: Way) -> str:
        for disk in self._disks(volume_id, {session.number: way}):
            return disk
        raise DiskMissing(
            f"{way.target} at {way.portal}: LUN {way.lun} did not come in {DISK_SECONDS:g} s"
        )

    def _connect_all(self, volume_id: str, properties: Mapping[str, Any]) -> LocalDisk:
        wanted = ways(properties)
        with ThreadPoolExecutor(len(wanted)) as threads:
            outcomes = list(threads.map(lambda way: self._try(way, properties), wanted))
        missing = [one for one in outcomes if isinstance(one, str)]
        sessions = {
            one.number: way
            for one, way in zip(outcomes, wanted, strict=True)
            if isinstance(one, Session)
        }
        if not sessions:
            raise LoginFailed("; ".join(missing))
        disks = self._disks(volume_id, sessions)
        if not disks:
            raise DiskMissing(f"no disk of volume {volume_id} came in {DISK_SECONDS:g} s")
        device = self._assemble(disks)
        found = self._multiple(volume_id, device)
        there = {path.portal for path in found.paths}
        missing += [
            f"{way.portal}: no disk" for way in sessions.values() if way.portal not in there
        ]
        return replace(found, missing=tuple(missing))

    def _try(self, way: Way, properties: Mapping[str, Any]) -> Session | str:
        try:
            return self.iscsi.log_in(way, properties)
        except LoginFailed as error:
            return str(error)

    def _disks(self, volume_id: str, sessions: Mapping[int, Way]) -> list[str]:
        """Those that udev has made ready: all of them, or what there is at the end of the time."""
        found: list[str] = []

        def all_there() -> bool | None:
            found[:] = self._ready(sessions)
            return len(found) == len(sessions) or None

        self._udev.wait(all_there, DISK_SECONDS, self._check)
        self._require(volume_id, found)
        return found

    def _ready(self, wanted: Mapping[int, Way]) -> list[str]:
        found = []
        for session in self._kernel.sessions():
            if session.number not in wanted:
                continue
            disk = session.disks.get(wanted[session.number].lun)
            if disk and self._kernel.serial(disk) and self._udev.is_ready(disk):
                found.append(disk)
        return found

    def _require(self, volume_id: str, disks: Iterable[str]) -> None:
        """Nothing is handed out before the disk itself says whose it is."""
        for disk in disks:
            serial = self._kernel.serial(disk)
            if serial != volume_id:
                raise WrongDisk(
                    f"/dev/{disk} says that it is {serial!r} and not volume {volume_id}; "
                    "tell whoever runs the storage host"
                )

    def _assemble(self, disks: Sequence[str]) -> str:
        wwid = self._kernel.wwid(disks[0])
        self.multipath.take(disks, wwid)

        def whole() -> str | None:
            device = self._kernel.multipath(wwid)
            if device is None or not self._udev.is_ready(device):
                return None
            return device if set(disks) <= set(self._kernel.slaves(device)) else None

        device = self._udev.wait(whole, DISK_SECONDS, self._check) or self._kernel.multipath(wwid)
        if device is None or not self._kernel.slaves(device):
            raise DiskMissing(
                f"multipathd made no device of {', '.join(disks)} in {DISK_SECONDS:g} s; "
                "is the disk in a blacklist of /etc/multipath.conf?"
            )
        return device

    # Being there

    def present(self, volume_id: str) -> LocalDisk | None:
        """The volume's disk if it is there and works, as one path or several."""
        up = [session for session in self.sessions(volume_id) if session.is_up]
        disks = [disk for session in up for disk in session.disks.values()]
        if not disks:
            return None
        self._require(volume_id, disks)
        device = self._kernel.multipath_over(disks[0])
        if device is not None:
            return self._multiple(volume_id, device)
        return self._single(volume_id, up[0], disks[0])

    def _single(self, volume_id: str, session: Session, disk: str) -> LocalDisk:
        path = LocalPath(f"/dev/{disk}", session.portal)
        wwid = self._kernel.wwid(disk)
        return LocalDisk(volume_id, f"/dev/{disk}", self._link(disk), wwid, False, (path,))

    def _multiple(self, volume_id: str, device: str) -> LocalDisk:
        slaves = self._kernel.slaves(device)
        portals = {
            disk: session.portal
            for session in self.sessions(volume_id)
            for disk in session.disks.values()
        }
        paths = tuple(LocalPath(f"/dev/{disk}", portals.get(disk, "")) for disk in slaves)
        wwid = self._kernel.dm_uuid(device).partition("-")[2]
        name = f"/dev/mapper/{self._kernel.dm_name(device)}"
        return LocalDisk(volume_id, name, self._link(device), wwid, True, paths)

    def _link(self, name: str) -> str:
        def lasting() -> str | None:
            links = self._udev.links(name)
            return next((link for link in links if link.startswith(LASTING)), None)

        return self._udev.wait(lasting, LINK_SECONDS, _never) or ""

    # Going

    def let_go(self, volume_id: str, targets: Iterable[str] = ()) -> bool:
        """Flush, remove the disk and log out; whatever of that is left to do. Says whether there
        was anything. ``targets`` are those that attachd names, whatever their disks say.

        Raises InUse, and then nothing has changed.
        """
        known = set(targets)
        sessions = [*self._kernel.sessions_of(known), *self.sessions(volume_id)]
        sessions = list({session.number: session for session in sessions}.values())
        disks = sorted({disk for session in sessions for disk in session.disks.values()})
        over = self._over(volume_id, disks)
        tops = [*over, *(disk for disk in disks if self._kernel.multipath_over(disk) is None)]
        self._refuse_if_used(volume_id, tops)
        if any(session.is_up for session in sessions):
            for device in tops:
                self._programs.run(["sync", f"/dev/{device}"], seconds=FLUSH_SECONDS)
        for device in over:
            self.multipath.flush(device)
        for wwid in {_wwid_of(volume_id), *map(self._kernel.wwid, disks)}:
            self.multipath.forget(wwid)
        self._remove(disks)
        for session in sessions:
            self.iscsi.log_out(session)
        return bool(sessions or over)

    def forget(self, volume_id: str, targets: Iterable[str] = ()) -> None:
        """Remove open-iscsi's records of it, which say that it is attached to this host."""
        for target in sorted({*targets, *self.iscsi.recorded(volume_id)}):
            self.iscsi.forget(target)

    def _over(self, volume_id: str, disks: Iterable[str]) -> list[str]:
        """The multipath device over the disks, also when its paths have all gone."""
        by_name = self._kernel.multipath(_wwid_of(volume_id))
        found = {by_name, *map(self._kernel.multipath_over, disks)}
        return sorted(device for device in found if device is not None)

    def _refuse_if_used(self, volume_id: str, devices: Sequence[str]) -> None:
        def by() -> list[str]:
            return [one for device in devices for one in users(self._kernel, device)]

        def free() -> bool | None:
            return None if by() else True

        if self._udev.wait(free, USE_SECONDS, _never):
            return
        raise InUse(f"volume {volume_id} is in use here: {'; '.join(by())}")

    def _remove(self, disks: Sequence[str]) -> None:
        for disk in disks:
            self._kernel.delete(disk)

        def gone() -> bool | None:
            return None if any(self._kernel.exists(disk) for disk in disks) else True

        if not self._udev.wait(gone, GONE_SECONDS, _never):
            raise InUse(f"the kernel does not let go of {', '.join(disks)}; repeat it")


def _wwid_of(volume_id: str) -> str:
    return WWID_PREFIX + uuid.UUID(volume_id).hex[:WWID_DIGITS]


def _never() -> None:
    """Going is also how an interruption is undone."""
