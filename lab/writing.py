"""A disk of a node that is written to all the while."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property

from lab.agent import Process
from lab.errors import LabError
from lab.machine import Machine
from lab.storage import ROOT

WRITER = f"{ROOT}/lab/guest/writer.py"
# Until the first block is written.
BEGIN_SECONDS = 60.0


@dataclass(frozen=True)
class Written:
    blocks: int
    # Of the blocks: those that could not be written.
    failed: int
    longest_seconds: float


class Writing:
    """Has begun when it is made; ends by itself after ``seconds``, or with ``stop``.

    Without a pause it takes as much of the nodes' processors as there is. Raises LabError when
    nothing can be written.
    """

    def __init__(
        self, node: Machine, disk: str, seconds: float, pause_seconds: float = 0.0
    ) -> None:
        argv = ["/usr/bin/python3", WRITER, disk, str(seconds), str(pause_seconds)]
        self._seconds = seconds
        self._process: Process = node.start(argv)
        end = time.monotonic() + BEGIN_SECONDS
        while not self._process.output():
            if time.monotonic() > end:
                self._process.kill()
                raise LabError(f"{disk}: no block was written in {BEGIN_SECONDS:g} s")
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.kill()

    @cached_property
    def written(self) -> Written:
        """When it has ended. Raises LabError, with what it said, when it ended by an error."""
        status = self._process.wait(self._seconds + BEGIN_SECONDS)
        output = self._process.output()
        if status != 0:
            raise LabError(f"the writer ended with status {status}: {output}")
        told = json.loads(output.splitlines()[-1])
        return Written(told["written"], told["failed"], told["longest_seconds"])
