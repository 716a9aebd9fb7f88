from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from targetd.errors import Aborted, DeadlineExceeded, NotFound
from targetd.workers import QUEUE_LENGTH_MAX, Deadline, VolumeWorkers


@pytest.mark.parametrize("kept_by_caller", [True, False])
def test_one_thing_at_a_time_for_each_volume(kept_by_caller: bool) -> None:
    workers, at_once, most = VolumeWorkers(), [0], [0]
    pause = threading.Event()

    def work() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        pause.wait(0.01)
        at_once[0] -= 1

    threads = [
        threading.Thread(target=workers.run, args=("v", Deadline(10, kept_by_caller), work))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_stuck_volume_stalls_only_itself() -> None:
    workers, stuck = VolumeWorkers(), threading.Event()
    with pytest.raises(DeadlineExceeded):
        workers.run("stuck", Deadline(0.05), stuck.wait)
    assert workers.run("other", Deadline(5), lambda: "done") == "done"
    stuck.set()
    assert workers.wait_until_idle(5)
    assert workers.run("stuck", Deadline(5), lambda: "again") == "again"


def test_work_whose_caller_left_is_not_begun() -> None:
    workers, stuck, begun = VolumeWorkers(), threading.Event(), threading.Event()
    with pytest.raises(DeadlineExceeded):
        workers.run("v", Deadline(0.02), stuck.wait)
    with pytest.raises(DeadlineExceeded):
        workers.run("v", Deadline(0.02), begun.set)
    stuck.set()
    assert workers.wait_until_idle(5)
    assert not begun.is_set()


def test_too_much_waiting_is_turned_away() -> None:
    workers, stuck, done = VolumeWorkers(), threading.Event(), []

    def call() -> None:
        workers.run("v", Deadline(60, kept_by_caller=True), lambda: done.append(stuck.wait()))

    threads = [threading.Thread(target=call) for _ in range(QUEUE_LENGTH_MAX)]
    for thread in threads:
        thread.start()
    while _waiting(workers) < QUEUE_LENGTH_MAX - 1:
        time.sleep(0.01)
    with pytest.raises(Aborted):
        workers.run("v", Deadline(60), stuck.wait)
    stuck.set()
    assert workers.wait_until_idle(5)
    for thread in threads:
        thread.join()
    assert done == [True] * QUEUE_LENGTH_MAX


def _waiting(workers: VolumeWorkers) -> int:
    return len(workers._waiting.get("v", ()))


def test_those_who_gave_up_waiting_take_no_place() -> None:
    workers, stuck = VolumeWorkers(), threading.Event()
    with pytest.raises(DeadlineExceeded):
        workers.run("v", Deadline(0.01), stuck.wait)
    for _ in range(2 * QUEUE_LENGTH_MAX):
        with pytest.raises(DeadlineExceeded):
            workers.run("v", Deadline(0.01, kept_by_caller=True), stuck.wait)
    assert _waiting(workers) == 0
    stuck.set()
    assert workers.wait_until_idle(5)


def test_work_with_the_callers_own_deadline_is_done_in_its_thread() -> None:
    workers = VolumeWorkers()
    here = threading.get_ident()
    assert workers.run("v", Deadline(5, kept_by_caller=True), threading.get_ident) == here
    assert workers.run("v", Deadline(5), threading.get_ident) != here


def test_turns_come_in_order() -> None:
    workers, first = VolumeWorkers(), threading.Event()
    order: list[int] = []
    with pytest.raises(DeadlineExceeded):
        workers.run("v", Deadline(0.01), first.wait)
    threads = []
    for number in range(5):
        thread = threading.Thread(
            target=workers.run,
            args=("v", Deadline(30, kept_by_caller=True), partial(order.append, number)),
        )
        thread.start()
        while _waiting(workers) <= number:
            time.sleep(0.01)
        threads.append(thread)
    first.set()
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_the_caller_gets_the_error() -> None:
    def work() -> None:
        raise NotFound("volume v does not exist")

    with pytest.raises(NotFound, match="does not exist"):
        VolumeWorkers().run("v", Deadline(5), work)


def test_a_cancelled_call_counts_as_gone() -> None:
    deadline = Deadline(60)
    assert not deadline.passed()
    deadline.cancel()
    with pytest.raises(DeadlineExceeded):
        deadline.check()


@pytest.mark.parametrize("kept_by_caller", [False, True])
def test_nothing_is_begun_for_a_caller_that_has_gone(kept_by_caller: bool) -> None:
    workers, begun = VolumeWorkers(), threading.Event()
    for seconds in (0.0, 5.0):
        deadline = Deadline(seconds, kept_by_caller)
        deadline.cancel()
        with pytest.raises(DeadlineExceeded):
            workers.run("v", deadline, begun.set)
    with pytest.raises(DeadlineExceeded):
        workers.run("v", Deadline(0.0, kept_by_caller), begun.set)
    assert workers.wait_until_idle(5.0)
    assert not begun.is_set()
