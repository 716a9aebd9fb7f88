"""The run: every measure on one node, part after part."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.bench.clients import Outcome
from lab.bench.inside.attach import SPARE
from lab.bench.inside.report import SAY_SECONDS, milliseconds, p50, percentile
from lab.bench.inside.serve import SERVING
from lab.bench.rows import Row
from lab.bench.storage import FOLDER, GROUP_DISK, ROOT, Storage, environment
from lab.errors import LabError
from lab.lab import Lab

GRPC_PORT = 7788
CLIENTS = 64
CLIENTS_SECONDS = 600.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    counts: tuple[int, ...]
    repetitions: int
    # Where the slow tools are run, and where the node is rebooted.
    others_up_to: int
    reboots: tuple[int, ...]
    # Where `targetctl restore` runs: it takes minutes.
    restore: int
    attaches_each: int
    volumes: int
    quick: bool

    @property
    def devices(self) -> int:
        return max(self.counts) + max(SPARE, CLIENTS * self.attaches_each)


def full(counts: Iterable[int]) -> Plan:
    ordered = tuple(sorted(set(counts)))
    return Plan(
        counts=ordered,
        repetitions=300,
        others_up_to=1000,
        reboots=tuple(count for count in ordered if count >= 1000) or ordered[-1:],
        restore=max((count for count in ordered if count <= 1000), default=0),
        attaches_each=5,
        volumes=10,
        quick=False,
    )


QUICK = Plan(
    counts=(0, 100),
    repetitions=40,
    others_up_to=100,
    reboots=(100,),
    restore=100,
    attaches_each=1,
    volumes=3,
    quick=True,
)


class Bench:
    """Takes the rows of each part as they come."""

    def __init__(
        self,
        lab: Lab,
        plan: Plan,
        cinder: str,
        part: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        """``part`` is told what begins, ``say`` how it goes on."""
        self._lab, self._plan, self._cinder = lab, plan, cinder
        self._part, self._say = part, say
        self._storage = Storage(lab["storage"], say)
        self.rows: list[Row] = []

    @property
    def _address(self) -> list[str]:
        return ["--portal-address", self._storage.node.address]

    def run(self) -> None:
        self._storage.format()
        self._part("volumes on LVM")
        self._volumes()
        self._storage.reboot(self._plan.devices)
        self._part("attaching and detaching")
        self._attach()
        for count in self._plan.reboots:
            self._part(f"a reboot with {count} exports")
            self._reboot(count)
        if self._plan.restore:
            self._part(f"targetctl restore of {self._plan.restore} exports")
            self._restore(self._plan.restore)
        self._compare()

    def _program(self, module: str, *arguments: str) -> None:
        self.rows.extend(self._storage.start(module, [*arguments, *self._address]).rows())

    def _volumes(self) -> None:
        self._program(
            "volumes",
            *("--disk", GROUP_DISK, "--state", f"{FOLDER}/volumes"),
            *("--repetitions", str(self._plan.volumes)),
        )

    def _attach(self) -> None:
        plan = self._plan
        self._program(
            "attach",
            *("--counts", ",".join(map(str, plan.counts)), "--folder", str(FOLDER)),
            *("--repetitions", str(plan.repetitions), "--others-up-to", str(plan.others_up_to)),
            *(["--cinder", self._cinder] if self._cinder else []),
            *(["--quick"] if plan.quick else []),
        )

    def _reboot(self, count: int) -> None:
        self._storage.reboot(self._plan.devices)
        self._program("rebuild", "--exports", str(count))
        certificates = self._storage.node.folder / "client"
        self._storage.give_certificates(certificates)
        daemon = self._storage.start(
            "serve",
            [
                *("--exports", str(count), "--volumes", str(self._plan.devices)),
                *("--state", f"{FOLDER}/state-{count}", "--listen", f"0.0.0.0:{GRPC_PORT}"),
                *self._address,
            ],
        )
        self.rows.extend(daemon.rows(until=SERVING))
        if count == self._plan.reboots[-1]:
            self._clients(count, certificates, 1)
            self._clients(count, certificates, CLIENTS)
        daemon.terminate()
        self.rows.extend(daemon.rows())

    def _clients(self, count: int, certificates: Path, clients: int) -> None:
        each = self._plan.attaches_each * (CLIENTS // clients)
        name = f"{clients} clients" if clients > 1 else "1 client"
        self._say(f"{name} attach {each} volumes each")
        process = self._lab.popen_in_network(
            [
                *(sys.executable, "-m", "lab.bench.clients"),
                *(f"{self._storage.node.address}:{GRPC_PORT}", str(certificates)),
                *("--clients", str(clients), "--first", str(max(self._plan.counts))),
                *("--each", str(each)),
            ],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            output = self._output(process, name)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise LabError(f"{name}: the program ended with {process.returncode}")
        outcome = Outcome(**json.loads(output))
        for error in outcome.errors[:3]:
            print(f"{name}: {error}", file=sys.stderr)
        for measure, value, unit in (
            ("attaches", len(outcome.attach_seconds) / outcome.seconds, "per s"),
            ("errors", len(outcome.errors), ""),
            ("attach p50", milliseconds(p50(outcome.attach_seconds)), "ms"),
            ("attach p99", milliseconds(percentile(outcome.attach_seconds, 99)), "ms"),
        ):
            self.rows.append(Row(f"{name}: {measure}", count, value, unit))

    def _output(self, process: subprocess.Popen[str], name: str) -> str:
        """Raises LabError when it takes too long."""
        for turn in range(1, int(CLIENTS_SECONDS / SAY_SECONDS)):
            try:
                return str(process.communicate(timeout=SAY_SECONDS)[0])
            except subprocess.TimeoutExpired:
                self._say(f"{name}: {turn * SAY_SECONDS:.0f} s so far")
        raise LabError(f"{name} did not get done in {CLIENTS_SECONDS:.0f} s")

    def _restore(self, count: int) -> None:
        self._storage.reboot(self._plan.devices)
        saved = f"{FOLDER}/saved-{count}.json"
        self._program("rebuild", "--exports", str(count), "--saved", saved)

    def _compare(self) -> None:
        for other, measure in (
            ("bare reconcile", "reconcile / bare"),
            ("targetctl restore", "reconcile / targetctl restore"),
        ):
            for row in [row for row in self.rows if row.measure == other]:
                ours = self._value("reconcile", row.exports)
                if ours is not None:
                    self.rows.append(Row(measure, row.exports, ours / row.value, "ratio"))

    def _value(self, measure: str, exports: int) -> float | None:
        found = (row.value for row in self.rows if (row.measure, row.exports) == (measure, exports))
        return next(found, None)
