"""Which processors of this machine the nodes of a lab run on.

A node is pinned to one: its kernel's threads wait for each other all the time, and
would be moved about. On a processor that another busy node has, it is several times
slower, so the busiest node of each lab gets one that no other lab's busiest node has.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Sequence

import psutil

LOOK_SECONDS = 0.2


def idle_first() -> list[int]:
    """The processors this process may use, those with the least to do first."""
    busy = psutil.cpu_percent(LOOK_SECONDS, percpu=True)
    found = sorted(os.sched_getaffinity(0))
    # Labs that start at the same moment see the same.
    random.SystemRandom().shuffle(found)
    return sorted(found, key=lambda processor: round(busy[processor], -1))


class OwnProcessor:
    """A processor that other labs leave alone, until it is closed or its process ends.

    ``number`` is the first of ``wanted`` that nobody has; when all are taken, the
    first of them.
    """

    def __init__(self, wanted: Sequence[int]) -> None:
        self._mark: socket.socket | None = None
        self.number = next((one for one in wanted if self._take(one)), wanted[0])

    def _take(self, processor: int) -> bool:
        # An abstract name (unix(7)) goes with its process, however that ends.
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0targetd-lab-processor-{processor}")
        except OSError as error:
            mark.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._mark = mark
        return True

    def close(self) -> None:
        if self._mark is not None:
            self._mark.close()
