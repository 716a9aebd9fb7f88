"""Volumes made and deleted by the daemon, next to lvcreate and lvremove themselves."""

from __future__ import annotations

import argparse
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from lab.bench.inside.counts import Starts
from lab.bench.inside.report import Progress, milliseconds, p50, row, run, say
from lab.bench.inside.subject import Subject, config
from targetd.engines.lvm import Lvm
from targetd.model import PoolConfig

GROUP = "storage"
THIN_POOL = "thin"
POOLS = {"thick": PoolConfig("thick", GROUP), "thin": PoolConfig("thin", GROUP, THIN_POOL)}
VOLUME_BYTES = 4 << 20
POLL_SECONDS = 0.01


def _lvm(*arguments: str) -> None:
    subprocess.run(["lvm", *arguments], check=True, capture_output=True)


def prepare(disk: str) -> None:
    _lvm("vgcreate", GROUP, disk)
    _lvm("lvcreate", "-y", "--type", "thin-pool", "-n", THIN_POOL, "-L", "256m", GROUP)


class Making:
    """Rounds of one pool: ours and the bare commands in turn."""

    def __init__(self, subject: Subject, pool: str, starts: Starts) -> None:
        self._subject, self._pool, self._starts = subject, pool, starts
        self._create: list[float] = []
        self._delete: list[float] = []
        self._gone: list[float] = []
        self._bare_create: list[float] = []
        self._bare_delete: list[float] = []
        self._started_creating = 0
        self._started_deleting = 0

    def round(self) -> None:
        volume_id, subject = str(uuid.uuid4()), self._subject
        starts = [self._starts.processes]
        times = [time.perf_counter()]
        subject.create_volume(volume_id, self._pool, VOLUME_BYTES)
        times.append(time.perf_counter())
        starts.append(self._starts.processes)
        operation_id = subject.delete_volume(volume_id)
        times.append(time.perf_counter())
        while operation_id and subject.running(operation_id):
            time.sleep(POLL_SECONDS)
        times.append(time.perf_counter())
        starts.append(self._starts.processes)
        self._create.append(times[1] - times[0])
        self._delete.append(times[2] - times[1])
        self._gone.append(times[3] - times[1])
        self._started_creating += starts[1] - starts[0]
        self._started_deleting += starts[2] - starts[1]

    def bare_round(self) -> None:
        name = f"bare-{uuid.uuid4()}"
        created: Sequence[str] = ("--size", f"{VOLUME_BYTES}b", "--zero", "y", GROUP)
        if self._pool == "thin":
            created = ("--virtualsize", f"{VOLUME_BYTES}b", "--thinpool", f"{GROUP}/{THIN_POOL}")
        times = [time.perf_counter()]
        _lvm("lvcreate", "--yes", "--name", name, *created)
        times.append(time.perf_counter())
        _lvm("lvremove", "--yes", f"{GROUP}/{name}")
        times.append(time.perf_counter())
        self._bare_create.append(times[1] - times[0])
        self._bare_delete.append(times[2] - times[1])

    def report(self) -> None:
        pool, rounds = self._pool, len(self._create)
        for what, ours, least in (
            ("create", self._create, self._bare_create),
            ("delete", self._delete, self._bare_delete),
            ("delete until gone", self._gone, self._bare_delete),
        ):
            row(f"{pool} volume: {what} p50", 0, milliseconds(p50(ours)), "ms")
            row(f"{pool} volume: {what} / bare", 0, p50(ours) / p50(least), "ratio")
        row(f"{pool} volume: bare lvcreate p50", 0, milliseconds(p50(self._bare_create)), "ms")
        row(f"{pool} volume: bare lvremove p50", 0, milliseconds(p50(self._bare_delete)), "ms")
        ours_all = sum(self._create) + sum(self._gone)
        bare_all = sum(self._bare_create) + sum(self._bare_delete)
        row(f"{pool} volumes: made and gone", 0, rounds / ours_all, "per s")
        row(f"{pool} volumes: made and gone, bare", 0, rounds / bare_all, "per s")
        for what, started in (
            ("create", self._started_creating),
            ("delete", self._started_deleting),
        ):
            row(f"{pool} volume: processes per {what}", 0, started / rounds, "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--disk", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--portal-address", required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    given = parser.parse_args()
    say("making a volume group with a thin pool")
    prepare(given.disk)
    pools = tuple(POOLS.values())
    starts = Starts()
    with Subject(config(given.state, given.portal_address, pools), Lvm(pools)) as subject:
        subject.start()
        for pool in POOLS:
            making = Making(subject, pool, starts)
            progress = Progress(f"{pool} volumes made and deleted", given.repetitions)
            for repetition in range(given.repetitions):
                making.round()
                making.bare_round()
                progress(repetition)
            making.report()


if __name__ == "__main__":
    run(main)
