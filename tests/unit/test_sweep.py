from __future__ import annotations

import threading

from targetd import sweep as module
from targetd.sweep import HANGING_MAX, sweep


def test_each_is_done_once_by_one_thread() -> None:
    threads = set()

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        return 2 * item

    swept = sweep(range(1000), work, 10)
    assert swept.done == list(range(0, 2000, 2))
    assert not swept.undone and len(threads) == 1
    assert sweep([], work, 10).done == []


def test_what_hangs_is_late_and_the_rest_is_done() -> None:
    go_on = threading.Event()
    hanging = {0, 5, 6, 9}

    def work(item: int) -> int:
        if item in hanging:
            go_on.wait()
        return item

    swept = sweep(range(10), work, 3 * module.PATIENCE_SECONDS)
    assert sorted(swept.done) == sorted(set(range(10)) - hanging)
    assert set(swept.undone) == hanging
    go_on.set()


def test_what_is_only_slow_is_done() -> None:
    slow = threading.Event()

    def work(item: int) -> int:
        if item == 3:
            slow.wait(2 * module.PATIENCE_SECONDS)
        return item

    swept = sweep(range(10), work, 20)
    assert sorted(swept.done) == list(range(10)) and not swept.undone


def test_what_fails_unexpectedly_is_told_and_the_rest_is_done() -> None:
    swept = sweep([1, 0, 2], lambda item: 10 // item, 10)
    assert swept.done == [10, 5] and swept.undone == [0]


def test_many_that_hang_do_not_make_threads_without_end() -> None:
    go_on = threading.Event()

    def work(item: int) -> int:
        go_on.wait()
        return item

    before = threading.active_count()
    most = 0

    def watch() -> None:
        nonlocal most
        while not go_on.wait(0.05):
            most = max(most, threading.active_count() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    swept = sweep(range(3), work, 0.2)
    go_on.set()
    watcher.join()
    assert set(swept.undone) == {0, 1, 2}
    assert most <= HANGING_MAX + 2
