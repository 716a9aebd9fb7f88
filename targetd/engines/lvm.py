"""LVM through its own commands: one fork where one is needed, none where a stat serves."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from targetd.engines import blocks, lvm_command
from targetd.engines.interface import (
    Candidate,
    EngineError,
    Inventory,
    NameTaken,
    NoSpace,
    Origin,
    RetiredVolume,
)
from targetd.engines.lvm_checks import (
    CHECK_COLUMNS,
    check_group,
    check_scanning,
    check_thin_zeroes,
    thin_pool_row,
)
from targetd.engines.lvm_command import Row
from targetd.engines.lvm_records import (
    COLUMNS,
    COPYING,
    OUR_TAG,
    RETIRED,
    add_tags,
    create_time,
    our_tags,
    read_inventory,
    remove_tags,
    snapshot_tags,
    volume_tags,
)
from targetd.errors import StartError
from targetd.failpoints import failpoint
from targetd.model import PoolConfig, PoolReport, Provisioning, Snapshot, Volume, WipePolicy

log = logging.getLogger(__name__)

GROUP_COLUMNS = "vg_name,vg_size,vg_free,vg_extent_size,vg_mda_size,vg_mda_free"
POOL_COLUMNS = "vg_name,lv_name,lv_size,lv_tags,pool_lv,data_percent,metadata_percent,segtype,zero"
# A change that does not fit in here any more fails, whatever it is.
VG_METADATA_FULL_BYTES = 4096
# What the first letter of lv_attr may be for an adoption: plain, mirrored, RAID, thin.
ADOPTABLE = "-mMrRV"
# A thick snapshot's table of changes needs less than this part of its volume's size.
SNAPSHOT_TABLE_PART = 128


class Lvm:
    """Volumes as logical volumes of the configured pools."""

    def __init__(self, pools: Sequence[PoolConfig]) -> None:
        self._pools = tuple(pools)
        self._groups = sorted({pool.volume_group for pool in pools})
        # LVM locks a volume group for each command anyway; waiting here instead
        # keeps the queue out of the kernel and in order.
        self._locks = {group: threading.Lock() for group in self._groups}
        self._devices: Mapping[str, list[str]] = {}
        self._extent_bytes: dict[str, int] = {}

    def start(self) -> None:
        check_scanning()
        # All that the host has: LVM fails for a name that is not there.
        found = {row["vg_name"]: row for row in lvm_command.report("vgs", CHECK_COLUMNS)}
        for group in self._groups:
            check_group(group, found.get(group))
            self._extent_bytes[group] = int(found[group]["vg_extent_size"])
        self._devices = self._physical_volumes()
        rows = self._pool_rows()
        for pool in self._pools:
            if pool.provisioning is Provisioning.THIN:
                check_thin_zeroes(pool, thin_pool_row(pool, rows))

    def _physical_volumes(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {group: [] for group in self._groups}
        for row in lvm_command.report("pvs", "pv_name,vg_name,pv_missing"):
            if row["vg_name"] in found and not row["pv_missing"]:
                found[row["vg_name"]].append(row["pv_name"])
        return found

    # Reports

    def pools(self) -> list[PoolReport]:
        groups = {
            row["vg_name"]: row for row in lvm_command.report("vgs", GROUP_COLUMNS, *self._groups)
        }
        rows = self._pool_rows()
        for group, row in groups.items():
            self._extent_bytes[group] = int(row["vg_extent_size"])
        return [self._pool_report(pool, groups[pool.volume_group], rows) for pool in self._pools]

    def _pool_rows(self) -> list[Row]:
        return lvm_command.report("lvs", POOL_COLUMNS, *self._groups)

    def _pool_report(self, pool: PoolConfig, group: Row, rows: list[Row]) -> PoolReport:
        ours = [
            int(row["lv_size"])
            for row in rows
            if (row["vg_name"], row["pool_lv"]) == (pool.volume_group, pool.thin_pool)
            and OUR_TAG in our_tags(row)
        ]
        total, free = int(group["vg_size"]), int(group["vg_free"])
        data = metadata = 0.0
        if pool.provisioning is Provisioning.THIN:
            try:
                thin = thin_pool_row(pool, rows)
            except StartError as error:
                raise EngineError(str(error)) from error
            total = int(thin["lv_size"])
            data, metadata = float(thin["data_percent"]), float(thin["metadata_percent"])
            free = int(total * (100 - data) / 100)
        return PoolReport(
            config=pool,
            total_bytes=total,
            free_bytes=free,
            provisioned_bytes=sum(ours),
            extent_bytes=int(group["vg_extent_size"]),
            vg_metadata_total_bytes=int(group["vg_mda_size"]),
            vg_metadata_free_bytes=int(group["vg_mda_free"]),
            data_percent=data,
            metadata_percent=metadata,
        )

    def inventory(self) -> Inventory:
        return read_inventory(lvm_command.report("lvs", COLUMNS, *self._groups), self._pools)

    def rounded(self, pool: PoolConfig, size_bytes: int) -> int:
        extent = self._extent_bytes[pool.volume_group]
        return -(-size_bytes // extent) * extent

    # Making

    def create(self, volume: Volume) -> Volume:
        pool = volume.pool
        made = replace(volume, size_bytes=self.rounded(pool, volume.size_bytes))
        argv = ["--yes", "--name", volume.lv_name, *add_tags(volume_tags(volume))]
        if pool.provisioning is Provisioning.THIN:
            argv += ["--virtualsize", f"{made.size_bytes}b"]
            argv += ["--thinpool", f"{pool.volume_group}/{pool.thin_pool}"]
        else:
            argv += ["--size", f"{made.size_bytes}b", "--wipesignatures", "y", "--zero", "y"]
            argv += [pool.volume_group]
        with self._changing(pool, made.size_bytes, volume.lv_name):
            lvm_command.run("lvcreate", *argv)
            failpoint("lvm-create-unsynced")
        return made

    def clone(self, volume: Volume, origin: Origin) -> Volume:
        made = replace(volume, size_bytes=self.rounded(volume.pool, volume.size_bytes))
        argv = ["--yes", "--snapshot", "--setactivationskip", "n", "--name", volume.lv_name]
        with self._changing(volume.pool, name=volume.lv_name):
            lvm_command.run("lvcreate", *argv, *add_tags(volume_tags(volume)), _path(origin))
            failpoint("lvm-clone-made")
            if made.size_bytes > origin.size_bytes:
                lvm_command.run("lvextend", "--size", f"{made.size_bytes}b", _path(volume))
        return made

    def snapshot(self, snapshot: Snapshot, origin: Volume) -> Snapshot:
        pool = snapshot.pool
        argv = ["--yes", "--snapshot", "--name", snapshot.lv_name]
        needed = 0
        if pool.provisioning is Provisioning.THIN:
            # Not active until somebody needs it: its device would serve nobody.
            argv += ["--setactivationskip", "y"]
        else:
            needed = self._snapshot_space(snapshot, origin)
            argv += ["--size", f"{needed}b"]
        with self._changing(pool, needed, snapshot.lv_name):
            lvm_command.run("lvcreate", *argv, *add_tags(snapshot_tags(snapshot)), _path(origin))
            failpoint("lvm-snapshot-unsynced")
        made = replace(snapshot, size_bytes=origin.size_bytes)
        if not needed:
            return made
        try:
            # LVM gives no more than the whole volume's changes can take.
            return replace(made, reserved_bytes=blocks.size_bytes(_space_path(made)))
        except OSError as error:
            raise EngineError(f"{_space_path(made)}: {error}") from error

    def _snapshot_space(self, snapshot: Snapshot, origin: Volume) -> int:
        extent = self._extent_bytes[snapshot.pool.volume_group]
        whole = origin.size_bytes + origin.size_bytes // SNAPSHOT_TABLE_PART + 2 * extent
        return self.rounded(snapshot.pool, snapshot.reserve_bytes or whole)

    def extend(self, volume: Volume, size_bytes: int) -> Volume:
        size_bytes = self.rounded(volume.pool, size_bytes)
        with self._changing(volume.pool, size_bytes - volume.size_bytes):
            lvm_command.run("lvextend", "--size", f"{size_bytes}b", _path(volume))
        return replace(volume, size_bytes=size_bytes)

    def finish_copy(self, volume: Volume) -> Volume:
        with self._changing(volume.pool):
            lvm_command.run("lvchange", *remove_tags([COPYING + volume.copy_id]), _path(volume))
        return replace(volume, copy_id="")

    def activate(self, volume: Origin) -> None:
        if not os.path.exists(volume.device_path):
            self._activate(_path(volume))

    def _activate(self, path: str) -> None:
        lvm_command.run("lvchange", "--activate", "y", "--ignoreactivationskip", path)

    # Taking over, letting go

    def candidate(self, pool: PoolConfig, lv_name: str) -> Candidate | None:
        row = _find(pool.volume_group, lv_name)
        if row is None:
            return None
        objection = ""
        if OUR_TAG in our_tags(row):
            objection = "belongs to targetd already"
        elif row["pool_lv"] != pool.thin_pool:
            objection = f"is not in pool {pool.name}"
        elif row["lv_attr"][0] not in ADOPTABLE:
            objection = "is a pool, a snapshot, or has snapshots"
        else:
            blocks.refuse_in_use(f"/dev/{pool.volume_group}/{lv_name}")
        return Candidate(int(row["lv_size"]), create_time(row), objection)

    def adopt(self, volume: Volume) -> Volume:
        group = volume.pool.volume_group
        with self._changing(volume.pool, name=volume.lv_name):
            # Tagged before it is renamed: from its tag alone a start knows that
            # this was not finished, and lets go of it again.
            tags = add_tags(volume_tags(volume))
            lvm_command.run("lvchange", *tags, f"{group}/{volume.adopted_name}")
            failpoint("lvm-adopt-tagged")
            # What was let go of under its own name has that name already.
            if volume.adopted_name != volume.lv_name:
                lvm_command.run("lvrename", group, volume.adopted_name, volume.lv_name)
        return volume

    def release(self, volume: Volume, lv_name: str) -> str:
        group = volume.pool.volume_group
        blocks.refuse_in_use(volume.device_path)
        with self._changing(volume.pool):
            if lv_name != volume.lv_name:
                if _find(group, lv_name) is not None:
                    raise NameTaken(f"{group}/{lv_name}")
                lvm_command.run("lvrename", group, volume.lv_name, lv_name)
                failpoint("lvm-release-renamed")
            lvm_command.run("lvchange", *remove_tags(volume_tags(volume)), f"{group}/{lv_name}")
        return f"/dev/{group}/{lv_name}"

    def release_stray(self, place: str) -> None:
        group, _, name = place.partition("/")
        row = _find(group, name)
        if row is not None and OUR_TAG in our_tags(row):
            with self._locks[group]:
                lvm_command.run("lvchange", *remove_tags(our_tags(row)), place)
                self._flush(group)

    # Removing

    def remove(self, volume: Origin) -> None:
        self._remove(volume.pool, _path(volume))

    def _remove(self, pool: PoolConfig, path: str) -> None:
        blocks.refuse_in_use(f"/dev/{path}")
        with self._changing(pool):
            lvm_command.run("lvremove", "--yes", path)

    def retire(self, volume: Origin, operation_id: str) -> RetiredVolume:
        blocks.refuse_in_use(volume.device_path)
        group = volume.pool.volume_group
        retired = RetiredVolume(operation_id, volume.pool, volume.size_bytes)
        with self._changing(volume.pool):
            lvm_command.run("lvrename", group, volume.lv_name, _retired_name(retired))
            if isinstance(volume, Snapshot):
                failpoint("lvm-snapshot-unsplit")
                # LVM makes the space first, and of it the snapshot: a power cut
                # between the two leaves one of no volume.
                if volume.size_bytes:
                    self._split(retired)
                retired = replace(retired, size_bytes=volume.reserved_bytes)
        return retired

    def _split(self, retired: RetiredVolume) -> None:
        """Part a snapshot from its origin, so that its own space can be overwritten."""
        lvm_command.run("lvconvert", "--yes", "--splitsnapshot", _retired_path(retired))

    def _is_attached(self, retired: RetiredVolume) -> bool:
        """An earlier try may have parted it already."""
        return any(
            one.operation_id == retired.operation_id and one.attached
            for one in self.inventory().retired
        )

    def wipe(self, retired: RetiredVolume, start_bytes: int, step_bytes: int) -> Iterator[int]:
        device = f"/dev/{_retired_path(retired)}"
        if retired.attached and self._is_attached(retired):
            with self._changing(retired.pool):
                self._split(retired)
        if not os.path.exists(device):
            self._activate(_retired_path(retired))
        if retired.pool.wipe is not WipePolicy.NONE:
            yield from blocks.wipe(
                device, retired.size_bytes, retired.pool.wipe, start_bytes, step_bytes
            )

    def remove_retired(self, retired: RetiredVolume) -> None:
        self._remove(retired.pool, _retired_path(retired))

    def copy(
        self, volume: Volume, origin: Origin, start_bytes: int, step_bytes: int
    ) -> Iterator[int]:
        self.activate(origin)
        self.activate(volume)
        yield from blocks.copy(
            origin.device_path,
            volume.device_path,
            origin.size_bytes,
            volume.pool.provisioning is Provisioning.THIN,
            start_bytes,
            step_bytes,
        )

    # Around every change

    @contextmanager
    def _changing(self, pool: PoolConfig, needed_bytes: int = 0, name: str = "") -> Iterator[None]:
        """One at a time per volume group, and flushed at its end.

        ``needed_bytes`` and ``name`` are what the change takes, to tell why it failed.

        LVM ends its commands without flushing its metadata to the disk
        (observed with lvm2 2.03.16 on dm-log-writes), so a power cut could
        undo what has been acknowledged.
        """
        with self._locks[pool.volume_group]:
            try:
                yield
            except EngineError as error:
                if lack := self._lack(pool, needed_bytes):
                    raise NoSpace(lack) from error
                if name and _is_foreign(_find(pool.volume_group, name)):
                    raise NameTaken(f"{pool.volume_group}/{name}") from error
                raise
            self._flush(pool.volume_group)

    def _flush(self, group: str) -> None:
        for device in self._devices[group]:
            blocks.flush(device)

    def _lack(self, pool: PoolConfig, needed_bytes: int) -> str:
        """What is full, or an empty text.

        The figures are asked for: LVM's error texts may change between releases.
        """
        report = next(report for report in self.pools() if report.config == pool)
        if report.vg_metadata_free_bytes < VG_METADATA_FULL_BYTES:
            return f"the metadata area of volume group {pool.volume_group} is full"
        if report.free_bytes < needed_bytes:
            return f"pool {pool.name} has no {needed_bytes} bytes free"
        return ""


def _path(volume: Origin) -> str:
    return f"{volume.pool.volume_group}/{volume.lv_name}"


def _find(group: str, lv_name: str) -> Row | None:
    """All are listed, since LVM fails for a name that is not there."""
    rows = lvm_command.report("lvs", COLUMNS, group)
    return next((row for row in rows if row["lv_name"] == lv_name), None)


def _is_foreign(row: Row | None) -> bool:
    return row is not None and OUR_TAG not in our_tags(row)


def _retired_name(retired: RetiredVolume) -> str:
    return f"{RETIRED}{retired.operation_id}"


def _retired_path(retired: RetiredVolume) -> str:
    return f"{retired.pool.volume_group}/{_retired_name(retired)}"


def _space_path(snapshot: Snapshot) -> str:
    """The device-mapper node that holds a thick snapshot's changes."""
    group, name = snapshot.pool.volume_group, snapshot.lv_name
    return f"/dev/mapper/{group.replace('-', '--')}-{name.replace('-', '--')}-cow"
