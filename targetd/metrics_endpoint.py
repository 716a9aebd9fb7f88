"""The metrics over HTTP: figures to read, for whoever can reach the address."""

from __future__ import annotations

import socket
import threading
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from targetd.errors import StartError

# A scrape takes the interpreter for a while; more scrapers at once are turned away.
AT_ONCE = 4
# For a client that sends nothing, or does not take its answer.
CLIENT_SECONDS = 10.0


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *_: Any) -> None:
        """Not each scrape."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.places = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The library's own asks the name service for this host's name, which may take long.
        TCPServer.server_bind(self)
        host, port = self.socket.getsockname()[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away: nobody needs to know."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class Endpoint:
    """Listens at once. Raises StartError when it cannot."""

    def __init__(self, address: str, port: int, registry: CollectorRegistry) -> None:
        kind = _Server6 if ":" in address else _Server
        try:
            self._server = kind((address, port))
        except OSError as error:
            raise StartError(
                f"metrics cannot be served on {address} port {port}: {error.strerror}; see "
                "metrics_listen"
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
