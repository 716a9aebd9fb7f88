"""Volumes: made, grown and deleted on the storage host that each is placed on.

What is asked of a storage host is recorded first: a host that does not answer leaves the volume
creating, extending or deleting, and attachd goes on with it (unfinished.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from targetd_driver import DriverError, TargetdDriver
from targetd_driver import volumes as driver_volumes

from attachd import explain, outcomes
from attachd.claims import Claim, Claims, Step
from attachd.database import host_records
from attachd.database.records import Records
from attachd.errors import (
    HostUnavailable,
    InUse,
    Invalid,
    NoRoom,
    NotAllowed,
    NotFound,
    WrongStatus,
    of_driver,
)
from attachd.hosts import Hosts
from attachd.model import (
    Caller,
    HostState,
    NewVolume,
    Page,
    SnapshotStatus,
    Volume,
    VolumeFilter,
    VolumeStatus,
)
from attachd.placement import GIBIBYTE, Place
from attachd.transitions import status_by

# 16 PiB: more is a mistake.
SIZE_GIB_MAX = 1 << 24
# Whole, and not about to change.
USABLE = frozenset(
    {
        VolumeStatus.AVAILABLE,
        VolumeStatus.RESERVED,
        VolumeStatus.ATTACHING,
        VolumeStatus.IN_USE,
        VolumeStatus.DETACHING,
    }
)
EXTENDABLE = frozenset(
    {
        VolumeStatus.AVAILABLE,
        VolumeStatus.RESERVED,
        VolumeStatus.IN_USE,
        VolumeStatus.ERROR_EXTENDING,
    }
)
RESETTABLE = frozenset({VolumeStatus.AVAILABLE, VolumeStatus.IN_USE, VolumeStatus.ERROR})


@dataclass(frozen=True)
class _Source:
    """Where a volume's content is now: it is made on the same storage host."""

    kind: str
    id: str
    host: str
    pool: str
    size_gib: int


class Volumes:
    """Safe for use by several threads. Raises AttachError and its kinds."""

    def __init__(self, records: Records, claims: Claims, hosts: Hosts) -> None:
        self._records = records
        self._claims = claims
        self._hosts = hosts

    # Looking

    def get(self, caller: Caller, volume_id: str) -> Volume:
        """Raises NotFound, also for another project's."""
        found = self._records.volume(volume_id)
        if found is None or not caller.may_see(found.project_id):
            raise NotFound("Volume", volume_id)
        return found

    def list(self, caller: Caller, where: VolumeFilter, page: Page) -> Sequence[Volume]:
        """Each with its attachments. Raises NotFound for a marker that is none."""
        return self._records.volumes(caller, where, page)

    def explain(self, caller: Caller, volume_id: str) -> Sequence[str]:
        """What the records and the storage host say of it, now, and why it is as it is."""
        return explain.volume(self._records, self._hosts, self.get(caller, volume_id))

    # Making

    def create(self, caller: Caller, new: NewVolume) -> Volume:
        """Returns it creating while it is being filled, or while its host does not answer.

        Raises Invalid; NotFound and WrongStatus for the source; NoRoom, which says why of each
        pool; HostUnavailable.
        """
        source = self._source(caller, new)
        size_gib = _size(new, source)
        where = Place.named(new.place)
        if source is not None:
            return self._make(self._record(caller, new, size_gib, *_beside(source, where)))
        refused: dict[tuple[str, str], str] = {}
        while True:
            place = self._hosts.place(size_gib, where, refused)
            try:
                return self._make(self._record(caller, new, size_gib, *place))
            except (NoRoom, HostUnavailable) as error:
                refused[place] = str(error)

    def _source(self, caller: Caller, new: NewVolume) -> _Source | None:
        if new.snapshot_id and new.source_volume_id:
            raise Invalid("a volume has one source: a snapshot or a volume, not both")
        if new.snapshot_id:
            return self._snapshot(caller, new.snapshot_id)
        if new.source_volume_id:
            volume = self.get(caller, new.source_volume_id)
            if volume.status not in USABLE:
                raise WrongStatus(f"volume {volume.id} is {volume.status}: wait until it is not")
            return _Source("volume", volume.id, volume.host, volume.pool, volume.size_gib)
        return None

    def _snapshot(self, caller: Caller, snapshot_id: str) -> _Source:
        snapshot = self._records.snapshot(snapshot_id)
        if snapshot is None or not caller.may_see(snapshot.project_id):
            raise NotFound("Snapshot", snapshot_id)
        if snapshot.status is not SnapshotStatus.AVAILABLE:
            raise WrongStatus(f"snapshot {snapshot_id} is {snapshot.status}, not available")
        volume = self._records.volume(snapshot.volume_id)
        if volume is None:
            raise NotFound("Volume", snapshot.volume_id)
        return _Source("snapshot", snapshot_id, volume.host, volume.pool, snapshot.size_gib)

    def _record(
        self, caller: Caller, new: NewVolume, size_gib: int, host: str, pool: str
    ) -> Volume:
        now = self._records.clock()
        return Volume(
            id=str(uuid.uuid4()),
            project_id=caller.project_id,
            user_id=caller.user_id,
            name=new.name,
            description=new.description,
            size_gib=size_gib,
            status=VolumeStatus.CREATING,
            multiattach=new.multiattach,
            host=host,
            pool=pool,
            snapshot_id=new.snapshot_id,
            source_volume_id=new.source_volume_id,
            metadata=dict(new.metadata),
            create_time=now,
            update_time=now,
        )

    def _make(self, volume: Volume) -> Volume:
        driver = self._hosts.driver(volume.host)
        with self._claims.hold(volume.id, "create") as claim:
            with claim.begin_new(volume) as step:
                # Who drains or removes the host either sees this volume, or is seen here.
                if host_records.state(step.changes.connection, volume.host) is not HostState.UP:
                    raise NoRoom(
                        f"storage host {volume.host} is being drained: nothing new is placed there"
                    )
            try:
                made = outcomes.make_volume(driver, volume)
            except DriverError as error:
                if error.answered:
                    self._unmake(claim, driver, volume)
                    raise of_driver(error, volume.host) from error
                return self._wait_for_host(claim, volume.host, error)
            with claim.end() as step:
                made_known(step, made)
        if step.volume.status is VolumeStatus.CREATING:
            self._hosts.attention.ask(volume.host)
        return step.volume

    def _unmake(self, claim: Claim, driver: TargetdDriver, volume: Volume) -> None:
        """Refused; the host may yet have something of it that it could not take back."""
        try:
            outcomes.delete_volume(driver, volume.id)
        except DriverError as error:
            with claim.end() as step:
                step.set_status(VolumeStatus.DELETING, outcomes.waiting(volume.host, error))
            self._hosts.attention.ask(volume.host)
        else:
            with claim.end() as step:
                step.remove_volume()

    def _wait_for_host(self, claim: Claim, host: str, error: DriverError) -> Volume:
        """The status stays as it is; unfinished.py goes on."""
        self._hosts.failed(host, error)
        with claim.end() as step:
            step.set_status(step.volume.status, outcomes.waiting(host, error))
        self._hosts.attention.ask(host)
        return step.volume

    # Changing

    def update(
        self,
        caller: Caller,
        volume_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Volume:
        """What is not given stays as it is; ``metadata`` replaces all. Raises NotFound."""
        values: dict[str, Any] = {"name": name, "description": description, "metadata": metadata}
        values = {key: value for key, value in values.items() if value is not None}
        # Whoever works on the volume meanwhile does not look at these: no claim is needed.
        with self._records.writing() as changes:
            volume = changes.locked_volume(volume_id)
            if volume is None or not caller.may_see(volume.project_id):
                raise NotFound("Volume", volume_id)
            if values:
                changes.update_volume(volume_id, **values)
        return replace(volume, **values)

    def change_metadata(
        self,
        caller: Caller,
        volume_id: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> Mapping[str, str]:
        """``change`` makes of all there are what there is to be. Raises NotFound, and its own."""
        with self._records.writing() as changes:
            volume = changes.locked_volume(volume_id)
            if volume is None or not caller.may_see(volume.project_id):
                raise NotFound("Volume", volume_id)
            metadata = change(volume.metadata)
            changes.update_volume(volume_id, metadata=metadata)
        return metadata

    def extend(self, caller: Caller, volume_id: str, size_gib: int) -> Volume:
        """Grow it, also while it is in use; its attaching hosts have to look again.

        Returns it extending while its host does not answer. Raises NotFound; Invalid for a size
        that is not more; WrongStatus; NoRoom; HostRefused; Busy.
        """
        with self._claims.hold(volume_id, "extend", caller) as claim:
            with claim.begin() as step:
                before = step.volume
                _check_extension(before, size_gib)
                driver = self._hosts.driver(before.host)
                # The record has what is wanted, for those who go on with it.
                step.values["size_gib"] = size_gib
                step.set_status(VolumeStatus.EXTENDING)
            wanted = replace(step.volume, size_gib=size_gib)
            try:
                outcomes.extend_volume(driver, wanted)
            except DriverError as error:
                if error.answered:
                    with claim.end() as step:
                        step.values["size_gib"] = before.size_gib
                        step.set_status(before.status, before.reason)
                    raise of_driver(error, before.host) from error
                return replace(self._wait_for_host(claim, before.host, error), size_gib=size_gib)
            with claim.end() as step:
                step.set_status(status_by(step.remaining()))
        return replace(step.volume, size_gib=size_gib)

    def reset_status(self, caller: Caller, volume_id: str, status: VolumeStatus) -> Volume:
        """For admins: mark it broken, or good again, when its storage host says that it is.

        Its attachments then say what it is. Raises NotAllowed, NotFound; Invalid for other
        statuses; InUse for available while there are attachments; HostRefused when the host has
        no such volume; HostUnavailable; Busy.
        """
        if not caller.is_admin:
            raise NotAllowed("the status of a volume is reset by an administrator only")
        if status not in RESETTABLE:
            raise Invalid(f"status: must be one of {', '.join(sorted(RESETTABLE))}")
        with self._claims.hold(volume_id, "reset status", caller) as claim:
            with claim.begin() as step:
                if status is VolumeStatus.AVAILABLE:
                    _refuse_attached(step)
                if status is VolumeStatus.ERROR:
                    step.set_status(status, "set by an administrator")
                    step.is_last = True
            if step.is_last:
                return step.volume
            host = step.volume.host
            try:
                found = self._hosts.driver(host).volumes.get(volume_id)
            except DriverError as error:
                raise of_driver(error, host) from error
            with claim.end() as step:
                step.values["size_gib"] = found.size_bytes // GIBIBYTE
                made_known(step, found)
        return replace(step.volume, size_gib=found.size_bytes // GIBIBYTE)

    # Deleting

    def delete(self, caller: Caller, volume_id: str) -> None:
        """What it held is wiped in the background. It may be deleting for a while.

        Raises NotFound; InUse, naming its attachments or snapshots; HostRefused; Busy.
        """
        with self._claims.hold(volume_id, "delete", caller) as claim:
            with claim.begin() as step:
                before = step.volume
                _refuse_attached(step)
                _refuse_snapshots(step)
                driver = self._hosts.driver(before.host)
                step.set_status(VolumeStatus.DELETING)
            try:
                outcomes.delete_volume(driver, volume_id)
            except DriverError as error:
                if not outcomes.is_final(error):
                    self._wait_for_host(claim, before.host, error)
                    return
                with claim.end() as step:
                    not_deleted(step, before, error)
                raise of_driver(error, before.host) from error
            with claim.end() as step:
                step.remove_volume()


def made_known(step: Step, made: driver_volumes.Volume) -> None:
    """What the storage host has made of a volume that is creating."""
    if made.state is driver_volumes.VolumeState.COPYING:
        step.set_status(VolumeStatus.CREATING, "is being filled from its source")
    else:
        step.set_status(status_by(step.remaining()))


def not_deleted(step: Step, before: Volume, error: DriverError) -> None:
    """The host refuses, so the volume is as it was, or in an error if it was being deleted."""
    if before.status is VolumeStatus.DELETING:
        reason = f"storage host {before.host}: {error}"
        step.set_status(VolumeStatus.ERROR_DELETING, reason)
    else:
        step.set_status(before.status, before.reason)


def _size(new: NewVolume, source: _Source | None) -> int:
    size_gib = new.size_gib
    if size_gib is None:
        if source is None:
            raise Invalid("size: a volume without a source needs one, in GiB")
        return source.size_gib
    if not 0 < size_gib <= SIZE_GIB_MAX:
        raise Invalid(f"size: {size_gib} GiB is not between 1 and {SIZE_GIB_MAX}")
    if source is not None and size_gib < source.size_gib:
        raise Invalid(
            f"size: {size_gib} GiB is less than the {source.size_gib} GiB of its source, "
            f"{source.kind} {source.id}"
        )
    return size_gib


def _beside(source: _Source, where: Place) -> tuple[str, str]:
    """On the host of the source, and in its pool unless another is named. Raises Invalid."""
    if where.host not in (None, source.host):
        raise Invalid(
            f"place: {where} is not on storage host {source.host}, where {source.kind} "
            f"{source.id} is; leave it out"
        )
    return source.host, where.pool or source.pool


def _check_extension(volume: Volume, size_gib: int) -> None:
    if volume.status not in EXTENDABLE:
        raise WrongStatus(
            f"volume {volume.id} is {volume.status}; it can be extended when it is "
            f"{', '.join(sorted(EXTENDABLE))}"
        )
    if not volume.size_gib < size_gib <= SIZE_GIB_MAX:
        raise Invalid(
            f"new_size: must be more than the {volume.size_gib} GiB that volume {volume.id} has, "
            f"and not more than {SIZE_GIB_MAX}"
        )


def _refuse_attached(step: Step) -> None:
    attachments = [f"{one.id} ({one.attach_status})" for one in step.remaining()]
    if attachments:
        raise InUse(
            f"volume {step.volume.id} has attachments: {', '.join(attachments)}; delete them first"
        )


def _refuse_snapshots(step: Step) -> None:
    snapshots = [one.id for one in step.changes.snapshots_of(step.volume.id)]
    if snapshots:
        raise InUse(
            f"volume {step.volume.id} has snapshots: {', '.join(snapshots)}; delete them first"
        )
