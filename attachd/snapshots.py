"""Snapshots: a volume as it was at one moment, on the storage host of the volume.

They are made and deleted in the volume's turn, so that a volume never goes under its snapshots.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from targetd_driver import DriverError

from attachd import outcomes
from attachd.claims import Claim, Claims, Step
from attachd.database.records import Records
from attachd.errors import NotFound, WrongStatus, of_driver
from attachd.hosts import Hosts
from attachd.model import Caller, Page, Snapshot, SnapshotFilter, SnapshotStatus, Volume
from attachd.volumes import USABLE


class Snapshots:
    """Safe for use by several threads. Raises AttachError and its kinds."""

    def __init__(self, records: Records, claims: Claims, hosts: Hosts) -> None:
        self._records = records
        self._claims = claims
        self._hosts = hosts

    def get(self, caller: Caller, snapshot_id: str) -> Snapshot:
        """Raises NotFound, also for another project's."""
        found = self._records.snapshot(snapshot_id)
        if found is None or not caller.may_see(found.project_id):
            raise NotFound("Snapshot", snapshot_id)
        return found

    def list(self, caller: Caller, where: SnapshotFilter, page: Page) -> Sequence[Snapshot]:
        """Raises NotFound for a marker that is none."""
        return self._records.snapshots(caller, where, page)

    def create(
        self,
        caller: Caller,
        volume_id: str,
        *,
        name: str = "",
        description: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Of the volume as it is now, also while it is in use.

        Returns it creating while the host does not answer. Raises NotFound; WrongStatus; NoRoom;
        HostRefused; HostUnavailable; Busy.
        """
        with self._claims.hold(volume_id, "snapshot", caller) as claim:
            with claim.begin() as step:
                volume = step.volume
                _check_usable(volume)
                driver = self._hosts.driver(volume.host)
                snapshot = _record(step, caller, name, description, metadata or {})
                step.changes.add_snapshot(snapshot)
            try:
                outcomes.make_snapshot(driver, snapshot)
            except DriverError as error:
                if not error.answered:
                    return self._wait_for_host(claim, volume.host, snapshot, error)
                with claim.end() as step:
                    step.changes.remove_snapshot(snapshot.id)
                raise of_driver(error, volume.host) from error
            with claim.end() as step:
                step.changes.update_snapshot(snapshot.id, status=SnapshotStatus.AVAILABLE)
        return replace(snapshot, status=SnapshotStatus.AVAILABLE)

    def update(
        self,
        caller: Caller,
        snapshot_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """What is not given stays as it is; ``metadata`` replaces all. Raises NotFound."""
        values: dict[str, Any] = {"name": name, "description": description, "metadata": metadata}
        values = {key: value for key, value in values.items() if value is not None}
        snapshot = self.get(caller, snapshot_id)
        with self._records.writing() as changes:
            if values and not changes.update_snapshot(snapshot_id, **values):
                raise NotFound("Snapshot", snapshot_id)
        return replace(snapshot, **values)

    def change_metadata(
        self,
        caller: Caller,
        snapshot_id: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> Mapping[str, str]:
        """``change`` makes of all there are what there is to be. Raises NotFound, and its own."""
        with self._records.writing() as changes:
            snapshot = changes.locked_snapshot(snapshot_id)
            if snapshot is None or not caller.may_see(snapshot.project_id):
                raise NotFound("Snapshot", snapshot_id)
            metadata = change(snapshot.metadata)
            changes.update_snapshot(snapshot_id, metadata=metadata)
        return metadata

    def delete(self, caller: Caller, snapshot_id: str) -> None:
        """What it held is wiped in the background. It may be deleting for a while.

        Raises NotFound; HostRefused while a volume is being filled from it; Busy.
        """
        volume_id = self.get(caller, snapshot_id).volume_id
        with self._claims.hold(volume_id, "delete snapshot") as claim:
            with claim.begin() as step:
                host = step.volume.host
                driver = self._hosts.driver(host)
                snapshot = step.changes.snapshot(snapshot_id)
                if snapshot is None:
                    raise NotFound("Snapshot", snapshot_id)
                step.changes.update_snapshot(snapshot_id, status=SnapshotStatus.DELETING, reason="")
            try:
                outcomes.delete_snapshot(driver, snapshot_id)
            except DriverError as error:
                if not outcomes.is_final(error):
                    deleting = replace(snapshot, status=SnapshotStatus.DELETING)
                    self._wait_for_host(claim, host, deleting, error)
                    return
                with claim.end() as step:
                    step.changes.update_snapshot(snapshot_id, **not_deleted(snapshot, host, error))
                raise of_driver(error, host) from error
            with claim.end() as step:
                step.changes.remove_snapshot(snapshot_id)

    def _wait_for_host(
        self, claim: Claim, host: str, snapshot: Snapshot, error: DriverError
    ) -> Snapshot:
        """The status stays as it is; unfinished.py goes on."""
        self._hosts.failed(host, error)
        reason = outcomes.waiting(host, error)
        with claim.end() as step:
            step.changes.update_snapshot(snapshot.id, reason=reason)
        self._hosts.attention.ask(host)
        return replace(snapshot, reason=reason)


def not_deleted(before: Snapshot, host: str, error: DriverError) -> dict[str, str]:
    """The host refuses, so it is as it was, or in an error if it was being deleted."""
    if before.status is not SnapshotStatus.DELETING:
        return {"status": before.status, "reason": before.reason}
    return {"status": SnapshotStatus.ERROR_DELETING, "reason": f"storage host {host}: {error}"}


def _check_usable(volume: Volume) -> None:
    if volume.status not in USABLE:
        raise WrongStatus(
            f"volume {volume.id} is {volume.status}; a snapshot can be taken when it is "
            f"{', '.join(sorted(USABLE))}"
        )


def _record(
    step: Step, caller: Caller, name: str, description: str, metadata: Mapping[str, str]
) -> Snapshot:
    volume, now = step.volume, step.changes.time
    return Snapshot(
        id=str(uuid.uuid4()),
        # An admin's snapshot of another project's volume is that project's.
        project_id=volume.project_id,
        user_id=caller.user_id,
        volume_id=volume.id,
        name=name,
        description=description,
        size_gib=volume.size_gib,
        status=SnapshotStatus.CREATING,
        metadata=dict(metadata),
        create_time=now,
        update_time=now,
    )
