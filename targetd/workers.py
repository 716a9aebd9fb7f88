"""Work on volumes: one thing at a time per volume, all volumes in parallel.

A mutation does not belong to the call that asked for it. It runs in the
volume's own thread; the call waits for it up to its deadline, and the work
goes on to its end without it. A device that hangs in the kernel thus stalls
its own volume only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from targetd.errors import Aborted, DeadlineExceeded

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Calls that may wait for one volume. More are told to come back later, so that
# a stuck volume cannot take all of the server's threads.
QUEUE_LENGTH_MAX = 8
# Threads that are kept for work to come.
FREE_THREADS_MAX = 64


class Deadline:
    """Until when the caller waits; passed also means: the caller has gone."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._cancelled = False

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
            raise DeadlineExceeded("the deadline passed before anything was changed; try again")


class _Job:
    """One piece of work, and what became of it."""

    def __init__(self, volume_id: str, deadline: Deadline, work: Callable[[], Any]) -> None:
        self._volume_id = volume_id
        self._deadline = deadline
        self._work = work
        # A lock is the cheapest thing to wait for; it is free when the work is done.
        self._done = threading.Lock()
        self._done.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def do(self, waited: bool) -> None:
        try:
            if waited:
                self._deadline.check()
            self._result = self._work()
        # The outer loop of a worker: whatever it is, the caller is to get it.
        except BaseException as error:  # noqa: BLE001 - said above
            if self._deadline.passed() and not isinstance(error, DeadlineExceeded):
                log.warning("volume %s: failed after its caller left: %s", self._volume_id, error)
            self._error = error
        self._done.release()

    def result(self) -> Any:
        if not self._done.acquire(timeout=self._deadline.remaining_seconds):
            raise DeadlineExceeded(
                f"volume {self._volume_id} did not get done in time; the work goes on: ask "
                "again, or take it back",
                volume_id=self._volume_id,
            )
        if self._error is not None:
            raise self._error
        return self._result


class VolumeWorkers:
    """Threads that are kept, since starting one costs more than most work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, deque[_Job]] = {}
        # The mailboxes of threads that wait for a volume to work on.
        self._free: list[_Mailbox] = []
        self._idle = threading.Condition(self._lock)

    def run(self, volume_id: str, deadline: Deadline, work: Callable[[], Result]) -> Result:
        """Do ``work`` in the volume's turn and wait for it until the deadline.

        Raises what the work raises; Aborted when too much waits already;
        DeadlineExceeded when the work was not done in time: it may still end
        well, which the same call again, or its negation, finds out.
        """
        job = _Job(volume_id, deadline, work)
        self._submit(volume_id, job)
        result: Result = job.result()
        return result

    def _submit(self, volume_id: str, job: _Job) -> None:
        with self._lock:
            queue = self._queues.get(volume_id)
            if queue is not None:
                if len(queue) >= QUEUE_LENGTH_MAX:
                    raise Aborted(
                        f"{QUEUE_LENGTH_MAX} operations wait for volume {volume_id}; try again "
                        "later",
                        volume_id=volume_id,
                    )
                queue.append(job)
                return
            self._queues[volume_id] = deque([job])
            mailbox = self._free.pop() if self._free else None
        if mailbox is None:
            # All others are at work, or hang in the kernel.
            mailbox = _Mailbox()
            threading.Thread(
                target=self._serve, args=(mailbox,), name="volume-worker", daemon=True
            ).start()
        mailbox.put(volume_id)

    def _serve(self, mailbox: _Mailbox) -> None:
        while True:
            self._drain(mailbox.take())
            with self._lock:
                if len(self._free) >= FREE_THREADS_MAX:
                    return
                self._free.append(mailbox)

    def _drain(self, volume_id: str) -> None:
        waited = False
        while True:
            with self._lock:
                queue = self._queues[volume_id]
                if waited:
                    queue.popleft()
                if not queue:
                    del self._queues[volume_id]
                    if not self._queues:
                        self._idle.notify_all()
                    return
                job = queue[0]
            job.do(waited)
            waited = True

    def wait_until_idle(self, seconds: float) -> bool:
        """Returns whether all work ended in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._queues, timeout=seconds)


class _Mailbox:
    """Wakes one thread with the volume that it is to work on."""

    def __init__(self) -> None:
        self._full = threading.Lock()
        self._full.acquire()
        self._volume_id = ""

    def put(self, volume_id: str) -> None:
        self._volume_id = volume_id
        self._full.release()

    def take(self) -> str:
        self._full.acquire()
        return self._volume_id
