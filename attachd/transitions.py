"""The one state machine of attachments, under both kinds of calls: docs/attachments.md.

Clients know fewer statuses than there are states: "attaching" is an attachment that is being
connected, and one that is connected and not yet completed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from attachd.errors import WrongStatus
from attachd.model import Attachment, AttachStatus, Origin, VolumeStatus


class State(StrEnum):
    # There is no attachment yet.
    NONE = "none"
    RESERVED = "reserved"
    # Access is being given or, when nobody is at work on it, to be taken back.
    CONNECTING = "connecting"
    # Has access; its host has not yet said that it uses it.
    CONNECTED = "connected"
    ATTACHED = "attached"
    # Access is being taken away.
    DETACHING = "detaching"
    # Access was taken away by terminate_connection; the record waits for detach.
    DISCONNECTED = "disconnected"
    ERROR_ATTACHING = "error_attaching"
    ERROR_DETACHING = "error_detaching"
    # The record is history.
    GONE = "gone"


class Event(StrEnum):
    # By calls
    RESERVE = "reserve"
    CONNECT = "connect"
    # Connect once more, by the same initiator.
    RENEW = "renew"
    COMPLETE = "complete"
    DISCONNECT = "disconnect"
    REMOVE = "remove"
    # By what came of them
    GRANTED = "granted"
    # No access is left, and the attachment had been reserved before.
    UNDONE = "undone"
    # No access is left, and the attachment had been made with its connector.
    DROPPED = "dropped"
    # No access is left, and detach is to come.
    REVOKED = "revoked"
    REMOVED = "removed"
    # The storage host did not say that no access is left.
    UNANSWERED = "unanswered"
    # By time
    EXPIRED = "expired"


STATUSES: Mapping[State, AttachStatus] = {
    State.RESERVED: AttachStatus.RESERVED,
    State.CONNECTING: AttachStatus.ATTACHING,
    State.CONNECTED: AttachStatus.ATTACHING,
    State.ATTACHED: AttachStatus.ATTACHED,
    State.DETACHING: AttachStatus.DETACHING,
    State.DISCONNECTED: AttachStatus.DETACHING,
    State.ERROR_ATTACHING: AttachStatus.ERROR_ATTACHING,
    State.ERROR_DETACHING: AttachStatus.ERROR_DETACHING,
    State.GONE: AttachStatus.DETACHED,
}

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.NONE, Event.RESERVE): State.RESERVED,
    (State.NONE, Event.CONNECT): State.CONNECTING,
    (State.RESERVED, Event.CONNECT): State.CONNECTING,
    (State.RESERVED, Event.REMOVE): State.GONE,
    (State.RESERVED, Event.EXPIRED): State.GONE,
    (State.CONNECTING, Event.CONNECT): State.CONNECTING,
    (State.CONNECTING, Event.DISCONNECT): State.CONNECTING,
    (State.CONNECTING, Event.REMOVE): State.DETACHING,
    (State.CONNECTING, Event.GRANTED): State.CONNECTED,
    (State.CONNECTING, Event.UNDONE): State.RESERVED,
    (State.CONNECTING, Event.DROPPED): State.GONE,
    (State.CONNECTING, Event.UNANSWERED): State.ERROR_ATTACHING,
    (State.CONNECTED, Event.CONNECT): State.CONNECTING,
    (State.CONNECTED, Event.RENEW): State.CONNECTED,
    (State.CONNECTED, Event.COMPLETE): State.ATTACHED,
    (State.CONNECTED, Event.DISCONNECT): State.CONNECTING,
    (State.CONNECTED, Event.REMOVE): State.DETACHING,
    (State.ATTACHED, Event.CONNECT): State.CONNECTING,
    (State.ATTACHED, Event.RENEW): State.ATTACHED,
    (State.ATTACHED, Event.COMPLETE): State.ATTACHED,
    (State.ATTACHED, Event.DISCONNECT): State.DETACHING,
    (State.ATTACHED, Event.REMOVE): State.DETACHING,
    (State.DETACHING, Event.DISCONNECT): State.DETACHING,
    (State.DETACHING, Event.REMOVE): State.DETACHING,
    (State.DETACHING, Event.REVOKED): State.DISCONNECTED,
    (State.DETACHING, Event.REMOVED): State.GONE,
    (State.DETACHING, Event.UNANSWERED): State.ERROR_DETACHING,
    (State.DISCONNECTED, Event.REMOVE): State.GONE,
    (State.DISCONNECTED, Event.EXPIRED): State.GONE,
    (State.ERROR_ATTACHING, Event.CONNECT): State.CONNECTING,
    (State.ERROR_ATTACHING, Event.DISCONNECT): State.CONNECTING,
    (State.ERROR_ATTACHING, Event.REMOVE): State.DETACHING,
    (State.ERROR_ATTACHING, Event.UNDONE): State.RESERVED,
    (State.ERROR_ATTACHING, Event.DROPPED): State.GONE,
    (State.ERROR_ATTACHING, Event.UNANSWERED): State.ERROR_ATTACHING,
    (State.ERROR_DETACHING, Event.DISCONNECT): State.DETACHING,
    (State.ERROR_DETACHING, Event.REMOVE): State.DETACHING,
    (State.ERROR_DETACHING, Event.REVOKED): State.DISCONNECTED,
    (State.ERROR_DETACHING, Event.REMOVED): State.GONE,
    (State.ERROR_DETACHING, Event.UNANSWERED): State.ERROR_DETACHING,
}

# In these nothing of the attachment is on the storage host.
WITHOUT_ACCESS = frozenset({State.NONE, State.RESERVED, State.DISCONNECTED, State.GONE})
# In these something was begun there whose outcome no record has.
UNFINISHED = frozenset(
    {State.CONNECTING, State.DETACHING, State.ERROR_ATTACHING, State.ERROR_DETACHING}
)
# In these the storage host is to give access.
GRANTED = frozenset({State.CONNECTED, State.ATTACHED})


def state_of(attachment: Attachment) -> State:
    match attachment.attach_status:
        case AttachStatus.ATTACHING if attachment.connection_info is None:
            return State.CONNECTING
        case AttachStatus.ATTACHING:
            return State.CONNECTED
        case AttachStatus.DETACHING if attachment.connector is None:
            return State.DISCONNECTED
        case AttachStatus.DETACHED:
            return State.GONE
    return State(attachment.attach_status)


def after(state: State, event: Event, attachment_id: str = "") -> State:
    """Raises WrongStatus."""
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise WrongStatus(
            f"attachment {attachment_id} is {state}, where {event} is not possible; "
            f"possible is: {', '.join(_possible(state)) or 'nothing'}"
        )
    return found


def _possible(state: State) -> list[str]:
    calls = (Event.CONNECT, Event.RENEW, Event.COMPLETE, Event.DISCONNECT, Event.REMOVE)
    return [event for event in calls if (state, event) in TRANSITIONS]


# Of a volume

# What its attachments make of it. In all other statuses it is at work on itself, or broken.
DERIVED = frozenset(
    {
        VolumeStatus.AVAILABLE,
        VolumeStatus.RESERVED,
        VolumeStatus.ATTACHING,
        VolumeStatus.IN_USE,
        VolumeStatus.DETACHING,
    }
)


def volume_status(
    before: VolumeStatus, attachments: Collection[Attachment], detach_ended: bool = False
) -> VolumeStatus:
    """What the attachments make of a volume, where it is theirs to say.

    After begin_detaching it is "detaching" until ``detach_ended``.
    """
    if before not in DERIVED:
        return before
    if detach_begun(before, attachments) and not detach_ended:
        return before
    return status_by(attachments)


def status_by(attachments: Iterable[Attachment]) -> VolumeStatus:
    """One that is not completed does not hide those that are in use."""
    seen = {_shown(attachment) for attachment in attachments}
    for status in (VolumeStatus.IN_USE, VolumeStatus.ATTACHING, VolumeStatus.RESERVED):
        if status in seen:
            return status
    return VolumeStatus.DETACHING if seen else VolumeStatus.AVAILABLE


def _shown(attachment: Attachment) -> VolumeStatus:
    match state_of(attachment):
        case State.ATTACHED:
            return VolumeStatus.IN_USE
        case State.CONNECTING | State.CONNECTED:
            return VolumeStatus.ATTACHING
        case State.RESERVED:
            # The field's clients know a volume after the action "reserve" as attaching.
            by_action = attachment.origin is Origin.ACTIONS
            return VolumeStatus.ATTACHING if by_action else VolumeStatus.RESERVED
    return VolumeStatus.DETACHING


def detach_begun(status: VolumeStatus, attachments: Iterable[Attachment]) -> bool:
    """Whether begin_detaching was called: otherwise one that is attached makes it in-use."""
    return status is VolumeStatus.DETACHING and any(
        attachment.attach_status is AttachStatus.ATTACHED for attachment in attachments
    )
