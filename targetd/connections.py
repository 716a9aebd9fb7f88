"""Connections: who may log in to which volume.

A grant is recorded before it is given, a removal before it is begun, and what
is gone is forgotten last. A crash anywhere leaves a record from which the next
start goes on or undoes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LioEngine
from targetd.errors import AlreadyExists, FailedPrecondition, TargetdError, Unavailable
from targetd.failpoints import failpoint
from targetd.model import (
    AccessMode,
    Acl,
    Connection,
    ConnectionState,
    Credentials,
    Export,
    Volume,
)
from targetd.naming import Naming
from targetd.observations import Observations
from targetd.secretbox import new_credentials, with_mutual
from targetd.state import State
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grant:
    """What a caller asks for in InitializeConnection."""

    volume_id: str
    attachment_id: str
    initiator: str
    host: str
    access_mode: AccessMode
    mutual_chap: bool = False


@dataclass(frozen=True)
class Terminated:
    remaining_attachment_ids: tuple[str, ...]
    sessions_closed: bool


class Connections:
    def __init__(
        self,
        catalog: Catalog,
        lio: LioEngine,
        state: State,
        workers: VolumeWorkers,
        naming: Naming,
        observations: Observations,
    ) -> None:
        self._catalog = catalog
        self._lio = lio
        self._state = state
        self._workers = workers
        self._iqn = naming.iqn
        self._observations = observations

    # Granting

    def initialize(self, grant: Grant, deadline: Deadline) -> Connection:
        def work() -> Connection:
            volume = self._catalog.volume(grant.volume_id)
            export = self._catalog.export(grant.volume_id)
            if self.finish_interrupted(grant.volume_id):
                deadline.check()
            existing = self._existing(grant)
            if existing is not None:
                self._ensure_acl(existing)
                return existing
            self._check_others(grant, volume)
            return self._grant(grant, export, deadline)

        return self._workers.run(grant.volume_id, deadline, work)

    def _existing(self, grant: Grant) -> Connection | None:
        connection = self._catalog.find_connection(grant.volume_id, grant.attachment_id)
        if connection is None:
            return None
        has = (connection.initiator, connection.access_mode, connection.credentials.mutual)
        if has == (grant.initiator, grant.access_mode, grant.mutual_chap):
            return connection
        raise AlreadyExists(
            f"attachment {grant.attachment_id} exists for initiator {connection.initiator} "
            f"in mode {connection.access_mode}, {_chap(connection.credentials.mutual)}; "
            "terminate it first",
            volume_id=grant.volume_id,
            attachment_id=grant.attachment_id,
        )

    def _check_others(self, grant: Grant, volume: Volume) -> None:
        for other in self._catalog.connections(grant.volume_id):
            if other.initiator != grant.initiator:
                if volume.multi_attach:
                    continue
                raise FailedPrecondition(
                    f"volume {grant.volume_id} is not multi-attach and is connected to "
                    f"{other.host or other.initiator} by attachment {other.attachment_id}",
                    reason="NOT_MULTI_ATTACH",
                    volume_id=grant.volume_id,
                    attachment_id=other.attachment_id,
                    initiator=other.initiator,
                )
            # Attachments of one initiator share its ACL.
            if other.access_mode is not grant.access_mode:
                raise FailedPrecondition(
                    f"attachment {other.attachment_id} of the same initiator has mode "
                    f"{other.access_mode}; one initiator has one mode per volume",
                    reason="OTHER_ACCESS_MODE",
                    volume_id=grant.volume_id,
                    attachment_id=other.attachment_id,
                )
            if other.credentials.mutual != grant.mutual_chap:
                raise FailedPrecondition(
                    f"attachment {other.attachment_id} of the same initiator is "
                    f"{_chap(other.credentials.mutual)}; one initiator has one kind per volume",
                    reason="OTHER_CHAP",
                    volume_id=grant.volume_id,
                    attachment_id=other.attachment_id,
                )

    def _grant(self, grant: Grant, export: Export, deadline: Deadline) -> Connection:
        connection = Connection(
            volume_id=grant.volume_id,
            attachment_id=grant.attachment_id,
            initiator=grant.initiator,
            host=grant.host,
            access_mode=grant.access_mode,
            state=ConnectionState.GRANTED,
            credentials=self._credentials(grant, export),
            create_time=datetime.now(UTC),
        )
        # One record, on the disk before anybody could get in. A crash from here
        # on leaves a grant that the next start completes: see docs/decisions/0004.
        self._state.add_connection(connection)
        self._catalog.put_connection(replace(connection, state=ConnectionState.GRANTING))
        failpoint("connection-recorded")
        try:
            self._ensure_acl(connection)
            failpoint("connection-made")
            deadline.check()
        except TargetdError:
            # Undo exactly what this call did, then tell its caller.
            self.finish_interrupted(grant.volume_id)
            raise
        self._catalog.put_connection(connection)
        return connection

    def _credentials(self, grant: Grant, export: Export) -> Credentials:
        for peer in self._catalog.connections(grant.volume_id):
            if peer.initiator == grant.initiator:
                return peer.credentials
        credentials = export.credentials or new_credentials()
        return with_mutual(credentials) if grant.mutual_chap else credentials

    def _ensure_acl(self, connection: Connection) -> list[str]:
        try:
            return list(self._lio.ensure_acl(self._iqn(connection.volume_id), acl_of(connection)))
        except EngineError as error:
            log.error("attachment %s: no access: %s", connection.attachment_id, error)
            raise Unavailable(
                f"the kernel did not give access to volume {connection.volume_id}; the log "
                "says why",
                volume_id=connection.volume_id,
                attachment_id=connection.attachment_id,
            ) from error

    # Revoking

    def terminate(
        self,
        volume_id: str,
        attachment_id: str,
        initiator: str,
        refuse_if_logged_in: bool,
        deadline: Deadline,
    ) -> Terminated:
        """End one attachment, all of an initiator, or, with neither named, all."""

        def work() -> Terminated:
            going = [
                connection
                for connection in self._catalog.connections(volume_id)
                if attachment_id in ("", connection.attachment_id)
                and initiator in ("", connection.initiator)
            ]
            if refuse_if_logged_in:
                self._refuse_logged_in(volume_id, going)
                deadline.check()
            closed = self._revoke(volume_id, going) if going else False
            remaining = tuple(c.attachment_id for c in self._catalog.connections(volume_id))
            return Terminated(remaining, closed)

        return self._workers.run(volume_id, deadline, work)

    def _refuse_logged_in(self, volume_id: str, going: list[Connection]) -> None:
        for connection in going:
            session = self._lio.session(self._iqn(volume_id), connection.initiator)
            if session is not None and not self._stays(volume_id, connection.initiator, going):
                raise FailedPrecondition(
                    f"initiator {connection.initiator} is logged in to volume {volume_id}; log "
                    "out there first, or leave out refuse_if_logged_in",
                    reason="LOGGED_IN",
                    volume_id=volume_id,
                    attachment_id=connection.attachment_id,
                )

    def _stays(self, volume_id: str, initiator: str, going: list[Connection]) -> bool:
        """Whether the initiator keeps its ACL for another of its attachments."""
        names = {c.attachment_id for c in going}
        return any(
            c.initiator == initiator and c.attachment_id not in names
            for c in self._catalog.connections(volume_id)
        )

    def _revoke(self, volume_id: str, going: list[Connection]) -> bool:
        """Returns whether a live session was closed."""
        self._state.set_connection_states(going, ConnectionState.REVOKING)
        for connection in going:
            self._catalog.put_connection(replace(connection, state=ConnectionState.REVOKING))
        failpoint("connection-revoking")
        closed = False
        for initiator in sorted({connection.initiator for connection in going}):
            if not self._stays(volume_id, initiator, going):
                closed |= self._remove_acl(volume_id, initiator)
        failpoint("connection-revoked")
        self._state.remove_connections(going)
        for connection in going:
            self._catalog.drop_connection(connection)
        return closed

    def _remove_acl(self, volume_id: str, initiator: str) -> bool:
        try:
            closed = self._lio.remove_acl(self._iqn(volume_id), initiator)
        except EngineError as error:
            log.error("volume %s: the access of %s stays: %s", volume_id, initiator, error)
            raise Unavailable(
                f"the kernel did not take the access of {initiator} to volume {volume_id} away; "
                "try again",
                volume_id=volume_id,
                initiator=initiator,
            ) from error
        self._observations.forget(volume_id, initiator)
        return closed

    def finish_interrupted(self, volume_id: str) -> bool:
        """Take away what an earlier grant or revocation left unfinished, if anything."""
        unfinished = [
            c
            for c in self._catalog.connections(volume_id)
            if c.state is not ConnectionState.GRANTED
        ]
        if unfinished:
            self._revoke(volume_id, unfinished)
        return bool(unfinished)

    # Putting right

    def ensure_acls(self, volume_id: str, new: bool) -> list[str]:
        """Make the ACLs of one target those of its connections; returns what differed.

        In the volume's turn; ``new`` says that the target was made in it. Raises Unavailable.
        """
        differed = []
        granted = {c.initiator: c for c in self._catalog.connections(volume_id)}
        for initiator in [] if new else self._lio.acls(self._iqn(volume_id)):
            if initiator not in granted:
                log.warning("volume %s: ACL of %s has no attachment", volume_id, initiator)
                self._remove_acl(volume_id, initiator)
                differed.append(f"acl {initiator}")
        for connection in granted.values():
            differed += self._ensure_acl(connection)
        return differed


def acl_of(connection: Connection) -> Acl:
    return Acl(
        initiator=connection.initiator,
        credentials=connection.credentials,
        read_only=connection.access_mode is AccessMode.READ_ONLY,
    )


def _chap(mutual: bool) -> str:
    return "with mutual CHAP" if mutual else "without mutual CHAP"
