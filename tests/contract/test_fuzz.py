"""Whatever is sent, the daemon lives, answers as the contract says, and what it refuses
changes nothing.

The simulated daemon runs as a process of its own, so that a crash would be one; the
real one runs in the lab, where commands are watched too.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import grpc
import pytest
from targetd_driver import Endpoint

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.server.serve import RECEIVE_BYTES_MAX
from tests.answers import check_agreement, listing, reason_of
from tests.fuzz import CANARY, FORGED, Call, Fuzzer, Palette
from tests.hosts import INITIATORS, Backing, Host, LabBacking

VOLUME_IDS = tuple(f"{number:08x}-5eed-4000-8000-00000000f022" for number in range(6))
CONFIGURATION = """\
state_directory = "{folder}/state"
socket = "{folder}/run/targetd.sock"
portal_addresses = ["192.0.2.1"]
[[pool]]
name = "thick"
volume_group = "storage"
[[pool]]
name = "thin"
volume_group = "storage"
thin_pool = "thin"
"""
UNARY_SECONDS, STREAM_SECONDS = 60.0, 0.2
# More would fill the queue of a volume, and BUSY would be all that is seen.
IN_FLIGHT = 16
# What a request can be refused with; there is no UNKNOWN, INTERNAL or UNAVAILABLE.
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNIMPLEMENTED,
}
# What does not depend on anything but the request.
WRONG_IN_ITSELF = ("INVALID_ARGUMENT", "unreadable", "unknown", "too large")


class Storm:
    """Sends calls, many at a time, and judges every answer."""

    def __init__(self, channel: grpc.Channel, in_flight: int = IN_FLIGHT) -> None:
        self._channel = channel
        self._in_flight = in_flight
        self._random = random.Random(0)
        self.seen = Counter[str]()

    def send(self, calls: Iterable[Call]) -> list[tuple[Call, str]]:
        """Returns each call with what became of it."""
        done: list[tuple[Call, str]] = []
        waiting: deque[tuple[Call, Any]] = deque()
        for call in calls:
            if len(waiting) >= self._in_flight:
                done.append(self._judged(*waiting.popleft()))
            waiting.append((call, self._begin(call)))
        done += [self._judged(call, future) for call, future in waiting]
        self.seen.update(outcome for _, outcome in done)
        return done

    def send_and_leave(self, calls: Iterable[Call]) -> None:
        """Callers that hang up, or whose deadline passes, at any moment."""
        left = []
        for call in calls:
            future = self._begin(call, self._random.choice((0.0, 0.0005, 0.002, 0.01)))
            if self._random.random() < 0.5:
                future.cancel()
            left.append(future)
        for future in left:
            if not future.cancelled():
                future.exception()
        self.seen["left"] += len(left)

    def _begin(self, call: Call, seconds: float = 0) -> Any:
        if call.streams:
            method = self._channel.unary_stream(call.method, _as_it_is, _as_it_is)
            return method(call.data, timeout=seconds or STREAM_SECONDS)
        one = self._channel.unary_unary(call.method, _as_it_is, _as_it_is)
        return one.future(call.data, timeout=seconds or UNARY_SECONDS)

    def _judged(self, call: Call, future: Any) -> tuple[Call, str]:
        try:
            _ = list(future) if call.streams else future.result()
        except grpc.RpcError as error:
            return call, refusal(call, error)
        assert call.known and call.readable, f"{call} was done"
        return call, "done"


def _as_it_is(data: bytes) -> bytes:
    return data


def refusal(call: Call, error: Any) -> str:
    """What kind of refusal it is; it must be one that the contract allows."""
    code, details = error.code(), error.details()
    what = f"{call.method[-40:]} {call.data[:200]!r}: {code}: {details}"
    if call.streams and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "watched"
    # gRPC itself answers what never gets as far as a method of ours.
    if not call.known:
        assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), what
        return "unknown"
    if len(call.data) > RECEIVE_BYTES_MAX:
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, what
        assert details.startswith("SERVER: Received message larger than max"), what
        return "too large"
    if not call.readable:
        assert code is grpc.StatusCode.INVALID_ARGUMENT, what
        reason_of(error)
        return "unreadable"
    assert code in REFUSALS, what
    assert details.isprintable(), what
    reason_of(error)
    return str(code.name)


def palette(initiators: Iterable[str]) -> Palette:
    return Palette(VOLUME_IDS, ("one", "two"), tuple(initiators), ("thin", "thin", "thick"))


def storms(host: Host, storm: Storm, batches: int, batch: int) -> None:
    """After each batch, all that was wrong in itself once more: nothing may change then."""
    calls = Fuzzer(palette(map(host.backing.initiator, INITIATORS)), seed=1).calls()
    for _ in range(batches):
        done = storm.send(islice(calls, batch))
        storm.send_and_leave(islice(calls, batch // 50))
        again = [call for call, outcome in done if _is_wrong_in_itself(call, outcome)]
        settled(host, storm)
        before = listing(host)
        for call, outcome in storm.send(again):
            assert outcome != "done", f"{call} was wrong, and is now {outcome}"
        assert listing(host) == before


def _is_wrong_in_itself(call: Call, outcome: str) -> bool:
    """What a source or a reserve must be depends on the volumes that there are."""
    if outcome not in WRONG_IN_ITSELF:
        return False
    if not call.readable or outcome != "INVALID_ARGUMENT":
        return True
    if call.method.endswith("/CreateSnapshot"):
        return not volume_pb2.CreateSnapshotRequest.FromString(call.data).reserve_bytes
    if call.method.endswith("/CreateVolume"):
        wanted = volume_pb2.CreateVolumeRequest.FromString(call.data)
        return not (wanted.source_snapshot_id or wanted.source_volume_id)
    return True


def settled(host: Host, storm: Storm) -> None:
    """Wait for the work whose callers have left: a call for a volume is done after it."""
    for volume_id in VOLUME_IDS:
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        storm.send([Call("/targetd.v1.ExportService/RemoveExport", request.SerializeToString())])


def one_by_one(host: Host, storm: Storm, number: int) -> int:
    """Compare everything around every single call; returns how many were refused."""
    calls = Fuzzer(palette(map(host.backing.initiator, INITIATORS)), seed=2).calls()
    before, refused = listing(host), 0
    for call in islice(calls, number):
        ((_, outcome),) = storm.send([call])
        after = listing(host)
        if outcome not in ("done", "watched"):
            assert after == before, f"{call} was refused ({outcome}) and changed something"
            refused += 1
        before = after
    return refused


class SimulatedProcess:
    """targetd on simulated engines, as a process."""

    def __init__(self, folder: Path) -> None:
        configuration = folder / "targetd.toml"
        configuration.write_text(CONFIGURATION.format(folder=folder), encoding="utf-8")
        self.endpoint = Endpoint(f"unix:{folder}/run/targetd.sock")
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "targetd", "--simulate", "--config", str(configuration)],
                stderr=log,
            )

    def initiator(self, host: str) -> str:
        return f"iqn.2026-01.org.example.lab:{host}"

    def stop(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait()


@pytest.fixture
def process() -> Iterator[SimulatedProcess]:
    # In memory: what is looked for here is not durability, and each change is flushed thrice.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        running = SimulatedProcess(Path(folder))
        yield running
        if running.child.poll() is None:
            running.child.kill()
            running.child.wait()


def test_a_hundred_thousand_requests(process: SimulatedProcess) -> None:
    host = Host(cast(Backing, process))
    with process.endpoint.channel() as channel:
        storm = Storm(channel)
        listing(host)
        storms(host, storm, batches=14, batch=5000)
        refused = one_by_one(host, storm, 1000)
    print(f"{storm.seen.total()} requests, {refused} one by one: {dict(storm.seen.most_common())}")
    assert storm.seen.total() >= 100_000
    assert refused >= 500
    reached = ("done", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
    for kind in (*reached, *WRONG_IN_ITSELF):
        assert storm.seen[kind] >= 100, kind
    assert process.child.poll() is None, "the daemon has ended"
    host.remove_everything()
    host.close()
    assert process.stop() == 0
    check_log(process.log.read_text(encoding="utf-8"))


def check_log(log: str) -> None:
    assert "incident" not in log
    assert "Traceback" not in log
    assert not re.search(rf"^({FORGED}|touch )", log, re.MULTILINE)
    assert "\x1b" not in log and "\0" not in log


@pytest.fixture
def talkative(lab_backing: LabBacking) -> Iterator[None]:
    """The daemon of the lab logs every command that it runs."""
    run = lab_backing.storage.node.run
    for level in ("debug", "info"):
        change = f's/^log_level = .*/log_level = "{level}"/'
        run(["sed", "-i", change, "/etc/targetd/targetd.toml"])
        run(["systemctl", "restart", "targetd"])
        if level == "debug":
            yield


@pytest.mark.lab
@pytest.mark.usefixtures("talkative")
def test_requests_to_the_real_host(lab_host: Host, lab_backing: LabBacking) -> None:
    pid = lab_backing.storage.main_pid()
    with lab_backing.endpoint.channel() as channel:
        storm = Storm(channel, in_flight=8)
        listing(lab_host)
        storms(lab_host, storm, batches=2, batch=700)
        refused = one_by_one(lab_host, storm, 100)
    print(f"{storm.seen.total()} requests, {refused} one by one: {dict(storm.seen.most_common())}")
    assert lab_backing.storage.main_pid() == pid, "the daemon has ended"
    check_agreement(lab_host)
    lab_backing.restart()
    check_agreement(lab_host)
    check_commands(lab_backing)


def check_commands(backing: LabBacking) -> None:
    """No text from outside has reached a command, and none has reached a shell."""
    log = backing.storage.journal()
    check_log(log)
    commands = re.findall(r"^DEBUG targetd.engines.process: (.*)$", log, re.MULTILINE)
    assert len(commands) > 20, "the log shows what is run"
    for command in commands:
        assert re.fullmatch(r"lvm [a-z]+ [A-Za-z0-9_./=,:%+ -]+", command), command
        assert not re.search(r"\.\.|--force|activation|etc/", command), command
    assert backing.storage.node.run(["test", "-e", CANARY], check=False).status == 1


def test_a_refused_stream_says_why(process: SimulatedProcess) -> None:
    host = Host(cast(Backing, process))
    with pytest.raises(grpc.RpcError) as caught:
        next(host.hosts.WatchOperation(host_pb2.WatchOperationRequest(), wait_for_ready=True))
    host.close()
    assert reason_of(caught.value)
