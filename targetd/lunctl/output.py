"""What commands print: JSON documents, or tables and lines for people.

On a terminal a table is made to fit: the least important columns are left out, and
where not even the others have room, each row becomes a few lines. Ids are never cut,
so that they can be copied. Elsewhere every column is printed in full, one row a line.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from targetd.lunctl.documents import document, pretty
from targetd.lunctl.human import clean
from targetd.lunctl.settings import settings
from targetd.lunctl.style import ASIDE, HEADING, Style, colour, styled

if TYPE_CHECKING:
    from google.protobuf.message import Message

Item = TypeVar("Item")

GAP = "  "
# Of what is no terminal: nothing has to fit.
WIDE = sys.maxsize


@dataclass(frozen=True)
class Column(Generic[Item]):
    title: str
    text: Callable[[Item], str]
    # The highest is left out first; 0 never is.
    rank: int = 0
    right: bool = False


def say(text: str) -> None:
    click.echo(text, color=colour())


def note(text: str) -> None:
    """For a person, beside the answer."""
    click.echo(text, err=True, color=colour())


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
        say(f"{title + ':':{width}} {styled(value)}")


def table(items: Sequence[Item], columns: Sequence[Column[Item]]) -> None:
    rows = [[clean(column.text(item)) for column in columns] for item in items]
    widths = [
        max(len(column.title), *(_cells(row[at]) for row in rows))
        for at, column in enumerate(columns)
    ]
    shown = _fitting(columns, widths)
    if shown is None:
        _records(columns, rows)
        return
    # Not rich's table: for 3,000 rows it takes seconds.
    titles = [column.title for column in columns]
    say(_line(titles, columns, widths, shown, HEADING))
    for row in rows:
        say(_line(row, columns, widths, shown))
    left_out = [title for at, title in enumerate(titles) if at not in shown]
    if left_out:
        say(styled(f"(no room for {', '.join(left_out)})", ASIDE))


def _cells(text: str) -> int:
    """How many places of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fitting(columns: Sequence[Column[Any]], widths: Sequence[int]) -> list[int] | None:
    """The columns that have room; None where those that must be there have none."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    shown = list(range(len(columns)))
    while sum(widths[at] + len(GAP) for at in shown) - len(GAP) > room:
        last = max(shown, key=lambda at: columns[at].rank)
        if columns[last].rank == 0:
            return None
        shown.remove(last)
    return shown


def _line(
    row: Sequence[str],
    columns: Sequence[Column[Any]],
    widths: Sequence[int],
    shown: Sequence[int],
    style: Style | None = None,
) -> str:
    cells = []
    for at in shown:
        space = " " * (widths[at] - _cells(row[at]))
        text = styled(row[at], style)
        cells.append(space + text if columns[at].right else text + space)
    return GAP.join(cells).rstrip()


def _records(columns: Sequence[Column[Any]], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows):
        if number:
            say("")
        details((column.title, cell) for column, cell in zip(columns, row, strict=True))
