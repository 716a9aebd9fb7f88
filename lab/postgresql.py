"""A PostgreSQL of one's own, from Debian's package: on a unix socket, ended by its pid."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from lab.errors import LabError

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
# The package makes it; PostgreSQL does not run as root.
USER = "postgres"
START_SECONDS = 60.0
POLL_SECONDS = 0.05


def is_installed() -> bool:
    return (PROGRAMS / "postgres").exists()


class Server:
    """Whoever reaches its socket may do everything."""

    def __init__(self, folder: Path, settings: Sequence[str]) -> None:
        """Raises LabError, with its own words, when it does not start."""
        self._folder, self._data = folder, folder / "data"
        self._settings = settings
        initdb = [str(PROGRAMS / "initdb"), "--auth=trust", "--no-sync", "--username", USER]
        subprocess.run(
            [*initdb, "-D", str(self._data)],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._as_user(),
        )
        self.start()

    def start(self) -> None:
        """Again, after ``crash``. Raises LabError."""
        argv = [
            *(str(PROGRAMS / "postgres"), "-D", str(self._data), "-k", str(self._folder), "-h", ""),
            *(f"-c{setting}" for setting in self._settings),
        ]
        with (self._folder / "log").open("ab") as output:
            self._server = subprocess.Popen(argv, stdout=output, stderr=output, **self._as_user())
        try:
            self._wait()
        # Whatever it was, it is raised again; also Ctrl-C.
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
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > end:
                    said = (self._folder / "log").read_text(errors="replace")
                    raise LabError(f"PostgreSQL did not start: {said}") from None
                time.sleep(POLL_SECONDS)
            else:
                return

    def execute(self, statement: str) -> None:
        where = f"host={self._folder} user={USER} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def create(self, name: str) -> str:
        """The URL of a new database, which is empty."""
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def crash(self) -> None:
        """At once: what was not committed is gone, and the next start recovers the rest."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait()

    def stop(self) -> None:
        # Fast shutdown: whoever is connected is sent away.
        self._server.send_signal(signal.SIGINT)
        self._server.wait()


@contextmanager
def server(settings: Sequence[str] = ()) -> Iterator[Server]:
    # A short path: that of a unix socket has at most 107 characters.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        made = Server(Path(folder), settings)
        try:
            yield made
        finally:
            made.stop()
