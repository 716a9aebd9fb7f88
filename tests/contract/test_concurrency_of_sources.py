"""Snapshots, volumes from a source, adoptions: against each other and against removal."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from targetd.api.v1 import host_pb2
from targetd.model import Snapshot, Volume
from tests.answers import check_agreement, wait_for_copies
from tests.callers import Answer, Caller, at_once, in_lab
from tests.hosts import MEBIBYTE, Host, SimulatedBacking

POOLS = ("thin", "thick")
SIZE = 8 * MEBIBYTE


def new_id() -> str:
    return str(uuid.uuid4())


def rounds(host: Host) -> range:
    # LVM takes a second for each on the real host.
    return range(4 if in_lab(host) else 20)


def both(number: int, one: Callable[[], Answer], other: Callable[[], Answer]) -> tuple[str, str]:
    """The reasons of two calls at once, begun in this or in the other order by turns."""
    calls = [one, other] if number % 2 else [other, one]
    found = [reason for reason, _ in at_once(lambda call: call(), calls)]
    return (found[0], found[1]) if number % 2 else (found[1], found[0])


@pytest.mark.parametrize("pool", POOLS)
def test_snapshot_against_delete_of_its_volume(host: Host, caller: Caller, pool: str) -> None:
    seen = Counter[tuple[str, str]]()
    for number in rounds(host):
        volume_id, snapshot_id = host.create(pool, SIZE), new_id()
        made, deleted = both(
            number,
            partial(caller.snapshot, snapshot_id, volume_id),
            partial(caller.delete, volume_id),
        )
        assert made in ("", "NOT_FOUND", "BUSY")
        assert deleted in (("HAS_SNAPSHOTS", "BUSY") if made == "" else ("",))
        found = check_agreement(host)
        assert set(found.snapshots) == ({snapshot_id} if made == "" else set())
        assert set(found.volumes) == ({volume_id} if made == "" else set())
        seen[made, deleted] += 1
        host.remove_everything()
    print(dict(seen))


@pytest.mark.parametrize("to_pool", POOLS)
def test_volume_from_a_snapshot_against_its_delete(
    host: Host, caller: Caller, to_pool: str
) -> None:
    seen = Counter[tuple[str, str]]()
    for number in rounds(host):
        snapshot_id, volume_id = host.snapshot(host.create("thin", SIZE)), new_id()
        made, deleted = both(
            number,
            partial(caller.create, volume_id, SIZE, to_pool, source_snapshot_id=snapshot_id),
            partial(caller.delete_snapshot, snapshot_id),
        )
        assert made in ("", "NOT_FOUND", "BUSY")
        assert deleted in ("", "BUSY", "BEING_COPIED")
        # One of them is done; both are, where the one was over before the other.
        assert "" in (made, deleted)
        wait_for_copies(host)
        found = check_agreement(host)
        assert (volume_id in found.volumes) == (made == "")
        assert (snapshot_id in found.snapshots) == (deleted != "")
        seen[made, deleted] += 1
        host.remove_everything()
    print(dict(seen))


@pytest.mark.parametrize("kind", ["snapshot", "volume"])
@pytest.mark.parametrize("from_pool", POOLS)
def test_delete_of_a_volume_being_filled(
    host: Host, caller: Caller, kind: str, from_pool: str
) -> None:
    origin = host.create(from_pool, SIZE)
    source = {f"source_{kind}_id": host.snapshot(origin) if kind == "snapshot" else origin}
    seen = Counter[str]()
    for number in rounds(host):
        volume_id = new_id()
        if isinstance(host.backing, SimulatedBacking):
            # There the copy would be over before anything else could be asked for.
            host.backing.lvm.may_step.clear()
            threading.Timer(0.01, host.backing.lvm.may_step.set).start()
        reason, made = caller.create(volume_id, SIZE, "thick", **source)
        assert reason == ""
        # While the copy goes on, at its end, or after it.
        time.sleep(number * 0.001)
        assert caller.delete(volume_id)[0] == ""
        request = host_pb2.GetOperationRequest(operation_id=made.operation_id)
        state = host.hosts.GetOperation(request).state
        assert state in (host_pb2.OPERATION_STATE_DONE, host_pb2.OPERATION_STATE_CANCELLED)
        assert set(check_agreement(host).volumes) == {origin}
        seen[host_pb2.OperationState.Name(state)] += 1
    # Nothing of all that holds the source.
    assert caller.extend(origin, SIZE)[0] == ""
    if kind == "volume":
        assert caller.delete(origin)[0] == ""
    print(dict(seen))


@pytest.mark.parametrize("pool", POOLS)
def test_one_logical_volume_adopted_twice_at_once(host: Host, caller: Caller, pool: str) -> None:
    host.backing.make_foreign("data", SIZE, pool)
    for _ in rounds(host):
        answers = at_once(lambda one: caller.adopt(one, "data", pool), [new_id(), new_id()])
        adopted = [volume.volume_id for reason, volume in answers if reason == ""]
        (refused,) = [reason for reason, _ in answers if reason != ""]
        assert refused in ("BUSY", "NOT_FOUND", "NOT_ADOPTABLE")
        assert [*check_agreement(host).volumes] == adopted
        assert caller.release(adopted[0], "data")[0] == ""
    host.backing.remove_foreign("data")


def test_adopt_against_release(host: Host, caller: Caller) -> None:
    """The one takes what the other lets go of, or comes too early."""
    seen = Counter[str]()
    host.backing.make_foreign("data", SIZE)
    first, second = new_id(), new_id()
    assert caller.adopt(first, "data")[0] == ""
    for number in rounds(host):
        adopted, released = both(
            number, partial(caller.adopt, second, "data"), partial(caller.release, first, "data")
        )
        assert adopted in ("", "NOT_FOUND", "NOT_ADOPTABLE", "BUSY")
        assert released == ""
        foreign = [] if adopted == "" else ["data"]
        assert set(check_agreement(host, foreign).volumes) == (set() if foreign else {second})
        seen[adopted] += 1
        if adopted != "":
            assert caller.adopt(second, "data")[0] == ""
        first, second = second, first
    assert caller.release(first, "data")[0] == ""
    host.backing.remove_foreign("data")
    print(dict(seen))


@pytest.mark.parametrize("pool", POOLS)
def test_extend_against_snapshot(host: Host, caller: Caller, pool: str) -> None:
    seen = Counter[tuple[str, str]]()
    for number in rounds(host):
        volume_id, snapshot_id = host.create(pool, SIZE), new_id()
        grown, made = both(
            number,
            partial(caller.extend, volume_id, 2 * SIZE),
            partial(caller.snapshot, snapshot_id, volume_id),
        )
        assert made in ("", "BUSY")
        assert grown in ("", "BUSY", "HAS_SNAPSHOTS")
        assert "" in (made, grown)
        assert grown != "HAS_SNAPSHOTS" or (pool, made) == ("thick", "")
        found = check_agreement(host)
        assert found.volumes[volume_id].size_bytes == (2 * SIZE if grown == "" else SIZE)
        if made == "":
            # As big as its volume was at that moment, never something between.
            assert found.snapshots[snapshot_id].size_bytes in (SIZE, 2 * SIZE)
        seen[grown, made] += 1
        host.remove_everything()
    print(dict(seen))


def test_a_copy_keeps_its_source_and_its_volume(simulated_backing: SimulatedBacking) -> None:
    host = Host(simulated_backing)
    caller, origin = Caller(host), host.create("thick", SIZE)
    snapshot_id, filled, other = host.snapshot(origin), new_id(), new_id()
    simulated_backing.lvm.may_step.clear()
    assert caller.create(filled, SIZE, "thick", source_volume_id=origin)[0] == ""
    assert caller.create(other, SIZE, "thick", source_snapshot_id=snapshot_id)[0] == ""
    for restarted in (False, True):
        if restarted:
            simulated_backing.restart()
        for call in (caller.delete, caller.release, partial(caller.extend, size_bytes=2 * SIZE)):
            assert call(origin)[0] == "BEING_COPIED"
        assert caller.delete_snapshot(snapshot_id)[0] == "BEING_COPIED"
        for refused in (
            caller.export(filled),
            caller.release(filled),
            caller.extend(filled, 2 * SIZE),
            caller.snapshot(new_id(), filled),
            caller.create(new_id(), SIZE, source_volume_id=filled),
        ):
            assert refused[0] == "COPYING"
    simulated_backing.lvm.may_step.set()
    wait_for_copies(host)
    assert caller.delete_snapshot(snapshot_id)[0] == ""
    assert caller.delete(origin)[0] == ""
    assert set(check_agreement(host).volumes) == {filled, other}
    host.close()


def test_a_reconcile_lets_a_volume_be_made(
    simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source is held still before LVM has the volume, and is nobody's until then."""
    host = Host(simulated_backing)
    caller, origin, volume_id = Caller(host), host.create("thick", SIZE), new_id()
    make = simulated_backing.lvm.create

    def create(volume: Volume) -> Volume:
        assert caller.reconcile()[0] == ""
        return make(volume)

    monkeypatch.setattr(simulated_backing.lvm, "create", create)
    assert caller.create(volume_id, SIZE, "thick", source_volume_id=origin)[0] == ""
    host.wait_available(volume_id)
    assert set(check_agreement(host).volumes) == {origin, volume_id}
    host.close()


def test_a_reconcile_beside_a_delete_brings_no_snapshot_back(
    simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(simulated_backing)
    caller = Caller(host)
    snapshot_id = host.snapshot(host.create("thick", SIZE))
    catalog = simulated_backing.daemon.catalog
    put, inventory = catalog.put_snapshot, simulated_backing.lvm.inventory

    def fuller() -> object:
        found = inventory()
        found.snapshots = [
            Snapshot(**{**vars(one), "used_percent": 50.0}) for one in found.snapshots
        ]
        return found

    def put_snapshot(snapshot: Snapshot) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(caller.delete_snapshot, snapshot_id).result()
        put(snapshot)

    monkeypatch.setattr(simulated_backing.lvm, "inventory", fuller)
    monkeypatch.setattr(catalog, "put_snapshot", put_snapshot)
    assert caller.reconcile()[0] == ""
    monkeypatch.undo()
    check_agreement(host)
    host.close()
