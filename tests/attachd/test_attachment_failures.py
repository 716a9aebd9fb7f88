"""What is left when a storage host refuses, is late, or falls silent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from attachd import errors
from attachd.model import AttachStatus, VolumeStatus
from attachd.transitions import State, state_of
from tests.attachd.faults import Fault, broken, late_done, late_undone, refused
from tests.attachd.site import CALLER, Site, connector
from tests.attachd.test_attachments import in_use, log_in, sessions

FAULTS = {
    "refused": (refused, errors.HostRefused),
    "late-undone": (late_undone, errors.HostUnavailable),
    "late-done": (late_done, errors.HostUnavailable),
    "broken": (broken, errors.AttachError),
}


@pytest.fixture(params=["create_export", "initialize_connection"])
def step(request: pytest.FixtureRequest) -> str:
    """The call to the storage host that fails."""
    return str(request.param)


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param][0]


@pytest.fixture
def error(request: pytest.FixtureRequest, fault: Fault) -> type[errors.AttachError]:
    """What the caller gets."""
    return next(error for other, error in FAULTS.values() if other is fault)


def peer(site: Site, volume_id: str) -> Callable[[], None]:
    """Another host that is logged in; returns what sees that it was not harmed."""
    other = in_use(site, volume_id, "peer")
    assert log_in(site, other, "peer")

    def check() -> None:
        assert sessions(site, other.id, volume_id)

    return check


# Attaching


@pytest.mark.parametrize("shared", [False, True])
def test_a_failed_attach_leaves_nothing_of_itself_and_peers_alone(
    site: Site, step: str, fault: Fault, error: type[errors.AttachError], shared: bool
) -> None:
    volume_id = site.volume(multiattach=shared)
    unharmed = peer(site, volume_id) if shared else lambda: None
    before = site.record(volume_id)
    site.forget_targets()
    site.service.drivers.faults[step].append(fault)
    with pytest.raises(error, match="storage host one"):
        site.service.attachments.create(CALLER, volume_id, connector=connector())
    unharmed()
    after = site.record(volume_id)
    assert (after.attachments, after.status) == (before.attachments, before.status)
    site.agree(volume_id)
    # And the next one is not disturbed by it.
    site.service.attachments.create(CALLER, volume_id, connector=connector())
    site.agree(volume_id)


def test_a_failed_attach_of_a_reservation_leaves_the_reservation(
    site: Site, step: str, fault: Fault, error: type[errors.AttachError]
) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id)
    site.service.drivers.faults[step].append(fault)
    with pytest.raises(error):
        site.service.attachments.update(CALLER, made.id, connector())
    left = site.service.attachments.get(CALLER, made.id)
    assert state_of(left) is State.RESERVED
    assert (left.connector, left.connection_info, left.attached_host) == (None, None, None)
    assert left.lease_end_time is not None
    site.agree(volume_id)
    site.service.attachments.update(CALLER, made.id, connector())
    site.agree(volume_id)


def test_a_refusal_by_the_host_itself_has_its_words(site: Site) -> None:
    volume_id = site.volume()
    with pytest.raises(errors.Invalid, match="initiator"):
        site.service.attachments.create(
            CALLER, volume_id, connector=connector(initiator="nonsense")
        )
    assert site.record(volume_id).attachments == ()
    site.agree(volume_id)


def test_a_stranger_on_the_storage_host_is_refused_and_stays(site: Site) -> None:
    # Somebody uses the volume past attachd.
    volume_id = site.volume()
    site.driver.create_export(None, {"id": volume_id})
    site.driver.initialize_connection({"id": volume_id}, connector("b"), "stranger")
    with pytest.raises(errors.HostRefused, match="stranger"):
        site.service.attachments.create(CALLER, volume_id, connector=connector("a"))
    assert set(site.connections(volume_id)) == {"stranger"}
    assert site.record(volume_id).attachments == ()


@pytest.mark.parametrize("late", [late_undone, late_done])
@pytest.mark.parametrize("shared", [False, True])
def test_a_host_that_falls_silent_leaves_no_access_that_no_record_explains(
    site: Site, late: Fault, shared: bool
) -> None:
    volume_id = site.volume(multiattach=shared)
    unharmed = peer(site, volume_id) if shared else lambda: None
    faults = site.service.drivers.faults
    faults["initialize_connection"].append(late)
    faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        site.service.attachments.create(CALLER, volume_id, connector=connector())
    (left,) = [one for one in site.record(volume_id).attachments if one.attach_time is None]
    assert left.attach_status is AttachStatus.ERROR_ATTACHING
    assert left.id in str(unknown.value)
    assert "no answer" in left.reason
    assert left.connection_info is None
    # Still silent.
    faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.settle()
    assert site.attachment(left.id) is not None
    site.service.settle()
    assert site.attachment(left.id) is None
    unharmed()
    site.agree(volume_id)


def test_a_reservation_comes_back_when_the_host_does(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id)
    faults = site.service.drivers.faults
    faults["initialize_connection"].append(late_done)
    faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.update(CALLER, made.id, connector())
    assert set(site.connections(volume_id)) == {made.id}
    site.service.settle()
    assert state_of(site.service.attachments.get(CALLER, made.id)) is State.RESERVED
    site.agree(volume_id)


@pytest.mark.parametrize("way", ["update", "delete"])
def test_an_attach_with_unknown_outcome_can_be_tried_again_or_given_up(
    site: Site, way: str
) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id)
    faults = site.service.drivers.faults
    faults["initialize_connection"].append(late_done)
    faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.update(CALLER, made.id, connector("a"))
    if way == "update":
        # By another host: what the first may have got is taken away before.
        site.service.attachments.update(CALLER, made.id, connector("b"))
        assert site.acls(volume_id) == {connector("b")["initiator"]}
    else:
        site.service.attachments.delete(CALLER, made.id)
    site.agree(volume_id)


@pytest.mark.parametrize("late", [late_undone, late_done])
def test_a_repeated_connect_that_fails_takes_nothing_away(site: Site, late: Fault) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    assert log_in(site, made)
    site.service.drivers.faults["initialize_connection"].append(late)
    with pytest.raises(errors.HostUnavailable):
        site.service.attachments.update(CALLER, made.id, connector())
    assert sessions(site, made.id, volume_id)
    site.agree(volume_id)


# Moving


def test_a_move_that_is_refused_leaves_a_reservation(
    site: Site, step: str, fault: Fault, error: type[errors.AttachError]
) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    site.forget_targets()
    site.service.drivers.faults[step].append(fault)
    with pytest.raises(error):
        site.service.attachments.update(CALLER, made.id, connector("b"))
    assert state_of(site.service.attachments.get(CALLER, made.id)) is State.RESERVED
    site.agree(volume_id)


@pytest.mark.parametrize("late", [late_undone, late_done])
def test_a_move_gives_nothing_before_the_old_access_is_seen_gone(site: Site, late: Fault) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    faults = site.service.drivers.faults
    faults["terminate_connection"].extend([late, late_undone])
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.update(CALLER, made.id, connector("b"))
    assert "initialize_connection" not in site.service.drivers.calls[-2:]
    assert connector("b")["initiator"] not in site.acls(volume_id)
    assert site.service.attachments.get(CALLER, made.id).attach_status == "error_attaching"
    site.service.settle()
    assert state_of(site.service.attachments.get(CALLER, made.id)) is State.RESERVED
    site.agree(volume_id)


# Detaching


@pytest.mark.parametrize("late", [late_undone, late_done, broken])
@pytest.mark.parametrize("retried", [True, False])
def test_a_removal_goes_on_until_it_is_seen(site: Site, late: Fault, retried: bool) -> None:
    volume_id = site.volume(multiattach=True)
    unharmed = peer(site, volume_id)
    made = in_use(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late)
    with pytest.raises(errors.OutcomeUnknown, match=made.id):
        site.service.attachments.delete(CALLER, made.id)
    left = site.service.attachments.get(CALLER, made.id)
    assert left.attach_status is AttachStatus.ERROR_DETACHING
    assert left.reason
    if retried:
        site.service.attachments.delete(CALLER, made.id)
    else:
        site.service.settle()
    assert site.attachment(made.id) is None
    unharmed()
    site.agree(volume_id)


def test_a_detached_volume_is_not_available_before_the_host_has_answered(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.delete(CALLER, made.id)
    assert site.status(volume_id) is VolumeStatus.DETACHING
    with pytest.raises(errors.InUse, match=made.id):
        site.service.attachments.create(CALLER, volume_id, connector=connector("b"))


@pytest.mark.parametrize("late", [late_undone, late_done])
def test_a_target_that_stays_does_not_keep_what_failed(site: Site, late: Fault) -> None:
    volume_id = site.volume()
    site.service.drivers.faults["initialize_connection"].append(refused)
    site.service.drivers.faults["remove_export"].append(late)
    with pytest.raises(errors.HostRefused):
        site.service.attachments.create(CALLER, volume_id, connector=connector())
    assert site.record(volume_id).attachments == ()
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    assert not site.connections(volume_id)


def test_a_volume_that_the_host_has_not_can_be_detached(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    site.driver.terminate_connection({"id": volume_id}, None, force=True)
    site.driver.remove_export(None, {"id": volume_id})
    site.driver.volumes.delete(volume_id)
    site.service.attachments.delete(CALLER, made.id)
    assert site.attachment(made.id) is None


# The database


@contextmanager
def full_disk(site: Site, which: int) -> Iterator[None]:
    """The n-th transaction from now is not committed."""
    seen = 0

    def commit(_connection: object) -> None:
        nonlocal seen
        seen += 1
        if seen == which:
            error = sqlite3.OperationalError("database or disk is full")
            raise OperationalError("COMMIT", (), error)

    event.listen(site.database.engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(site.database.engine, "commit", commit)


@pytest.mark.parametrize("which", [1, 2])
def test_an_attach_that_cannot_be_recorded_is_undone(site: Site, which: int) -> None:
    volume_id = site.volume(multiattach=True)
    unharmed = peer(site, volume_id)
    with (
        full_disk(site, which),
        pytest.raises(errors.RecordsUnavailable, match="disk is full"),
    ):
        site.service.attachments.create(CALLER, volume_id, connector=connector())
    # There was a record before there was access.
    recorded = {one.id for one in site.record(volume_id).attachments}
    assert set(site.connections(volume_id)) <= recorded
    assert site.record(volume_id).claim is None
    site.service.settle()
    assert len(site.record(volume_id).attachments) == 1
    unharmed()
    site.agree(volume_id)


@pytest.mark.parametrize("which", [1, 2])
def test_a_removal_that_cannot_be_recorded_is_gone_on_with(site: Site, which: int) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    with full_disk(site, which), pytest.raises(errors.RecordsUnavailable):
        site.service.attachments.delete(CALLER, made.id)
    site.service.settle()
    assert (site.attachment(made.id) is None) == (which == 2)
    site.agree(volume_id)
