"""The threads of the lab's storms on a simulated host: each knows what became of its calls."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import cast

import pytest
from targetd_driver import TargetdDriver

from attachd.database.records import Records
from attachd.model import Attachment
from lab import postgresql
from lab.attach_client import AttachClient, NoAnswer, wait_until
from lab.attach_slots import Peer, Slot, Stage, Tally, all_held
from lab.attach_verify import differing_grants, told_otherwise
from lab.attach_workers import ActionWorker, Worker
from lab.errors import LabError
from lab.initiator import Initiator
from tests.attachd.served import NOAUTH, Served, served

SEED = 20260101
ACKNOWLEDGED, FAULT_EVERY = 300, 30


@pytest.fixture(scope="module")
def attachd() -> Iterator[Served]:
    with served() as found:
        yield found


def client(attachd: Served, kind: type[AttachClient] = AttachClient) -> AttachClient:
    return kind(HTTPConnection("127.0.0.1", attachd.service.server.port, timeout=60))


def records(attachd: Served) -> Records:
    return attachd.service.site.claims.records


def peers(*names: str) -> list[Peer]:
    node = cast(Initiator, SimpleNamespace(name="", connector={"ip": "192.0.2.1"}))
    return [Peer(node, f"iqn.2026-01.org.example.storm:{name}") for name in names]


@dataclass
class Storm:
    work: Sequence[tuple[type[Worker], Sequence[Slot]]]
    tally: Tally

    @property
    def slots(self) -> list[Slot]:
        return [slot for _, slots in self.work for slot in slots]

    def run(
        self, attachd: Served, acknowledged: int, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(len(self.work)) as threads:
            running = [
                threads.submit(self._worker, attachd, n, stop) for n in range(len(self.work))
            ]
            while self.tally.total < acknowledged and not any(one.done() for one in running):
                meanwhile()
                stop.wait(0.01)
            stop.set()
        for one in running:
            one.result()

    def _worker(self, attachd: Served, number: int, stop: threading.Event) -> None:
        kind, slots = self.work[number]
        with closing(client(attachd)) as own:
            kind(random.Random(SEED + number), slots, own, self.tally).run(stop)

    def told_otherwise(self, attachd: Served) -> list[str]:
        found: dict[str, list[Attachment]] = {}
        for slot in self.slots:
            found[slot.volume_id] = list(records(attachd).attachments_of(slot.volume_id))
        return list(told_otherwise(self.slots, found))


def storm(attachd: Served) -> Storm:
    with closing(client(attachd)) as maker:
        shared = maker.create_volume(multiattach=True)
        work: list[tuple[type[Worker], Sequence[Slot]]] = [
            (
                Worker,
                [
                    Slot(maker.create_volume(), peers("a", "b")),
                    Slot(shared, peers(f"{number}-x", f"{number}-y")),
                ],
            )
            for number in range(3)
        ]
        own = [maker.create_volume() for _ in range(3)]
    work.append((ActionWorker, [Slot(volume_id, peers("a", "b")) for volume_id in own]))
    return Storm(work, Tally())


def test_what_they_were_told_is_what_is_recorded(attachd: Served) -> None:
    threads = storm(attachd)
    threads.run(attachd, ACKNOWLEDGED)
    assert threads.told_otherwise(attachd) == []
    assert threads.tally.acknowledged.keys() >= {
        *("reserve", "attach", "connect", "complete", "renew", "move", "delete"),
        *("initialize_connection", "unreserve", "begin_detaching", "roll_detaching"),
        *("terminate_connection", "detach"),
    }


def test_what_is_lost_changed_or_too_much_is_told(attachd: Served) -> None:
    threads = storm(attachd)
    threads.run(attachd, ACKNOWLEDGED)
    (slot, held), *_ = [
        (slot, held) for slot, held in all_held(threads.slots) if held.stage is Stage.ATTACHED
    ]
    slot.held = replace(held, stage=Stage.CONNECTED)
    (told,) = threads.told_otherwise(attachd)
    assert slot.volume_id in told
    slot.held = None
    assert len(threads.told_otherwise(attachd)) == 1
    slot.held = held
    with closing(client(attachd)) as other:
        other.delete(held.id) if held.id else other.act(slot.volume_id, "os-force_detach")
    assert len(threads.told_otherwise(attachd)) == 1


def cut_connections(server: postgresql.Server) -> None:
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'attachd'"
    )


def crash(server: postgresql.Server) -> None:
    server.crash()
    server.start()


@pytest.mark.postgresql
@pytest.mark.parametrize("fault", [cut_connections, crash])
def test_a_database_that_goes_away_at_any_moment(
    fault: Callable[[postgresql.Server], None],
) -> None:
    """In the middle of a commit too: then nobody is told whether it was done."""
    with (
        postgresql.server() as server,
        served(replace(NOAUTH, database=server.create("records"))) as attachd,
    ):
        threads = storm(attachd)
        due = iter(range(FAULT_EVERY, ACKNOWLEDGED, FAULT_EVERY))
        wanted = [next(due)]

        def meanwhile() -> None:
            if wanted and threads.tally.total >= wanted[0]:
                fault(server)
                wanted[:] = [one for one in [next(due, None)] if one is not None]

        threads.run(attachd, ACKNOWLEDGED, meanwhile)
        assert threads.tally.failed > 0, "else nothing was cut off"
        assert threads.told_otherwise(attachd) == []
        wait_until(lambda: not records(attachd).unfinished_attachments("one"), "all settled")
        granted = list(records(attachd).attachments_of_host("one"))
        with TargetdDriver(attachd.backing.endpoint) as driver:
            assert list(differing_grants(granted, driver)) == []


class Lossy(AttachClient):
    """What it is told to complete is gone, and nobody says so."""

    def complete(self, attachment_id: str) -> None:
        self.delete(attachment_id)
        raise NoAnswer("the connection broke")


def test_what_a_lost_call_must_not_have_done_ends_the_storm(attachd: Served) -> None:
    with closing(client(attachd, Lossy)) as own:
        slot = Slot(own.create_volume(), peers("a"))
        worker = Worker(random.Random(SEED), [slot], own, Tally())
        with pytest.raises(LabError, match=f"complete of {slot.volume_id}, no answer: is None"):
            worker.run(threading.Event())
