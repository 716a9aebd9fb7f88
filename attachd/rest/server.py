"""The listeners: TCP, with TLS or without, and a unix socket, each an event loop in a thread."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from attachd.config import Config, TlsFiles
from attachd.rest.application import Application
from attachd.rest.connections import PatientProtocol
from targetd.errors import StartError

log = logging.getLogger(__name__)

BACKLOG = 512
# Of an idle connection; clients keep theirs between requests.
KEEP_ALIVE_SECONDS = 60
# Root, and the group of the directory.
SOCKET_MODE = 0o660
POLL_SECONDS = 0.01


class Server:
    """Serves the application wherever the configuration says. Raises StartError if it cannot."""

    def __init__(self, config: Config, application: Application, stop_seconds: int) -> None:
        self._application = application
        self.listeners: list[Listener] = []
        self._path: Path | None = None
        context = _tls_context(config.tls) if config.tls else None
        try:
            if config.address is not None:
                bound = _tcp(*config.address)
                self.listeners.append(Listener(bound, application, stop_seconds, context))
            if config.socket is not None:
                bound = _unix(config.socket)
                self._path = config.socket
                self.listeners.append(Listener(bound, application, stop_seconds))
        except StartError:
            self._close()
            raise
        self._tls, self._context = config.tls, context

    @property
    def port(self) -> int:
        """Of TCP; 0 where there is none."""
        bound = self.listeners[0].bound
        return 0 if bound.family == socket.AF_UNIX else int(bound.getsockname()[1])

    def start(self) -> None:
        """Returns when all listen."""
        for listener in self.listeners:
            listener.start()

    def stop(self) -> None:
        """Take no more requests, and let those end that have begun."""
        for listener in self.listeners:
            listener.begin_to_stop()
        for listener in self.listeners:
            listener.stop()
        self._application.stop()
        self._close()

    def reload(self) -> None:
        """Take the files of TLS as they are now. Raises StartError, and the old stay."""
        if self._tls is None or self._context is None:
            return
        # First into another one: half a pair must not replace a whole one.
        _tls_context(self._tls)
        self._context.load_cert_chain(self._tls.certificate, self._tls.key)

    def addresses(self) -> Sequence[str]:
        return [listener.address for listener in self.listeners]

    def _close(self) -> None:
        for listener in self.listeners:
            listener.bound.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                self._path.unlink()


class Listener:
    """One socket."""

    def __init__(
        self,
        bound: socket.socket,
        application: Application,
        stop_seconds: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.bound = bound
        self.with_tls = context is not None
        config = uvicorn.Config(
            application,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            # What a peer says of whom it speaks for is not believed.
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=stop_seconds,
            ssl_context_factory=(lambda *_: context) if context else None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([bound],), name="listener", daemon=True
        )

    @property
    def address(self) -> str:
        name = self.bound.getsockname()
        if self.bound.family == socket.AF_UNIX:
            return f"unix:{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{'https' if self.with_tls else 'http'}://{host}:{name[1]}"

    def start(self) -> None:
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(POLL_SECONDS)
        if not self._server.started:
            raise StartError(f"{self.address} cannot be served; see the log")
        log.info("serving %s", self.address)

    def begin_to_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"[tls]: {files.certificate} and {files.key} are no certificate and its key, or cannot "
            f"be read: {error}"
        ) from error
    return context


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By the protocol's number asyncio knows that it is TCP, and has answers wait for nothing
    # (TCP_NODELAY); without it each takes 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise StartError(f"listen: {host} port {port}: {error.strerror}") from error
    return bound


def _unix(path: Path) -> socket.socket:
    """Made anew where nobody listens any more."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            path.unlink()
        bound.bind(str(path))
        # Nobody can connect before it listens.
        os.chmod(path, SOCKET_MODE)
    except OSError as error:
        bound.close()
        raise StartError(f"socket: {path}: {error.strerror}") from error
    return bound


def _is_abandoned(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
