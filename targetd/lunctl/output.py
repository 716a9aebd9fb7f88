"""What commands print: JSON documents, or tables and lines for people.

On a terminal a table is made to fit: the least important columns are left out, and
where not even the others have room, each row becomes a few lines. Ids are never cut,
so that they can be copied. Elsewhere every column is printed in full, one row a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from targetd.lunctl.documents import document, pretty
from targetd.lunctl.human import clean
from targetd.lunctl.settings import settings

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

Item = TypeVar("Item")

GAP = 2
# Of what is no terminal: nothing has to fit.
WIDE = 100_000
# The words that stand for a state, wherever they make up a cell or a line.
STYLES: Mapping[str, str] = {
    "available": "green",
    "logged in": "green",
    "done": "green",
    "ok": "green",
    "copying": "yellow",
    "running": "yellow",
    "detaching": "yellow",
    "granting": "yellow",
    "revoking": "yellow",
    "warning": "yellow",
    "degraded": "bold red",
    "failed": "bold red",
    "error": "bold red",
    "no access": "bold red",
    "no attachment": "bold red",
    "overflowed": "bold red",
}


@dataclass(frozen=True)
class Column(Generic[Item]):
    title: str
    text: Callable[[Item], str]
    # The highest is left out first; 0 never is.
    rank: int = 0
    right: bool = False


def console() -> Console:
    # Not at the top: --help and completion do without it.
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDE
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def note(text: str) -> None:
    """For a person, beside the answer."""
    click.echo(text, err=True)


def say(text: str) -> None:
    click.echo(text)


def emit(value: Mapping[str, Any]) -> None:
    """One JSON document."""
    click.echo(pretty(value))


def answer(message: Message, pairs: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """One thing: as JSON, or as a line for each of its properties."""
    if settings().json:
        emit(document(message))
    else:
        details(pairs())


def done(value: Mapping[str, Any], text: str) -> None:
    """The outcome of a change: as JSON, or as a sentence."""
    if settings().json:
        emit(value)
    else:
        say(text)


def listing(key: str, items: Sequence[Any], columns: Sequence[Column[Any]]) -> None:
    """A list of messages: as JSON under its key, or as a table."""
    if settings().json:
        emit({key: [document(item) for item in items]})
    elif not items:
        note(f"There are no {key}.")
    else:
        table(items, columns)


def details(pairs: Iterable[tuple[str, str]]) -> None:
    """Those that have a value."""
    shown = [(title, clean(value)) for title, value in pairs if value]
    width = max(len(title) for title, _ in shown) + 1
    for title, value in shown:
        styled(f"{title + ':':{width}} ", (value, STYLES.get(value, "")))


def styled(*parts: str | tuple[str, str]) -> None:
    """A line of which parts have a style."""
    from rich.text import Text

    console().print(Text.assemble(*parts))


def table(items: Sequence[Item], columns: Sequence[Column[Item]]) -> None:
    rows = [[clean(column.text(item)) for column in columns] for item in items]
    screen = console()
    shown = _fitting(columns, rows, screen.width)
    if shown is None:
        _records(columns, rows)
        return
    _print_table(screen, columns, rows, shown)
    left_out = [column.title for at, column in enumerate(columns) if at not in shown]
    if left_out:
        styled((f"(no room for {', '.join(left_out)})", "dim"))


def _fitting(
    columns: Sequence[Column[Any]], rows: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """The columns that have room; None where those that must be there have none."""
    from rich.cells import cell_len

    needed = [
        max(len(column.title), *(cell_len(row[at]) for row in rows))
        for at, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while sum(needed[at] + GAP for at in shown) - GAP > width:
        last = max(shown, key=lambda at: columns[at].rank)
        if columns[last].rank == 0:
            return None
        shown.remove(last)
    return shown


def _print_table(
    screen: Console,
    columns: Sequence[Column[Any]],
    rows: Sequence[Sequence[str]],
    shown: Sequence[int],
) -> None:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for at in shown:
        justify = "right" if columns[at].right else "left"
        made.add_column(columns[at].title, no_wrap=True, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*(Text(row[at], STYLES.get(row[at], "")) for at in shown))
    with screen.capture() as captured:
        screen.print(made)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _records(columns: Sequence[Column[Any]], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows):
        if number:
            say("")
        details((column.title, cell) for column, cell in zip(columns, row, strict=True))
