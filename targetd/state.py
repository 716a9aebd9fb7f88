"""The durable records: who may connect to what, and what has been begun.

Which volumes exist is LVM's to say; this file holds what LVM cannot: exports,
connections with their encrypted secrets, creations that were begun, and how far
long work has come. Each change is on the disk when its method returns (WAL,
synchronous=FULL), but for those that say otherwise: they reach the disk with
the next change, and losing them only means doing something again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from targetd.errors import StartError, Unavailable
from targetd.failpoints import failpoint
from targetd.model import (
    AccessMode,
    Connection,
    ConnectionState,
    Credentials,
    Export,
    Operation,
    OperationKind,
    OperationState,
)
from targetd.secretbox import SecretBox

log = logging.getLogger(__name__)

# Each step takes the file from the version before it; never change one that
# has been released, add the next.
SCHEMA_STEPS = (
    """
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
    """,
    """
    ALTER TABLE creating RENAME COLUMN volume_id TO lv_name;
    UPDATE creating SET lv_name = 'volume-' || lv_name;
    ALTER TABLE exports ADD COLUMN username TEXT NOT NULL DEFAULT '';
    ALTER TABLE exports ADD COLUMN sealed_password BLOB;
    ALTER TABLE connections ADD COLUMN mutual_username TEXT NOT NULL DEFAULT '';
    ALTER TABLE connections ADD COLUMN sealed_mutual_password BLOB;
    CREATE TABLE operations (
      operation_id TEXT PRIMARY KEY,
      kind TEXT NOT NULL,
      volume_id TEXT NOT NULL,
      state TEXT NOT NULL,
      done_bytes INTEGER NOT NULL,
      total_bytes INTEGER NOT NULL,
      start_time REAL NOT NULL,
      error TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE creating ADD COLUMN create_time REAL NOT NULL DEFAULT 0;
    """,
)
SCHEMA_VERSION = len(SCHEMA_STEPS)
# Ended operations that are remembered.
OPERATIONS_MAX = 1000


class State:
    """The SQLite file. One connection, used by one thread at a time."""

    def __init__(self, path: Path, box: SecretBox) -> None:
        self._box = box
        self._lock = threading.Lock()
        # Connections whose records go with the next change.
        self._forgotten: list[tuple[str, str]] = []
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except sqlite3.OperationalError as error:
            raise StartError(
                f"the state {path} cannot be written ({error}); is its file system full or "
                "read-only, or another targetd running?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StartError(
                f"the state {path} is damaged ({error}); restore it from the backup"
            ) from error

    def _prepare(self) -> None:
        execute = self._database.execute
        # Nobody else may write here; and with nobody else, WAL needs no shared memory
        # and no locks around every change.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        (found,) = execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StartError(
                f"the state has version {version}, this targetd knows {SCHEMA_VERSION}; "
                "install the newer targetd again"
            )
        for number, step in enumerate(SCHEMA_STEPS[version:], version + 1):
            self._database.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
        with self._changes() as database:
            if not database.execute("SELECT 1 FROM host").fetchone():
                database.execute("INSERT INTO host VALUES (?)", (str(uuid.uuid4()),))
        self._lengthen_log()

    def _lengthen_log(self) -> None:
        """Give the log its full length now: a commit that lengthens it takes twice as long."""
        execute = self._database.execute
        (pages,) = execute("PRAGMA wal_autocheckpoint").fetchone()
        (page_bytes,) = execute("PRAGMA page_size").fetchone()
        execute("DROP TABLE IF EXISTS filling")
        execute("CREATE TABLE filling (data BLOB) STRICT")
        execute("INSERT INTO filling VALUES (zeroblob(?))", (pages * page_bytes,))
        execute("DROP TABLE filling")
        # From here on it is written again from its beginning.
        execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    @contextmanager
    def _changes(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises Unavailable when the file cannot be written."""
        try:
            with self._lock:
                if not durable:
                    self._database.execute("PRAGMA synchronous = NORMAL")
                try:
                    # The connection as a context commits, or rolls back on any exception.
                    with self._database:
                        self._database.execute("BEGIN IMMEDIATE")
                        self._forget()
                        yield self._database
                    self._forgotten.clear()
                finally:
                    if not durable:
                        self._database.execute("PRAGMA synchronous = FULL")
        except sqlite3.IntegrityError:
            # Not the file's fault but ours.
            raise
        except sqlite3.DatabaseError as error:
            log.error("the state cannot be written: %s", error)
            raise Unavailable(
                "the daemon's records cannot be written, so nothing was changed; is the file "
                "system of its state directory full or read-only, or its disk failing?",
                reason="STATE_NOT_WRITABLE",
            ) from error

    def _forget(self) -> None:
        if self._forgotten:
            self._database.executemany(
                "DELETE FROM connections WHERE volume_id = ? AND attachment_id = ?",
                self._forgotten,
            )

    def close(self) -> None:
        with suppress(Unavailable), self._changes(durable=False):
            # What is still to be forgotten.
            pass
        with self._lock:
            self._database.close()

    def check_writable(self) -> None:
        """Write something, to the disk. Raises Unavailable."""
        with self._changes() as database:
            database.execute("INSERT OR IGNORE INTO creating (lv_name) VALUES ('')")
            database.execute("DELETE FROM creating WHERE lv_name = ''")

    def lock_domain_id(self) -> str:
        with self._lock:
            (value,) = self._database.execute("SELECT lock_domain_id FROM host").fetchone()
        return str(value)

    # Logical volumes whose making was begun and not yet acknowledged

    def begin_creating(self, lv_name: str, create_time: datetime) -> None:
        """The time is what tells this creation from another one of the same name."""
        row = (lv_name, create_time.timestamp())
        with self._changes() as database:
            database.execute("INSERT OR REPLACE INTO creating VALUES (?, ?)", row)

    def end_creating(self, lv_name: str) -> None:
        with self._changes() as database:
            database.execute("DELETE FROM creating WHERE lv_name = ?", (lv_name,))

    def creating(self) -> dict[str, datetime | None]:
        """By their names; the time is None where an earlier version has begun it."""
        with self._lock:
            rows = self._database.execute("SELECT lv_name, create_time FROM creating").fetchall()
        return {lv_name: _time(seconds) if seconds else None for lv_name, seconds in rows}

    # Exports

    def exports(self) -> list[Export]:
        """Raises StartError when the host key does not open the secrets."""
        with self._lock:
            rows = self._database.execute(
                "SELECT volume_id, create_time, username, sealed_password FROM exports"
            ).fetchall()
        return [
            Export(
                volume_id,
                _time(seconds),
                Credentials(username, self._box.open(sealed, volume_id)) if username else None,
            )
            for volume_id, seconds, username, sealed in rows
        ]

    def put_export(self, export: Export) -> None:
        username, sealed = "", None
        if export.credentials is not None:
            username = export.credentials.username
            sealed = self._box.seal(export.credentials.password, export.volume_id)
        with self._changes() as database:
            failpoint("export-unrecorded")
            database.execute(
                "INSERT INTO exports VALUES (?, ?, ?, ?) ON CONFLICT (volume_id) DO UPDATE"
                " SET username = excluded.username, sealed_password = excluded.sealed_password",
                (export.volume_id, export.create_time.timestamp(), username, sealed),
            )

    def remove_export(self, volume_id: str) -> None:
        with self._changes() as database:
            database.execute("DELETE FROM exports WHERE volume_id = ?", (volume_id,))

    # Connections

    def connections(self) -> list[Connection]:
        """Raises StartError when the host key does not open the secrets."""
        with self._lock:
            rows = self._database.execute(
                "SELECT volume_id, attachment_id, initiator, host, access_mode, state,"
                " create_time, username, sealed_password, mutual_username,"
                " sealed_mutual_password FROM connections"
            ).fetchall()
        return [self._connection(row) for row in rows]

    def _connection(self, row: Sequence[Any]) -> Connection:
        volume_id, attachment_id, initiator, host, mode, state, seconds, *secrets = row
        username, sealed, mutual_username, mutual_sealed = secrets
        record = _record(volume_id, attachment_id)
        return Connection(
            volume_id=volume_id,
            attachment_id=attachment_id,
            initiator=initiator,
            host=host,
            access_mode=AccessMode(mode),
            state=ConnectionState(state),
            credentials=Credentials(
                username,
                self._box.open(sealed, record),
                mutual_username,
                self._box.open(mutual_sealed, _mutual(record)) if mutual_username else "",
            ),
            create_time=_time(seconds),
        )

    def add_connection(self, connection: Connection) -> None:
        credentials = connection.credentials
        record = _record(connection.volume_id, connection.attachment_id)
        mutual_sealed = None
        if credentials.mutual:
            mutual_sealed = self._box.seal(credentials.mutual_password, _mutual(record))
        row = (
            connection.volume_id,
            connection.attachment_id,
            connection.initiator,
            connection.host,
            connection.access_mode,
            connection.state,
            credentials.username,
            self._box.seal(credentials.password, record),
            connection.create_time.timestamp(),
            credentials.mutual_username,
            mutual_sealed,
        )
        with self._changes() as database:
            database.execute(
                "INSERT INTO connections VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            )

    def set_connection_states(self, connections: list[Connection], state: ConnectionState) -> None:
        with self._changes() as database:
            database.executemany(
                "UPDATE connections SET state = ? WHERE volume_id = ? AND attachment_id = ?",
                [(state, c.volume_id, c.attachment_id) for c in connections],
            )

    def remove_connections(self, connections: list[Connection]) -> None:
        """Forget what has been revoked; in the file with the next change.

        Were it lost, the next start would find a revocation to finish, and
        finish it before anybody is served.
        """
        with self._lock:
            self._forgotten += [(c.volume_id, c.attachment_id) for c in connections]

    # Long work

    def operations(self) -> list[Operation]:
        with self._lock:
            rows = self._database.execute("SELECT * FROM operations ORDER BY start_time").fetchall()
        return [
            Operation(
                operation_id=operation_id,
                kind=OperationKind(kind),
                volume_id=volume_id,
                state=OperationState(state),
                done_bytes=done,
                total_bytes=total,
                start_time=_time(seconds),
                error=error,
            )
            for operation_id, kind, volume_id, state, done, total, seconds, error in rows
        ]

    def put_operation(self, operation: Operation) -> None:
        """Note how far it has come; on the disk with the next change."""
        with self._changes(durable=False) as database:
            database.execute(
                "INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    operation.operation_id,
                    operation.kind,
                    operation.volume_id,
                    operation.state,
                    operation.done_bytes,
                    operation.total_bytes,
                    operation.start_time.timestamp(),
                    operation.error,
                ),
            )

    def forget_old_operations(self) -> None:
        """Keep the newest of those that have ended."""
        with self._changes(durable=False) as database:
            database.execute(
                "DELETE FROM operations WHERE operation_id IN (SELECT operation_id FROM operations"
                " WHERE state IN ('done', 'cancelled') ORDER BY start_time DESC LIMIT -1 OFFSET ?)",
                (OPERATIONS_MAX,),
            )


def _record(volume_id: str, attachment_id: str) -> str:
    return f"{volume_id}/{attachment_id}"


def _mutual(record: str) -> str:
    # No attachment id holds this character.
    return f"{record}#mutual"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
