"""What the kernel says of connections: looked at in passes, kept for the lists.

No event tells of a login or a logout, so a thread looks at one small file per
connection, a few at a time. Lists and watchers get what it saw last; a single
connection is looked at when it is asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.changes import Changes, Kind
from targetd.engines.interface import LioEngine
from targetd.logins import Logins
from targetd.model import AclStatistics, Connection, ConnectionState, Session
from targetd.naming import Naming

log = logging.getLogger(__name__)

# A pass begins at the soonest after the first, and after so many times what the
# last one took: looking must never be what the host does most.
PASS_SECONDS_MIN = 5.0
PASS_SHARE = 20.0
NO_STATISTICS = AclStatistics()
SLICE = 50
SLICE_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Observation:
    """What the kernel said of a connection when it was last looked at."""

    time: datetime | None = None
    authorized: bool = False
    session: Session | None = None
    logged_in_since: datetime | None = None
    statistics: AclStatistics = NO_STATISTICS


NEVER = Observation()
# We made the ACL ourselves, and have not looked since.
GIVEN = Observation(authorized=True)


class Observations:
    def __init__(self, catalog: Catalog, changes: Changes, lio: LioEngine, naming: Naming) -> None:
        self._catalog = catalog
        self._changes = changes
        self._lio = lio
        self._iqn = naming.iqn
        # By volume and initiator: attachments of one initiator share its sessions.
        self._seen: dict[tuple[str, str], Observation] = {}
        self._counts: dict[str, int] = {}
        self.logins = Logins(lio)
        # By volume, where there are any: sessions that no attachment explains.
        self._strangers: dict[str, int] = {}
        # Sessions without attachment that have been reported.
        self._alarms: set[tuple[str, str]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="observations", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()

    def last(self, connection: Connection) -> Observation:
        """What was seen last, without a look."""
        seen = self._seen.get((connection.volume_id, connection.initiator))
        if seen is not None:
            return seen
        return GIVEN if connection.state is ConnectionState.GRANTED else NEVER

    def forget(self, volume_id: str, initiator: str) -> None:
        """Its access has gone, and what was seen of it with it."""
        self._seen.pop((volume_id, initiator), None)

    def now(self, connection: Connection, at: datetime | None = None) -> Observation:
        """Look, and remember, as seen ``at`` that time, or else now.

        Not while the connection is being revoked: a removal that hangs in the
        kernel would hold the reader too.
        """
        if connection.state is ConnectionState.REVOKING:
            return self.last(connection)
        key = (connection.volume_id, connection.initiator)
        before, seen = self._seen.get(key, NEVER), self._look(connection, at)
        self._seen[key] = seen
        if (before.session, before.authorized) != (seen.session, seen.authorized):
            self._changes.publish(Kind.CONNECTION, connection.volume_id, connection.attachment_id)
        return seen

    def _look(self, connection: Connection, at: datetime | None) -> Observation:
        iqn, now = self._iqn(connection.volume_id), at or datetime.now(UTC)
        before = self.last(connection)
        session = self._lio.session(iqn, connection.initiator)
        if session is None:
            authorized = self._lio.has_acl(iqn, connection.initiator)
            return Observation(now, authorized, statistics=before.statistics)
        since = before.logged_in_since
        if before.session is None or before.session.session_id != session.session_id:
            since = now
        statistics = self._lio.statistics(iqn, connection.initiator)
        return Observation(now, True, session, since, statistics)

    def last_session_count(self, volume_id: str) -> int:
        """As the kernel counted when its export was last looked at."""
        return self._counts.get(volume_id, 0)

    def sessions_without_attachment(self) -> dict[str, int]:
        """How many each volume had when it was last looked at, where there were any."""
        return dict(self._strangers)

    def session_count(self, volume_id: str) -> int:
        """As the kernel counts now."""
        count = self._lio.session_count(self._iqn(volume_id))
        if self._counts.get(volume_id, 0) != count:
            self._counts[volume_id] = count
            self._changes.publish(Kind.EXPORT, volume_id)
        return count

    def sessions(self, volume_id: str, at: datetime | None = None) -> list[Session]:
        """Of the volume's target now, those without attachment included."""
        iqn = self._iqn(volume_id)
        connections = self._catalog.connections(volume_id)
        known = {c.initiator: c for c in connections}
        found = [self.now(connection, at).session for connection in known.values()]
        sessions = [session for session in found if session is not None]
        # Listing the ACLs hangs while a removal among them hangs in the kernel, so
        # it is done only for sessions that nothing else explains.
        count = self.session_count(volume_id)
        if count > len(sessions) and not self._catalog.is_detaching(volume_id):
            strangers = sorted(set(self._lio.acls(iqn)) - set(known))
            sessions += [s for s in (self._lio.session(iqn, name) for name in strangers) if s]
        return sorted(sessions, key=lambda session: session.initiator)

    # The thread

    def _look_on(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                self.look_at_all()
            # The outer loop of a worker: one odd object must not end all looking.
            except Exception:
                log.exception("a look at the sessions failed")
            pause = max(PASS_SECONDS_MIN, PASS_SHARE * (time.monotonic() - started))

    def look_at_all(self) -> None:
        """One pass over all exports, with pauses for those who wait for the processor."""
        volume_ids = [export.volume_id for export in self._catalog.exports()]
        for start in range(0, len(volume_ids), SLICE):
            # One time for all of a slice, which takes a fraction of a second.
            at = datetime.now(UTC)
            for volume_id in volume_ids[start : start + SLICE]:
                self._look_at_export(volume_id, at)
            if self._stopping.wait(SLICE_PAUSE_SECONDS):
                return
        self._forget_gone()

    def _look_at_export(self, volume_id: str, at: datetime) -> None:
        known = {c.initiator for c in self._catalog.connections(volume_id)}
        self.logins.look(volume_id, self._iqn(volume_id))
        strangers = [
            s
            for s in self.sessions(volume_id, at)
            # Granted since the look began, or an alarm.
            if s.initiator not in known and not self._has(volume_id, s.initiator)
        ]
        self._strangers.pop(volume_id, None)
        if strangers:
            self._strangers[volume_id] = len(strangers)
        for session in strangers:
            key = (volume_id, session.initiator)
            if key in self._alarms:
                continue
            self._alarms.add(key)
            log.error(
                "volume %s: %s is logged in from %s without any attachment",
                volume_id,
                session.initiator,
                ", ".join(session.peer_addresses),
            )

    def _has(self, volume_id: str, initiator: str) -> bool:
        return any(c.initiator == initiator for c in self._catalog.connections(volume_id))

    def _forget_gone(self) -> None:
        there = {(c.volume_id, c.initiator) for c in self._catalog.all_connections()}
        for key in set(self._seen) - there:
            self._seen.pop(key, None)
        exports = {export.volume_id for export in self._catalog.exports()}
        for of_volumes in (self._counts, self._strangers):
            for volume_id in set(of_volumes) - exports:
                of_volumes.pop(volume_id, None)
        self.logins.pass_ended(exports)
        self._alarms = {key for key in self._alarms if key[0] in exports}
