"""Logins that the kernel refused: how many, and why.

The kernel counts them per target, and forgets them with the target; here they
go on being counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping

from targetd.engines.interface import LioEngine

log = logging.getLogger(__name__)


class Logins:
    """Looked at by one thread, read by others."""

    def __init__(self, lio: LioEngine) -> None:
        self._lio = lio
        # By target, what the kernel said last.
        self._seen: dict[str, Mapping[str, int]] = {}
        self._refused: Counter[str] = Counter()
        # What the kernel says in the first pass over all is of an earlier daemon.
        self._first = True

    def look(self, volume_id: str, iqn: str) -> None:
        before = self._seen.get(volume_id, {})
        # One small file of the kernel; the others only when it says more than before.
        if self._lio.refused_login_count(iqn) == sum(before.values()):
            return
        seen = self._lio.refused_logins(iqn)
        # Another target of the same name counts from 0 again.
        anew = sum(seen.values()) < sum(before.values())
        more = Counter(seen) if anew else Counter(seen) - Counter(before)
        self._seen[volume_id] = seen
        if more and not self._first:
            self._refused += more
            text = ", ".join(f"{count} by {kind}" for kind, count in sorted(more.items()))
            log.warning("volume %s: logins were refused: %s", volume_id, text)

    def pass_ended(self, volume_ids: Collection[str]) -> None:
        """After a look at each of these; all others are forgotten."""
        self._first = False
        for volume_id in set(self._seen) - set(volume_ids):
            self._seen.pop(volume_id, None)

    def refused(self) -> Mapping[str, int]:
        """Of all targets since the daemon's start, by kind."""
        return dict(self._refused)

    def refused_of(self, volume_id: str) -> int:
        """Of one target as long as it is there."""
        return sum(self._seen.get(volume_id, {}).values())
