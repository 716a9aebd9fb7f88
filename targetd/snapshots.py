"""Snapshots: a volume as it was at one moment, in the snapshot's own turn."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.copies import Copies
from targetd.engines.interface import EngineError, LvmEngine
from targetd.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    TargetdError,
)
from targetd.failpoints import failpoint
from targetd.model import Provisioning, Snapshot, Volume, is_of, snapshot_name, volume_name
from targetd.pins import Pins
from targetd.pools import Pools
from targetd.refusals import engine_refusals
from targetd.state import State
from targetd.volumes import refuse_copying
from targetd.wipes import Wipes
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)


class Snapshots:
    def __init__(
        self,
        catalog: Catalog,
        pools: Pools,
        lvm: LvmEngine,
        state: State,
        workers: VolumeWorkers,
        wipes: Wipes,
        copies: Copies,
        pins: Pins,
    ) -> None:
        self._catalog = catalog
        self._pools = pools
        self._lvm = lvm
        self._state = state
        self._workers = workers
        self._wipes = wipes
        self._copies = copies
        self._pins = pins

    def create(
        self, snapshot_id: str, volume_id: str, reserve_bytes: int, deadline: Deadline
    ) -> Snapshot:
        def work() -> Snapshot:
            existing = self._catalog.find_snapshot(snapshot_id)
            if existing is not None:
                return _same_or_refuse(existing, volume_id, reserve_bytes)
            with self._pins.pinned(volume_name(volume_id)):
                volume = self._catalog.volume(volume_id)
                refuse_copying(volume)
                _check_reserve(volume, reserve_bytes)
                self._pools.check_watermarks(volume.pool, 0, 0)
                deadline.check()
                return self._create(snapshot_id, volume, reserve_bytes)

        return self._workers.run(snapshot_name(snapshot_id), deadline, work)

    def _create(self, snapshot_id: str, volume: Volume, reserve_bytes: int) -> Snapshot:
        asked = Snapshot(
            snapshot_id=snapshot_id,
            volume_id=volume.volume_id,
            pool=volume.pool,
            size_bytes=volume.size_bytes,
            create_time=datetime.now(UTC),
            reserve_bytes=reserve_bytes,
        )
        self._state.begin_creating(asked.lv_name, asked.create_time)
        failpoint("snapshot-begun")
        try:
            with engine_refusals(
                f"LVM did not make snapshot {snapshot_id}", snapshot_id=snapshot_id
            ):
                made = self._lvm.snapshot(asked, volume)
            failpoint("snapshot-made")
            self._state.end_creating(asked.lv_name)
        except TargetdError:
            self.heal_creation(snapshot_id, asked.create_time)
            raise
        self._catalog.put_snapshot(made)
        return made

    def heal_creation(self, snapshot_id: str, create_time: datetime | None) -> None:
        """Take away what is left of a snapshot that nobody was told of."""
        try:
            for snapshot in self._lvm.inventory().snapshots:
                ours = snapshot.snapshot_id == snapshot_id and not snapshot.for_copy
                if ours and is_of(snapshot, create_time):
                    log.warning("snapshot %s was left half-made; removing it", snapshot_id)
                    self._wipes.remove(snapshot)
                    self._catalog.drop_snapshot(snapshot)
            self._state.end_creating(snapshot_name(snapshot_id))
        except (EngineError, TargetdError) as error:
            # The record of the creation stays, so that the next start tries again.
            log.error("snapshot %s cannot be healed yet: %s", snapshot_id, error)

    def refresh(self, reported: Snapshot) -> None:
        """Take over how full LVM says that a snapshot is, unless it is going just now."""
        with suppress(Aborted), self._pins.pinned(reported.lv_name):
            known = self._catalog.find_snapshot(reported.snapshot_id)
            # Another one may have its id by now.
            if known is None or known.volume_id != reported.volume_id:
                return
            refreshed = replace(
                known,
                reserved_bytes=reported.reserved_bytes,
                used_percent=reported.used_percent,
                overflowed=reported.overflowed,
            )
            if refreshed != known:
                self._catalog.put_snapshot(refreshed)

    def delete(self, snapshot_id: str, deadline: Deadline) -> str:
        """Returns the id of the wipe that goes on, or an empty text."""

        def work() -> str:
            snapshot = self._catalog.find_snapshot(snapshot_id)
            if snapshot is None:
                return ""
            with self._pins.taken(snapshot.lv_name):
                self._refuse_copied(snapshot_id)
                deadline.check()
                return self._delete(snapshot)

        return self._workers.run(snapshot_name(snapshot_id), deadline, work)

    def _refuse_copied(self, snapshot_id: str) -> None:
        copied_to = self._copies.from_snapshot(snapshot_id)
        if copied_to:
            raise FailedPrecondition(
                f"snapshot {snapshot_id} is being copied to {', '.join(copied_to)}; wait for "
                "that, or delete them",
                reason="BEING_COPIED",
                snapshot_id=snapshot_id,
                volume_ids=",".join(copied_to),
            )

    def _delete(self, snapshot: Snapshot) -> str:
        # The volume must not be wiped or grown while LVM parts the two.
        with (
            self._pins.pinned(volume_name(snapshot.volume_id)),
            engine_refusals(
                f"LVM did not delete snapshot {snapshot.snapshot_id}",
                snapshot_id=snapshot.snapshot_id,
            ),
        ):
            operation_id = self._wipes.remove(snapshot)
        self._catalog.drop_snapshot(snapshot)
        return operation_id


def _same_or_refuse(existing: Snapshot, volume_id: str, reserve_bytes: int) -> Snapshot:
    if (existing.volume_id, existing.reserve_bytes) == (volume_id, reserve_bytes):
        return existing
    raise AlreadyExists(
        f"snapshot {existing.snapshot_id} exists, of volume {existing.volume_id}, made with "
        f"reserve_bytes {existing.reserve_bytes}",
        snapshot_id=existing.snapshot_id,
    )


def _check_reserve(volume: Volume, reserve_bytes: int) -> None:
    if reserve_bytes and volume.pool.provisioning is Provisioning.THIN:
        raise InvalidArgument(
            [
                FieldViolation(
                    "reserve_bytes",
                    f"must be 0: volume {volume.volume_id} is thin, and its snapshots take their "
                    "space from the pool",
                )
            ]
        )
