"""An attached disk that is written to all the while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.initiator import Initiator
from lab.writing import Writing

# The longest that a test may take meanwhile.
SECONDS_MAX = 300


@contextmanager
def live_io(initiator: Initiator, disk: str, pause_seconds: float = 0.0) -> Iterator[Writing]:
    """Inside the block the disk is written to; raises AssertionError when a write failed."""
    writing = Writing(initiator.node, disk, SECONDS_MAX, pause_seconds)
    try:
        yield writing
    finally:
        writing.stop()
    assert writing.written.failed == 0, writing.written
