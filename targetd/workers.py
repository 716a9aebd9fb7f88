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
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from targetd.errors import Aborted, DeadlineExceeded

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Calls that may wait for one volume. More are told to come back later, so that
# a stuck volume cannot take all of the server's threads.
QUEUE_LENGTH_MAX = 8
FREE_THREAD_SECONDS = 30.0


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


class VolumeWorkers:
    """Threads that are kept for a while, since starting one costs more than most work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Callable[[], None]]] = {}
        # Volumes with work that no thread has taken yet.
        self._ready: deque[str] = deque()
        self._free_threads = 0
        self._news = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)

    def run(self, volume_id: str, deadline: Deadline, work: Callable[[], Result]) -> Result:
        """Do ``work`` in the volume's turn and wait for it until the deadline.

        Raises what the work raises; Aborted when too much waits already;
        DeadlineExceeded when the work was not done in time: it may still end
        well, which the same call again, or its negation, finds out.
        """
        future: Future[Any] = Future()

        def job() -> None:
            try:
                deadline.check()
                future.set_result(work())
            # The outer loop of a worker: whatever it is, the caller is to get it.
            except BaseException as error:  # noqa: BLE001 - said above
                if deadline.passed() and not isinstance(error, DeadlineExceeded):
                    log.warning("volume %s: failed after its caller left: %s", volume_id, error)
                future.set_exception(error)

        self._submit(volume_id, job)
        try:
            result: Result = future.result(timeout=deadline.remaining_seconds)
        except FutureTimeout:
            if future.done():
                raise
            raise DeadlineExceeded(
                f"volume {volume_id} did not get done in time; the work goes on: ask again, "
                "or take it back",
                volume_id=volume_id,
            ) from None
        return result

    def _submit(self, volume_id: str, job: Callable[[], None]) -> None:
        with self._lock:
            queue = self._queues.get(volume_id)
            if queue is None:
                self._queues[volume_id] = deque([job])
                self._ready.append(volume_id)
                self._provide_thread()
            elif len(queue) < QUEUE_LENGTH_MAX:
                queue.append(job)
            else:
                raise Aborted(
                    f"{QUEUE_LENGTH_MAX} operations wait for volume {volume_id}; try again later",
                    volume_id=volume_id,
                )

    def _provide_thread(self) -> None:
        """Called with the lock held. A thread that hangs in the kernel is not free."""
        if self._free_threads >= len(self._ready):
            self._news.notify()
        else:
            threading.Thread(target=self._serve, name="volume-worker", daemon=True).start()

    def _serve(self) -> None:
        while (volume_id := self._next_volume()) is not None:
            self._drain(volume_id)

    def _next_volume(self) -> str | None:
        """A volume that has work, or None after a while without any."""
        with self._news:
            self._free_threads += 1
            self._news.wait_for(lambda: self._ready, timeout=FREE_THREAD_SECONDS)
            self._free_threads -= 1
            return self._ready.popleft() if self._ready else None

    def _drain(self, volume_id: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[volume_id]
                if not queue:
                    del self._queues[volume_id]
                    if not self._queues:
                        self._idle.notify_all()
                    return
                job = queue[0]
            job()
            with self._lock:
                queue.popleft()

    def busy(self, volume_id: str) -> bool:
        """Whether something is done, or hangs, for the volume now."""
        with self._lock:
            return volume_id in self._queues

    def wait_until_idle(self, seconds: float) -> bool:
        """Returns whether all work ended in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._queues, timeout=seconds)
