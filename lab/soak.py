"""``python -m lab.soak``: power cuts under load, and what each of them cost.

A client outside the storage host makes random calls and writes down what was
acknowledged. The host loses its power at a random moment, also while it comes
back, boots again, and is compared with what the client has written down. Most of
that is waiting for one processor, so several hosts do it side by side.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from pathlib import Path

import grpc

from lab.agreement import Client
from lab.errors import LabError
from lab.initiator import Initiator, properties_of
from lab.lab import Lab
from lab.ledger import BLOCK, Attachment, Findings, Ledger, digest
from lab.load import Worker
from lab.node import Node, Spec
from lab.processors import idle_first
from lab.storage import StorageHost, spec
from lab.verify import verify

HOSTS = 2
WORKERS = 4
# A cut comes after so many acknowledgements, which a slow machine does not change,
# and then at a moment of its own.
ACKNOWLEDGED_MAX = 40
MOMENT_SECONDS_MAX = 0.5
# How often the power goes again while the host comes back, and when.
AGAIN = 0.25
AGAIN_SECONDS = (0.5, 7.0)
CONNECT_SECONDS = 30.0
FOLDER = Path("build/lab")


@dataclass
class Counts:
    cuts: int = 0
    acknowledged: int = 0
    # Calls that had no answer when the power went.
    done: int = 0
    undone: int = 0
    # Volumes that were being filled from their source when the power went.
    filling: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    losses: int = 0
    leaks: int = 0
    orphans: int = 0
    logins: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.losses or self.leaks or self.orphans)

    def add(self, findings: Findings) -> None:
        self.done += findings.done
        self.undone += findings.undone
        self.losses += len(findings.losses)
        self.leaks += len(findings.leaks)
        self.orphans += len(findings.orphans)
        self.problems += findings.lines

    def add_all(self, other: Counts) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def table(self) -> str:
        return "\n".join(
            [
                f"cuts          {self.cuts}",
                f"acknowledged  {self.acknowledged} operations",
                f"unanswered    {self.done + self.undone} "
                f"({self.done} were done, {self.undone} not, none by half)"
                if self.clean
                else f"unanswered    {self.done} done, {self.undone} not",
                f"filling       {self.filling} volumes at a cut",
                f"logins        {self.logins}",
                f"losses        {self.losses}",
                f"leaks         {self.leaks}",
                f"orphans       {self.orphans}",
                "of each kind  "
                + ", ".join(f"{number} {kind}" for kind, number in sorted(self.kinds.items())),
            ]
        )


class Budget:
    """Cuts that are still to be made, by whoever comes first."""

    def __init__(self, cuts: int) -> None:
        self._left = cuts
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            taken = self._left > 0
            self._left -= taken
        return taken

    def cancel(self) -> None:
        with self._lock:
            self._left = 0


class Soak:
    """Power cuts on one storage host, whose disks are empty.

    ``initiator`` is a host that attaches; ``tell`` takes a line for each cut;
    ``others`` are nodes with whom the storage host must not share a processor.
    """

    def __init__(
        self,
        storage: StorageHost,
        initiator: Initiator,
        seed: int,
        tell: Callable[[str], None],
        acknowledged_max: int = ACKNOWLEDGED_MAX,
        others: Sequence[Node] = (),
    ) -> None:
        self._storage = storage
        self._others = others
        self._initiator = initiator
        self._tell = tell
        self._acknowledged_max = acknowledged_max
        self._rng = random.Random(seed)
        # Its own: how much there is to choose from must not move the next cuts.
        self._login_rng = random.Random(f"{seed}/login")
        self._ledger = Ledger()
        self._workers = [
            Worker(f"load-{n}", random.Random(f"{seed}/{n}"), storage, self._ledger)
            for n in range(WORKERS)
        ]
        self.counts = Counts()

    def run(self, budget: Budget) -> None:
        self._initiator.start()
        self._storage.prepare_disks()
        self._storage.install()
        self._storage.start()
        try:
            while budget.take():
                self._cycle(budget)
        finally:
            self.counts.acknowledged = self._ledger.acknowledged
            self.counts.kinds = self._ledger.kinds

    def _cycle(self, budget: Budget) -> None:
        before = self._ledger.acknowledged
        wanted = self._rng.randint(0, self._acknowledged_max)
        started = time.monotonic()
        self._load(before + wanted, self._rng.uniform(0.0, MOMENT_SECONDS_MAX))
        self.counts.cuts += 1
        waiting = self._ledger.in_flight
        self.counts.filling += sum(one.filling for one in self._ledger.volumes.values())
        told = f"after {time.monotonic() - started:.1f} s"
        started = time.monotonic()
        if self._rng.random() < AGAIN and budget.take():
            told += f" and again {self._cut_again():.1f} s later"
        self._recover()
        back = time.monotonic() - started
        with self._storage.channel() as channel:
            findings = verify(self._storage, Client(channel), self._ledger)
        findings.losses += self._log_in()
        self.counts.add(findings)
        for worker in self._workers:
            worker.settle()
        self._tell(
            f"cut {self.counts.cuts}, {told}: "
            f"{self._ledger.acknowledged - before} acknowledged, "
            f"{', '.join(waiting) or 'nothing'} in flight; back in {back:.1f} s, compared in "
            f"{time.monotonic() - started - back:.1f} s; "
            f"{len(self._ledger.volumes)} volumes, {len(self._ledger.snapshots)} snapshots, "
            f"{_verdict(findings)}"
        )
        for line in findings.lines:
            self._tell(f"  {line}")
        if findings.lines:
            self._tell(self._storage.journal())

    def _load(self, acknowledged: int, moment: float) -> None:
        """Work until that much is acknowledged in all, and a moment more; then the power
        goes. Raises what a call was refused with before that."""
        stop = threading.Event()
        channel = self._storage.channel()
        client = Client(channel)
        # The time before the cut is the calls', not the handshake's.
        grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        with ThreadPoolExecutor(WORKERS) as threads:
            running = [threads.submit(worker.run, client, stop) for worker in self._workers]
            try:
                self._wait(running, acknowledged, moment)
                if any(future.done() for future in running):
                    # A call was refused; why is in the journal, which goes with the power.
                    self._tell(self._storage.journal())
            finally:
                stop.set()
                self._storage.node.power_cut()
                # Nobody answers any more: without this the calls would wait.
                channel.close()
        for future in running:
            future.result()

    def _wait(self, running: list[Future[None]], acknowledged: int, moment: float) -> None:
        """Not longer than all of them go on: none ends before it is told to."""
        while self._ledger.acknowledged < acknowledged and not any(f.done() for f in running):
            time.sleep(0.005)
        time.sleep(moment)

    def _cut_again(self) -> float:
        """Cut the power while the host and its daemon come back."""
        seconds = self._rng.uniform(*AGAIN_SECONDS)
        pulled = threading.Event()

        def pull() -> None:
            pulled.set()
            self._storage.node.power_cut()

        cut = threading.Timer(seconds, pull)
        cut.start()
        try:
            self._come_back()
        except LabError:
            if not pulled.is_set():
                raise
        finally:
            cut.join()
        self.counts.cuts += 1
        return seconds

    def _come_back(self) -> None:
        # In the hours of a long run the others on this machine come and go.
        taken = {node.cpu for node in self._others}
        idle = idle_first()
        self._storage.node.cpu = next((cpu for cpu in idle if cpu not in taken), idle[0])
        self._storage.boot()

    def _recover(self) -> None:
        self._come_back()
        health = self._storage.health()
        if health != "SERVING":
            raise LabError(f"the daemon says {health} after a power cut")

    def _log_in(self) -> list[str]:
        """Over iSCSI, with what the client was told: is the right data there?"""
        granted = [
            (volume_id, state.content, one)
            for volume_id, state in sorted(self._ledger.volumes.items())
            for one in state.attachments
            if one.properties is not None
        ]
        if not granted:
            return []
        volume_id, content, attachment = self._login_rng.choice(granted)
        try:
            found = self._read(attachment)
        except LabError as error:
            return [f"{volume_id} {attachment.attachment_id}: {error}"]
        self.counts.logins += 1
        if found != content:
            return [f"{volume_id} {attachment.attachment_id}: another content over iSCSI"]
        return []

    def _read(self, attachment: Attachment) -> str:
        if attachment.properties is None:
            raise ValueError(f"{attachment.attachment_id} was never answered")
        properties = properties_of(attachment.properties)
        disk = self._initiator.login(properties, attachment.initiator)
        try:
            return digest(self._initiator.node.run(["head", "-c", str(BLOCK), disk]).out)
        finally:
            self._initiator.logout(properties)


def _verdict(findings: Findings) -> str:
    if not findings.lines:
        return "nothing lost, leaked or orphaned"
    return (
        f"{len(findings.losses)} lost, {len(findings.leaks)} leaked, "
        f"{len(findings.orphans)} orphaned"
    )


def run(
    cuts: int,
    seed: int,
    tell: Callable[[str], None],
    counts: Counts,
    hosts: int = HOSTS,
    acknowledged_max: int = ACKNOWLEDGED_MAX,
) -> None:
    """That many cuts, shared by several storage hosts; adds to the counts, also when it fails."""
    names = [f"storage-{n}" for n in range(hosts)]
    specs = [spec(name) for name in names]
    with Lab(FOLDER.absolute(), [*specs, *(Spec(f"initiator-{n}") for n in range(hosts))]) as lab:
        soaks = []
        for n, name in enumerate(names):
            soaks.append(
                Soak(
                    StorageHost(lab[name]),
                    Initiator(lab[f"initiator-{n}"]),
                    seed + n,
                    # mypy does not infer a lambda whose argument has a default.
                    lambda line, name=name: tell(f"{name}: {line}"),  # type: ignore[misc]
                    acknowledged_max,
                    [lab[other] for other in names if other != name],
                )
            )
        budget = Budget(cuts)
        try:
            with ThreadPoolExecutor(hosts) as threads:
                running = [threads.submit(soak.run, budget) for soak in soaks]
                try:
                    for future in as_completed(running):
                        future.result()
                finally:
                    budget.cancel()
        finally:
            for soak in soaks:
                counts.add_all(soak.counts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.soak", description=__doc__)
    parser.add_argument("--cuts", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, help="of the load and the moments (default: random)")
    parser.add_argument("--hosts", type=int, default=HOSTS, help=f"at a time (default: {HOSTS})")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    counts = Counts()
    status = 0
    print(f"{given.cuts} power cuts, seed {seed}; end with Ctrl-C", flush=True)
    started = time.monotonic()
    try:
        run(given.cuts, seed, lambda line: print(line, flush=True), counts, given.hosts)
    except (KeyboardInterrupt, SystemExit):
        # The lab makes the second of SIGTERM.
        status = 130
    except (LabError, grpc.RpcError) as error:
        print(f"soak: {error}", file=sys.stderr)
        status = 1
    print(f"\n{counts.table()}\nseed          {seed}\n{time.monotonic() - started:.0f} s")
    return status if counts.clean else 1


if __name__ == "__main__":
    sys.exit(main())
