"""The state machine, and the page that says what it is."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from attachd.errors import WrongStatus
from attachd.model import Attachment, AttachMode, AttachStatus, Origin, VolumeStatus
from attachd.transitions import (
    DERIVED,
    GRANTED,
    STATUSES,
    TRANSITIONS,
    UNFINISHED,
    WITHOUT_ACCESS,
    Event,
    State,
    after,
    state_of,
    status_by,
    volume_status,
)

PAGE = Path(__file__).parents[2] / "docs" / "attachments.md"
CONNECTED_BY = {"initiator": "iqn.2026-01.org.example:a"}
INFO = {"driver_volume_type": "iscsi"}


def attachment(state: State, origin: Origin = Origin.RESERVATION) -> Attachment:
    """A record in that state."""
    now = datetime.now(UTC)
    with_access = state not in WITHOUT_ACCESS
    return Attachment(
        id="id",
        project_id="project",
        volume_id="volume",
        instance_uuid=None,
        attached_host=None,
        mountpoint=None,
        attach_time=None,
        detach_time=None,
        attach_status=STATUSES[state],
        attach_mode=AttachMode.READ_WRITE,
        connector=CONNECTED_BY if with_access else None,
        connection_info=INFO if state in GRANTED else None,
        create_time=now,
        update_time=now,
        origin=origin,
    )


def documented() -> dict[tuple[State, Event], State]:
    found = {}
    events: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"\|", line)[1:-1]]
        if cells[:1] == ["from"]:
            events = cells[1:]
        elif not cells:
            events = []
        elif events and not cells[0].startswith("-"):
            for event, cell in zip(events, cells[1:], strict=True):
                if cell:
                    found[State(cells[0]), Event(event)] = State(cell)
    return found


def test_the_page_has_the_same_table() -> None:
    assert documented() == TRANSITIONS


def test_the_page_says_what_clients_see() -> None:
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    expected = {state: status for state, status in STATUSES.items() if state is not State.GONE}
    assert {State(state): AttachStatus(status) for state, status in rows} == expected


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_transition_is_in_the_table_or_refused(state: State, event: Event) -> None:
    expected = TRANSITIONS.get((state, event))
    if expected is not None:
        assert after(state, event) is expected
        return
    with pytest.raises(WrongStatus) as refused:
        after(state, event, "some-id")
    assert "some-id" in str(refused.value)
    assert str(state) in str(refused.value)
    assert str(event) in str(refused.value)


def test_a_refusal_says_what_is_possible() -> None:
    with pytest.raises(WrongStatus, match=r"possible is: connect, remove$"):
        after(State.RESERVED, Event.COMPLETE)
    with pytest.raises(WrongStatus, match=r"possible is: nothing$"):
        after(State.GONE, Event.REMOVE)


def test_every_state_is_reached_and_ends() -> None:
    reached = {State.NONE}
    while (more := {to for (state, _), to in TRANSITIONS.items() if state in reached}) - reached:
        reached |= more
    assert reached == set(State)
    ending = {State.GONE}
    while (more := {state for (state, _), to in TRANSITIONS.items() if to in ending}) - ending:
        ending |= more
    assert ending == set(State)


def test_what_may_have_access_is_not_gone_before_the_host_was_asked() -> None:
    # From where there may be access, only what came of asking the host leads to where there is
    # none.
    asked = {Event.UNDONE, Event.DROPPED, Event.REVOKED, Event.REMOVED}
    for (state, event), to in TRANSITIONS.items():
        if state not in WITHOUT_ACCESS and to in WITHOUT_ACCESS:
            assert event in asked, (state, event)


@pytest.mark.parametrize("state", sorted(STATUSES))
def test_a_record_is_in_one_state(state: State) -> None:
    assert state_of(attachment(state)) is state


def test_each_state_has_access_or_has_not_or_is_unfinished() -> None:
    parts = [WITHOUT_ACCESS, UNFINISHED, GRANTED]
    assert sorted(state for part in parts for state in part) == sorted(State)


# Volumes

ATTACHED, CONNECTED, RESERVED = (
    attachment(state) for state in (State.ATTACHED, State.CONNECTED, State.RESERVED)
)
BY_ACTION = attachment(State.RESERVED, Origin.ACTIONS)
ENDING = [
    attachment(state)
    for state in (
        State.DETACHING,
        State.DISCONNECTED,
        State.ERROR_ATTACHING,
        State.ERROR_DETACHING,
    )
]


@pytest.mark.parametrize(
    ("attachments", "expected"),
    [
        ([], VolumeStatus.AVAILABLE),
        ([RESERVED], VolumeStatus.RESERVED),
        ([BY_ACTION], VolumeStatus.ATTACHING),
        ([RESERVED, attachment(State.CONNECTING)], VolumeStatus.ATTACHING),
        ([RESERVED, CONNECTED], VolumeStatus.ATTACHING),
        ([RESERVED, CONNECTED, ATTACHED], VolumeStatus.IN_USE),
        *(([one], VolumeStatus.DETACHING) for one in ENDING),
        ([*ENDING, RESERVED], VolumeStatus.RESERVED),
        ([*ENDING, ATTACHED], VolumeStatus.IN_USE),
    ],
)
def test_attachments_make_the_volumes_status(
    attachments: list[Attachment], expected: VolumeStatus
) -> None:
    assert status_by(attachments) is expected
    assert status_by(attachments[::-1]) is expected
    assert volume_status(VolumeStatus.AVAILABLE, attachments) is expected


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - DERIVED))
def test_a_volume_at_work_or_broken_keeps_its_status(status: VolumeStatus) -> None:
    for attachments in ([], [ATTACHED]):
        assert volume_status(status, attachments, detach_ended=True) is status


def test_begin_detaching_shows_until_the_detach_ends() -> None:
    detaching = VolumeStatus.DETACHING
    assert volume_status(detaching, [ATTACHED, CONNECTED]) is detaching
    assert volume_status(detaching, [ATTACHED], detach_ended=True) is VolumeStatus.IN_USE
    # None is attached: nothing that began is left.
    assert volume_status(detaching, [RESERVED]) is VolumeStatus.RESERVED


def test_history_is_gone() -> None:
    detached = replace(RESERVED, attach_status=AttachStatus.DETACHED)
    assert state_of(detached) is State.GONE
