"""What calls and the reconciler have in common: an attachment connected, undone, or removed.

Each begins after the first transaction of a claim, which recorded what is to be done, and ends
with its last, which records what came of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from targetd_driver import DriverError

from attachd.claims import Claim, Step
from attachd.errors import AttachError, OutcomeUnknown, of_driver
from attachd.grants import Grants
from attachd.model import Attachment, Origin
from attachd.rules import Leases, derive, ends_detach, next_status, without_connector
from attachd.sealing import Sealing
from attachd.transitions import Event, State, state_of

log = logging.getLogger(__name__)


class Connecting:
    def __init__(self, sealing: Sealing, leases: Leases) -> None:
        self._sealing = sealing
        self._leases = leases

    # Giving access

    def connect(
        self, claim: Claim, grants: Grants, attachment: Attachment, moved: bool = False
    ) -> Attachment:
        """Of one that is CONNECTING; returns it CONNECTED, with its secrets.

        ``moved``: it may have had access by another connector, which is taken away before. Raises
        AttachError, after all access has been taken back and the record is as it was before; but
        for OutcomeUnknown, when that could not be seen.
        """
        try:
            if moved:
                grants.revoke(attachment.id)
            info = grants.give(attachment)
        except DriverError as error:
            raise self._taken_back(claim, grants, attachment, error) from error
        granted = next_status(attachment, Event.GRANTED)
        sealed = self._sealing.seal(attachment.id, info)
        with claim.end() as step:
            step.replace(replace(granted, connection_info=sealed.masked), sealed.secrets)
            derive(step)
        log.info(
            "attachment %s: %s has access to volume %s, %s",
            attachment.id,
            attachment.attached_host or "its host",
            attachment.volume_id,
            attachment.attach_mode,
        )
        return replace(granted, connection_info=info)

    def renew(self, claim: Claim, grants: Grants, attachment: Attachment) -> Attachment:
        """Of one that has access; returns it with its secrets. Raises AttachError."""
        try:
            info = grants.give(attachment)
        except DriverError as error:
            raise of_driver(error, grants.host) from error
        sealed = self._sealing.seal(attachment.id, info)
        with claim.end() as step:
            step.replace(replace(attachment, connection_info=sealed.masked), sealed.secrets)
            derive(step)
        return replace(attachment, connection_info=info)

    def _taken_back(
        self,
        claim: Claim,
        grants: Grants,
        attachment: Attachment,
        error: DriverError,
    ) -> AttachError:
        """What the caller is told."""
        answer = of_driver(error, grants.host)
        if self.undo(claim, grants, attachment, str(answer)):
            return answer
        return OutcomeUnknown(
            f"{answer}. Whether attachment {attachment.id} has access is not known; it is being "
            "taken away as soon as the storage host answers"
        )

    def undo(self, claim: Claim, grants: Grants, attachment: Attachment, why: str) -> bool:
        """Of one that is CONNECTING or ERROR_ATTACHING: leave no access.

        It is a reservation again, or gone if it was made with its connector. Returns whether
        that was seen; otherwise it is ERROR_ATTACHING.
        """
        (taken,) = _take(grants.take_back, [attachment])
        with claim.end() as step:
            if taken.failure:
                _unanswered(step, attachment, f"{why}; then {taken.failure}")
            elif attachment.origin is Origin.CONNECTION:
                next_status(attachment, Event.DROPPED)
                step.remove(attachment.id)
            else:
                self._reserve_again(step, attachment)
            derive(step)
        log.warning("attachment %s: undone: %s", attachment.id, why)
        return not taken.failure

    def _reserve_again(self, step: Step, attachment: Attachment) -> None:
        reserved = next_status(without_connector(attachment), Event.UNDONE)
        lease_end_time = self._leases.end(step.changes.time)
        step.replace(replace(reserved, lease_end_time=lease_end_time))

    # Taking access away

    def remove(self, claim: Claim, grants: Grants, attachments: Sequence[Attachment]) -> bool:
        """Of those that are DETACHING: they are gone.

        Returns whether others have access to the volume. Raises OutcomeUnknown, when it was not
        seen that the access of one has gone: that one is ERROR_DETACHING.
        """
        taken = _take(grants.revoke, attachments)
        with claim.end() as step:
            for one in taken:
                if one.failure:
                    _unanswered(step, one.attachment, one.failure)
                else:
                    next_status(one.attachment, Event.REMOVED)
                    step.remove(one.attachment.id)
            derive(step, ends_detach(attachments))
        _refuse_unseen(taken)
        return any(one.shared for one in taken[-1:])

    def disconnect(self, claim: Claim, grants: Grants, attachments: Sequence[Attachment]) -> None:
        """Of those that are CONNECTING or DETACHING: reservations again, or left to detach.

        Raises OutcomeUnknown, as ``remove``.
        """
        taken = _take(grants.revoke, attachments)
        with claim.end() as step:
            for one in taken:
                if one.failure:
                    _unanswered(step, one.attachment, one.failure)
                elif state_of(one.attachment) is State.CONNECTING:
                    self._reserve_again(step, one.attachment)
                else:
                    self._leave_to_detach(step, one.attachment)
            derive(step)
        _refuse_unseen(taken)

    def _leave_to_detach(self, step: Step, attachment: Attachment) -> None:
        revoked = next_status(attachment, Event.REVOKED)
        lease_end_time = self._leases.end(step.changes.time)
        step.replace(
            replace(revoked, connector=None, connection_info=None, lease_end_time=lease_end_time)
        )


@dataclass(frozen=True)
class _Taken:
    attachment: Attachment
    # Why it was not seen that the access has gone.
    failure: str = ""
    # Whether others have access to the volume.
    shared: bool = False


def _take(take: Callable[[str], bool], attachments: Sequence[Attachment]) -> list[_Taken]:
    """``take`` is one of Grants'.

    A storage host that does not answer is not asked again: the claim would end meanwhile.
    """
    found, failure = list[_Taken](), ""
    for attachment in attachments:
        if failure:
            found.append(_Taken(attachment, failure))
            continue
        try:
            found.append(_Taken(attachment, shared=take(attachment.id)))
        except DriverError as error:
            failure = str(error)
            found.append(_Taken(attachment, failure))
    for one in found:
        log.log(
            logging.WARNING if one.failure else logging.INFO,
            "attachment %s of volume %s: %s",
            one.attachment.id,
            one.attachment.volume_id,
            f"its access may remain: {one.failure}" if one.failure else "has no access any more",
        )
    return found


def _unanswered(step: Step, attachment: Attachment, failure: str) -> None:
    step.replace(replace(next_status(attachment, Event.UNANSWERED), reason=failure))


def _refuse_unseen(taken: Sequence[_Taken]) -> None:
    for one in taken:
        if one.failure:
            raise OutcomeUnknown(
                f"the storage host did not say that attachment {one.attachment.id} has no access "
                f"any more ({one.failure}); it is asked again until it does: look again later"
            )
