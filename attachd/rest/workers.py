"""The threads that requests are worked on in: so many, and no more that wait for one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from attachd.rest.faults import Overloaded

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# For each thread; what waits longer than its client does is work for nobody.
WAITING_PER_THREAD = 8


class Workers:
    """Used by several event loops."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = threading.BoundedSemaphore(threads * (1 + WAITING_PER_THREAD))

    async def run(
        self,
        work: Callable[Arguments, Result],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Result:
        """What the work returns or raises. Raises Overloaded when too much waits already."""
        if not self._places.acquire(blocking=False):
            raise Overloaded("Too many requests wait already; try again in a moment.")
        future = self._executor.submit(work, *arguments, **options)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Let what has begun end; what waits is not begun."""
        self._executor.shutdown(cancel_futures=True)
