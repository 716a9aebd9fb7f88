"""Volumes over a storage host, whatever it answers, and when it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from targetd_driver import (
    DriverError,
    Forbidden,
    InvalidInput,
    Late,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
)
from targetd_driver import volumes as driver

from attachd import errors, outcomes
from attachd.model import (
    AttachStatus,
    NewVolume,
    Page,
    SnapshotStatus,
    Volume,
    VolumeFilter,
    VolumeStatus,
)
from attachd.placement import GIBIBYTE
from attachd.unfinished import Unfinished
from attachd.volumes import SIZE_GIB_MAX
from tests.attachd.faults import (
    Fault,
    Hang,
    Killed,
    killed_after,
    killed_before,
    late_done,
    late_undone,
    next_answers,
    refused,
)
from tests.attachd.site import (
    ADMIN,
    CALLER,
    HOST,
    OTHER,
    Service,
    Site,
    connector,
    long_work_held,
)
from tests.attachd.watched import watched
from tests.callers import at_once

Call = Callable[..., Any]
NOBODYS = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def no_space(call: Call) -> Any:
    raise NoSpace("the pool is full", "POOL_DATA_FULL", answered=True)


def there(site: Site) -> dict[str, driver.Volume]:
    return {one.volume_id: one for one in site.driver.volumes.list()}


def volumes_of(service: Service) -> driver.Volumes:
    """Through which that process reaches the storage host."""
    return service.hosts.driver(HOST).volumes


def thin(size_gib: int | None = 1, **more: Any) -> NewVolume:
    return NewVolume(size_gib, place=f"{HOST}#thin", **more)


def thick(size_gib: int | None = 1, **more: Any) -> NewVolume:
    return NewVolume(size_gib, place=f"{HOST}#thick", **more)


def create(site: Site, new: NewVolume) -> Volume:
    made = site.service.volumes.create(CALLER, new)
    assert made.status is VolumeStatus.AVAILABLE
    return made


def reconciled(site: Site, volume_id: str) -> Volume:
    """The volume, after attachd has gone through its storage host."""
    site.service.reconciler.run(HOST)
    return site.service.volumes.get(CALLER, volume_id)


# Made


def test_a_volume_is_made_on_a_storage_host(site: Site) -> None:
    new = NewVolume(2, "name", "described", multiattach=True, metadata={"key": "value"})
    made = site.service.volumes.create(CALLER, new)
    assert (made.name, made.description, made.metadata) == ("name", "described", {"key": "value"})
    assert (made.project_id, made.user_id) == (CALLER.project_id, CALLER.user_id)
    assert (made.host, made.size_gib, made.status) == (HOST, 2, VolumeStatus.AVAILABLE)
    found = site.service.volumes.get(CALLER, made.id)
    assert replace(found, update_time=made.update_time) == made
    seen = there(site)[made.id]
    assert (seen.size_bytes, seen.pool, seen.multi_attach) == (2 * GIBIBYTE, made.pool, True)


def test_a_volume_is_made_where_it_is_asked_for(site: Site) -> None:
    assert create(site, thin()).pool == "thin"
    assert create(site, thick()).pool == "thick"
    with pytest.raises(errors.Invalid, match="nowhere"):
        site.service.volumes.create(CALLER, NewVolume(1, place="nowhere"))


@pytest.mark.parametrize(
    "new",
    [
        NewVolume(None),
        NewVolume(0),
        NewVolume(-1),
        NewVolume(SIZE_GIB_MAX + 1),
        NewVolume(1, snapshot_id=NOBODYS, source_volume_id=NOBODYS),
    ],
)
def test_what_cannot_be_asked_for(site: Site, new: NewVolume) -> None:
    with pytest.raises(errors.Invalid):
        site.service.volumes.create(CALLER, new)
    assert there(site) == {}


def test_a_pool_that_refuses_leaves_it_to_another(site: Site) -> None:
    with next_answers(volumes_of(site.service), "create", no_space):
        made = create(site, NewVolume(1))
    assert list(there(site)) == [made.id]
    assert [one.id for one in site.service.records.volumes_of_host(HOST)] == [made.id]


def test_no_room_anywhere_says_why(site: Site) -> None:
    refusals = [no_space] * 2
    with (
        next_answers(volumes_of(site.service), "create", *refusals),
        pytest.raises(errors.NoRoom, match=r"has refused it .*the pool is full"),
    ):
        site.service.volumes.create(CALLER, NewVolume(1))
    assert site.service.records.volumes_of_host(HOST) == []


def test_what_is_refused_leaves_nothing_there(site: Site) -> None:
    def after_all(call: Call) -> Any:
        call()
        raise Refused("the host will not", "TEST", answered=True)

    with (
        next_answers(volumes_of(site.service), "create", after_all),
        pytest.raises(errors.HostRefused, match="the host will not"),
    ):
        site.service.volumes.create(CALLER, thin())
    assert there(site) == {}
    assert site.service.records.volumes_of_host(HOST) == []


def test_what_is_refused_and_stays_there_is_deleted_later(site: Site) -> None:
    def after_all(call: Call) -> Any:
        call()
        raise Refused("the host will not", "TEST", answered=True)

    with (
        next_answers(volumes_of(site.service), "create", after_all),
        next_answers(volumes_of(site.service), "delete", late_undone),
        pytest.raises(errors.HostRefused),
    ):
        site.service.volumes.create(CALLER, thin())
    assert len(there(site)) == 1
    site.service.reconciler.run(HOST)
    assert there(site) == {}
    assert site.service.records.volumes_of_host(HOST) == []


@pytest.mark.parametrize("fault", [late_undone, late_done])
def test_a_host_that_does_not_answer_leaves_it_creating(site: Site, fault: Fault) -> None:
    with next_answers(volumes_of(site.service), "create", fault):
        made = site.service.volumes.create(CALLER, thin())
    assert made.status is VolumeStatus.CREATING
    assert "no answer in time" in made.reason
    assert made.reason == site.service.volumes.get(CALLER, made.id).reason
    found = reconciled(site, made.id)
    assert (found.status, found.reason) == (VolumeStatus.AVAILABLE, "")
    assert list(there(site)) == [made.id]


@pytest.mark.parametrize("fault", [killed_before, killed_after])
def test_a_creation_that_was_cut_off_is_done(site: Site, fault: Fault) -> None:
    with next_answers(volumes_of(site.service), "create", fault), pytest.raises(Killed):
        site.service.volumes.create(CALLER, thin())
    (cut_off,) = site.service.records.volumes_of_host(HOST)
    # Nobody knows yet that its process is no more.
    assert reconciled(site, cut_off.id).status is VolumeStatus.CREATING
    site.restart()
    assert reconciled(site, cut_off.id).status is VolumeStatus.AVAILABLE
    assert list(there(site)) == [cut_off.id]


def test_a_creation_that_is_refused_later_is_an_error(site: Site) -> None:
    with next_answers(volumes_of(site.service), "create", late_undone, refused):
        made = site.service.volumes.create(CALLER, thin())
        found = reconciled(site, made.id)
    assert (found.status, found.reason) == (
        VolumeStatus.ERROR,
        f"storage host {HOST}: the host will not",
    )
    assert any(
        "the host will not" in line for line in site.service.volumes.explain(CALLER, made.id)
    )
    site.service.volumes.delete(CALLER, made.id)
    with pytest.raises(errors.NotFound):
        site.service.volumes.get(CALLER, made.id)


def test_what_somebody_else_has_done_is_not_done_again(site: Site) -> None:
    made, service = create(site, thin()), site.service
    unfinished, before = Unfinished(service.claims, service.hosts), site.record(made.id)
    for status in (VolumeStatus.DELETING, VolumeStatus.EXTENDING, VolumeStatus.CREATING):
        assert unfinished.volume(replace(made, status=status, size_gib=2))
    assert site.record(made.id) == before
    assert there(site)[made.id].size_bytes == GIBIBYTE
    snapshot = service.snapshots.create(CALLER, made.id)
    unfinished.snapshot(replace(snapshot, status=SnapshotStatus.DELETING))
    assert service.snapshots.get(CALLER, snapshot.id).status is SnapshotStatus.AVAILABLE


@pytest.mark.parametrize("kind", [Refused, NotFound, NoSpace, InvalidInput])
def test_only_the_hosts_own_refusal_is_final(kind: type[DriverError]) -> None:
    assert outcomes.is_final(kind("no", answered=True))
    assert not outcomes.is_final(kind("no"))


@pytest.mark.parametrize("kind", [Unavailable, Late, Forbidden, DriverError])
def test_what_may_change_by_itself_is_not_final(kind: type[DriverError]) -> None:
    assert not outcomes.is_final(kind("no", answered=True))


# From a source


def test_from_a_snapshot_and_from_a_volume(site: Site) -> None:
    source = create(site, thin(2))
    snapshot = site.service.snapshots.create(CALLER, source.id)
    from_snapshot = create(site, NewVolume(None, snapshot_id=snapshot.id))
    from_volume = create(site, NewVolume(3, source_volume_id=source.id))
    seen = there(site)
    assert (from_snapshot.pool, from_snapshot.size_gib) == ("thin", 2)
    assert seen[from_snapshot.id].source_snapshot_id == snapshot.id
    assert (from_volume.pool, from_volume.size_gib) == ("thin", 3)
    assert seen[from_volume.id].source_volume_id == source.id
    assert (from_volume.snapshot_id, from_volume.source_volume_id) == (None, source.id)


def test_a_copy_stays_creating_until_it_is_whole(site: Site) -> None:
    source = create(site, thin())
    with long_work_held(site):
        made = site.service.volumes.create(CALLER, thick(None, source_volume_id=source.id))
        assert made.status is VolumeStatus.CREATING
        before = site.record(made.id)
        assert site.service.reconciler.run(HOST).waits
        # It is looked at often: nothing is written as long as nothing changes.
        assert site.record(made.id) == before
        said = site.service.volumes.explain(CALLER, made.id)
        assert any("copying from its source, 0 % done" in line for line in said)
        operation_id = there(site)[made.id].operation_id
    site.driver.operations.wait(operation_id, 60)
    assert not site.service.reconciler.run(HOST).waits
    assert site.service.volumes.get(CALLER, made.id).status is VolumeStatus.AVAILABLE


def test_a_copy_can_be_given_up(site: Site) -> None:
    source = create(site, thin())
    with long_work_held(site):
        made = site.service.volumes.create(CALLER, thick(None, source_volume_id=source.id))
        # It holds its source.
        with pytest.raises(errors.HostRefused, match=made.id):
            site.service.volumes.delete(CALLER, source.id)
        assert site.service.volumes.get(CALLER, source.id).status is VolumeStatus.AVAILABLE
        with next_answers(volumes_of(site.service), "delete", late_undone):
            site.service.volumes.delete(CALLER, made.id)
    site.service.reconciler.run(HOST)
    assert list(there(site)) == [source.id]
    site.service.volumes.delete(CALLER, source.id)


def test_a_source_keeps_its_size_and_its_host(site: Site) -> None:
    source = create(site, thin(2))
    with pytest.raises(errors.Invalid, match="less than the 2 GiB"):
        site.service.volumes.create(CALLER, NewVolume(1, source_volume_id=source.id))
    new = NewVolume(2, source_volume_id=source.id, place="nowhere")
    with pytest.raises(errors.Invalid, match=f"storage host {HOST}"):
        site.service.volumes.create(CALLER, new)


def test_sources_that_are_not_there(site: Site) -> None:
    source = create(site, thin())
    snapshot = site.service.snapshots.create(CALLER, source.id)
    for new in (
        NewVolume(1, source_volume_id=NOBODYS),
        NewVolume(1, snapshot_id=NOBODYS),
    ):
        with pytest.raises(errors.NotFound):
            site.service.volumes.create(CALLER, new)
    for new in (
        NewVolume(1, source_volume_id=source.id),
        NewVolume(1, snapshot_id=snapshot.id),
    ):
        with pytest.raises(errors.NotFound):
            site.service.volumes.create(OTHER, new)


def test_a_source_must_be_whole(site: Site) -> None:
    source = create(site, thin())
    site.set_status(source.id, VolumeStatus.ERROR)
    with pytest.raises(errors.WrongStatus, match="error"):
        site.service.volumes.create(CALLER, NewVolume(1, source_volume_id=source.id))


def test_a_draining_host_gets_no_copies(site: Site) -> None:
    source = create(site, thin())
    site.service.hosts.drain(HOST)
    with pytest.raises(errors.NoRoom, match="drained"):
        site.service.volumes.create(CALLER, NewVolume(1, source_volume_id=source.id))
    assert list(there(site)) == [source.id]
    # What it has is served.
    site.service.volumes.extend(CALLER, source.id, 2)
    site.service.snapshots.create(CALLER, source.id)


def test_a_host_that_is_drained_meanwhile_gets_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = site.service
    place = service.hosts.place

    def placed(*arguments: Any) -> tuple[str, str]:
        found = place(*arguments)
        site.start().hosts.drain(HOST)
        return found

    monkeypatch.setattr(service.hosts, "place", placed)
    with pytest.raises(errors.NoRoom, match="drained"):
        service.volumes.create(CALLER, NewVolume(1))
    assert there(site) == {}


# Looked at and changed


def test_others_do_not_see_it(site: Site) -> None:
    made = create(site, thin())
    volumes = site.service.volumes
    for work in (
        lambda: volumes.get(OTHER, made.id),
        lambda: volumes.update(OTHER, made.id, name="theirs"),
        lambda: volumes.extend(OTHER, made.id, 2),
        lambda: volumes.explain(OTHER, made.id),
        lambda: volumes.delete(OTHER, made.id),
    ):
        with pytest.raises(errors.NotFound):
            work()
    assert volumes.list(OTHER, VolumeFilter(), Page()) == []
    assert [one.id for one in volumes.list(CALLER, VolumeFilter(), Page())] == [made.id]
    assert volumes.get(ADMIN, made.id).name == ""


def test_its_names_change(site: Site) -> None:
    made = create(site, thin(name="one", description="text", metadata={"a": "1"}))
    changed = site.service.volumes.update(CALLER, made.id, name="two")
    assert (changed.name, changed.description, changed.metadata) == ("two", "text", {"a": "1"})
    changed = site.service.volumes.update(CALLER, made.id, description="", metadata={"b": "2"})
    assert (changed.name, changed.description, changed.metadata) == ("two", "", {"b": "2"})
    found = site.service.volumes.get(CALLER, made.id)
    assert replace(found, update_time=changed.update_time) == changed


def test_names_change_while_somebody_works_on_it(site: Site) -> None:
    made, hang = create(site, thin()), Hang()
    with next_answers(volumes_of(site.service), "extend", hang):
        extending = threading.Thread(target=site.service.volumes.extend, args=(CALLER, made.id, 2))
        extending.start()
        assert hang.reached.wait(60)
        site.service.volumes.update(CALLER, made.id, name="new")
        with pytest.raises(errors.Busy, match="extend"):
            site.start(wait_seconds=0.1).volumes.delete(CALLER, made.id)
        hang.released.set()
        extending.join()
    found = site.service.volumes.get(CALLER, made.id)
    assert (found.name, found.size_gib, found.status) == ("new", 2, VolumeStatus.AVAILABLE)


# Extended


def test_a_volume_grows(site: Site) -> None:
    made = create(site, thin())
    grown = site.service.volumes.extend(CALLER, made.id, 3)
    assert (grown.size_gib, grown.status) == (3, VolumeStatus.AVAILABLE)
    assert site.service.volumes.get(CALLER, made.id).size_gib == 3
    assert there(site)[made.id].size_bytes == 3 * GIBIBYTE


def test_a_volume_grows_in_use(site: Site) -> None:
    made = create(site, thin())
    attachment = site.service.attachments.create(CALLER, made.id, connector=connector())
    site.service.attachments.complete(CALLER, attachment.id)
    grown = site.service.volumes.extend(CALLER, made.id, 2)
    assert grown.status is VolumeStatus.IN_USE
    site.agree(made.id)


@pytest.mark.parametrize("size_gib", [0, 1, 2, SIZE_GIB_MAX + 1])
def test_a_size_that_is_not_more_is_refused(site: Site, size_gib: int) -> None:
    made = create(site, thin(2))
    with pytest.raises(errors.Invalid, match="2 GiB"):
        site.service.volumes.extend(CALLER, made.id, size_gib)
    assert site.service.volumes.get(CALLER, made.id) == site.record(made.id)


@pytest.mark.parametrize(
    "status",
    [VolumeStatus.CREATING, VolumeStatus.DELETING, VolumeStatus.ERROR, VolumeStatus.DETACHING],
)
def test_it_grows_only_when_it_is_whole(site: Site, status: VolumeStatus) -> None:
    made = create(site, thin())
    site.set_status(made.id, status)
    with pytest.raises(errors.WrongStatus, match=status):
        site.service.volumes.extend(CALLER, made.id, 2)


def test_what_does_not_grow_is_as_it_was(site: Site) -> None:
    made = create(site, thick())
    site.service.snapshots.create(CALLER, made.id)
    before = site.record(made.id)
    with pytest.raises(errors.HostRefused, match="snapshots"):
        site.service.volumes.extend(CALLER, made.id, 2)
    site.service.volumes.get(CALLER, made.id)
    with pytest.raises(errors.NoRoom):
        site.service.volumes.extend(CALLER, create(site, thick()).id, 1000)
    after = site.record(made.id)
    assert replace(after, update_time=before.update_time) == before


@pytest.mark.parametrize("fault", [late_undone, late_done])
def test_it_grows_when_the_host_answers(site: Site, fault: Fault) -> None:
    made = create(site, thin())
    with next_answers(volumes_of(site.service), "extend", fault):
        extending = site.service.volumes.extend(CALLER, made.id, 2)
    assert (extending.status, extending.size_gib) == (VolumeStatus.EXTENDING, 2)
    assert "no answer in time" in site.record(made.id).reason
    found = reconciled(site, made.id)
    assert (found.status, found.size_gib, found.reason) == (VolumeStatus.AVAILABLE, 2, "")
    assert there(site)[made.id].size_bytes == 2 * GIBIBYTE


@pytest.mark.parametrize("fault", [killed_before, killed_after])
def test_growth_that_was_cut_off_is_done(site: Site, fault: Fault) -> None:
    made = create(site, thin())
    attachment = site.service.attachments.create(CALLER, made.id, connector=connector())
    site.service.attachments.complete(CALLER, attachment.id)
    with next_answers(volumes_of(site.service), "extend", fault), pytest.raises(Killed):
        site.service.volumes.extend(CALLER, made.id, 2)
    site.restart()
    found = reconciled(site, made.id)
    assert (found.status, found.size_gib) == (VolumeStatus.IN_USE, 2)
    assert there(site)[made.id].size_bytes == 2 * GIBIBYTE
    site.agree(made.id)


def test_growth_that_is_refused_later_is_an_error_with_its_real_size(site: Site) -> None:
    made = create(site, thin())
    with next_answers(volumes_of(site.service), "extend", late_undone, refused):
        site.service.volumes.extend(CALLER, made.id, 2)
        found = reconciled(site, made.id)
    assert (found.status, found.size_gib) == (VolumeStatus.ERROR_EXTENDING, 1)
    assert "the host will not" in found.reason
    grown = site.service.volumes.extend(CALLER, made.id, 2)
    assert (grown.status, grown.reason) == (VolumeStatus.AVAILABLE, "")


# Deleted


def test_a_deleted_volume_is_gone(site: Site) -> None:
    made = create(site, thin())
    site.service.volumes.delete(CALLER, made.id)
    assert there(site) == {}
    for work in (site.service.volumes.get, site.service.volumes.delete):
        with pytest.raises(errors.NotFound, match=made.id):
            work(CALLER, made.id)


def test_a_wipe_does_not_hold_the_record(site: Site) -> None:
    made = create(site, thick())
    with long_work_held(site):
        site.service.volumes.delete(CALLER, made.id)
        with pytest.raises(errors.NotFound):
            site.service.volumes.get(CALLER, made.id)
        assert any(name.startswith("deleted-") for name in site.backing.volumes())


def test_what_lives_on_it_is_named(site: Site) -> None:
    made = create(site, thin())
    reserved = site.service.attachments.create(CALLER, made.id)
    with pytest.raises(errors.InUse, match=rf"{reserved.id} \(reserved\)"):
        site.service.volumes.delete(CALLER, made.id)
    site.service.attachments.delete(CALLER, reserved.id)
    snapshot = site.service.snapshots.create(CALLER, made.id)
    with pytest.raises(errors.InUse, match=rf"snapshots: {snapshot.id}"):
        site.service.volumes.delete(CALLER, made.id)
    site.service.snapshots.delete(CALLER, snapshot.id)
    site.service.volumes.delete(CALLER, made.id)


def test_its_target_goes_with_it(site: Site) -> None:
    made = create(site, thin())
    site.driver.create_export(None, {"id": made.id})
    site.service.volumes.delete(CALLER, made.id)
    assert there(site) == {} and not site.exported(made.id)


def test_access_without_a_record_keeps_it(site: Site) -> None:
    made = create(site, thin())
    site.driver.create_export(None, {"id": made.id})
    site.driver.initialize_connection({"id": made.id}, connector(), "by-hand")
    with pytest.raises(errors.HostRefused, match="by-hand"):
        site.service.volumes.delete(CALLER, made.id)
    assert reconciled(site, made.id).status is VolumeStatus.AVAILABLE
    site.service.volumes.delete(CALLER, made.id)


@pytest.mark.parametrize("fault", [late_undone, late_done])
def test_it_goes_when_the_host_answers(site: Site, fault: Fault) -> None:
    made = create(site, thin())
    with next_answers(volumes_of(site.service), "delete", fault):
        site.service.volumes.delete(CALLER, made.id)
    found = site.service.volumes.get(CALLER, made.id)
    assert found.status is VolumeStatus.DELETING and "no answer in time" in found.reason
    with pytest.raises(errors.WrongStatus, match="deleting"):
        site.service.attachments.create(CALLER, made.id)
    site.service.reconciler.run(HOST)
    with pytest.raises(errors.NotFound):
        site.service.volumes.get(CALLER, made.id)
    assert there(site) == {}


@pytest.mark.parametrize("fault", [killed_before, killed_after])
def test_a_deletion_that_was_cut_off_is_done(site: Site, fault: Fault) -> None:
    made = create(site, thin())
    with next_answers(volumes_of(site.service), "delete", fault), pytest.raises(Killed):
        site.service.volumes.delete(CALLER, made.id)
    site.restart().reconciler.run(HOST)
    with pytest.raises(errors.NotFound):
        site.service.volumes.get(CALLER, made.id)
    assert there(site) == {}


def test_a_deletion_may_be_asked_for_again(site: Site) -> None:
    made = create(site, thin())
    with next_answers(volumes_of(site.service), "delete", late_done):
        site.service.volumes.delete(CALLER, made.id)
    site.service.volumes.delete(CALLER, made.id)
    with pytest.raises(errors.NotFound):
        site.service.volumes.get(CALLER, made.id)


def test_a_deletion_that_is_refused_later_is_an_error(site: Site) -> None:
    made = create(site, thin())
    with next_answers(volumes_of(site.service), "delete", late_undone, refused):
        site.service.volumes.delete(CALLER, made.id)
        found = reconciled(site, made.id)
    assert found.status is VolumeStatus.ERROR_DELETING and "the host will not" in found.reason
    site.service.volumes.delete(CALLER, made.id)
    assert there(site) == {}


@pytest.mark.parametrize(
    "status",
    [VolumeStatus.ERROR, VolumeStatus.ERROR_EXTENDING, VolumeStatus.ERROR_DELETING],
)
def test_a_broken_volume_can_be_deleted(site: Site, status: VolumeStatus) -> None:
    made = create(site, thin())
    site.set_status(made.id, status)
    site.driver.volumes.delete(made.id)
    site.service.volumes.delete(CALLER, made.id)
    with pytest.raises(errors.NotFound):
        site.service.volumes.get(CALLER, made.id)


# Put right by hand


def test_an_admin_resets_a_status(site: Site) -> None:
    made, volumes = create(site, thin()), site.service.volumes
    broken = volumes.reset_status(ADMIN, made.id, VolumeStatus.ERROR)
    assert (broken.status, broken.reason) == (VolumeStatus.ERROR, "set by an administrator")
    good = volumes.reset_status(ADMIN, made.id, VolumeStatus.AVAILABLE)
    assert (good.status, good.reason) == (VolumeStatus.AVAILABLE, "")
    with pytest.raises(errors.NotAllowed):
        volumes.reset_status(CALLER, made.id, VolumeStatus.ERROR)
    with pytest.raises(errors.Invalid, match="available"):
        volumes.reset_status(ADMIN, made.id, VolumeStatus.CREATING)


def test_a_reset_says_what_is_true(site: Site) -> None:
    made, volumes = create(site, thin()), site.service.volumes
    attachment = site.service.attachments.create(CALLER, made.id, connector=connector())
    site.service.attachments.complete(CALLER, attachment.id)
    volumes.reset_status(ADMIN, made.id, VolumeStatus.ERROR)
    with pytest.raises(errors.InUse, match=attachment.id):
        volumes.reset_status(ADMIN, made.id, VolumeStatus.AVAILABLE)
    assert site.status(made.id) is VolumeStatus.ERROR
    assert volumes.reset_status(ADMIN, made.id, VolumeStatus.IN_USE).status is VolumeStatus.IN_USE
    site.agree(made.id)
    lost = create(site, thin())
    site.driver.volumes.delete(lost.id)
    with pytest.raises(errors.HostRefused, match="not"):
        volumes.reset_status(ADMIN, lost.id, VolumeStatus.AVAILABLE)
    assert site.record(lost.id).claim is None


# Explained


def test_a_volume_is_explained(site: Site) -> None:
    made, service = create(site, thin(name="name")), site.service
    snapshot = service.snapshots.create(CALLER, made.id)
    attachment = service.attachments.create(CALLER, made.id, connector=connector("a"))
    said = "\n".join(service.volumes.explain(CALLER, made.id))
    assert f'volume {made.id} "name" of project project: 1 GiB, attaching' in said
    assert f"snapshot {snapshot.id}: available" in said
    assert f"attachment {attachment.id} for a, rw: connected" in said
    assert f"storage host {HOST} has it: 1 GiB, available" in said
    assert f"access there by attachment {attachment.id}: a (" in said
    assert "rw, granted, not logged in" in said


def test_what_differs_is_explained(site: Site) -> None:
    made, service = create(site, thin()), site.service
    attachment = service.attachments.create(CALLER, made.id, connector=connector("a"))
    site.driver.terminate_connection({"id": made.id}, None, attachment.id)
    site.driver.initialize_connection({"id": made.id}, connector("b"), "stray")
    said = "\n".join(service.volumes.explain(CALLER, made.id))
    assert f"attachment {attachment.id} has no access there" in said
    assert "attachment stray has no record" in said
    reserved = service.attachments.create(CALLER, create(site, thin()).id)
    assert reserved.attach_status is AttachStatus.RESERVED
    said = "\n".join(service.volumes.explain(CALLER, reserved.volume_id))
    assert f"attachment {reserved.id} goes by itself at" in said
    site.clock.pass_by(4000)
    said = "\n".join(service.volumes.explain(CALLER, reserved.volume_id))
    assert f"attachment {reserved.id} should have gone by itself at" in said


def test_who_works_on_it_is_explained(site: Site) -> None:
    made = create(site, thin())
    with (
        next_answers(volumes_of(site.service), "extend", killed_before),
        pytest.raises(Killed),
    ):
        site.service.volumes.extend(CALLER, made.id, 2)
    said = "\n".join(site.service.volumes.explain(CALLER, made.id))
    assert "being worked on: extend, by test since" in said
    site.clock.pass_by(3600)
    said = "\n".join(site.service.volumes.explain(CALLER, made.id))
    assert "cut off: extend" in said


def test_what_the_host_does_not_have_is_explained(site: Site) -> None:
    made = create(site, thin())
    site.driver.volumes.delete(made.id)
    said = site.service.volumes.explain(CALLER, made.id)
    assert said[-1] == f"storage host {HOST} has no such volume"


# However many there are


def statements_of(site: Site) -> dict[str, int]:
    """How many each call sends to the database."""
    counted: list[str] = []
    found = dict[str, int]()

    def count(text: str, _parameters: object) -> None:
        counted.append(text)

    @contextmanager
    def counting(name: str) -> Iterator[None]:
        counted.clear()
        yield
        found[name] = len(counted)

    volumes, snapshots = site.service.volumes, site.service.snapshots
    with watched(site.database, count):
        with counting("create"):
            made = volumes.create(CALLER, NewVolume(1))
        with counting("get"):
            volumes.get(CALLER, made.id)
        with counting("list"):
            volumes.list(CALLER, VolumeFilter(), Page(limit=5))
        with counting("extend"):
            volumes.extend(CALLER, made.id, 2)
        with counting("snapshot"):
            snapshot = snapshots.create(CALLER, made.id)
        with counting("delete snapshot"):
            snapshots.delete(CALLER, snapshot.id)
        with counting("delete"):
            volumes.delete(CALLER, made.id)
        with counting("reconcile"):
            site.service.reconciler.run(HOST)
    return found


def test_the_number_of_statements_does_not_grow(site: Site) -> None:
    create(site, thin())
    first = statements_of(site)
    for _ in range(20):
        create(site, thin())
    assert statements_of(site) == first


# At once


def test_many_are_made_and_deleted_at_once(site: Site) -> None:
    volumes = site.service.volumes
    made = at_once(lambda _: volumes.create(CALLER, NewVolume(1)), range(16))
    assert {one.status for one in made} == {VolumeStatus.AVAILABLE}
    assert set(there(site)) == {one.id for one in made}
    at_once(lambda one: volumes.delete(CALLER, one.id), made)
    assert there(site) == {} and site.service.records.volumes_of_host(HOST) == []


def test_one_is_deleted_extended_and_copied_at_once(site: Site) -> None:
    made = create(site, thin())
    services = [site.service, site.start()]

    def work(number: int) -> str:
        volumes, snapshots = services[number % 2].volumes, services[number % 2].snapshots
        calls = (
            lambda: volumes.delete(CALLER, made.id),
            lambda: volumes.extend(CALLER, made.id, 2 + number),
            lambda: snapshots.create(CALLER, made.id),
            lambda: volumes.create(CALLER, NewVolume(None, source_volume_id=made.id)),
        )
        try:
            calls[number % 4]()
        except errors.HostUnavailable as error:
            # The host's own word, for the moment.
            assert "another call is at work on" in str(error)
            return "done"
        except errors.AttachError as error:
            return type(error).__name__
        return "done"

    answers = at_once(work, range(16))
    assert set(answers) <= {"done", "NotFound", "InUse", "WrongStatus", "Invalid", "HostRefused"}
    records = {one.id: one for one in site.service.records.volumes_of_host(HOST)}
    assert {one.status for one in records.values()} <= {VolumeStatus.AVAILABLE}
    seen = there(site)
    assert seen.keys() == records.keys()
    assert {id_: one.size_bytes // GIBIBYTE for id_, one in seen.items()} == {
        id_: one.size_gib for id_, one in records.items()
    }
    snapshots = {one.snapshot_id for one in site.driver.snapshots.list()}
    assert snapshots == {one.id for one in site.service.records.snapshots_of(made.id)}
