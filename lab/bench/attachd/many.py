"""attachd with many records next to attachd with few, in turns, each with a simulated host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from targetd_driver import Endpoint

from attachd.database.engine import Database
from attachd.sealing import Sealing
from lab import postgresql
from lab.bench.attachd import simulated_host
from lab.bench.attachd.api import Api
from lab.bench.attachd.counting import Count
from lab.bench.attachd.manager import Manager
from lab.bench.attachd.population import HOST, fill
from lab.bench.attachd.processes import Program, module
from lab.bench.attachd.requests import Requests
from lab.bench.attachd.rows import Per, Row
from lab.bench.inside.report import milliseconds, p50

# Granting takes some milliseconds each.
GRANT_SECONDS = 1200.0
# So long it does nothing when it has done what a start makes it do.
IDLE_SECONDS, IDLE_SHARE = 1.0, 0.1
COUNTED = 5


@dataclass(frozen=True)
class Plan:
    # The first is what the others are compared with.
    counts: Sequence[int]
    repetitions: int


FULL = Plan((100, 10_000), 200)
QUICK = Plan((100, 1000), 20)


class Site:
    """attachd over a database with that many volumes."""

    def __init__(self, count: int, folder: Path, endpoint: Endpoint, url: str) -> None:
        self.count = count
        url = url or f"sqlite:///{folder}/attachd.sqlite"
        database = Database(url)
        fill(database, Sealing.with_key_file(folder / "key", create=True), count)
        database.close()
        counted = folder / "statements"
        self.statements = Count(counted)
        program = ("lab.bench.attachd.counting", str(counted))
        self.manager = Manager(folder, {HOST: endpoint}, url, program)
        self._api = Api(self.manager.port)
        self.requests = Requests(self._api, count).by_name

    def wait_idle(self) -> None:
        """Until what begins with its start is done."""
        before = self.manager.processor_seconds
        while True:
            time.sleep(IDLE_SECONDS)
            now = self.manager.processor_seconds
            if now - before < IDLE_SHARE * IDLE_SECONDS:
                return
            before = now

    def seconds(self, name: str) -> float:
        started = time.perf_counter()
        self.requests[name]()
        return time.perf_counter() - started

    def close(self) -> None:
        self._api.close()
        self.manager.close()


class Scale:
    """Takes the rows of each database as they come."""

    def __init__(self, plan: Plan, part: Callable[[str], None], say: Callable[[str], None]) -> None:
        """``part`` is told what begins, ``say`` how it goes on."""
        self._plan = plan
        self._part, self._say = part, say
        self.rows: list[Row] = []

    def run(self) -> None:
        """Raises LabError, ApiError."""
        with ExitStack() as stack:
            self._part(f"simulated storage hosts with {self._counts} volumes")
            endpoints = self._hosts(stack)
            self._part(f"SQLite with {self._counts} volumes")
            self._measure("SQLite", endpoints, dict.fromkeys(self._plan.counts, ""))
            if not postgresql.is_installed():
                self._say("PostgreSQL is not installed and left out: apt-get install postgresql")
                return
            self._part(f"PostgreSQL with {self._counts} volumes")
            server = stack.enter_context(postgresql.server())
            urls = {count: server.create(f"bench_{count}") for count in self._plan.counts}
            self._measure("PostgreSQL", endpoints, urls)

    @property
    def _counts(self) -> str:
        return " and ".join(map(str, self._plan.counts))

    def _hosts(self, stack: ExitStack) -> Mapping[int, Endpoint]:
        started = []
        for count in self._plan.counts:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="targetd-")))
            argv = module(
                *("lab.bench.attachd.simulated_host", "--volumes", str(count)),
                *("--folder", str(folder)),
            )
            program = Program(f"the storage host with {count} volumes", argv, folder / "log")
            stack.callback(program.close)
            started.append((count, folder, program))
        for _, _, program in started:
            program.wait_for(_serving, GRANT_SECONDS)
        return {
            count: Endpoint(f"unix:{simulated_host.socket_of(folder)}")
            for count, folder, _ in started
        }

    def _measure(
        self, database: str, endpoints: Mapping[int, Endpoint], urls: Mapping[int, str]
    ) -> None:
        with ExitStack() as stack:
            sites = []
            for count, url in urls.items():
                self._say(f"{count} volumes are put into the records")
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="attachd-")))
                sites.append(Site(count, folder, endpoints[count], url))
                stack.callback(sites[-1].close)
            self._start(database, sites)
            self._time(database, sites)
            self._count(database, sites)
            for site in sites:
                memory = site.manager.resident_mebibytes
                self._row(f"{database}: resident memory", site, memory, "MiB")

    def _start(self, database: str, sites: Sequence[Site]) -> None:
        """Its first comparison of all records with the storage host is a part."""
        for site in sites:
            site.wait_idle()
            self._row(f"{database}: start", site, site.manager.processor_seconds, "s")

    def _time(self, database: str, sites: Sequence[Site]) -> None:
        self._say("requests in turns")
        taken: dict[tuple[str, int], list[float]] = {}
        for repetition in range(self._plan.repetitions):
            for name in sites[0].requests:
                # At nearly the same time, for others may use the machine too; and which comes
                # first changes, so that neither always finds warm caches.
                for site in sites if repetition % 2 else reversed(sites):
                    taken.setdefault((name, site.count), []).append(site.seconds(name))
        for name in sites[0].requests:
            first = p50(taken[name, sites[0].count])
            for site in sites:
                found = p50(taken[name, site.count])
                self._row(f"{database}: {name} p50", site, milliseconds(found), "ms")
                self._row(f"{database}: {name} p50 / at first", site, found / first, "ratio")

    def _count(self, database: str, sites: Sequence[Site]) -> None:
        """Of several the median: what attachd does by itself may come between."""
        for site in sites:
            counted: dict[str, list[int]] = {name: [] for name in site.requests}
            for _ in range(COUNTED):
                for name, request in site.requests.items():
                    before = site.statements.value
                    request()
                    counted[name].append(site.statements.value - before)
            for name, counts in counted.items():
                self._row(f"{database}: {name} statements", site, median(counts), "")

    def _row(self, measure: str, site: Site, value: float, unit: str) -> None:
        self.rows.append(Row(measure, Per.VOLUMES, site.count, value, unit))


def _serving(log: str) -> str | None:
    return log if simulated_host.SERVING in log else None
