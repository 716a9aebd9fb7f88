"""The tables, the same in SQLite and PostgreSQL.

What was deleted stays as history until it is purged, with a delete_time; the indexes
leave it out, so that it costs nothing to those who look for what there is. There are no
foreign keys: what belongs to a volume changes under the volume's claim only.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    text,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Time(TypeDecorator[datetime]):
    """A moment, as whole microseconds since 1970: SQLite has no type for it."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + value * MICROSECOND


metadata = MetaData(
    naming_convention={"pk": "%(table_name)s_pk", "uq": "%(table_name)s_%(column_0_name)s_key"}
)

hosts = Table(
    "hosts",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("state", String(16), nullable=False),
    # The storage host's own id: whether an address leads to it, or to another.
    Column("lock_domain_id", String(64), nullable=False),
    Column("create_time", Time, nullable=False),
    # Of a host that was removed: deleted volumes still name it.
    Column("delete_time", Time),
)

volumes = Table(
    "volumes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("size_gib", Integer, nullable=False),
    Column("status", String(32), nullable=False),
    Column("multiattach", Boolean, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pool", String(255), nullable=False),
    Column("snapshot_id", String(36)),
    Column("source_volume_id", String(36)),
    Column("metadata", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    Column("create_time", Time, nullable=False),
    Column("update_time", Time, nullable=False),
    Column("delete_time", Time),
    # Who works on the volume or its attachments, on what, and since when. A claim that
    # has run out is nobody's: its holder has died.
    Column("claimed_by", String(255)),
    Column("claimed_for", String(64)),
    Column("claimed_since", Time),
    Column("claimed_until", Time),
)

NO_CLAIM: dict[str, Any] = dict.fromkeys(
    ("claimed_by", "claimed_for", "claimed_since", "claimed_until")
)

attachments = Table(
    "attachments",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(255), nullable=False),
    Column("volume_id", String(36), nullable=False),
    Column("instance_uuid", String(36)),
    Column("attached_host", Text),
    Column("mountpoint", Text),
    Column("attach_time", Time),
    Column("detach_time", Time),
    Column("attach_status", String(32), nullable=False),
    Column("attach_mode", String(2), nullable=False),
    Column("connector", JSON(none_as_null=True)),
    # Masked: the secrets are in the next column, sealed.
    Column("connection_info", JSON(none_as_null=True)),
    Column("sealed_secrets", LargeBinary),
    Column("origin", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("lease_end_time", Time),
    Column("create_time", Time, nullable=False),
    Column("update_time", Time, nullable=False),
    Column("delete_time", Time),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("volume_id", String(36), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("size_gib", Integer, nullable=False),
    Column("status", String(32), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    Column("create_time", Time, nullable=False),
    Column("update_time", Time, nullable=False),
    Column("delete_time", Time),
)

tokens = Table(
    "tokens",
    metadata,
    # SHA-256 of the bearer token, in hexadecimal digits; the token itself is nowhere.
    Column("sha256", String(64), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("project_id", String(255), nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("create_time", Time, nullable=False),
)


# What is begun and not ended, in the words of the partial indexes: a query must say the same.
ATTACHMENT_UNFINISHED = text(
    "attach_status IN ('attaching', 'detaching', 'error_attaching', 'error_detaching')"
)
VOLUME_UNFINISHED = text("status IN ('creating', 'extending', 'deleting')")
SNAPSHOT_UNFINISHED = text("status IN ('creating', 'deleting')")


def _index(
    name: str, *columns: Column[Any], only: ColumnElement[bool] | TextClause | None = None
) -> None:
    """Of what is not deleted, and of that only some."""
    (table,) = {column.table for column in columns}
    where: ColumnElement[bool] = table.c.delete_time.is_(None)
    if only is not None:
        where = where & only
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


for _table in (volumes, attachments, snapshots):
    # The pages of a project's list, and of everybody's.
    _index(f"{_table.name}_of_project", _table.c.project_id, _table.c.create_time, _table.c.id)
    _index(f"{_table.name}_by_age", _table.c.create_time, _table.c.id)

# What clients look for, in the order of the pages; SQLite takes the last of those that fit.
_index("volumes_of_name", volumes.c.name, volumes.c.create_time, volumes.c.id)
_index(
    "volumes_of_status",
    volumes.c.project_id,
    volumes.c.status,
    volumes.c.create_time,
    volumes.c.id,
)
_index("volumes_of_host", volumes.c.host, volumes.c.id)
_index("volumes_unfinished", volumes.c.status, only=VOLUME_UNFINISHED)
_index("snapshots_of_volume", snapshots.c.volume_id)
_index("snapshots_unfinished", snapshots.c.status, only=SNAPSHOT_UNFINISHED)
_index(
    "attachments_of_volume", attachments.c.volume_id, attachments.c.create_time, attachments.c.id
)
_index(
    "attachments_of_instance",
    attachments.c.instance_uuid,
    attachments.c.create_time,
    attachments.c.id,
    only=attachments.c.instance_uuid.is_not(None),
)
_index("attachments_unfinished", attachments.c.attach_status, only=ATTACHMENT_UNFINISHED)
_index(
    "attachments_of_lease",
    attachments.c.lease_end_time,
    only=attachments.c.lease_end_time.is_not(None),
)
# History, for those who purge it.
for _table in (volumes, attachments, snapshots):
    _deleted = _table.c.delete_time.is_not(None)
    Index(
        f"{_table.name}_deleted",
        _table.c.delete_time,
        sqlite_where=_deleted,
        postgresql_where=_deleted,
    )
