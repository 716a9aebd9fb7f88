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
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Callable[[], None]]] = {}
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
                threading.Thread(
                    target=self._drain, args=(volume_id,), name=f"volume-{volume_id}", daemon=True
                ).start()
            elif len(queue) < QUEUE_LENGTH_MAX:
                queue.append(job)
            else:
                raise Aborted(
                    f"{QUEUE_LENGTH_MAX} operations wait for volume {volume_id}; try again later",
                    volume_id=volume_id,
                )

    def _drain(self, volume_id: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[volume_id]
                if not queue:
                    del self._queues[volume_id]
                    self._idle.notify_all()
                    return
                job = queue[0]
            job()
            with self._lock:
                queue.popleft()

    def wait_until_idle(self, seconds: float) -> bool:
        """Returns whether all work ended in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._queues, timeout=seconds)
