from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from attachd.database.engine import Database
from attachd.database.migrations import migrate
from tests.attachd import postgresql
from tests.attachd.hosts import storage
from tests.attachd.site import Site, site_over
from tests.hosts import SimulatedBacking


@pytest.fixture(scope="session")
def migrated_file() -> Iterator[Path]:
    """A SQLite file with all tables, to be copied."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "attachd.sqlite"
        database = Database(f"sqlite:///{path}")
        migrate(database)
        database.close()
        yield path


@pytest.fixture
def sqlite_url(migrated_file: Path) -> Iterator[str]:
    # In memory: what is tested here is not durability, and each change is flushed.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "attachd.sqlite"
        shutil.copy(migrated_file, path)
        yield f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    if not postgresql.is_installed():
        # CI has it: lab/packages.sh installs it.
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql-15")
    with postgresql.server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.Server) -> Iterator[str]:
    with postgresql_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of an empty database with all tables; the same tests run on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def storage_host() -> Iterator[SimulatedBacking]:
    """One for all tests: each removes the volumes that it made."""
    with storage("one") as backings:
        yield backings["one"]


@pytest.fixture
def site(database: Database, storage_host: SimulatedBacking) -> Iterator[Site]:
    with site_over(database, storage_host) as made:
        yield made
