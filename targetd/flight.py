"""The flight recorder: what was lately asked of LVM and of the kernel's tree, and what still is.

What is under way is kept apart: the one operation that hangs must not be pushed
out by the thousands that follow it. What is written into a file of the tree is
never recorded, since it may be a secret; nor is what a program reads.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from enum import StrEnum
from time import monotonic
from typing import NamedTuple

from targetd import context
from targetd.context import Subject

log = logging.getLogger(__name__)

# Of each kind that have ended.
ENTRIES_MAX = 500
# Of one volume, in the log after a failure.
LOGGED_MAX = 30
LOG_SECONDS_MIN = 1.0


class Kind(StrEnum):
    COMMAND = "command"
    CONFIGFS = "configfs"


# When it began (monotonic), what is done, to what, and what the work is about.
Begun = tuple[float, str, str, Subject]


class Entry(NamedTuple):
    kind: Kind
    # Seconds since the epoch.
    time: float
    # "mkdir", "write", "lvm lvcreate", ...
    what: str
    # A path, or the rest of the command.
    object: str
    volume_id: str
    # So far, for what is under way.
    seconds: float
    # An empty text: it did not fail.
    failure: str
    running: bool

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.time))
        ended = "under way" if self.running else self.failure or "ok"
        return f"{clock} {self.what} {self.object}: {ended}, {self.seconds:.3f} s"


class Recorder:
    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._ended: deque[tuple[Begun, float, int | str]] = deque(maxlen=ENTRIES_MAX)
        self._running: dict[int, Begun] = {}

    # Both are on the way of every write to configfs: no locks, since each line of
    # them is one step of the interpreter, and nothing is made a text before it is asked for.

    def begin(self, what: str, object: str) -> Begun:
        begun = (monotonic(), what, object, context.current())
        self._running[id(begun)] = begun
        return begun

    def end(self, begun: Begun, failure: int | str = 0) -> None:
        """``failure``: an errno, or a text."""
        del self._running[id(begun)]
        self._ended.append((begun, monotonic(), failure))

    def entries(self) -> list[Entry]:
        now = monotonic()
        found = [(*one, False) for one in list(self._ended)]
        found += [(begun, now, 0, True) for begun in list(self._running.values())]
        epoch = time.time() - now
        return [self._entry(epoch, *one) for one in found]

    def _entry(
        self, epoch: float, begun: Begun, end: float, failure: int | str, running: bool
    ) -> Entry:
        start, what, object, subject = begun
        if isinstance(failure, int):
            failure = errno.errorcode.get(failure, str(failure)) if failure else ""
        volume_id = subject.get("volume_id", "")
        at, seconds = epoch + start, end - start
        return Entry(self._kind, at, what, object, volume_id, seconds, failure, running)


commands = Recorder(Kind.COMMAND)
configfs = Recorder(Kind.CONFIGFS)


def entries(about: str = "") -> list[Entry]:
    """All, or those about a volume or snapshot; oldest first."""
    found = [
        entry
        for entry in commands.entries() + configfs.entries()
        if about in (entry.volume_id, "") or about in entry.object
    ]
    return sorted(found, key=lambda entry: entry.time)


class _FailureLog:
    """Puts the newest entries about a failed volume into the log, at most once a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = float("-inf")

    def __call__(self, about: str) -> None:
        with self._lock:
            if monotonic() - self._last < LOG_SECONDS_MIN:
                return
            self._last = monotonic()
        found = entries(about)[-LOGGED_MAX:] if about else []
        if found:
            text = "\n".join(map(str, found))
            log.warning("volume or snapshot %s: what was done last:\n%s", about, text)


log_failure = _FailureLog()
