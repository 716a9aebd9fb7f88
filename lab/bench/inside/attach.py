"""Attaching and detaching next to the bare configfs writes, while ever more exports stand."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.bench.inside import bare
from lab.bench.inside.counts import Starts, forks
from lab.bench.inside.population import POOL, DmVolumes, volume_id
from lab.bench.inside.report import Progress, milliseconds, p50, percentile, row, run, say
from lab.bench.inside.subject import Subject, config

# Volumes that are never part of the standing exports.
SPARE = 8
COUNTED = 20
LISTED = 5
SYSTEM_CALLS = 100


@dataclass
class Samples:
    """Seconds of each round at one count."""

    create: list[float] = field(default_factory=list)
    initialize: list[float] = field(default_factory=list)
    attach: list[float] = field(default_factory=list)
    detach: list[float] = field(default_factory=list)
    bare_attach: list[float] = field(default_factory=list)
    bare_detach: list[float] = field(default_factory=list)
    # How fast the machine was meanwhile: others may use it too.
    system_calls: list[float] = field(default_factory=list)


class Attaching:
    def __init__(self, subject: Subject, portal: str, spares: range) -> None:
        self._subject = subject
        self._portal = portal
        self._spares = spares
        self._standing = 0
        self._first: Samples | None = None

    def populate(self, count: int) -> None:
        progress = Progress("exports standing", count)
        for number in range(self._standing, count):
            self._subject.create_export(volume_id(number))
            self._subject.initialize(volume_id(number), number)
            progress(number)
        self._standing = count

    def measure(self, repetitions: int) -> float:
        """Reports all rows of this count; returns the median attach in seconds."""
        samples = Samples()
        progress = Progress(f"attaching at {self._standing} exports", repetitions)
        for repetition in range(repetitions):
            number = self._spares[repetition % len(self._spares)]
            # Which comes first changes, so that neither always finds warm caches.
            rounds = [self._bare_round, self._round]
            for one in rounds if repetition % 2 else reversed(rounds):
                one(number, samples)
            samples.system_calls.append(_seconds(_system_calls))
            progress(repetition)
        self._report(samples)
        listing = []
        progress = Progress(f"listing {self._standing} connections", LISTED)
        for repetition in range(LISTED):
            listing.append(_seconds(self._list))
            progress(repetition)
        self._row("ListConnections of all", milliseconds(p50(listing)), "ms")
        return p50(samples.attach)

    def _round(self, number: int, samples: Samples) -> None:
        subject, volume = self._subject, volume_id(number)
        times = [time.perf_counter()]
        subject.create_export(volume)
        times.append(time.perf_counter())
        subject.initialize(volume, number)
        times.append(time.perf_counter())
        subject.terminate(volume)
        subject.remove_export(volume)
        times.append(time.perf_counter())
        samples.create.append(times[1] - times[0])
        samples.initialize.append(times[2] - times[1])
        samples.attach.append(times[2] - times[0])
        samples.detach.append(times[3] - times[2])

    def _bare_round(self, number: int, samples: Samples) -> None:
        samples.bare_attach.append(_seconds(lambda: bare.attach(number, self._portal)))
        samples.bare_detach.append(_seconds(lambda: bare.detach(number, self._portal)))

    def _report(self, samples: Samples) -> None:
        self._first = first = self._first or samples
        slower = p50(samples.system_calls) / p50(first.system_calls)
        for what, ours, least, before in (
            ("attach", samples.attach, samples.bare_attach, first.attach),
            ("detach", samples.detach, samples.bare_detach, first.detach),
        ):
            self._row(f"{what} p50", milliseconds(p50(ours)), "ms")
            self._row(f"{what} p99", milliseconds(percentile(ours, 99)), "ms")
            self._row(f"bare {what} p50", milliseconds(p50(least)), "ms")
            self._row(f"bare {what} p99", milliseconds(percentile(least, 99)), "ms")
            self._row(f"{what} p50 / bare p50", p50(ours) / p50(least), "ratio")
            self._row(f"{what} p50 / at first", p50(ours) / p50(before) / slower, "ratio")
        self._row("CreateExport p50", milliseconds(p50(samples.create)), "ms")
        self._row("InitializeConnection p50", milliseconds(p50(samples.initialize)), "ms")
        self._row(f"{SYSTEM_CALLS} system calls", milliseconds(p50(samples.system_calls)), "ms")

    def _list(self) -> None:
        found = self._subject.list_connections()
        if found != self._standing:
            raise AssertionError(f"{found} connections are listed, {self._standing} stand")

    def count_forks(self) -> None:
        """Last of all: counting makes every call slower."""
        starts, samples = Starts(), Samples()
        kernels = self._forks(lambda number: self._bare_round(number, samples))
        processes, threads = starts.processes, starts.threads
        total = self._forks(lambda number: self._round(number, samples))
        threads = starts.threads - threads
        self._row("processes started per attach", (starts.processes - processes) / COUNTED, "")
        self._row("forks in the node per attach", (total - threads - kernels) / COUNTED, "")
        self._row("threads started per attach", threads / COUNTED, "")

    def _forks(self, one_round: Callable[[int], None]) -> int:
        before = forks()
        for number in range(COUNTED):
            one_round(self._spares[number % len(self._spares)])
        return forks() - before

    def _row(self, measure: str, value: float, unit: str) -> None:
        row(measure, self._standing, value, unit)


def _seconds(do: Callable[[], None]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def _system_calls() -> None:
    for _ in range(SYSTEM_CALLS):
        os.getppid()


def _others(count: int, spare: int, ours: float, given: argparse.Namespace) -> None:
    """In programs of their own, while the daemon of this one has nothing to do."""
    # With exports standing, one attachment takes them tens of seconds.
    repetitions = 1 if given.quick or count else 3
    subprocess.run(
        [
            *(sys.executable, "-m", "lab.bench.inside.others"),
            *("--exports", str(count), "--spare", str(spare), "--ours", str(ours)),
            *("--portal-address", given.portal_address, "--repetitions", str(repetitions)),
            *("--save", f"{given.folder}/saved-{count}.json"),
            *(("--cinder", given.cinder) if given.cinder else ()),
        ],
        # The tools warn of their own ways, at every call.
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    parser.add_argument("--others-up-to", type=int, required=True)
    parser.add_argument("--portal-address", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cinder", default="")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    counts = [int(count) for count in given.counts.split(",")]
    spares = range(max(counts), max(counts) + SPARE)
    state = given.folder / "state"
    settings = config(state, given.portal_address, [POOL])
    with Subject(settings, DmVolumes(spares.stop)) as subject:
        subject.start()
        attaching = Attaching(subject, f"{given.portal_address}:3260", spares)
        for count in counts:
            attaching.populate(count)
            ours = attaching.measure(given.repetitions)
            # For the reboots with so many exports. Nothing is written meanwhile. By another
            # program: here, closing the copied file would let go of the daemon's lock on it.
            subprocess.run(["cp", "-a", str(state), f"{given.folder}/state-{count}"], check=True)
            if count <= given.others_up_to:
                _others(count, spares[0], ours, given)
        attaching.count_forks()
        say("attaching is measured")
    os.sync()


if __name__ == "__main__":
    run(main)
