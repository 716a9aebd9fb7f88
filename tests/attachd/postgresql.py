"""A PostgreSQL of the tests' own, with a new database for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from attachd.database.engine import Database
from attachd.database.migrations import migrate
from lab import postgresql
from lab.postgresql import is_installed as is_installed

# What is tested here is not its durability.
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
TEMPLATE = "migrated"


class Server:
    def __init__(self, server: postgresql.Server) -> None:
        self._server = server
        database = Database(server.create(TEMPLATE))
        migrate(database)
        database.close()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new one with all tables, for one test."""
        name = f"test_{uuid.uuid4().hex}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        yield self._server.url(name)
        self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def server() -> Iterator[Server]:
    with postgresql.server(QUICK) as made:
        yield Server(made)
