"""The flight recorder: what is in it, what never is, and what a failure puts into the log."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest

from targetd import flight
from targetd.api.v1 import host_pb2, volume_pb2
from targetd.context import about
from targetd.engines import configfs, process
from targetd.engines.interface import EngineError
from targetd.flight import ENTRIES_MAX, Kind, Recorder
from targetd.model import Volume
from tests.hosts import MEBIBYTE, Host, SimulatedBacking, refused_with

VOLUME = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
OTHER = "3f2504e0-4f89-41d3-9a0c-0305e82c3302"
SECRET = "MarkedSecret1234"
RECORD = host_pb2.GetFlightRecordRequest()


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    # The functions of configfs hold on to its recorder.
    for recorder in (flight.configfs, flight.commands):
        recorder._ended.clear()
    monkeypatch.setattr(flight, "log_failure", flight._FailureLog())


def test_a_change_is_recorded_by_its_path_and_never_by_what_is_written(tmp_path: Path) -> None:
    acl = tmp_path / f"iqn.2026-11.org.targetd:{VOLUME}"
    configfs.mkdir(str(acl))
    (acl / "password").touch()
    configfs.write(f"{acl}/password", SECRET)
    configfs.link(f"{acl}/link", "password")
    configfs.unlink(f"{acl}/link")
    with pytest.raises(OSError):
        configfs.rmdir(str(acl))
    seen = flight.entries()
    assert [(entry.what, entry.failure) for entry in seen] == [
        ("mkdir", ""),
        ("write", ""),
        ("link", ""),
        ("unlink", ""),
        ("rmdir", "ENOTEMPTY"),
    ]
    assert seen[1].object == f"{acl}/password" and seen[1].kind is Kind.CONFIGFS
    assert (acl / "password").read_text() == SECRET
    assert SECRET not in f"{seen} {list(map(str, seen))}"


def test_a_program_is_recorded_with_how_it_ended() -> None:
    process.run(["true", "one", "two"])
    with pytest.raises(process.ProcessFailed):
        process.run(["sh", "-c", "echo why >&2; echo more >&2; exit 5"])
    with pytest.raises(FileNotFoundError):
        process.run(["/no/such/program"])
    assert [(one.what, one.object, one.failure) for one in flight.entries()] == [
        ("true", "one two", ""),
        ("sh", "-c echo why >&2; echo more >&2; exit 5", "status 5: why"),
        ("/no/such/program", "", "was not started"),
    ]


def test_what_hangs_stays_while_thousands_pass() -> None:
    recorder = Recorder(Kind.CONFIGFS)
    with about(volume_id=VOLUME):
        hanging = recorder.begin("rmdir", "/hangs")
    for number in range(3 * ENTRIES_MAX):
        recorder.end(recorder.begin("mkdir", str(number)))
    seen = recorder.entries()
    assert len(seen) == ENTRIES_MAX + 1
    assert seen[0].object == str(2 * ENTRIES_MAX) and not seen[0].running
    (last,) = [entry for entry in seen if entry.running]
    assert (last.object, last.volume_id) == ("/hangs", VOLUME) and "under way" in str(last)
    recorder.end(hanging, 16)
    assert recorder.entries()[-1].failure == "EBUSY" and not recorder.entries()[-1].running


def test_threads_record_at_once() -> None:
    recorder = Recorder(Kind.CONFIGFS)

    def work() -> None:
        for _ in range(5000):
            recorder.end(recorder.begin("x", "y"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        recorder.entries()
    assert len(recorder.entries()) == ENTRIES_MAX
    assert not any(entry.running for entry in recorder.entries())


def test_changes_of_the_tree_have_the_time_of_their_call(tmp_path: Path) -> None:
    with about(volume_id=VOLUME) as call:
        with patch.object(flight, "monotonic", side_effect=AssertionError("the clock is slow")):
            configfs.mkdir(f"{tmp_path}/acl")
            configfs.rmdir(f"{tmp_path}/acl")
        configfs.mkdir(f"{tmp_path}/acl")
        configfs.remove_folder(f"{tmp_path}/acl", waits=True)
    *first, made, removed = flight.entries()
    begun = time.time() - (time.monotonic() - call.started)
    assert all(abs(one.time - begun) < 1e-3 and one.seconds is None for one in (*first, made))
    assert removed.what == "rmdir" and removed.seconds is not None and removed.seconds > 0
    assert str(made).endswith("acl: ok") and str(removed).endswith(" s")


def test_of_one_volume() -> None:
    with about(volume_id=VOLUME):
        flight.commands.end(flight.commands.begin("lvm vgs", ""))
    with about(volume_id=OTHER):
        flight.configfs.end(flight.configfs.begin("mkdir", "/x"))
    flight.configfs.end(flight.configfs.begin("mkdir", f"/iqn:{VOLUME}"))
    assert [entry.what for entry in flight.entries(VOLUME)] == ["lvm vgs", "mkdir"]
    assert len(flight.entries()) == 3


class RecordedLvm:
    """The simulated engine's creation with what the real one runs, which fails."""

    def create(self, volume: Volume) -> Volume:
        try:
            process.run(["sh", "-c", "echo no such disk >&2; exit 5", volume.lv_name])
        except process.ProcessFailed as error:
            raise EngineError(str(error)) from error
        raise AssertionError("it fails")


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    host = Host(simulated_backing)
    yield host
    host.close()


def test_a_failed_call_leaves_what_was_done_in_the_log(
    host: Host,
    simulated_backing: SimulatedBacking,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(simulated_backing.lvm, "create", RecordedLvm().create)
    request = volume_pb2.CreateVolumeRequest(volume_id=VOLUME, pool="thin", size_bytes=MEBIBYTE)
    with refused_with(grpc.StatusCode.UNAVAILABLE), caplog.at_level(logging.WARNING):
        host.volumes.CreateVolume(request)
    (said,) = [record for record in caplog.records if record.name == "targetd.flight"]
    assert f"volume or snapshot {VOLUME}" in said.message
    assert f"volume-{VOLUME}: status 5: no such disk" in said.message
    # The next one within a second is not told, and one that is the caller's fault never.
    with refused_with(grpc.StatusCode.UNAVAILABLE):
        host.volumes.CreateVolume(request)
    assert len([one for one in caplog.records if one.name == "targetd.flight"]) == 1


def test_the_record_is_given_on_request(host: Host) -> None:
    with about(volume_id=VOLUME):
        flight.commands.end(flight.commands.begin("lvm lvs", "-a"), "status 5: no")
        begun = flight.configfs.begin("rmdir", os.fsdecode(b"/odd\xff"))
    command, change = host.hosts.GetFlightRecord(RECORD).entries
    assert command.kind == host_pb2.FlightEntry.KIND_COMMAND
    assert (command.what, command.object, command.failure) == ("lvm lvs", "-a", "status 5: no")
    assert change.kind == host_pb2.FlightEntry.KIND_CONFIGFS
    assert change.running and change.object == "/odd?" and change.volume_id == VOLUME
    assert change.start_time.ToDatetime().year >= 2026 and change.duration.nanos > 0
    flight.configfs.end_untimed(begun)
    _, change = host.hosts.GetFlightRecord(RECORD).entries
    assert not change.running and not change.HasField("duration")
    of_other = host_pb2.GetFlightRecordRequest(volume_id=OTHER)
    assert not host.hosts.GetFlightRecord(of_other).entries
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT):
        host.hosts.GetFlightRecord(host_pb2.GetFlightRecordRequest(volume_id="x"))
