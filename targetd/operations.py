"""Long work that goes on after its call has been answered: wipes and copies.

An operation is recorded with how far it has come, goes on from there after a
restart, tells those who watch, and can be throttled. That there is work to do
is LVM's to say (a deleted volume's name, a tag on one that is being filled);
the record only says how much of it is done.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from targetd import flight, metrics
from targetd.changes import Changes, Kind
from targetd.context import about
from targetd.engines.interface import EngineError
from targetd.errors import NotFound, TargetdError
from targetd.model import Operation, OperationKind, OperationState
from targetd.state import OPERATIONS_MAX, State

log = logging.getLogger(__name__)

# More at once would only take the disks from those who work.
AT_ONCE = {OperationKind.WIPE: 2, OperationKind.COPY: 2}
STEP_BYTES = 64 << 20
# A throttled operation works in steps of about this long.
THROTTLED_STEP_SECONDS = 0.25
STEP_BYTES_MIN = 1 << 20
# How soon one that waits for its next step sees another rate.
THROTTLE_LOOK_SECONDS = 0.5
RECORD_SECONDS = 2.0


@dataclass
class Work:
    """What an operation does."""

    kind: OperationKind
    operation_id: str
    volume_id: str
    total_bytes: int
    # Given where to start and how far a step goes; yields what is done and on the disk.
    steps: Callable[[int, int], Iterator[int]]
    finish: Callable[[], None]
    # Its next step is its last: it was cancelled, or the daemon stops.
    halted: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


def new_id(volume_id: str) -> str:
    """An id that names the volume and is new for every operation on it."""
    return f"{volume_id}-{uuid.uuid4().hex[:12]}"


class _Pace:
    """Keeps to a rate, from where it began on."""

    def __init__(self, bytes_per_second: int, done_bytes: int) -> None:
        self.bytes_per_second = bytes_per_second
        self._first_bytes = done_bytes
        self._started = time.monotonic()

    def wait_seconds(self, done_bytes: int) -> float:
        if not self.bytes_per_second:
            return 0.0
        due = self._started + (done_bytes - self._first_bytes) / self.bytes_per_second
        return max(0.0, due - time.monotonic())


class Operations:
    def __init__(self, state: State, changes: Changes, bytes_per_second: int = 0) -> None:
        self._state = state
        self._changes = changes
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        # Oldest first.
        self._known: dict[str, Operation] = {}
        self._works: dict[str, Work] = {}
        self._stopping = threading.Event()
        # The daemon has stopped without those that hang: they record nothing any more.
        self._left_behind = threading.Event()
        self._running: set[Future[None]] = set()
        self._threads = {
            kind: ThreadPoolExecutor(number, thread_name_prefix=str(kind))
            for kind, number in AT_ONCE.items()
        }

    def configure(self, bytes_per_second: int) -> None:
        """The throttle of each operation, also of those that run; 0 is none."""
        self._bytes_per_second = bytes_per_second

    def load(self) -> None:
        """Remember what earlier daemons did, so that its end can still be asked for."""
        for operation in self._state.operations():
            self._known[operation.operation_id] = operation

    def begin(self, work: Work) -> None:
        """Start it, or go on with it where the record says it has come to."""
        before = self._known.get(work.operation_id)
        operation = Operation(
            operation_id=work.operation_id,
            kind=work.kind,
            volume_id=work.volume_id,
            state=OperationState.RUNNING,
            done_bytes=before.done_bytes if before else 0,
            total_bytes=work.total_bytes,
            start_time=before.start_time if before else datetime.now(UTC),
        )
        with self._lock:
            self._works[work.operation_id] = work
        self._put(operation)
        running = self._threads[work.kind].submit(self._run, work, operation)
        with self._lock:
            self._running.add(running)
        running.add_done_callback(self._has_run)

    def _has_run(self, running: Future[None]) -> None:
        with self._lock:
            self._running.discard(running)

    def _run(self, work: Work, operation: Operation) -> None:
        with about(volume_id=work.volume_id, operation_id=work.operation_id):
            self._run_to_end(work, operation)

    def _run_to_end(self, work: Work, operation: Operation) -> None:
        try:
            ended = self._do(work, operation)
        except (EngineError, OSError, TargetdError) as error:
            log.error("%s %s failed: %s", work.kind, work.operation_id, error)
            ended = self._failed(work)
        # The outer loop of a worker: what nobody expected must not pass unseen.
        except Exception:
            log.exception("%s %s failed", work.kind, work.operation_id)
            ended = self._failed(work)
        if self._left_behind.is_set():
            return
        if ended.ended:
            with self._lock:
                self._works.pop(work.operation_id, None)
        self._put(ended)
        self._record(ended)
        work.ended.set()

    def _failed(self, work: Work) -> Operation:
        metrics.OPERATION_FAILURES.labels(work.kind).inc()
        flight.log_failure(work.volume_id)
        return replace(
            self.get(work.operation_id),
            state=OperationState.FAILED,
            error=f"the {work.kind} failed and will be tried again; the log says why",
        )

    def _do(self, work: Work, operation: Operation) -> Operation:
        recorded = time.monotonic()
        pace = _Pace(self._bytes_per_second, operation.done_bytes)
        for done in work.steps(operation.done_bytes, self._step_bytes()):
            metrics.OPERATION_BYTES.labels(work.kind).inc(done - operation.done_bytes)
            operation = replace(operation, done_bytes=done)
            self._put(operation)
            if self._stopping.is_set():
                return operation
            if work.halted.is_set():
                return replace(operation, state=OperationState.CANCELLED)
            if time.monotonic() - recorded > RECORD_SECONDS:
                self._record(operation)
                recorded = time.monotonic()
            pace = self._keep(pace, work, done)
        work.finish()
        return replace(operation, state=OperationState.DONE, done_bytes=operation.total_bytes)

    def _step_bytes(self) -> int:
        if not self._bytes_per_second:
            return STEP_BYTES
        step = int(self._bytes_per_second * THROTTLED_STEP_SECONDS)
        return max(STEP_BYTES_MIN, min(STEP_BYTES, step - step % STEP_BYTES_MIN))

    def _keep(self, pace: _Pace, work: Work, done_bytes: int) -> _Pace:
        """Wait until the step is paid for; returns the pace for the next one."""
        while pace.bytes_per_second == self._bytes_per_second:
            seconds = pace.wait_seconds(done_bytes)
            if not seconds or work.halted.wait(min(seconds, THROTTLE_LOOK_SECONDS)):
                return pace
        return _Pace(self._bytes_per_second, done_bytes)

    def _put(self, operation: Operation) -> None:
        with self._lock:
            self._known[operation.operation_id] = operation
            while len(self._known) > OPERATIONS_MAX + len(self._works):
                del self._known[next(one for one in self._known if one not in self._works)]
        self._changes.publish(Kind.OPERATION, operation.volume_id, operation.operation_id)

    def _record(self, operation: Operation) -> None:
        try:
            self._state.put_operation(operation)
        except TargetdError as error:
            # Then a restart does some of it again.
            log.warning("operation %s: %s", operation.operation_id, error.message)

    def retry_failed(self) -> None:
        """Try again what failed, from where it came to."""
        with self._lock:
            failed = [
                work
                for work in self._works.values()
                if self._known[work.operation_id].state is OperationState.FAILED
            ]
        for work in failed:
            log.info("%s %s: trying again", work.kind, work.operation_id)
            work.ended.clear()
            self.begin(work)

    def cancel(self, operation_id: str, seconds: float) -> bool:
        """Stop it at its next step; returns whether it has ended in time."""
        with self._lock:
            work = self._works.get(operation_id)
        if work is None:
            return True
        work.halted.set()
        if not work.ended.wait(seconds):
            return False
        # A failed one ended by itself, and is not to be tried again.
        with self._lock:
            self._works.pop(operation_id, None)
        operation = self.get(operation_id)
        if not operation.ended:
            operation = replace(operation, state=OperationState.CANCELLED, error="")
            self._put(operation)
            self._record(operation)
        return True

    def end_unexplained(self) -> None:
        """Close the records of work that LVM knows nothing of any more: it was done."""
        with self._lock:
            left = [
                operation
                for operation in self._known.values()
                if not operation.ended and operation.operation_id not in self._works
            ]
        for operation in left:
            done = replace(
                operation,
                state=OperationState.DONE,
                done_bytes=operation.total_bytes,
                error="",
            )
            self._put(done)
            self._record(done)
        self._state.forget_old_operations()

    def list(self) -> list[Operation]:
        with self._lock:
            return list(self._known.values())

    def find(self, operation_id: str) -> Operation | None:
        with self._lock:
            return self._known.get(operation_id)

    def get(self, operation_id: str) -> Operation:
        """Raises NotFound, also for one that ended long ago."""
        operation = self.find(operation_id)
        if operation is None:
            raise NotFound(
                f"operation {operation_id} is not known; it may have ended long ago",
                operation_id=operation_id,
            )
        return operation

    def stop(self, seconds: float) -> None:
        """Let go at the next step; the next start goes on from there.

        What hangs in its step for longer than ``seconds`` is left behind.
        """
        self._stopping.set()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = set(self._running)
            works = list(self._works.values())
        for work in works:
            work.halted.set()
        wait_for_all(running, timeout=seconds)
        self._left_behind.set()
