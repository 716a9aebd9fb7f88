"""Attaching and detaching end to end, next to the same calls of a real Cinder."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from targetd_driver import Endpoint, TargetdDriver

from lab.bench.attachd.api import Api
from lab.bench.attachd.cinder import Cinder
from lab.bench.attachd.clients import Calls, Outcome
from lab.bench.attachd.manager import Manager, Wrap
from lab.bench.attachd.processes import Program, module
from lab.bench.attachd.rows import Per, Row
from lab.bench.inside.report import milliseconds, p50, percentile
from lab.errors import LabError
from lab.lab import Lab
from lab.program import run
from lab.storage import GIBIBYTE, GROUP, GRPC_PORT, StorageHost, spec

HOST, POOL = "storage", "thin"
# A thin pool promises 20 times its size at most.
DISK_BYTES = 32 * GIBIBYTE
CLIENTS_SECONDS = 1800.0
VOLUME_SECONDS = 60.0
POLL_SECONDS = 0.1
KINDS = ("create", "delete")
ERRORS_SAID = 3


@dataclass(frozen=True)
class Step:
    """So many clients with so many volumes each, in so many turns."""

    clients: int
    volumes_each: int
    turns: int

    @property
    def volumes(self) -> int:
        return self.clients * self.volumes_each


FULL = (Step(1, 20, 5), Step(32, 4, 3))
QUICK = (Step(1, 4, 1), Step(32, 1, 1))
# Whatever is made at a first call.
WARM_UP = Step(1, 2, 1)


@dataclass
class Subject:
    """What is called, and with which volumes."""

    name: str
    # Of the clients' program.
    arguments: Sequence[str]
    volume_ids: Sequence[str]
    program: Program | None = None
    # What puts the clients on its network.
    wrap: Wrap = list
    # Of the step that is measured, one for each turn.
    outcomes: list[Outcome] = field(default_factory=list)

    def turn(self, step: Step) -> Outcome:
        """Raises LabError."""
        clients = "lab.bench.attachd.clients"
        done = run(
            self.wrap(module(clients, "--clients", str(step.clients), *self.arguments)),
            stdin=json.dumps(self.volume_ids[: step.volumes]),
            timeout_seconds=CLIENTS_SECONDS,
        )
        return Outcome.of(done.stdout)

    def calls(self, kind: str) -> Calls:
        """Of all turns."""
        found = [getattr(outcome, kind) for outcome in self.outcomes]
        return Calls(
            seconds=[second for calls in found for second in calls.seconds],
            errors=[error for calls in found for error in calls.errors],
            all_seconds=sum(calls.all_seconds for calls in found),
        )


class Comparison:
    """Takes the rows of each step as they come."""

    def __init__(
        self,
        lab_folder: Path,
        steps: Sequence[Step],
        with_cinder: bool,
        part: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        """``part`` is told what begins, ``say`` how it goes on."""
        self._lab_folder, self._steps, self._with_cinder = lab_folder, steps, with_cinder
        self._part, self._say = part, say
        self.rows: list[Row] = []

    def run(self) -> None:
        """Raises LabError."""
        with ExitStack() as stack:
            self._part("booting the storage host")
            host = stack.enter_context(storage_host(self._lab_folder, self._say))
            subjects = [self._storage_host(host), self._attachd(stack, host)]
            if self._with_cinder:
                subjects.append(self._cinder(stack))
            for step in (WARM_UP, *self._steps):
                self._measure(step, subjects)

    @property
    def _volumes(self) -> int:
        return max(step.volumes for step in self._steps)

    def _storage_host(self, host: StorageHost) -> Subject:
        self._say(f"making {self._volumes} volumes")
        ids = [str(uuid.uuid4()) for _ in range(self._volumes)]
        with TargetdDriver(host.endpoint) as driver:
            for id_ in ids:
                driver.volumes.create(id_, GIBIBYTE, POOL)
        endpoint = on_network(host)
        assert endpoint.tls is not None
        arguments = ["--endpoint", endpoint.address, "--tls", str(endpoint.tls.ca.parent)]
        return Subject("storage host", arguments, ids, wrap=host.node.network.wrap)

    def _attachd(self, stack: ExitStack, host: StorageHost) -> Subject:
        """On the lab's network, as the clients that call it, and on its loopback."""
        self._part("starting attachd")
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="attachd-")))
        network = host.node.network
        manager = Manager(folder, {HOST: on_network(host)}, wrap=network.wrap)
        stack.callback(manager.close)
        with network.entered():
            ids = self._make_volumes("attachd", manager.port, f"{HOST}#{POOL}")
        arguments = ["--port", str(manager.port)]
        return Subject("attachd", arguments, ids, manager, network.wrap)

    def _cinder(self, stack: ExitStack) -> Subject:
        self._part("starting cinder")
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cinder-")))
        cinder = Cinder(folder)
        stack.callback(cinder.close)
        ids = self._make_volumes("cinder", cinder.port)
        return Subject("cinder", ["--port", str(cinder.port)], ids, cinder)

    def _make_volumes(self, name: str, port: int, place: str | None = None) -> list[str]:
        self._say(f"{name} makes {self._volumes} volumes")
        api = Api(port)
        wanted = {"size": 1, "availability_zone": place}
        made = [
            api.ask("POST", "volumes", {"volume": wanted})["volume"]["id"]
            for _ in range(self._volumes)
        ]
        for id_ in made:
            wait_available(api, id_)
        api.close()
        return made

    def _measure(self, step: Step, subjects: Sequence[Subject]) -> None:
        clients = f"{step.clients} client{'s' if step.clients > 1 else ''}"
        for subject in subjects:
            subject.outcomes.clear()
        for turn in range(step.turns):
            self._part(f"{clients}, turn {turn + 1} of {step.turns}")
            for subject in subjects:
                self._say(f"{subject.name}: {step.volumes} volumes")
                subject.outcomes.append(subject.turn(step))
        if step is WARM_UP:
            return
        for subject in subjects:
            self._report(subject, step.clients)
        self._compare(step.clients)

    def _report(self, subject: Subject, clients: int) -> None:
        for kind in KINDS:
            calls = subject.calls(kind)
            for error in calls.errors[:ERRORS_SAID]:
                self._say(f"{subject.name}: {error}")
            name = f"{subject.name}: {kind}"
            self._row(f"{name} errors", clients, len(calls.errors), "")
            if calls.seconds:
                self._row(f"{name} p50", clients, milliseconds(p50(calls.seconds)), "ms")
                self._row(f"{name} p99", clients, milliseconds(percentile(calls.seconds, 99)), "ms")
                rate = len(calls.seconds) / calls.all_seconds
                self._row(f"{name} rate", clients, rate, "per s")
        if subject.program is not None:
            memory = subject.program.resident_mebibytes
            self._row(f"{subject.name}: resident memory", clients, memory, "MiB")

    def _compare(self, clients: int) -> None:
        found = {row.measure: row.value for row in self.rows if row.count == clients}
        for kind in KINDS:
            ours, theirs = (found.get(f"{name}: {kind} p50") for name in ("attachd", "cinder"))
            if ours is not None and theirs is not None:
                self._row(f"{kind} p50, attachd / cinder", clients, ours / theirs, "ratio")

    def _row(self, measure: str, clients: int, value: float, unit: str) -> None:
        self.rows.append(Row(measure, Per.CLIENTS, clients, value, unit))


@contextmanager
def storage_host(folder: Path, say: Callable[[str], None]) -> Iterator[StorageHost]:
    """On a node of the lab, with the real targetd, and room for many volumes."""
    small = spec(HOST)
    disks_bytes = (DISK_BYTES, *small.disks_bytes[1:])
    with Lab(folder, [replace(small, disks_bytes=disks_bytes)], progress=say) as lab:
        host = StorageHost(lab[HOST])
        host.prepare_disks()
        host.node.run(["lvm", "lvextend", "--extents", "+90%FREE", f"{GROUP}/{POOL}"])
        host.install()
        host.start()
        yield host
        host.close()


def on_network(host: StorageHost) -> Endpoint:
    """As programs on the lab's network reach it: without the lab's relay in between."""
    return replace(host.endpoint, address=f"{host.node.address}:{GRPC_PORT}")


def wait_available(api: Api, volume_id: str) -> None:
    """Raises ApiError; LabError for one that does not come to be."""
    end = time.monotonic() + VOLUME_SECONDS
    path = f"volumes/{volume_id}"
    while (status := api.ask("GET", path)["volume"]["status"]) != "available":
        if status == "error" or time.monotonic() > end:
            raise LabError(f"{path} is {status}")
        time.sleep(POLL_SECONDS)
