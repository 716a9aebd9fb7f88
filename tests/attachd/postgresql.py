"""A PostgreSQL of the tests' own, from Debian's package: on a unix socket, ended by its pid."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from attachd.database.engine import Database
from attachd.database.migrations import migrate

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
# The package makes it; PostgreSQL does not run as root.
USER = "postgres"
# What is tested here is not its durability.
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
START_SECONDS = 60.0
TEMPLATE = "migrated"


def is_installed() -> bool:
    return (PROGRAMS / "postgres").exists()


class Server:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        data, log = folder / "data", folder / "log"
        initdb = [str(PROGRAMS / "initdb"), "--auth=trust", "--no-sync", "--username", USER]
        subprocess.run(
            [*initdb, "-D", str(data)], check=True, stdout=subprocess.DEVNULL, **self._as_user()
        )
        settings = [f"-c{setting}" for setting in QUICK]
        command = [str(PROGRAMS / "postgres"), "-D", str(data), "-k", str(folder), "-h", ""]
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                [*command, *settings], stdout=output, stderr=output, **self._as_user()
            )
        try:
            self._wait()
            self._execute(f"CREATE DATABASE {TEMPLATE}")
            database = Database(self._url(TEMPLATE))
            migrate(database)
            database.close()
        except BaseException:
            self.stop()
            raise

    def _as_user(self) -> dict[str, Any]:
        if os.geteuid():
            return {"cwd": self._folder}
        user = pwd.getpwnam(USER)
        os.chown(self._folder, user.pw_uid, user.pw_gid)
        return {
            "cwd": self._folder,
            "user": user.pw_uid,
            "group": user.pw_gid,
            "extra_groups": [],
        }

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self._execute("SELECT 1")
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def _execute(self, statement: str) -> None:
        where = f"host={self._folder} user={USER} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new one with all tables, for one test."""
        name = f"test_{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        yield self._url(name)
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        # Fast shutdown: whoever is connected is sent away.
        self._server.send_signal(signal.SIGINT)
        self._server.wait()


@contextmanager
def server() -> Iterator[Server]:
    # A short path: that of a unix socket has at most 107 characters.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        made = Server(Path(folder))
        try:
            yield made
        finally:
            made.stop()
