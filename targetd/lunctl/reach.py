"""Why no daemon answers: looked for on this side of the connection."""

from __future__ import annotations

import errno
import socket

from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.settings import Settings

CONNECT_SECONDS = 2.0
# In what gRPC says when it could not connect; where TCP can, only TLS is left. A server
# that refuses a certificate just closes the connection (TLS 1.3).
NOT_CONNECTED = ("failed to connect", "connections to all backends failing", "handshake")


def unreachable(settings: Settings, details: str) -> CommandError | None:
    """None where something does listen and lets us in."""
    path = settings.endpoint.removeprefix("unix:")
    if path != settings.endpoint:
        return _socket(path)
    return _tcp(settings.endpoint, details)


def _socket(path: str) -> CommandError | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(CONNECT_SECONDS)
            channel.connect(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return CommandError(
                f"{path}: you may not open the daemon's socket",
                Exit.NOT_ALLOWED,
                hints=(
                    "Run it as root, or join the group of the socket and log in again: "
                    "usermod -aG targetd USER",
                ),
            )
        if error.errno == errno.ENOENT:
            text = f"{path}: there is no such socket"
        elif error.errno == errno.ECONNREFUSED:
            text = f"{path}: nothing listens there"
        else:
            text = f"{path}: {error.strerror or error}"
        return CommandError(
            text,
            Exit.UNREACHABLE,
            hints=(
                "Does the daemon run? systemctl status targetd",
                "Is its host another one? --endpoint HOST:PORT with --tls-ca, --tls-certificate, "
                "--tls-key",
            ),
        )
    return None


def _tcp(address: str, details: str) -> CommandError | None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            pass
    except ValueError:
        return CommandError(f"{address} is not HOST:PORT", Exit.USAGE)
    except OSError as error:
        return CommandError(
            f"{address}: {error.strerror or error}",
            Exit.UNREACHABLE,
            hints=(
                'Does the daemon run there, with listen = "ADDRESS:PORT" in '
                "/etc/targetd/targetd.toml? Does a firewall stand between?",
            ),
        )
    if any(words in details for words in NOT_CONNECTED):
        return CommandError(
            f"{address}: the two sides do not accept each other's certificates",
            Exit.NOT_ALLOWED,
            hints=(
                "--tls-ca must be the authority that signed the daemon's certificate, and "
                "client_ca in the daemon's [tls] the one that signed yours.",
                "The daemon's certificate must name the host in --endpoint, and neither may have "
                "expired.",
            ),
        )
    return None
