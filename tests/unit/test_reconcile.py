"""What one bad object does to a start, and to the rest: nothing."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from targetd import reconcile
from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.engines.interface import EngineError
from targetd.engines.simulated import SimulatedLio
from targetd.model import Target
from tests.hosts import MEBIBYTE, Host, SimulatedBacking, refused_with


class BadLio(SimulatedLio):
    """Refuses, or hangs, for one volume."""

    refusing = ""
    hanging = ""
    may_go_on = threading.Event()

    def ensure_target(self, target: Target) -> Sequence[str]:
        if target.volume_id == self.refusing:
            raise EngineError("the device does not answer")
        if target.volume_id == self.hanging:
            self.may_go_on.wait()
        return super().ensure_target(target)

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        if self.hanging and iqn.endswith(self.hanging):
            self.may_go_on.wait()
        return super().remove_acl(iqn, initiator)


class BadBacking(SimulatedBacking):
    lio_class = BadLio
    lio: BadLio


@pytest.fixture
def backing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadBacking]:
    monkeypatch.setattr(reconcile, "EXPORT_SECONDS", 0.5)
    backing = BadBacking(tmp_path)
    backing.lio.may_go_on = threading.Event()
    yield backing
    backing.lio.may_go_on.set()
    backing.close()


@pytest.fixture
def host(backing: BadBacking) -> Iterator[Host]:
    host = Host(backing)
    yield host
    host.close()


def _state(host: Host, volume_id: str) -> int:
    request = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    return host.volumes.GetVolume(request).state


def test_an_export_that_is_refused_is_degraded_and_comes_back(
    host: Host, backing: BadBacking
) -> None:
    bad, good = host.create(), host.create()
    for volume_id in (bad, good):
        host.attach(volume_id)
    backing.lio.refusing = bad
    backing.restart()
    assert _state(host, bad) == volume_pb2.VOLUME_STATE_DEGRADED
    assert _state(host, good) == volume_pb2.VOLUME_STATE_AVAILABLE
    host.detach(good)
    report = host.hosts.Reconcile(host_pb2.ReconcileRequest())
    assert list(report.degraded_volume_ids) == [bad]
    with refused_with(grpc.StatusCode.UNAVAILABLE):
        host.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=bad))
    backing.lio.refusing = ""
    report = host.hosts.Reconcile(host_pb2.ReconcileRequest())
    assert not report.degraded_volume_ids
    assert _state(host, bad) == volume_pb2.VOLUME_STATE_AVAILABLE


def test_an_export_that_hangs_does_not_hold_up_the_start(host: Host, backing: BadBacking) -> None:
    bad, good = host.create(), host.create()
    for volume_id in (bad, good):
        host.attach(volume_id)
    backing.lio.hanging = bad
    with refused_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        host.exports.TerminateConnection(
            export_pb2.TerminateConnectionRequest(volume_id=bad, attachment_id="attachment-a"),
            timeout=0.3,
        )
    assert _state(host, bad) == volume_pb2.VOLUME_STATE_DETACHING
    backing.crash()
    assert _state(host, bad) == volume_pb2.VOLUME_STATE_DETACHING
    host.detach(good)
    host.attach(good)
    backing.lio.may_go_on.set()
    assert list(host.detach(bad).remaining_attachment_ids) == []
    assert not backing.lio.acls(f"iqn.2026-11.org.targetd:{bad}")


def test_until_all_is_in_order_calls_are_told_to_come_back(
    backing: BadBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(backing)
    volume_id = host.create()
    host.attach(volume_id)
    monkeypatch.setattr(reconcile, "EXPORT_SECONDS", 30)
    backing.lio.hanging = volume_id
    starting = threading.Thread(target=backing.restart)
    starting.start()
    seen = set()
    while "STARTING" not in seen:
        try:
            host.volumes.ListVolumes(volume_pb2.ListVolumesRequest(), timeout=5)
        except grpc.RpcError as error:
            if "is starting" in str(error.details()):
                seen.add("STARTING")
                assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert backing.health() == "NOT_SERVING"
    backing.lio.may_go_on.set()
    starting.join()
    assert backing.health() == "SERVING"
    assert len(host.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes) == 1
    host.close()


def test_what_nobody_was_told_of_goes(host: Host, backing: BadBacking) -> None:
    volume_id = host.create(size_bytes=4 * MEBIBYTE)
    host.attach(volume_id)
    orphan = str(uuid.uuid4())
    for iqn in (f"iqn.2026-11.org.targetd:{orphan}", f"iqn.2001-01.org.example:{orphan}"):
        backing.lio.ensure_target(Target(orphan, iqn, f"/dev/{iqn}", (), False))
    backing.restart()
    assert set(backing.lio.targets()) == {
        f"iqn.2026-11.org.targetd:{volume_id}",
        f"iqn.2001-01.org.example:{orphan}",
    }
