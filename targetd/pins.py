"""Volumes and snapshots that are in use by work on another one, and so must not go.

A volume that is made from a source is made in its own turn (see workers), not
in the source's. Pins keep the source from being removed meanwhile; nobody
waits for them, so that they cannot lock up. What is pinned goes by the name of
its logical volume.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from targetd.errors import Aborted


class Pins:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pinned: Counter[str] = Counter()
        self._taken: set[str] = set()

    @contextmanager
    def pinned(self, lv_name: str) -> Iterator[None]:
        """Keep it as it is. Raises Aborted while it is being removed or changed."""
        with self._lock:
            if lv_name in self._taken:
                raise _busy(lv_name)
            self._pinned[lv_name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._pinned[lv_name] -= 1
                if not self._pinned[lv_name]:
                    del self._pinned[lv_name]

    @contextmanager
    def taken(self, lv_name: str) -> Iterator[None]:
        """Have it alone, to remove or change it. Raises Aborted while it is pinned."""
        with self._lock:
            if lv_name in self._taken or lv_name in self._pinned:
                raise _busy(lv_name)
            self._taken.add(lv_name)
        try:
            yield
        finally:
            with self._lock:
                self._taken.discard(lv_name)


def _busy(lv_name: str) -> Aborted:
    return Aborted(f"another call is at work on {lv_name}; try again", name=lv_name)
