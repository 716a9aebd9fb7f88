"""Volumes: made, grown and deleted; each call idempotent, each in the volume's turn."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LvmEngine, NoSpace, StillInUse
from targetd.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from targetd.failpoints import failpoint
from targetd.model import PoolConfig, PoolReport, Provisioning, Volume, wwid
from targetd.operations import Wipes
from targetd.state import State
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)

# How old the pool figures behind the watermarks may be: a report costs two forks.
POOL_REPORT_SECONDS = 10.0
THIN_WATERMARK_PERCENT = 95.0
OVER_SUBSCRIPTION_MAX = 20.0
# LVM needs some hundred bytes of its metadata area per volume; at the end of it
# every command fails, removals too.
VG_METADATA_RESERVE_BYTES = 32 << 10


class Pools:
    """The configured pools and their figures, fresh enough for watermarks."""

    def __init__(self, configs: Sequence[PoolConfig], lvm: LvmEngine) -> None:
        self._configs = {config.name: config for config in configs}
        self._lvm = lvm
        self._lock = threading.Lock()
        self._reports: dict[str, PoolReport] = {}
        self._read_at = float("-inf")

    def named(self, name: str) -> PoolConfig:
        """The pool of that name, or the only one. Raises InvalidArgument."""
        if not name and len(self._configs) == 1:
            return next(iter(self._configs.values()))
        if name not in self._configs:
            known = ", ".join(sorted(self._configs))
            raise InvalidArgument([FieldViolation("pool", f"must be one of: {known}")])
        return self._configs[name]

    def fresh(self) -> list[PoolReport]:
        """Raises Unavailable when LVM does not answer."""
        try:
            reports = self._lvm.pools()
        except EngineError as error:
            log.error("pools cannot be read: %s", error)
            raise Unavailable("LVM does not report the pools; the log says why") from error
        with self._lock:
            self._reports = {report.config.name: report for report in reports}
            self._read_at = time.monotonic()
        return list(reports)

    def report(self, pool: PoolConfig) -> PoolReport:
        if time.monotonic() - self._read_at > POOL_REPORT_SECONDS:
            self.fresh()
        return self._reports[pool.name]

    def check_watermarks(self, pool: PoolConfig, promised_bytes: int, more_bytes: int) -> None:
        """Raises ResourceExhausted, saying which limit, before LVM fails."""
        report = self.report(pool)
        limits = [
            (
                report.vg_metadata_free_bytes < VG_METADATA_RESERVE_BYTES,
                f"the metadata area of volume group {pool.volume_group} is full",
            )
        ]
        if pool.provisioning is Provisioning.THIN:
            limits += [
                (
                    report.data_percent >= THIN_WATERMARK_PERCENT,
                    f"its data space is {report.data_percent:.1f} % full",
                ),
                (
                    report.metadata_percent >= THIN_WATERMARK_PERCENT,
                    f"its metadata space is {report.metadata_percent:.1f} % full",
                ),
                (
                    promised_bytes + more_bytes > OVER_SUBSCRIPTION_MAX * report.total_bytes,
                    f"it would promise more than {OVER_SUBSCRIPTION_MAX:g} times its size",
                ),
            ]
        for reached, text in limits:
            if reached:
                raise ResourceExhausted(
                    f"pool {pool.name}: {text}; extend it or delete volumes", pool=pool.name
                )


class Volumes:
    def __init__(
        self,
        catalog: Catalog,
        pools: Pools,
        lvm: LvmEngine,
        state: State,
        workers: VolumeWorkers,
        wipes: Wipes,
    ) -> None:
        self._catalog = catalog
        self._pools = pools
        self._lvm = lvm
        self._state = state
        self._workers = workers
        self._wipes = wipes
        self._identities = threading.Lock()
        self._wwids: dict[str, str] = {}

    def create(
        self,
        volume_id: str,
        pool_name: str,
        size_bytes: int,
        multi_attach: bool,
        deadline: Deadline,
    ) -> Volume:
        pool = self._pools.named(pool_name)

        def work() -> Volume:
            existing = self._catalog.volumes.get(volume_id)
            if existing is not None:
                return self._same_or_refuse(existing, pool, size_bytes, multi_attach)
            self._pools.check_watermarks(pool, self._promised_bytes(pool), size_bytes)
            self._claim_identity(volume_id)
            deadline.check()
            return self._create(volume_id, pool, size_bytes, multi_attach)

        return self._workers.run(volume_id, deadline, work)

    def _same_or_refuse(
        self, existing: Volume, pool: PoolConfig, size_bytes: int, multi_attach: bool
    ) -> Volume:
        extent = self._pools.report(pool).extent_bytes
        rounded = -(-size_bytes // extent) * extent
        if (existing.pool, existing.size_bytes, existing.multi_attach) != (
            pool,
            rounded,
            multi_attach,
        ):
            raise AlreadyExists(
                f"volume {existing.volume_id} exists with {existing.size_bytes} bytes in pool "
                f"{existing.pool.name}, multi_attach {existing.multi_attach}".lower(),
                volume_id=existing.volume_id,
            )
        return existing

    def _promised_bytes(self, pool: PoolConfig) -> int:
        return sum(
            volume.size_bytes
            for volume in list(self._catalog.volumes.values())
            if volume.pool == pool
        )

    def _claim_identity(self, volume_id: str) -> None:
        """Refuse an id whose disks an initiator could take for another volume's.

        Linux knows a LIO disk by the first 25 hexadecimal digits of its serial;
        two volumes alike there would be merged by multipath.
        """
        with self._identities:
            for volume in list(self._catalog.volumes.values()):
                self._wwids.setdefault(volume.wwid, volume.volume_id)
            owner = self._wwids.setdefault(wwid(volume_id), volume_id)
        if owner != volume_id and owner in self._catalog.volumes:
            raise InvalidArgument(
                [
                    FieldViolation(
                        "volume_id",
                        f"has its first 25 digits in common with volume {owner}, so that "
                        "initiators would take one disk for the other; use a random UUID",
                    )
                ]
            )

    def _create(
        self, volume_id: str, pool: PoolConfig, size_bytes: int, multi_attach: bool
    ) -> Volume:
        self._state.begin_creating(volume_id)
        failpoint("volume-begun")
        try:
            volume = self._lvm.create(volume_id, pool, size_bytes, multi_attach)
        except NoSpace as error:
            self._state.end_creating(volume_id)
            raise ResourceExhausted(
                f"pool {pool.name} has no {size_bytes} bytes free; extend it or delete volumes",
                pool=pool.name,
            ) from error
        except EngineError as error:
            log.error("volume %s cannot be created: %s", volume_id, error)
            self.heal_creation(volume_id)
            raise Unavailable(
                f"LVM did not create volume {volume_id}; the log says why", volume_id=volume_id
            ) from error
        failpoint("volume-made")
        self._catalog.volumes[volume_id] = volume
        self._state.end_creating(volume_id)
        return volume

    def heal_creation(self, volume_id: str) -> None:
        """Bring a creation that was begun to its end, or take away what it left.

        A power cut can leave a thin volume in LVM's metadata that its pool does
        not know; it cannot be activated, and nobody was told of it.
        """
        try:
            for volume in self._lvm.volumes():
                if volume.volume_id == volume_id:
                    self._heal(volume)
        except EngineError as error:
            # The record of the creation stays, so that the next start tries again.
            log.error("volume %s cannot be healed yet: %s", volume_id, error)
            return
        self._state.end_creating(volume_id)

    def _heal(self, volume: Volume) -> None:
        try:
            self._lvm.activate(volume)
        except EngineError as error:
            log.warning("volume %s was left half-made; removing it: %s", volume.volume_id, error)
            self._lvm.remove(volume)
            self._catalog.volumes.pop(volume.volume_id, None)
        else:
            self._catalog.volumes[volume.volume_id] = volume

    def extend(self, volume_id: str, size_bytes: int, deadline: Deadline) -> Volume:
        def work() -> Volume:
            volume = self._catalog.volume(volume_id)
            if size_bytes <= volume.size_bytes:
                return volume
            more = size_bytes - volume.size_bytes
            self._pools.check_watermarks(volume.pool, self._promised_bytes(volume.pool), more)
            deadline.check()
            return self._extend(volume, size_bytes)

        return self._workers.run(volume_id, deadline, work)

    def _extend(self, volume: Volume, size_bytes: int) -> Volume:
        try:
            grown = self._lvm.extend(volume, size_bytes)
        except NoSpace as error:
            raise ResourceExhausted(
                f"pool {volume.pool.name} cannot hold {size_bytes} bytes; extend it or delete "
                "volumes",
                pool=volume.pool.name,
            ) from error
        except EngineError as error:
            log.error("volume %s cannot be extended: %s", volume.volume_id, error)
            raise Unavailable(
                f"LVM did not extend volume {volume.volume_id}; the log says why",
                volume_id=volume.volume_id,
            ) from error
        self._catalog.volumes[volume.volume_id] = grown
        return grown

    def delete(self, volume_id: str, deadline: Deadline) -> str:
        """Returns the id of the wipe that goes on, or an empty text."""

        def work() -> str:
            volume = self._catalog.volumes.get(volume_id)
            if volume is None:
                return ""
            self._refuse_in_use(volume)
            deadline.check()
            return self._delete(volume)

        return self._workers.run(volume_id, deadline, work)

    def _refuse_in_use(self, volume: Volume) -> None:
        attachments = [c.attachment_id for c in self._catalog.connections(volume.volume_id)]
        if attachments:
            raise FailedPrecondition(
                f"volume {volume.volume_id} has connections: {', '.join(attachments)}; "
                "terminate them first",
                reason="HAS_CONNECTIONS",
                volume_id=volume.volume_id,
                attachment_ids=",".join(attachments),
            )
        if volume.volume_id in self._catalog.exports:
            raise FailedPrecondition(
                f"volume {volume.volume_id} is exported; call RemoveExport first",
                reason="EXPORTED",
                volume_id=volume.volume_id,
            )

    def _delete(self, volume: Volume) -> str:
        operation_id = ""
        try:
            if volume.pool.provisioning is Provisioning.THIN:
                # A thin pool zeroes every block before it gives it to anybody else.
                self._lvm.remove(volume)
            else:
                operation_id = self._wipes.new_id(volume.volume_id)
                retired = self._lvm.retire(volume, operation_id)
                failpoint("volume-retired")
                self._wipes.begin(retired)
        except StillInUse as error:
            raise FailedPrecondition(
                f"volume {volume.volume_id} is held open on the storage host; close what uses "
                "its device",
                reason="DEVICE_IN_USE",
                volume_id=volume.volume_id,
            ) from error
        except EngineError as error:
            log.error("volume %s cannot be deleted: %s", volume.volume_id, error)
            raise Unavailable(
                f"LVM did not delete volume {volume.volume_id}; the log says why",
                volume_id=volume.volume_id,
            ) from error
        del self._catalog.volumes[volume.volume_id]
        self._catalog.degraded.pop(volume.volume_id, None)
        with self._identities:
            self._wwids.pop(volume.wwid, None)
        return operation_id
