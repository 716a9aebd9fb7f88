"""Long work that goes on after its call has been answered: wiping deleted volumes.

The logical volume of a deleted volume, under its new name, is the record of the
work: whatever wears that name at the next start is wiped again from its
beginning, so nothing is lost with the daemon.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from targetd.engines.interface import EngineError, LvmEngine, RetiredVolume
from targetd.errors import NotFound
from targetd.failpoints import failpoint
from targetd.model import Operation, OperationState

log = logging.getLogger(__name__)

# More at once would only take the disks from those who work.
WIPES_AT_ONCE = 2
REMEMBERED_MAX = 1000
UUID_LENGTH = 36


class Wipes:
    def __init__(self, lvm: LvmEngine) -> None:
        self._lvm = lvm
        self._lock = threading.Lock()
        self._operations: OrderedDict[str, Operation] = OrderedDict()
        self._threads = ThreadPoolExecutor(WIPES_AT_ONCE, thread_name_prefix="wipe")

    @staticmethod
    def new_id(volume_id: str) -> str:
        """An id that names the volume and is new for every deletion of it."""
        return f"{volume_id}-{uuid.uuid4().hex[:12]}"

    def begin(self, retired: RetiredVolume) -> None:
        operation = Operation(
            operation_id=retired.operation_id,
            volume_id=retired.operation_id[:UUID_LENGTH],
            state=OperationState.RUNNING,
            done_bytes=0,
            total_bytes=retired.size_bytes,
            start_time=datetime.now(UTC),
        )
        with self._lock:
            self._operations[operation.operation_id] = operation
            while len(self._operations) > REMEMBERED_MAX:
                self._operations.popitem(last=False)
        self._threads.submit(self._wipe, retired, operation)

    def _wipe(self, retired: RetiredVolume, operation: Operation) -> None:
        def progress(done_bytes: int) -> None:
            self._put(replace(operation, done_bytes=done_bytes))

        try:
            self._lvm.wipe(retired, progress)
            failpoint("volume-wiped")
            self._lvm.remove_retired(retired)
        except (EngineError, OSError) as error:
            log.error("wipe %s failed: %s", retired.operation_id, error)
            self._put(
                replace(
                    operation,
                    state=OperationState.FAILED,
                    error="the wipe failed and is tried again at the next start; see the log",
                )
            )
            return
        self._put(replace(operation, state=OperationState.DONE, done_bytes=operation.total_bytes))

    def _put(self, operation: Operation) -> None:
        with self._lock:
            self._operations[operation.operation_id] = operation

    def get(self, operation_id: str) -> Operation:
        """Raises NotFound, also for one that ended before the daemon last started."""
        with self._lock:
            operation = self._operations.get(operation_id)
        if operation is None:
            raise NotFound(
                f"operation {operation_id} is not known; it may have ended before the daemon "
                "last started",
                operation_id=operation_id,
            )
        return operation

    def stop(self) -> None:
        """Let go of what has not begun; what runs is killed with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
