"""What the bench of attachd measures: rows, and the limits that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from lab.bench import table as tables
from lab.bench.attachd.requests import STATEMENTS
from lab.bench.table import Limit


class Per(StrEnum):
    """What a row's count is of."""

    CLIENTS = "clients"
    VOLUMES = "volumes"


DATABASES = ("SQLite", "PostgreSQL")
# Every limit is a maximum: "at least 5 times faster" is "attachd / cinder at most 0.2".
LIMITS: Mapping[str, Limit] = {
    "create p50, attachd / cinder": Limit(0.2),
    "delete p50, attachd / cinder": Limit(0.2),
    "attachd: create errors": Limit(0),
    "attachd: delete errors": Limit(0),
    "attachd: resident memory": Limit(200),
    **{f"{name}: resident memory": Limit(200) for name in DATABASES},
    **{
        f"{name}: {request} p50 / at first": Limit(1.5)
        for name in DATABASES
        for request in STATEMENTS
    },
    **{
        f"{name}: {request} statements": Limit(most)
        for name in DATABASES
        for request, most in STATEMENTS.items()
    },
}
# What the names do not say.
NOTES = """\
A value marked with ! is over its limit.
clients: so many threads of a program beside, each with a connection that is kept, calling one after
  the other; first all volumes are attached by all clients, then all are detached, and ours and
  Cinder's turns alternate. Times and rates are of calls that were good, errors of all others.
attachd: over REST, its records in SQLite, mutual TLS over the lab's network to targetd, real LVM
  and LIO on a node of the lab, which is one processor.
cinder: the same program with the same bodies. API, scheduler and volume manager of Cinder's release
  are one process; between them messages pass in memory, at once; SQLite, no identity, and a volume
  driver that does nothing: what is missing in it is all of the storage host's work.
storage host: its part alone, by the driver's two calls each, with the same clients.
resident memory: of the process, after all this.
volumes: so many in attachd's records, each with two attachments, all granted on a storage host that
  is the real targetd over simulated engines; two sites at once, and each request to one, then to
  the other. Pages are of 50. at first: with the first number of volumes.
start: processor time until attachd serves and has compared all records with the storage host.
statements: to the database; BEGIN, which SQLite is told, is one, COMMIT is none."""


@dataclass(frozen=True)
class Row:
    measure: str
    per: Per
    count: int
    value: float
    unit: str

    @property
    def limit(self) -> float | None:
        return tables.limit_of(self, LIMITS)

    @property
    def exceeded(self) -> bool:
        return tables.is_exceeded(self, LIMITS)


def table(rows: Sequence[Row]) -> str:
    """One for the calls, one for the records, whichever were measured."""
    found = {per: [row for row in rows if row.per is per] for per in Per}
    return "\n\n".join(
        tables.table(some, LIMITS, f"measure, with so many {per}")
        for per, some in found.items()
        if some
    )


def write(rows: Iterable[Row], path: Path) -> None:
    tables.write(({**asdict(row), "limit": row.limit} for row in rows), path)
