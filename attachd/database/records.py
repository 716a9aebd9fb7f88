"""What is read from the records, and what is written to them.

A read outside a transaction is a statement of its own, or two. What changes a volume, its
attachments or its snapshots does it in a transaction of the volume's claim: see claims.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from attachd.clock import Clock, now
from attachd.database import lists, rows
from attachd.database.engine import Database
from attachd.database.schema import (
    ATTACHMENT_UNFINISHED,
    SNAPSHOT_UNFINISHED,
    VOLUME_UNFINISHED,
    attachments,
    snapshots,
    volumes,
)
from attachd.database.statements import Reading, Writing
from attachd.errors import NotFound
from attachd.model import (
    Attachment,
    AttachmentFilter,
    AttachStatus,
    Caller,
    Page,
    Snapshot,
    SnapshotFilter,
    Volume,
    VolumeFilter,
)


def _live(table: Table, columns: Collection[ColumnElement[Any]]) -> Select[Any]:
    return select(*columns).where(table.c.delete_time.is_(None))


# All that an attachment shows; sealed secrets are asked for by themselves.
ATTACHMENT_COLUMNS = [column for column in attachments.c if column.name != "sealed_secrets"]
VOLUME_COLUMNS = list(volumes.c)
SNAPSHOT_COLUMNS = list(snapshots.c)

# Those of every call are made once: to make one costs more than to run it.
ONE_VOLUME = _live(volumes, VOLUME_COLUMNS).where(volumes.c.id == bindparam("of"))
# SQLite has one writer anyway, and knows no such clause: it is left out there.
LOCKED_VOLUME = ONE_VOLUME.with_for_update()
UPDATED_VOLUME = update(volumes).where(
    volumes.c.id == bindparam("of"), volumes.c.delete_time.is_(None)
)
UPDATED_CLAIMED_VOLUME = UPDATED_VOLUME.where(volumes.c.claimed_by == bindparam("by"))
ONE_ATTACHMENT = _live(attachments, ATTACHMENT_COLUMNS).where(attachments.c.id == bindparam("of"))
PLACE_OF_ATTACHMENT = _live(attachments, [attachments.c.project_id, attachments.c.volume_id]).where(
    attachments.c.id == bindparam("of")
)
ATTACHMENTS_OF_VOLUME = (
    _live(attachments, ATTACHMENT_COLUMNS)
    .where(attachments.c.volume_id == bindparam("of"))
    .order_by(attachments.c.create_time, attachments.c.id)
)
ADDED_ATTACHMENT = insert(attachments)
UPDATED_ATTACHMENT = update(attachments).where(
    attachments.c.id == bindparam("of"), attachments.c.delete_time.is_(None)
)


class Reads(Reading):
    """Statements that change nothing. What was deleted is not found."""

    # Volumes

    def volume(self, volume_id: str) -> Volume | None:
        """With its attachments, by age. Two statements."""
        row = self._row(ONE_VOLUME, of=volume_id)
        if row is None:
            return None
        return rows.volume_of(row, self.attachments_of(volume_id))

    def volumes(self, caller: Caller, where: VolumeFilter, page: Page) -> list[Volume]:
        """Each with its attachments. Two statements, three with a marker. Raises NotFound."""
        conditions = lists.volumes_where(caller, where)
        found = self._page(volumes, VOLUME_COLUMNS, conditions, page, "Volume marker", caller)
        by_volume = self._attachments_by_volume([row["id"] for row in found])
        return [rows.volume_of(row, tuple(by_volume[row["id"]])) for row in found]

    def unfinished_volumes(self, host: str, after: str = "", limit: int = 1000) -> list[Volume]:
        """Of a storage host, those creating, extending or deleting: by id, those after that id.

        Without their attachments.
        """
        statement = _live(volumes, VOLUME_COLUMNS).where(
            VOLUME_UNFINISHED, volumes.c.host == host, volumes.c.id > after
        )
        found = self._rows(statement.order_by(volumes.c.id).limit(limit))
        return [rows.volume_of(row) for row in found]

    def volumes_of_host(self, host: str, after: str = "", limit: int = 1000) -> list[Volume]:
        """By id, those after the id given; without their attachments."""
        statement = _live(volumes, VOLUME_COLUMNS).where(
            volumes.c.host == host, volumes.c.id > after
        )
        return [
            rows.volume_of(row) for row in self._rows(statement.order_by(volumes.c.id).limit(limit))
        ]

    # Attachments

    def attachment(self, attachment_id: str) -> Attachment | None:
        row = self._row(ONE_ATTACHMENT, of=attachment_id)
        return None if row is None else rows.attachment_of(row)

    def place_of(self, attachment_id: str) -> tuple[str, str] | None:
        """Its project and its volume."""
        row = self._row(PLACE_OF_ATTACHMENT, of=attachment_id)
        return None if row is None else (row["project_id"], row["volume_id"])

    def sealed_secrets(self, attachment_id: str) -> bytes | None:
        statement = _live(attachments, [attachments.c.sealed_secrets])
        row = self._row(statement.where(attachments.c.id == attachment_id))
        return None if row is None else row["sealed_secrets"]

    def attachments(self, caller: Caller, where: AttachmentFilter, page: Page) -> list[Attachment]:
        """One statement, two with a marker. Raises NotFound."""
        conditions = lists.attachments_where(caller, where)
        found = self._page(
            attachments, ATTACHMENT_COLUMNS, conditions, page, "Attachment marker", caller
        )
        return [rows.attachment_of(row) for row in found]

    def attachments_of(self, volume_id: str) -> tuple[Attachment, ...]:
        """Those of one volume, by age."""
        return tuple(map(rows.attachment_of, self._rows(ATTACHMENTS_OF_VOLUME, of=volume_id)))

    def _attachments_by_volume(self, volume_ids: Sequence[str]) -> dict[str, list[Attachment]]:
        by_volume = defaultdict[str, list[Attachment]](list)
        if not volume_ids:
            return by_volume
        statement = _live(attachments, ATTACHMENT_COLUMNS).where(
            attachments.c.volume_id.in_(volume_ids)
        )
        order = (attachments.c.volume_id, attachments.c.create_time, attachments.c.id)
        for row in self._rows(statement.order_by(*order)):
            by_volume[row["volume_id"]].append(rows.attachment_of(row))
        return by_volume

    def attachments_of_host(
        self, host: str, after: tuple[str, str] = ("", ""), limit: int = 1000
    ) -> list[Attachment]:
        """Of the volumes of a storage host, by volume id and id, those after that pair."""
        place = tuple_(attachments.c.volume_id, attachments.c.id)
        statement = (
            _live(attachments, ATTACHMENT_COLUMNS)
            .join(volumes, volumes.c.id == attachments.c.volume_id)
            .where(volumes.c.host == host, place > tuple_(*after))
            .order_by(attachments.c.volume_id, attachments.c.id)
            .limit(limit)
        )
        return [rows.attachment_of(row) for row in self._rows(statement)]

    def unfinished_attachments(
        self, host: str, after: str = "", limit: int = 1000
    ) -> list[Attachment]:
        """Those with something begun on a storage host that no record has the outcome of.

        By id, those after that id.
        """
        status = attachments.c.attach_status
        waits = or_(
            and_(status == AttachStatus.ATTACHING, attachments.c.connection_info.is_not(None)),
            and_(status == AttachStatus.DETACHING, attachments.c.connector.is_(None)),
        )
        statement = _live(attachments, ATTACHMENT_COLUMNS).where(
            ATTACHMENT_UNFINISHED,
            ~waits,
            attachments.c.id > after,
            attachments.c.volume_id.in_(_volumes_on(host)),
        )
        found = self._rows(statement.order_by(attachments.c.id).limit(limit))
        return [rows.attachment_of(row) for row in found]

    def expired_attachments(self, when: datetime, limit: int = 1000) -> list[Attachment]:
        """Those whose lease has ended."""
        statement = _live(attachments, ATTACHMENT_COLUMNS).where(
            attachments.c.lease_end_time <= when
        )
        return [rows.attachment_of(row) for row in self._rows(statement.limit(limit))]

    # Snapshots

    def snapshot(self, snapshot_id: str) -> Snapshot | None:
        row = self._row(_live(snapshots, SNAPSHOT_COLUMNS).where(snapshots.c.id == snapshot_id))
        return None if row is None else rows.snapshot_of(row)

    def snapshots(self, caller: Caller, where: SnapshotFilter, page: Page) -> list[Snapshot]:
        """One statement, two with a marker. Raises NotFound."""
        conditions = lists.snapshots_where(caller, where)
        found = self._page(snapshots, SNAPSHOT_COLUMNS, conditions, page, "Snapshot marker", caller)
        return [rows.snapshot_of(row) for row in found]

    def snapshots_of(self, volume_id: str) -> tuple[Snapshot, ...]:
        """Those of one volume, by age."""
        statement = _live(snapshots, SNAPSHOT_COLUMNS).where(snapshots.c.volume_id == volume_id)
        order = (snapshots.c.create_time, snapshots.c.id)
        return tuple(rows.snapshot_of(row) for row in self._rows(statement.order_by(*order)))

    def unfinished_snapshots(self, host: str, after: str = "", limit: int = 1000) -> list[Snapshot]:
        """Of a storage host, those creating or deleting: by id, those after that id."""
        statement = _live(snapshots, SNAPSHOT_COLUMNS).where(
            SNAPSHOT_UNFINISHED,
            snapshots.c.id > after,
            snapshots.c.volume_id.in_(_volumes_on(host)),
        )
        found = self._rows(statement.order_by(snapshots.c.id).limit(limit))
        return [rows.snapshot_of(row) for row in found]

    def _page(
        self,
        table: Table,
        columns: list[Column[Any]],
        where: list[ColumnElement[bool]],
        page: Page,
        kind: str,
        caller: Caller,
    ) -> Sequence[RowMapping]:
        after = None
        if page.marker is not None:
            # Also one that was deleted since: the page goes on where it was.
            key = lists.sort_column(table, page)
            marker = select(key, table.c.project_id).where(table.c.id == page.marker)
            row = self._row(marker)
            if row is None or not (caller.is_admin or row["project_id"] == caller.project_id):
                raise NotFound(kind, page.marker)
            after = row[key.name]
        return self._rows(lists.paged(table, columns, where, page, after))


class Changes(Writing, Reads):
    """One transaction: what it reads, it has for itself; what it writes is there at its end."""

    # Volumes

    def locked_volume(self, volume_id: str) -> Volume | None:
        """As ``volume``, and nobody else changes it before the end of this transaction."""
        row = self._row(LOCKED_VOLUME, of=volume_id)
        if row is None:
            return None
        return rows.volume_of(row, self.attachments_of(volume_id))

    def add_volume(self, volume: Volume) -> None:
        self.connection.execute(insert(volumes).values(rows.volume_values(volume)))

    def update_volume(
        self, volume_id: str, *, only_claimed_by: str | None = None, **values: Any
    ) -> bool:
        """Set columns by name. With ``only_claimed_by`` only while the claim is that one's.

        Returns whether there was one.
        """
        values |= {"of": volume_id, "update_time": self.time}
        statement = UPDATED_VOLUME
        if only_claimed_by is not None:
            statement = UPDATED_CLAIMED_VOLUME
            values["by"] = only_claimed_by
        return self.connection.execute(statement, values).rowcount == 1

    def remove_volume(self, volume_id: str) -> None:
        self.update_volume(volume_id, delete_time=self.time)

    # Attachments

    def add_attachment(self, attachment: Attachment) -> None:
        """Its connection_info must be masked."""
        self.connection.execute(ADDED_ATTACHMENT, rows.attachment_values(attachment))

    def replace_attachment(
        self, before: Attachment, attachment: Attachment, sealed_secrets: bytes | None
    ) -> None:
        """Write what is another than before. Its connection_info must be masked.

        Its secrets stay if it has connection_info, and none are given.
        """
        old = rows.attachment_values(before)
        new = rows.attachment_values(attachment)
        values = {name: value for name, value in new.items() if value != old[name]}
        values |= {"of": attachment.id, "update_time": self.time}
        if sealed_secrets is not None or attachment.connection_info is None:
            values["sealed_secrets"] = sealed_secrets
        self.connection.execute(UPDATED_ATTACHMENT, values)

    def remove_attachment(self, attachment_id: str) -> None:
        """Kept as history: detached, and without its secrets."""
        values = {
            "of": attachment_id,
            "attach_status": AttachStatus.DETACHED,
            "detach_time": self.time,
            "lease_end_time": None,
            "sealed_secrets": None,
            "update_time": self.time,
            "delete_time": self.time,
        }
        self.connection.execute(UPDATED_ATTACHMENT, values)

    # Snapshots

    def locked_snapshot(self, snapshot_id: str) -> Snapshot | None:
        """As ``snapshot``, and nobody else changes it before the end of this transaction."""
        found = _live(snapshots, SNAPSHOT_COLUMNS).where(snapshots.c.id == snapshot_id)
        row = self._row(found.with_for_update())
        return None if row is None else rows.snapshot_of(row)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        self.connection.execute(insert(snapshots).values(rows.snapshot_values(snapshot)))

    def update_snapshot(self, snapshot_id: str, **values: Any) -> bool:
        """Set columns by name. Returns whether there was one."""
        statement = update(snapshots).where(
            snapshots.c.id == snapshot_id, snapshots.c.delete_time.is_(None)
        )
        found = self.connection.execute(statement.values(update_time=self.time, **values))
        return found.rowcount == 1

    def remove_snapshot(self, snapshot_id: str) -> None:
        self.update_snapshot(snapshot_id, delete_time=self.time)

    def purge(self, before: datetime) -> int:
        """Forget what was deleted before then; returns how many records that were."""
        return sum(
            self.connection.execute(delete(table).where(table.c.delete_time < before)).rowcount
            for table in (attachments, snapshots, volumes)
        )


class Records(Reads):
    """The records of all projects: who may see which is for the callers. Many threads use it."""

    def __init__(self, database: Database, clock: Clock = now) -> None:
        self._database = database
        self.clock = clock

    def _connect(self) -> AbstractContextManager[Connection]:
        return self._database.reading()

    @contextmanager
    def writing(self) -> Iterator[Changes]:
        """One transaction; an exception undoes it. Raises RecordsUnavailable."""
        with self._database.writing() as connection:
            yield Changes(connection, self.clock())


def _volumes_on(host: str) -> Select[Any]:
    return select(volumes.c.id).where(volumes.c.host == host)
