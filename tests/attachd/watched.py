"""What goes to the database, for tests that count it or hold it up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from attachd.database.engine import Database


@contextmanager
def watched(database: Database, seen: Callable[[str, Any], None]) -> Iterator[None]:
    """``seen`` is called with each statement and its parameters, before it is run."""

    def run(_c: object, _cursor: object, text: str, parameters: Any, *_: object) -> None:
        seen(text, parameters)

    # PostgreSQL's reader is its engine with an option: what is told of one is told of both.
    engines = {database.engine, database.reader} if database.is_sqlite else {database.engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", run)
    try:
        yield
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", run)
