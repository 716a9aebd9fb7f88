"""What a scrape sees, of everything that can happen to a daemon."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from targetd import metrics
from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.daemon import Daemon
from targetd.engines.interface import EngineError, RetiredVolume
from targetd.errors import StartError
from targetd.metrics_endpoint import AT_ONCE, Endpoint
from targetd.model import AclStatistics
from targetd.workers import Deadline
from tests.hosts import MEBIBYTE, Host, SimulatedBacking, properties_of, refused_with


class Scrape:
    def __init__(self, daemon: Daemon) -> None:
        text = generate_latest(daemon.metrics).decode()
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Of the one series with these labels, 0 where there is none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, found
        return found[0] if found else 0.0


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    host = Host(simulated_backing)
    yield host
    host.close()


def test_every_metric_is_ours_has_help_and_a_unit_where_it_has_one(
    host: Host, simulated_backing: SimulatedBacking
) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    for family in Scrape(simulated_backing.daemon).families:
        assert family.name.startswith("targetd_"), family.name
        assert len(family.documentation) > 10, family.name
        for word in ("_ms", "_kb", "_mb", "_mib", "_minutes"):
            assert word not in family.name


def test_calls_are_counted_by_code_and_timed(
    host: Host, simulated_backing: SimulatedBacking
) -> None:
    before = Scrape(simulated_backing.daemon)
    for _ in range(3):
        host.hosts.GetHost(host_pb2.GetHostRequest())
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT):
        host.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id="x"))
    watching = host.hosts.Watch(host_pb2.WatchRequest())
    next(watching)
    assert Scrape(simulated_backing.daemon).value("targetd_watchers") == 1
    watching.cancel()
    # The server notices some time after.
    labels = {"method": "Watch", "code": "CANCELLED"}
    pause = threading.Event()
    while not Scrape(simulated_backing.daemon).value("targetd_calls_total", **labels):
        pause.wait(0.05)
    after = Scrape(simulated_backing.daemon)

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("targetd_calls_total", method="GetHost", code="OK") == 3
    assert grown("targetd_calls_total", method="GetVolume", code="INVALID_ARGUMENT") == 1
    assert grown("targetd_call_seconds_count", method="GetHost") == 3
    assert after.value("targetd_call_seconds_count", method="Watch") == 0
    # So that the first one is seen to be more than none.
    internal = [s for s in after.samples if s.labels == {"method": "GetHost", "code": "INTERNAL"}]
    assert [sample.value for sample in internal] == [0.0]


def test_pools_and_exports(
    host: Host, simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume_id = host.create("thin", 64 * MEBIBYTE, multi_attach=True)
    other = host.create("thick", 32 * MEBIBYTE)
    host.snapshot(volume_id)
    given = properties_of(host.attach(volume_id, "a"))
    host.attach(volume_id, "a", "attachment-a-2")
    host.attach(volume_id, "b")
    assert simulated_backing.log_in("a", given)
    monkeypatch.setattr(
        simulated_backing.lio, "statistics", lambda *_: AclStatistics(7, MEBIBYTE, 2 * MEBIBYTE)
    )
    daemon = simulated_backing.daemon
    daemon.observations.look_at_all()
    daemon.pools.fresh()
    seen = Scrape(daemon)
    assert seen.value("targetd_pool_provisioned_bytes", pool="thin") == 64 * MEBIBYTE
    assert seen.value("targetd_pool_provisioned_bytes", pool="thick") == 32 * MEBIBYTE
    assert seen.value("targetd_pool_capacity_bytes", pool="thick") == 3 << 30
    assert seen.value("targetd_pool_vg_metadata_free_bytes", pool="thick") == 1 << 19
    pools = [s.labels for s in seen.samples if s.name == "targetd_pool_data_percent"]
    assert pools == [{"pool": "thin"}], "a thick pool has none"
    assert seen.value("targetd_volumes", pool="thick") == 1
    assert seen.value("targetd_snapshots", pool="thin") == 1
    assert seen.value("targetd_exports") == 1
    assert seen.value("targetd_export_attachments", volume_id=volume_id) == 3
    assert seen.value("targetd_export_sessions", volume_id=volume_id) == 1
    # Two attachments of one initiator share what the kernel counts.
    assert seen.value("targetd_export_commands_total", volume_id=volume_id) == 7
    assert seen.value("targetd_export_read_bytes_total", volume_id=volume_id) == MEBIBYTE
    assert seen.value("targetd_export_written_bytes_total", volume_id=volume_id) == 2 * MEBIBYTE
    assert not [s for s in seen.samples if s.labels.get("volume_id") == other]
    text = generate_latest(daemon.metrics).decode()
    for private in ("attachment-a", "iqn.", given["auth_password"], given["auth_username"]):
        assert private not in text


def test_refused_logins_are_counted_by_kind_and_go_on_counting(
    host: Host, simulated_backing: SimulatedBacking, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, volume_id = simulated_backing.daemon, host.create()
    given = properties_of(host.attach(volume_id))
    name = "targetd_login_failures_total"
    daemon.observations.look_at_all()
    for _ in range(2):
        assert not simulated_backing.log_in("a", {**given, "auth_password": "wrong"})
    assert not simulated_backing.log_in("b", given)
    daemon.observations.look_at_all()
    daemon.observations.look_at_all()
    seen = Scrape(daemon)
    assert seen.value(name, kind="authentication") == 2
    assert seen.value(name, kind="authorization") == 1
    assert seen.value(name, kind="negotiation") == 0
    assert seen.value("targetd_export_login_failures_total", volume_id=volume_id) == 3
    # Nothing of it is lost with the target, and a new one of its name adds.
    host.detach(volume_id)
    host.remove_export(volume_id)
    given = properties_of(host.attach(volume_id))
    assert not simulated_backing.log_in("a", {**given, "auth_password": "wrong"})
    daemon.observations.look_at_all()
    seen = Scrape(daemon)
    assert seen.value(name, kind="authentication") == 3
    assert seen.value("targetd_export_login_failures_total", volume_id=volume_id) == 1
    said = [record.message for record in caplog.records if record.name == "targetd.logins"]
    assert said[0].endswith("logins were refused: 2 by authentication, 1 by authorization")
    assert len(said) == 2
    # What the kernel counted under an earlier daemon is neither counted nor told again.
    simulated_backing.restart()
    daemon = simulated_backing.daemon
    daemon.observations.look_at_all()
    seen = Scrape(daemon)
    assert seen.value(name, kind="authentication") == 0
    assert seen.value("targetd_export_login_failures_total", volume_id=volume_id) == 1
    assert len([one for one in caplog.records if one.name == "targetd.logins"]) == 2


def test_a_session_without_attachment(host: Host, simulated_backing: SimulatedBacking) -> None:
    daemon, volume_id = simulated_backing.daemon, host.create()
    given = properties_of(host.attach(volume_id))
    target = simulated_backing.lio._host.targets[given["target_iqn"]]
    name = "targetd_export_sessions_without_attachment"
    (acl,) = target.acls.values()
    intruder = "iqn.2026-01.org.example:intruder"
    target.acls[intruder] = acl
    assert simulated_backing.log_in("a", given)
    (session,) = target.sessions.values()
    target.sessions[intruder] = replace(session, initiator=intruder)
    for _ in range(2):
        daemon.observations.look_at_all()
        assert Scrape(daemon).value(name, volume_id=volume_id) == 1
    target.sessions.pop(intruder)
    daemon.observations.look_at_all()
    assert not [s for s in Scrape(daemon).samples if s.name == name]


def test_stuck_volumes_and_work(
    host: Host, simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, volume_id = simulated_backing.daemon, host.create()
    host.attach(volume_id)
    assert Scrape(daemon).value("targetd_longest_volume_work_seconds") == 0
    answer, removes = threading.Event(), simulated_backing.lio.remove_acl

    def hanging(iqn: str, initiator: str) -> bool:
        answer.wait()
        return removes(iqn, initiator)

    monkeypatch.setattr(simulated_backing.lio, "remove_acl", hanging)
    request = export_pb2.TerminateConnectionRequest(
        volume_id=volume_id, attachment_id="attachment-a"
    )
    with refused_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        host.exports.TerminateConnection(request, timeout=0.5)
    seen = Scrape(daemon)
    assert seen.value("targetd_volume_stuck", volume_id=volume_id, state="detaching") == 1
    assert seen.value("targetd_longest_volume_work_seconds") >= 0.4
    answer.set()
    host.exports.TerminateConnection(request)
    daemon.catalog.set_degraded(volume_id, "its device has vanished")
    seen = Scrape(daemon)
    assert seen.value("targetd_volume_stuck", volume_id=volume_id, state="detaching") == 0
    assert seen.value("targetd_volume_stuck", volume_id=volume_id, state="degraded") == 1


def test_long_work(
    host: Host, simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = simulated_backing.daemon
    before = Scrape(daemon)
    volume_id = host.create("thick", 128 * MEBIBYTE)
    simulated_backing.lvm.may_step.clear()
    operation_id = host.volumes.DeleteVolume(
        volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
    ).operation_id
    seen = Scrape(daemon)
    assert seen.value("targetd_operations", kind="wipe", state="running") == 1
    assert seen.value("targetd_operation_size_bytes", operation_id=operation_id) == 128 * MEBIBYTE

    def failing(_: RetiredVolume) -> None:
        raise EngineError("the disk is gone")

    monkeypatch.setattr(simulated_backing.lvm, "remove_retired", failing)
    simulated_backing.lvm.may_step.set()
    watched = host.hosts.WatchOperation(host_pb2.WatchOperationRequest(operation_id=operation_id))
    assert any(one.state == host_pb2.OPERATION_STATE_FAILED for one in watched)
    seen = Scrape(daemon)
    assert seen.value("targetd_operations", kind="wipe", state="failed") == 1
    assert seen.value("targetd_operation_done_bytes", operation_id=operation_id) == 128 * MEBIBYTE
    for name, grown in (
        ("targetd_operation_failures_total", 1),
        ("targetd_operation_bytes_total", 128 * MEBIBYTE),
    ):
        assert seen.value(name, kind="wipe") - before.value(name, kind="wipe") == grown


def test_reconciles_and_what_they_put_right(
    host: Host, simulated_backing: SimulatedBacking
) -> None:
    daemon, volume_id = simulated_backing.daemon, host.create()
    given = host.attach(volume_id)
    before = Scrape(daemon)
    simulated_backing.lio._host.targets[given.target_iqn].acls.clear()
    host.hosts.Reconcile(host_pb2.ReconcileRequest())
    after = Scrape(daemon)
    for name, labels in (
        ("targetd_reconcile_seconds_count", {}),
        ("targetd_reconcile_repairs_total", {"kind": "acl"}),
    ):
        assert after.value(name, **labels) - before.value(name, **labels) == 1, name
    last = "targetd_reconcile_last_end_timestamp_seconds"
    assert after.value(last) > before.value(last) > 1.7e9
    # One export alone is no pass.
    host.hosts.Reconcile(host_pb2.ReconcileRequest(volume_id=volume_id))
    assert Scrape(daemon).value(last) == after.value(last)


def test_kinds_of_repairs_are_few() -> None:
    def repairs() -> dict[str, float]:
        (family,) = metrics.RECONCILE_REPAIRS.collect()
        return {s.labels["kind"]: s.value for s in family.samples if s.value}

    before = repairs()
    found = ["portal 192.0.2.9:3260", "acl iqn.a:b", "acl iqn.a:b: auth/password", "enable"]
    metrics.count_repairs(found)
    grown = {kind for kind, value in repairs().items() if value > before.get(kind, 0)}
    assert grown == {"portal", "acl", "acl-content", "enable"}


def test_lvm_commands_are_counted_and_timed() -> None:
    def failures() -> float:
        (family,) = metrics.LVM_FAILURES.collect()
        return sum(s.value for s in family.samples if s.labels["command"] == "lvtest")

    def runs() -> float:
        (family,) = metrics.LVM_SECONDS.collect()
        return sum(
            s.value
            for s in family.samples
            if s.labels["command"] == "lvtest" and s.name.endswith("_count")
        )

    with metrics.lvm_command("lvtest"):
        pass
    assert (runs(), failures()) == (1, 0)
    with pytest.raises(EngineError), metrics.lvm_command("lvtest"):
        raise EngineError("x")
    assert (runs(), failures()) == (2, 1)


def test_the_turn_is_timed_anew_for_each(simulated_backing: SimulatedBacking) -> None:
    workers = simulated_backing.daemon.workers
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    thread = threading.Thread(target=workers.run, args=("v", Deadline(30, True), work))
    thread.start()
    begun.wait()
    go_on.wait(0.2)
    assert workers.longest_seconds() >= 0.2
    go_on.set()
    thread.join()
    assert workers.longest_seconds() == 0


class Exposed(SimulatedBacking):
    def __init__(self, folder: Path, address: str) -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
            free.bind((address.strip("[]"), 0))
            self.port = free.getsockname()[1]
        with patch.object(Exposed, "options", {"metrics_listen": f"{address}:{self.port}"}):
            super().__init__(folder)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_over_http(tmp_path: Path, address: str) -> None:
    backing = Exposed(tmp_path, address)
    try:
        connection = http.client.HTTPConnection(address.strip("[]"), backing.port, timeout=10)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert b"\ntargetd_exports 0.0\n" in answer.read()
        connection.request("POST", "/metrics", body="x")
        assert connection.getresponse().status == 405
        connection.close()
        # Who says nothing holds up nobody, and too many such are turned away.
        silent = [
            socket.create_connection((address.strip("[]"), backing.port)) for _ in range(AT_ONCE)
        ]
        with socket.create_connection((address.strip("[]"), backing.port), 10) as one_more:
            assert one_more.recv(1) == b""
        for one in silent:
            one.close()
    finally:
        backing.close()
    with pytest.raises(OSError):
        socket.create_connection((address.strip("[]"), backing.port), 1)


def test_a_port_that_is_taken_is_a_clear_refusal(simulated_backing: SimulatedBacking) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1 port {port}: .*see metrics_listen"):
            Endpoint("127.0.0.1", port, simulated_backing.daemon.metrics)
