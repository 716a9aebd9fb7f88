"""The least that makes and removes an export: the configfs calls alone, nothing looked at."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

from lab.bench.inside.population import device, initiator, volume_id
from targetd.model import volume_name

CORE = "/sys/kernel/config/target/core"
ISCSI = "/sys/kernel/config/target/iscsi"
# Where neither rtslib nor the daemon counts.
FIRST_HBA = 500_000
IQN_PREFIX = "iqn.2026-01.org.example.bare"
USER, PASSWORD = "bench-user", "bench-secret-123"


@dataclass(frozen=True)
class Export:
    hba: str
    name: str
    target: str
    initiator: str


def export(number: int) -> Export:
    return Export(
        hba=f"{CORE}/iblock_{FIRST_HBA + number}",
        name=volume_name(volume_id(number)),
        target=f"{ISCSI}/{IQN_PREFIX}:{volume_id(number)}",
        initiator=initiator(number),
    )


def attach(number: int, portal: str) -> None:
    """All that the daemon's CreateExport and InitializeConnection leave in the kernel."""
    made = export(number)
    os.mkdir(made.hba)
    backstore = f"{made.hba}/{made.name}"
    os.mkdir(backstore)
    path = device(number)
    _write(f"{backstore}/control", f"udev_path={path}")
    _write(f"{backstore}/udev_path", path)
    _write(f"{backstore}/enable", "1")
    _write(f"{backstore}/wwn/vpd_unit_serial", volume_id(number))
    _write(f"{backstore}/attrib/emulate_3pc", "0")
    tpg = f"{made.target}/tpgt_1"
    os.mkdir(made.target)
    os.mkdir(tpg)
    _write(f"{tpg}/attrib/authentication", "1")
    _write(f"{tpg}/attrib/generate_node_acls", "0")
    _write(f"{tpg}/attrib/demo_mode_discovery", "0")
    lun = f"{tpg}/lun/lun_0"
    os.mkdir(lun)
    os.symlink(backstore, f"{lun}/volume")
    os.mkdir(f"{tpg}/np/{portal}")
    _write(f"{tpg}/enable", "1")
    acl = f"{tpg}/acls/{made.initiator}"
    os.mkdir(acl)
    os.mkdir(f"{acl}/lun_0")
    os.symlink(lun, f"{acl}/lun_0/volume")
    _write(f"{acl}/auth/userid", USER)
    _write(f"{acl}/auth/password", PASSWORD)


def detach(number: int, portal: str) -> None:
    made = export(number)
    tpg = f"{made.target}/tpgt_1"
    acl = f"{tpg}/acls/{made.initiator}"
    os.unlink(f"{acl}/lun_0/volume")
    os.rmdir(f"{acl}/lun_0")
    os.rmdir(acl)
    _write(f"{tpg}/enable", "0")
    os.unlink(f"{tpg}/lun/lun_0/volume")
    os.rmdir(f"{tpg}/lun/lun_0")
    os.rmdir(f"{tpg}/np/{portal}")
    os.rmdir(tpg)
    os.rmdir(made.target)
    os.rmdir(f"{made.hba}/{made.name}")
    os.rmdir(made.hba)


def remove_foreign(target: str, name: str) -> None:
    """Take away what another tool made, however it chose its names."""
    tpg = f"{ISCSI}/{target}/tpgt_1"
    for link in [*glob.glob(f"{tpg}/acls/*/lun_*/*"), *glob.glob(f"{tpg}/lun/lun_*/*")]:
        if os.path.islink(link):
            os.unlink(link)
    for pattern in ("acls/*/lun_*", "acls/iqn*", "lun/lun_*", "np/*"):
        for folder in glob.glob(f"{tpg}/{pattern}"):
            os.rmdir(folder)
    os.rmdir(tpg)
    os.rmdir(f"{ISCSI}/{target}")
    for folder in glob.glob(f"{CORE}/iblock_*/{name}"):
        os.rmdir(folder)
        os.rmdir(os.path.dirname(folder))


def acls_of(target: str) -> list[str]:
    try:
        return os.listdir(f"{ISCSI}/{target}/tpgt_1/acls")
    except FileNotFoundError:
        return []


def standing() -> int:
    """How many targets of the kernel an initiator can reach a device through."""
    found = 0
    for path in glob.iglob(f"{ISCSI}/iqn.*/tpgt_1/acls/*/lun_0"):
        lun = next((entry.path for entry in os.scandir(path) if entry.is_symlink()), None)
        found += lun is not None and any(entry.is_symlink() for entry in os.scandir(lun))
    return found


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, value.encode())
    os.close(descriptor)
