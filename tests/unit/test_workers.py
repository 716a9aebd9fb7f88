from __future__ import annotations

import threading

import pytest

from targetd.errors import Aborted, DeadlineExceeded, NotFound
from targetd.workers import QUEUE_LENGTH_MAX, Deadline, VolumeWorkers


def test_one_thing_at_a_time_for_each_volume() -> None:
    workers, at_once, most = VolumeWorkers(), [0], [0]
    pause = threading.Event()

    def work() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        pause.wait(0.01)
        at_once[0] -= 1

    threads = [
        threading.Thread(target=workers.run, args=("v", Deadline(10), work)) for _ in range(6)
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
    workers, stuck = VolumeWorkers(), threading.Event()
    for _ in range(QUEUE_LENGTH_MAX):
        with pytest.raises(DeadlineExceeded):
            workers.run("v", Deadline(0.01), stuck.wait)
    with pytest.raises(Aborted):
        workers.run("v", Deadline(0.01), stuck.wait)
    stuck.set()
    assert workers.wait_until_idle(5)


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
