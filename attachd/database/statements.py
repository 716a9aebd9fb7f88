"""How reads and changes reach the database; what they are is in the modules beside this."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Executable, RowMapping


class Reading:
    """Runs statements that change nothing."""

    def _connect(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def _rows(self, statement: Executable, **values: Any) -> Sequence[RowMapping]:
        with self._connect() as connection:
            return connection.execute(statement, values).mappings().all()

    def _row(self, statement: Executable, **values: Any) -> RowMapping | None:
        with self._connect() as connection:
            return connection.execute(statement, values).mappings().first()


class Writing(Reading):
    """Runs all statements of one transaction, which is of one moment."""

    def __init__(self, connection: Connection, time: datetime) -> None:
        # For the statements of other modules, as those about storage hosts.
        self.connection = connection
        self.time = time

    def _connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(self.connection)
