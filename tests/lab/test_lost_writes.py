"""Disks with volatile caches: what was acknowledged survives the loss of all un-flushed writes."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from lab.agreement import Client
from lab.lab import Lab
from lab.load import Worker
from lab.node import Node
from lab.volatile import (
    ACKNOWLEDGED,
    Cut,
    History,
    Recorder,
    Recording,
    Replayer,
    spec,
)
from tests.conftest import LAB_FOLDER

pytestmark = pytest.mark.lab

SEED = 20260102
CALLS = 30
AT_ACKNOWLEDGEMENTS = 4
# Of each disk.
IN_FLUSHES = 2
UNFLUSHED, FLUSHED = "unflushed", "flushed"
LV = "written-without-a-flush"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(LAB_FOLDER, [spec()]) as booted:
        yield booted


@pytest.fixture(scope="module")
def recorded(lab: Lab) -> tuple[Recording, History]:
    """A recording of a load, and at its end of an LVM command that nobody flushed."""
    recorder = Recorder(lab["storage"])
    history = History()
    worker = Worker(
        "load",
        random.Random(SEED),
        recorder.storage,
        history,
        lambda: recorder.mark(f"{ACKNOWLEDGED}{history.acknowledged}"),
    )
    recorder.storage.start()
    with recorder.storage.channel() as channel:
        while history.acknowledged < CALLS:
            worker.step(Client(channel))
    # Its wipes and copies would flush the disk.
    recorder.storage.stop()
    lvcreate = ["lvm", "lvcreate", "-y", "-Wn", "-Zn", "-L", "4m", "-n", LV, "storage"]
    recorder.node.run(lvcreate)
    recorder.mark(UNFLUSHED)
    recorder.node.run(["sync", "/dev/mapper/volumes"])
    recorder.mark(FLUSHED)
    return recorder.finish(), history


def test_a_replay_loses_what_was_not_flushed(
    recorded: tuple[Recording, History], tmp_path: Path
) -> None:
    recording, _ = recorded
    volumes, state = tmp_path / "volumes", tmp_path / "state"

    def found(name: str) -> bool:
        volumes.touch()
        state.touch()
        recording.write(recording.at(name), volumes, state)
        with volumes.open("rb") as image:
            # LVM's metadata, as text, is in the first MiB.
            return LV.encode() in image.read(1 << 20)

    assert not found(UNFLUSHED)
    assert found(FLUSHED)


def test_acknowledged_survives_the_loss_of_caches(
    lab: Lab, recorded: tuple[Recording, History]
) -> None:
    recording, history = recorded
    cuts = queue.SimpleQueue[Cut]()
    for cut in _chosen(recording):
        cuts.put(cut)
    total = cuts.qsize()

    def replay(node: Node) -> int:
        replayer = Replayer(recording, node)
        checked = 0
        with suppress(queue.Empty):
            while True:
                cut = cuts.get_nowait()
                findings = replayer.check(cut, history.after(cut.acknowledged))
                print(f"{cut.name}, {cut.acknowledged} acknowledged: {findings.lines or 'there'}")
                assert findings.lines == [], cut.name
                checked += 1
        replayer.close()
        return checked

    def replay_elsewhere() -> int:
        # Another lab, so that its node has the same addresses.
        with Lab(LAB_FOLDER, [spec()]) as other:
            return replay(other["storage"])

    with ThreadPoolExecutor(1) as threads:
        elsewhere = threads.submit(replay_elsewhere)
        here = replay(lab["storage"])
    assert here + elsewhere.result() == total


def _chosen(recording: Recording) -> list[Cut]:
    rng = random.Random(SEED)
    *acknowledgements, last = recording.acknowledgements()
    volumes, state = recording.flushes_of_volumes(rng), recording.flushes_of_state(rng)
    # Else the recording is not what it should be.
    assert len(acknowledgements) > CALLS / 2
    assert len(state) > CALLS / 2
    return [
        *rng.sample(acknowledgements, AT_ACKNOWLEDGEMENTS - 1),
        last,
        *rng.sample(volumes, IN_FLUSHES),
        *rng.sample(state, IN_FLUSHES),
    ]
