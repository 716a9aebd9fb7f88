"""The attachment calls, on a real targetd with simulated engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from targetd_driver import TargetdDriver
from targetd_driver.connections import Connections

from attachd import errors
from attachd.grants import SHARED_SECONDS
from attachd.model import MASK, Attachment, AttachMode, AttachStatus, Origin, VolumeStatus
from attachd.transitions import State, state_of
from tests.attachd.site import ADMIN, CALLER, LEASE_SECONDS, OTHER, Site, connector

INSTANCE = "1a9b5c1e-6b0c-4f0e-9c37-2f6f3f0d2c55"


def in_use(site: Site, volume_id: str, host: str = "a") -> Attachment:
    made = site.service.attachments.create(CALLER, volume_id, connector=connector(host))
    site.service.attachments.complete(CALLER, made.id)
    return made


def log_in(site: Site, attachment: Attachment, host: str = "a") -> bool:
    assert attachment.connection_info is not None
    return site.backing.log_in(host, attachment.connection_info)


def sessions(site: Site, attachment_id: str, volume_id: str) -> bool:
    """Whether the attachment's initiator is logged in."""
    return site.driver.connections.get(volume_id, attachment_id).logged_in


# One attachment


def test_reserve_connect_complete_delete(site: Site) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    made = attachments.create(CALLER, volume_id, instance_uuid=INSTANCE)
    assert (made.attach_status, made.instance_uuid) == (AttachStatus.RESERVED, INSTANCE)
    assert site.status(volume_id) is VolumeStatus.RESERVED
    connected = attachments.update(CALLER, made.id, connector(mountpoint="/dev/vdb"))
    assert connected.attach_status is AttachStatus.ATTACHING
    assert (connected.attached_host, connected.mountpoint) == ("a", "/dev/vdb")
    assert site.status(volume_id) is VolumeStatus.ATTACHING
    site.agree(volume_id)
    attachments.complete(CALLER, made.id)
    attached = attachments.get(CALLER, made.id)
    assert attached.attach_status is AttachStatus.ATTACHED
    assert attached.attach_time is not None
    assert site.status(volume_id) is VolumeStatus.IN_USE
    site.agree(volume_id)
    deleted = attachments.delete(CALLER, made.id)
    assert (deleted.remaining, deleted.sharing) == ((), ())
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    site.agree(volume_id)
    with pytest.raises(errors.NotFound):
        attachments.delete(CALLER, made.id)


def test_connected_in_one_call_the_host_can_log_in(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id, connector=connector())
    info = made.connection_info
    assert info is not None
    assert info["driver_volume_type"] == "iscsi"
    assert (info["volume_id"], info["attachment_id"]) == (volume_id, made.id)
    assert log_in(site, made)
    site.agree(volume_id)


def test_reserving_and_giving_up_ask_no_storage_host(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id)
    site.service.attachments.delete(CALLER, made.id)
    assert site.service.drivers.calls == []
    site.agree(volume_id)


def test_the_whole_connector_is_kept(site: Site) -> None:
    wanted = connector(wwpns=["500143802426baf4"], nested={"key": None})
    made = site.service.attachments.create(CALLER, site.volume(), connector=wanted)
    assert site.service.attachments.get(CALLER, made.id).connector == wanted


def test_an_attachment_keeps_its_id_as_history(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    site.service.attachments.delete(CALLER, made.id)
    with site.database.reading() as connection:
        row = connection.execute(
            text("SELECT * FROM attachments WHERE id = :id"), {"id": made.id}
        ).one()
    assert row.attach_status == AttachStatus.DETACHED
    assert row.detach_time == row.delete_time
    assert row.sealed_secrets is None


# Secrets


def test_the_secret_is_shown_once_and_is_nowhere_else(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id, connector=connector())
    assert made.connection_info is not None
    secret = made.connection_info["auth_password"]
    assert len(secret) >= 12
    for shown in (
        site.service.attachments.get(CALLER, made.id),
        *site.record(volume_id).attachments,
    ):
        assert shown.connection_info == {**made.connection_info, "auth_password": MASK}
    with site.database.reading() as connection:
        rows = connection.execute(text("SELECT * FROM attachments")).all()
    assert secret not in repr(rows)
    assert any(row.sealed_secrets for row in rows)


def test_completing_keeps_the_secret(site: Site) -> None:
    made = in_use(site, site.volume())
    assert site.service.records.sealed_secrets(made.id) is not None


def test_what_is_repeated_gets_the_same_answer_with_the_secret(site: Site) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    made = in_use(site, volume_id)
    shouting = connector(host="other name", initiator=connector()["initiator"].upper())
    again = attachments.update(CALLER, made.id, shouting)
    assert again.connection_info == made.connection_info
    # It is not to be completed again, and says what the host is called now.
    kept = attachments.get(CALLER, made.id)
    assert kept.attach_status is AttachStatus.ATTACHED
    assert kept.connector == shouting
    assert site.status(volume_id) is VolumeStatus.IN_USE
    assert "terminate_connection" not in site.service.drivers.calls


# Moving


def test_a_move_takes_the_old_access_away_first(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    assert log_in(site, made)
    site.service.drivers.calls.clear()
    moved = site.service.attachments.update(CALLER, made.id, connector("b"))
    assert site.service.drivers.calls == [
        "validate_connector",
        "terminate_connection",
        "initialize_connection",
    ]
    assert (moved.id, moved.attached_host) == (made.id, "b")
    assert moved.attach_time is None
    assert site.acls(volume_id) == {connector("b")["initiator"]}
    assert not log_in(site, made)
    assert log_in(site, moved, "b")
    # To be completed again.
    assert site.status(volume_id) is VolumeStatus.ATTACHING
    site.agree(volume_id)


def test_a_target_is_made_once_and_again_when_it_has_gone(site: Site) -> None:
    volume_id = site.volume()
    calls = site.service.drivers.calls
    site.service.attachments.delete(CALLER, in_use(site, volume_id).id)
    calls.clear()
    site.service.attachments.delete(CALLER, in_use(site, volume_id).id)
    assert calls == ["initialize_connection", "terminate_connection"]
    site.driver.remove_export(None, {"id": volume_id})
    calls.clear()
    made = in_use(site, volume_id)
    assert calls == ["initialize_connection", "create_export", "initialize_connection"]
    assert log_in(site, made)
    site.agree(volume_id)


def test_a_move_to_what_is_no_connector_keeps_what_works(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    assert log_in(site, made)
    with pytest.raises(errors.Invalid, match="initiator"):
        site.service.attachments.update(CALLER, made.id, connector(initiator="nonsense"))
    assert sessions(site, made.id, volume_id)
    assert site.status(volume_id) is VolumeStatus.IN_USE
    site.agree(volume_id)


# Modes


@pytest.mark.parametrize("in_one_call", [True, False])
def test_read_only_is_enforced_by_the_storage_host(site: Site, in_one_call: bool) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    wanted = connector() if in_one_call else None
    made = attachments.create(CALLER, volume_id, connector=wanted, mode=AttachMode.READ_ONLY)
    if not in_one_call:
        made = attachments.update(CALLER, made.id, connector())
    assert made.connection_info is not None
    assert made.connection_info["access_mode"] == "ro"
    assert site.driver.connections.get(volume_id, made.id).access_mode == "ro"
    moved = attachments.update(CALLER, made.id, connector("b"))
    assert moved.attach_mode is AttachMode.READ_ONLY
    site.agree(volume_id)


# Several attachments


def test_a_second_connection_is_refused_and_says_who_has_it(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    with pytest.raises(errors.InUse) as refused:
        site.service.attachments.create(CALLER, volume_id, connector=connector("b"))
    assert made.id in str(refused.value)
    assert "on a" in str(refused.value)
    with pytest.raises(errors.WrongStatus, match=made.id):
        site.service.attachments.create(CALLER, volume_id)
    site.agree(volume_id)


def test_duplicate_connectors_are_refused_in_one_call_as_in_two(site: Site) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    first = attachments.create(CALLER, volume_id, instance_uuid=INSTANCE, connector=connector("a"))
    attachments.complete(CALLER, first.id)
    # For its live migration the instance may reserve another, and not connect it yet.
    second = attachments.create(CALLER, volume_id, instance_uuid=INSTANCE)
    calls: list[Callable[[], object]] = [
        lambda: attachments.update(CALLER, second.id, connector("b")),
        lambda: attachments.create(
            CALLER, volume_id, instance_uuid=INSTANCE, connector=connector("b")
        ),
    ]
    for call in calls:
        with pytest.raises(errors.InUse, match=first.id):
            call()
        assert site.acls(volume_id) == {connector("a")["initiator"]}
        site.agree(volume_id)
    attachments.delete(CALLER, first.id)
    attachments.update(CALLER, second.id, connector("b"))
    site.agree(volume_id)


def test_only_the_same_instance_may_reserve_a_second_one(site: Site) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    attachments.create(CALLER, volume_id, instance_uuid=INSTANCE)
    for other in (None, "2b9b5c1e-6b0c-4f0e-9c37-2f6f3f0d2c55"):
        with pytest.raises(errors.WrongStatus):
            attachments.create(CALLER, volume_id, instance_uuid=other)
        with pytest.raises(errors.InUse):
            attachments.create(CALLER, volume_id, instance_uuid=other, connector=connector())
    attachments.create(CALLER, volume_id, instance_uuid=INSTANCE)
    # And connect it at once, while nobody has access.
    attachments.create(CALLER, volume_id, instance_uuid=INSTANCE, connector=connector())
    site.agree(volume_id)


def test_two_nameless_instances_are_not_the_same(site: Site) -> None:
    volume_id = site.volume()
    site.service.attachments.create(CALLER, volume_id)
    with pytest.raises(errors.WrongStatus):
        site.service.attachments.create(CALLER, volume_id)


def test_who_shares_a_volume_is_not_waited_for_long(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume_id = site.volume()
    held = in_use(site, volume_id, "a")
    seconds = list[float]()

    def within(self: Connections, given: float) -> Connections:
        seconds.append(given)
        return real(self, given)

    real = Connections.within
    monkeypatch.setattr(Connections, "within", within)
    assert site.service.attachments.shared(CALLER, held.id) == []
    assert seconds == [SHARED_SECONDS]


def test_a_multiattach_volume_keeps_the_others_access(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attachments = site.service.attachments
    first, second = in_use(site, volume_id, "a"), in_use(site, volume_id, "b")
    assert log_in(site, second, "b")
    (shared,) = attachments.shared(CALLER, first.id)
    assert (shared.attachment_id, shared.host, shared.logged_in) == (second.id, "b", True)
    deleted = attachments.delete(CALLER, first.id)
    assert [one.id for one in deleted.remaining] == [second.id]
    assert [one.attachment_id for one in deleted.sharing] == [second.id]
    assert sessions(site, second.id, volume_id)
    assert site.status(volume_id) is VolumeStatus.IN_USE
    assert attachments.shared(CALLER, second.id) == []
    site.agree(volume_id)


def test_one_that_nobody_completes_keeps_nobody_away(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attachments = site.service.attachments
    in_use(site, volume_id, "a")
    attachments.create(CALLER, volume_id, connector=connector("b"))
    assert site.status(volume_id) is VolumeStatus.IN_USE
    attachments.create(CALLER, volume_id)
    attachments.create(CALLER, volume_id, connector=connector("c"))
    site.agree(volume_id)


def test_two_attachments_of_a_host_share_its_access_until_the_last_goes(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attachments = site.service.attachments
    first = in_use(site, volume_id)
    second = attachments.create(CALLER, volume_id, connector=connector(mountpoint="/elsewhere"))
    assert log_in(site, first)
    attachments.delete(CALLER, first.id)
    assert sessions(site, second.id, volume_id)
    site.agree(volume_id)
    attachments.delete(CALLER, second.id)
    site.agree(volume_id)


# What is refused


@pytest.mark.parametrize("wrong", [{}, {"host": "a"}, {"initiator": ""}, {"initiator": None}])
def test_a_connector_without_initiator_is_named(site: Site, wrong: dict[str, object]) -> None:
    volume_id = site.volume()
    reserved = site.service.attachments.create(CALLER, volume_id)
    with pytest.raises(errors.Invalid, match="initiator"):
        site.service.attachments.update(CALLER, reserved.id, wrong)
    site.service.attachments.delete(CALLER, reserved.id)
    with pytest.raises(errors.Invalid, match="initiator"):
        site.service.attachments.create(CALLER, volume_id, connector=wrong)
    assert site.service.drivers.calls == []
    site.agree(volume_id)


@pytest.mark.parametrize(
    "status",
    [
        VolumeStatus.CREATING,
        VolumeStatus.EXTENDING,
        VolumeStatus.DELETING,
        VolumeStatus.ERROR,
        VolumeStatus.ERROR_DELETING,
    ],
)
def test_a_volume_at_work_or_broken_is_not_attached(site: Site, status: VolumeStatus) -> None:
    volume_id = site.volume(multiattach=True)
    attachments = site.service.attachments
    reserved = attachments.create(CALLER, volume_id)
    attached = in_use(site, volume_id, "b")
    site.set_status(volume_id, status)
    calls: list[Callable[[], object]] = [
        lambda: attachments.create(CALLER, volume_id),
        lambda: attachments.create(CALLER, volume_id, connector=connector()),
        lambda: attachments.update(CALLER, reserved.id, connector()),
    ]
    for call in calls:
        with pytest.raises(errors.WrongStatus, match=status):
            call()
    # What there is, can end; and the volume's status is not theirs to change.
    attachments.delete(CALLER, reserved.id)
    attachments.delete(CALLER, attached.id)
    assert site.status(volume_id) is status
    assert not site.connections(volume_id)


def test_another_projects_are_not_found(site: Site) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    with pytest.raises(errors.NotFound):
        attachments.create(OTHER, volume_id)
    with pytest.raises(errors.NotFound):
        attachments.create(OTHER, volume_id, connector=connector())
    made = attachments.create(CALLER, volume_id)
    calls: list[Callable[[], object]] = [
        lambda: attachments.get(OTHER, made.id),
        lambda: attachments.update(OTHER, made.id, connector()),
        lambda: attachments.complete(OTHER, made.id),
        lambda: attachments.delete(OTHER, made.id),
        lambda: attachments.shared(OTHER, made.id),
    ]
    for call in calls:
        with pytest.raises(errors.NotFound, match=made.id):
            call()
    assert site.service.drivers.calls == []
    assert attachments.get(ADMIN, made.id) == made


def test_what_an_admin_attaches_is_its_projects(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(ADMIN, volume_id, connector=connector())
    assert site.service.attachments.get(CALLER, made.id).project_id == CALLER.project_id


def test_what_does_not_exist_is_not_found(site: Site) -> None:
    attachments = site.service.attachments
    calls: list[Callable[[], object]] = [
        lambda: attachments.create(CALLER, INSTANCE),
        lambda: attachments.create(CALLER, INSTANCE, connector=connector()),
        lambda: attachments.get(CALLER, INSTANCE),
        lambda: attachments.update(CALLER, INSTANCE, connector()),
        lambda: attachments.delete(CALLER, INSTANCE),
    ]
    for call in calls:
        with pytest.raises(errors.NotFound, match=INSTANCE):
            call()


def test_a_reservation_cannot_be_completed(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id)
    with pytest.raises(errors.WrongStatus, match="reserved"):
        site.service.attachments.complete(CALLER, made.id)
    site.agree(volume_id)


def test_completing_twice_is_completing_once(site: Site) -> None:
    made = in_use(site, site.volume())
    before = site.service.attachments.get(CALLER, made.id)
    site.clock.pass_by(60)
    site.service.attachments.complete(CALLER, made.id)
    assert site.service.attachments.get(CALLER, made.id) == before


# Leases


def test_a_reservation_goes_with_its_lease(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id)
    assert made.lease_end_time is not None
    site.clock.pass_by(LEASE_SECONDS / 2)
    assert not site.service.settling.expire(made)
    site.clock.pass_by(LEASE_SECONDS)
    (expired,) = site.service.records.expired_attachments(site.clock())
    assert site.service.settling.expire(expired)
    assert site.attachment(made.id) is None
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    # Somebody else has been faster.
    assert not site.service.settling.expire(expired)


def test_what_is_connected_has_no_lease(site: Site) -> None:
    volume_id = site.volume()
    reserved = site.service.attachments.create(CALLER, volume_id)
    site.service.attachments.update(CALLER, reserved.id, connector())
    site.clock.pass_by(2 * LEASE_SECONDS)
    assert site.service.records.expired_attachments(site.clock()) == []
    # Also when it was connected after it had been looked at.
    assert not site.service.settling.expire(reserved)
    site.agree(volume_id)


# What the reconciler asks for


def test_access_that_the_host_has_lost_is_given_again(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    site.driver.terminate_connection({"id": volume_id}, None, attachment_id=made.id)
    site.driver.remove_export(None, {"id": volume_id})
    assert site.service.settling.give_again(made)
    assert site.status(volume_id) is VolumeStatus.IN_USE
    site.agree(volume_id)
    # The new secret can be had.
    again = site.service.attachments.update(CALLER, made.id, connector())
    assert log_in(site, again)
    site.service.attachments.delete(CALLER, made.id)
    assert not site.service.settling.give_again(made)
    site.agree(volume_id)


def test_access_without_a_record_is_taken_away_and_no_other(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    made = in_use(site, volume_id, "a")
    assert log_in(site, made)
    driver: TargetdDriver = site.driver
    driver.initialize_connection({"id": volume_id}, connector("b"), "stray")
    assert not site.service.settling.revoke_stray(volume_id, made.id)
    assert site.service.settling.revoke_stray(volume_id, "stray")
    assert sessions(site, made.id, volume_id)
    site.agree(volume_id)


def test_how_it_came_to_be_says_what_is_left(site: Site) -> None:
    attachments = site.service.attachments
    reserved = attachments.create(CALLER, site.volume())
    connected = attachments.create(CALLER, site.volume(), connector=connector())
    assert (reserved.origin, connected.origin) == (Origin.RESERVATION, Origin.CONNECTION)
    assert state_of(connected) is State.CONNECTED
    moved = attachments.update(CALLER, connected.id, connector("b"))
    assert moved.origin is Origin.RESERVATION
