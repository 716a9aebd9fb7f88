"""Which of the processes that share the records this one is, over its restarts.

What a process that was killed had claimed is nobody's at once, and not when its claims end, if it
is certain that it is dead: who is the same instance, by a lock that the kernel takes from the dead.
"""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from targetd.errors import NotReady, StartError

FILE = "instance"
ID_LENGTH = 36


class Instance:
    """Held from its making until ``close``, or until the process ends. Raises StartError."""

    def __init__(self, state_directory: Path) -> None:
        path = state_directory / FILE
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = _kept(self._file)
            except OSError:
                os.close(self._file)
                raise
        except BlockingIOError as error:
            raise NotReady(
                f"another attachd works with {state_directory}: stop it, or give this one a "
                "state_directory of its own"
            ) from error
        except OSError as error:
            raise StartError(f"{path}: cannot be written and locked ({error.strerror})") from error
        # A copy of the directory on another machine is another one.
        self.id = str(uuid.uuid5(found, socket.gethostname()))

    def close(self) -> None:
        os.close(self._file)


def _kept(file: int) -> uuid.UUID:
    """What the file says, or what it says from now on."""
    with suppress(ValueError):
        return uuid.UUID(os.pread(file, ID_LENGTH, 0).decode("ascii"))
    made = uuid.uuid4()
    os.ftruncate(file, 0)
    os.pwrite(file, str(made).encode("ascii"), 0)
    return made
