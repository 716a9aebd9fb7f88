"""One at a time for a volume on this host."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.1


@contextmanager
def locked(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """Waits for its turn; ``check`` may raise meanwhile. The file goes with the last holder."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _wait(descriptor, check)
            if not _is_still(descriptor, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _wait(descriptor: int, check: Callable[[], None]) -> None:
    while True:
        check()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(POLL_SECONDS)


def _is_still(descriptor: int, path: Path) -> bool:
    """Who had it before may have removed it while this one waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
