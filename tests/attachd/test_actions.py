"""The volume's actions, as V1 clients call them, on the same records as the attachment calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attachd import errors
from attachd.model import Attachment, AttachMode, AttachStatus, Origin, VolumeStatus
from attachd.transitions import State, state_of
from tests.attachd.faults import broken, late_done, late_undone, refused
from tests.attachd.site import ADMIN, CALLER, LEASE_SECONDS, OTHER, Site, connector
from tests.attachd.test_attachments import INSTANCE, in_use, sessions


def attach(site: Site, volume_id: str, host: str = "a", instance_uuid: str | None = None) -> None:
    site.service.actions.attach(
        CALLER,
        volume_id,
        instance_uuid=instance_uuid,
        host_name=None if instance_uuid else host,
        mountpoint="/dev/vdb",
        mode=AttachMode.READ_WRITE,
    )


def connect(site: Site, volume_id: str, host: str = "a") -> None:
    site.service.actions.reserve(CALLER, volume_id)
    info = site.service.actions.initialize_connection(CALLER, volume_id, connector(host))
    assert site.backing.log_in(host, info["data"])


def attached(site: Site, volume_id: str, host: str = "a") -> Attachment:
    connect(site, volume_id, host)
    attach(site, volume_id, host)
    return site.record(volume_id).attachments[-1]


def states(site: Site, volume_id: str) -> list[State]:
    return [state_of(one) for one in site.record(volume_id).attachments]


# The six calls


def test_attach_and_detach_in_six_calls(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    actions.reserve(CALLER, volume_id)
    # As the field's clients know it after this call.
    assert site.status(volume_id) is VolumeStatus.ATTACHING
    info = actions.initialize_connection(CALLER, volume_id, connector())
    assert set(info) == {"driver_volume_type", "data"}
    assert info["data"]["volume_id"] == volume_id
    assert site.backing.log_in("a", info["data"])
    site.agree(volume_id)
    attach(site, volume_id, instance_uuid=INSTANCE)
    assert site.status(volume_id) is VolumeStatus.IN_USE
    (made,) = site.record(volume_id).attachments
    assert (made.instance_uuid, made.attached_host, made.mountpoint) == (INSTANCE, "a", "/dev/vdb")
    assert made.attach_time is not None
    site.agree(volume_id)
    actions.begin_detaching(CALLER, volume_id)
    assert site.status(volume_id) is VolumeStatus.DETACHING
    assert sessions(site, made.id, volume_id)
    actions.terminate_connection(CALLER, volume_id, connector())
    assert site.status(volume_id) is VolumeStatus.DETACHING
    site.agree(volume_id)
    actions.detach(CALLER, volume_id)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    assert site.attachment(made.id) is None
    site.agree(volume_id)


def test_while_it_is_detached_the_host_is_told_how_it_was_connected(site: Site) -> None:
    # brick's local-detach asks for it, and the storage host may be down.
    volume_id, actions = site.volume(), site.service.actions
    actions.reserve(CALLER, volume_id)
    info = actions.initialize_connection(CALLER, volume_id, connector())
    attach(site, volume_id)
    actions.begin_detaching(CALLER, volume_id)
    site.service.drivers.unreachable()
    assert actions.initialize_connection(CALLER, volume_id, connector()) == info
    site.service.drivers.heal()
    assert states(site, volume_id) == [State.ATTACHED]
    with pytest.raises(errors.WrongStatus):
        actions.initialize_connection(CALLER, volume_id, connector("b"))
    actions.terminate_connection(CALLER, volume_id, connector())
    with pytest.raises(errors.WrongStatus):
        actions.initialize_connection(CALLER, volume_id, connector())
    site.agree(volume_id)


def test_detach_takes_the_access_that_nobody_terminated(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    attached(site, volume_id)
    actions.begin_detaching(CALLER, volume_id)
    actions.detach(CALLER, volume_id)
    assert states(site, volume_id) == []
    site.agree(volume_id)


def test_detach_without_begin_detaching(site: Site) -> None:
    volume_id = site.volume()
    made = attached(site, volume_id)
    site.service.actions.detach(CALLER, volume_id, made.id)
    site.agree(volume_id)


def test_roll_detaching_leaves_all_as_it_was(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    made = attached(site, volume_id)
    actions.begin_detaching(CALLER, volume_id)
    actions.roll_detaching(CALLER, volume_id)
    assert site.status(volume_id) is VolumeStatus.IN_USE
    assert sessions(site, made.id, volume_id)
    site.agree(volume_id)


def test_what_was_reserved_can_be_given_up(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    actions.reserve(CALLER, volume_id)
    actions.unreserve(CALLER, volume_id)
    assert site.service.drivers.calls == []
    site.agree(volume_id)
    # Where nothing is, there is nothing to do.
    actions.unreserve(CALLER, volume_id)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE


def test_a_connection_that_is_given_up_has_no_access(site: Site) -> None:
    # brick calls unreserve alone when the disk does not come.
    volume_id = site.volume()
    connect(site, volume_id)
    site.service.actions.unreserve(CALLER, volume_id)
    assert states(site, volume_id) == []
    site.agree(volume_id)


def test_a_connection_that_is_terminated_is_reserved_again(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    connect(site, volume_id)
    actions.terminate_connection(CALLER, volume_id, connector())
    assert states(site, volume_id) == [State.RESERVED]
    site.agree(volume_id)
    # By another host now.
    actions.initialize_connection(CALLER, volume_id, connector("b"))
    site.agree(volume_id)


def test_what_is_repeated_gets_the_same_answer(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    actions.reserve(CALLER, volume_id)
    info = actions.initialize_connection(CALLER, volume_id, connector())
    assert actions.initialize_connection(CALLER, volume_id, connector()) == info
    attach(site, volume_id)
    before = site.record(volume_id).attachments
    attach(site, volume_id)
    assert site.record(volume_id).attachments == before
    assert actions.initialize_connection(CALLER, volume_id, connector()) == info
    assert site.status(volume_id) is VolumeStatus.IN_USE
    for _ in range(2):
        actions.terminate_connection(CALLER, volume_id, connector())
    for _ in range(2):
        actions.detach(CALLER, volume_id)
    site.agree(volume_id)


def test_what_waits_for_detach_goes_with_its_lease(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    attached(site, volume_id)
    actions.terminate_connection(CALLER, volume_id, connector())
    (left,) = site.record(volume_id).attachments
    site.service.settle()
    assert states(site, volume_id) == [State.DISCONNECTED]
    # Nobody gets the volume whose late detach would be the next one's.
    with pytest.raises(errors.WrongStatus):
        actions.reserve(CALLER, volume_id)
    site.clock.pass_by(LEASE_SECONDS)
    assert site.service.settling.expire(left)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE


# What is refused


@pytest.fixture(params=[State.NONE, State.RESERVED, State.CONNECTED, State.ATTACHED])
def volume_in(request: pytest.FixtureRequest, site: Site) -> tuple[State, str]:
    state: State = request.param
    volume_id = site.volume()
    if state is State.RESERVED:
        site.service.actions.reserve(CALLER, volume_id)
    elif state is State.CONNECTED:
        connect(site, volume_id)
    elif state is State.ATTACHED:
        attached(site, volume_id)
    return state, volume_id


def test_each_action_in_each_state_is_done_or_refused(
    site: Site, volume_in: tuple[State, str]
) -> None:
    state, volume_id = volume_in
    actions = site.service.actions
    refused_in: dict[str, tuple[Callable[[], object], set[State]]] = {
        "reserve": (
            lambda: actions.reserve(CALLER, volume_id),
            {State.RESERVED, State.CONNECTED, State.ATTACHED},
        ),
        "initialize_connection": (
            lambda: actions.initialize_connection(CALLER, volume_id, connector("other")),
            {State.NONE, State.CONNECTED, State.ATTACHED},
        ),
        "attach": (
            lambda: attach(site, volume_id, "other"),
            {State.NONE, State.RESERVED, State.ATTACHED},
        ),
        "begin_detaching": (
            lambda: actions.begin_detaching(CALLER, volume_id),
            {State.NONE, State.RESERVED, State.CONNECTED},
        ),
        "roll_detaching": (lambda: actions.roll_detaching(CALLER, volume_id), set(State)),
    }
    for call, states_refused in refused_in.values():
        if state not in states_refused:
            continue
        before = site.record(volume_id)
        with pytest.raises(errors.WrongStatus, match=volume_id):
            call()
        assert site.record(volume_id) == before
    site.agree(volume_id)


def test_read_only_is_not_claimed_when_it_was_not_granted(site: Site) -> None:
    volume_id = site.volume()
    connect(site, volume_id)
    with pytest.raises(errors.Invalid, match="mode"):
        site.service.actions.attach(
            CALLER,
            volume_id,
            instance_uuid=None,
            host_name="a",
            mountpoint="/mnt",
            mode=AttachMode.READ_ONLY,
        )
    assert states(site, volume_id) == [State.CONNECTED]


def test_attach_says_to_what(site: Site) -> None:
    volume_id = site.volume()
    connect(site, volume_id)
    with pytest.raises(errors.Invalid, match="instance_uuid or host_name"):
        site.service.actions.attach(
            CALLER, volume_id, instance_uuid=None, host_name=None, mountpoint=None, mode=None
        )


def test_another_projects_volume_is_not_found(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    calls: list[Callable[[], object]] = [
        lambda: actions.reserve(OTHER, volume_id),
        lambda: actions.unreserve(OTHER, volume_id),
        lambda: actions.initialize_connection(OTHER, volume_id, connector()),
        lambda: actions.begin_detaching(OTHER, volume_id),
        lambda: actions.roll_detaching(OTHER, volume_id),
        lambda: actions.terminate_connection(OTHER, volume_id, connector()),
        lambda: actions.detach(OTHER, volume_id),
    ]
    for call in calls:
        with pytest.raises(errors.NotFound):
            call()
    assert site.service.drivers.calls == []


def test_a_connector_is_needed(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    connect(site, volume_id)
    for wrong in (None, {}, {"host": "a"}):
        with pytest.raises(errors.Invalid, match="initiator"):
            actions.terminate_connection(CALLER, volume_id, wrong)
        with pytest.raises(errors.Invalid, match="initiator"):
            actions.initialize_connection(CALLER, volume_id, wrong or {})
    assert states(site, volume_id) == [State.CONNECTED]
    actions.terminate_connection(CALLER, volume_id, None, force=True)
    site.agree(volume_id)


def test_a_volume_without_connection_has_nothing_to_terminate(site: Site) -> None:
    volume_id = site.volume()
    site.service.actions.terminate_connection(CALLER, volume_id, connector())
    site.service.actions.terminate_connection(CALLER, volume_id, {}, force=True)
    site.service.actions.detach(CALLER, volume_id)
    assert site.service.drivers.calls == []


# With the attachment calls


def test_actions_do_not_use_what_attachment_calls_reserved(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id, instance_uuid=INSTANCE)
    with pytest.raises(errors.WrongStatus):
        site.service.actions.initialize_connection(CALLER, volume_id, connector())
    site.service.actions.unreserve(CALLER, volume_id)
    assert site.attachment(made.id) is not None


def test_actions_do_not_take_what_attachment_calls_connected(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    for connector_ in (connector(), None):
        with pytest.raises(errors.InUse, match=made.id):
            site.service.actions.terminate_connection(CALLER, volume_id, connector_, force=True)
    site.agree(volume_id)


def test_a_host_may_ask_how_it_is_connected(site: Site) -> None:
    # brick's get_volume_paths does, however the volume was attached.
    volume_id = site.volume()
    made = in_use(site, volume_id)
    info = site.service.actions.initialize_connection(CALLER, volume_id, connector())
    assert made.connection_info == {
        "driver_volume_type": info["driver_volume_type"],
        **info["data"],
    }
    site.agree(volume_id)


def test_what_actions_made_can_be_deleted_as_an_attachment(site: Site) -> None:
    volume_id = site.volume()
    made = attached(site, volume_id)
    site.service.actions.begin_detaching(CALLER, volume_id)
    site.service.attachments.delete(CALLER, made.id)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    site.agree(volume_id)


def test_what_attachment_calls_made_can_be_detached(site: Site) -> None:
    volume_id = site.volume()
    made = in_use(site, volume_id)
    site.service.actions.begin_detaching(CALLER, volume_id)
    site.service.actions.detach(CALLER, volume_id, made.id)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    site.agree(volume_id)


def test_nothing_new_begins_while_a_detach_has_begun(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attached(site, volume_id)
    reserved = site.service.attachments.create(CALLER, volume_id)
    site.service.actions.begin_detaching(CALLER, volume_id)
    calls: list[Callable[[], object]] = [
        lambda: site.service.actions.reserve(CALLER, volume_id),
        lambda: site.service.attachments.create(CALLER, volume_id),
        lambda: site.service.attachments.create(CALLER, volume_id, connector=connector("b")),
        lambda: site.service.attachments.update(CALLER, reserved.id, connector("b")),
    ]
    for call in calls:
        with pytest.raises(errors.WrongStatus, match="detaching"):
            call()
    # What is given up meanwhile does not end it.
    site.service.attachments.delete(CALLER, reserved.id)
    assert site.status(volume_id) is VolumeStatus.DETACHING


# Several on one volume


def test_two_hosts_of_a_multiattach_volume(site: Site) -> None:
    volume_id, actions = site.volume(multiattach=True), site.service.actions
    actions.reserve(CALLER, volume_id)
    actions.reserve(CALLER, volume_id)
    for host in ("a", "b"):
        actions.initialize_connection(CALLER, volume_id, connector(host))
    for host in ("b", "a"):
        attach(site, volume_id, host)
    by_host = {one.attached_host: one for one in site.record(volume_id).attachments}
    assert set(by_host) == {"a", "b"}
    site.agree(volume_id)
    with pytest.raises(errors.Invalid) as several:
        actions.detach(CALLER, volume_id)
    assert all(one.id in str(several.value) for one in by_host.values())
    actions.begin_detaching(CALLER, volume_id)
    actions.terminate_connection(CALLER, volume_id, connector("b"))
    # The other is as it was, and the one that waits is the one to detach.
    assert site.status(volume_id) is VolumeStatus.DETACHING
    actions.detach(CALLER, volume_id)
    assert states(site, volume_id) == [State.ATTACHED]
    assert site.attachment(by_host["a"].id) is not None
    assert site.status(volume_id) is VolumeStatus.IN_USE
    site.agree(volume_id)


def test_two_instances_on_one_host(site: Site) -> None:
    volume_id, actions = site.volume(multiattach=True), site.service.actions
    for instance in (INSTANCE, INSTANCE[::-1]):
        actions.reserve(CALLER, volume_id)
        actions.initialize_connection(CALLER, volume_id, connector())
        attach(site, volume_id, instance_uuid=instance)
    assert len(site.connections(volume_id)) == 2
    actions.begin_detaching(CALLER, volume_id)
    actions.terminate_connection(CALLER, volume_id, connector())
    # The host keeps its access for the other instance.
    assert site.acls(volume_id) == {connector()["initiator"]}
    actions.detach(CALLER, volume_id)
    assert states(site, volume_id) == [State.ATTACHED]
    site.agree(volume_id)


def test_unreserve_prefers_what_nobody_connected(site: Site) -> None:
    volume_id, actions = site.volume(multiattach=True), site.service.actions
    connect(site, volume_id)
    actions.reserve(CALLER, volume_id)
    actions.unreserve(CALLER, volume_id)
    assert states(site, volume_id) == [State.CONNECTED]
    site.agree(volume_id)


# Failures


@pytest.mark.parametrize("fault", [refused, late_undone, late_done, broken])
def test_a_failed_connection_leaves_the_reservation(
    site: Site, fault: Callable[[Callable[[], object]], object]
) -> None:
    volume_id, actions = site.volume(), site.service.actions
    actions.reserve(CALLER, volume_id)
    site.service.drivers.faults["initialize_connection"].append(fault)
    with pytest.raises(errors.AttachError):
        actions.initialize_connection(CALLER, volume_id, connector())
    assert states(site, volume_id) == [State.RESERVED]
    site.agree(volume_id)
    actions.initialize_connection(CALLER, volume_id, connector())
    site.agree(volume_id)


@pytest.mark.parametrize("ended_by", ["reconciler", "unreserve", "terminate", "again"])
def test_a_connection_with_unknown_outcome(site: Site, ended_by: str) -> None:
    volume_id, actions = site.volume(), site.service.actions
    actions.reserve(CALLER, volume_id)
    faults = site.service.drivers.faults
    faults["initialize_connection"].append(late_done)
    faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        actions.initialize_connection(CALLER, volume_id, connector())
    assert states(site, volume_id) == [State.ERROR_ATTACHING]
    if ended_by == "reconciler":
        site.service.settle()
        assert states(site, volume_id) == [State.RESERVED]
    elif ended_by == "unreserve":
        actions.unreserve(CALLER, volume_id)
        assert states(site, volume_id) == []
    elif ended_by == "terminate":
        actions.terminate_connection(CALLER, volume_id, connector())
        assert states(site, volume_id) == [State.RESERVED]
    else:
        actions.initialize_connection(CALLER, volume_id, connector())
        assert states(site, volume_id) == [State.CONNECTED]
    site.agree(volume_id)


@pytest.mark.parametrize("call", ["terminate_connection", "detach"])
@pytest.mark.parametrize("late", [late_undone, late_done])
def test_a_removal_without_answer_can_be_repeated(
    site: Site, call: str, late: Callable[[Callable[[], object]], object]
) -> None:
    volume_id, actions = site.volume(), site.service.actions
    made = attached(site, volume_id)
    actions.begin_detaching(CALLER, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late)

    def remove() -> None:
        if call == "detach":
            actions.detach(CALLER, volume_id, made.id)
        else:
            actions.terminate_connection(CALLER, volume_id, connector())

    with pytest.raises(errors.OutcomeUnknown, match=made.id):
        remove()
    assert states(site, volume_id) == [State.ERROR_DETACHING]
    # A call that knows less also is not told that all is well.
    site.service.drivers.faults["terminate_connection"].append(late)
    with pytest.raises(errors.OutcomeUnknown):
        actions.terminate_connection(CALLER, volume_id, connector())
    remove()
    actions.detach(CALLER, volume_id)
    assert states(site, volume_id) == []
    site.agree(volume_id)


def test_the_reconciler_leaves_what_waits_for_detach(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    attached(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        actions.terminate_connection(CALLER, volume_id, connector())
    site.service.settle()
    assert states(site, volume_id) == [State.DISCONNECTED]
    site.service.settle()
    actions.detach(CALLER, volume_id)
    site.agree(volume_id)


def test_the_reconciler_finishes_a_detach(site: Site) -> None:
    volume_id, actions = site.volume(), site.service.actions
    attached(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        actions.detach(CALLER, volume_id)
    site.service.settle()
    assert states(site, volume_id) == []
    site.agree(volume_id)


# Force


def test_force_detach_is_for_admins(site: Site) -> None:
    volume_id = site.volume()
    attached(site, volume_id)
    with pytest.raises(errors.NotAllowed):
        site.service.actions.force_detach(CALLER, volume_id)
    assert states(site, volume_id) == [State.ATTACHED]


@pytest.mark.parametrize("status", [VolumeStatus.IN_USE, VolumeStatus.ERROR])
@pytest.mark.parametrize("by", ["id", "connector", "neither"])
def test_force_detach_ends_it_in_any_status(site: Site, status: VolumeStatus, by: str) -> None:
    volume_id = site.volume(multiattach=True)
    first = attached(site, volume_id, "a")
    second = in_use(site, volume_id, "b")
    site.service.attachments.create(CALLER, volume_id)
    site.set_status(volume_id, status)
    site.service.actions.force_detach(
        ADMIN,
        volume_id,
        first.id if by == "id" else None,
        connector("a") if by == "connector" else None,
    )
    assert site.attachment(first.id) is None
    left = {one.id for one in site.record(volume_id).attachments}
    assert (second.id in left) == (by != "neither")
    assert set(site.connections(volume_id)) == left & {second.id}


def test_force_detach_ends_what_no_record_knows(site: Site) -> None:
    volume_id = site.volume()
    site.driver.create_export(None, {"id": volume_id})
    site.driver.initialize_connection({"id": volume_id}, connector(), "stranger")
    site.service.actions.force_detach(ADMIN, volume_id)
    site.agree(volume_id)


def test_force_detach_does_not_say_that_access_is_gone_when_it_may_not_be(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attached(site, volume_id, "a")
    in_use(site, volume_id, "b")
    site.service.drivers.unreachable()
    with pytest.raises(errors.OutcomeUnknown):
        site.service.actions.force_detach(ADMIN, volume_id)
    # A host that does not answer is not asked for each.
    assert site.service.drivers.calls.count("terminate_connection") == 1
    assert states(site, volume_id) == [State.ERROR_DETACHING] * 2
    site.service.drivers.heal()
    site.service.settle()
    assert states(site, volume_id) == []
    site.agree(volume_id)


def test_a_record_says_that_actions_made_it(site: Site) -> None:
    volume_id = site.volume()
    site.service.actions.reserve(CALLER, volume_id)
    (made,) = site.record(volume_id).attachments
    assert made.origin is Origin.ACTIONS
    assert made.attach_status is AttachStatus.RESERVED
