from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab.lab import Lab
from lab.node import Spec
from lab.storage import spec
from lab.virtual import RUNNERS, Site
from tests.callers import Caller
from tests.hosts import INITIATORS, Backing, Host, LabBacking, RealBacking, SimulatedBacking
from tests.virtual import VirtualBacking

LAB_FOLDER = Path("build/lab").absolute()


JOURNAL_CHARACTERS = 8000
FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nodes",
        choices=["lab", *RUNNERS],
        default="lab",
        help="where the tests of the lab run: on its own nodes, or on virtual machines that are up",
    )


def pytest_configure() -> None:
    """SIGTERM ends the run as Ctrl-C does: a lab goes with its fixtures."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def on_virtual_machines(config: pytest.Config) -> bool:
    return bool(config.getoption("nodes") != "lab")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On virtual machines only what is for them."""
    if not on_virtual_machines(config):
        return
    theirs = [
        item
        for item in items
        if item.get_closest_marker("lab") and item.get_closest_marker("virtual")
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in theirs])
    # What such a test changes stays, and so comes after all others.
    items[:] = sorted(theirs, key=lambda item: bool(item.get_closest_marker("stays")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails in the lab shows what the daemon there said."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    backings = [one.backing for one in arguments.values() if isinstance(one, Host)]
    backing = next(iter(backings), arguments.get("lab_backing"))
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if report.failed and isinstance(backing, RealBacking) and backing.storage.node.running:
        said = backing.storage.journal()[-JOURNAL_CHARACTERS:]
        report.sections.append(("targetd's journal", said))
    return report


@pytest.fixture(scope="session")
def lab_backing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealBacking]:
    """One lab for all tests of a run: each leaves it empty."""
    if on_virtual_machines(request.config):
        runner, folder = request.config.getoption("nodes"), tmp_path_factory.mktemp("machines")
        site = Site(runner, folder)
        virtual = VirtualBacking(site)
        yield virtual
        virtual.close()
        site.close()
        return
    with Lab(LAB_FOLDER, [spec(), *(Spec(name) for name in INITIATORS)]) as lab:
        backing = LabBacking(lab)
        yield backing
        backing.close()


@pytest.fixture(scope="module", autouse=True)
def clean_machines(request: pytest.FixtureRequest) -> None:
    """A module of tests finds virtual machines as they were at the beginning when one has failed
    before it; the others leave nothing. Where processors are emulated, restoring takes longer than
    most tests: what the emulator has translated is not in a snapshot."""
    if on_virtual_machines(request.config):
        backing: VirtualBacking = request.getfixturevalue("lab_backing")
        backing.restore_after(request.session.testsfailed)


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
    yield from _emptied(request, request.getfixturevalue(f"{request.param}_backing"))


@pytest.fixture
def lab_host(request: pytest.FixtureRequest, lab_backing: RealBacking) -> Iterator[Host]:
    yield from _emptied(request, lab_backing)


def _emptied(request: pytest.FixtureRequest, backing: Backing) -> Iterator[Host]:
    host = Host(backing)
    yield host
    failed: bool = request.node.stash.get(FAILED, False)
    if failed and isinstance(backing, RealBacking):
        backing.recover()
    host.remove_everything()
    host.close()


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)
