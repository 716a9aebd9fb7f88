"""LIO through configfs: the only place that touches the kernel's tree of targets.

Objects are made with the few writes they consist of: rtslib's own delete walks
every LUN of the host, and its create costs six times the writes it stands for.
What stands here afterwards reads back the same in rtslib and targetcli, which
a test shows. What is new is written without a look; what was there already is
compared value by value, and put right.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from targetd.engines import configfs, lio_start
from targetd.engines.configfs import ensure_link, ensure_value, make_folder, remove_folder, write
from targetd.engines.interface import EngineError
from targetd.failpoints import failpoint
from targetd.model import Acl, AclStatistics, Session, Target, volume_name

log = logging.getLogger(__name__)

TARGET = "/sys/kernel/config/target"
# rtslib and targetcli count host bus adapters from 0; ours start where theirs
# will not reach, so that neither side takes the other's index.
FIRST_HBA_INDEX = 100_000
HBA = re.compile(r"iblock_(\d+)")
BACKSTORE = re.compile(r"volume-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
TPG_ATTRIBUTES = {
    "authentication": "1",
    "generate_node_acls": "0",
    # With 1, the kernel's default, a stranger's discovery lists every target.
    "demo_mode_discovery": "0",
}
# Written to unset a credential (__iscsi_nacl_auth_##name##_store in Linux).
UNSET = "NULL"
SESSION_END_SECONDS = 10.0
MEBIBYTE = 1 << 20


class Lio:
    """Targets, ACLs and backstores as the kernel has them."""

    def __init__(self, root: str = TARGET) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._next_hba = FIRST_HBA_INDEX
        # By volume id; only those that are ours by their index.
        self._hbas: dict[str, str] = {}

    def start(self) -> None:
        lio_start.prepare(self._root)
        self._hbas = {}
        for name in configfs.folders(f"{self._root}/core", "iblock_"):
            found = HBA.fullmatch(name)
            if found and int(found[1]) >= FIRST_HBA_INDEX:
                self._next_hba = max(self._next_hba, int(found[1]) + 1)
                self._learn_hba(f"{self._root}/core/{name}")

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
            differed: list[str] = []
            backstore = self._ensure_backstore(target, differed)
            tpg = self._tpg(target.iqn)
            make_folder(f"{self._root}/iscsi/{target.iqn}")
            if make_folder(tpg):
                differed.append("target")
                _fill_tpg(tpg, target, backstore)
            else:
                _repair_tpg(tpg, target, backstore, differed)
            return differed

    def remove_target(self, iqn: str, volume_id: str) -> None:
        with _refusals(f"removal of the export of {volume_id}"):
            tpg = self._tpg(iqn)
            for initiator in configfs.folders(f"{tpg}/acls"):
                self.remove_acl(iqn, initiator)
            if os.path.isdir(tpg):
                _empty_tpg(tpg)
                failpoint("lio-target-half-removed")
                remove_folder(tpg)
            remove_folder(f"{self._root}/iscsi/{iqn}")
            self._remove_backstore(volume_id)

    # Backstores

    def _ensure_backstore(self, target: Target, differed: list[str]) -> str:
        hba = self._hbas.get(target.volume_id)
        if hba is not None:
            backstore = f"{hba}/{volume_name(target.volume_id)}"
            if _backstore_is_right(backstore, target):
                return backstore
            differed.append("backstore")
            # Not while a LUN refers to it.
            _unlink_lun(self._tpg(target.iqn))
            self._remove_backstore(target.volume_id)
        return self._make_backstore(target)

    def _make_backstore(self, target: Target) -> str:
        hba = self._new_hba()
        failpoint("lio-hba-made")
        backstore = f"{hba}/{volume_name(target.volume_id)}"
        os.mkdir(backstore)
        with self._lock:
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
            _pass_discards(backstore)
        failpoint("lio-backstore-made")
        return backstore

    def _new_hba(self) -> str:
        while True:
            with self._lock:
                index = self._next_hba
                self._next_hba += 1
            hba = f"{self._root}/core/iblock_{index}"
            if make_folder(hba):
                return hba

    def _remove_backstore(self, volume_id: str) -> None:
        hba = self._hbas.get(volume_id)
        if hba is None:
            return
        remove_folder(f"{hba}/{volume_name(volume_id)}")
        remove_folder(hba)
        with self._lock:
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
                _fill_acl(folder, lun, acl)
                return [f"acl {acl.initiator}"]
            return [f"acl {acl.initiator}: {what}" for what in _repair_acl(folder, lun, acl)]

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        with _refusals(f"removal of the access of {initiator}"):
            folder = self._acl(iqn, initiator)
            live = self.session(iqn, initiator) is not None
            # As we make it; all else that may be there is looked for only then.
            with suppress(OSError):
                os.unlink(f"{folder}/lun_0/volume")
                os.rmdir(f"{folder}/lun_0")
            failpoint("lio-acl-unmapped")
            # Closes every session of the initiator and waits for their end
            # (core_tpg_del_initiator_node_acl in Linux).
            try:
                remove_folder(folder)
            except OSError:
                _unmap_all(folder)
                remove_folder(folder)
            self._see_sessions_end(iqn, initiator)
            return live

    def _see_sessions_end(self, iqn: str, initiator: str) -> None:
        """See with our own eyes what the kernel promised. Raises EngineError if not so."""
        end = time.monotonic() + SESSION_END_SECONDS
        while os.path.exists(self._acl(iqn, initiator)) or self._has_unexplained_session(iqn):
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
        try:
            return int(
                configfs.read(f"{self._root}/iscsi/{iqn}/fabric_statistics/iscsi_instance/sessions")
            )
        except FileNotFoundError:
            return 0

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


def _backstore_is_right(backstore: str, target: Target) -> bool:
    try:
        serial = configfs.read(f"{backstore}/wwn/vpd_unit_serial").rpartition(": ")[2]
        return (
            configfs.read(f"{backstore}/enable") == "1"
            and configfs.read(f"{backstore}/udev_path") == target.device_path
            and serial == target.volume_id
            and not ensure_value(f"{backstore}/attrib/emulate_3pc", "0")
        )
    except FileNotFoundError:
        return False


def _pass_discards(backstore: str) -> None:
    for name in ("emulate_tpu", "emulate_tpws"):
        try:
            write(f"{backstore}/attrib/{name}", "1")
        except OSError as error:
            # The kernel refuses where the device below cannot discard.
            log.info("%s stays off for %s: %s", name, backstore, error)


def _fill_tpg(tpg: str, target: Target, backstore: str) -> None:
    for name, value in TPG_ATTRIBUTES.items():
        write(f"{tpg}/attrib/{name}", value)
    os.mkdir(f"{tpg}/lun/lun_0")
    os.symlink(backstore, f"{tpg}/lun/lun_0/volume")
    for portal in target.portals:
        os.mkdir(f"{tpg}/np/{portal}")
    failpoint("lio-target-not-enabled")
    write(f"{tpg}/enable", "1")


def _repair_tpg(tpg: str, target: Target, backstore: str, differed: list[str]) -> None:
    for name, value in TPG_ATTRIBUTES.items():
        if ensure_value(f"{tpg}/attrib/{name}", value):
            differed.append(f"attrib/{name}")
    made = make_folder(f"{tpg}/lun/lun_0")
    if ensure_link(f"{tpg}/lun/lun_0", "volume", backstore) or made:
        differed.append("lun/lun_0")
    found = set(configfs.folders(f"{tpg}/np"))
    for portal in sorted(set(target.portals) - found):
        os.mkdir(f"{tpg}/np/{portal}")
        differed.append(f"portal {portal}")
    for portal in sorted(found - set(target.portals)):
        os.rmdir(f"{tpg}/np/{portal}")
        differed.append(f"portal {portal}")
    if ensure_value(f"{tpg}/enable", "1"):
        differed.append("enable")


def _empty_tpg(tpg: str) -> None:
    write(f"{tpg}/enable", "0")
    for lun in configfs.folders(f"{tpg}/lun", "lun_"):
        configfs.remove_links(f"{tpg}/lun/{lun}")
        remove_folder(f"{tpg}/lun/{lun}")
    for portal in configfs.folders(f"{tpg}/np"):
        remove_folder(f"{tpg}/np/{portal}")


def _unlink_lun(tpg: str) -> None:
    for initiator in configfs.folders(f"{tpg}/acls"):
        _unmap_all(f"{tpg}/acls/{initiator}")
    configfs.remove_links(f"{tpg}/lun/lun_0")


def _unmap_all(acl: str) -> None:
    for mapped in configfs.folders(acl, "lun_"):
        configfs.remove_links(f"{acl}/{mapped}")
        remove_folder(f"{acl}/{mapped}")


def _fill_acl(folder: str, lun: str, acl: Acl) -> None:
    mapped = f"{folder}/lun_0"
    os.mkdir(mapped)
    os.symlink(lun, f"{mapped}/volume")
    failpoint("lio-acl-without-secret")
    if acl.read_only:
        write(f"{mapped}/write_protect", "1")
    # Last, so that nobody gets in before the rest is right: an ACL without
    # credentials admits nobody.
    for name, value in _credentials(acl):
        if value != UNSET:
            write(f"{folder}/auth/{name}", value)


def _repair_acl(folder: str, lun: str, acl: Acl) -> list[str]:
    differed, mapped = [], f"{folder}/lun_0"
    with suppress(FileNotFoundError):
        # 0 here would admit this initiator without any CHAP.
        if ensure_value(f"{folder}/attrib/authentication", "-1"):
            differed.append("attrib/authentication")
    for other in configfs.folders(folder, "lun_"):
        if other != "lun_0":
            configfs.remove_links(f"{folder}/{other}")
            remove_folder(f"{folder}/{other}")
            differed.append(other)
    made = make_folder(mapped)
    if ensure_link(mapped, "volume", lun) or made:
        differed.append("lun_0")
    if ensure_value(f"{mapped}/write_protect", "1" if acl.read_only else "0"):
        differed.append("write_protect")
    for name, value in _credentials(acl):
        # The kernel adds one line end; another one would be part of the secret.
        shown = configfs.read_exactly(f"{folder}/auth/{name}").removesuffix("\n")
        if shown != (value if value != UNSET else "") and (value, shown) != (UNSET, UNSET):
            write(f"{folder}/auth/{name}", value)
            differed.append(f"auth/{name}")
    return differed


def _credentials(acl: Acl) -> list[tuple[str, str]]:
    credentials = acl.credentials
    return [
        ("userid", credentials.username),
        ("password", credentials.password),
        ("userid_mutual", credentials.mutual_username or UNSET),
        ("password_mutual", credentials.mutual_password or UNSET),
    ]


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
