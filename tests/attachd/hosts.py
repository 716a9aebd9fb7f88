"""attachd's services on simulated storage hosts, as its tests use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from attachd.claims import Claims
from attachd.database.engine import Database
from attachd.database.migrations import migrate
from attachd.database.records import Records
from attachd.hosts import Hosts, Reach
from attachd.model import Caller, HostSpec
from tests.hosts import SimulatedBacking

POOL_BYTES = 100 << 30
CALLER = Caller("project", "user")
OTHER = Caller("other")
ADMIN = Caller("administration", is_admin=True)


class Process:
    """What one attachd has over the records."""

    def __init__(self, database: Database, name: str = "one") -> None:
        self.records = Records(database)
        self.claims = Claims(self.records, name, wait_seconds=10)
        self.hosts = Hosts(database, Reach(timeout_seconds=10))

    def close(self) -> None:
        self.hosts.close()


@contextmanager
def storage(*names: str) -> Iterator[Mapping[str, SimulatedBacking]]:
    with ExitStack() as stack:
        backings = {}
        for name in names:
            # In memory: what is tested here is not durability, and each change is flushed.
            folder = stack.enter_context(TemporaryDirectory(dir="/dev/shm"))
            # Other tests have smaller pools.
            with patch("tests.hosts.SIMULATED_POOL_BYTES", POOL_BYTES):
                backings[name] = SimulatedBacking(Path(folder))
            stack.callback(backings[name].close)
        yield backings


@contextmanager
def sqlite() -> Iterator[Database]:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        database = Database(f"sqlite:///{folder}/attachd.sqlite")
        migrate(database)
        yield database
        database.close()


def spec(name: str, backing: SimulatedBacking) -> HostSpec:
    return HostSpec(name, backing.endpoint.address)
