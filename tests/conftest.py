from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab.lab import Lab
from lab.node import Spec
from lab.storage import spec
from tests.callers import Caller
from tests.hosts import INITIATORS, Host, LabBacking, SimulatedBacking

LAB_FOLDER = Path("build/lab").absolute()


JOURNAL_CHARACTERS = 8000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails in the lab shows what the daemon there said."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    backings = [one.backing for one in arguments.values() if isinstance(one, Host)]
    backing = next(iter(backings), arguments.get("lab_backing"))
    if report.failed and isinstance(backing, LabBacking) and backing.storage.node.running:
        said = backing.storage.journal()[-JOURNAL_CHARACTERS:]
        report.sections.append(("targetd's journal", said))
    return report


@pytest.fixture(scope="session")
def lab_backing() -> Iterator[LabBacking]:
    """One lab for all tests of a run: each leaves it empty."""
    with Lab(LAB_FOLDER, [spec(), *(Spec(name) for name in INITIATORS)]) as lab:
        backing = LabBacking(lab)
        yield backing
        backing.close()


@pytest.fixture
def simulated_backing() -> Iterator[SimulatedBacking]:
    # In memory: what is tested here is not durability, and each change is flushed.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        backing = SimulatedBacking(Path(folder))
        yield backing
        backing.close()


@pytest.fixture(params=["simulated", pytest.param("lab", marks=pytest.mark.lab)])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A storage host without volumes; the same tests run against each kind."""
    with_backing = Host(request.getfixturevalue(f"{request.param}_backing"))
    yield with_backing
    with_backing.remove_everything()
    with_backing.close()


@pytest.fixture
def lab_host(lab_backing: LabBacking) -> Iterator[Host]:
    with_backing = Host(lab_backing)
    yield with_backing
    with_backing.remove_everything()
    with_backing.close()


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)
