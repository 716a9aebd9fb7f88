"""The records of storage hosts. One that was removed stays for the deleted volumes that name it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from attachd.database import rows
from attachd.database.schema import hosts, volumes
from attachd.database.statements import Reading, Writing
from attachd.model import StorageHost


class HostReads(Reading):
    def host(self, name: str) -> StorageHost | None:
        found = self._hosts(hosts.c.name == name)
        return found[0] if found else None

    def hosts(self) -> list[StorageHost]:
        """By name, each with the number of its volumes."""
        return self._hosts()

    def _hosts(self, *where: ColumnElement[bool]) -> list[StorageHost]:
        count = select(func.count()).where(
            volumes.c.host == hosts.c.name, volumes.c.delete_time.is_(None)
        )
        statement = select(hosts, count.scalar_subquery().label("volumes"))
        statement = statement.where(hosts.c.delete_time.is_(None), *where)
        return [rows.host_of(row) for row in self._rows(statement.order_by(hosts.c.name))]

    def volume_ids_of_host(self, name: str, limit: int | None = None) -> list[str]:
        """Of the volumes that it has, or that are being made there; by id."""
        statement = select(volumes.c.id).where(
            volumes.c.host == name, volumes.c.delete_time.is_(None)
        )
        return [row["id"] for row in self._rows(statement.order_by(volumes.c.id).limit(limit))]


class HostChanges(Writing, HostReads):
    def locked_host(self, name: str, change: bool = True) -> StorageHost | None:
        """As ``host``, and nobody else changes it before the end of this transaction.

        Without ``change`` others may also be sure of it meanwhile: many volumes are made on one.
        """
        live = select(hosts.c.name).where(hosts.c.name == name, hosts.c.delete_time.is_(None))
        if self._row(live.with_for_update(read=not change)) is None:
            return None
        return self.host(name)

    def put_host(self, host: StorageHost) -> None:
        """A new one, one that had been removed, or one that is reached in another way."""
        values = rows.host_values(host)
        is_sqlite = self._connection.dialect.name == "sqlite"
        insert = sqlite.insert if is_sqlite else postgresql.insert
        self._connection.execute(
            insert(hosts)
            .values(name=host.name, create_time=self._time, **values)
            .on_conflict_do_update(index_elements=[hosts.c.name], set_=values)
        )

    def update_host(self, name: str, **values: Any) -> bool:
        """Set columns by name. Returns whether there was one."""
        change = update(hosts).where(hosts.c.name == name, hosts.c.delete_time.is_(None))
        return self._connection.execute(change.values(values)).rowcount == 1

    def remove_host(self, name: str) -> None:
        self.update_host(name, delete_time=self._time)
