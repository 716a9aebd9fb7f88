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


# When it began (monotonic), or the work that it belongs to; what is done, to what, and
# what the work is about.
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
    # So far, for what is under way; none where nobody looked at the clock.
    seconds: float | None
    # An empty text: it did not fail.
    failure: str
    running: bool

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.time))
        ended = "under way" if self.running else self.failure or "ok"
        took = "" if self.seconds is None else f", {self.seconds:.3f} s"
        return f"{clock} {self.what} {self.object}: {ended}{took}"


class Now(NamedTuple):
    monotonic: float
    # What to add to a monotonic time, for seconds since the epoch.
    epoch: float


def _now() -> Now:
    now = monotonic()
    return Now(now, time.time() - now)


class Recorder:
    """Of one kind. No locks: each line of begin and end is one step of the interpreter."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._ended: deque[tuple[Begun, float | None, int | str]] = deque(maxlen=ENTRIES_MAX)
        self._running: dict[int, Begun] = {}

    def begin(self, what: str, object: str) -> Begun:
        begun = (monotonic(), what, object, context.current())
        self._running[id(begun)] = begun
        return begun

    def end(self, begun: Begun, failure: int | str = 0) -> None:
        """``failure``: an errno, or a text."""
        del self._running[id(begun)]
        self._ended.append((begun, monotonic(), failure))

    # Some things are done by the dozen for one attachment, each in the time that a look at the
    # clock takes where that is a system call. They have the time of the work they belong to.

    def begin_untimed(self, what: str, object: str) -> Begun:
        subject = context.current()
        begun = (subject.started, what, object, subject)
        self._running[id(begun)] = begun
        return begun

    def end_untimed(self, begun: Begun, failure: int | str = 0) -> None:
        del self._running[id(begun)]
        self._ended.append((begun, None, failure))

    def entries(self, now: Now | None = None) -> list[Entry]:
        """Nothing is made a text before it is asked for."""
        now = now or _now()
        found = [(*one, False) for one in list(self._ended)]
        found += [(begun, now.monotonic, 0, True) for begun in list(self._running.values())]
        return [self._entry(now.epoch, *one) for one in found]

    def _entry(
        self, epoch: float, begun: Begun, end: float | None, failure: int | str, running: bool
    ) -> Entry:
        start, what, object, subject = begun
        if isinstance(failure, int):
            failure = errno.errorcode.get(failure, str(failure)) if failure else ""
        seconds = None if end is None else end - start
        volume_id = subject.fields.get("volume_id", "")
        return Entry(self._kind, epoch + start, what, object, volume_id, seconds, failure, running)


commands = Recorder(Kind.COMMAND)
configfs = Recorder(Kind.CONFIGFS)


def entries(about: str = "") -> list[Entry]:
    """All, or those about a volume or snapshot; oldest first."""
    now = _now()
    found = [
        entry
        for entry in commands.entries(now) + configfs.entries(now)
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
