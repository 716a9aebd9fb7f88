"""A way from this machine's loopback to a port on the lab's network.

Programs of the lab's network need not be started inside its namespace: a
client here connects to 127.0.0.1, and a thread that has entered the namespace
connects on to the node.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from lab.errors import LabError
from lab.network import Network

CONNECT_SECONDS = 5.0


class Relay:
    """Forwards every connection to its own loopback port; close it when done."""

    def __init__(self, network: Network, address: str, port: int) -> None:
        self._network = network
        self._to = (address, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="lab-relay", daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near, suppress(OSError, LabError):
            with self._network.entered():
                far = socket.create_connection(self._to, CONNECT_SECONDS)
            with far:
                far.settimeout(None)
                back = threading.Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
