"""The threads of calls, of which no host can take more than its part.

gRPC gives a call a thread when its headers have come, and the thread waits for the
request. A client that stops there would hold threads that no handler, and so no
limit of ours, has heard of. So they are counted before, by the caller's address.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# For all calls of those that have their part already: they wait for each other.
LATE_THREADS = 16
# More calls of one address than that are cancelled.
WAITING_MAX = 2048


class CallThreads(ThreadPoolExecutor):
    """Up to ``most`` threads, at most ``share`` of them for one address."""

    def __init__(self, most: int, share: int) -> None:
        super().__init__(most, thread_name_prefix="rpc")
        self._late = ThreadPoolExecutor(LATE_THREADS, thread_name_prefix="late-rpc")
        self._dropped = ThreadPoolExecutor(1, thread_name_prefix="dropped-rpc")
        self.share = share
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = _call_of(args)
        if call is None:
            return super().submit(fn, *args, **kwargs)
        # Without the port. All clients of the unix socket are one.
        address = str(call.peer(), "ascii").rpartition(":")[0]
        with self._lock:
            held = self._held.get(address, 0)
            self._held[address] = held + 1
        if held < self.share:
            future = super().submit(fn, *args, **kwargs)
        elif held < WAITING_MAX:
            future = self._late.submit(fn, *args, **kwargs)
        else:
            # Its work then finds it ended, whatever it waits for.
            call.cancel()
            future = self._dropped.submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._end(address))
        return future

    def _end(self, address: str) -> None:
        with self._lock:
            held = self._held.pop(address) - 1
            if held:
                self._held[address] = held


def _call_of(args: tuple[Any, ...]) -> Any:
    """gRPC's call. No interface of it tells earlier whose call it is, so we look at how it
    submits its work; a test notices when that changes, which would only end the sharing."""
    return getattr(args[1], "call", None) if len(args) > 1 else None
