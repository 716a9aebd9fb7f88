"""Volumes and snapshots that were begun and not done: gone on with, for the reconciler.

What a storage host refuses for good ends in an error with its reason; for everything else it is
asked again. Nobody waits for a claim here: who has it is at work on the volume.
"""

from __future__ import annotations

import logging

from targetd_driver import DriverError, NotFound, TargetdDriver
from targetd_driver.volumes import Volume as DriverVolume
from targetd_driver.volumes import VolumeState

from attachd import outcomes
from attachd.claims import Claim, Claims
from attachd.errors import of_driver
from attachd.hosts import Hosts
from attachd.model import Snapshot, SnapshotStatus, Volume, VolumeStatus
from attachd.placement import GIBIBYTE
from attachd.snapshots import not_deleted as snapshot_not_deleted
from attachd.volumes import made_known, not_deleted

log = logging.getLogger(__name__)

PURPOSE = "reconcile"
VOLUME_WORK = frozenset({VolumeStatus.CREATING, VolumeStatus.EXTENDING, VolumeStatus.DELETING})
SNAPSHOT_WORK = frozenset({SnapshotStatus.CREATING, SnapshotStatus.DELETING})


class Unfinished:
    """Each method looks at the record again under the claim of its volume.

    Raises Busy; NotFound for a volume that has gone; and AttachError for a storage host that did
    not do it, to be called again.
    """

    def __init__(self, claims: Claims, hosts: Hosts) -> None:
        self._claims = claims
        self._hosts = hosts

    def volume(self, found: Volume) -> bool:
        """Returns whether it is done, well or not; otherwise it is being filled."""
        driver = self._hosts.driver(found.host)
        # Looked at every second: without a claim as long as nothing changes.
        if found.status is VolumeStatus.CREATING and _is_copying(driver, found):
            return False
        with self._claims.hold(found.id, PURPOSE, wait_seconds=0) as claim:
            with claim.begin() as step:
                volume = step.volume
                step.is_last = volume.status not in VOLUME_WORK
            if step.is_last:
                return True
            return self._go_on(claim, driver, volume)

    def _go_on(self, claim: Claim, driver: TargetdDriver, volume: Volume) -> bool:
        try:
            made = _done(driver, volume)
        except DriverError as error:
            self._refused(claim, driver, volume, error)
            return True
        with claim.end() as step:
            if made is None:
                step.remove_volume()
            else:
                made_known(step, made)
        if made is not None and made.state is VolumeState.COPYING:
            return False
        log.info("volume %s: done, after it was cut off %s", volume.id, volume.status)
        return True

    def _refused(
        self, claim: Claim, driver: TargetdDriver, volume: Volume, error: DriverError
    ) -> None:
        """Raises AttachError where it is to be asked again."""
        if not outcomes.is_final(error):
            with claim.end() as step:
                step.set_status(volume.status, outcomes.waiting(volume.host, error))
            raise of_driver(error, volume.host) from error
        size_gib = _size_gib(driver, volume)
        reason = f"storage host {volume.host}: {error}"
        with claim.end() as step:
            match volume.status:
                case VolumeStatus.CREATING:
                    step.set_status(VolumeStatus.ERROR, reason)
                case VolumeStatus.EXTENDING:
                    step.values["size_gib"] = size_gib
                    step.set_status(VolumeStatus.ERROR_EXTENDING, reason)
                case _:
                    not_deleted(step, volume, error)
        log.error(
            "volume %s: not done, after it was cut off %s: %s", volume.id, volume.status, reason
        )

    def missing(self, found: Volume) -> None:
        """One that is available, and that its storage host did not name: in an error, if so."""
        with self._claims.hold(found.id, PURPOSE, wait_seconds=0) as claim:
            with claim.begin() as step:
                driver = self._hosts.driver(step.volume.host)
                step.is_last = step.volume.status is not VolumeStatus.AVAILABLE
            if step.is_last:
                return
            try:
                driver.volumes.get(found.id)
                reason = ""
            except NotFound:
                reason = (
                    f"storage host {found.host} has no such volume any more; bring it back there "
                    "and reset its status, or delete it"
                )
            except DriverError as error:
                raise of_driver(error, found.host) from error
            with claim.end() as step:
                if reason:
                    step.set_status(VolumeStatus.ERROR, reason)
        if reason:
            log.error("volume %s: %s", found.id, reason)

    def snapshot(self, found: Snapshot) -> None:
        with self._claims.hold(found.volume_id, PURPOSE, wait_seconds=0) as claim:
            with claim.begin() as step:
                host = step.volume.host
                driver = self._hosts.driver(host)
                snapshot = step.changes.snapshot(found.id)
                step.is_last = snapshot is None or snapshot.status not in SNAPSHOT_WORK
            if snapshot is None or step.is_last:
                return
            try:
                if snapshot.status is SnapshotStatus.CREATING:
                    outcomes.make_snapshot(driver, snapshot)
                else:
                    outcomes.delete_snapshot(driver, snapshot.id)
            except DriverError as error:
                self._snapshot_refused(claim, host, snapshot, error)
                return
            with claim.end() as step:
                if snapshot.status is SnapshotStatus.CREATING:
                    available = SnapshotStatus.AVAILABLE
                    step.changes.update_snapshot(snapshot.id, status=available, reason="")
                else:
                    step.changes.remove_snapshot(snapshot.id)
        log.info("snapshot %s: done, after it was cut off %s", snapshot.id, snapshot.status)

    def _snapshot_refused(
        self, claim: Claim, host: str, snapshot: Snapshot, error: DriverError
    ) -> None:
        """Raises AttachError where it is to be asked again."""
        with claim.end() as step:
            step.changes.update_snapshot(snapshot.id, **_snapshot_after(host, snapshot, error))
        if not outcomes.is_final(error):
            raise of_driver(error, host) from error
        log.error("snapshot %s: not done, after it was cut off: %s", snapshot.id, error)


def _done(driver: TargetdDriver, volume: Volume) -> DriverVolume | None:
    """Returns it as it is there; None when it has gone. Raises DriverError."""
    match volume.status:
        case VolumeStatus.CREATING:
            return outcomes.make_volume(driver, volume)
        case VolumeStatus.EXTENDING:
            return outcomes.extend_volume(driver, volume)
        case _:
            outcomes.delete_volume(driver, volume.id)
            return None


def _snapshot_after(host: str, snapshot: Snapshot, error: DriverError) -> dict[str, str]:
    if not outcomes.is_final(error):
        return {"reason": outcomes.waiting(host, error)}
    if snapshot.status is SnapshotStatus.CREATING:
        return {"status": SnapshotStatus.ERROR, "reason": f"storage host {host}: {error}"}
    return snapshot_not_deleted(snapshot, host, error)


def _is_copying(driver: TargetdDriver, volume: Volume) -> bool:
    """Raises AttachError."""
    try:
        return driver.volumes.get(volume.id).state is VolumeState.COPYING
    except NotFound:
        return False
    except DriverError as error:
        raise of_driver(error, volume.host) from error


def _size_gib(driver: TargetdDriver, volume: Volume) -> int:
    """As it is there; as it was to be where the host does not say."""
    try:
        return driver.volumes.get(volume.id).size_bytes // GIBIBYTE
    except DriverError:
        return volume.size_gib
