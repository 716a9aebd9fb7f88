"""attachd's services over one database and simulated storage hosts, as its tests use them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from targetd_driver import TargetdDriver
from targetd_driver.connections import Connection

from attachd.actions import Actions
from attachd.attachments import Attachments
from attachd.claims import Claims
from attachd.connecting import Connecting
from attachd.database.engine import Database
from attachd.database.records import Records
from attachd.hosts import Hosts, Reach
from attachd.model import Attachment, Volume, VolumeStatus
from attachd.reconcile import Reconciler
from attachd.rules import Leases
from attachd.sealing import Sealing
from attachd.settling import Settling
from attachd.snapshots import Snapshots
from attachd.transitions import GRANTED, state_of, status_by
from attachd.volumes import Volumes
from tests.attachd.faults import FaultyDrivers
from tests.attachd.hosts import ADMIN as ADMIN
from tests.attachd.hosts import CALLER as CALLER
from tests.attachd.hosts import OTHER as OTHER
from tests.attachd.hosts import spec
from tests.hosts import MEBIBYTE, SimulatedBacking

KEY = bytes(range(32))
HOLD_SECONDS = 180.0
LEASE_SECONDS = 3600.0
HOST = "one"


class Clock:
    """Stands still unless a test moves it; the same for all services of a site."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        # Later with every look, so that what is made later is younger.
        self.now += timedelta(microseconds=1)
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Service:
    """What one attachd process has; abandoned, it is as one that was killed."""

    def __init__(self, database: Database, clock: Clock, wait_seconds: float) -> None:
        self.database = database
        self.records = Records(database, clock)
        self.claims = Claims(self.records, "test", HOLD_SECONDS, wait_seconds)
        self.hosts = Hosts(database, Reach(timeout_seconds=30))
        self.drivers = FaultyDrivers(self.hosts)
        leases, sealing = Leases(LEASE_SECONDS), Sealing(KEY)
        connecting = Connecting(sealing, leases)
        self.attachments = Attachments(self.records, self.claims, self.drivers, connecting, leases)
        self.actions = Actions(self.claims, self.drivers, connecting, sealing, leases)
        self.settling = Settling(self.records, self.claims, self.drivers, connecting)
        self.volumes = Volumes(self.records, self.claims, self.hosts)
        self.snapshots = Snapshots(self.records, self.claims, self.hosts)
        self.reconciler = Reconciler(self.records, self.claims, self.hosts, self.settling)

    def settle(self) -> None:
        """What the reconciler does for attachments."""
        for attachment in self.records.unfinished_attachments(HOST):
            self.settling.finish(attachment)

    def close(self) -> None:
        self.hosts.close()


class Site:
    def __init__(self, database: Database, backing: SimulatedBacking) -> None:
        self.database = database
        self.backing = backing
        self.clock = Clock()
        self._services: list[Service] = []
        self.service = self.start()
        self.service.hosts.add(spec(HOST, backing))
        self.driver = TargetdDriver(backing.endpoint)

    # Processes

    def start(self, wait_seconds: float = 30, database: Database | None = None) -> Service:
        """One more process over the same records, with connections of its own or the site's."""
        service = Service(database or self.database, self.clock, wait_seconds)
        self._services.append(service)
        return service

    def restart(self) -> Service:
        """What the killed one had claimed is free, some time later."""
        self.clock.pass_by(HOLD_SECONDS)
        self.service = self.start()
        return self.service

    def close(self) -> None:
        for service in self._services:
            service.close()
        self._empty_host()
        self.driver.close()

    def _empty_host(self) -> None:
        for snapshot in self.driver.snapshots.list():
            self.driver.snapshots.delete(snapshot.snapshot_id)
        for volume in self.driver.volumes.list():
            self.driver.terminate_connection({"id": volume.volume_id}, None, force=True)
            self.driver.remove_export(None, {"id": volume.volume_id})
            wipe = self.driver.volumes.delete(volume.volume_id)
            if wipe:
                self.driver.operations.wait(wipe, 60)

    def forget_targets(self) -> None:
        """As processes that have not yet seen which volumes have one."""
        for service in self._services:
            service.hosts.exported(HOST).clear()

    # Volumes

    def volume(self, multiattach: bool = False, project_id: str = CALLER.project_id) -> str:
        """A volume on the storage host, with its record; returns its id."""
        volume_id = str(uuid.uuid4())
        self.driver.volumes.create(volume_id, 16 * MEBIBYTE, "thin", multi_attach=multiattach)
        with self.service.records.writing() as changes:
            changes.add_volume(volume_record(volume_id, self.clock(), multiattach, project_id))
        return volume_id

    def record(self, volume_id: str) -> Volume:
        found = self.service.records.volume(volume_id)
        assert found is not None
        return found

    def status(self, volume_id: str) -> VolumeStatus:
        return self.record(volume_id).status

    def set_status(self, volume_id: str, status: VolumeStatus) -> None:
        with self.service.records.writing() as changes:
            changes.update_volume(volume_id, status=status)

    def attachment(self, attachment_id: str) -> Attachment | None:
        return self.service.records.attachment(attachment_id)

    # What is there

    def connections(self, volume_id: str) -> dict[str, Connection]:
        """As the storage host has them, by attachment id."""
        return {one.attachment_id: one for one in self.driver.connections.list(volume_id)}

    def exported(self, volume_id: str) -> bool:
        return any(volume_id in iqn for iqn in self.backing.kernel())

    def acls(self, volume_id: str) -> set[str]:
        """The initiators that the kernel lets in."""
        found = [names for iqn, names in self.backing.kernel().items() if volume_id in iqn]
        return set().union(*found)

    def agree(self, volume_id: str) -> None:
        """Records, the storage host and its kernel say the same, and nobody is at work."""
        volume = self.record(volume_id)
        granted = [one for one in volume.attachments if state_of(one) in GRANTED]
        connections = self.connections(volume_id)
        expected = {one.id: (_initiator(one), one.attach_mode) for one in granted}
        assert {
            id_: (one.initiator, one.access_mode) for id_, one in connections.items()
        } == expected
        assert self.acls(volume_id) == {initiator for initiator, _ in expected.values()}
        # The target stays for a while when nobody has access any more.
        assert self.exported(volume_id) or not granted
        assert volume.claim is None or volume.claim.until <= self.clock()
        assert volume.status is status_by(volume.attachments)


def _initiator(attachment: Attachment) -> str:
    assert attachment.connector is not None
    return str(attachment.connector["initiator"]).lower()


def connector(host: str = "a", **more: Any) -> dict[str, Any]:
    """As os-brick gathers it: more than any storage host looks at."""
    return {
        "initiator": f"iqn.2026-01.org.example.lab:{host}",
        "host": host,
        "ip": "192.0.2.7",
        "multipath": False,
        "platform": "x86_64",
        "os_type": "linux",
        "do_local_attach": False,
        **more,
    }


def volume_record(
    volume_id: str,
    time: datetime,
    multiattach: bool = False,
    project_id: str = CALLER.project_id,
) -> Volume:
    return Volume(
        id=volume_id,
        project_id=project_id,
        user_id="user",
        name="name",
        description="",
        size_gib=1,
        status=VolumeStatus.AVAILABLE,
        multiattach=multiattach,
        host=HOST,
        pool="thin",
        snapshot_id=None,
        source_volume_id=None,
        metadata={},
        create_time=time,
        update_time=time,
    )


@contextmanager
def site_over(database: Database, backing: SimulatedBacking) -> Iterator[Site]:
    site = Site(database, backing)
    try:
        yield site
    finally:
        site.close()


@contextmanager
def long_work_held(site: Site) -> Iterator[None]:
    """Copies and wipes do not go on."""
    site.backing.lvm.may_step.clear()
    try:
        yield
    finally:
        site.backing.lvm.may_step.set()
