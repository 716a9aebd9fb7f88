"""Storage hosts: recorded, reached, drained, and given new volumes by what they have left."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from targetd_driver import DriverError, Endpoint, TargetdDriver

from attachd import capacity, errors
from attachd.database.engine import Database
from attachd.hosts import Hosts, Reach
from attachd.model import HostSpec, HostState, Snapshot, SnapshotStatus, Volume, VolumeStatus
from attachd.placement import GIBIBYTE, Marks, Place
from targetd.roles import Role
from tests.attachd.hosts import POOL_BYTES, Process, spec, sqlite, storage
from tests.hosts import SimulatedBacking

Backings = Mapping[str, SimulatedBacking]
POOL_GIB = POOL_BYTES // GIBIBYTE


@pytest.fixture
def database() -> Iterator[Database]:
    with sqlite() as made:
        yield made


@pytest.fixture
def process(database: Database) -> Iterator[Process]:
    made = Process(database)
    yield made
    made.close()


@pytest.fixture
def hosts(process: Process) -> Hosts:
    return process.hosts


@pytest.fixture
def backings() -> Iterator[Backings]:
    with storage("a", "b") as made:
        yield made


@pytest.fixture
def both(hosts: Hosts, backings: Backings) -> Backings:
    for name, backing in backings.items():
        hosts.add(spec(name, backing))
    return backings


def record_volume(process: Process, host: str) -> str:
    """A record alone."""
    volume = Volume(
        id=str(uuid.uuid4()),
        project_id="project",
        user_id="",
        name="",
        description="",
        size_gib=1,
        status=VolumeStatus.AVAILABLE,
        multiattach=False,
        host=host,
        pool="thin",
        snapshot_id=None,
        source_volume_id=None,
        metadata={},
        create_time=datetime.now(UTC),
        update_time=datetime.now(UTC),
    )
    with process.records.writing() as changes:
        changes.add_volume(volume)
    return volume.id


def record_snapshot(process: Process, volume_id: str) -> str:
    snapshot_id, now = str(uuid.uuid4()), process.records.clock()
    with process.records.writing() as changes:
        changes.add_snapshot(
            Snapshot(
                id=snapshot_id,
                project_id="project",
                user_id="user",
                volume_id=volume_id,
                name="s",
                description="",
                size_gib=1,
                status=SnapshotStatus.AVAILABLE,
                metadata={},
                create_time=now,
                update_time=now,
            )
        )
    return snapshot_id


def states(hosts: Hosts) -> dict[str, HostState]:
    return {one.name: one.state for one in hosts.list()}


# Records


def test_a_host_is_added_with_its_identity(hosts: Hosts, backings: Backings) -> None:
    made = hosts.add(spec("a", backings["a"]))
    assert (made.name, made.state, made.volumes) == ("a", HostState.UP, 0)
    assert made.lock_domain_id == hosts.driver("a").host.get().lock_domain_id != ""
    assert hosts.add(spec("a", backings["a"])) == made
    assert states(hosts) == {"a": HostState.UP}


@pytest.mark.parametrize("name", ["", "a#b", "a b", "-a", "a" * 256])
def test_a_bad_name_is_refused(hosts: Hosts, name: str) -> None:
    with pytest.raises(errors.Invalid, match="letters"):
        hosts.add(HostSpec(name, "unix:/nowhere"))


def test_a_host_that_does_not_answer_is_not_added(hosts: Hosts) -> None:
    with pytest.raises(errors.HostUnavailable, match="a"):
        hosts.add(HostSpec("a", "unix:/nowhere/targetd.sock"))
    assert states(hosts) == {}


def test_tcp_needs_the_files_of_the_configuration(
    hosts: Hosts, database: Database, backings: Backings
) -> None:
    endpoint = backings["a"].endpoint_for(Role.ADMIN)
    with pytest.raises(errors.HostUnavailable, match="host_tls"):
        hosts.add(HostSpec("a", endpoint.address))
    assert endpoint.tls is not None
    missing = replace(endpoint.tls, key=endpoint.tls.key.with_name("missing"))
    with pytest.raises(errors.HostUnavailable, match="missing"):
        Hosts(database, Reach(missing)).add(HostSpec("a", endpoint.address))
    over_tcp = Hosts(database, Reach(endpoint.tls))
    assert over_tcp.add(HostSpec("a", endpoint.address)).name == "a"
    assert over_tcp.driver("a").host.health() == "SERVING"
    over_tcp.close()


def test_a_certificate_that_may_not_make_volumes_is_refused(
    database: Database, backings: Backings
) -> None:
    endpoint = backings["a"].endpoint_for(Role.VIEWER)
    with pytest.raises(errors.NotAllowed, match="viewer"):
        Hosts(database, Reach(endpoint.tls)).add(HostSpec("a", endpoint.address))


def test_one_host_has_one_name(hosts: Hosts, both: Backings) -> None:
    with pytest.raises(errors.InUse, match="storage host a already"):
        hosts.add(spec("c", both["a"]))


def test_a_host_may_move_to_another_address(hosts: Hosts, both: Backings, tmp_path: str) -> None:
    hosts.drain("a")
    moved = both["a"].socket.with_name("moved.sock")
    moved.symlink_to(both["a"].socket)
    made = hosts.add(HostSpec("a", f"unix:{moved}"))
    assert made.endpoint == f"unix:{moved}"
    assert made.state is HostState.DRAINING
    assert hosts.driver("a").host.get().lock_domain_id == made.lock_domain_id


def test_a_name_goes_to_another_host_only_with_its_volumes(
    process: Process, backings: Backings
) -> None:
    hosts = process.hosts
    hosts.add(spec("a", backings["a"]))
    volume_id = record_volume(process, "a")
    with pytest.raises(errors.InUse, match=volume_id):
        hosts.add(spec("a", backings["b"]))
    # The host's state was lost, its volumes are there: it is the same.
    with TargetdDriver(backings["b"].endpoint) as driver:
        driver.volumes.create(volume_id, GIBIBYTE, "thin")
        identity = driver.host.get().lock_domain_id
    assert hosts.add(spec("a", backings["b"])).lock_domain_id == identity


def test_draining_and_resuming(hosts: Hosts, both: Backings) -> None:
    hosts.drain("a")
    assert states(hosts) == {"a": HostState.DRAINING, "b": HostState.UP}
    assert {hosts.place(1)[0] for _ in range(5)} == {"b"}
    assert hosts.driver("a").host.health() == "SERVING"
    with pytest.raises(errors.NoRoom, match="a is being drained"):
        hosts.place(1, Place("a"))
    hosts.resume("a")
    assert hosts.place(1, Place("a"))[0] == "a"


def test_a_host_with_volumes_is_not_removed(process: Process, both: Backings) -> None:
    hosts = process.hosts
    volume_id = record_volume(process, "a")
    assert [one.volumes for one in hosts.list()] == [1, 0]
    assert [one.volumes for one in hosts.look()] == [1, 0]
    with pytest.raises(errors.InUse, match=rf"1 volume \({volume_id}\).*drain a"):
        hosts.remove("a")
    with process.records.writing() as changes:
        changes.remove_volume(volume_id)
    hosts.remove("a")
    assert states(hosts) == {"b": HostState.UP}
    with pytest.raises(errors.HostUnavailable, match="host add a"):
        hosts.driver("a")
    assert hosts.add(spec("a", both["a"])).volumes == 0


def test_a_host_that_is_lost_is_forgotten_with_all_that_it_had(process: Process) -> None:
    hosts = process.hosts
    with storage("lost", "kept") as backings:
        for name, backing in backings.items():
            hosts.add(spec(name, backing))
        kept = record_volume(process, "kept")
        volume_id = record_volume(process, "lost")
        snapshot_id = record_snapshot(process, volume_id)
        with pytest.raises(errors.InUse, match=r"lost answers.*without --lost"):
            hosts.forget("lost")
    with process.claims.hold(volume_id, "extend") as claim:
        with claim.begin():
            pass
        counts = hosts.forget("lost")
        with pytest.raises(errors.OutcomeUnknown), claim.end():
            pass
    assert counts == {"attachments": 0, "snapshots": 1, "volumes": 1}
    assert process.records.volume(volume_id) is None
    assert process.records.snapshot(snapshot_id) is None
    assert process.records.volume(kept) is not None
    assert states(hosts) == {"kept": HostState.UP}
    with pytest.raises(errors.NotFound, match="lost"):
        hosts.forget("lost")


@pytest.mark.parametrize("change", [Hosts.drain, Hosts.resume, Hosts.remove, Hosts.forget])
def test_an_unknown_host_is_not_found(hosts: Hosts, change: object) -> None:
    assert callable(change)
    with pytest.raises(errors.NotFound, match="nowhere"):
        change(hosts, "nowhere")


def test_processes_see_each_others_hosts(database: Database, backings: Backings) -> None:
    one, other = Process(database, "one"), Process(database, "other")
    one.hosts.add(spec("a", backings["a"]))
    assert other.hosts.driver("a").host.health() == "SERVING"
    assert other.hosts.place(1)[0] == "a"
    one.hosts.add(spec("b", backings["b"]))
    one.hosts.drain("a")
    assert other.hosts.place(1)[0] == "b"
    one.hosts.remove("a")
    assert states(other.hosts) == {"b": HostState.UP}
    one.close()
    other.close()


def test_a_call_under_way_outlives_the_removal(hosts: Hosts, both: Backings) -> None:
    driver = hosts.driver("a")
    hosts.remove("a")
    assert driver.host.health() == "SERVING"


def test_each_host_has_one_driver(hosts: Hosts, both: Backings) -> None:
    driver = hosts.driver("a")
    hosts.refresh()
    assert hosts.driver("a") is driver
    assert hosts.driver("b") is not driver


# Placement


def test_new_volumes_are_spread_before_the_hosts_say_so(hosts: Hosts, both: Backings) -> None:
    placed = [hosts.place(1, Place(pool="thick"))[0] for _ in range(10)]
    assert sorted(placed) == ["a"] * 5 + ["b"] * 5


def test_where_there_is_most_room(hosts: Hosts, both: Backings) -> None:
    hosts.driver("a").volumes.create(str(uuid.uuid4()), 40 * GIBIBYTE, "thick")
    hosts.driver("a").volumes.create(str(uuid.uuid4()), 50 * GIBIBYTE, "thin")
    assert hosts.place(1, Place("a")) == ("a", "thick")
    assert hosts.place(1)[0] == "b"


def test_no_room_says_why_of_each_pool(hosts: Hosts, both: Backings) -> None:
    hosts.drain("b")
    size = 21 * POOL_GIB
    with pytest.raises(errors.NoRoom) as caught:
        hosts.place(size)
    said = str(caught.value)
    assert f"no room for {size} GiB" in said
    assert "a#thick has 100.0 GiB free" in said and "a#thin promises" in said
    assert "b is being drained" in said


def test_marks_are_kept(database: Database, both: Backings) -> None:
    hosts = Hosts(database, marks=Marks(over_subscription_max=1.5))
    for name in both:
        assert hosts.place(POOL_GIB, Place(name, "thin")) == (name, "thin")
        hosts.driver(name).volumes.create(str(uuid.uuid4()), POOL_BYTES, "thin")
    with pytest.raises(errors.NoRoom, match=r"promises 100.0 GiB of the 150.0 GiB"):
        hosts.place(POOL_GIB, Place(pool="thin"))
    hosts.close()


def test_pools_that_refused_are_left_out(hosts: Hosts, both: Backings) -> None:
    refused = {("a", "thick"): "", ("a", "thin"): "", ("b", "thick"): ""}
    assert hosts.place(1, refused=refused) == ("b", "thin")
    with pytest.raises(errors.NoRoom, match=r"b#thin has refused it \(it is full\)"):
        hosts.place(1, refused={**refused, ("b", "thin"): "it is full"})


def test_room_that_has_come_is_seen(hosts: Hosts, both: Backings) -> None:
    volume_id, driver = str(uuid.uuid4()), hosts.driver("a")
    driver.volumes.create(volume_id, POOL_BYTES, "thick")
    place = Place("a", "thick")
    with pytest.raises(errors.NoRoom):
        hosts.place(POOL_GIB, place)
    wipe = driver.volumes.delete(volume_id)
    driver.operations.wait(wipe, 60)
    assert hosts.place(POOL_GIB, place) == ("a", "thick")


def test_places_that_are_not(hosts: Hosts, both: Backings) -> None:
    with pytest.raises(errors.Invalid, match="no storage host nowhere"):
        hosts.place(1, Place("nowhere"))
    with pytest.raises(errors.HostUnavailable, match="no such pool"):
        hosts.place(1, Place("a", "nowhere"))


def test_without_any_host_there_is_a_cure(hosts: Hosts) -> None:
    with pytest.raises(errors.HostUnavailable, match="attachd host add"):
        hosts.place(1)


# Hosts that do not answer


def test_a_dead_host_is_left_out(hosts: Hosts, both: Backings) -> None:
    both["a"].daemon.stop()
    assert {hosts.place(1)[0] for _ in range(3)} == {"b"}
    with pytest.raises(errors.HostUnavailable, match=r"no room for 1 GiB: a: .*try again"):
        hosts.place(1, Place("a"))
    seen = {one.name: one for one in hosts.list()}
    assert (seen["a"].reachable, seen["b"].reachable) == (False, True)
    assert seen["a"].reason and not seen["b"].reason
    assert {pool.host for pool in hosts.pools()} == {"b"}
    both["a"].daemon = both["a"]._started()


def test_a_host_that_is_back_gets_volumes_again(hosts: Hosts, both: Backings) -> None:
    both["a"].daemon.stop()
    hosts.drain("b")
    with pytest.raises(errors.HostUnavailable):
        hosts.place(1)
    both["a"].daemon = both["a"]._started()
    while not hosts.look()[0].reachable:
        pass
    assert hosts.place(1)[0] == "a"


def test_a_host_that_does_not_answer_in_time_is_not_waited_for(
    hosts: Hosts, both: Backings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WAIT_SECONDS", 0.5)
    # LVM hangs there.
    both["a"]._host.lock.acquire()
    try:
        assert {hosts.place(1)[0] for _ in range(3)} == {"b"}
        seen = {one.name: one for one in hosts.look()}
    finally:
        both["a"]._host.lock.release()
    assert "within 0.5 s" in seen["a"].reason and seen["b"].reachable


def test_what_another_call_found_counts(hosts: Hosts, both: Backings) -> None:
    assert hosts.place(1, Place("a"))
    with (
        TargetdDriver(Endpoint("unix:/nowhere/targetd.sock")) as dead,
        pytest.raises(DriverError) as caught,
    ):
        dead.host.health()
    hosts.failed("a", caught.value)
    assert {hosts.place(1)[0] for _ in range(3)} == {"b"}
    assert hosts.list()[0].reachable is False
