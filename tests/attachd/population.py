"""Many records at once, as nobody could attach so many volumes in a test."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import event, insert

from attachd.database import rows
from attachd.database.engine import Database
from attachd.database.schema import attachments, snapshots, volumes
from attachd.model import (
    Attachment,
    AttachMode,
    AttachStatus,
    Snapshot,
    SnapshotStatus,
    Volume,
    VolumeStatus,
)
from tests.attachd.site import Clock, volume_record
from tests.attachd.watched import watched


class Population:
    """Volumes of the caller's project, each attached, and with a snapshot."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.volumes: list[Volume] = []
        self.attachments: list[Attachment] = []
        self.snapshots: list[Snapshot] = []

    def add(self, database: Database, count: int, **named: Any) -> list[Volume]:
        """Each some seconds younger than the one before; ``named`` is of all of them."""
        for number in range(count):
            self._clock.now += timedelta(seconds=1)
            volume = replace(
                volume_record(str(uuid.uuid4()), self._clock.now, multiattach=True),
                status=VolumeStatus.IN_USE,
                # Some have the same, so that the id decides.
                name=f"name {number % 3}",
                size_gib=1 + number % 4,
                **named,
            )
            self.volumes.append(volume)
            self.attachments.append(attachment_of(volume))
            self.snapshots.append(snapshot_of(volume))
        with database.writing() as connection:
            connection.execute(
                insert(volumes), list(map(rows.volume_values, self.volumes[-count:]))
            )
            connection.execute(
                insert(attachments), list(map(rows.attachment_values, self.attachments[-count:]))
            )
            connection.execute(
                insert(snapshots), list(map(rows.snapshot_values, self.snapshots[-count:]))
            )
        return self.volumes[-count:]


def attachment_of(volume: Volume) -> Attachment:
    return Attachment(
        id=str(uuid.uuid4()),
        project_id=volume.project_id,
        volume_id=volume.id,
        instance_uuid=str(uuid.uuid4()),
        attached_host="a",
        mountpoint=None,
        attach_time=volume.create_time,
        detach_time=None,
        attach_status=AttachStatus.ATTACHED,
        attach_mode=AttachMode.READ_WRITE,
        connector={"initiator": "iqn.2026-01.org.example:a", "host": "a"},
        connection_info={"driver_volume_type": "iscsi"},
        create_time=volume.create_time,
        update_time=volume.create_time,
    )


def snapshot_of(volume: Volume) -> Snapshot:
    return Snapshot(
        id=str(uuid.uuid4()),
        project_id=volume.project_id,
        user_id="user",
        volume_id=volume.id,
        name=volume.name,
        description="",
        size_gib=volume.size_gib,
        status=SnapshotStatus.AVAILABLE,
        metadata={},
        create_time=volume.create_time,
        update_time=volume.create_time,
    )


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """What goes to the database: statements by their first word, and transactions of writers."""
    found = Counter[str]()

    def statement(text: str, _parameters: object) -> None:
        found[text.split()[0]] += 1

    def commit(_connection: object) -> None:
        found["COMMIT"] += 1

    event.listen(database.engine, "commit", commit)
    try:
        with watched(database, statement):
            yield found
    finally:
        event.remove(database.engine, "commit", commit)
