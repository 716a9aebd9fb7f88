"""What must be true of the host's LVM before the daemon serves."""

from __future__ import annotations

import logging

from targetd.engines import lvm_command
from targetd.engines.interface import EngineError
from targetd.engines.lvm_command import Row
from targetd.errors import NotReady, StartError
from targetd.model import PoolConfig

log = logging.getLogger(__name__)

CHECK_COLUMNS = "vg_name,vg_attr,vg_systemid,vg_lock_type,vg_missing_pv_count,vg_extent_size"
ACCEPT_ALL = '["a|.*|"]'


def check_scanning() -> None:
    """Refuse a host whose own LVM would look for volume groups inside our volumes.

    A guest's volume group found there would be activated on the host, and
    written to by both. Raises StartError.
    """
    try:
        found = lvm_command.configured("scan_lvs", "global_filter")
    except EngineError as error:
        raise StartError(f"LVM does not answer: {error}; is lvm2 installed?") from error
    if found.get("scan_lvs", "0") == "0":
        return
    if found.get("global_filter", ACCEPT_ALL) == ACCEPT_ALL:
        raise StartError(
            "lvm.conf has devices/scan_lvs=1 and no global_filter, so this host would scan the "
            "volume groups that guests keep in their volumes; set scan_lvs=0"
        )
    log.warning(
        "lvm.conf has devices/scan_lvs=1: see that global_filter rejects the volumes of targetd, "
        "or set scan_lvs=0"
    )


def check_group(group: str, row: Row | None) -> None:
    """Raises StartError where the volume group is absent, or not this host's alone."""
    if row is None:
        raise NotReady(
            f"volume group {group} is not there; if it was before, find its disks, or restore its "
            "description (docs/backup.md); on a new host create it (vgcreate "
            f"{group} DEVICE) or correct [[pool]] in the configuration"
        )
    if row["vg_lock_type"] not in ("", "none") or row["vg_systemid"]:
        raise StartError(
            f"volume group {group} is shared or belongs to another host; targetd needs a "
            "local one of its own"
        )
    # vgs(8): the first place of vg_attr is for writeable, the third for exported.
    if row["vg_attr"][2] == "x":
        raise StartError(f"volume group {group} is exported; run: vgimport {group}")
    if row["vg_attr"][0] != "w":
        raise StartError(f"volume group {group} is read-only; make its devices writeable")
    if int(row["vg_missing_pv_count"] or 0):
        log.error(
            "volume group %s misses %s physical volumes: volumes on them are degraded, and LVM "
            "refuses every change until they are back or vgreduce --removemissing was run",
            group,
            row["vg_missing_pv_count"],
        )


def thin_pool_row(pool: PoolConfig, rows: list[Row]) -> Row:
    """The row of ``lvs`` of a pool's thin pool. Raises NotReady where it is not usable."""
    for row in rows:
        if (row["vg_name"], row["lv_name"]) == (pool.volume_group, pool.thin_pool):
            if row["segtype"] == "thin-pool" and row["data_percent"]:
                return row
            break
    raise NotReady(
        f"{pool.volume_group}/{pool.thin_pool} is not an active thin pool; create it "
        f"(lvcreate --type thin-pool -n {pool.thin_pool} -L SIZE {pool.volume_group}), "
        "activate it, or correct [[pool]] in the configuration"
    )


def check_thin_zeroes(pool: PoolConfig, row: Row) -> None:
    """Raises StartError where blocks would be handed out with another tenant's data."""
    if row["zero"] not in ("zero", "1"):
        raise StartError(
            f"thin pool {pool.volume_group}/{pool.thin_pool} does not zero new blocks, so one "
            "tenant could read another's data; run: lvchange --zero y "
            f"{pool.volume_group}/{pool.thin_pool}"
        )
