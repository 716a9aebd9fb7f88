"""The volume's actions: attach and detach in six calls (V1 of the field).

Their callers know no attachment ids. Each call finds the record that it is about: a reservation
that no connector has yet, then the initiator's. All steps are those of the attachment calls, on the
same records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from targetd_driver import DriverError

from attachd import rules
from attachd.claims import Claim, Claims, Step
from attachd.connecting import Connecting
from attachd.errors import InUse, Invalid, NotAllowed, WrongStatus, of_driver
from attachd.grants import Drivers, Grants, checked, initiator_of
from attachd.model import (
    Attachment,
    AttachMode,
    Caller,
    ConnectionInfo,
    Connector,
    Origin,
    VolumeStatus,
)
from attachd.sealing import Sealing
from attachd.transitions import (
    GRANTED,
    WITHOUT_ACCESS,
    Event,
    State,
    detach_begun,
    state_of,
)


class Actions:
    """Safe for use by several threads. Every call raises NotFound, Busy, and what it says."""

    def __init__(
        self,
        claims: Claims,
        hosts: Drivers,
        connecting: Connecting,
        sealing: Sealing,
        leases: rules.Leases,
    ) -> None:
        self._claims = claims
        self._hosts = hosts
        self._connecting = connecting
        self._sealing = sealing
        self._leases = leases

    # Attaching

    def reserve(self, caller: Caller, volume_id: str) -> None:
        """Raises WrongStatus."""
        with self._claims.once(volume_id, "reserve", caller) as step:
            rules.reserve(step, Origin.ACTIONS, self._leases, None, AttachMode.READ_WRITE)

    def unreserve(self, caller: Caller, volume_id: str) -> None:
        """Give up an attach that was begun, wherever it is; without one this does nothing.

        Of several on a multiattach volume the newest that is not connected yet, then the newest.
        Raises OutcomeUnknown when the storage host did not say that no access is left.
        """
        with self._claims.hold(volume_id, "unreserve", caller) as claim:
            self._remove(claim, _begun)

    def initialize_connection(
        self, caller: Caller, volume_id: str, connector: Connector
    ) -> ConnectionInfo:
        """Connect what was reserved; by an initiator that has access: the same answer again.

        Nested, as the field's drivers answer: driver_volume_type, and the properties as data, with
        the secret. While a detach is begun the answer is the recorded one, and the storage host is
        not asked: the attaching host needs it to let go.

        Raises Invalid; WrongStatus without a reservation; InUse; what the storage host refused,
        after which the volume is reserved again; OutcomeUnknown.
        """
        connector = checked(connector)
        with self._claims.hold(volume_id, "attach", caller) as claim:
            with claim.begin() as step:
                before = _to_connect(step, connector)
                if detach_begun(step.volume.status, step.attachments.values()):
                    step.is_last = True
                    return _nested(self._recorded(step, before))
                grants = self._grants(step)
                renews = rules.may_renew(before, connector)
                if not renews:
                    connecting = rules.connect(step, before, connector)
            if renews:
                renewed = replace(before, connector=connector)
                found = self._connecting.renew(claim, grants, renewed)
            else:
                moved = state_of(before) is not State.RESERVED
                found = self._connecting.connect(claim, grants, connecting, moved)
        assert found.connection_info is not None
        return _nested(found.connection_info)

    def _recorded(self, step: Step, attachment: Attachment) -> ConnectionInfo:
        masked = attachment.connection_info
        sealed = step.changes.sealed_secrets(attachment.id)
        assert masked is not None and sealed is not None
        return self._sealing.opened(attachment.id, masked, sealed)

    def attach(
        self,
        caller: Caller,
        volume_id: str,
        *,
        instance_uuid: str | None,
        host_name: str | None,
        mountpoint: str | None,
        mode: AttachMode | None,
    ) -> None:
        """Its host uses what was connected: the volume is in-use.

        Raises WrongStatus when nothing is connected; Invalid for a mode that the connection is not
        of, since initialize_connection cannot be asked for one.
        """
        if not instance_uuid and not host_name:
            raise Invalid("instance_uuid or host_name: one of them must say what it is attached to")
        with self._claims.once(volume_id, "attach", caller) as step:
            before = _to_complete(step, instance_uuid, host_name)
            if mode is not None and mode is not before.attach_mode:
                raise Invalid(
                    f"mode: volume {volume_id} is connected {before.attach_mode}; for {mode} use "
                    f"the attachment calls: attachment-create with mode {mode}"
                )
            completed = rules.next_status(before, Event.COMPLETE)
            if completed != before:
                completed = replace(
                    completed,
                    instance_uuid=instance_uuid,
                    attached_host=host_name or before.attached_host,
                    mountpoint=mountpoint or before.mountpoint,
                    attach_time=step.changes.time,
                )
                step.replace(completed)
                rules.derive(step)

    # Detaching

    def begin_detaching(self, caller: Caller, volume_id: str) -> None:
        """Raises WrongStatus unless the volume is in-use."""
        with self._claims.once(volume_id, "detach", caller) as step:
            if step.volume.status is not VolumeStatus.IN_USE:
                raise _not(step, "in-use, so there is nothing to detach")
            step.set_status(VolumeStatus.DETACHING)

    def roll_detaching(self, caller: Caller, volume_id: str) -> None:
        """Raises WrongStatus unless begin_detaching was called, and nothing more."""
        with self._claims.once(volume_id, "detach", caller) as step:
            if not detach_begun(step.volume.status, step.attachments.values()):
                raise _not(step, "detaching with its access still there")
            rules.derive(step, detach_ended=True)

    def terminate_connection(
        self, caller: Caller, volume_id: str, connector: Connector | None, force: bool = False
    ) -> None:
        """Take the initiator's access away; without any this does nothing.

        What was attached waits for ``detach`` then, what was not is reserved again. With ``force``
        and no connector: all that was connected by actions. Raises Invalid; InUse for an attachment
        of the attachment calls; OutcomeUnknown.
        """
        initiator = initiator_of(connector)
        if not initiator and not force:
            raise Invalid('connector: has no "initiator"; without one only with force')
        with self._claims.hold(volume_id, "detach", caller) as claim:
            with claim.begin() as step:
                found = _to_disconnect(step, initiator)
                if not found:
                    step.is_last = True
                    return
                grants = self._grants(step)
                going = [_disconnecting(step, one) for one in found]
                rules.derive(step)
            self._connecting.disconnect(claim, grants, going)

    def detach(self, caller: Caller, volume_id: str, attachment_id: str | None = None) -> None:
        """The record goes, and access, where there still is any.

        Raises Invalid when there are several and none is named; OutcomeUnknown.
        """
        with self._claims.hold(volume_id, "detach", caller) as claim:
            self._remove(claim, lambda step: _to_detach(step, attachment_id))

    def force_detach(
        self,
        caller: Caller,
        volume_id: str,
        attachment_id: str | None = None,
        connector: Connector | None = None,
    ) -> None:
        """Of an admin: end the attachment, or those of the initiator, or all there are.

        In whatever status they and the volume are; and where there is no record, access is taken
        away nevertheless. Raises NotAllowed; OutcomeUnknown.
        """
        if not caller.is_admin:
            raise NotAllowed("force_detach is for admins; detach needs no force")
        initiator = initiator_of(connector)
        with self._claims.hold(volume_id, "force detach", caller) as claim:
            removed = self._remove(claim, lambda step: _to_force(step, attachment_id, initiator))
            if removed or attachment_id is not None:
                return
            with claim.begin() as step:
                grants = self._grants(step)
            try:
                grants.take_all(connector if initiator else None)
            except DriverError as error:
                raise of_driver(error, grants.host) from error
            with claim.end():
                pass

    def _remove(self, claim: Claim, wanted: Callable[[Step], Sequence[Attachment]]) -> bool:
        """Returns whether there was any."""
        with claim.begin() as step:
            found = wanted(step)
            removing = rules.remove(step, found)
            grants = self._grants(step) if removing else None
        if grants is not None:
            self._connecting.remove(claim, grants, removing)
        return bool(found)

    def _grants(self, step: Step) -> Grants:
        return Grants(self._hosts, step.volume)


# Which record a call is about

CONNECTABLE = frozenset({State.CONNECTING, State.ERROR_ATTACHING})
BEGUN = CONNECTABLE | {State.CONNECTED}
ENDING = frozenset({State.DETACHING, State.ERROR_DETACHING})


def _to_connect(step: Step, connector: Connector) -> Attachment:
    initiator = initiator_of(connector)
    own = [one for one in _in(step, GRANTED) if initiator_of(one.connector) == initiator]
    # A repeated call comes before a second attachment of the same host.
    connected = [one for one in _by_action(own) if state_of(one) is State.CONNECTED]
    if detach_begun(step.volume.status, step.attachments.values()):
        reserved, interrupted = [], []
    else:
        reserved = _by_action(_in(step, {State.RESERVED}))
        interrupted = _by_action(_in(step, CONNECTABLE))
    for found in (*connected, *reserved, *interrupted, *_by_action(own), *own):
        return found
    raise _not(step, "reserved, nor connected by this initiator; call reserve first")


def _to_complete(step: Step, instance_uuid: str | None, host_name: str | None) -> Attachment:
    connected = _by_action(_in(step, {State.CONNECTED}))
    of_host = [one for one in connected if one.attached_host == host_name]
    again = [
        one
        for one in _by_action(_in(step, {State.ATTACHED}))
        if one.instance_uuid == instance_uuid and host_name in (None, one.attached_host)
    ]
    for found in (*of_host, *connected, *again):
        return found
    raise _not(step, "connected; call initialize_connection first")


def _begun(step: Step) -> list[Attachment]:
    """What unreserve ends."""
    reserved = _by_action(_in(step, {State.RESERVED}))
    return (reserved or _by_action(_in(step, BEGUN)))[-1:]


def _to_disconnect(step: Step, initiator: str) -> list[Attachment]:
    having = [
        one
        for one in step.attachments.values()
        if state_of(one) not in WITHOUT_ACCESS
        and (not initiator or initiator_of(one.connector) == initiator)
    ]
    ours = [one for one in having if one.origin is Origin.ACTIONS or state_of(one) in ENDING]
    if having and not ours:
        raise InUse(
            f"volume {step.volume.id} is connected there by attachment {having[0].id} of the "
            "attachment calls; delete that"
        )
    if not initiator:
        return ours
    # One of them: others of that initiator keep its access.
    begun = [one for one in ours if state_of(one) in BEGUN]
    ending = [one for one in ours if state_of(one) in ENDING]
    attached = [one for one in ours if state_of(one) is State.ATTACHED]
    if detach_begun(step.volume.status, step.attachments.values()):
        return [*ending, *attached, *reversed(begun)][:1]
    return [*reversed(begun), *ending, *attached][:1]


def _disconnecting(step: Step, attachment: Attachment) -> Attachment:
    going = rules.next_status(attachment, Event.DISCONNECT)
    if state_of(attachment) in BEGUN:
        # To be taken back: it has no information, as one that is being connected.
        going = replace(going, connection_info=None)
    return step.replace(going)


def _to_detach(step: Step, attachment_id: str | None) -> list[Attachment]:
    if attachment_id is not None:
        return [step.attachment(attachment_id)]
    found = [one for one in step.attachments.values() if state_of(one) is not State.RESERVED]
    # What waits for this very call.
    waiting = [one for one in found if state_of(one) is State.DISCONNECTED]
    if len(found) > 1 and len(waiting) != 1:
        ids = ", ".join(one.id for one in found)
        raise Invalid(f"attachment_id: volume {step.volume.id} has several, name one of {ids}")
    return waiting or found


def _to_force(step: Step, attachment_id: str | None, initiator: str) -> list[Attachment]:
    if attachment_id is not None:
        return [step.attachment(attachment_id)]
    return [
        one
        for one in step.attachments.values()
        if not initiator or initiator_of(one.connector) == initiator
    ]


def _in(step: Step, states: Iterable[State]) -> list[Attachment]:
    """By age."""
    wanted = frozenset(states)
    return [one for one in step.attachments.values() if state_of(one) in wanted]


def _by_action(attachments: Iterable[Attachment]) -> list[Attachment]:
    return [one for one in attachments if one.origin is Origin.ACTIONS]


def _not(step: Step, what: str) -> WrongStatus:
    return WrongStatus(f"volume {step.volume.id} is {step.volume.status}, not {what}")


def _nested(info: ConnectionInfo) -> ConnectionInfo:
    data = {key: value for key, value in info.items() if key != "driver_volume_type"}
    return {"driver_volume_type": info["driver_volume_type"], "data": data}
