"""attachd is killed between any two steps of an operation, and another one goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import event

from attachd import errors
from attachd.model import VolumeStatus
from attachd.transitions import UNFINISHED, state_of
from tests.attachd.faults import Hang, Killed, killed_after, killed_before, late_undone
from tests.attachd.site import CALLER, HOLD_SECONDS, Service, Site, connector
from tests.attachd.test_attachments import in_use, log_in, sessions

GIVE = ("create_export", "initialize_connection")
TAKE = ("terminate_connection",)
TAKE_BACK = (*TAKE, "remove_export")


@contextmanager
def killed_at_commit(service: Service, which: int) -> Iterator[None]:
    """Just before the n-th transaction from now is committed: nothing of it is recorded."""
    engine = service.database.engine
    seen = 0

    def commit(_connection: object) -> None:
        nonlocal seen
        seen += 1
        if seen == which:
            raise Killed

    event.listen(engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(engine, "commit", commit)


@dataclass(frozen=True)
class Operation:
    """Prepared on a volume; then run, and killed somewhere."""

    prepare: Callable[[Site, str], Callable[[], object]]
    calls: tuple[str, ...] = ()
    commits: int = 1


def create(site: Site, volume_id: str) -> Callable[[], object]:
    attachments = site.service.attachments
    return lambda: attachments.create(CALLER, volume_id, connector=connector())


def reserve(site: Site, volume_id: str) -> Callable[[], object]:
    return lambda: site.service.attachments.create(CALLER, volume_id)


def update(site: Site, volume_id: str) -> Callable[[], object]:
    attachments = site.service.attachments
    made = attachments.create(CALLER, volume_id)
    return lambda: attachments.update(CALLER, made.id, connector())


def renew(site: Site, volume_id: str) -> Callable[[], object]:
    made = in_use(site, volume_id)
    return lambda: site.service.attachments.update(CALLER, made.id, connector())


def move(site: Site, volume_id: str) -> Callable[[], object]:
    made = in_use(site, volume_id)
    return lambda: site.service.attachments.update(CALLER, made.id, connector("b"))


def complete(site: Site, volume_id: str) -> Callable[[], object]:
    attachments = site.service.attachments
    made = attachments.create(CALLER, volume_id, connector=connector())
    return lambda: attachments.complete(CALLER, made.id)


def delete(site: Site, volume_id: str) -> Callable[[], object]:
    made = in_use(site, volume_id)
    return lambda: site.service.attachments.delete(CALLER, made.id)


def failing_create(site: Site, volume_id: str) -> Callable[[], object]:
    site.service.drivers.faults["initialize_connection"].append(late_undone)
    return create(site, volume_id)


def initialize(site: Site, volume_id: str) -> Callable[[], object]:
    actions = site.service.actions
    actions.reserve(CALLER, volume_id)
    return lambda: actions.initialize_connection(CALLER, volume_id, connector())


def _initialized(site: Site, volume_id: str) -> None:
    initialize(site, volume_id)()


def _attached(site: Site, volume_id: str) -> None:
    _initialized(site, volume_id)
    site.service.actions.attach(
        CALLER, volume_id, instance_uuid=None, host_name="a", mountpoint="/dev/vdb", mode=None
    )
    site.service.actions.begin_detaching(CALLER, volume_id)


def give_up(site: Site, volume_id: str) -> Callable[[], object]:
    _initialized(site, volume_id)
    return lambda: site.service.actions.terminate_connection(CALLER, volume_id, connector())


def unreserve(site: Site, volume_id: str) -> Callable[[], object]:
    _initialized(site, volume_id)
    return lambda: site.service.actions.unreserve(CALLER, volume_id)


def terminate(site: Site, volume_id: str) -> Callable[[], object]:
    _attached(site, volume_id)
    return lambda: site.service.actions.terminate_connection(CALLER, volume_id, connector())


def detach(site: Site, volume_id: str) -> Callable[[], object]:
    _attached(site, volume_id)
    made = site.record(volume_id).attachments[-1]
    return lambda: site.service.actions.detach(CALLER, volume_id, made.id)


OPERATIONS = {
    "reserve": Operation(reserve),
    "create": Operation(create, GIVE, 2),
    "update": Operation(update, GIVE, 2),
    "renew": Operation(renew, ("initialize_connection",), 2),
    "move": Operation(move, ("terminate_connection", "initialize_connection"), 2),
    "complete": Operation(complete),
    "delete": Operation(delete, TAKE, 2),
    "failing create": Operation(failing_create, TAKE_BACK, 2),
    "initialize_connection": Operation(initialize, GIVE, 2),
    "terminate_connection of an attach": Operation(give_up, TAKE, 2),
    "unreserve": Operation(unreserve, TAKE, 2),
    "terminate_connection": Operation(terminate, TAKE, 2),
    "detach": Operation(detach, TAKE, 2),
}
# The target stays while there are others.
PLACES = [
    (name, place, shared)
    for name, operation in OPERATIONS.items()
    for shared in (False, True)
    for place in (
        *(
            f"{call} {when}"
            for call in operation.calls
            for when in ("before", "after")
            if not (shared and call in ("create_export", "remove_export"))
        ),
        *(f"commit {which + 1}" for which in range(operation.commits)),
    )
]


def kill(site: Site, operation: Callable[[], object], place: str) -> None:
    what, _, which = place.partition(" ")
    with pytest.raises(Killed):
        if what == "commit":
            with killed_at_commit(site.service, int(which)):
                operation()
        else:
            fault = {"before": killed_before, "after": killed_after}[which]
            site.service.drivers.faults[what].append(fault)
            operation()


@pytest.mark.parametrize(("name", "place", "shared"), PLACES)
def test_killed_anywhere_it_is_undone_or_gone_on_with(
    site: Site, name: str, place: str, shared: bool
) -> None:
    volume_id = site.volume(multiattach=shared)
    if shared:
        peer = in_use(site, volume_id, "peer")
        assert log_in(site, peer, "peer")
    operation = OPERATIONS[name].prepare(site, volume_id)
    kill(site, operation, place)
    service = site.restart()
    service.settle()
    left = site.record(volume_id).attachments
    assert not [one for one in left if state_of(one) in UNFINISHED]
    if site.status(volume_id) is not VolumeStatus.DETACHING:
        site.agree(volume_id)
    if shared:
        assert sessions(site, peer.id, volume_id)
    # What was begun is nobody's: all can be ended, and begun again.
    for attachment in left:
        service.attachments.delete(CALLER, attachment.id)
    service.attachments.create(CALLER, volume_id, connector=connector("b"))
    site.agree(volume_id)


def test_what_was_begun_is_left_alone_until_its_claim_ends(site: Site) -> None:
    volume_id = site.volume()
    kill(site, create(site, volume_id), "initialize_connection after")
    other = site.start(wait_seconds=0)
    (begun,) = site.record(volume_id).attachments
    for call in (
        lambda: other.attachments.create(CALLER, volume_id, connector=connector("b")),
        lambda: other.attachments.delete(CALLER, begun.id),
        lambda: other.settling.finish(begun),
    ):
        with pytest.raises(errors.Busy, match="attach by test since") as busy:
            call()
        assert volume_id in str(busy.value)
    site.clock.pass_by(HOLD_SECONDS)
    # The next one need not wait for the reconciler.
    other.attachments.delete(CALLER, begun.id)
    site.agree(volume_id)


def test_who_comes_back_after_its_claim_ended_changes_no_record(site: Site) -> None:
    volume_id = site.volume()
    hang = Hang()
    site.service.drivers.faults["initialize_connection"].append(hang)
    failures: list[BaseException] = []

    def attach() -> None:
        try:
            create(site, volume_id)()
        except errors.AttachError as error:
            failures.append(error)

    thread = threading.Thread(target=attach)
    thread.start()
    assert hang.reached.wait(60)
    slow, service = site.service, site.restart()
    service.settle()
    assert site.record(volume_id).attachments == ()
    other = service.attachments.create(CALLER, volume_id, connector=connector("a"))
    hang.released.set()
    thread.join(60)
    assert [type(one) for one in failures] == [errors.OutcomeUnknown]
    assert [one.id for one in site.record(volume_id).attachments] == [other.id]
    # What it still did on the storage host has no record, and is found by that.
    (stray,) = set(site.connections(volume_id)) - {other.id}
    assert service.settling.revoke_stray(volume_id, stray)
    site.agree(volume_id)
    slow.attachments.delete(CALLER, other.id)
    site.agree(volume_id)


def test_an_error_that_nobody_foresaw_leaves_no_claim(site: Site) -> None:
    volume_id = site.volume()

    def unforeseen(call: Callable[[], object]) -> object:
        raise ZeroDivisionError

    site.service.drivers.faults["initialize_connection"].append(unforeseen)
    with pytest.raises(ZeroDivisionError):
        create(site, volume_id)()
    assert site.record(volume_id).claim is None
    site.service.settle()
    site.agree(volume_id)
