"""Records against what storage hosts grant, both ways, and what was cut off."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from targetd_driver import TargetdDriver

from attachd import errors, reconcile
from attachd.database import host_records
from attachd.model import Attachment, AttachMode, AttachStatus, NewVolume, VolumeStatus
from tests.attachd.faults import (
    Hang,
    Killed,
    killed_after,
    killed_before,
    late_done,
    late_undone,
    next_answers,
)
from tests.attachd.hosts import ADMIN, spec, storage
from tests.attachd.site import (
    CALLER,
    HOST,
    LEASE_SECONDS,
    Service,
    Site,
    connector,
    long_work_held,
)
from tests.hosts import MEBIBYTE, SimulatedBacking

DEADLINE_SECONDS = 60


def attached(site: Site, volume_id: str, host: str = "a", mode: str = "rw") -> Attachment:
    made = site.service.attachments.create(
        CALLER, volume_id, connector=connector(host), mode=AttachMode(mode)
    )
    site.service.attachments.complete(CALLER, made.id)
    return made


def go_through(site: Site) -> reconcile.HostPass:
    return site.service.reconciler.run(HOST)


def until(true: Callable[[], object]) -> None:
    """Something that comes from another thread."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def by_hand(driver: TargetdDriver, volume_id: str, attachment_id: str, host: str = "stray") -> None:
    """Access that has no record."""
    driver.create_export(None, {"id": volume_id})
    driver.initialize_connection({"id": volume_id}, connector(host), attachment_id)


# Grants


def test_where_all_is_well_nothing_is_changed(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attached(site, volume_id, "a"), attached(site, volume_id, "b", "ro")
    site.service.attachments.create(CALLER, site.volume())
    before, connections = site.record(volume_id), site.connections(volume_id)
    assert go_through(site).not_done == {}
    assert site.record(volume_id) == before
    assert site.connections(volume_id).keys() == connections.keys()
    times = {one.create_time for one in connections.values()}
    assert {one.create_time for one in site.connections(volume_id).values()} == times


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_access_that_was_lost_is_given_again(site: Site, mode: str) -> None:
    volume_id = site.volume()
    attachment = attached(site, volume_id, mode=mode)
    other = attached(site, other_id := site.volume(), "b")
    site.driver.terminate_connection({"id": volume_id}, None, attachment.id)
    site.driver.remove_export(None, {"id": volume_id})
    go_through(site)
    site.agree(volume_id)
    site.agree(other_id)
    assert set(site.connections(volume_id)) == {attachment.id}
    assert set(site.connections(other_id)) == {other.id}
    # The new secret is the record's too: an attaching host that asks again gets what lets it in.
    again = site.service.attachments.update(CALLER, attachment.id, connector())
    assert again.connection_info is not None
    assert site.backing.log_in("a", again.connection_info)


def test_access_that_is_lost_while_it_is_not_completed_is_given_again(site: Site) -> None:
    volume_id = site.volume()
    made = site.service.attachments.create(CALLER, volume_id, connector=connector())
    site.driver.terminate_connection({"id": volume_id}, None, made.id)
    go_through(site)
    site.agree(volume_id)
    assert site.status(volume_id) is VolumeStatus.ATTACHING


@pytest.mark.parametrize(("host", "mode"), [("b", "rw"), ("a", "ro")])
def test_access_that_is_not_the_records_is_exchanged(site: Site, host: str, mode: str) -> None:
    """As after a backup of the records, from before the attachment was moved."""
    volume_id = site.volume()
    attachment = attached(site, volume_id)
    site.driver.terminate_connection({"id": volume_id}, None, attachment.id)
    site.driver.initialize_connection({"id": volume_id}, connector(host), attachment.id, mode)
    go_through(site)
    site.agree(volume_id)
    assert set(site.connections(volume_id)) == {attachment.id}
    before = site.connections(volume_id)
    go_through(site)
    assert site.connections(volume_id) == before


def test_a_volume_that_its_host_has_lost_is_in_an_error(site: Site) -> None:
    lost, kept, used = site.volume(), site.volume(), site.volume()
    held = attached(site, used)
    site.driver.volumes.delete(lost)
    go_through(site)
    assert site.status(lost) is VolumeStatus.ERROR
    assert "no such volume any more" in site.record(lost).reason
    assert site.status(kept) is VolumeStatus.AVAILABLE
    assert site.status(used) is VolumeStatus.IN_USE
    assert set(site.connections(used)) == {held.id}
    # It may be back, and it may be deleted.
    site.driver.volumes.create(lost, 16 * MEBIBYTE, "thin")
    site.service.volumes.reset_status(ADMIN, lost, VolumeStatus.AVAILABLE)
    assert site.status(lost) is VolumeStatus.AVAILABLE
    site.driver.volumes.delete(lost)
    go_through(site)
    site.service.volumes.delete(CALLER, lost)
    assert site.service.records.volume(lost) is None


def test_a_volume_that_comes_between_the_looks_is_not_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, made = site.service.records.volumes_of_host, list[str]()

    def meanwhile(*arguments: Any) -> list[Any]:
        if not made:
            made.append(site.volume())
        return volumes(*arguments)

    monkeypatch.setattr(site.service.records, "volumes_of_host", meanwhile)
    go_through(site)
    assert site.status(made[0]) is VolumeStatus.AVAILABLE


def test_access_without_a_record_is_revoked(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    attachment = attached(site, volume_id)
    by_hand(site.driver, volume_id, "stray")
    go_through(site)
    site.agree(volume_id)
    assert set(site.connections(volume_id)) == {attachment.id}


def test_access_of_what_is_only_reserved_is_revoked(site: Site) -> None:
    volume_id = site.volume()
    reserved = site.service.attachments.create(CALLER, volume_id)
    by_hand(site.driver, volume_id, reserved.id)
    go_through(site)
    site.agree(volume_id)
    assert site.connections(volume_id) == {}
    assert site.status(volume_id) is VolumeStatus.RESERVED


def test_others_volumes_are_not_touched(site: Site) -> None:
    foreign = str(uuid.uuid4())
    site.driver.volumes.create(foreign, 16 * MEBIBYTE, "thin")
    by_hand(site.driver, foreign, "foreign")
    deleted = site.volume()
    with site.service.records.writing() as changes:
        changes.remove_volume(deleted)
    by_hand(site.driver, deleted, "of-a-deleted-record")
    go_through(site)
    assert set(site.connections(foreign)) == {"foreign"}
    assert set(site.connections(deleted)) == {"of-a-deleted-record"}


def test_an_attach_under_way_is_let_alone(site: Site) -> None:
    volume_id, hang, made = site.volume(), Hang(), list[Attachment]()
    service, other = site.service, site.start()

    def after_the_grant(call: Callable[[], Any]) -> Any:
        answer = call()
        return hang(lambda: answer)

    service.drivers.faults["initialize_connection"].append(after_the_grant)
    attaching = threading.Thread(
        target=lambda: made.append(
            service.attachments.create(CALLER, volume_id, connector=connector())
        )
    )
    attaching.start()
    assert hang.reached.wait(DEADLINE_SECONDS)
    for one in (service, other):
        one.reconciler.run(HOST)
    assert len(site.connections(volume_id)) == 1
    hang.released.set()
    attaching.join()
    site.agree(volume_id)
    assert set(site.connections(volume_id)) == {made[0].id}


def test_what_changes_between_the_looks_is_no_difference(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume_id, gone_id = site.volume(), site.volume()
    gone = attached(site, gone_id, "b")
    attachments, made = site.service.records.attachments_of_host, list[Attachment]()

    def meanwhile(*arguments: Any) -> list[Attachment]:
        # The host has said what it grants; the records are read only now.
        if not made:
            made.append(attached(site, volume_id))
            site.service.attachments.delete(CALLER, gone.id)
        return attachments(*arguments)

    monkeypatch.setattr(site.service.records, "attachments_of_host", meanwhile)
    settling, done = site.service.settling, list[bool]()
    for name in ("give_again", "revoke_stray"):
        real = getattr(settling, name)
        monkeypatch.setattr(settling, name, lambda *given, call=real: done.append(call(*given)))
    go_through(site)
    assert made and not any(done)
    site.agree(volume_id)
    site.agree(gone_id)


# What was cut off


@pytest.mark.parametrize("fault", [killed_before, killed_after])
def test_an_attach_that_was_cut_off_is_undone(site: Site, fault: Any) -> None:
    volume_id = site.volume()
    site.service.drivers.faults["initialize_connection"].append(fault)
    with pytest.raises(Killed):
        site.service.attachments.create(CALLER, volume_id, connector=connector())
    # Nobody knows yet that its process is no more.
    site.service = site.start()
    go_through(site)
    assert site.status(volume_id) is VolumeStatus.ATTACHING
    site.restart()
    go_through(site)
    site.agree(volume_id)
    assert site.record(volume_id).attachments == ()


def test_a_detach_without_an_answer_is_finished(site: Site) -> None:
    volume_id = site.volume()
    attachment = attached(site, volume_id)
    site.service.drivers.faults["terminate_connection"].append(late_undone)
    with pytest.raises(errors.OutcomeUnknown):
        site.service.attachments.delete(CALLER, attachment.id)
    go_through(site)
    site.agree(volume_id)
    assert site.record(volume_id).attachments == ()


def test_one_that_is_not_done_does_not_keep_the_others(site: Site) -> None:
    driver = site.service.hosts.driver(HOST)
    new = NewVolume(1, place=f"{HOST}#thin")
    with next_answers(driver.volumes, "create", *[late_undone] * 4):
        made = [site.service.volumes.create(CALLER, new) for _ in range(3)]
        passed = go_through(site)
        (stuck,) = passed.not_done
        done = [one for one in made if f"volume {one.id}" != stuck]
        assert [site.status(one.id) for one in done] == [VolumeStatus.AVAILABLE] * 2
    assert go_through(site).not_done == {}
    assert {site.status(one.id) for one in made} == {VolumeStatus.AVAILABLE}


def test_many_are_gone_through_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    records = site.service.records
    for name in ("unfinished_volumes", "volumes_of_host", "attachments_of_host"):
        real = getattr(records, name)
        monkeypatch.setattr(
            records, name, lambda host, after, real=real: real(host, after, limit=2)
        )
    driver = site.service.hosts.driver(HOST)
    with next_answers(driver.volumes, "create", *[late_done] * 5):
        made = [site.service.volumes.create(CALLER, NewVolume(1)).id for _ in range(5)]
    go_through(site)
    for volume_id in made:
        assert site.status(volume_id) is VolumeStatus.AVAILABLE
        attachment = attached(site, volume_id)
        site.driver.terminate_connection({"id": volume_id}, None, attachment.id)
    strays = [site.volume() for _ in range(5)]
    for volume_id in strays:
        by_hand(site.driver, volume_id, "stray")
    go_through(site)
    for volume_id in made + strays:
        site.agree(volume_id)


# Leases


def test_a_reservation_goes_with_its_lease(site: Site) -> None:
    volume_id, other_id = site.volume(), site.volume()
    site.service.attachments.create(CALLER, volume_id)
    used = attached(site, other_id)
    site.clock.pass_by(LEASE_SECONDS - 60)
    site.service.reconciler.expire_leases()
    assert site.status(volume_id) is VolumeStatus.RESERVED
    site.clock.pass_by(120)
    site.service.reconciler.expire_leases()
    assert site.record(volume_id).attachments == ()
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    assert site.attachment(used.id) is not None
    site.agree(other_id)


def test_a_lease_waits_for_who_works_on_the_volume(site: Site) -> None:
    volume_id, hang = site.volume(), Hang()
    reserved = site.service.attachments.create(CALLER, volume_id)
    site.clock.pass_by(2 * LEASE_SECONDS)
    site.service.drivers.faults["create_export"].append(hang)
    connecting = threading.Thread(
        target=site.service.attachments.update, args=(CALLER, reserved.id, connector())
    )
    connecting.start()
    assert hang.reached.wait(DEADLINE_SECONDS)
    site.service.reconciler.expire_leases()
    hang.released.set()
    connecting.join()
    site.service.reconciler.expire_leases()
    found = site.attachment(reserved.id)
    assert found is not None and found.attach_status is AttachStatus.ATTACHING
    site.agree(volume_id)


def test_history_is_kept_for_its_time(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    volume_id = site.volume()
    site.service.attachments.delete(CALLER, attached(site, volume_id).id)
    seconds = reconcile.HISTORY.total_seconds()
    for passing, forgotten in ((seconds - 60, False), (120, True)):
        site.clock.pass_by(passing)
        with caplog.at_level(logging.INFO):
            site.service.reconciler.forget_history()
        assert ("1 records of what was deleted are forgotten" in caplog.text) is forgotten
    site.agree(volume_id)


# Hosts that do not answer, or are others


def test_another_host_at_the_address_is_not_touched(site: Site) -> None:
    volume_id = site.volume()
    by_hand(site.driver, volume_id, "stray")
    host = site.service.hosts.list()[0]
    with site.database.writing() as connection:
        host_records.put(connection, replace(host, lock_domain_id="another"))
    site.service = site.start()
    with pytest.raises(errors.HostUnavailable, match=f"attachd host add {HOST} ENDPOINT"):
        go_through(site)
    assert set(site.connections(volume_id)) == {"stray"}
    with pytest.raises(errors.HostUnavailable):
        site.service.volumes.create(CALLER, NewVolume(1))
    site.service.hosts.add(spec(HOST, site.backing))
    go_through(site)
    site.agree(volume_id)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(reconcile, "FOLLOW_SECONDS", 0.05)


@contextmanager
def running(service: Service, interval_seconds: float = 3600) -> Iterator[None]:
    service.reconciler = reconcile.Reconciler(
        service.records, service.claims, service.hosts, service.settling, interval_seconds
    )
    service.reconciler.start()
    try:
        yield
    finally:
        service.reconciler.stop(DEADLINE_SECONDS)


@pytest.fixture
def at_work(site: Site, quick: None) -> Iterator[Service]:
    """Its reconciler runs, and goes through a host whole only when it must."""
    with running(site.service):
        yield site.service


def test_a_copy_becomes_available_by_itself(site: Site, at_work: Service) -> None:
    source = at_work.volumes.create(CALLER, NewVolume(1, place=f"{HOST}#thick"))
    with long_work_held(site):
        copy = at_work.volumes.create(CALLER, NewVolume(None, source_volume_id=source.id))
        assert copy.status is VolumeStatus.CREATING
    until(lambda: site.status(copy.id) is VolumeStatus.AVAILABLE)


def test_leases_end_by_themselves(site: Site, at_work: Service) -> None:
    volume_id = site.volume()
    at_work.attachments.create(CALLER, volume_id)
    site.clock.pass_by(2 * LEASE_SECONDS)
    until(lambda: site.record(volume_id).attachments == ())


def test_what_is_left_is_finished_by_itself(site: Site, at_work: Service) -> None:
    volume_id = site.volume()
    attachment = attached(site, volume_id)
    at_work.drivers.faults["terminate_connection"].append(late_done)
    with pytest.raises(errors.OutcomeUnknown):
        at_work.attachments.delete(CALLER, attachment.id)
    until(lambda: site.record(volume_id).attachments == ())
    site.agree(volume_id)


def test_it_goes_through_all_when_it_starts(site: Site, quick: None) -> None:
    volume_id = site.volume()
    by_hand(site.driver, volume_id, "stray")
    with running(site.start()):
        until(lambda: not site.connections(volume_id))


def test_it_goes_through_all_from_time_to_time(site: Site, quick: None) -> None:
    volume_id = site.volume()
    with running(site.service, interval_seconds=0.1):
        for number in range(3):
            by_hand(site.driver, volume_id, f"stray-{number}")
            # Its target goes last.
            until(lambda: not site.exported(volume_id))


def test_a_target_goes_some_time_after_the_last_detach(site: Site) -> None:
    idle, again, reserved = (site.volume() for _ in range(3))
    foreign = str(uuid.uuid4())
    site.driver.volumes.create(foreign, 16 * MEBIBYTE, "thin")
    site.driver.create_export(None, {"id": foreign})
    for volume_id in (idle, again, reserved):
        site.service.attachments.delete(CALLER, attached(site, volume_id).id)
    site.service.attachments.create(CALLER, reserved)
    site.clock.pass_by(reconcile.IDLE_EXPORT.total_seconds() - 60)
    held = attached(site, again)
    go_through(site)
    assert all(site.exported(one) for one in (idle, again, reserved))
    site.clock.pass_by(120)
    go_through(site)
    assert not site.exported(idle)
    assert set(site.connections(again)) == {held.id}
    site.clock.pass_by(reconcile.IDLE_EXPORT.total_seconds())
    go_through(site)
    assert not site.exported(reserved) and site.exported(again)
    assert site.exported(foreign), "it is not ours"
    site.agree(idle)


class TwoHosts:
    def __init__(self, site: Site, other: SimulatedBacking) -> None:
        self.site = site
        self.other = other
        site.service.hosts.add(spec("other", other))
        self.driver = TargetdDriver(other.endpoint)

    def volume(self) -> str:
        made = self.site.service.volumes.create(CALLER, NewVolume(1, place="other#thin"))
        return made.id

    def connections(self, volume_id: str) -> list[str]:
        return [one.attachment_id for one in self.driver.connections.list(volume_id)]


@pytest.fixture
def two(site: Site) -> Iterator[TwoHosts]:
    with storage("other") as backings:
        made = TwoHosts(site, backings["other"])
        yield made
        made.driver.close()


def test_a_host_that_hangs_delays_no_other(site: Site, two: TwoHosts, quick: None) -> None:
    volume_id, hang = site.volume(), Hang()
    by_hand(site.driver, volume_id, "stray")
    connections = site.service.hosts.driver("other").connections
    with next_answers(connections, "list", hang), running(site.service):
        assert hang.reached.wait(DEADLINE_SECONDS)
        until(lambda: not site.connections(volume_id))
        hang.released.set()


def test_a_host_that_is_back_is_gone_through(two: TwoHosts, at_work: Service) -> None:
    volume_id = two.volume()
    two.other.daemon.stop()
    at_work.volumes.delete(CALLER, volume_id)
    assert two.site.status(volume_id) is VolumeStatus.DELETING
    until(lambda: at_work.hosts.list()[1].reachable is False)
    two.other.daemon = two.other._started()
    until(lambda: at_work.records.volume(volume_id) is None)
    assert list(two.driver.volumes.list()) == []


def test_what_came_while_it_was_away_is_seen(
    two: TwoHosts, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="attachd")
    volume_id = two.volume()
    by_hand(two.driver, volume_id, "stray")
    two.other.daemon.stop()
    with running(two.site.service):
        until(lambda: "storage host other is looked at later" in caplog.text)
        two.other.daemon = two.other._started()
        until(lambda: "storage host other is looked at again" in caplog.text)
    with TargetdDriver(two.other.endpoint) as driver:
        assert list(driver.connections.list(volume_id)) == []
    # It was tried many times, and said once.
    assert caplog.text.count("storage host other is looked at later") == 1


def test_hosts_that_come_and_go(site: Site, at_work: Service) -> None:
    with storage("late") as backings:
        at_work.hosts.add(spec("late", backings["late"]))
        until(lambda: "reconcile-late" in {one.name for one in threading.enumerate()})
        at_work.hosts.remove("late")
        until(lambda: "reconcile-late" not in {one.name for one in threading.enumerate()})
        at_work.hosts.add(spec("late", backings["late"]))
        until(lambda: "reconcile-late" in {one.name for one in threading.enumerate()})
