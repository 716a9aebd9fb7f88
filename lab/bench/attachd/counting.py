"""attachd as it is, with its statements counted where another process can look.

``python -m lab.bench.attachd.counting FILE ARGUMENTS`` runs ``attachd ARGUMENTS``.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

COUNT = struct.Struct("=Q")


class Count:
    """A number in a file: one process adds, another reads."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, COUNT.size)
        self._map = mmap.mmap(descriptor, COUNT.size)
        os.close(descriptor)

    @property
    def value(self) -> int:
        return int(COUNT.unpack(self._map[:])[0])

    def add(self, *_event: Any) -> None:
        """Two threads at once may count as one; statements that count are run one by one."""
        self._map[:] = COUNT.pack(self.value + 1)


def main() -> None:
    event.listen(Engine, "before_cursor_execute", Count(Path(sys.argv.pop(1))).add)
    # After that: what it imports makes no statement.
    from attachd.__main__ import main as attachd

    attachd()


if __name__ == "__main__":
    main()
