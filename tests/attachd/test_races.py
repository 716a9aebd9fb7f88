"""Many at once on one volume, in threads and in processes: records and access agree at the end."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from attachd import errors
from attachd.database.engine import Database
from attachd.model import Attachment, VolumeStatus
from attachd.transitions import UNFINISHED, state_of
from attachd.volumes import Volumes
from tests.attachd.faults import Hang, late_done, late_undone
from tests.attachd.site import CALLER, Service, Site, connector
from tests.attachd.test_attachments import in_use, log_in
from tests.attachd.watched import watched

WAIT_SECONDS = 60
THREADS, CALLS = 4, 25
# What who comes too late, or too early, is told.
REFUSALS = (errors.NotFound, errors.WrongStatus, errors.InUse, errors.Invalid)


@pytest.fixture
def two(site: Site, database_url: str) -> Iterator[tuple[Service, Service]]:
    """Two processes: they share nothing but the records and the storage host."""
    database = Database(database_url)
    yield site.service, site.start(database=database)
    database.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4 * THREADS) as made:
        yield made


# An attach and a detach, in all orders

GIVING = "create_export", "initialize_connection"


@pytest.mark.parametrize("host", ["same", "other"])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_attach_that_comes_while_the_last_detach_goes_on_keeps_its_access(
    site: Site,
    two: tuple[Service, Service],
    threads: ThreadPoolExecutor,
    host: str,
    processes: int,
) -> None:
    detaching, attaching = two[0], two[processes - 1]
    volume_id = site.volume(multiattach=True)
    going = in_use(site, volume_id, "same")
    hang = Hang()
    detaching.drivers.faults["terminate_connection"].append(hang)
    detached = threads.submit(detaching.attachments.delete, CALLER, going.id)
    assert hang.reached.wait(WAIT_SECONDS)
    asked = list(attaching.drivers.calls)
    with waits_for_its_turn(attaching, volume_id, same=processes == 1):
        attached = threads.submit(
            attaching.attachments.create, CALLER, volume_id, connector=connector(host)
        )
    assert attaching.drivers.calls == asked
    hang.released.set()
    detached.result(WAIT_SECONDS)
    made = attached.result(WAIT_SECONDS)
    assert log_in(site, made, host)
    site.agree(volume_id)


@pytest.mark.parametrize("step", GIVING)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_detach_that_comes_while_an_attach_goes_on_leaves_its_access(
    site: Site,
    two: tuple[Service, Service],
    threads: ThreadPoolExecutor,
    step: str,
    processes: int,
) -> None:
    attaching, detaching = two[0], two[processes - 1]
    volume_id = site.volume(multiattach=True)
    going = in_use(site, volume_id, "b")
    hang = Hang()
    site.forget_targets()
    attaching.drivers.faults[step].append(hang)
    attached = threads.submit(
        attaching.attachments.create, CALLER, volume_id, connector=connector("a")
    )
    assert hang.reached.wait(WAIT_SECONDS)
    with waits_for_its_turn(detaching, volume_id, same=processes == 1):
        detached = threads.submit(detaching.attachments.delete, CALLER, going.id)
    hang.released.set()
    made = attached.result(WAIT_SECONDS)
    assert [one.id for one in detached.result(WAIT_SECONDS).remaining] == [made.id]
    assert log_in(site, made)
    site.agree(volume_id)


@contextmanager
def waits_for_its_turn(service: Service, volume_id: str, same: bool) -> Iterator[None]:
    """The block begins an operation; until it waits for one of the same process, or of another."""
    looks = threading.Semaphore(0)

    def look(text: str, _parameters: object) -> None:
        if "FROM volumes" in text:
            looks.release()

    with watched(service.database, look):
        yield
        if same:
            end = time.monotonic() + WAIT_SECONDS
            while not service.claims.turns.waiting(volume_id):
                assert time.monotonic() < end
        else:
            for _ in range(3):
                assert looks.acquire(timeout=WAIT_SECONDS)


def test_of_two_at_once_one_gets_a_volume_that_is_not_multiattach(
    site: Site, two: tuple[Service, Service], threads: ThreadPoolExecutor
) -> None:
    begin = threading.Barrier(4)

    def attach(service: Service, volume_id: str, host: str) -> Attachment | errors.InUse:
        begin.wait(WAIT_SECONDS)
        try:
            return service.attachments.create(CALLER, volume_id, connector=connector(host))
        except errors.InUse as error:
            return error

    for _ in range(5):
        volume_id = site.volume()
        calls = [
            threads.submit(attach, service, volume_id, f"{host}{number}")
            for number, service in enumerate(two)
            for host in "ab"
        ]
        answers = [call.result(WAIT_SECONDS) for call in calls]
        (made,) = [one for one in answers if isinstance(one, Attachment)]
        assert all(made.id in str(one) for one in answers if isinstance(one, errors.InUse))
        site.agree(volume_id)


# Anything, in any order


class Storm:
    """Calls of one thread, any after any, on what there is when they are made."""

    def __init__(self, service: Service, volume_id: str, seed: str) -> None:
        self._service = service
        self._volume_id = volume_id
        self._random = random.Random(seed)
        self.seen = Counter[str]()

    def run(self) -> None:
        calls: dict[str, Callable[[], object]] = {
            "create": self._create,
            "reserve": lambda: self._service.attachments.create(CALLER, self._volume_id),
            "update": self._update,
            "complete": lambda: self._service.attachments.complete(CALLER, self._any()),
            "delete": lambda: self._service.attachments.delete(CALLER, self._any()),
            "by actions": self._by_actions,
            "end by actions": self._end_by_actions,
        }
        for _ in range(CALLS):
            name, call = self._random.choice(list(calls.items()))
            try:
                call()
            except REFUSALS:
                self.seen[f"{name} refused"] += 1
            except (errors.HostUnavailable, errors.OutcomeUnknown):
                self.seen[f"{name} late"] += 1
            else:
                self.seen[name] += 1

    def _connector(self) -> dict[str, object]:
        return connector(self._random.choice("abc"))

    def _any(self) -> str:
        found = self._service.records.attachments_of(self._volume_id)
        return self._random.choice(found).id if found else "none"

    def _create(self) -> None:
        self._service.attachments.create(CALLER, self._volume_id, connector=self._connector())

    def _update(self) -> None:
        self._service.attachments.update(CALLER, self._any(), self._connector())

    def _by_actions(self) -> None:
        actions, wanted = self._service.actions, self._connector()
        actions.reserve(CALLER, self._volume_id)
        actions.initialize_connection(CALLER, self._volume_id, wanted)
        actions.attach(
            CALLER,
            self._volume_id,
            instance_uuid=None,
            host_name=str(wanted["host"]),
            mountpoint=None,
            mode=None,
        )

    def _end_by_actions(self) -> None:
        actions = self._service.actions
        actions.begin_detaching(CALLER, self._volume_id)
        actions.terminate_connection(CALLER, self._volume_id, self._connector())
        actions.detach(CALLER, self._volume_id)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("multiattach", [False, True])
def test_a_storm_ends_in_agreement(
    site: Site,
    two: tuple[Service, Service],
    threads: ThreadPoolExecutor,
    multiattach: bool,
    late: bool,
) -> None:
    volume_id = site.volume(multiattach)
    if late:
        for service in two:
            for call in ("initialize_connection", "terminate_connection"):
                service.drivers.faults[call].extend([late_undone, None, None, late_done, None] * 6)
    storms = [Storm(two[n % 2], volume_id, f"{n}") for n in range(2 * THREADS)]
    for done in [threads.submit(storm.run) for storm in storms]:
        done.result(2 * WAIT_SECONDS)
    seen = sum((storm.seen for storm in storms), Counter[str]())
    # It was one.
    assert any(seen[name] for name in ("create", "update", "by actions")), seen
    assert seen["delete"], seen
    assert any(name.endswith("late") for name in seen) == late, seen
    for service in two:
        service.drivers.heal()
    site.service.settle()
    left = site.record(volume_id)
    assert not [one for one in left.attachments if state_of(one) in UNFINISHED]
    if left.status is VolumeStatus.DETACHING:
        # One thread's begin_detaching whose detach found another's attachment.
        site.service.actions.roll_detaching(CALLER, volume_id)
    site.agree(volume_id)
    for attachment in left.attachments:
        site.service.attachments.delete(CALLER, attachment.id)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    site.agree(volume_id)


def test_a_volume_is_deleted_or_attached(
    site: Site, two: tuple[Service, Service], threads: ThreadPoolExecutor
) -> None:
    begin = threading.Barrier(3)

    def attach(service: Service, volume_id: str) -> bool:
        begin.wait(WAIT_SECONDS)
        try:
            made = service.attachments.create(CALLER, volume_id, connector=connector())
            service.attachments.complete(CALLER, made.id)
        except REFUSALS:
            return False
        return True

    def delete(service: Service, volume_id: str) -> bool:
        begin.wait(WAIT_SECONDS)
        try:
            Volumes(service.records, service.claims, service.hosts).delete(CALLER, volume_id)
        except REFUSALS:
            return False
        return True

    for _ in range(8):
        volume_id = site.volume()
        calls = [
            threads.submit(call, service, volume_id)
            for call, service in ((attach, two[0]), (attach, two[1]), (delete, two[1]))
        ]
        *attached, deleted = [call.result(WAIT_SECONDS) for call in calls]
        assert sorted([*attached, deleted]) == [False, False, True]
        if deleted:
            assert site.service.records.volume(volume_id) is None
            assert site.service.records.attachments_of(volume_id) == ()
            assert volume_id not in {one.volume_id for one in site.driver.volumes.list()}
        else:
            site.agree(volume_id)
