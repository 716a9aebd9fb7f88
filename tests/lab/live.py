"""An attached disk that is written to all the while."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.initiator import Initiator
from lab.storage import ROOT

# The longest that a test may take meanwhile.
SECONDS_MAX = 300


@dataclass
class Written:
    """How it went; known when the block has ended."""

    blocks: int = 0
    failed: int = 0
    longest_seconds: float = 0.0


@contextmanager
def live_io(initiator: Initiator, disk: str, pause_seconds: float = 0.0) -> Iterator[Written]:
    """Inside the block the disk is written to; raises AssertionError when a write failed.

    Without a pause it takes as much of the nodes' processors as there is.
    """
    found = Written()
    writer = initiator.node.start(
        [
            "/usr/bin/python3",
            f"{ROOT}/lab/guest/writer.py",
            disk,
            str(SECONDS_MAX),
            str(pause_seconds),
        ]
    )
    try:
        yield found
    finally:
        writer.kill()
    status = writer.wait(SECONDS_MAX)
    assert status == 0, writer.output()
    told = json.loads(writer.output())
    found.blocks, found.failed = told["written"], told["failed"]
    found.longest_seconds = told["longest_seconds"]
    assert found.blocks > 0
    assert found.failed == 0, told
