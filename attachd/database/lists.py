"""Lists as statements: what is filtered out, in which order, and where a page begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, Table, literal, select, tuple_

from attachd.database.schema import attachments, snapshots, volumes
from attachd.model import (
    AttachmentFilter,
    Caller,
    Page,
    SnapshotFilter,
    SortKey,
    VolumeFilter,
)

# Where a table has no such column, its age orders it.
SORT_COLUMNS: Mapping[SortKey, str] = {
    SortKey.CREATED: "create_time",
    SortKey.NAME: "name",
    SortKey.SIZE: "size_gib",
    SortKey.STATUS: "status",
    SortKey.ID: "id",
}


def volumes_where(caller: Caller, where: VolumeFilter) -> list[ColumnElement[bool]]:
    found = _visible(volumes, caller, where.all_projects, where.project_id)
    found += _equal(volumes, name=where.name, status=where.status, host=where.host)
    if where.multiattach is not None:
        found.append(volumes.c.multiattach.is_(where.multiattach))
    if where.name_like is not None:
        found.append(volumes.c.name.contains(where.name_like, autoescape=True))
    for key, value in where.metadata.items():
        found.append(volumes.c.metadata[key].as_string() == value)
    return found


def attachments_where(caller: Caller, where: AttachmentFilter) -> list[ColumnElement[bool]]:
    return _visible(attachments, caller, where.all_projects, where.project_id) + _equal(
        attachments,
        volume_id=where.volume_id,
        instance_uuid=where.instance_uuid,
        attach_status=where.attach_status,
        attached_host=where.attached_host,
    )


def snapshots_where(caller: Caller, where: SnapshotFilter) -> list[ColumnElement[bool]]:
    return _visible(snapshots, caller, where.all_projects, where.project_id) + _equal(
        snapshots, volume_id=where.volume_id, name=where.name, status=where.status
    )


def _visible(
    table: Table, caller: Caller, all_projects: bool, project_id: str | None
) -> list[ColumnElement[bool]]:
    """An admin may ask for those of all projects, or of another; anybody else has its own."""
    found: list[ColumnElement[bool]] = [table.c.delete_time.is_(None)]
    wanted = project_id if caller.is_admin and all_projects else caller.project_id
    return found + _equal(table, project_id=wanted)


def _equal(table: Table, **values: str | None) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items() if value is not None]


def sort_column(table: Table, page: Page) -> Column[Any]:
    name = SORT_COLUMNS[page.sort_key]
    if name == "status" and table is attachments:
        name = "attach_status"
    return table.c.get(name, table.c.create_time)


def paged(
    table: Table,
    columns: list[Column[Any]],
    where: list[ColumnElement[bool]],
    page: Page,
    after: Any,
) -> Select[Any]:
    """One page; ``after`` is what the marker has in the sort column, when there is one."""
    key = sort_column(table, page)
    statement = select(*columns).where(*where)
    if page.marker is not None:
        here, marker = (
            tuple_(key, table.c.id),
            tuple_(literal(after, key.type), literal(page.marker)),
        )
        statement = statement.where(here < marker if page.descending else here > marker)
    order = (key.desc(), table.c.id.desc()) if page.descending else (key, table.c.id)
    return statement.order_by(*order).limit(page.limit).offset(page.offset or None)
