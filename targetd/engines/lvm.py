"""LVM through its own commands: one fork where one is needed, none where a stat serves."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from targetd.engines import process
from targetd.engines.interface import EngineError, NoSpace, RetiredVolume, StillInUse
from targetd.engines.process import ProcessFailed
from targetd.errors import StartError
from targetd.failpoints import failpoint
from targetd.model import PoolConfig, PoolReport, Provisioning, Volume, volume_name

log = logging.getLogger(__name__)

# Marks a logical volume as ours; a volume of that name without it is foreign.
OUR_TAG = "targetd.v1"
MULTI_ATTACH_TAG = "targetd.multi-attach"
VOLUME_PREFIX = "volume-"
RETIRED_PREFIX = "deleted-"

# From linux/fs.h: _IO(0x12, 127). Takes two uint64: start and length in bytes.
BLKZEROOUT = 0x127F
WIPE_STEP_BYTES = 32 << 20

# Volumes hold guests' own volume groups, which the host must never scan; times
# as seconds since the epoch; no message bus is asked for on every command.
COMMON_CONFIG = "devices/scan_lvs=0 global/notify_dbus=0 report/time_format=%s"


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
        for group in self._groups:
            self._check_group(group)
        self._devices = self._physical_volumes()
        self.pools()

    def _check_group(self, group: str) -> None:
        try:
            row = self._report("vgs", "vg_attr,vg_systemid,vg_lock_type", group)[0]
        except EngineError as error:
            raise StartError(
                f"volume group {group} is not there; create it (vgcreate {group} DEVICE) "
                "or correct [[pool]] in the configuration"
            ) from error
        if row["vg_lock_type"] not in ("", "none") or row["vg_systemid"]:
            raise StartError(
                f"volume group {group} is shared or belongs to another host; targetd needs a "
                "local one of its own"
            )

    def _physical_volumes(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {group: [] for group in self._groups}
        for row in self._report("pvs", "pv_name,vg_name"):
            if row["vg_name"] in found:
                found[row["vg_name"]].append(row["pv_name"])
        return found

    def pools(self) -> list[PoolReport]:
        groups = {
            row["vg_name"]: row
            for row in self._report(
                "vgs",
                "vg_name,vg_size,vg_free,vg_extent_size,vg_mda_size,vg_mda_free",
                *self._groups,
            )
        }
        volumes = self._report(
            "lvs",
            "vg_name,lv_name,lv_size,lv_tags,pool_lv,data_percent,metadata_percent,segtype",
            *self._groups,
        )
        for group, row in groups.items():
            self._extent_bytes[group] = int(row["vg_extent_size"])
        return [self._pool_report(pool, groups[pool.volume_group], volumes) for pool in self._pools]

    def _pool_report(
        self, pool: PoolConfig, group: Mapping[str, str], volumes: Sequence[Mapping[str, str]]
    ) -> PoolReport:
        ours = [
            int(row["lv_size"])
            for row in volumes
            if row["vg_name"] == pool.volume_group
            and row["pool_lv"] == pool.thin_pool
            and OUR_TAG in row["lv_tags"].split(",")
        ]
        total, free = int(group["vg_size"]), int(group["vg_free"])
        data = metadata = 0.0
        if pool.provisioning is Provisioning.THIN:
            thin = self._thin_pool_row(pool, volumes)
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

    def _thin_pool_row(
        self, pool: PoolConfig, volumes: Sequence[Mapping[str, str]]
    ) -> Mapping[str, str]:
        for row in volumes:
            if (row["vg_name"], row["lv_name"]) == (pool.volume_group, pool.thin_pool):
                if row["segtype"] == "thin-pool" and row["data_percent"]:
                    return row
                break
        raise StartError(
            f"{pool.volume_group}/{pool.thin_pool} is not an active thin pool; create it "
            f"(lvcreate --type thin-pool -n {pool.thin_pool} -L SIZE {pool.volume_group}), "
            "activate it, or correct [[pool]] in the configuration"
        )

    def volumes(self) -> list[Volume]:
        return [
            self._volume(row, pool)
            for row, pool in self._our_rows()
            if row["lv_name"].startswith(VOLUME_PREFIX)
        ]

    def retired(self) -> list[RetiredVolume]:
        return [
            RetiredVolume(row["lv_name"].removeprefix(RETIRED_PREFIX), pool, int(row["lv_size"]))
            for row, pool in self._our_rows()
            if row["lv_name"].startswith(RETIRED_PREFIX)
        ]

    def _our_rows(self) -> Iterator[tuple[Mapping[str, str], PoolConfig]]:
        by_place = {(pool.volume_group, pool.thin_pool): pool for pool in self._pools}
        for row in self._report(
            "lvs", "vg_name,lv_name,lv_size,lv_tags,pool_lv,lv_time", *self._groups
        ):
            pool = by_place.get((row["vg_name"], row["pool_lv"]))
            if pool is not None and OUR_TAG in row["lv_tags"].split(","):
                yield row, pool

    def _volume(self, row: Mapping[str, str], pool: PoolConfig) -> Volume:
        return Volume(
            volume_id=row["lv_name"].removeprefix(VOLUME_PREFIX),
            pool=pool,
            size_bytes=int(row["lv_size"]),
            multi_attach=MULTI_ATTACH_TAG in row["lv_tags"].split(","),
            create_time=datetime.fromtimestamp(int(row["lv_time"]), UTC),
        )

    def create(
        self, volume_id: str, pool: PoolConfig, size_bytes: int, multi_attach: bool
    ) -> Volume:
        size_bytes = self._rounded(pool, size_bytes)
        argv = ["lvcreate", "--yes", "--name", volume_name(volume_id), "--addtag", OUR_TAG]
        if multi_attach:
            argv += ["--addtag", MULTI_ATTACH_TAG]
        if pool.provisioning is Provisioning.THIN:
            argv += ["--virtualsize", f"{size_bytes}b"]
            argv += ["--thinpool", f"{pool.volume_group}/{pool.thin_pool}"]
        else:
            argv += ["--size", f"{size_bytes}b", "--wipesignatures", "y", "--zero", "y"]
            argv += [pool.volume_group]
        with self._changing(pool, size_bytes):
            self._lvm(*argv)
            failpoint("lvm-create-unsynced")
        return Volume(volume_id, pool, size_bytes, multi_attach, datetime.now(UTC))

    def extend(self, volume: Volume, size_bytes: int) -> Volume:
        size_bytes = self._rounded(volume.pool, size_bytes)
        with self._changing(volume.pool, size_bytes - volume.size_bytes):
            self._lvm("lvextend", "--size", f"{size_bytes}b", _path(volume))
        return Volume(
            volume.volume_id, volume.pool, size_bytes, volume.multi_attach, volume.create_time
        )

    def is_active(self, volume: Volume) -> bool:
        return os.path.exists(volume.device_path)

    def activate(self, volume: Volume) -> None:
        if not self.is_active(volume):
            self._lvm("lvchange", "--activate", "y", _path(volume))

    def remove(self, volume: Volume) -> None:
        self._remove(volume.pool, _path(volume))

    def retire(self, volume: Volume, operation_id: str) -> RetiredVolume:
        self._refuse_in_use(volume.device_path)
        name = f"{RETIRED_PREFIX}{operation_id}"
        with self._changing(volume.pool):
            self._lvm("lvrename", volume.pool.volume_group, volume_name(volume.volume_id), name)
        return RetiredVolume(operation_id, volume.pool, volume.size_bytes)

    def wipe(self, retired: RetiredVolume, progress: Callable[[int], None]) -> None:
        name = f"{RETIRED_PREFIX}{retired.operation_id}"
        path = f"/dev/{retired.pool.volume_group}/{name}"
        if not os.path.exists(path):
            self._lvm("lvchange", "--activate", "y", f"{retired.pool.volume_group}/{name}")
        with _opened(path, os.O_WRONLY | os.O_EXCL) as device:
            for start in range(0, retired.size_bytes, WIPE_STEP_BYTES):
                length = min(WIPE_STEP_BYTES, retired.size_bytes - start)
                fcntl.ioctl(device, BLKZEROOUT, array.array("Q", [start, length]))
                progress(start + length)
            os.fsync(device)

    def remove_retired(self, retired: RetiredVolume) -> None:
        self._remove(
            retired.pool, f"{retired.pool.volume_group}/{RETIRED_PREFIX}{retired.operation_id}"
        )

    def _remove(self, pool: PoolConfig, path: str) -> None:
        self._refuse_in_use(f"/dev/{path}")
        with self._changing(pool):
            self._lvm("lvremove", "--yes", path)

    def _refuse_in_use(self, device_path: str) -> None:
        """Raises StillInUse where LIO, a mount or another program holds the device."""
        try:
            with _opened(device_path, os.O_RDONLY | os.O_EXCL):
                return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise EngineError(f"{device_path}: {error}") from error
            raise StillInUse(device_path) from error

    def _rounded(self, pool: PoolConfig, size_bytes: int) -> int:
        extent = self._extent_bytes[pool.volume_group]
        return -(-size_bytes // extent) * extent

    @contextmanager
    def _changing(self, pool: PoolConfig, needed_bytes: int = 0) -> Iterator[None]:
        """Around a change of a volume group: one at a time, and flushed at its end.

        LVM ends its commands without flushing its metadata to the disk
        (observed with lvm2 2.03.16 on dm-log-writes), so a power cut could
        undo what has been acknowledged.
        """
        with self._locks[pool.volume_group]:
            try:
                yield
            except EngineError as error:
                if needed_bytes and self._lacks_space(pool, needed_bytes):
                    raise NoSpace(f"pool {pool.name} has no {needed_bytes} bytes free") from error
                raise
            self._flush(pool.volume_group)

    def _flush(self, group: str) -> None:
        for device in self._devices[group]:
            try:
                with _opened(device, os.O_RDONLY) as descriptor:
                    os.fsync(descriptor)
            except OSError as error:
                raise EngineError(f"{device} cannot be flushed: {error}") from error

    def _lacks_space(self, pool: PoolConfig, needed_bytes: int) -> bool:
        """Ask for the figures: LVM's error texts may change between releases."""
        report = next(report for report in self.pools() if report.config == pool)
        return report.vg_metadata_free_bytes < 4096 or report.free_bytes < needed_bytes

    def _report(self, command: str, columns: str, *names: str) -> list[dict[str, str]]:
        output = self._lvm(
            command,
            *("--reportformat", "json", "--units", "b", "--nosuffix", "--options", columns),
            *names,
        )
        try:
            document: Any = json.loads(output)
            (section,) = document["report"]
            (rows,) = section.values()
        except (ValueError, KeyError) as error:
            raise EngineError(f"{command} printed no report: {output[:200]!r}") from error
        return list(rows)

    def _lvm(self, command: str, *arguments: str) -> str:
        try:
            return process.run(["lvm", command, "--config", COMMON_CONFIG, *arguments]).stdout
        except ProcessFailed as error:
            raise EngineError(str(error)) from error
        except OSError as error:
            raise EngineError(f"lvm cannot be run: {error}") from error


def _path(volume: Volume) -> str:
    return f"{volume.pool.volume_group}/{volume_name(volume.volume_id)}"


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)
