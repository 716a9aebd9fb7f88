"""The tables of the first version."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LIVE = "delete_time IS NULL"


def upgrade() -> None:
    op.create_table(
        "hosts",
        _text("name", 255),
        sa.Column("endpoint", sa.Text, nullable=False),
        _text("state", 16),
        _text("lock_domain_id", 64),
        _time("create_time"),
        _time("delete_time", nullable=True),
        sa.PrimaryKeyConstraint("name", name="hosts_pk"),
    )
    op.create_table(
        "tokens",
        _text("sha256", 64),
        _text("name", 255),
        _text("project_id", 255),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        _time("create_time"),
        sa.PrimaryKeyConstraint("sha256", name="tokens_pk"),
        sa.UniqueConstraint("name", name="tokens_name_key"),
    )
    _volumes()
    _attachments()
    _snapshots()


def _volumes() -> None:
    op.create_table(
        "volumes",
        _text("id", 36),
        _text("project_id", 255),
        _text("user_id", 255),
        _text("name", 255),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("size_gib", sa.Integer, nullable=False),
        _text("status", 32),
        sa.Column("multiattach", sa.Boolean, nullable=False),
        _text("host", 255),
        _text("pool", 255),
        _text("snapshot_id", 36, nullable=True),
        _text("source_volume_id", 36, nullable=True),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        *_times(),
        _text("claimed_by", 255, nullable=True),
        _text("claimed_for", 64, nullable=True),
        _time("claimed_since", nullable=True),
        _time("claimed_until", nullable=True),
        sa.PrimaryKeyConstraint("id", name="volumes_pk"),
    )
    _list_indexes("volumes")
    _index("volumes_of_name", "volumes", ["name", "create_time", "id"])
    _index("volumes_of_status", "volumes", ["project_id", "status", "create_time", "id"])
    _index("volumes_of_host", "volumes", ["host", "id"])
    unfinished = "status IN ('creating', 'extending', 'deleting')"
    _index("volumes_unfinished", "volumes", ["status"], f"{LIVE} AND {unfinished}")


def _attachments() -> None:
    op.create_table(
        "attachments",
        _text("id", 36),
        _text("project_id", 255),
        _text("volume_id", 36),
        _text("instance_uuid", 36, nullable=True),
        sa.Column("attached_host", sa.Text),
        sa.Column("mountpoint", sa.Text),
        _time("attach_time", nullable=True),
        _time("detach_time", nullable=True),
        _text("attach_status", 32),
        _text("attach_mode", 2),
        sa.Column("connector", sa.JSON),
        sa.Column("connection_info", sa.JSON),
        sa.Column("sealed_secrets", sa.LargeBinary),
        _text("origin", 16),
        sa.Column("reason", sa.Text, nullable=False),
        _time("lease_end_time", nullable=True),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="attachments_pk"),
    )
    _list_indexes("attachments")
    _index("attachments_of_volume", "attachments", ["volume_id", "create_time", "id"])
    instance = ["instance_uuid", "create_time", "id"]
    for name, columns in (("instance", instance), ("lease", ["lease_end_time"])):
        where = f"{LIVE} AND {columns[0]} IS NOT NULL"
        _index(f"attachments_of_{name}", "attachments", columns, where)
    unfinished = "attach_status IN ('attaching', 'detaching', 'error_attaching', 'error_detaching')"
    _index("attachments_unfinished", "attachments", ["attach_status"], f"{LIVE} AND {unfinished}")


def _snapshots() -> None:
    op.create_table(
        "snapshots",
        _text("id", 36),
        _text("project_id", 255),
        _text("user_id", 255),
        _text("volume_id", 36),
        _text("name", 255),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("size_gib", sa.Integer, nullable=False),
        _text("status", 32),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="snapshots_pk"),
    )
    _list_indexes("snapshots")
    _index("snapshots_of_volume", "snapshots", ["volume_id"])
    unfinished = "status IN ('creating', 'deleting')"
    _index("snapshots_unfinished", "snapshots", ["status"], f"{LIVE} AND {unfinished}")


def _text(name: str, length: int, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _time(name: str, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _times() -> list[sa.Column[Any]]:
    return [_time("create_time"), _time("update_time"), _time("delete_time", nullable=True)]


def _list_indexes(table: str) -> None:
    _index(f"{table}_of_project", table, ["project_id", "create_time", "id"])
    _index(f"{table}_by_age", table, ["create_time", "id"])
    _index(f"{table}_deleted", table, ["delete_time"], "delete_time IS NOT NULL")


def _index(name: str, table: str, columns: list[str], where: str = LIVE) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
