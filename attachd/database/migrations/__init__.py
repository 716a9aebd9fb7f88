"""How the tables came to be what they are, step by step; Alembic follows it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from attachd.database.engine import Database
from targetd.errors import StartError

# Any number, the same in all processes: who migrates, does it alone.
POSTGRESQL_LOCK = 0x61747461


def migrate(database: Database) -> None:
    """Bring the tables up to date, in one transaction. Raises StartError, RecordsUnavailable."""
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({POSTGRESQL_LOCK})"))
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.attributes["connection"] = connection
        script = ScriptDirectory.from_config(config)
        found = _revision(connection)
        if found == script.get_current_head():
            return
        if found is not None and found not in {one.revision for one in script.walk_revisions()}:
            raise StartError(
                f"the database {database.shown_url} is of a newer attachd (its tables are of "
                f"revision {found}); install that version, or restore a backup"
            )
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
