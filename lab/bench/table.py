"""Rows of what was measured, with their limits, as a table and as a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Limit:
    """The most that a measure may be, from some count on: of exports, for one."""

    most: float
    from_count: int = 0


class Row(Protocol):
    @property
    def measure(self) -> str: ...

    @property
    def count(self) -> int:
        """What the columns of its table are for."""

    @property
    def value(self) -> float: ...

    @property
    def unit(self) -> str: ...


def limit_of(row: Row, limits: Mapping[str, Limit]) -> float | None:
    limit = limits.get(row.measure)
    return limit.most if limit and row.count >= limit.from_count else None


def is_exceeded(row: Row, limits: Mapping[str, Limit]) -> bool:
    most = limit_of(row, limits)
    return most is not None and row.value > most


def table(rows: Sequence[Row], limits: Mapping[str, Limit], heading: str) -> str:
    """A line for each measure, a column for each count."""
    counts = sorted({row.count for row in rows})
    found = {(row.measure, row.count): row for row in rows}
    units = {row.measure: row.unit for row in rows}
    width = max(map(len, (*units, heading)))
    lines = [f"{heading:{width}}{''.join(f'{n:>11}' for n in counts)}"]
    for measure, unit in units.items():
        cells = "".join(f"{_cell(found.get((measure, n)), limits):>11}" for n in counts)
        limit = limits.get(measure)
        end = f"  at most {limit.most:g}" if limit else ""
        lines.append(f"{measure:{width}}{cells}  {unit:6}{end}".rstrip())
    return "\n".join(lines)


def _cell(row: Row | None, limits: Mapping[str, Limit]) -> str:
    if row is None:
        return ""
    return f"{'!' if is_exceeded(row, limits) else ''}{_shown(row.value)}"


def _shown(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def write(documents: Iterable[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"rows": list(documents)}, indent=2)
    path.write_text(f"{text}\n", encoding="utf-8")
