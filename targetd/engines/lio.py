"""LIO through configfs: the only place that touches the kernel's tree of targets.

Objects are made with the few writes they consist of: rtslib's own delete walks
every LUN of the host, and its create costs six times the writes it stands for.
What stands here afterwards reads back the same in rtslib and targetcli, which
a test shows. What is new is written without a look; what was there already is
compared value by value, and put right.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from targetd.engines import configfs, lio_portals, lio_start
from targetd.engines.configfs import make_folder, remove_folder, write
from targetd.engines.interface import NEW_TARGET, REFUSED_LOGINS, EngineError
from targetd.engines.lio_objects import (
    backstore_is_right,
    empty_tpg,
    fill_acl,
    fill_tpg,
    pass_discards,
    repair_acl,
    repair_tpg,
    unlink_lun,
    unmap_all,
)
from targetd.failpoints import failpoint
from targetd.model import Acl, AclStatistics, Session, Target, volume_name

log = logging.getLogger(__name__)

TARGET = "/sys/kernel/config/target"
# rtslib and targetcli count host bus adapters from 0; ours start where theirs
# will not reach, so that neither side takes the other's index.
FIRST_HBA_INDEX = 100_000
HBA = re.compile(r"iblock_(\d+)")
BACKSTORE = re.compile(r"volume-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
SESSION_END_SECONDS = 10.0
MEBIBYTE = 1 << 20
# In the order of REFUSED_LOGINS.
REFUSED_LOGIN_FILES = (
    "authenticate_fails",
    "authorize_fails",
    "negotiate_fails",
    "redirects",
    "other_fails",
)


class Lio:
    """Targets, ACLs and backstores as the kernel has them."""

    def __init__(self, root: str = TARGET) -> None:
        self._root = root
        # This and the next are used by many threads, in single steps of the interpreter.
        self._hba_numbers = itertools.count(FIRST_HBA_INDEX)
        # By volume id; only those that are ours by their index.
        self._hbas: dict[str, str] = {}
        # The same for all targets.
        self._portals: tuple[str, ...] = ()

    def start(self) -> None:
        lio_start.prepare(self._root)
        self._hbas = {}
        numbers = [FIRST_HBA_INDEX - 1]
        for name in configfs.folders(f"{self._root}/core", "iblock_"):
            found = HBA.fullmatch(name)
            if found and int(found[1]) >= FIRST_HBA_INDEX:
                numbers.append(int(found[1]))
                self._learn_hba(f"{self._root}/core/{name}")
        self._hba_numbers = itertools.count(max(numbers) + 1)

    def _learn_hba(self, hba: str) -> None:
        names = configfs.folders(hba)
        for name in names:
            if ours := BACKSTORE.fullmatch(name):
                self._hbas[ours[1]] = hba
        if not names:
            # From a daemon that was killed before it made the backstore.
            remove_folder(hba)

    def _tpg(self, iqn: str) -> str:
        return f"{self._root}/iscsi/{iqn}/tpgt_1"

    def _acl(self, iqn: str, initiator: str) -> str:
        return f"{self._root}/iscsi/{iqn}/tpgt_1/acls/{initiator}"

    # Targets

    def targets(self) -> Iterable[str]:
        return [name for name in configfs.folders(f"{self._root}/iscsi") if ":" in name]

    def ensure_target(self, target: Target) -> Sequence[str]:
        with _refusals(f"export of {target.volume_id}"):
            self._portals = target.portals
            differed: list[str] = []
            backstore = self._ensure_backstore(target, differed)
            tpg = self._tpg(target.iqn)
            make_folder(f"{self._root}/iscsi/{target.iqn}")
            if make_folder(tpg):
                differed.append(NEW_TARGET)
                fill_tpg(tpg, target, backstore)
            else:
                repair_tpg(tpg, target, backstore, differed)
            return differed

    def remove_target(self, iqn: str, volume_id: str) -> None:
        with _refusals(f"removal of the export of {volume_id}"):
            tpg = self._tpg(iqn)
            if not self._removed_as_made(tpg):
                self._remove_tpg(iqn, tpg)
            remove_folder(f"{self._root}/iscsi/{iqn}")
            self._remove_backstore(volume_id)

    def _removed_as_made(self, tpg: str) -> bool:
        """Take away what we make, without a look at what is there; False when there is more.

        Nobody has access by then: the kernel refuses to remove what has ACLs.
        """
        try:
            configfs.unlink(f"{tpg}/lun/lun_0/volume")
            configfs.rmdir(f"{tpg}/lun/lun_0")
            lio_portals.remove(tpg, self._portals)
            failpoint("lio-target-half-removed")
            configfs.rmdir(tpg)
        except OSError:
            return False
        return True

    def _remove_tpg(self, iqn: str, tpg: str) -> None:
        for initiator in configfs.folders(f"{tpg}/acls"):
            self.remove_acl(iqn, initiator)
        if os.path.isdir(tpg):
            empty_tpg(tpg)
            remove_folder(tpg)

    # Backstores

    def _ensure_backstore(self, target: Target, differed: list[str]) -> str:
        hba = self._hbas.get(target.volume_id)
        if hba is not None:
            backstore = f"{hba}/{volume_name(target.volume_id)}"
            if backstore_is_right(backstore, target):
                return backstore
            differed.append("backstore")
            # Not while a LUN refers to it.
            unlink_lun(self._tpg(target.iqn))
            self._remove_backstore(target.volume_id)
        return self._make_backstore(target)

    def _make_backstore(self, target: Target) -> str:
        hba = self._new_hba()
        failpoint("lio-hba-made")
        backstore = f"{hba}/{volume_name(target.volume_id)}"
        configfs.mkdir(backstore)
        self._hbas[target.volume_id] = hba
        write(f"{backstore}/control", f"udev_path={target.device_path}")
        write(f"{backstore}/udev_path", target.device_path)
        failpoint("lio-backstore-not-enabled")
        write(f"{backstore}/enable", "1")
        # Once a LUN refers to the backstore the kernel refuses a new serial.
        write(f"{backstore}/wwn/vpd_unit_serial", target.volume_id)
        # XCOPY lets one initiator name another's LUN (CVE-2020-28374).
        write(f"{backstore}/attrib/emulate_3pc", "0")
        if target.thin:
            pass_discards(backstore)
        failpoint("lio-backstore-made")
        return backstore

    def _new_hba(self) -> str:
        while True:
            hba = f"{self._root}/core/iblock_{next(self._hba_numbers)}"
            if make_folder(hba):
                return hba

    def _remove_backstore(self, volume_id: str) -> None:
        hba = self._hbas.get(volume_id)
        if hba is None:
            return
        remove_folder(f"{hba}/{volume_name(volume_id)}")
        remove_folder(hba)
        del self._hbas[volume_id]

    def forget_stray_backstores(self, wanted: Iterable[str]) -> list[str]:
        removed = []
        for volume_id in set(self._hbas) - set(wanted):
            try:
                self._remove_backstore(volume_id)
            except OSError as error:
                # Exported by somebody else's target: then it is not a stray of ours.
                log.warning("the backstore of %s is in use elsewhere: %s", volume_id, error)
                continue
            removed.append(volume_id)
        return removed

    # ACLs

    def acls(self, iqn: str) -> list[str]:
        return configfs.folders(f"{self._tpg(iqn)}/acls")

    def ensure_acl(self, iqn: str, acl: Acl) -> Sequence[str]:
        with _refusals(f"access of {acl.initiator}"):
            folder, lun = self._acl(iqn, acl.initiator), f"{self._tpg(iqn)}/lun/lun_0"
            if make_folder(folder):
                fill_acl(folder, lun, acl)
                return [f"acl {acl.initiator}"]
            return [f"acl {acl.initiator}: {what}" for what in repair_acl(folder, lun, acl)]

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        with _refusals(f"removal of the access of {initiator}"):
            folder = self._acl(iqn, initiator)
            live = self.session(iqn, initiator) is not None
            # As we make it; all else that may be there is looked for only then.
            with suppress(OSError):
                configfs.unlink(f"{folder}/lun_0/volume")
                configfs.rmdir(f"{folder}/lun_0")
            failpoint("lio-acl-unmapped")
            # Closes every session of the initiator and waits for their end
            # (core_tpg_del_initiator_node_acl in Linux).
            try:
                remove_folder(folder, waits=live)
            except OSError:
                unmap_all(folder)
                remove_folder(folder, waits=live)
            self._see_sessions_end(iqn, initiator)
            return live

    def _see_sessions_end(self, iqn: str, initiator: str) -> None:
        """See with our own eyes what the kernel promised. Raises EngineError if not so."""
        end = 0.0
        while self._has_unexplained_session(iqn):
            end = end or time.monotonic() + SESSION_END_SECONDS
            if time.monotonic() > end:
                raise EngineError(f"a session on {iqn} outlives the ACL of {initiator}")
            time.sleep(0.02)

    def _has_unexplained_session(self, iqn: str) -> bool:
        if self.session_count(iqn) == 0:
            return False
        return not any(self.session(iqn, other) for other in self.acls(iqn))

    # Sessions

    def has_acl(self, iqn: str, initiator: str) -> bool:
        return os.path.exists(self._acl(iqn, initiator))

    def session(self, iqn: str, initiator: str) -> Session | None:
        try:
            info = configfs.read(f"{self._acl(iqn, initiator)}/info")
        except FileNotFoundError:
            return None
        return parse_session(initiator, info)

    def session_count(self, iqn: str) -> int:
        return self._count(f"{iqn}/fabric_statistics/iscsi_instance/sessions")

    def statistics(self, iqn: str, initiator: str) -> AclStatistics:
        folder = f"{self._acl(iqn, initiator)}/lun_0/statistics/scsi_auth_intr"
        try:
            return AclStatistics(
                commands=int(configfs.read(f"{folder}/num_cmds")),
                read_bytes=int(configfs.read(f"{folder}/read_mbytes")) * MEBIBYTE,
                written_bytes=int(configfs.read(f"{folder}/write_mbytes")) * MEBIBYTE,
            )
        except FileNotFoundError:
            return AclStatistics()

    def refused_login_count(self, iqn: str) -> int:
        return self._count(f"{iqn}/fabric_statistics/iscsi_tgt_attr/login_fails")

    def refused_logins(self, iqn: str) -> Mapping[str, int]:
        folder = f"{iqn}/fabric_statistics/iscsi_login_stats"
        return {
            kind: self._count(f"{folder}/{name}")
            for kind, name in zip(REFUSED_LOGINS, REFUSED_LOGIN_FILES, strict=True)
        }

    def _count(self, place: str) -> int:
        """What a file of a target says; 0 where the target has gone."""
        try:
            return int(configfs.read(f"{self._root}/iscsi/{place}"))
        except FileNotFoundError:
            return 0


def parse_session(initiator: str, info: str) -> Session | None:
    """Read an ACL's ``info`` file, which shows the initiator's newest session."""
    session_id = re.search(r"LIO Session ID:\s*(\d+)", info)
    if session_id is None:
        return None
    state = re.search(r"Session State:\s*TARG_SESS_STATE_(\w+)", info)
    addresses = re.findall(r"Address\s+(\S+)\s+TCP", info)
    return Session(initiator, session_id[1], state[1] if state else "", tuple(addresses))


class _refusals:
    """Turns the kernel's refusals into EngineError with what was being done."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise EngineError(f"{self._what}: {error}") from error
