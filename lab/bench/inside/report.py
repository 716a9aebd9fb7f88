"""How programs in the node tell the host: lines of output, rows among them marked."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from lab.bench.rows import Row

ROW = "row "
END = "end "
SAY_SECONDS = 2.0


def say(text: str) -> None:
    print(text, flush=True)


def row(measure: str, exports: int, value: float, unit: str) -> None:
    say(ROW + json.dumps(asdict(Row(measure, exports, value, unit))))


def run(main: Callable[[], None]) -> None:
    """The host waits for the last line, so it comes however the program ends."""
    status = 1
    try:
        main()
        status = 0
    finally:
        if status:
            traceback.print_exc()
            sys.stderr.flush()
        say(f"{END}{status}")


class Progress:
    """Says how far a loop is, once every two seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            say(f"{self._what}: {done} of {self._total}")


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Tell that a step still goes on, until it ends."""
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(SAY_SECONDS):
            say(f"{what}: {time.monotonic() - started:.0f} s so far")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: one of the values, never between two."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def p50(values: Sequence[float]) -> float:
    return percentile(values, 50)


def milliseconds(seconds: float) -> float:
    return seconds * 1000
