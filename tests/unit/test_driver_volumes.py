"""What the driver has beside the field's calls, against a daemon on simulated engines."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest
import targetd_driver
from targetd_driver import Endpoint, TargetdDriver
from targetd_driver.connections import ConnectionState
from targetd_driver.host import OperationState
from targetd_driver.volumes import VolumeState

from targetd.roles import Role
from tests.callers import at_once
from tests.hosts import MEBIBYTE, SIMULATED_POOL_BYTES, SimulatedBacking

SIZE = 16 * MEBIBYTE
CONNECTORS = [{"initiator": f"iqn.2026-01.org.example:{host}", "host": host} for host in "ab"]


@pytest.fixture
def driver(simulated_backing: SimulatedBacking) -> Iterator[TargetdDriver]:
    with TargetdDriver(simulated_backing.endpoint) as made:
        yield made


def an_id() -> str:
    return str(uuid.uuid4())


def test_the_life_of_a_volume(driver: TargetdDriver) -> None:
    volume_id = an_id()
    made = driver.volumes.create(volume_id, SIZE, "thin", multi_attach=True)
    assert (made.volume_id, made.pool, made.size_bytes) == (volume_id, "thin", SIZE)
    assert (made.thin, made.multi_attach, made.state) == (True, True, VolumeState.AVAILABLE)
    assert (made.source_snapshot_id, made.source_volume_id, made.operation_id) == ("", "", "")
    assert abs(datetime.now(UTC) - made.create_time) < timedelta(hours=1)
    assert driver.volumes.create(volume_id, SIZE, "thin", multi_attach=True) == made
    assert driver.volumes.get(volume_id) == made
    grown = driver.volumes.extend(volume_id, 2 * SIZE)
    assert grown.size_bytes == 2 * SIZE
    assert driver.volumes.extend(volume_id, SIZE) == grown
    assert driver.volumes.delete(volume_id) == ""
    assert driver.volumes.delete(volume_id) == ""
    with pytest.raises(targetd_driver.NotFound):
        driver.volumes.get(volume_id)


def test_another_volume_of_the_same_id_is_refused(driver: TargetdDriver) -> None:
    volume_id = driver.volumes.create(an_id(), SIZE, "thin").volume_id
    with pytest.raises(targetd_driver.Refused) as caught:
        driver.volumes.create(volume_id, 2 * SIZE, "thin")
    assert caught.value.reason == "ALREADY_EXISTS" and caught.value.answered


def test_snapshots_and_what_is_made_of_them(driver: TargetdDriver) -> None:
    volume_id = driver.volumes.create(an_id(), SIZE, "thin").volume_id
    snapshot_id = an_id()
    made = driver.snapshots.create(snapshot_id, volume_id)
    assert (made.snapshot_id, made.volume_id, made.size_bytes) == (snapshot_id, volume_id, SIZE)
    assert (made.pool, made.thin, made.overflowed) == ("thin", True, False)
    assert driver.snapshots.create(snapshot_id, volume_id) == made
    assert driver.snapshots.get(snapshot_id) == made
    assert list(driver.snapshots.list(volume_id)) == list(driver.snapshots.list()) == [made]
    clone = driver.volumes.create(an_id(), SIZE, "thin", source_snapshot_id=snapshot_id)
    assert clone.source_snapshot_id == snapshot_id
    copy = driver.volumes.create(an_id(), SIZE, "thin", source_volume_id=volume_id)
    assert copy.source_volume_id == volume_id
    with pytest.raises(targetd_driver.Refused, match=snapshot_id):
        driver.volumes.delete(volume_id)
    driver.snapshots.delete(snapshot_id)
    driver.snapshots.delete(snapshot_id)
    with pytest.raises(targetd_driver.NotFound):
        driver.snapshots.get(snapshot_id)


def test_a_thick_snapshot_tells_of_its_space(driver: TargetdDriver) -> None:
    volume_id = driver.volumes.create(an_id(), SIZE, "thick").volume_id
    made = driver.snapshots.create(an_id(), volume_id, reserve_bytes=4 * MEBIBYTE)
    assert (made.thin, made.reserved_bytes) == (False, 4 * MEBIBYTE)


def test_a_copy_and_a_wipe_are_followed(
    driver: TargetdDriver, simulated_backing: SimulatedBacking
) -> None:
    may_step = simulated_backing.lvm.may_step
    source_id = driver.volumes.create(an_id(), SIZE, "thick").volume_id
    may_step.clear()
    copy = driver.volumes.create(an_id(), SIZE, "thick", source_volume_id=source_id)
    assert copy.state is VolumeState.COPYING
    running = driver.operations.get(copy.operation_id)
    assert (running.state, running.ended) == (OperationState.RUNNING, False)
    assert (running.volume_id, running.total_bytes) == (copy.volume_id, SIZE)
    # A wait that is over before the work is.
    assert driver.operations.wait(copy.operation_id, 0.2).state is OperationState.RUNNING
    may_step.set()
    done = driver.operations.wait(copy.operation_id, 60)
    assert (done.state, done.ended, done.done_bytes) == (OperationState.DONE, True, SIZE)
    assert driver.volumes.get(copy.volume_id).state is VolumeState.AVAILABLE
    wipe = driver.volumes.delete(copy.volume_id)
    assert driver.operations.wait(wipe, 60).state is OperationState.DONE
    with pytest.raises(targetd_driver.NotFound):
        driver.operations.get("unknown")


def test_pools_and_the_host(driver: TargetdDriver) -> None:
    driver.volumes.create(an_id(), SIZE, "thick")
    pools = {pool.name: pool for pool in driver.host.pools()}
    thick, thin = pools["thick"], pools["thin"]
    assert (thick.thin, thin.thin) == (False, True)
    assert thick.total_bytes - thick.free_bytes == thick.provisioned_bytes == SIZE
    assert (thin.free_bytes, thin.provisioned_bytes) == (SIMULATED_POOL_BYTES, 0)
    host = driver.host.get()
    assert host.lock_domain_id == driver.host.get().lock_domain_id != ""
    assert host.portals == ("192.0.2.1:3260",)
    assert {"thin", "thick", "multi-attach"} <= set(host.capabilities)
    assert driver.host.health() == "SERVING"


def test_lists_go_on_after_their_first_page(
    driver: TargetdDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targetd.server.convert.PAGE_SIZE_MAX", 2)
    volume_id = driver.volumes.create(an_id(), SIZE, "thin", multi_attach=True).volume_id
    others = {driver.volumes.create(an_id(), SIZE, "thin").volume_id for _ in range(4)}
    driver.volumes.create(an_id(), SIZE, "thick")
    assert {one.volume_id for one in driver.volumes.list("thin")} == others | {volume_id}
    assert len(list(driver.volumes.list())) == 6
    snapshots = {driver.snapshots.create(an_id(), volume_id).snapshot_id for _ in range(5)}
    assert {one.snapshot_id for one in driver.snapshots.list(volume_id)} == snapshots
    driver.create_export(None, {"id": volume_id})
    attachments = {f"attachment-{number}" for number in range(5)}
    for attachment_id in attachments:
        driver.initialize_connection({"id": volume_id}, CONNECTORS[0], attachment_id)
    listed = list(driver.connections.list())
    assert len(listed) == 5 and {one.attachment_id for one in listed} == attachments


def test_connections_as_the_host_sees_them(
    driver: TargetdDriver, simulated_backing: SimulatedBacking
) -> None:
    volume_id = driver.volumes.create(an_id(), SIZE, "thin", multi_attach=True).volume_id
    volume = {"id": volume_id}
    driver.create_export(None, volume)
    connector = {"initiator": simulated_backing.initiator("a"), "host": "a"}
    answer = driver.initialize_connection(volume, connector, "one", access_mode="ro")
    driver.initialize_connection(volume, CONNECTORS[1], "two")
    seen = driver.connections.get(volume_id, "one")
    assert (seen.initiator, seen.host, seen.access_mode) == (connector["initiator"], "a", "ro")
    assert (seen.state, seen.authorized) == (ConnectionState.GRANTED, True)
    assert (seen.logged_in, seen.shared_with_attachment_ids) == (False, ("two",))
    assert simulated_backing.log_in("a", answer["data"])
    assert driver.connections.get(volume_id, "one").logged_in
    assert {one.attachment_id for one in driver.connections.list(volume_id)} == {"one", "two"}
    with pytest.raises(targetd_driver.NotFound):
        driver.connections.get(volume_id, "three")
    assert driver.connections.within(60).get(volume_id, "two").initiator.endswith(":b")
    (export,) = [one for one in driver.exports.list() if one.volume_id == volume_id]
    assert export.attachment_ids == ("one", "two") and export.target_iqn.endswith(volume_id)
    assert f"{export.portals[0]},1 {export.target_iqn} 0" in str(
        driver.create_export(None, volume)["provider_location"]
    )


def test_a_full_pool_is_no_space(driver: TargetdDriver) -> None:
    with pytest.raises(targetd_driver.NoSpace) as caught:
        driver.volumes.create(an_id(), 2 * SIMULATED_POOL_BYTES, "thick")
    assert caught.value.answered


class OneCallAtOnce(SimulatedBacking):
    options = MappingProxyType({"calls_per_client": 1})


def test_too_many_calls_are_not_a_lack_of_space(tmp_path: Path) -> None:
    backing = OneCallAtOnce(tmp_path)
    with TargetdDriver(backing.endpoint) as driver:
        source_id = driver.volumes.create(an_id(), SIZE, "thick").volume_id
        backing.lvm.may_step.clear()
        copy = driver.volumes.create(an_id(), SIZE, "thick", source_volume_id=source_id)
        # Waits for the copy, which cannot end.
        deleting = threading.Thread(target=driver.volumes.delete, args=(copy.volume_id,))
        deleting.start()
        with pytest.raises(targetd_driver.Unavailable) as caught:
            while deleting.is_alive():
                driver.volumes.get(source_id)
        backing.lvm.may_step.set()
        deleting.join()
    assert caught.value.reason == "TOO_MANY_CALLS"
    assert not isinstance(caught.value, targetd_driver.NoSpace)
    backing.close()


def test_a_late_host_leaves_the_outcome_open(simulated_backing: SimulatedBacking) -> None:
    with (
        TargetdDriver(simulated_backing.endpoint) as patient,
        TargetdDriver(simulated_backing.endpoint, timeout_seconds=0.3) as driver,
    ):
        source_id = patient.volumes.create(an_id(), SIZE, "thick").volume_id
        simulated_backing.lvm.may_step.clear()
        copy = patient.volumes.create(an_id(), SIZE, "thick", source_volume_id=source_id)
        with pytest.raises(targetd_driver.Late) as caught:
            driver.volumes.delete(copy.volume_id)
        assert not caught.value.answered
        simulated_backing.lvm.may_step.set()
        patient.volumes.delete(copy.volume_id)


def test_a_host_that_is_down_has_not_answered() -> None:
    with (
        TargetdDriver(Endpoint("unix:/nowhere/targetd.sock"), timeout_seconds=2) as driver,
        pytest.raises(targetd_driver.Unavailable) as caught,
    ):
        driver.host.health()
    assert not caught.value.answered and not isinstance(caught.value, targetd_driver.Late)


class _Stopping(grpc.GenericRpcHandler):
    """A server that ends each call, as one does whose time to stop is over."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.CANCELLED, "")
        )


def test_a_host_that_stops_meanwhile_has_not_answered(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1), [_Stopping()])
    address = f"unix:{tmp_path}/socket"
    server.add_insecure_port(address)
    server.start()
    with (
        TargetdDriver(Endpoint(address)) as driver,
        pytest.raises(targetd_driver.Unavailable) as caught,
    ):
        driver.volumes.delete(an_id())
    server.stop(None)
    assert not caught.value.answered


def test_many_threads_use_one_driver(driver: TargetdDriver) -> None:
    ids = [an_id() for _ in range(16)]
    at_once(lambda volume_id: driver.volumes.create(volume_id, SIZE, "thin"), ids)
    assert {one.volume_id for one in driver.volumes.list()} == set(ids)


def test_a_client_without_the_role_is_forbidden(simulated_backing: SimulatedBacking) -> None:
    with TargetdDriver(simulated_backing.endpoint_for(Role.VIEWER)) as driver:
        assert list(driver.volumes.list()) == []
        with pytest.raises(targetd_driver.Forbidden) as caught:
            driver.volumes.create(an_id(), SIZE, "thin")
    assert caught.value.answered
