"""``python -m lab.attach_soak``: faults in the middle of storms of attaches and detaches.

Several threads attach and detach through REST, with real logins by two hosts, while attachd and
targetd are killed at random moments, or do not reach each other for a while. At the end records,
grants, ACLs and sessions are compared with each other, and with what the threads were told.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path

from attachd.config import IdentityKind
from lab.attach_client import AttachClient
from lab.attach_slots import Peer, Slot, Tally
from lab.attach_verify import Verifier, told_otherwise, tried
from lab.attach_workers import ActionWorker, Worker
from lab.attachd import AttachmentManager
from lab.errors import LabError
from lab.initiator import Initiator
from lab.lab import Lab
from lab.node import Spec
from lab.storage import StorageHost, spec

PLAYED = "iqn.2026-01.org.example.storm"
WORKERS, OWN_VOLUMES, ACTION_VOLUMES = 4, 2, 3
# A kill comes after so many acknowledgements, which a slow machine does not change, and then at
# a moment of its own.
BETWEEN_MIN, BETWEEN_MAX = 15, 45
MOMENT_SECONDS_MAX = 0.5
# Without any acknowledgement.
STUCK_SECONDS = 120.0
# While attachd and the storage host are cut off from each other, so many calls have to fail; each
# is of another worker.
FAILED_MIN = 3
FOLDER = Path("build/lab")


class Fault(StrEnum):
    """What happens in the middle of a storm."""

    ATTACHD = "attachd killed"
    TARGETD = "targetd killed"
    BOTH = "both killed"
    # Between attachd and the storage host; the iSCSI sessions go on.
    REQUESTS = "requests lost"
    ANSWERS = "answers lost"


KILLS = (Fault.ATTACHD, Fault.TARGETD, Fault.BOTH)


class Storm:
    """On one storage host. ``shared``: two multiattach volumes; the second of the initiators, which
    plays many, is not attached to them."""

    def __init__(
        self,
        lab: Lab,
        manager: AttachmentManager,
        storage: StorageHost,
        client: AttachClient,
        initiators: tuple[Initiator, Initiator],
        shared: tuple[str, str],
        seed: int,
        workers: int = WORKERS,
    ) -> None:
        self._lab = lab
        self._manager = manager
        self._storage = storage
        self._initiators = initiators
        self._rng = random.Random(seed)
        self._seed = seed
        self.tally = Tally()
        self.faults = Counter[Fault]()
        place = f"{storage.node.name}#thin"
        self._work: list[tuple[type[Worker], list[Slot]]] = []
        for number in range(workers):
            own = [client.create_volume(place=place) for _ in range(OWN_VOLUMES)]
            self._work.append((Worker, self._slots(number, own, shared)))
        own = [client.create_volume(place=place) for _ in range(ACTION_VOLUMES)]
        hosts = [Peer(initiator) for initiator in initiators]
        self._work.append((ActionWorker, [Slot(volume_id, hosts) for volume_id in own]))

    def _slots(self, number: int, own: Sequence[str], shared: tuple[str, str]) -> list[Slot]:
        hosts = [Peer(initiator) for initiator in self._initiators]
        b = self._initiators[1]
        alone = [Peer(b, f"{PLAYED}:{number}-{name}") for name in "xy"]
        # Attachments of several workers are one initiator's there, and share its access.
        together = [Peer(b, f"{PLAYED}:together-{name}") for name in "xy"]
        return [
            *(Slot(volume_id, hosts, may_log_in=True) for volume_id in own),
            Slot(shared[0], alone),
            Slot(shared[1], together, modes=("rw",)),
        ]

    @property
    def slots(self) -> list[Slot]:
        return [slot for _, slots in self._work for slot in slots]

    @property
    def volumes(self) -> list[str]:
        """Those that are nobody else's."""
        own = [slot.volume_id for slot in self.slots if not slot.peers[0].played]
        return list(dict.fromkeys(own))

    def run(self, acknowledged: int, faults: Sequence[Fault], tell: Callable[[str], None]) -> None:
        """Raises LabError for what must not be, at once."""
        stop = threading.Event()
        with ThreadPoolExecutor(len(self._work)) as threads:
            running = [
                threads.submit(self._worker, number, stop) for number in range(len(self._work))
            ]
            try:
                for fault in self._rng.sample(faults, len(faults)):
                    between = self._rng.randint(BETWEEN_MIN, BETWEEN_MAX)
                    self._wait(running, lambda: self.tally.total, self.tally.total + between)
                    time.sleep(self._rng.uniform(0.0, MOMENT_SECONDS_MAX))
                    before, started = self.tally.total, time.monotonic()
                    self._make(fault, running)
                    seconds = time.monotonic() - started
                    tell(f"{fault} after {before} acknowledged, for {seconds:.1f} s")
                self._wait(running, lambda: self.tally.total, acknowledged)
            finally:
                stop.set()
        for future in running:
            future.result()

    def _worker(self, number: int, stop: threading.Event) -> None:
        kind, slots = self._work[number]
        rng = random.Random(f"{self._seed}/{number}")
        with closing(AttachClient.in_lab(self._lab.network, self._manager)) as client:
            kind(rng, slots, client, self.tally).run(stop)

    @staticmethod
    def _wait(running: Sequence[Future[None]], count: Callable[[], int], wanted: int) -> None:
        """Not longer than all of them go on: none ends before it is told to."""
        last, since = -1, time.monotonic()
        while (now := count()) < wanted and not any(future.done() for future in running):
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > STUCK_SECONDS:
                raise LabError(f"nothing has happened for {STUCK_SECONDS:g} s")
            time.sleep(0.005)

    def _make(self, fault: Fault, running: Sequence[Future[None]]) -> None:
        self.faults[fault] += 1
        match fault:
            case Fault.TARGETD:
                self._storage.kill_and_wait()
            case Fault.ATTACHD | Fault.BOTH:
                self._manager.kill()
                if fault is Fault.BOTH:
                    self._storage.kill()
                self._manager.start()
            case _:
                self._cut(fault, running)

    def _cut(self, fault: Fault, running: Sequence[Future[None]]) -> None:
        node = self._storage.node
        way, there = (
            (self._lab.network, node.address)
            if fault is Fault.REQUESTS
            else (node, self._manager.address)
        )
        # Who waits for what an earlier fault has left makes no call meanwhile.
        self._wait(running, lambda: int(self.tally.is_settled), 1)
        wanted = self.tally.failed + FAILED_MIN
        way.lose(there)
        try:
            self._wait(running, lambda: self.tally.failed, wanted)
        finally:
            way.find(there)

    def problems(self, verifier: Verifier, more: Sequence[Slot] = ()) -> list[str]:
        """After the storm; ``more``: what else is attached to its volumes."""
        slots = [*self.slots, *more]
        return [
            *verifier.problems(),
            *told_otherwise(slots, verifier.attachments()),
            *tried(slots, self._storage.targets()),
        ]

    def table(self) -> str:
        tally = self.tally
        faults = ", ".join(f"{number} {fault}" for fault, number in self.faults.items())
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(tally.acknowledged.items()))
        cut_off = "; ".join(f"{number} {kind}" for kind, number in sorted(tally.cut_off.items()))
        return "\n".join(
            [
                f"faults        {faults}",
                f"acknowledged  {tally.total}: {kinds}",
                f"cut off       {sum(tally.cut_off.values())}: {cut_off}",
                f"busy          {tally.busy}",
                f"logins        {tally.logins}",
            ]
        )


def run(faults: int, seed: int, tell: Callable[[str], None]) -> list[str]:
    """Returns what was wrong."""
    with Lab(FOLDER.absolute(), [spec(), Spec("a"), Spec("b")]) as lab, ExitStack() as stack:
        storage = StorageHost(lab["storage"])
        stack.callback(storage.close)
        storage.prepare_disks()
        storage.install()
        storage.start()
        a, b = Initiator(lab["a"]), Initiator(lab["b"])
        for initiator in (a, b):
            initiator.start()
        manager = AttachmentManager(lab, {"storage": storage}, IdentityKind.NOAUTH)
        stack.callback(manager.close)
        manager.start()
        client = stack.enter_context(closing(AttachClient.in_lab(lab.network, manager)))
        shared = (
            client.create_volume(multiattach=True, place="storage#thin"),
            client.create_volume(multiattach=True, place="storage#thin"),
        )
        storm = Storm(lab, manager, storage, client, (a, b), shared, seed)
        try:
            rng = random.Random(seed)
            storm.run(0, [rng.choice(list(Fault)) for _ in range(faults)], tell)
        finally:
            tell(storm.table())
        return storm.problems(Verifier(manager, {"storage": storage}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.attach_soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, help="of the calls and the moments (default: random)")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{given.faults} faults, seed {seed}; end with Ctrl-C", flush=True)
    started = time.monotonic()
    try:
        problems = run(given.faults, seed, lambda line: print(line, flush=True))
    except LabError as error:
        problems = [str(error)]
    print("\n".join(problems) or "all agree")
    print(f"seed {seed}, {time.monotonic() - started:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
