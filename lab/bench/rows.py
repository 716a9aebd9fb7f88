"""What the bench of the daemon measures: rows, and the limits that they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.bench import table as tables
from lab.bench.table import Limit

# Every limit is a maximum: "at least 100 times faster" is "ours / theirs at most 0.01".
LIMITS = {
    "attach p50 / bare p50": Limit(2.0),
    "processes started per attach": Limit(0),
    "forks in the node per attach": Limit(0),
    "detach p50 / bare p50": Limit(3.0),
    "attach / cinder-rtstool": Limit(0.01, from_count=1000),
    "reconcile / bare": Limit(2.0, from_count=1000),
    "64 clients: errors": Limit(0),
    "daemon: resident memory": Limit(100),
    "ListConnections of all": Limit(100),
}
# What the names do not say.
NOTES = """\
A value marked with ! is over its limit. "exports" stand, granted and enabled, while it is measured.
Times are of the node's one processor.
attach: CreateExport and InitializeConnection of an active volume, in the daemon's handlers: checks,
  durable records, turn of the volume, kernel, answer; all but gRPC's transport and what is around
  every call (access, audit, metrics), which the rows of "clients" have. The caller sets a deadline,
  as ours do. bare: the configfs writes alone for the same objects, interleaved, same process.
detach: TerminateConnection and RemoveExport, against the configfs removals alone.
processes started: by the daemon, counted by the interpreter. forks in the node: by the kernel's
  count, threads of the daemon and what the bare writes cause left out.
rtslib: its objects and save_to_file. cinder-rtstool: its five commands, without sudo and rootwrap.
targetcli: one process for all its commands, saveconfig at the end.
reconcile: after a reboot, records there, configfs empty; of it, reading the records is a part.
  bare: the writes alone, in the same boot just before.
at first: at the first number of exports; what the machine itself was slower or faster is left out,
  as a hundred system calls among the rounds show it.
clients: on this machine, outside the node, each with its own TCP connection and mutual TLS.
volumes: of 4 MiB; bare is lvcreate or lvremove, called by the same program; with udev."""


@dataclass(frozen=True)
class Row:
    measure: str
    # How many exports stood meanwhile.
    exports: int
    value: float
    unit: str

    @property
    def count(self) -> int:
        return self.exports

    @property
    def limit(self) -> float | None:
        return tables.limit_of(self, LIMITS)

    @property
    def exceeded(self) -> bool:
        return tables.is_exceeded(self, LIMITS)


def table(rows: Sequence[Row]) -> str:
    """A line for each measure, a column for each number of exports."""
    return tables.table(rows, LIMITS, "measure, at so many exports")


def write(rows: Iterable[Row], path: Path) -> None:
    tables.write(({**asdict(row), "limit": row.limit} for row in rows), path)
