"""Work on volumes: one thing at a time per volume, all volumes in parallel.

A mutation does not end with the call that asked for it: once begun it goes on
to its end. A device that hangs in the kernel thus stalls its own volume only,
and the one thread that is in the kernel with it.

A caller with a deadline of its own is told of it by gRPC, whatever happens
here, so its work is done in the thread that serves it: another thread would
cost more than most of the work. For all others the work is done in a thread
beside, and given up waiting for when the time is over.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from targetd.errors import Aborted, DeadlineExceeded

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Calls that are at work on one volume or wait for it. More are told to come back
# later, so that a stuck volume cannot take all of the server's threads.
QUEUE_LENGTH_MAX = 8
IDLE_LOOK_SECONDS = 0.01
# Threads that are kept for work to come.
FREE_THREADS_MAX = 16


class Deadline:
    """Until when the caller waits; passed also means: the caller has gone.

    ``kept_by_caller`` says that the caller gives up by itself when it is over.
    """

    def __init__(self, seconds: float, kept_by_caller: bool = False) -> None:
        self.begun = time.monotonic()
        self._end = self.begun + seconds
        self._cancelled = seconds <= 0
        self.kept_by_caller = kept_by_caller

    def cancel(self) -> None:
        self._cancelled = True

    @property
    def remaining_seconds(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return self._cancelled or time.monotonic() >= self._end

    def check(self) -> None:
        """Raises DeadlineExceeded once the caller does not wait any more."""
        if self.passed():
            raise _unchanged()

    def check_caller(self) -> None:
        """As ``check``, where no time has passed yet: the caller may have gone nevertheless."""
        if self._cancelled:
            raise _unchanged()


class VolumeWorkers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Of each volume that is worked on: the locks of those who wait for their turn.
        self._waiting: dict[str, deque[threading.Lock]] = {}
        # Of each of them: since when (monotonic) the work that has its turn is at it.
        self._since: dict[str, float] = {}
        self._threads = _Threads()

    def run(self, volume_id: str, deadline: Deadline, work: Callable[[], Result]) -> Result:
        """Do ``work`` in the volume's turn, unless the deadline has passed by then.

        Raises what the work raises; Aborted when too much waits already;
        DeadlineExceeded when the work was not done in time: it may still end
        well, which the same call again, or its negation, finds out.
        """
        if deadline.kept_by_caller:
            return self._in_turn(volume_id, deadline, work)
        # What the work is about is known in the other thread too.
        there = contextvars.copy_context()
        job = _Job(lambda: there.run(self._in_turn, volume_id, deadline, work))
        self._threads.put(job)
        if not job.wait(deadline.remaining_seconds):
            raise _late(volume_id)
        result: Result = job.result()
        return result

    def _in_turn(self, volume_id: str, deadline: Deadline, work: Callable[[], Result]) -> Result:
        self._take_turn(volume_id, deadline)
        try:
            return work()
        except Exception as error:
            if deadline.passed() and not isinstance(error, DeadlineExceeded):
                log.warning("volume %s: failed after its caller left: %s", volume_id, error)
            raise
        finally:
            self._pass_turn(volume_id)

    def _take_turn(self, volume_id: str, deadline: Deadline) -> None:
        deadline.check_caller()
        if not self._taken_at_once(volume_id, deadline):
            self._wait_for_turn(volume_id, deadline)

    def _taken_at_once(self, volume_id: str, deadline: Deadline) -> bool:
        # One step of the interpreter, and no lock: each looks at the clock (CPython 3.11), which
        # where that is a system call costs as much as a write to the kernel's tree.
        mine: deque[threading.Lock] = deque()
        if self._waiting.setdefault(volume_id, mine) is not mine:
            return False
        # The time was asked for just now.
        self._since[volume_id] = deadline.begun
        return True

    def _wait_for_turn(self, volume_id: str, deadline: Deadline) -> None:
        with self._lock:
            if self._taken_at_once(volume_id, deadline):
                return
            waiting = self._waiting[volume_id]
            if len(waiting) + 1 >= QUEUE_LENGTH_MAX:
                raise Aborted(
                    f"{QUEUE_LENGTH_MAX} operations wait for volume {volume_id}; try again later",
                    volume_id=volume_id,
                )
            turn = _taken_lock()
            waiting.append(turn)
        came = turn.acquire(timeout=deadline.remaining_seconds)
        if not came:
            with self._lock:
                if turn in waiting:
                    waiting.remove(turn)
                    raise _late(volume_id)
        # It came, perhaps only just now.
        if not came or deadline.passed():
            self._pass_turn(volume_id)
            raise _late(volume_id)

    def _pass_turn(self, volume_id: str) -> None:
        with self._lock:
            waiting = self._waiting[volume_id]
            if waiting:
                self._since[volume_id] = time.monotonic()
                waiting.popleft().release()
                return
            # In this order: with the second gone, the next one begins.
            del self._since[volume_id]
            del self._waiting[volume_id]

    def longest_seconds(self) -> float:
        """How long the work that has had its turn the longest is at it; 0 when all is idle."""
        now = time.monotonic()
        return max(0.0, now - min(list(self._since.values()), default=now))

    def wait_until_idle(self, seconds: float) -> bool:
        """Returns whether all work ended in time."""
        deadline = Deadline(seconds)
        while self._waiting and not deadline.passed():
            time.sleep(IDLE_LOOK_SECONDS)
        return not self._waiting


def _unchanged() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before anything was changed; try again")


def _late(volume_id: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"volume {volume_id} did not get done in time; the work goes on: ask again, or take it "
        "back",
        volume_id=volume_id,
    )


def _taken_lock() -> threading.Lock:
    """The cheapest thing to wait for, once."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Job:
    """Something to do in another thread, and what became of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._done = _taken_lock()
        self._result: Any = None
        self._error: BaseException | None = None

    def do(self) -> None:
        try:
            self._result = self._work()
        # The outer loop of a worker: whatever it is, the caller is to get it.
        except BaseException as error:  # noqa: BLE001 - said above
            self._error = error
        self._done.release()

    def wait(self, seconds: float) -> bool:
        return self._done.acquire(timeout=seconds)

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class _Threads:
    """As many as there are jobs; some are kept, since starting one takes time.

    One that hangs in the kernel is simply not free.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Mailbox] = []

    def put(self, job: _Job) -> None:
        with self._lock:
            mailbox = self._free.pop() if self._free else None
        if mailbox is None:
            mailbox = _Mailbox()
            threading.Thread(
                target=self._serve, args=(mailbox,), name="volume-worker", daemon=True
            ).start()
        mailbox.put(job)

    def _serve(self, mailbox: _Mailbox) -> None:
        while True:
            mailbox.take().do()
            with self._lock:
                if len(self._free) >= FREE_THREADS_MAX:
                    return
                self._free.append(mailbox)


class _Mailbox:
    """Wakes one thread with a job."""

    def __init__(self) -> None:
        self._full = _taken_lock()
        self._job = _Job(lambda: None)

    def put(self, job: _Job) -> None:
        self._job = job
        self._full.release()

    def take(self) -> _Job:
        self._full.acquire()
        return self._job
