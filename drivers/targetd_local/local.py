"""A volume of attachd as a disk of this host, and away again."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from targetd_local import connector
from targetd_local.attachd import Attachd, Attachment
from targetd_local.disks import Disks, LocalDisk
from targetd_local.errors import (
    AttachdError,
    Interrupted,
    Invalid,
    LocalError,
    NotRoot,
    Refused,
    Unreachable,
)
from targetd_local.iscsi import targets_of, ways
from targetd_local.kernel import Kernel
from targetd_local.lock import locked
from targetd_local.programs import Programs
from targetd_local.udev import Udev
from targetd_local.undo import Undo

READ_WRITE, READ_ONLY = "rw", "ro"
# Of root alone: who could make a lock could hold it for ever.
LOCKS = "run/targetd-local"
# How long attachd is asked again, when another operation is at work on the volume, or when an
# attachment may yet come of which there was no answer.
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 1.0
TRY_AGAIN = (409, 503, 504)


@dataclass(frozen=True)
class Attached:
    attachment_id: str
    mode: str
    disk: LocalDisk


@dataclass(frozen=True)
class Detached:
    """``was_here``: there was a disk. No attachment and no disk is no error."""

    attachment_ids: tuple[str, ...]
    was_here: bool


@dataclass(frozen=True)
class Found:
    """The attachments of a volume on this host."""

    # Of this program: not of any instance.
    own: list[Attachment] = field(default_factory=list)
    others: list[Attachment] = field(default_factory=list)


class LocalVolumes:
    """For root, and for several threads and processes: one volume is worked on by one at a time.

    Every call raises LocalError, and OSError for files that cannot be read or written.

    ``stop``: when it is set, an attachment that is under way is undone and ends with Interrupted.
    """

    def __init__(
        self,
        attachd: Attachd,
        *,
        stop: threading.Event | None = None,
        programs: Programs | None = None,
        kernel: Kernel | None = None,
        udev: Udev | None = None,
    ) -> None:
        self._attachd = attachd
        self._stop = stop or threading.Event()
        self._programs = programs or Programs()
        self._kernel = kernel or Kernel()
        self._disks = Disks(self._programs, self._kernel, udev or Udev(), self._check)

    def connector(
        self, *, multipath: bool = False, mountpoint: str | None = None
    ) -> dict[str, Any]:
        """What attachd is told of this host.

        Raises NotPossible when it has no initiator name, or no multipathd where that is wanted.
        """
        if multipath:
            self._disks.multipath.require()
        return connector.gather(
            self._disks.iscsi,
            multipath=multipath,
            mountpoint=mountpoint,
            towards=self._attachd.address.host,
        )

    def attach(
        self,
        volume_id: str,
        *,
        mode: str = READ_WRITE,
        multipath: bool = False,
        mountpoint: str | None = None,
    ) -> Attached:
        """The volume as a disk. The same again gives the same disk; after a failure nothing is
        left of it, but for what the error's ``left`` names.

        ``mountpoint`` is for the record only: nothing is mounted.
        """
        volume_id = self._ready_for(volume_id)
        told = self.connector(multipath=multipath, mountpoint=mountpoint)
        with self._locked(volume_id):
            found = self._find(volume_id, told["host"])
            if found.others:
                raise Refused(_theirs(volume_id, found.others))
            attached = next((one for one in found.own if one.is_attached), None)
            if attached is not None:
                return self._again(attached, told, mode)
            self._clear(volume_id, found.own)
            return self._new(volume_id, told, mode)

    def _new(self, volume_id: str, told: dict[str, Any], mode: str) -> Attached:
        self._check()
        host, targets = told["host"], set[str]()
        with Undo() as undo:
            undo.before("records", lambda: self._disks.forget(volume_id, targets))
            undo.before("attachment", lambda: self._withdraw(volume_id, host, undo.error))
            attachment = self._attachd.create(volume_id, told, mode)
            targets |= targets_of(attachment.connection_info)
            disk = self._connect(undo, attachment, told)
            self._check()
            self._attachd.complete(attachment.id)
        return Attached(attachment.id, mode, disk)

    def _connect(self, undo: Undo, attachment: Attachment, told: dict[str, Any]) -> LocalDisk:
        volume_id, info = attachment.volume_id, attachment.connection_info
        targets = targets_of(info)
        undo.before("disk", lambda: self._disks.let_go(volume_id, targets))
        return self._disks.connect(volume_id, info, told["multipath"])

    def _again(self, attachment: Attachment, told: dict[str, Any], mode: str) -> Attached:
        """The disk of an attachment that was completed before; after a boot it has to come anew."""
        volume_id = attachment.volume_id
        if attachment.mode and attachment.mode != mode:
            raise Refused(
                f"volume {volume_id} is attached here with mode {attachment.mode}, not {mode}; "
                "detach it first"
            )
        disk = self._disks.present(volume_id)
        if disk is None:
            self._refuse_unknown(attachment, told["host"])
            self._disks.let_go(volume_id)
            with Undo() as undo:
                disk = self._connect(undo, self._attachd.update(attachment.id, told), told)
                self._check()
                self._attachd.complete(attachment.id)
        elif told["multipath"]:
            if not disk.multipath:
                raise Refused(f"volume {volume_id} is attached here over one path; detach it first")
            disk = replace(disk, missing=_missing(disk, attachment))
        return Attached(attachment.id, mode, disk)

    def _clear(self, volume_id: str, leftovers: list[Attachment]) -> None:
        """Remove what an attach that was killed has left: nobody was given its disk."""
        if not leftovers:
            self._refuse_strangers(volume_id)
        targets = _targets(leftovers)
        self._disks.let_go(volume_id, targets)
        self._delete_all(leftovers)
        self._disks.forget(volume_id, targets)

    def _refuse_strangers(self, volume_id: str) -> None:
        """A session that works, of which attachd knows nothing, is not ours to end."""
        for session in self._disks.sessions(volume_id):
            if session.is_up:
                raise Refused(
                    f"this host is logged in to {session.target} at {session.portal}, and attachd "
                    "has no attachment of it here; if it is not needed: "
                    f"iscsiadm -m session -r {session.number} --logout"
                )

    def detach(self, volume_id: str) -> Detached:
        """Take the disk away, then the attachment. The same again finishes what was begun.

        Raises InUse while something has the disk in use; then nothing has changed.
        """
        volume_id = self._ready_for(volume_id)
        host = connector.host_name()
        with self._locked(volume_id):
            found = self._find(volume_id, host)
            if found.others and not found.own:
                raise Refused(_theirs(volume_id, found.others))
            for one in found.own:
                if one.is_attached:
                    self._refuse_unknown(one, host)
            was_here = self._take(volume_id, found)
        return Detached(tuple(one.id for one in found.own), was_here)

    def _take(self, volume_id: str, found: Found) -> bool:
        """Says whether there was a disk to take."""
        if found.others:
            # Both come by one session, and it goes with the other one.
            self._delete_all(found.own)
            return False
        if not found.own:
            self._refuse_strangers(volume_id)
        targets = _targets(found.own)
        was_here = self._disks.let_go(volume_id, targets)
        self._delete_all(found.own)
        # Last, so that whoever finishes this knows that it was this host's.
        self._disks.forget(volume_id, targets)
        return was_here

    def _refuse_unknown(self, attachment: Attachment, host: str) -> None:
        """Hosts should have names of their own; where they have not, nobody's disk goes for it."""
        if not self._disks.is_known(attachment.volume_id):
            raise Refused(
                f"volume {attachment.volume_id} is attached to a host named {host}, and this one "
                "knows nothing of it; is there another of that name? Otherwise delete attachment "
                f"{attachment.id} at attachd"
            )

    def _ready_for(self, volume_id: str) -> str:
        if not self._programs.are_roots():
            raise NotRoot("disks come and go by root; run it as root")
        try:
            return str(uuid.UUID(volume_id))
        except ValueError:
            raise Invalid(f"{volume_id!r} is not the id of a volume, which is a UUID") from None

    @contextmanager
    def _locked(self, volume_id: str) -> Iterator[None]:
        folder = self._kernel.root / LOCKS
        folder.mkdir(mode=0o700, exist_ok=True)
        with locked(folder / volume_id, self._check):
            yield

    def _find(self, volume_id: str, host: str) -> Found:
        found = Found()
        for one in self._attachd.attachments(volume_id, host):
            (found.others if one.instance else found.own).append(one)
        return found

    def _withdraw(self, volume_id: str, host: str, why: BaseException | None) -> None:
        """Delete the attachment; one of which there was no answer may yet come."""
        lost = why.sent if isinstance(why, Unreachable) else not isinstance(why, LocalError)
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = self._find(volume_id, host)
            self._delete_all(found.own)
            if found.own or not lost or time.monotonic() > end:
                return
            time.sleep(PAUSE_SECONDS)

    def _delete_all(self, attachments: list[Attachment]) -> None:
        for one in attachments:
            self._delete(one.id)

    def _delete(self, attachment_id: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._attachd.delete(attachment_id)
            except LocalError as error:
                again = isinstance(error, Unreachable) or _is_passing(error)
                if not again or time.monotonic() > end:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("interrupted")


def _missing(disk: LocalDisk, attachment: Attachment) -> tuple[str, ...]:
    there = {path.portal for path in disk.paths}
    portals = [way.portal for way in ways(attachment.connection_info)]
    again = "no path; it comes with the next attach after a detach"
    return tuple(f"{portal}: {again}" for portal in portals if portal not in there)


def _targets(attachments: list[Attachment]) -> set[str]:
    return {target for one in attachments for target in targets_of(one.connection_info)}


def _is_passing(error: LocalError) -> bool:
    return isinstance(error, AttachdError) and error.code in TRY_AGAIN


def _theirs(volume_id: str, others: list[Attachment]) -> str:
    listed = ", ".join(f"{one.id} of instance {one.instance}" for one in others)
    return f"volume {volume_id} is attached to this host by somebody else: {listed}"
