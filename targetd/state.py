"""The durable records: who may connect to what, and what has been begun.

Which volumes exist is LVM's to say; this file holds what LVM cannot: exports,
connections with their encrypted secrets, and creations that were begun. Each
change is on the disk when its method returns (WAL, synchronous=FULL).
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from targetd.errors import StartError
from targetd.model import AccessMode, Connection, ConnectionState, Credentials, Export
from targetd.secretbox import SecretBox

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE host (lock_domain_id TEXT NOT NULL) STRICT;
CREATE TABLE creating (volume_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE exports (
  volume_id TEXT PRIMARY KEY,
  create_time REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE connections (
  volume_id TEXT NOT NULL REFERENCES exports (volume_id),
  attachment_id TEXT NOT NULL,
  initiator TEXT NOT NULL,
  host TEXT NOT NULL,
  access_mode TEXT NOT NULL,
  state TEXT NOT NULL,
  username TEXT NOT NULL,
  sealed_password BLOB NOT NULL,
  create_time REAL NOT NULL,
  PRIMARY KEY (volume_id, attachment_id)
) STRICT, WITHOUT ROWID;
"""


class State:
    """The SQLite file. One connection, used by one thread at a time."""

    def __init__(self, path: Path, box: SecretBox) -> None:
        self._box = box
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise StartError(
                f"the state {path} cannot be used ({error}); restore it from the backup"
            ) from error

    def _prepare(self) -> None:
        execute = self._database.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StartError(
                f"the state has version {version}, this targetd knows {SCHEMA_VERSION}; "
                "install the newer targetd again"
            )
        if version == 0:
            self._database.executescript(
                f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        with self._changes() as database:
            if not database.execute("SELECT 1 FROM host").fetchone():
                database.execute("INSERT INTO host VALUES (?)", (str(uuid.uuid4()),))

    @contextmanager
    def _changes(self) -> Iterator[sqlite3.Connection]:
        # The connection as a context commits, or rolls back on any exception.
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def lock_domain_id(self) -> str:
        with self._lock:
            (value,) = self._database.execute("SELECT lock_domain_id FROM host").fetchone()
        return str(value)

    # Creations that were begun and not yet acknowledged

    def begin_creating(self, volume_id: str) -> None:
        with self._changes() as database:
            database.execute("INSERT OR IGNORE INTO creating VALUES (?)", (volume_id,))

    def end_creating(self, volume_id: str) -> None:
        with self._changes() as database:
            database.execute("DELETE FROM creating WHERE volume_id = ?", (volume_id,))

    def creating(self) -> list[str]:
        with self._lock:
            rows = self._database.execute("SELECT volume_id FROM creating").fetchall()
        return [volume_id for (volume_id,) in rows]

    # Exports

    def exports(self) -> list[Export]:
        with self._lock:
            rows = self._database.execute("SELECT volume_id, create_time FROM exports").fetchall()
        return [Export(volume_id, _time(seconds)) for volume_id, seconds in rows]

    def add_export(self, export: Export) -> None:
        with self._changes() as database:
            database.execute(
                "INSERT INTO exports VALUES (?, ?)",
                (export.volume_id, export.create_time.timestamp()),
            )

    def remove_export(self, volume_id: str) -> None:
        with self._changes() as database:
            database.execute("DELETE FROM exports WHERE volume_id = ?", (volume_id,))

    # Connections

    def connections(self) -> list[Connection]:
        """Raises StartError when the host key does not open the secrets."""
        with self._lock:
            rows = self._database.execute(
                "SELECT volume_id, attachment_id, initiator, host, access_mode, state, username,"
                " sealed_password, create_time FROM connections"
            ).fetchall()
        return [
            Connection(
                volume_id=volume_id,
                attachment_id=attachment_id,
                initiator=initiator,
                host=host,
                access_mode=AccessMode(access_mode),
                state=ConnectionState(state),
                credentials=Credentials(
                    username, self._box.open(sealed, _record(volume_id, attachment_id))
                ),
                create_time=_time(seconds),
            )
            for (
                volume_id,
                attachment_id,
                initiator,
                host,
                access_mode,
                state,
                username,
                sealed,
                seconds,
            ) in rows
        ]

    def add_connection(self, connection: Connection) -> None:
        sealed = self._box.seal(
            connection.credentials.password,
            _record(connection.volume_id, connection.attachment_id),
        )
        with self._changes() as database:
            database.execute(
                "INSERT INTO connections VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    connection.volume_id,
                    connection.attachment_id,
                    connection.initiator,
                    connection.host,
                    connection.access_mode,
                    connection.state,
                    connection.credentials.username,
                    sealed,
                    connection.create_time.timestamp(),
                ),
            )

    def set_connection_states(self, connections: list[Connection], state: ConnectionState) -> None:
        with self._changes() as database:
            database.executemany(
                "UPDATE connections SET state = ? WHERE volume_id = ? AND attachment_id = ?",
                [(state, c.volume_id, c.attachment_id) for c in connections],
            )

    def remove_connections(self, connections: list[Connection]) -> None:
        with self._changes() as database:
            database.executemany(
                "DELETE FROM connections WHERE volume_id = ? AND attachment_id = ?",
                [(c.volume_id, c.attachment_id) for c in connections],
            )


def _record(volume_id: str, attachment_id: str) -> str:
    return f"{volume_id}/{attachment_id}"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
