"""Snapshots over a storage host, whatever it answers, and when it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from targetd_driver import snapshots as driver

from attachd import errors
from attachd.model import (
    NewVolume,
    Page,
    Snapshot,
    SnapshotFilter,
    SnapshotStatus,
    VolumeStatus,
)
from attachd.placement import GIBIBYTE
from tests.attachd.faults import (
    Fault,
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

NOBODYS = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def snapshots_of(service: Service) -> driver.Snapshots:
    """Through which that process reaches the storage host."""
    return service.hosts.driver(HOST).snapshots


def there(site: Site) -> list[str]:
    return [one.snapshot_id for one in site.driver.snapshots.list()]


def taken(site: Site, volume_id: str) -> Snapshot:
    made = site.service.snapshots.create(CALLER, volume_id)
    assert made.status is SnapshotStatus.AVAILABLE
    return made


def only(site: Site) -> Snapshot:
    """The one that there is, in whatever state."""
    (found,) = site.service.snapshots.list(CALLER, SnapshotFilter(), Page())
    return found


def reconciled(site: Site) -> list[Snapshot]:
    """What there is after attachd has gone through the storage host."""
    site.service.reconciler.run(HOST)
    return list(site.service.snapshots.list(CALLER, SnapshotFilter(), Page()))


@pytest.fixture
def volume_id(site: Site) -> str:
    return site.service.volumes.create(CALLER, NewVolume(2, place=f"{HOST}#thin")).id


# Made


def test_a_snapshot_is_taken(site: Site, volume_id: str) -> None:
    made = site.service.snapshots.create(
        CALLER, volume_id, name="name", description="text", metadata={"key": "value"}
    )
    assert (made.name, made.description, made.metadata) == ("name", "text", {"key": "value"})
    assert (made.volume_id, made.size_gib, made.project_id) == (volume_id, 2, CALLER.project_id)
    assert made.status is SnapshotStatus.AVAILABLE
    found = site.service.snapshots.get(CALLER, made.id)
    assert replace(found, update_time=made.update_time) == made
    assert site.driver.snapshots.get(made.id).size_bytes == 2 * GIBIBYTE
    assert site.status(volume_id) is VolumeStatus.AVAILABLE


def test_a_snapshot_is_taken_of_what_is_in_use(site: Site, volume_id: str) -> None:
    attachment = site.service.attachments.create(CALLER, volume_id, connector=connector())
    site.service.attachments.complete(CALLER, attachment.id)
    made = taken(site, volume_id)
    assert there(site) == [made.id]
    site.agree(volume_id)


@pytest.mark.parametrize(
    "status", [VolumeStatus.CREATING, VolumeStatus.DELETING, VolumeStatus.ERROR]
)
def test_no_snapshot_of_what_is_not_whole(site: Site, volume_id: str, status: VolumeStatus) -> None:
    site.set_status(volume_id, status)
    with pytest.raises(errors.WrongStatus, match=status):
        site.service.snapshots.create(CALLER, volume_id)
    assert there(site) == []


def test_an_admins_snapshot_is_its_volumes_projects(site: Site, volume_id: str) -> None:
    made = site.service.snapshots.create(ADMIN, volume_id)
    assert site.service.snapshots.get(CALLER, made.id).id == made.id


def test_what_is_refused_leaves_no_record(site: Site, volume_id: str) -> None:
    with (
        next_answers(snapshots_of(site.service), "create", refused),
        pytest.raises(errors.HostRefused, match="the host will not"),
    ):
        site.service.snapshots.create(CALLER, volume_id)
    assert site.service.records.snapshots_of(volume_id) == ()
    site.service.volumes.delete(CALLER, volume_id)


@pytest.mark.parametrize("fault", [late_undone, late_done])
def test_a_host_that_does_not_answer_leaves_it_creating(
    site: Site, volume_id: str, fault: Fault
) -> None:
    with next_answers(snapshots_of(site.service), "create", fault):
        made = site.service.snapshots.create(CALLER, volume_id)
    assert made.status is SnapshotStatus.CREATING
    assert "no answer in time" in made.reason == only(site).reason
    with pytest.raises(errors.WrongStatus, match="creating"):
        site.service.volumes.create(CALLER, NewVolume(None, snapshot_id=made.id))
    (found,) = reconciled(site)
    assert (found.status, found.reason) == (SnapshotStatus.AVAILABLE, "")
    assert there(site) == [made.id]


@pytest.mark.parametrize("fault", [killed_before, killed_after])
def test_a_creation_that_was_cut_off_is_done(site: Site, volume_id: str, fault: Fault) -> None:
    with next_answers(snapshots_of(site.service), "create", fault), pytest.raises(Killed):
        site.service.snapshots.create(CALLER, volume_id)
    # Nobody knows yet that its process is no more.
    (cut_off,) = reconciled(site)
    assert cut_off.status is SnapshotStatus.CREATING
    site.restart()
    (found,) = reconciled(site)
    assert found.status is SnapshotStatus.AVAILABLE
    assert there(site) == [cut_off.id]


def test_a_creation_that_is_refused_later_is_an_error(site: Site, volume_id: str) -> None:
    with next_answers(snapshots_of(site.service), "create", late_undone, refused):
        site.service.snapshots.create(CALLER, volume_id)
        (found,) = reconciled(site)
    assert found.status is SnapshotStatus.ERROR and "the host will not" in found.reason
    said = "\n".join(site.service.volumes.explain(CALLER, volume_id))
    assert f"snapshot {found.id}: error, because: {found.reason}" in said
    site.service.snapshots.delete(CALLER, found.id)
    site.service.volumes.delete(CALLER, volume_id)


# Looked at and changed


def test_others_do_not_see_it(site: Site, volume_id: str) -> None:
    made, snapshots = taken(site, volume_id), site.service.snapshots
    for work in (
        lambda: snapshots.create(OTHER, volume_id),
        lambda: snapshots.get(OTHER, made.id),
        lambda: snapshots.update(OTHER, made.id, name="theirs"),
        lambda: snapshots.delete(OTHER, made.id),
    ):
        with pytest.raises(errors.NotFound):
            work()
    assert snapshots.list(OTHER, SnapshotFilter(), Page()) == []
    assert [one.id for one in snapshots.list(CALLER, SnapshotFilter(), Page())] == [made.id]
    assert there(site) == [made.id]


def test_its_names_change(site: Site, volume_id: str) -> None:
    made = taken(site, volume_id)
    changed = site.service.snapshots.update(CALLER, made.id, name="two", metadata={"b": "2"})
    assert (changed.name, changed.description, changed.metadata) == ("two", "", {"b": "2"})
    found = site.service.snapshots.get(CALLER, made.id)
    assert replace(found, update_time=changed.update_time) == changed


# Deleted


def test_a_deleted_snapshot_is_gone(site: Site, volume_id: str) -> None:
    made = taken(site, volume_id)
    site.service.snapshots.delete(CALLER, made.id)
    assert there(site) == []
    for work in (site.service.snapshots.get, site.service.snapshots.delete):
        with pytest.raises(errors.NotFound, match=made.id):
            work(CALLER, made.id)


def test_it_stays_while_a_volume_is_filled_from_it(site: Site, volume_id: str) -> None:
    made = taken(site, volume_id)
    with long_work_held(site):
        new = NewVolume(None, snapshot_id=made.id, place=f"{HOST}#thick")
        filled = site.service.volumes.create(CALLER, new)
        with pytest.raises(errors.HostRefused, match=filled.id):
            site.service.snapshots.delete(CALLER, made.id)
        assert only(site).status is SnapshotStatus.AVAILABLE
        operation_id = site.driver.volumes.get(filled.id).operation_id
    site.driver.operations.wait(operation_id, 60)
    site.service.snapshots.delete(CALLER, made.id)


@pytest.mark.parametrize("fault", [late_undone, late_done])
def test_it_goes_when_the_host_answers(site: Site, volume_id: str, fault: Fault) -> None:
    made = taken(site, volume_id)
    with next_answers(snapshots_of(site.service), "delete", fault):
        site.service.snapshots.delete(CALLER, made.id)
    found = only(site)
    assert found.status is SnapshotStatus.DELETING and "no answer in time" in found.reason
    with pytest.raises(errors.InUse, match=made.id):
        site.service.volumes.delete(CALLER, volume_id)
    assert reconciled(site) == [] and there(site) == []
    site.service.volumes.delete(CALLER, volume_id)


@pytest.mark.parametrize("fault", [killed_before, killed_after])
def test_a_deletion_that_was_cut_off_is_done(site: Site, volume_id: str, fault: Fault) -> None:
    made = taken(site, volume_id)
    with next_answers(snapshots_of(site.service), "delete", fault), pytest.raises(Killed):
        site.service.snapshots.delete(CALLER, made.id)
    site.restart()
    assert reconciled(site) == [] and there(site) == []


def test_a_deletion_that_is_refused_later_is_an_error(site: Site, volume_id: str) -> None:
    made = taken(site, volume_id)
    with next_answers(snapshots_of(site.service), "delete", late_undone, refused):
        site.service.snapshots.delete(CALLER, made.id)
        (found,) = reconciled(site)
    assert found.status is SnapshotStatus.ERROR_DELETING and "the host will not" in found.reason
    site.service.snapshots.delete(CALLER, made.id)
    assert there(site) == []


def test_an_unknown_snapshot_is_not_found(site: Site) -> None:
    with pytest.raises(errors.NotFound, match=NOBODYS):
        site.service.snapshots.delete(CALLER, NOBODYS)
    with pytest.raises(errors.NotFound, match=NOBODYS):
        site.service.snapshots.create(CALLER, NOBODYS)
