"""The attachment calls: a record as the one handle of an attachment (V2 of the field)."""

from __future__ import annotations

import logging
from dataclasses import replace

from attachd import rules
from attachd.claims import Claims, Step
from attachd.connecting import Connecting
from attachd.database.records import Records
from attachd.errors import AttachError, NotFound
from attachd.grants import Drivers, Grants, checked, validate_connector
from attachd.model import (
    Attachment,
    AttachmentFilter,
    AttachMode,
    Caller,
    Connector,
    Deleted,
    Origin,
    Page,
    SharedConnection,
)
from attachd.transitions import GRANTED, Event, State, state_of

log = logging.getLogger(__name__)


class Attachments:
    """Safe for use by several threads, and over the same records by several processes.

    ``connection_info`` is flat: driver_volume_type beside the properties. It is whole, with the
    secret, in the answers of ``create`` and ``update`` only.
    """

    def __init__(
        self,
        records: Records,
        claims: Claims,
        hosts: Drivers,
        connecting: Connecting,
        leases: rules.Leases,
    ) -> None:
        self._records = records
        self._claims = claims
        self._hosts = hosts
        self._connecting = connecting
        self._leases = leases

    def create(
        self,
        caller: Caller,
        volume_id: str,
        *,
        instance_uuid: str | None = None,
        connector: Connector | None = None,
        mode: AttachMode | None = None,
    ) -> Attachment:
        """Reserve the volume or, with a connector, also connect it.

        Raises NotFound; Invalid; WrongStatus; InUse, naming who has it; Busy; what the storage
        host refused, after which nothing is left of it; OutcomeUnknown.
        """
        mode = mode or AttachMode.READ_WRITE
        if connector is None:
            with self._claims.once(volume_id, "reserve", caller) as step:
                origin = Origin.RESERVATION
                return rules.reserve(step, origin, self._leases, instance_uuid, mode)
        connector = checked(connector)
        with self._claims.hold(volume_id, "attach", caller) as claim:
            with claim.begin() as step:
                grants = self._grants(step)
                attachment = rules.connect_new(step, connector, instance_uuid, mode)
            return self._connecting.connect(claim, grants, attachment)

    def update(self, caller: Caller, attachment_id: str, connector: Connector) -> Attachment:
        """Connect it. By the connector that it has: the same answer again; by another one: moved.

        The old access is gone before the new one is given; the attachment is to be completed
        again. Raises as ``create``; what is refused leaves the attachment reserved.
        """
        connector = checked(connector)
        found = self.get(caller, attachment_id)
        if state_of(found) in GRANTED and not rules.may_renew(found, connector):
            self._validate(found, connector)
        with self._claims.hold(found.volume_id, "attach", caller) as claim:
            with claim.begin() as step:
                grants = self._grants(step)
                before = step.attachment(attachment_id)
                if rules.may_renew(before, connector):
                    renewed = replace(before, connector=connector)
                    connecting = None
                else:
                    connecting = rules.connect(step, before, connector)
            if connecting is None:
                return self._connecting.renew(claim, grants, renewed)
            moved = state_of(before) is not State.RESERVED
            return self._connecting.connect(claim, grants, connecting, moved)

    def _validate(self, attachment: Attachment, connector: Connector) -> None:
        """What works is not given up for what cannot."""
        volume = self._records.volume(attachment.volume_id)
        if volume is None:
            raise NotFound("Volume", attachment.volume_id)
        validate_connector(self._hosts.driver(volume.host), volume.host, connector)

    def complete(self, caller: Caller, attachment_id: str) -> None:
        """Its host uses it: the volume is in-use. Raises NotFound, WrongStatus, Busy."""
        volume_id = self._volume_of(caller, attachment_id)
        with self._claims.once(volume_id, "complete", caller) as step:
            before = step.attachment(attachment_id)
            completed = rules.next_status(before, Event.COMPLETE)
            if completed != before:
                step.replace(replace(completed, attach_time=step.changes.time))
                rules.derive(step)

    def get(self, caller: Caller, attachment_id: str) -> Attachment:
        """Raises NotFound."""
        found = self._records.attachment(attachment_id)
        if found is None or not caller.may_see(found.project_id):
            raise NotFound("Attachment", attachment_id)
        return found

    def _volume_of(self, caller: Caller, attachment_id: str) -> str:
        """Raises NotFound."""
        found = self._records.place_of(attachment_id)
        if found is None or not caller.may_see(found[0]):
            raise NotFound("Attachment", attachment_id)
        return found[1]

    def shared(self, caller: Caller, attachment_id: str) -> list[SharedConnection]:
        """Who else has access to its volume, as the storage host says now.

        Raises NotFound, HostUnavailable.
        """
        found = self.get(caller, attachment_id)
        volume = self._records.volume(found.volume_id)
        if volume is None:
            raise NotFound("Attachment", attachment_id)
        grants = Grants(self._hosts, volume)
        return list(grants.others(attachment_id))

    def delete(self, caller: Caller, attachment_id: str) -> Deleted:
        """Returns when no access is left. Raises NotFound, Busy, OutcomeUnknown."""
        volume_id = self._volume_of(caller, attachment_id)
        shared = False
        with self._claims.hold(volume_id, "detach", caller) as claim:
            with claim.begin() as step:
                removing = rules.remove(step, [step.attachment(attachment_id)])
                grants = self._grants(step) if removing else None
            if grants is not None:
                shared = self._connecting.remove(claim, grants, removing)
        remaining = tuple(one for one in step.remaining() if one.id != attachment_id)
        return Deleted(remaining, self._sharing(grants, attachment_id) if shared else ())

    def _sharing(self, grants: Grants | None, attachment_id: str) -> tuple[SharedConnection, ...]:
        """The deletion is done, whether or not the host says this."""
        if grants is None:
            return ()
        try:
            return grants.others(attachment_id)
        except AttachError as error:
            log.warning("attachment %s: who shares its volume: %s", attachment_id, error)
            return ()

    def _grants(self, step: Step) -> Grants:
        return Grants(self._hosts, step.volume)

    def list(self, caller: Caller, where: AttachmentFilter, page: Page) -> list[Attachment]:
        """By pages. Raises NotFound for a marker that is none."""
        return self._records.attachments(caller, where, page)
