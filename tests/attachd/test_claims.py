"""One operator per volume, among threads and among processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from attachd import errors
from attachd.claims import Claims, Turns
from attachd.database.engine import Database
from attachd.database.records import Records
from attachd.model import Caller, VolumeStatus
from tests.attachd.faults import Killed
from tests.attachd.site import CALLER, HOLD_SECONDS, OTHER, Clock, volume_record

VOLUME, ANOTHER = "volume", "another"
WAIT_SECONDS = 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def other_database(database_url: str) -> Iterator[Database]:
    """As another process has it: nothing is shared but the records."""
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture
def claims(database: Database, clock: Clock) -> Claims:
    records = Records(database, clock)
    with records.writing() as changes:
        for volume_id in (VOLUME, ANOTHER):
            changes.add_volume(volume_record(volume_id, clock()))
    return Claims(records, "one", HOLD_SECONDS, wait_seconds=0)


@pytest.fixture
def others(claims: Claims, other_database: Database, clock: Clock) -> Claims:
    return Claims(Records(other_database, clock), "two", HOLD_SECONDS, wait_seconds=0)


def patient(claims: Claims) -> Claims:
    claims.wait_seconds = WAIT_SECONDS
    return claims


def set_description(claims: Claims, text: str) -> None:
    with claims.once(VOLUME, "describe") as step:
        step.values["description"] = text


def description(claims: Claims) -> str:
    volume = claims.records.volume(VOLUME)
    assert volume is not None
    return volume.description


# A claim


def test_a_claim_keeps_others_out_from_its_first_transaction_to_its_last(
    claims: Claims, others: Claims
) -> None:
    with claims.hold(VOLUME, "attach") as claim:
        with claim.begin() as step:
            step.values["description"] = "begun"
        with pytest.raises(errors.Busy, match=r"volume is busy: attach by one since .*try again"):
            set_description(others, "other")
        # Another volume is another matter.
        with others.once(ANOTHER, "describe"):
            pass
        with claim.end() as step:
            step.values["description"] = "ended"
    assert description(others) == "ended"
    set_description(others, "other")
    assert description(claims) == "other"


def test_what_the_first_transaction_refuses_leaves_no_claim(claims: Claims, others: Claims) -> None:
    with (
        pytest.raises(errors.WrongStatus),
        claims.hold(VOLUME, "attach") as claim,
        claim.begin() as step,
    ):
        step.set_status(VolumeStatus.RESERVED)
        raise errors.WrongStatus("no")
    volume = claims.records.volume(VOLUME)
    assert volume is not None
    assert (volume.claim, volume.status) == (None, VolumeStatus.AVAILABLE)
    set_description(others, "free")


def test_a_last_transaction_that_fails_is_not_written_and_the_claim_is_released(
    claims: Claims, others: Claims
) -> None:
    with pytest.raises(ZeroDivisionError), claims.hold(VOLUME, "attach") as claim:
        with claim.begin():
            pass
        with claim.end() as step:
            step.values["description"] = "ended"
            raise ZeroDivisionError
    assert description(others) == ""
    set_description(others, "free")


def test_who_dies_leaves_its_claim_until_that_ends(
    claims: Claims, others: Claims, clock: Clock
) -> None:
    with pytest.raises(Killed), claims.hold(VOLUME, "attach") as claim:
        with claim.begin():
            pass
        raise Killed
    clock.pass_by(HOLD_SECONDS - 1)
    with pytest.raises(errors.Busy):
        set_description(others, "too early")
    clock.pass_by(1)
    set_description(others, "free")


def test_what_could_not_be_released_is_free_for_its_own_process(
    claims: Claims, others: Claims
) -> None:
    """The database was away when its operation ended."""
    claims.instance = "of-this-machine"
    with pytest.raises(Killed), claims.hold(VOLUME, "attach") as claim:
        with claim.begin():
            pass
        raise Killed
    with pytest.raises(errors.Busy):
        set_description(others, "another's")
    set_description(claims, "its own")
    assert description(claims) == "its own"


def test_who_lost_its_claim_writes_nothing(claims: Claims, others: Claims, clock: Clock) -> None:
    with claims.hold(VOLUME, "attach") as late, others.hold(VOLUME, "detach") as claim:
        with late.begin():
            pass
        clock.pass_by(HOLD_SECONDS)
        with claim.begin() as step:
            step.values["description"] = "taken over"
        lost = pytest.raises(errors.OutcomeUnknown, match="attach of volume volume")
        with lost, late.end() as step:
            step.values["description"] = "late"
        assert description(claims) == "taken over"
        # Nor does it release what is another's.
        late.abandon()
        with claim.end() as step:
            step.values["description"] = "ended"
    assert description(claims) == "ended"


def test_an_operation_may_end_with_its_first_transaction(claims: Claims, others: Claims) -> None:
    with claims.hold(VOLUME, "attach") as claim:
        with claim.begin() as step:
            step.values["description"] = "all of it"
            step.is_last = True
        set_description(others, "free")


def test_another_projects_volume_is_not_there(claims: Claims) -> None:
    for caller in (OTHER, Caller("")):
        with pytest.raises(errors.NotFound), claims.once(VOLUME, "look", caller):
            pass
    with claims.once(VOLUME, "look", CALLER):
        pass
    with pytest.raises(errors.NotFound), claims.once("none", "look"):
        pass


def test_who_waits_gets_the_volume_when_it_is_free(claims: Claims, others: Claims) -> None:
    with ThreadPoolExecutor() as threads:
        with claims.hold(VOLUME, "attach") as claim:
            with claim.begin():
                pass
            waiting = threads.submit(set_description, patient(others), "after")
            with claim.end() as step:
                step.values["description"] = "before"
        waiting.result(WAIT_SECONDS)
    assert description(claims) == "after"


def test_nobody_works_beside_another(claims: Claims, others: Claims) -> None:
    # Read in one transaction and written in another: without claims some would be lost.
    rounds, workers = 15, 4

    def count(mine: Claims) -> None:
        for _ in range(rounds):
            with mine.hold(VOLUME, "count") as claim:
                with claim.begin() as step:
                    found = int(step.volume.description or 0)
                with claim.end() as step:
                    step.values["description"] = str(found + 1)

    both = [patient(claims), patient(others)]
    with ThreadPoolExecutor(workers * 2) as threads:
        for done in [threads.submit(count, mine) for mine in both * workers]:
            done.result(WAIT_SECONDS)
    assert description(claims) == str(rounds * workers * 2)


# Turns


def test_threads_have_their_turns_as_they_came() -> None:
    turns, seen = Turns(), list[int]()

    def take(number: int) -> None:
        with turns.taken(VOLUME, str(number), WAIT_SECONDS):
            seen.append(number)

    with turns.taken(VOLUME, "first", 0):
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while turns.waiting(VOLUME) <= number:
                assert threads[-1].is_alive()
        assert seen == []
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert seen == [0, 1, 2, 3, 4]
    assert turns.waiting(VOLUME) == 0


def test_one_volume_does_not_hold_all_threads() -> None:
    turns = Turns(waiting_max=2)

    def take() -> None:
        with turns.taken(VOLUME, "detach", WAIT_SECONDS):
            pass

    with turns.taken(VOLUME, "attach", 0):
        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        while turns.waiting(VOLUME) < len(threads):
            assert all(thread.is_alive() for thread in threads)
        refused = pytest.raises(errors.Busy, match=r"busy: attach since .*, and 2 more are waiting")
        with refused, turns.taken(VOLUME, "extend", WAIT_SECONDS):
            pass
        with turns.taken(ANOTHER, "extend", 0):
            pass
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert turns.waiting(VOLUME) == 0


def test_who_waits_too_long_is_told_for_what_and_keeps_nobody_waiting(clock: Clock) -> None:
    turns = Turns(clock)
    with turns.taken(VOLUME, "attach", 0):
        since = clock.now.isoformat(timespec="seconds").replace("+", r"\+")
        refused = pytest.raises(errors.Busy, match=f"volume is busy: attach since {since}, and 0")
        with refused, turns.taken(VOLUME, "detach", 0):
            pass
        with turns.taken(ANOTHER, "detach", 0):
            pass
    with turns.taken(VOLUME, "detach", 0):
        pass
