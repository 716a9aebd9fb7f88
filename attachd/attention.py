"""Which storage hosts have something to be gone on with, told to who reconciles."""

from __future__ import annotations

import threading
from collections import defaultdict


class Attention:
    def __init__(self) -> None:
        self._wanted = defaultdict[str, threading.Event](threading.Event)

    def ask(self, host: str) -> None:
        """Something was begun there and is not done."""
        self._wanted[host].set()

    def wait(self, host: str, seconds: float) -> bool:
        """Until it is asked for, or that long. Returns whether it was."""
        wanted = self._wanted[host]
        asked = wanted.wait(seconds)
        wanted.clear()
        return asked
