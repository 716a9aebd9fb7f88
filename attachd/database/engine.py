"""The database under the records: SQLite in a file, or PostgreSQL by a URL."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolExhausted

from attachd.errors import Invalid, RecordsUnavailable
from targetd.errors import StartError

# Writers of other processes; those of this one wait for each other in front of the database.
SQLITE_BUSY_SECONDS = 20
# One for each request that is served at once, and some for the threads in the background.
CONNECTIONS, MORE_CONNECTIONS = 16, 48
CONNECT_SECONDS = 10


class Database:
    """Gives out connections. Safe for use by several threads; close it when done.

    Raises StartError for a URL that is not one of a database that can be used.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        # SQLite has one writer at a time, and lets the others sleep and try again: here they
        # wait in turn.
        self._one_writer: AbstractContextManager[object] = (
            threading.Lock() if self.is_sqlite else nullcontext()
        )
        if self.is_sqlite:
            self.engine = _sqlite(self._url)
            event.listen(self.engine, "begin", _begin_sqlite)
            # With connections of its own: to turn one that writes into one that only reads, and
            # back, takes longer than most reads.
            self.reader = _sqlite(self._url)
        else:
            self.engine = _postgresql(self._url)
            self.reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def shown_url(self) -> str:
        """Without the password."""
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Each statement sees what is committed when it begins. Raises RecordsUnavailable."""
        with _translated(self.shown_url), self.reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, and gone with an exception.

        Raises RecordsUnavailable; then it may have been committed or not.
        """
        with _translated(self.shown_url), self._one_writer, self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        self.reader.dispose()
        self.engine.dispose()


def _checked(text: str) -> URL:
    # The message must not repeat the URL, which may hold a password.
    try:
        url = make_url(text)
    except ArgumentError:
        raise StartError(
            "database: is not a URL; say sqlite:////PATH or postgresql://..."
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or not os.path.isabs(url.database):
            raise StartError("database: SQLite needs the absolute path of a file: sqlite:////PATH")
        return url.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise StartError(f"database: {backend} is not known; use sqlite or postgresql")


def _sqlite(url: URL) -> Engine:
    path = url.database
    assert path is not None
    try:
        # Made here for its mode: the records are nobody else's to read.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"database {path}: cannot be written ({error.strerror})") from error
    engine = create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
        connect_args={"check_same_thread": False, "timeout": SQLITE_BUSY_SECONDS},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where it is said, not where the module thinks that they should; without
    # one each statement is by itself.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # At once as a writer: one that becomes it later may find that it cannot.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: URL) -> Engine:
    return create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
        pool_pre_ping=False,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "attachd"},
    )


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise Invalid("a text is too long, or holds a character that records cannot") from error
    except DBAPIError as error:
        if not _is_outage(error):
            raise
        raise RecordsUnavailable(
            f"the database {url} does not answer ({_cause(error)}); what had been begun is gone on "
            "with when it does: try again later"
        ) from error
    except PoolExhausted as error:
        raise RecordsUnavailable(
            "all connections to the database are in use; try again later"
        ) from error


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def _cause(error: DBAPIError) -> str:
    # SQLite says whether its disk is full; others may say to whom they could not connect as whom.
    return str(error.orig if isinstance(error.orig, sqlite3.Error) else type(error.orig).__name__)
