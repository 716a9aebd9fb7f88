"""Which of this machine's processors have the least to do."""

from __future__ import annotations

import os
import random

import psutil

LOOK_SECONDS = 0.2


def idle_first() -> list[int]:
    """The processors this process may use. A node is pinned to one, and on a busy one,
    as another lab's storage host makes it, it is several times slower."""
    busy = psutil.cpu_percent(LOOK_SECONDS, percpu=True)
    found = sorted(os.sched_getaffinity(0))
    # Labs that start at the same moment see the same.
    random.SystemRandom().shuffle(found)
    return sorted(found, key=lambda processor: round(busy[processor], -1))
