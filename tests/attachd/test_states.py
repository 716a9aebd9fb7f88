"""Every attachment call in every state does what the table says, on a real targetd."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from attachd import errors
from attachd.model import Attachment
from attachd.transitions import GRANTED, STATUSES, TRANSITIONS, UNFINISHED, Event, State, state_of
from tests.attachd.faults import Killed, killed_before, late_undone
from tests.attachd.site import CALLER, LEASE_SECONDS, Site, connector
from tests.attachd.test_attachments import in_use

STATES = sorted(set(STATUSES) - {State.GONE})


def connected(site: Site, volume_id: str) -> Attachment:
    made = site.service.attachments.create(CALLER, volume_id)
    return site.service.attachments.update(CALLER, made.id, connector())


def connecting(site: Site, volume_id: str) -> Attachment:
    made = site.service.attachments.create(CALLER, volume_id)
    site.service.drivers.faults["create_export"].append(killed_before)
    with pytest.raises(Killed):
        site.service.attachments.update(CALLER, made.id, connector())
    site.restart()
    return made


def detaching(site: Site, volume_id: str) -> Attachment:
    made = in_use(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(killed_before)
    with pytest.raises(Killed):
        site.service.attachments.delete(CALLER, made.id)
    site.restart()
    return made


def disconnected(site: Site, volume_id: str) -> Attachment:
    actions = site.service.actions
    actions.reserve(CALLER, volume_id)
    actions.initialize_connection(CALLER, volume_id, connector())
    actions.attach(CALLER, volume_id, instance_uuid=None, host_name="a", mountpoint=None, mode=None)
    actions.terminate_connection(CALLER, volume_id, connector())
    return site.record(volume_id).attachments[0]


def error_attaching(site: Site, volume_id: str) -> Attachment:
    made = site.service.attachments.create(CALLER, volume_id)
    for call in ("initialize_connection", "terminate_connection"):
        site.service.drivers.faults[call].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.update(CALLER, made.id, connector())
    return made


def error_detaching(site: Site, volume_id: str) -> Attachment:
    made = in_use(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.delete(CALLER, made.id)
    return made


MADE: dict[State, Callable[[Site, str], Attachment]] = {
    State.RESERVED: lambda site, volume_id: site.service.attachments.create(CALLER, volume_id),
    State.CONNECTING: connecting,
    State.CONNECTED: connected,
    State.ATTACHED: in_use,
    State.DETACHING: detaching,
    State.DISCONNECTED: disconnected,
    State.ERROR_ATTACHING: error_attaching,
    State.ERROR_DETACHING: error_detaching,
}
# What each call is to an attachment, and what the storage host makes of it.
CALLS: dict[str, tuple[Event, ...]] = {
    "update, same host": (Event.CONNECT, Event.GRANTED),
    "update, other host": (Event.CONNECT, Event.GRANTED),
    "complete": (Event.COMPLETE,),
    "delete": (Event.REMOVE, Event.REMOVED),
}


def call(site: Site, name: str, attachment_id: str) -> object:
    attachments = site.service.attachments
    if name == "complete":
        attachments.complete(CALLER, attachment_id)
        return None
    if name == "delete":
        return attachments.delete(CALLER, attachment_id)
    host = "a" if name == "update, same host" else "b"
    return attachments.update(CALLER, attachment_id, connector(host))


def expected(state: State, name: str) -> State | None:
    """None: it is refused."""
    events = CALLS[name]
    if name == "update, same host" and state in GRANTED:
        events = (Event.RENEW,)
    to: State | None = TRANSITIONS.get((state, events[0]))
    for event in events[1:]:
        # Without access there is nothing that the storage host would have to do.
        if to not in (None, State.GONE):
            to = TRANSITIONS[to, event]
    return to


def found_in(site: Site, attachment_id: str) -> State:
    found = site.attachment(attachment_id)
    return State.GONE if found is None else state_of(found)


@pytest.mark.parametrize(("state", "name"), list(product(STATES, CALLS)))
def test_a_call_in_a_state(site: Site, state: State, name: str) -> None:
    volume_id = site.volume()
    made = MADE[state](site, volume_id)
    assert found_in(site, made.id) is state
    before = site.record(volume_id)
    to = expected(state, name)
    if to is None:
        with pytest.raises(errors.WrongStatus, match=made.id):
            call(site, name, made.id)
        assert site.record(volume_id).attachments == before.attachments
        return
    call(site, name, made.id)
    assert found_in(site, made.id) is to
    site.agree(volume_id)


@pytest.mark.parametrize("state", STATES)
def test_the_reconciler_in_a_state(site: Site, state: State) -> None:
    volume_id = site.volume()
    made = MADE[state](site, volume_id)
    found = site.attachment(made.id)
    assert found is not None
    unfinished = [one.id for one in site.service.records.unfinished_attachments("one")]
    assert (unfinished == [made.id]) == (state in UNFINISHED)
    assert site.service.settling.finish(found) == (state in UNFINISHED)
    if state in UNFINISHED:
        # All of them were reserved before, or were being removed.
        undone = state in (State.CONNECTING, State.ERROR_ATTACHING)
        assert found_in(site, made.id) is (State.RESERVED if undone else State.GONE)
        site.agree(volume_id)
    else:
        assert found_in(site, made.id) is state


@pytest.mark.parametrize("state", STATES)
def test_time_passes_in_a_state(site: Site, state: State) -> None:
    volume_id = site.volume()
    made = MADE[state](site, volume_id)
    found = site.attachment(made.id)
    assert found is not None
    site.clock.pass_by(2 * LEASE_SECONDS)
    expires = (state, Event.EXPIRED) in TRANSITIONS
    assert site.service.settling.expire(found) == expires
    assert found_in(site, made.id) is (State.GONE if expires else state)
