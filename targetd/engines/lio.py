"""LIO through configfs: the only module that imports rtslib or touches the kernel's tree.

rtslib loads the modules and lays the ground at start. Objects are then made
with the few writes they consist of: rtslib's own delete walks every LUN of the
host, and its create costs six times the writes it stands for. What stands here
afterwards reads back the same in rtslib and targetcli, which a test shows.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from targetd.engines.interface import EngineError
from targetd.errors import StartError
from targetd.failpoints import failpoint
from targetd.model import Acl, AclStatistics, Session, Target, volume_name

log = logging.getLogger(__name__)

TARGET = Path("/sys/kernel/config/target")
# rtslib and targetcli count host bus adapters from 0; ours start where theirs
# will not reach, so that neither side takes the other's index.
FIRST_HBA_INDEX = 100_000
OUR_BACKSTORE = re.compile(r"volume-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
TPG_ATTRIBUTES = {
    "authentication": "1",
    "generate_node_acls": "0",
    # With 1, the kernel's default, a stranger's discovery lists every target.
    "demo_mode_discovery": "0",
}
SESSION_END_SECONDS = 10.0
MEBIBYTE = 1 << 20


class Lio:
    """Targets, ACLs and backstores as the kernel has them."""

    def __init__(self, root: Path = TARGET) -> None:
        self._root = root
        self._next_hba = FIRST_HBA_INDEX
        self._hbas: dict[str, Path] = {}

    def start(self) -> None:
        self._prepare_kernel()
        if not (self._root / "iscsi").is_dir():
            raise StartError(
                f"{self._root}/iscsi is not there; load the module: modprobe iscsi_target_mod"
            )
        self._hbas = {}
        for hba in self._core().glob("iblock_*"):
            index = int(hba.name.removeprefix("iblock_"))
            names = _folders(hba)
            self._hbas.update(dict.fromkeys(names, hba))
            if not names and index >= FIRST_HBA_INDEX:
                # Ours, from a daemon that was killed before it made the backstore.
                _remove_folder(hba)
                continue
            self._next_hba = max(self._next_hba, index + 1)

    def _prepare_kernel(self) -> None:
        """Let rtslib load the modules, mount configfs and set the data root."""
        # Reservations that outlive a reboot are kept below the data root, and
        # the kernel takes a new one only before the first backstore.
        Path("/etc/target").mkdir(mode=0o700, exist_ok=True)
        import rtslib_fb

        try:
            rtslib_fb.RTSRoot()
            rtslib_fb.FabricModule("iscsi")
        except (OSError, rtslib_fb.RTSLibError) as error:
            raise StartError(
                f"LIO cannot be used: {error}; it needs root and the modules target_core_mod, "
                "target_core_iblock and iscsi_target_mod"
            ) from error
        (self._root / "iscsi").mkdir(exist_ok=True)

    def _core(self) -> Path:
        return self._root / "core"

    def _tpg(self, iqn: str) -> Path:
        return self._root / "iscsi" / iqn / "tpgt_1"

    def _acl(self, iqn: str, initiator: str) -> Path:
        return self._tpg(iqn) / "acls" / initiator

    # Targets

    def targets(self) -> Iterable[str]:
        return _folders(self._root / "iscsi", skip=("discovery_auth",))

    def ensure_target(self, target: Target) -> bool:
        with _refusals(f"export of {target.volume_id}"):
            changed = self._ensure_backstore(target)
            if changed:
                failpoint("lio-backstore-made")
            tpg = self._tpg(target.iqn)
            changed |= _ensure_folder(tpg.parent) | _ensure_folder(tpg)
            for name, value in TPG_ATTRIBUTES.items():
                changed |= _ensure_value(tpg / "attrib" / name, value)
            changed |= self._ensure_lun(tpg, target)
            for portal in target.portals:
                changed |= _ensure_folder(tpg / "np" / portal)
            if changed:
                failpoint("lio-target-not-enabled")
            return changed | _ensure_value(tpg / "enable", "1")

    def _ensure_lun(self, tpg: Path, target: Target) -> bool:
        lun = tpg / "lun" / "lun_0"
        changed = _ensure_folder(lun)
        backstore = self._backstore(target.volume_id)
        links = _links(lun)
        if any(os.path.realpath(lun / link) == os.path.realpath(backstore) for link in links):
            return changed
        for link in links:
            (lun / link).unlink()
        (lun / "volume").symlink_to(backstore)
        return True

    def remove_target(self, iqn: str, volume_id: str) -> None:
        with _refusals(f"removal of the export of {volume_id}"):
            for initiator in self.acls(iqn):
                self.remove_acl(iqn, initiator)
            tpg = self._tpg(iqn)
            if tpg.is_dir():
                _write(tpg / "enable", "0")
                for link in _links(tpg / "lun" / "lun_0"):
                    (tpg / "lun" / "lun_0" / link).unlink()
                _remove_folder(tpg / "lun" / "lun_0")
                for portal in _folders(tpg / "np"):
                    _remove_folder(tpg / "np" / portal)
                failpoint("lio-target-half-removed")
                _remove_folder(tpg)
            _remove_folder(tpg.parent)
            self._remove_backstore(volume_id)

    # Backstores

    def _backstore(self, volume_id: str) -> Path:
        name = volume_name(volume_id)
        return self._hbas[name] / name

    def _ensure_backstore(self, target: Target) -> bool:
        name = volume_name(target.volume_id)
        if name in self._hbas:
            if self._backstore_is_right(self._hbas[name] / name, target):
                return False
            self._remove_backstore(target.volume_id)
        hba = self._new_hba()
        failpoint("lio-hba-made")
        backstore = hba / name
        self._hbas[name] = hba
        backstore.mkdir()
        _write(backstore / "control", f"udev_path={target.device_path}")
        _write(backstore / "udev_path", target.device_path)
        failpoint("lio-backstore-not-enabled")
        _write(backstore / "enable", "1")
        # Once a LUN refers to the backstore the kernel refuses a new serial.
        _write(backstore / "wwn" / "vpd_unit_serial", target.volume_id)
        # XCOPY lets one initiator name another's LUN (CVE-2020-28374).
        _write(backstore / "attrib" / "emulate_3pc", "0")
        if target.thin:
            self._pass_discards(backstore)
        return True

    def _backstore_is_right(self, backstore: Path, target: Target) -> bool:
        try:
            serial = _read(backstore / "wwn" / "vpd_unit_serial").rpartition(": ")[2]
            return (
                _read(backstore / "enable") == "1"
                and _read(backstore / "udev_path") == target.device_path
                and serial == target.volume_id
            )
        except FileNotFoundError:
            return False

    def _pass_discards(self, backstore: Path) -> None:
        for name in ("emulate_tpu", "emulate_tpws"):
            try:
                _write(backstore / "attrib" / name, "1")
            except OSError as error:
                # The kernel refuses where the device below cannot discard.
                log.info("%s stays off for %s: %s", name, backstore.name, error)

    def _new_hba(self) -> Path:
        while True:
            hba = self._core() / f"iblock_{self._next_hba}"
            self._next_hba += 1
            with suppress(FileExistsError):
                hba.mkdir()
                return hba

    def _remove_backstore(self, volume_id: str) -> None:
        hba = self._hbas.get(volume_name(volume_id))
        if hba is None:
            return
        _remove_folder(hba / volume_name(volume_id))
        _remove_folder(hba)
        del self._hbas[volume_name(volume_id)]

    def forget_stray_backstores(self, wanted: Iterable[str]) -> list[str]:
        keep = set(wanted)
        removed = []
        for name in list(self._hbas):
            ours = OUR_BACKSTORE.fullmatch(name)
            if ours is None or ours[1] in keep:
                continue
            try:
                self._remove_backstore(ours[1])
            except OSError as error:
                # Exported by somebody else's target: then it is not a stray of ours.
                log.warning("backstore %s is in use elsewhere and stays: %s", name, error)
                continue
            removed.append(ours[1])
        return removed

    # ACLs

    def acls(self, iqn: str) -> list[str]:
        return _folders(self._tpg(iqn) / "acls")

    def has_acl(self, iqn: str, initiator: str) -> bool:
        return self._acl(iqn, initiator).exists()

    def ensure_acl(self, iqn: str, acl: Acl) -> None:
        with _refusals(f"access of {acl.initiator}"):
            folder = self._acl(iqn, acl.initiator)
            new = _ensure_folder(folder)
            with suppress(FileNotFoundError):
                # 0 here would admit this initiator without any CHAP.
                _ensure_value(folder / "attrib" / "authentication", "-1")
            self._ensure_mapped_lun(iqn, folder)
            if new:
                failpoint("lio-acl-without-secret")
            _ensure_value(folder / "lun_0" / "write_protect", "1" if acl.read_only else "0")
            # Last, so that nobody gets in before the rest is right: an ACL without
            # credentials admits nobody. Without a line end, which would become
            # part of the secret. Always written, since a read strips line ends.
            _write(folder / "auth" / "userid", acl.credentials.username)
            _write(folder / "auth" / "password", acl.credentials.password)

    def _ensure_mapped_lun(self, iqn: str, folder: Path) -> None:
        mapped, lun = folder / "lun_0", self._tpg(iqn) / "lun" / "lun_0"
        _ensure_folder(mapped)
        links = _links(mapped)
        if any(os.path.realpath(mapped / link) == os.path.realpath(lun) for link in links):
            return
        for link in links:
            (mapped / link).unlink()
        (mapped / "volume").symlink_to(lun)

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        with _refusals(f"removal of the access of {initiator}"):
            folder = self._acl(iqn, initiator)
            live = self.session(iqn, initiator) is not None
            for mapped in _folders(folder, only="lun_"):
                for link in _links(folder / mapped):
                    (folder / mapped / link).unlink()
                _remove_folder(folder / mapped)
            failpoint("lio-acl-unmapped")
            # Closes every session of the initiator and waits for their end
            # (core_tpg_del_initiator_node_acl in Linux).
            _remove_folder(folder)
            self._see_sessions_end(iqn, initiator)
            return live

    def _see_sessions_end(self, iqn: str, initiator: str) -> None:
        """See with our own eyes what the kernel promised. Raises EngineError if not so."""
        end = time.monotonic() + SESSION_END_SECONDS
        while self._acl(iqn, initiator).exists() or self._has_unexplained_session(iqn):
            if time.monotonic() > end:
                raise EngineError(f"a session on {iqn} outlives the ACL of {initiator}")
            time.sleep(0.02)

    def _has_unexplained_session(self, iqn: str) -> bool:
        if self.session_count(iqn) == 0:
            return False
        return not any(self.session(iqn, other) for other in self.acls(iqn))

    # Sessions

    def session(self, iqn: str, initiator: str) -> Session | None:
        try:
            return parse_session(initiator, _read(self._acl(iqn, initiator) / "info"))
        except FileNotFoundError:
            return None

    def session_count(self, iqn: str) -> int:
        statistics = self._root / "iscsi" / iqn / "fabric_statistics" / "iscsi_instance"
        try:
            return int(_read(statistics / "sessions"))
        except FileNotFoundError:
            return 0

    def statistics(self, iqn: str, initiator: str) -> AclStatistics:
        folder = self._acl(iqn, initiator) / "lun_0" / "statistics" / "scsi_auth_intr"
        try:
            return AclStatistics(
                commands=int(_read(folder / "num_cmds")),
                read_bytes=int(_read(folder / "read_mbytes")) * MEBIBYTE,
                written_bytes=int(_read(folder / "write_mbytes")) * MEBIBYTE,
            )
        except FileNotFoundError:
            return AclStatistics()


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


def _write(path: Path, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # One page is all that a configfs attribute can hold.
        return os.read(descriptor, 4096).decode(errors="replace").strip("\0\n ")
    finally:
        os.close(descriptor)


def _ensure_value(path: Path, value: str) -> bool:
    if _read(path) == value:
        return False
    _write(path, value)
    return True


def _ensure_folder(path: Path) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _remove_folder(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(path)


def _folders(path: Path, skip: tuple[str, ...] = (), only: str = "") -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name.startswith(only)
                and entry.name not in skip
                and entry.is_dir(follow_symlinks=False)
            ]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise


def _links(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]
    except FileNotFoundError:
        return []
