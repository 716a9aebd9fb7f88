"""Whatever is sent, the daemon lives, answers as the contract says, and what it refuses
changes nothing.

The simulated daemon runs as a process of its own, so that a crash would be one; the
real one runs in the lab, where commands are watched too.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import grpc
import pytest
from targetd_driver import Endpoint

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.answers import check_agreement, listing, reason_of, wait_for_copies
from tests.fuzz import CANARY, FORGED, SERVICES, Call, Fuzzer, Palette
from tests.hosts import INITIATORS, Backing, Host, LabBacking
from tests.storm import WRONG_IN_ITSELF, Storm

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
# So many daemons, each with a client of its own: one of each would use one processor.
SHARES = 4
BATCHES, BATCH, ONE_BY_ONE = 5, 3800, 150
# Of each method.
DONE_MIN = 20


def fuzzer_for(host: Host, seed: int) -> Fuzzer:
    initiators = tuple(map(host.backing.initiator, INITIATORS))
    return Fuzzer(Palette(VOLUME_IDS, ("one", "two"), initiators, ("thin", "thin", "thick")), seed)


def storms(host: Host, storm: Storm, calls: Iterator[Call], batches: int, batch: int) -> None:
    """After each batch, all that was wrong in itself once more: nothing may change then."""
    for _ in range(batches):
        sent = storm.send(islice(calls, batch))
        storm.send_and_leave(islice(calls, batch // 50))
        again = [call for call, outcome in sent if outcome in WRONG_IN_ITSELF]
        settle(host, storm)
        before = listing(host)
        storm.send_again(again)
        assert listing(host) == before


def settle(host: Host, storm: Storm) -> None:
    """Wait for the work whose callers have left: a call for the same thing is done after it."""
    for item_id in VOLUME_IDS:
        snapshot = volume_pb2.DeleteSnapshotRequest(snapshot_id=item_id).SerializeToString()
        export = export_pb2.RemoveExportRequest(volume_id=item_id).SerializeToString()
        storm.send([Call("/targetd.v1.VolumeService/DeleteSnapshot", snapshot)])
        storm.send([Call("/targetd.v1.ExportService/RemoveExport", export)])
    wait_for_copies(host)


def one_by_one(host: Host, storm: Storm, calls: Iterable[Call]) -> int:
    """Compare everything around every single call; returns how many were refused."""
    before, refused = listing(host), 0
    for call in calls:
        ((_, outcome),) = storm.send([call])
        if outcome in ("done", "watched"):
            wait_for_copies(host)
            before = listing(host)
            continue
        assert listing(host) == before, f"{call} was refused ({outcome}) and changed something"
        refused += 1
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


def share(folder: str, seed: int) -> tuple[Counter[str], Counter[str], int]:
    """One daemon's part: what became of its requests, what was done, refused one by one."""
    process = SimulatedProcess(Path(folder))
    try:
        host = Host(cast(Backing, process))
        fuzzer = fuzzer_for(host, seed)
        listing(host)
        with Storm(process.endpoint, fuzzer.hear) as storm:
            storms(host, storm, fuzzer.calls(), BATCHES, BATCH)
            refused = one_by_one(host, storm, islice(fuzzer.calls(), ONE_BY_ONE))
        assert process.child.poll() is None, "the daemon has ended"
        host.remove_everything()
        host.close()
        assert process.stop() == 0
        check_log(process.log.read_text(encoding="utf-8"))
        return storm.seen, storm.done, refused
    finally:
        process.child.kill()


def test_a_hundred_thousand_requests() -> None:
    with (
        TemporaryDirectory(dir="/dev/shm") as folder,
        # Not forked: gRPC does not outlive that.
        ProcessPoolExecutor(SHARES, multiprocessing.get_context("spawn")) as processes,
    ):
        folders = [Path(folder, str(seed)) for seed in range(SHARES)]
        for one in folders:
            one.mkdir()
        shares = list(processes.map(share, map(str, folders), range(SHARES)))
    seen = sum((one[0] for one in shares), Counter[str]())
    done = sum((one[1] for one in shares), Counter[str]())
    refused = sum(one[2] for one in shares)
    print(f"{seen.total()} requests, {refused} one by one: {dict(seen.most_common())}")
    print(f"done: {dict(done.most_common())}")
    assert seen.total() >= 100_000
    assert refused >= SHARES * ONE_BY_ONE / 2
    reached = ("done", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
    for kind in (*reached, *WRONG_IN_ITSELF):
        assert seen[kind] >= 100, kind
    for name in (method.name for service in SERVICES for method in service.methods):
        assert done[name] >= DONE_MIN, name


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
    fuzzer = fuzzer_for(lab_host, seed=1)
    listing(lab_host)
    with Storm(lab_backing.endpoint, fuzzer.hear, in_flight=8) as storm:
        storms(lab_host, storm, fuzzer.calls(), batches=2, batch=700)
        refused = one_by_one(lab_host, storm, islice(fuzzer.calls(), 100))
    print(f"{storm.seen.total()} requests, {refused} one by one: {dict(storm.seen.most_common())}")
    assert lab_backing.storage.main_pid() == pid, "the daemon has ended"
    left = let_go(lab_backing)
    assert left <= set(fuzzer.palette.good["lv_name"])
    try:
        check_agreement(lab_host, left)
        lab_backing.restart()
        check_agreement(lab_host, left)
    finally:
        for lv_name in left:
            lab_backing.remove_foreign(lv_name)
    check_commands(lab_backing)


def let_go(backing: LabBacking) -> set[str]:
    """What ReleaseVolume has left: logical volumes that no tag says to be the daemon's."""
    options = ["--noheadings", "--separator", "|", "--options", "lv_name,lv_tags"]
    lines = backing.storage.node.run(["lvm", "lvs", *options, "storage"]).stdout.split()
    names = {name for name, _, tags in (line.partition("|") for line in lines) if not tags}
    return names - {"thin"}


def check_commands(backing: LabBacking) -> None:
    """No text from outside has reached a command, and none has reached a shell."""
    check_log(backing.storage.journal())
    said = ["journalctl", "--unit=targetd", "--output=cat", "PRIORITY=7"]
    log = backing.storage.written_by([*said, "LOGGER=targetd.engines.process"])
    # What a start asks, of units that it names itself.
    commands = [
        one for one in log.splitlines() if not one.startswith("systemctl show --property=Id,")
    ]
    assert len(commands) > 20, "the log shows what is run"
    for command in commands:
        assert re.fullmatch(r"lvm [a-z]+ [A-Za-z0-9_./=,:%+ -]+", command), command
        assert not re.search(r"\.\.|--force|activation/|etc/", command), command
    assert backing.storage.node.run(["test", "-e", CANARY], check=False).status == 1


def test_a_refused_stream_says_why(process: SimulatedProcess) -> None:
    host = Host(cast(Backing, process))
    with pytest.raises(grpc.RpcError) as caught:
        next(host.hosts.WatchOperation(host_pb2.WatchOperationRequest(), wait_for_ready=True))
    host.close()
    assert reason_of(caught.value)
