"""Volumes: made, grown and deleted; each call idempotent, each in the volume's turn."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.copies import Copies
from targetd.engines.interface import EngineError, LvmEngine, Origin
from targetd.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    TargetdError,
)
from targetd.failpoints import failpoint
from targetd.model import PoolConfig, Provisioning, Source, Volume, is_of, volume_name, wwid
from targetd.pins import Pins
from targetd.pools import Pools
from targetd.refusals import engine_refusals
from targetd.state import State
from targetd.wipes import Wipes
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewVolume:
    """What a caller asks for in CreateVolume."""

    volume_id: str
    pool: PoolConfig
    size_bytes: int
    multi_attach: bool
    source: Source | None = None


class Volumes:
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
        self._identities = threading.Lock()
        self._claimed: dict[str, str] = {}

    # Making

    def create(self, wanted: NewVolume, deadline: Deadline) -> Volume:
        def work() -> Volume:
            existing = self._catalog.find_volume(wanted.volume_id)
            if existing is not None:
                return self._same_or_refuse(existing, wanted)
            with self._copies.held(wanted.source) as origin:
                _check_origin(wanted, origin)
                promised_bytes = self._catalog.promised_bytes(wanted.pool)
                self._pools.check_watermarks(wanted.pool, promised_bytes, wanted.size_bytes)
                deadline.check()
                self.claim_identity(wanted.volume_id)
                return self._create(wanted, origin)

        return self._workers.run(wanted.volume_id, deadline, work)

    def _same_or_refuse(self, existing: Volume, wanted: NewVolume) -> Volume:
        size_bytes = self._lvm.rounded(wanted.pool, wanted.size_bytes)
        has = (existing.pool, existing.size_bytes, existing.multi_attach, existing.source)
        if has == (wanted.pool, size_bytes, wanted.multi_attach, wanted.source):
            return existing
        source = existing.source
        made_from = f"from {source.kind} {source.source_id}" if source else "from no source"
        raise AlreadyExists(
            f"volume {existing.volume_id} exists with {existing.size_bytes} bytes in pool "
            f"{existing.pool.name}, multi_attach {str(existing.multi_attach).lower()}, {made_from}",
            volume_id=existing.volume_id,
        )

    def claim_identity(self, volume_id: str) -> None:
        """Refuse an id whose disks an initiator could take for another volume's.

        Linux knows a LIO disk by the first 25 hexadecimal digits of its serial;
        two volumes alike there would be merged by multipath. Raises InvalidArgument.
        """
        identity = wwid(volume_id)
        with self._identities:
            owner = self._catalog.owner_of(identity) or self._claimed.get(identity, "")
            if owner in ("", volume_id):
                self._claimed[identity] = volume_id
                return
        raise InvalidArgument(
            [
                FieldViolation(
                    "volume_id",
                    f"has its first 25 digits in common with volume {owner}, so that "
                    "initiators would take one disk for the other; use a random UUID",
                )
            ]
        )

    def unclaim_identity(self, volume_id: str) -> None:
        """The catalog has the volume by now, or there will be none."""
        with self._identities:
            self._claimed.pop(wwid(volume_id), None)

    def _create(self, wanted: NewVolume, origin: Origin | None) -> Volume:
        asked = Volume(
            volume_id=wanted.volume_id,
            pool=wanted.pool,
            size_bytes=wanted.size_bytes,
            multi_attach=wanted.multi_attach,
            create_time=datetime.now(UTC),
            source=wanted.source,
        )
        self._state.begin_creating(asked.lv_name, asked.create_time)
        failpoint("volume-begun")
        try:
            with engine_refusals(
                f"LVM did not create volume {asked.volume_id}", volume_id=asked.volume_id
            ):
                made = self._copies.make(asked, origin) if origin else self._lvm.create(asked)
            failpoint("volume-made")
            self._state.end_creating(asked.lv_name)
            self._catalog.put_volume(made)
        except TargetdError:
            self.heal_creation(asked.volume_id, asked.create_time)
            raise
        finally:
            self.unclaim_identity(asked.volume_id)
        if made.copy_id:
            self._copies.begin(made)
        return made

    def heal_creation(self, volume_id: str, create_time: datetime | None) -> None:
        """Bring a creation that was begun to its end, or take away what it left.

        A power cut can leave a thin volume in LVM's metadata that its pool does
        not know; it cannot be activated, and nobody was told of it. What another creation
        has made stays: records that were restored can be older than it. So does what
        is adopted: it may be on its way to another id.
        """
        try:
            found = [v for v in self._lvm.inventory().volumes if v.volume_id == volume_id]
            left = [v for v in found if not v.adopted_name and is_of(v, create_time)]
            for volume in left:
                self._heal(volume)
            if left == found:
                self._copies.let_go(volume_id)
            if not found:
                self._catalog.drop_volume(volume_id)
            self._state.end_creating(volume_name(volume_id))
        except (EngineError, TargetdError) as error:
            # The record of the creation stays, so that the next start tries again.
            log.error("volume %s cannot be healed yet: %s", volume_id, error)

    def _heal(self, volume: Volume) -> None:
        reason = "nobody was told of it, and its source may have changed"
        if volume.source is None:
            try:
                self._lvm.activate(volume)
            except EngineError as error:
                reason = str(error)
            else:
                self._catalog.put_volume(volume)
                return
        log.warning("volume %s was left half-made; removing it: %s", volume.volume_id, reason)
        self._lvm.remove(volume)
        self._catalog.drop_volume(volume.volume_id)

    # Growing

    def extend(self, volume_id: str, size_bytes: int, deadline: Deadline) -> Volume:
        def work() -> Volume:
            volume = self._catalog.volume(volume_id)
            if size_bytes <= volume.size_bytes:
                return volume
            with self._pins.taken(volume.lv_name):
                return self._extend(volume, size_bytes, deadline)

        return self._workers.run(volume_id, deadline, work)

    def _extend(self, volume: Volume, size_bytes: int, deadline: Deadline) -> Volume:
        refuse_copying(volume)
        if volume.pool.provisioning is Provisioning.THICK:
            self.refuse_snapshots(volume)
        more = size_bytes - volume.size_bytes
        self._pools.check_watermarks(volume.pool, self._catalog.promised_bytes(volume.pool), more)
        deadline.check()
        with engine_refusals(
            f"LVM did not extend volume {volume.volume_id}", volume_id=volume.volume_id
        ):
            grown = self._lvm.extend(volume, size_bytes)
        self._catalog.put_volume(grown)
        return grown

    # Deleting

    def delete(self, volume_id: str, deadline: Deadline) -> str:
        """Returns the id of the wipe that goes on, or an empty text."""

        def work() -> str:
            volume = self._catalog.find_volume(volume_id)
            if volume is None:
                return ""
            with self._pins.taken(volume.lv_name):
                self.refuse_in_use(volume)
                deadline.check()
                return self._delete(volume, deadline)

        return self._workers.run(volume_id, deadline, work)

    def _delete(self, volume: Volume, deadline: Deadline) -> str:
        if volume.copy_id and not self._copies.stop(volume, deadline.remaining_seconds):
            raise DeadlineExceeded(
                f"the copy that fills volume {volume.volume_id} did not end in time; try again",
                volume_id=volume.volume_id,
            )
        with engine_refusals(
            f"LVM did not delete volume {volume.volume_id}", volume_id=volume.volume_id
        ):
            operation_id = self._wipes.remove(volume)
        self._catalog.drop_volume(volume.volume_id)
        return operation_id

    def refuse_in_use(self, volume: Volume) -> None:
        """Raises FailedPrecondition, naming what stands against its going."""
        volume_id = volume.volume_id
        attachments = [c.attachment_id for c in self._catalog.connections(volume_id)]
        if attachments:
            raise FailedPrecondition(
                f"volume {volume_id} has connections: {', '.join(attachments)}; "
                "terminate them first",
                reason="HAS_CONNECTIONS",
                volume_id=volume_id,
                attachment_ids=",".join(attachments),
            )
        if self._catalog.find_export(volume_id) is not None:
            raise FailedPrecondition(
                f"volume {volume_id} is exported; call RemoveExport first",
                reason="EXPORTED",
                volume_id=volume_id,
            )
        self.refuse_snapshots(volume)

    def refuse_snapshots(self, volume: Volume) -> None:
        """Raises FailedPrecondition, naming the snapshots and copies of the volume."""
        found = self._catalog.snapshots_and_sources(volume.volume_id)
        for_copies = [one.snapshot_id for one in found if one.for_copy]
        if for_copies:
            raise FailedPrecondition(
                f"volume {volume.volume_id} is being copied to {', '.join(for_copies)}; wait for "
                "that, or delete them",
                reason="BEING_COPIED",
                volume_id=volume.volume_id,
                volume_ids=",".join(for_copies),
            )
        if found:
            names = [one.snapshot_id for one in found]
            raise FailedPrecondition(
                f"volume {volume.volume_id} has snapshots: {', '.join(names)}; delete them first",
                reason="HAS_SNAPSHOTS",
                volume_id=volume.volume_id,
                snapshot_ids=",".join(names),
            )


def refuse_copying(volume: Volume) -> None:
    """Raises FailedPrecondition while the volume is being filled from its source."""
    if volume.copy_id:
        raise FailedPrecondition(
            f"volume {volume.volume_id} is being filled from its source by operation "
            f"{volume.copy_id}; wait until that is done",
            reason="COPYING",
            volume_id=volume.volume_id,
            operation_id=volume.copy_id,
        )


def _check_origin(wanted: NewVolume, origin: Origin | None) -> None:
    if origin is None:
        return
    if isinstance(origin, Volume):
        refuse_copying(origin)
    elif origin.overflowed:
        raise FailedPrecondition(
            f"snapshot {origin.snapshot_id} has lost its content: its reserved space ran out",
            reason="SNAPSHOT_OVERFLOWED",
            snapshot_id=origin.snapshot_id,
        )
    if wanted.size_bytes < origin.size_bytes:
        raise InvalidArgument(
            [FieldViolation("size_bytes", f"must be at least its source's, {origin.size_bytes}")]
        )
