"""How many there are of what: for limits, and for lists that say their whole length."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, func, select

from attachd.database import lists
from attachd.database.engine import Database
from attachd.database.schema import snapshots, volumes
from attachd.model import Caller, SnapshotFilter, VolumeFilter


@dataclass(frozen=True)
class Count:
    number: int
    # The sum of their sizes.
    gib: int


class Counts:
    """Each is one statement. Raises RecordsUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def volumes(self, caller: Caller, where: VolumeFilter) -> Count:
        return self._count(volumes, lists.volumes_where(caller, where))

    def snapshots(self, caller: Caller, where: SnapshotFilter) -> Count:
        return self._count(snapshots, lists.snapshots_where(caller, where))

    def _count(self, table: Table, where: list[ColumnElement[bool]]) -> Count:
        size = func.coalesce(func.sum(table.c.size_gib), 0)
        with self._database.reading() as connection:
            number, gib = connection.execute(select(func.count(), size).where(*where)).one()
        # PostgreSQL sums into a decimal.
        return Count(number, int(gib))
