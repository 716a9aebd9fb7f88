"""Processes that are started, counted by the interpreter and by the kernel."""

from __future__ import annotations

import sys
import threading
from unittest import mock

STARTS = frozenset(
    ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system")
)


class Starts:
    """Counts what this interpreter starts from now on, for good: every call gets a
    little slower, so make one only when no more times are taken."""

    def __init__(self) -> None:
        self.processes = 0
        self.threads = 0
        sys.addaudithook(self._hook)
        # Threads raise no event.
        start = threading.Thread.start

        def counted(thread: threading.Thread) -> None:
            self.threads += 1
            start(thread)

        mock.patch.object(threading.Thread, "start", counted).start()

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in STARTS:
            self.processes += 1


def forks() -> int:
    """All processes, threads and kernel threads that the node has ever started."""
    with open("/proc/stat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("processes"))
