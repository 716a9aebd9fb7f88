"""Who wants to hear of changes, and of which; a slow listener hears less often, never wrong.

What is told is only where to look. A listener that has not looked yet is not
told twice, so it costs no more memory than there are objects.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

from targetd.errors import ResourceExhausted

# Each holds one of the server's threads.
LISTENERS_MAX = 64


class Kind(StrEnum):
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    EXPORT = "export"
    CONNECTION = "connection"
    OPERATION = "operation"


class Place(NamedTuple):
    """What has changed: a volume, one of its attachments or snapshots, an operation."""

    kind: Kind
    volume_id: str
    other_id: str = ""


class Listener:
    def __init__(self, lock: threading.Lock) -> None:
        self._news = threading.Condition(lock)
        self._pending: dict[Place, int] = {}

    def put(self, place: Place, revision: int) -> None:
        """Called with the lock held."""
        self._pending.pop(place, None)
        self._pending[place] = revision
        self._news.notify_all()

    def take(self, timeout_seconds: float) -> dict[Place, int]:
        """All changed places with their revisions, oldest first; empty after the timeout."""
        with self._news:
            if not self._pending:
                self._news.wait(timeout_seconds)
            taken, self._pending = self._pending, {}
        return taken


class Changes:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._revisions = itertools.count(1)

    def revision(self) -> int:
        """A new one: it lies between the changes before and those after."""
        return next(self._revisions)

    @property
    def listener_count(self) -> int:
        return len(self._listeners)

    def publish(self, kind: Kind, volume_id: str, other_id: str = "") -> None:
        if not self._listeners:
            # Whoever begins to listen reads the state after that, and this is in it already.
            return
        with self._lock:
            revision = self.revision()
            for listener in self._listeners:
                listener.put(Place(kind, volume_id, other_id), revision)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Raises ResourceExhausted when too many listen already."""
        listener = Listener(self._lock)
        with self._lock:
            if len(self._listeners) >= LISTENERS_MAX:
                raise ResourceExhausted(
                    f"{LISTENERS_MAX} callers watch this host already; end one of them",
                    reason="TOO_MANY_WATCHERS",
                )
            self._listeners.append(listener)
        try:
            yield listener
        finally:
            with self._lock:
                self._listeners.remove(listener)
