"""What listens to the daemon's words in systemd's place."""

from __future__ import annotations

import socket
from pathlib import Path

SOON_SECONDS = 20.0


class Systemd:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def hears(self, wanted: str, seconds: float = SOON_SECONDS) -> str:
        """The next message that holds it; an empty text when none does in that time."""
        self._socket.settimeout(seconds)
        try:
            while wanted not in (message := self._socket.recv(4096).decode()):
                pass
        except TimeoutError:
            return ""
        return message

    def close(self) -> None:
        self._socket.close()
