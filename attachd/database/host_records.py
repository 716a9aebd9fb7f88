"""The records of storage hosts. Each function is a part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from attachd import clock
from attachd.database import rows
from attachd.database.schema import NO_CLAIM, attachments, hosts, snapshots, volumes
from attachd.model import AttachStatus, HostState, StorageHost

_LIVE = select(hosts).where(hosts.c.delete_time.is_(None))


def every(connection: Connection) -> Sequence[StorageHost]:
    """By name. Their volumes are not counted."""
    found = connection.execute(_LIVE.order_by(hosts.c.name))
    return [rows.host_of(row) for row in found.mappings()]


def named(connection: Connection, name: str) -> StorageHost | None:
    """Its volumes are not counted."""
    row = connection.execute(_LIVE.where(hosts.c.name == name)).mappings().one_or_none()
    return rows.host_of(row) if row else None


def volume_counts(connection: Connection) -> Mapping[str, int]:
    """By host; takes longer the more volumes there are."""
    count = select(volumes.c.host, func.count()).where(volumes.c.delete_time.is_(None))
    return {host: number for host, number in connection.execute(count.group_by(volumes.c.host))}


def state(connection: Connection, name: str, change: bool = False) -> HostState | None:
    """None: there is no such host. Until the transaction ends nobody changes it.

    With ``change`` nobody may ask so either, as who changes it must, before anything else.
    """
    found = connection.execute(
        select(hosts.c.state)
        .where(hosts.c.name == name, hosts.c.delete_time.is_(None))
        .with_for_update(read=not change)
    ).scalar()
    return HostState(found) if found else None


def put(connection: Connection, host: StorageHost) -> None:
    """A new one, one that had been removed, or one that is reached in another way."""
    values = rows.host_values(host)
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(
        insert(hosts)
        .values(name=host.name, create_time=clock.now(), **values)
        .on_conflict_do_update(index_elements=[hosts.c.name], set_=values)
    )


def set_state(connection: Connection, name: str, to: HostState) -> bool:
    """Returns whether there is such a host."""
    change = update(hosts).where(hosts.c.name == name, hosts.c.delete_time.is_(None))
    return connection.execute(change.values(state=to)).rowcount == 1


def remove(connection: Connection, name: str) -> None:
    """The record stays for the deleted volumes that name it."""
    change = update(hosts).where(hosts.c.name == name)
    connection.execute(change.values(delete_time=clock.now()))


def remove_volumes(connection: Connection, name: str) -> Mapping[str, int]:
    """Of the host, with their attachments and snapshots: how many of each there were.

    Who works on one of the volumes meanwhile finds out that it is not his any more.
    """
    of_host = select(volumes.c.id).where(volumes.c.host == name, volumes.c.delete_time.is_(None))
    time = clock.now()
    of_attachments = {
        "attach_status": AttachStatus.DETACHED,
        "detach_time": time,
        "lease_end_time": None,
        "sealed_secrets": None,
    }
    counts = {}
    # The volumes last: by them the others are found.
    for table, where, values in (
        (attachments, attachments.c.volume_id.in_(of_host), of_attachments),
        (snapshots, snapshots.c.volume_id.in_(of_host), {}),
        (volumes, volumes.c.host == name, NO_CLAIM),
    ):
        change = update(table).where(where, table.c.delete_time.is_(None))
        done = connection.execute(
            change.values(values | {"update_time": time, "delete_time": time})
        )
        counts[table.name] = done.rowcount
    return counts


def volume_ids(connection: Connection, name: str) -> Sequence[str]:
    """Of all volumes that it has, or that are being made there."""
    found = connection.execute(
        select(volumes.c.id)
        .where(volumes.c.host == name, volumes.c.delete_time.is_(None))
        .order_by(volumes.c.id)
    )
    return found.scalars().all()
