"""What was measured: rows with their limits, as a table and as a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limit:
    """The most that a measure may be, where so many exports stand or more."""

    most: float
    from_exports: int = 0


# Every limit is a maximum: "at least 100 times faster" is "ours / theirs at most 0.01".
LIMITS = {
    "attach p50 / bare p50": Limit(2.0),
    "processes started per attach": Limit(0),
    "forks in the node per attach": Limit(0),
    "detach p50 / bare p50": Limit(3.0),
    "attach / cinder-rtstool": Limit(0.01, from_exports=1000),
    "reconcile / bare": Limit(2.0, from_exports=1000),
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
    def limit(self) -> float | None:
        limit = LIMITS.get(self.measure)
        return limit.most if limit and self.exports >= limit.from_exports else None

    @property
    def exceeded(self) -> bool:
        return self.limit is not None and self.value > self.limit


def table(rows: Sequence[Row]) -> str:
    """A line for each measure, a column for each number of exports."""
    counts = sorted({row.exports for row in rows})
    found = {(row.measure, row.exports): row for row in rows}
    units = {row.measure: row.unit for row in rows}
    width = max(map(len, units))
    lines = [f"{'measure, at so many exports':{width}}{''.join(f'{n:>11}' for n in counts)}"]
    for measure, unit in units.items():
        cells = "".join(f"{_cell(found.get((measure, count))):>11}" for count in counts)
        limit = LIMITS.get(measure)
        end = f"  at most {limit.most:g}" if limit else ""
        lines.append(f"{measure:{width}}{cells}  {unit:6}{end}".rstrip())
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{'!' if row.exceeded else ''}{_shown(row.value)}"


def _shown(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def write(rows: Iterable[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"rows": [{**asdict(row), "limit": row.limit} for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
