"""What the health service says: whether the records can be written and whether LVM answers.

Each is tried from time to time in a thread of its own, since the trial itself
may hang: one that is late counts as failed. The same readings of LVM keep the
pools' figures fresh for the metrics.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from targetd.errors import TargetdError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
STATE_SECONDS = 10.0
LVM_SECONDS = 30.0
# Again so soon after a failure.
FAILED_SECONDS = 5.0
# A trial that takes longer hangs: LVM waits for other commands on a volume group.
LATE_SECONDS = 30.0


class Check:
    """One thing that is tried, never twice at once."""

    def __init__(self, what: str, trial: Callable[[], object], every_seconds: float) -> None:
        self.what = what
        self._trial = trial
        self._every_seconds = every_seconds
        self._lock = threading.Lock()
        # When the last trial began and ended (monotonic); it is under way between the two.
        # The daemon's start was as good as one.
        self._begun = self._ended = time.monotonic()
        self._failure = ""
        self.ok = True

    def look(self) -> None:
        """Begin a trial where one is due; see how the last one went."""
        now = time.monotonic()
        with self._lock:
            running = self._begun > self._ended
            pause = self._every_seconds if not self._failure else FAILED_SECONDS
            due = not running and now - self._ended >= pause
            if due:
                self._begun = now
            late = running and now - self._begun > LATE_SECONDS
            failure = "no answer" if late else self._failure
        if due:
            threading.Thread(target=self._try, name="health", daemon=True).start()
        self._tell(failure)

    def _try(self) -> None:
        failure = ""
        try:
            self._trial()
        except TargetdError as error:
            failure = error.message
        # The outer loop of a worker: whatever it is, it does not work.
        except Exception as error:
            log.exception("%s: the trial itself failed", self.what)
            failure = type(error).__name__
        with self._lock:
            self._failure = failure
            self._ended = time.monotonic()

    def _tell(self, failure: str) -> None:
        ok = not failure
        if ok == self.ok:
            return
        self.ok = ok
        if ok:
            log.info("%s: works again", self.what)
        else:
            log.error("%s: %s", self.what, failure)


class Health:
    """Tells, per gRPC service, whether it can do its work."""

    def __init__(
        self,
        needs: Mapping[str, tuple[Check, ...]],
        publish: Callable[[str, bool], None],
    ) -> None:
        self._needs = needs
        self._publish = publish
        self._checks = list(dict.fromkeys(check for found in needs.values() for check in found))
        self._told: dict[str, bool] = {}
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="health", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def services(self) -> dict[str, bool]:
        """Each service, and whether it serves."""
        return {
            service or "all": all(check.ok for check in checks)
            for service, checks in self._needs.items()
        }

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        for check in self._checks:
            check.look()
        for service, checks in self._needs.items():
            serves = all(check.ok for check in checks)
            if self._told.get(service, True) != serves:
                self._publish(service, serves)
            self._told[service] = serves
