"""What both kinds of attachment calls ask first, and how they record what they begin.

All of it is within the first transaction of a claim on the volume.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from attachd.claims import Step
from attachd.errors import InUse, WrongStatus
from attachd.grants import initiator_of
from attachd.model import (
    Attachment,
    AttachMode,
    Connector,
    Origin,
    Volume,
)
from attachd.transitions import (
    DERIVED,
    GRANTED,
    STATUSES,
    WITHOUT_ACCESS,
    Event,
    State,
    after,
    detach_begun,
    state_of,
    volume_status,
)

DEFAULT_LEASE_SECONDS = 3600.0


class Leases:
    """How long a reservation waits for its connection; 0 seconds is for ever."""

    def __init__(self, seconds: float = DEFAULT_LEASE_SECONDS) -> None:
        self._seconds = seconds

    def end(self, now: datetime) -> datetime | None:
        return now + timedelta(seconds=self._seconds) if self._seconds else None


def next_status(attachment: Attachment, event: Event) -> Attachment:
    """Raises WrongStatus."""
    state = after(state_of(attachment), event, attachment.id)
    return replace(attachment, attach_status=STATUSES[state], reason="")


def derive(step: Step, detach_ended: bool = False) -> None:
    """Let the volume's status be what its attachments make of it."""
    status = volume_status(step.volume.status, step.remaining(), detach_ended)
    if status is not step.volume.status:
        step.set_status(status)


# Beginning


def reserve(
    step: Step, origin: Origin, leases: Leases, instance_uuid: str | None, mode: AttachMode
) -> Attachment:
    """Raises WrongStatus."""
    _refuse_status(step)
    if not step.volume.multiattach:
        _refuse_reserved(step.volume, step.attachments.values(), instance_uuid)
    now = step.changes.time
    attachment = _new(step, Event.RESERVE, origin, instance_uuid, mode)
    attachment = step.add(replace(attachment, lease_end_time=leases.end(now)))
    derive(step)
    return attachment


def _refuse_reserved(
    volume: Volume, others: Collection[Attachment], instance_uuid: str | None
) -> None:
    # For its live migration an instance has a second one, on the host where it goes.
    if instance_uuid is None or any(one.instance_uuid != instance_uuid for one in others):
        for other in others:
            raise WrongStatus(f"volume {volume.id} is {volume.status}, by {_named(other)}")


def connect_new(
    step: Step, connector: Connector, instance_uuid: str | None, mode: AttachMode
) -> Attachment:
    """One that is made with its connector. Raises WrongStatus, InUse."""
    _refuse_status(step)
    if not step.volume.multiattach:
        others = [
            one for one in step.attachments.values() if _stands_in_the_way(one, instance_uuid)
        ]
        _refuse_others(step.volume, others)
    attachment = _new(step, Event.CONNECT, Origin.CONNECTION, instance_uuid, mode)
    attachment = step.add(_by(attachment, connector))
    derive(step)
    return attachment


def _stands_in_the_way(other: Attachment, instance_uuid: str | None) -> bool:
    has_access = state_of(other) not in WITHOUT_ACCESS
    return has_access or instance_uuid is None or other.instance_uuid != instance_uuid


def connect(step: Step, attachment: Attachment, connector: Connector) -> Attachment:
    """Raises WrongStatus, InUse."""
    connecting = next_status(attachment, Event.CONNECT)
    _refuse_status(step)
    if not step.volume.multiattach:
        _refuse_others(
            step.volume,
            [
                other
                for other in step.attachments.values()
                if other.id != attachment.id and state_of(other) not in WITHOUT_ACCESS
            ],
        )
    if attachment.origin is Origin.CONNECTION:
        # Its id is known now: what becomes of it, it is not gone without its caller.
        connecting = replace(connecting, origin=Origin.RESERVATION)
    connecting = step.replace(_by(connecting, connector))
    derive(step)
    return connecting


def remove(step: Step, attachments: Collection[Attachment]) -> list[Attachment]:
    """Returns those whose access is to be taken away; the others are gone already."""
    with_access = []
    for attachment in attachments:
        removing = next_status(attachment, Event.REMOVE)
        if state_of(removing) is State.GONE:
            step.remove(attachment.id)
        else:
            # Whoever finishes it leaves nothing of it.
            with_access.append(step.replace(replace(removing, origin=Origin.CONNECTION)))
    derive(step, ends_detach(attachments) and not with_access)
    step.is_last = not with_access
    return with_access


def ends_detach(removed: Iterable[Attachment]) -> bool:
    """Whether what begin_detaching began ends with them: they were attached."""
    return any(one.attach_time is not None for one in removed)


def may_renew(attachment: Attachment, connector: Connector) -> bool:
    """Whether to connect it is to repeat what was done."""
    same = initiator_of(attachment.connector) == initiator_of(connector)
    return same and state_of(attachment) in GRANTED


def _refuse_status(step: Step) -> None:
    volume = step.volume
    if volume.status not in DERIVED or detach_begun(volume.status, step.attachments.values()):
        raise WrongStatus(
            f"volume {volume.id} is {volume.status}; it can be attached when that has ended"
            + (f" ({volume.reason})" if volume.reason else "")
        )


def _refuse_others(volume: Volume, others: Iterable[Attachment]) -> None:
    for other in others:
        raise InUse(
            f"volume {volume.id} is not multiattach and is {volume.status}, by {_named(other)}"
        )


def _named(attachment: Attachment) -> str:
    where = f" on {attachment.attached_host}" if attachment.attached_host else ""
    what = f" of instance {attachment.instance_uuid}" if attachment.instance_uuid else ""
    return f"attachment {attachment.id}{what}{where} ({state_of(attachment)}); delete that first"


def _new(
    step: Step, event: Event, origin: Origin, instance_uuid: str | None, mode: AttachMode
) -> Attachment:
    now = step.changes.time
    return Attachment(
        id=str(uuid.uuid4()),
        # Whoever asks: it is the volume's project that has it.
        project_id=step.volume.project_id,
        volume_id=step.volume.id,
        instance_uuid=instance_uuid,
        attached_host=None,
        mountpoint=None,
        attach_time=None,
        detach_time=None,
        attach_status=STATUSES[after(State.NONE, event)],
        attach_mode=mode,
        connector=None,
        connection_info=None,
        create_time=now,
        update_time=now,
        origin=origin,
    )


def _by(attachment: Attachment, connector: Connector) -> Attachment:
    """CONNECTING, by that connector."""
    return replace(
        attachment,
        connector=connector,
        connection_info=None,
        attached_host=_text(connector, "host"),
        mountpoint=_text(connector, "mountpoint") or attachment.mountpoint,
        attach_time=None,
        lease_end_time=None,
    )


def without_connector(attachment: Attachment) -> Attachment:
    return replace(
        attachment,
        connector=None,
        connection_info=None,
        attached_host=None,
        attach_time=None,
    )


def _text(connector: Connector, key: str) -> str | None:
    found = connector.get(key)
    return str(found) if found else None
