"""How the daemon is reached: its unix socket, or TCP with mutual TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

# A storage host that lost its power says nothing: without these the calls after that would each
# wait out their deadline. The daemon allows a ping every 10 seconds.
KEEPALIVE_SECONDS = 20
KEEPALIVE_TIMEOUT_SECONDS = 10
# Calls to a host that does not answer fail at once until the next attempt to connect: one that
# is back must not be taken for dead for the two minutes that gRPC would come to.
RECONNECT_SECONDS_MAX = 5
RECONNECT = (("grpc.max_reconnect_backoff_ms", RECONNECT_SECONDS_MAX * 1000),)
OPTIONS = (
    *RECONNECT,
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the client's certificate and key, and the authority of the server's."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Endpoint:
    """``unix:/run/targetd/targetd.sock``, or ``host:port`` together with TLS files."""

    address: str = "unix:/run/targetd/targetd.sock"
    tls: TlsFiles | None = None

    def channel(self) -> grpc.Channel:
        """Raises ValueError for TCP without TLS, OSError for an unreadable file."""
        if self.address.startswith("unix:"):
            return grpc.insecure_channel(self.address, RECONNECT)
        if self.tls is None:
            raise ValueError(f"{self.address}: TCP needs tls=TlsFiles(certificate, key, ca)")
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self.tls.ca.read_bytes(),
            private_key=self.tls.key.read_bytes(),
            certificate_chain=self.tls.certificate.read_bytes(),
        )
        return grpc.secure_channel(self.address, credentials, OPTIONS)
