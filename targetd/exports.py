"""Exports and connections: who may log in to which volume, and who has.

Order of every grant: record the intent, act, record the outcome; of every
removal: record, act, verify, forget. A crash anywhere leaves a record from
which the next start goes on or undoes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LioEngine, LvmEngine
from targetd.errors import AlreadyExists, FailedPrecondition, TargetdError, Unavailable
from targetd.failpoints import failpoint
from targetd.model import (
    AccessMode,
    Acl,
    AclStatistics,
    Connection,
    ConnectionState,
    Export,
    Provisioning,
    Session,
    Target,
    Volume,
)
from targetd.secretbox import new_credentials
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


@dataclass(frozen=True)
class Terminated:
    remaining_attachment_ids: tuple[str, ...]
    sessions_closed: bool


@dataclass(frozen=True)
class ConnectionStatus:
    """What the kernel says of a connection now."""

    authorized: bool
    session: Session | None
    statistics: AclStatistics
    shared_with: tuple[str, ...]


class Exports:
    def __init__(
        self,
        catalog: Catalog,
        lvm: LvmEngine,
        lio: LioEngine,
        state: State,
        workers: VolumeWorkers,
        iqn_prefix: str,
        portals: tuple[str, ...],
    ) -> None:
        self._catalog = catalog
        self._lvm = lvm
        self._lio = lio
        self._state = state
        self._workers = workers
        self._iqn_prefix = iqn_prefix
        self.portals = portals

    def iqn(self, volume_id: str) -> str:
        return f"{self._iqn_prefix}:{volume_id}"

    def target(self, volume: Volume) -> Target:
        return Target(
            volume_id=volume.volume_id,
            iqn=self.iqn(volume.volume_id),
            device_path=volume.device_path,
            portals=self.portals,
            thin=volume.pool.provisioning is Provisioning.THIN,
        )

    # Exports

    def create(self, volume_id: str, deadline: Deadline) -> Export:
        def work() -> Export:
            volume = self._catalog.volume(volume_id)
            deadline.check()
            existing = self._catalog.exports.get(volume_id)
            if existing is not None:
                self.ensure_target(volume)
                return existing
            return self._create(volume)

        return self._workers.run(volume_id, deadline, work)

    def _create(self, volume: Volume) -> Export:
        export = Export(volume.volume_id, datetime.now(UTC))
        self._state.add_export(export)
        failpoint("export-recorded")
        try:
            self.ensure_target(volume)
        except Unavailable:
            self._undo_create(volume.volume_id)
            raise
        failpoint("export-made")
        self._catalog.exports[volume.volume_id] = export
        return export

    def ensure_target(self, volume: Volume) -> None:
        """Make the volume's target right in the kernel. Raises Unavailable."""
        try:
            self._lvm.activate(volume)
            self._lio.ensure_target(self.target(volume))
            self._catalog.degraded.pop(volume.volume_id, None)
        except EngineError as error:
            log.error("volume %s cannot be exported: %s", volume.volume_id, error)
            raise Unavailable(
                f"the kernel did not export volume {volume.volume_id}; the log says why",
                volume_id=volume.volume_id,
            ) from error

    def _undo_create(self, volume_id: str) -> None:
        try:
            self._lio.remove_target(self.iqn(volume_id), volume_id)
        except EngineError as error:
            # The record stays, so that the next start or call goes on with it.
            log.error("volume %s: the half-made export stays: %s", volume_id, error)
            self._catalog.exports[volume_id] = Export(volume_id, datetime.now(UTC))
            return
        self._state.remove_export(volume_id)

    def remove(self, volume_id: str, deadline: Deadline) -> None:
        def work() -> None:
            if volume_id not in self._catalog.exports:
                return
            attachments = [c.attachment_id for c in self._catalog.connections(volume_id)]
            if attachments:
                raise FailedPrecondition(
                    f"the export of volume {volume_id} has connections: "
                    f"{', '.join(attachments)}; terminate them first",
                    reason="HAS_CONNECTIONS",
                    volume_id=volume_id,
                    attachment_ids=",".join(attachments),
                )
            deadline.check()
            self._remove(volume_id)

        self._workers.run(volume_id, deadline, work)

    def _remove(self, volume_id: str) -> None:
        try:
            self._lio.remove_target(self.iqn(volume_id), volume_id)
        except EngineError as error:
            log.error("the export of %s cannot be removed: %s", volume_id, error)
            raise Unavailable(
                f"the kernel did not remove the export of volume {volume_id}; the log says why",
                volume_id=volume_id,
            ) from error
        failpoint("export-removed")
        self._state.remove_export(volume_id)
        del self._catalog.exports[volume_id]

    # Granting

    def initialize(self, grant: Grant, deadline: Deadline) -> Connection:
        def work() -> Connection:
            volume = self._catalog.volume(grant.volume_id)
            self._catalog.export(grant.volume_id)
            self._finish_interrupted(grant.volume_id)
            existing = self._existing(grant)
            if existing is not None:
                self._ensure_acl(existing)
                return existing
            self._check_others(grant, volume)
            deadline.check()
            return self._grant(grant, deadline)

        return self._workers.run(grant.volume_id, deadline, work)

    def _existing(self, grant: Grant) -> Connection | None:
        for connection in self._catalog.connections(grant.volume_id):
            if connection.attachment_id != grant.attachment_id:
                continue
            if (connection.initiator, connection.access_mode) == (
                grant.initiator,
                grant.access_mode,
            ):
                return connection
            raise AlreadyExists(
                f"attachment {grant.attachment_id} exists for initiator {connection.initiator} "
                f"in mode {connection.access_mode}; terminate it first",
                volume_id=grant.volume_id,
                attachment_id=grant.attachment_id,
            )
        return None

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
            if other.access_mode is not grant.access_mode:
                raise FailedPrecondition(
                    f"attachment {other.attachment_id} of the same initiator has mode "
                    f"{other.access_mode}; one initiator has one mode per volume",
                    reason="OTHER_ACCESS_MODE",
                    volume_id=grant.volume_id,
                    attachment_id=other.attachment_id,
                )

    def _grant(self, grant: Grant, deadline: Deadline) -> Connection:
        peers = self._of_initiator(grant.volume_id, grant.initiator)
        connection = Connection(
            volume_id=grant.volume_id,
            attachment_id=grant.attachment_id,
            initiator=grant.initiator,
            host=grant.host,
            access_mode=grant.access_mode,
            state=ConnectionState.GRANTING,
            # Attachments of one initiator share its ACL, and so its secret.
            credentials=peers[0].credentials if peers else new_credentials(),
            create_time=datetime.now(UTC),
        )
        self._state.add_connection(connection)
        self._catalog.put_connection(connection)
        failpoint("connection-recorded")
        try:
            self._ensure_acl(connection)
            failpoint("connection-made")
            deadline.check()
        except TargetdError:
            # Undo exactly what this call did, then tell its caller.
            self._finish_interrupted(grant.volume_id)
            raise
        granted = replace(connection, state=ConnectionState.GRANTED)
        self._state.set_connection_states([granted], ConnectionState.GRANTED)
        self._catalog.put_connection(granted)
        return granted

    def _ensure_acl(self, connection: Connection) -> None:
        try:
            self._lio.ensure_acl(self.iqn(connection.volume_id), acl_of(connection))
        except EngineError as error:
            log.error("attachment %s: no access: %s", connection.attachment_id, error)
            raise Unavailable(
                f"the kernel did not give access to volume {connection.volume_id}; the log "
                "says why",
                volume_id=connection.volume_id,
                attachment_id=connection.attachment_id,
            ) from error

    def _of_initiator(self, volume_id: str, initiator: str) -> list[Connection]:
        return [c for c in self._catalog.connections(volume_id) if c.initiator == initiator]

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
            session = self._lio.session(self.iqn(volume_id), connection.initiator)
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
        return any(c not in going for c in self._of_initiator(volume_id, initiator))

    def _revoke(self, volume_id: str, going: list[Connection]) -> bool:
        """Returns whether a live session was closed."""
        self._state.set_connection_states(going, ConnectionState.REVOKING)
        revoking = [replace(c, state=ConnectionState.REVOKING) for c in going]
        for connection in revoking:
            self._catalog.put_connection(connection)
        failpoint("connection-revoking")
        closed = False
        for initiator in sorted({connection.initiator for connection in revoking}):
            if not self._stays(volume_id, initiator, revoking):
                closed |= self._remove_acl(volume_id, initiator)
        failpoint("connection-revoked")
        self._state.remove_connections(revoking)
        for connection in revoking:
            self._catalog.drop_connection(connection)
        return closed

    def _remove_acl(self, volume_id: str, initiator: str) -> bool:
        try:
            return self._lio.remove_acl(self.iqn(volume_id), initiator)
        except EngineError as error:
            log.error("volume %s: the access of %s stays: %s", volume_id, initiator, error)
            raise Unavailable(
                f"the kernel did not take the access of {initiator} to volume {volume_id} away; "
                "try again",
                volume_id=volume_id,
                initiator=initiator,
            ) from error

    def _finish_interrupted(self, volume_id: str) -> None:
        """Take away what an earlier grant or revocation left unfinished."""
        unfinished = [
            c
            for c in self._catalog.connections(volume_id)
            if c.state is not ConnectionState.GRANTED
        ]
        if unfinished:
            self._revoke(volume_id, unfinished)

    # Putting right

    def reconcile(self, volume_id: str) -> None:
        """Make the kernel agree with the records of one export, and only that one.

        Raises Unavailable when the kernel or LVM refuses, NotFound when the
        volume is gone.
        """
        volume = self._catalog.volume(volume_id)
        self.ensure_target(volume)
        self._finish_interrupted(volume_id)
        granted = {c.initiator: c for c in self._catalog.connections(volume_id)}
        for initiator in self._lio.acls(self.iqn(volume_id)):
            if initiator not in granted:
                log.warning("volume %s: ACL of %s has no attachment", volume_id, initiator)
                self._remove_acl(volume_id, initiator)
        for connection in granted.values():
            self._ensure_acl(connection)

    # Status

    def status(self, connection: Connection) -> ConnectionStatus:
        iqn = self.iqn(connection.volume_id)
        return ConnectionStatus(
            authorized=self._lio.has_acl(iqn, connection.initiator),
            session=self._lio.session(iqn, connection.initiator),
            statistics=self._lio.statistics(iqn, connection.initiator),
            shared_with=tuple(
                other.attachment_id
                for other in self._catalog.connections(connection.volume_id)
                if other.attachment_id != connection.attachment_id
            ),
        )

    def session_count(self, volume_id: str) -> int:
        return self._lio.session_count(self.iqn(volume_id))

    def sessions(self, volume_id: str) -> list[Session]:
        iqn = self.iqn(volume_id)
        known = {c.initiator for c in self._catalog.connections(volume_id)}
        found = [s for s in (self._lio.session(iqn, name) for name in sorted(known)) if s]
        # Listing the ACLs hangs while a removal among them is stuck in the
        # kernel, so it is done only for sessions that nothing else explains.
        if self._lio.session_count(iqn) > len(found) and not self._catalog.is_detaching(volume_id):
            strangers = sorted(set(self._lio.acls(iqn)) - known)
            found += [s for s in (self._lio.session(iqn, name) for name in strangers) if s]
        return found


def acl_of(connection: Connection) -> Acl:
    return Acl(
        initiator=connection.initiator,
        credentials=connection.credentials,
        read_only=connection.access_mode is AccessMode.READ_ONLY,
    )
