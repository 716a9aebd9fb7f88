"""Programs of this machine that serve: started, waited for, looked at, and ended by their pid."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from lab.bench.storage import ROOT
from lab.errors import LabError

MEBIBYTE = 1 << 20
POLL_SECONDS = 0.05
STOP_SECONDS = 60.0
TAIL_CHARACTERS = 2000


def module(name: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    """What runs a module of this checkout."""
    path = f"PYTHONPATH={ROOT}:{ROOT / 'drivers'}"
    return ["env", path, interpreter, "-m", name, *arguments]


class Program:
    """One that writes to a log of its own. Close it when done."""

    def __init__(self, name: str, argv: Sequence[str], log: Path) -> None:
        self._name, self._log = name, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_for(self, find: Callable[[str], str | None], seconds: float) -> str:
        """What is found in the log. Raises LabError, with its end, when that does not come."""
        end = time.monotonic() + seconds
        while True:
            text = self._log.read_text(encoding="utf-8", errors="replace")
            found = find(text)
            if found is not None:
                return found
            if self._process.poll() is not None or time.monotonic() > end:
                raise LabError(f"{self._name} did not start: {text[-TAIL_CHARACTERS:]}")
            time.sleep(POLL_SECONDS)

    @property
    def resident_mebibytes(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss) / MEBIBYTE

    @property
    def processor_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
