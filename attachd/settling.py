"""What calls have left behind is finished: for the reconciler, one attachment at a time.

Each method is an operation under the claim of the attachment's volume, looks at the record again
there, and does nothing where somebody else has been faster. Nobody waits for a claim here: who
has it is at work on the volume.
"""

from __future__ import annotations

import logging

from targetd_driver import DriverError

from attachd import rules
from attachd.claims import Claims
from attachd.connecting import Connecting
from attachd.database.records import Records
from attachd.errors import OutcomeUnknown, of_driver
from attachd.grants import Drivers, Grants, is_as_recorded
from attachd.model import Attachment, Origin
from attachd.transitions import GRANTED, UNFINISHED, Event, State, state_of

log = logging.getLogger(__name__)


class Settling:
    """Every method raises Busy; those that ask a storage host also AttachError of any kind."""

    def __init__(
        self, records: Records, claims: Claims, hosts: Drivers, connecting: Connecting
    ) -> None:
        self._records = records
        self._claims = claims
        self._hosts = hosts
        self._connecting = connecting

    def finish(self, found: Attachment) -> bool:
        """Undo a connection or finish a removal whose outcome no record has.

        Returns whether there was something to do. Raises OutcomeUnknown when the storage host did
        not say that no access is left: to be called again.
        """
        with self._claims.hold(found.volume_id, "reconcile", wait_seconds=0) as claim:
            with claim.begin() as step:
                attachment = step.attachments.get(found.id)
                if attachment is None or state_of(attachment) not in UNFINISHED:
                    step.is_last = True
                    return False
                grants = Grants(self._hosts, step.volume)
            if state_of(attachment) in (State.CONNECTING, State.ERROR_ATTACHING):
                why = attachment.reason or "attachd stopped while it was being connected"
                if not self._connecting.undo(claim, grants, attachment, why):
                    raise OutcomeUnknown(
                        f"whether attachment {attachment.id} has access is still not known"
                    )
            elif attachment.origin is Origin.CONNECTION:
                self._connecting.remove(claim, grants, [attachment])
            else:
                self._connecting.disconnect(claim, grants, [attachment])
        return True

    def expire(self, found: Attachment) -> bool:
        """Remove a reservation whose lease has ended, or what waited too long for detach.

        Returns whether it was.
        """
        with self._claims.once(found.volume_id, "reconcile", wait_seconds=0) as step:
            attachment = step.attachments.get(found.id)
            if attachment is None or attachment.lease_end_time is None:
                return False
            if attachment.lease_end_time > step.changes.time:
                return False
            rules.next_status(attachment, Event.EXPIRED)
            step.remove(attachment.id)
            rules.derive(step)
        log.warning(
            "attachment %s of volume %s: %s for longer than its lease, removed",
            attachment.id,
            attachment.volume_id,
            state_of(attachment),
        )
        return True

    def give_again(self, found: Attachment) -> bool:
        """Give the access that the record says, where the storage host has none or another.

        Returns whether that was so.
        """
        with self._claims.hold(found.volume_id, "reconcile", wait_seconds=0) as claim:
            with claim.begin() as step:
                attachment = step.attachments.get(found.id)
                if attachment is None or state_of(attachment) not in GRANTED:
                    step.is_last = True
                    return False
                grants = Grants(self._hosts, step.volume)
            try:
                # The records and the host were not read at the same moment.
                there = grants.seen(attachment.id)
                right = is_as_recorded(there, attachment)
                if there is not None and not right:
                    grants.revoke(attachment.id)
            except DriverError as error:
                raise of_driver(error, grants.host) from error
            if right:
                with claim.end():
                    return False
            self._connecting.renew(claim, grants, attachment)
        had = f"{there.initiator}'s, {there.access_mode}" if there else "lost"
        log.warning("attachment %s: its access was %s, and is given again", attachment.id, had)
        return True

    def remove_idle_export(self, volume_id: str) -> bool:
        """Of a volume that nobody uses; whoever attaches it next makes its target anew.

        Returns whether that is still so.
        """
        with self._claims.hold(volume_id, "reconcile", wait_seconds=0) as claim:
            with claim.begin() as step:
                if any(state_of(one) in GRANTED | UNFINISHED for one in step.attachments.values()):
                    step.is_last = True
                    return False
                grants = Grants(self._hosts, step.volume)
            try:
                grants.remove_idle_export()
            except DriverError as error:
                raise of_driver(error, grants.host) from error
            with claim.end():
                pass
        return True

    def revoke_stray(self, volume_id: str, attachment_id: str) -> bool:
        """Take away access to a volume of ours that no record explains.

        Returns whether there was none that did.
        """
        with self._claims.hold(volume_id, "reconcile", wait_seconds=0) as claim:
            with claim.begin() as step:
                attachment = step.attachments.get(attachment_id)
                if attachment is not None and state_of(attachment) in GRANTED | UNFINISHED:
                    step.is_last = True
                    return False
                grants = Grants(self._hosts, step.volume)
            try:
                grants.take_back(attachment_id)
            except DriverError as error:
                raise of_driver(error, grants.host) from error
            with claim.end():
                pass
        log.warning("volume %s: access of attachment %s had no record", volume_id, attachment_id)
        return True
