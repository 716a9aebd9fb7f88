"""The health service says what is so, and takes it back by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from targetd import health
from targetd.engines.interface import EngineError
from targetd.errors import Unavailable
from targetd.health import Check
from targetd.server.serve import SERVICES, VOLUME_SERVICE
from tests.hosts import Host, SimulatedBacking

OTHERS = ("", *(service for service in SERVICES if service != VOLUME_SERVICE))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(health, "STATE_SECONDS", 0.01)
    monkeypatch.setattr(health, "LVM_SECONDS", 0.01)
    monkeypatch.setattr(health, "FAILED_SECONDS", 0.01)
    monkeypatch.setattr(health, "LATE_SECONDS", 0.2)


@pytest.fixture
def host(hasty: None, simulated_backing: SimulatedBacking) -> Iterator[Host]:
    host = Host(simulated_backing)
    yield host
    host.close()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def looked(check: Check) -> bool:
    check.look()
    return check.ok


def says(host: Host) -> dict[str, str]:
    stub: Any = health_pb2_grpc.HealthStub(host.channel)
    answers = {
        service: stub.Check(health_pb2.HealthCheckRequest(service=service)).status
        for service in ("", *SERVICES)
    }
    names = health_pb2.HealthCheckResponse.ServingStatus
    return {service: names.Name(status) for service, status in answers.items()}


HEALTHY = dict.fromkeys(("", *SERVICES), "SERVING")


def test_lvm_that_does_not_answer(
    host: Host, simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says(host) == HEALTHY
    answer = threading.Event()
    reports = simulated_backing.lvm.pools

    def hanging() -> Any:
        answer.wait()
        return reports()

    with monkeypatch.context() as patched:
        patched.setattr(simulated_backing.lvm, "pools", hanging)
        # Attachments need no LVM.
        until(lambda: says(host) == {**HEALTHY, VOLUME_SERVICE: "NOT_SERVING"})
    answer.set()
    until(lambda: says(host) == HEALTHY)


def test_lvm_that_refuses(
    host: Host, simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise EngineError("no metadata")

    with monkeypatch.context() as patched:
        patched.setattr(simulated_backing.lvm, "pools", broken)
        until(lambda: says(host) == {**HEALTHY, VOLUME_SERVICE: "NOT_SERVING"})
    until(lambda: says(host) == HEALTHY)


def test_records_that_cannot_be_written(host: Host, simulated_backing: SimulatedBacking) -> None:
    database = simulated_backing.daemon.state._database
    with simulated_backing.daemon.state._lock:
        database.execute("PRAGMA query_only = ON")
    until(lambda: set(says(host).values()) == {"NOT_SERVING"})
    with simulated_backing.daemon.state._lock:
        database.execute("PRAGMA query_only = OFF")
    until(lambda: says(host) == HEALTHY)


def test_the_trial_of_the_records_writes(simulated_backing: SimulatedBacking) -> None:
    log = simulated_backing.daemon.state
    path = simulated_backing.state_directory / "state.sqlite-wal"
    before = path.stat().st_mtime_ns
    log.check_writable()
    assert path.stat().st_mtime_ns > before
    assert log.creating() == {}


def test_a_trial_is_never_made_twice_at_once() -> None:
    go_on, tried = threading.Event(), []

    def trial() -> None:
        tried.append(1)
        go_on.wait()

    check = Check("it", trial, 0.0)
    for _ in range(50):
        check.look()
        time.sleep(0.01)
    assert len(tried) == 1 and not check.ok
    go_on.set()
    until(lambda: looked(check))


def test_a_trial_that_fails_unexpectedly_counts_as_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [ZeroDivisionError("x"), Unavailable("cannot be written")]

    def trial() -> None:
        if errors:
            raise errors[0]

    check = Check("it", trial, 0.0)
    until(lambda: not looked(check))
    errors.clear()
    until(lambda: looked(check))
    said = [record.message for record in caplog.records]
    assert "it: the trial itself failed" in said and "it: ZeroDivisionError" in said


def test_a_daemon_that_stops_says_so(simulated_backing: SimulatedBacking) -> None:
    daemon = simulated_backing.daemon
    daemon._server.health.enter_graceful_shutdown()
    daemon._server.set_serving("", True)
    with simulated_backing.endpoint.channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest()).status
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING
