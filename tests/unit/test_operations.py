"""Long work: refusals meanwhile, cancelling, failing and trying again, going on after a restart."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.changes import Changes
from targetd.engines.interface import EngineError, Origin, RetiredVolume
from targetd.engines.simulated import SimulatedLvm
from targetd.errors import NotFound
from targetd.model import Operation, OperationKind, OperationState
from targetd.operations import STEP_BYTES, Operations, Work
from targetd.secretbox import SecretBox, load_key
from targetd.state import State
from tests.hosts import MEBIBYTE, Host, SimulatedBacking, refused_with

SIZE = 16 * MEBIBYTE
TOTAL = 10 * STEP_BYTES


@pytest.fixture
def slow_host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    """Its long work stands still until the test lets it go on."""
    simulated_backing.lvm.may_step.clear()
    host = Host(simulated_backing)
    yield host
    simulated_backing.lvm.may_step.set()
    host.close()


def _copying(host: Host, from_snapshot: bool = False) -> tuple[str, str]:
    """Returns the source and the volume that is being filled from it."""
    origin, volume_id = host.create("thick", SIZE), str(uuid.uuid4())
    request = volume_pb2.CreateVolumeRequest(volume_id=volume_id, pool="thick", size_bytes=SIZE)
    source = host.snapshot(origin) if from_snapshot else origin
    if from_snapshot:
        request.source_snapshot_id = source
    else:
        request.source_volume_id = source
    made = host.volumes.CreateVolume(request)
    assert made.state == volume_pb2.VOLUME_STATE_COPYING
    return source, volume_id


def test_a_volume_that_is_being_filled_is_not_used(slow_host: Host) -> None:
    origin, volume_id = _copying(slow_host)
    refused: list[Callable[[], object]] = [
        lambda: slow_host.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=volume_id)),
        lambda: slow_host.snapshot(volume_id),
        lambda: slow_host.volumes.ExtendVolume(
            volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=2 * SIZE)
        ),
        lambda: slow_host.volumes.ReleaseVolume(
            volume_pb2.ReleaseVolumeRequest(volume_id=volume_id)
        ),
        lambda: slow_host.volumes.CreateVolume(
            volume_pb2.CreateVolumeRequest(
                volume_id=str(uuid.uuid4()),
                pool="thick",
                size_bytes=SIZE,
                source_volume_id=volume_id,
            )
        ),
    ]
    for call in refused:
        with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
            call()
        assert "filled from its source" in str(caught[0].details())
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        slow_host.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=origin))
    assert volume_id in str(caught[0].details())
    listed = slow_host.volumes.ListSnapshots(volume_pb2.ListSnapshotsRequest())
    assert not listed.snapshots, "the snapshot that holds the source still is not the caller's"


def test_a_snapshot_stays_while_it_is_copied(slow_host: Host) -> None:
    snapshot_id, volume_id = _copying(slow_host, from_snapshot=True)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        slow_host.volumes.DeleteSnapshot(volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id))
    assert volume_id in str(caught[0].details())


def test_a_volume_is_available_when_its_source_is_free(
    slow_host: Host, simulated_backing: SimulatedBacking
) -> None:
    lvm = simulated_backing.lvm
    origin, volume_id = _copying(slow_host)
    asked = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    states = []

    def retire(held: Origin, operation_id: str) -> RetiredVolume:
        states.append(slow_host.volumes.GetVolume(asked).state)
        return SimulatedLvm.retire(lvm, held, operation_id)

    with patch.object(lvm, "retire", retire):
        lvm.may_step.set()
        slow_host.wait_available(volume_id)
    assert states == [volume_pb2.VOLUME_STATE_COPYING]
    slow_host.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=origin))


def test_deleting_a_volume_ends_its_copy(
    slow_host: Host, simulated_backing: SimulatedBacking
) -> None:
    origin, volume_id = _copying(slow_host)
    get = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    operation_id = slow_host.volumes.GetVolume(get).operation_id
    request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
    with refused_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        slow_host.volumes.DeleteVolume(request, timeout=0.5)
    simulated_backing.lvm.may_step.set()
    slow_host.volumes.DeleteVolume(request)
    operation = slow_host.hosts.GetOperation(
        host_pb2.GetOperationRequest(operation_id=operation_id)
    )
    assert operation.state in (
        host_pb2.OPERATION_STATE_CANCELLED,
        host_pb2.OPERATION_STATE_DONE,
    )
    left = {one for one in simulated_backing.volumes() if not one.startswith("deleted-")}
    assert left == {f"volume-{origin}"}, "with the snapshot that it was filled from"


def test_a_copy_goes_on_after_a_restart(
    slow_host: Host, simulated_backing: SimulatedBacking
) -> None:
    _, volume_id = _copying(slow_host)
    simulated_backing.restart()
    get = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    assert slow_host.volumes.GetVolume(get).state == volume_pb2.VOLUME_STATE_COPYING
    simulated_backing.lvm.may_step.set()
    assert slow_host.wait_available(volume_id).state == volume_pb2.VOLUME_STATE_AVAILABLE


# The runner by itself


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state", SecretBox(load_key(tmp_path / "key", create=True)))
    yield state
    state.close()


class Job:
    """Work that notes its steps, and fails at one of them as often as told."""

    def __init__(self, failures: int = 0, fail_at: int = 0) -> None:
        self.starts: list[int] = []
        self.steps: list[int] = []
        self.finished = 0
        self._failures = failures
        self._fail_at = fail_at

    def work(self, operation_id: str = "one") -> Work:
        return Work(OperationKind.WIPE, operation_id, "volume", TOTAL, self._steps, self._finish)

    def _steps(self, start: int, step: int) -> Iterator[int]:
        self.starts.append(start)
        while start < TOTAL:
            if self._failures and start == self._fail_at:
                self._failures -= 1
                raise EngineError("the disk has gone")
            self.steps.append(step)
            start += step
            yield start

    def _finish(self) -> None:
        self.finished += 1


def _ended(operations: Operations, state: OperationState) -> Operation:
    for _ in range(500):
        operation = operations.get("one")
        if operation.state is state:
            return operation
        time.sleep(0.01)
    raise AssertionError(f"the operation stays {operation}")


def test_work_is_done_once_and_remembered(state: State) -> None:
    operations, job = Operations(state, Changes()), Job()
    operations.begin(job.work())
    assert _ended(operations, OperationState.DONE).done_bytes == TOTAL
    assert (job.finished, job.steps) == (1, [STEP_BYTES] * 10)
    operations.retry_failed()
    operations.stop(5.0)
    again = Operations(state, Changes())
    again.load()
    assert _ended(again, OperationState.DONE).done_bytes == TOTAL
    assert job.finished == 1
    with pytest.raises(NotFound):
        again.get("other")


def test_what_failed_goes_on_from_where_it_came_to(state: State) -> None:
    operations, job = Operations(state, Changes()), Job(failures=1, fail_at=4 * STEP_BYTES)
    operations.begin(job.work())
    failed = _ended(operations, OperationState.FAILED)
    assert failed.done_bytes == 4 * STEP_BYTES
    assert "log" in failed.error and "disk" not in failed.error
    operations.retry_failed()
    done = _ended(operations, OperationState.DONE)
    assert (done.error, job.starts, job.finished) == ("", [0, 4 * STEP_BYTES], 1)
    operations.stop(5.0)


def test_a_restart_goes_on_from_the_record(state: State) -> None:
    operations, job = Operations(state, Changes()), Job(failures=1, fail_at=6 * STEP_BYTES)
    operations.begin(job.work())
    _ended(operations, OperationState.FAILED)
    operations.stop(5.0)
    again = Operations(state, Changes())
    again.load()
    again.begin(job.work())
    _ended(again, OperationState.DONE)
    assert job.starts == [0, 6 * STEP_BYTES]
    again.stop(5.0)


def test_records_that_nothing_explains_are_closed(state: State) -> None:
    operations, job = Operations(state, Changes()), Job(failures=1)
    operations.begin(job.work())
    _ended(operations, OperationState.FAILED)
    again = Operations(state, Changes())
    again.load()
    again.end_unexplained()
    assert again.get("one").state is OperationState.DONE
    again.stop(5.0)


def test_a_throttle_makes_small_steps_and_keeps_the_rate(state: State) -> None:
    rate = 20 * STEP_BYTES
    operations, job = Operations(state, Changes(), bytes_per_second=rate), Job()
    started = time.monotonic()
    operations.begin(job.work())
    _ended(operations, OperationState.DONE)
    took = time.monotonic() - started
    # Never faster than the rate, whatever the machine does: all but the last step waits.
    assert took > 0.8 * (TOTAL - STEP_BYTES) / rate
    assert Operations(state, Changes(), 8 << 20)._step_bytes() == 2 << 20
    operations.stop(5.0)


def test_cancelling_stops_at_the_next_step(state: State) -> None:
    operations, job = Operations(state, Changes(), bytes_per_second=STEP_BYTES), Job()
    operations.begin(job.work())
    while not job.steps:
        time.sleep(0.01)
    assert operations.cancel("one", 5.0)
    assert operations.get("one").state is OperationState.CANCELLED
    assert job.finished == 0 and len(job.steps) < 10
    assert operations.cancel("one", 0.0), "again is fine"
    operations.stop(5.0)


def test_a_stop_waits_for_the_step_and_records_it(state: State) -> None:
    operations, job = Operations(state, Changes(), bytes_per_second=STEP_BYTES), Job()
    operations.begin(job.work())
    while not job.steps:
        time.sleep(0.01)
    operations.stop(5.0)
    (recorded,) = state.operations()
    assert recorded.state is OperationState.RUNNING, "the next start goes on with it"
    assert recorded.done_bytes == sum(job.steps)
    assert job.finished == 0 and len(job.steps) < 10


def test_what_hangs_in_its_step_is_left_behind(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    operations, job = Operations(state, Changes()), Job()
    begun, answers = threading.Event(), threading.Event()

    def steps(start: int, step: int) -> Iterator[int]:
        begun.set()
        answers.wait()
        yield TOTAL

    operations.begin(replace(job.work(), steps=steps))
    begun.wait()
    operations.stop(0.0)
    state.close()
    answers.set()
    for threads in operations._threads.values():
        threads.shutdown()
    assert job.finished == 0
    assert not caplog.records, "it does not write to records that are closed"
