"""What systemd's watchdog is fed by: that requests are read and answered, on every listener.

An answer that says what is wrong is one too: a new start would not help a database that is down.
What hangs gives none.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from functools import partial

from attachd.rest.application import HEALTH
from attachd.rest.server import Listener, Server
from targetd.watchdog import NotProved, Proof

ANSWER_SECONDS = 10.0
REQUEST = f"GET /{HEALTH} HTTP/1.0\r\n\r\n".encode()
ANSWER = b"HTTP/1."


def of(server: Server) -> Mapping[str, Proof]:
    return {
        f"requests on {listener.address}": partial(ask, listener) for listener in server.listeners
    }


def ask(listener: Listener) -> None:
    """Raises NotProved."""
    try:
        with socket.socket(listener.bound.family, socket.SOCK_STREAM) as plain:
            plain.settimeout(ANSWER_SECONDS)
            plain.connect(listener.bound.getsockname())
            with _wrapped(plain, listener.with_tls) as channel:
                channel.sendall(REQUEST)
                said = channel.makefile("rb").read(len(ANSWER))
    except OSError as error:
        raise NotProved(f"no answer: {error}") from error
    if said != ANSWER:
        raise NotProved("no answer")


def _wrapped(plain: socket.socket, with_tls: bool) -> socket.socket:
    if not with_tls:
        return plain
    # It is this process that is asked, by no name that its certificate would have.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)
